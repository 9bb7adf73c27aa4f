"""How much memory a training takes: what limits the height of a stack.

    4 bytes × (  tensors that move × (value, gradient, two moments, and a copy while a stack is made)
               + units of all layers × batch × (output, tangent, cotangent, one in passing)
               + random numbers of a step × (drawn, stacked, spread, used)
               + the two widest layers × an evaluation batch × (input, output) )

An estimate: only some optimizers keep two moments, only some rules a tangent. For fdfa under Adam,
64-512-512-10 in a stack of 24, it says 11.9 MiB a trial; a process that trained it grew by 12.5.
"""

from __future__ import annotations

import math

from fdfa_cli.recipe.schema import Recipe

#: Bytes of a number: the narrow types do not take part in stacks.
WIDTH = 4
#: Samples a forward pass in evaluation.
EVALUATION_BATCH = 500


def bytes_of(recipe: Recipe) -> int:
    """Bytes that one training takes beside the data, which all share."""
    network, rule = recipe.network.build(recipe.data.shape(), recipe.data.classes()), recipe.rule
    batch = recipe.training.batch_size
    tensors = [*network.parameters().values(), *rule.state(network).values()]
    moving = sum(math.prod(draw.shape) for draw in tensors)
    units = [math.prod(shape) for _, shape in network.leaves()]
    draws = [*rule.perturbations(network, batch, 0).values(), *network.noise(batch).values()]
    drawn = sum(math.prod(draw.shape) for draw in draws)
    widest = sum(sorted(units)[-2:])
    return WIDTH * (5 * moving + 4 * batch * sum(units) + 4 * drawn + 2 * EVALUATION_BATCH * widest)
