"""One training in progress: its tensors, optimizers, clock and random streams."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, Self

from fdfa_cli.data.base import Subset
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Mode
from fdfa_cli.network.losses import LOSSES, Batch, correct
from fdfa_cli.optim.optimizers import Optimizer
from fdfa_cli.optim.schedules import Schedule
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.step import Step, Update
from fdfa_cli.streams import sample, stream
from fdfa_cli.training import total

#: Streams redrawn every epoch on the training device.
PURPOSES = ("augmentation", "dropout", "perturbation")


class TrainState:
    """Parameters, running statistics, rule state and the optimizers' state, moved by `step`.

    `epoch` counts finished epochs, `position` the steps done in the current one and `seconds` the time
    they took before an interruption; `order` is the current epoch's permutation of the training set,
    `streams` its generators; `loss_sum` and `correct` add up over the epoch on the device, so that a step
    never waits for it; `probes` are the epoch's diagnostics.
    """

    def __init__(self, recipe: Recipe, network: Network, samples: int, device: torch.device) -> None:
        self.recipe, self.network, self.device = recipe, network, device
        self.samples = samples
        #: The draws of the dropout masks, by the size of a batch.
        self.noise = cache(network.noise)
        self.batch_size = recipe.training.batch_size
        seed = recipe.training.seed
        # Initial values are drawn on the CPU: a run starts from the same network on every device.
        self.params = _moved(sample(network.parameters(), stream(seed, "init")), device)
        self.buffers = _moved(sample(network.buffers(), stream(seed, "init")), device)
        self.rule_state = _moved(sample(recipe.rule.state(network), stream(seed, "feedback")), device)
        #: The optimizer and the schedule by which the weights move, and the feedback where there is some.
        self.settings: dict[str, tuple[Optimizer, Schedule]] = {
            "weights": recipe.rule.weight_training(recipe.optimizer, recipe.schedule)
        }
        if self.rule_state:
            self.settings["feedback"] = recipe.rule.feedback_training(recipe.optimizer, recipe.schedule)
        self.optimizer_states = {
            key: OptimizerState.new({"weights": self.params, "feedback": self.rule_state}[key], optimizer)
            for key, (optimizer, _) in self.settings.items()
        }
        self.epoch = 0
        self.begin_epoch()

    # --- the clock -----------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (1 if rest and not self.recipe.training.drop_last else 0)

    def begin_epoch(self) -> None:
        """Draw the epoch's order and start its streams and sums."""
        seed = self.recipe.training.seed
        self.position, self.seconds = 0, 0.0
        order = torch.randperm(self.samples, generator=stream(seed, "order", self.epoch))
        self.order = order.to(self.device)
        self.streams = {purpose: stream(seed, purpose, self.epoch, self.device) for purpose in PURPOSES}
        self.loss_sum = total.zero(self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.probes: list[dict[str, Any]] = []

    @property
    def place(self) -> tuple[int, int]:
        """How far it is: epochs, and steps in the current one."""
        return self.epoch, self.position

    @property
    def taken(self) -> int:
        """Steps taken in the whole training so far."""
        return self.epoch * self.steps + self.position

    @property
    def seen(self) -> int:
        """Samples trained on in this epoch so far."""
        return min(self.position * self.batch_size, self.samples)

    def rows(self) -> torch.Tensor:
        """Row numbers of the current step's samples."""
        return self.order[self.position * self.batch_size : (self.position + 1) * self.batch_size]

    def rate(self, key: str, position: int) -> float:
        """The learning rate by `settings` of `key` for the step at `position` of this epoch."""
        optimizer, schedule = self.settings[key]
        return optimizer.lr * schedule.factor(self.epoch + position / self.steps, self.recipe.training.epochs)

    # --- what the loop asks of every `Trainee` ---------------------------------------------------------

    @property
    def states(self) -> list[TrainState]:
        """The state itself, as the only one that moves."""
        return [self]

    def advance(self, data: Subset) -> None:
        """Take the next step on its batch of `data`, the training set."""
        rows = self.rows()
        self.step(data.batch(rows, self.streams["augmentation"]), data.labels[rows])

    def score(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of a batch in evaluation mode, and how many of it are classified correctly."""
        logits = self.recipe.rule.predict(self.network, self.params, self.buffers, x)
        return LOSSES[self.recipe.training.loss](logits, labels)[0], correct(logits, labels)

    def settle(self) -> None:
        """Make every state whole: nothing to do."""

    # --- one step ------------------------------------------------------------------------------------

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch: inputs `x` (B, …) and `labels` (B)."""
        rule, network = self.recipe.rule, self.network
        noise = sample(self.noise(len(x)), self.streams["dropout"])
        perturbations = sample(rule.perturbations(network, len(x), self.taken), self.streams["perturbation"])
        mode = Mode(training=True, buffers=self.buffers, noise=noise)
        batch = self.batch(x, labels, mode)
        update = rule.step(Step(network, self.params, self.rule_state, batch, perturbations))
        self.apply(update)
        self.buffers.update(mode.updates)
        total.add(self.loss_sum, update.loss, len(x))
        self.correct += correct(update.logits, labels)
        self.position += 1

    def batch(self, x: torch.Tensor, labels: torch.Tensor, mode: Mode) -> Batch:
        """The batch that the rule gets: inputs (B, …) in the training's precision, labels (B), the loss."""
        training = self.recipe.training
        x = x.bfloat16() if training.precision == "bf16" else x
        return Batch(x, labels, mode, LOSSES[training.loss])

    def apply(self, update: Update) -> None:
        """Follow the gradients at this moment's rates."""
        for key, grads in (("weights", update.grads), ("feedback", update.state_grads)):
            if grads:
                self.optimizer_states[key].apply(grads, self.settings[key][0], self.rate(key, self.position))
        for name, value in update.state.items():
            self.rule_state[name].copy_(value)

    # --- checkpoints ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and scalars that `load_state_dict` restores."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.seconds,
            "params": self.params,
            "buffers": self.buffers,
            "state": self.rule_state,
            "moments": {key: state.slots for key, state in self.optimizer_states.items()},
            "numbers": {key: state.step_counts for key, state in self.optimizer_states.items()},
            "streams": {purpose: generator.get_state() for purpose, generator in self.streams.items()},
            "loss_sum": total.wide(self.loss_sum),
            "correct": self.correct,
            "probes": self.probes,
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Continue where `content` was taken; the epoch's order is drawn anew from the seed."""
        self.epoch = content["epoch"]
        self.begin_epoch()
        self.position, self.seconds = content["position"], content["seconds"]
        for mine, stored in (
            (self.params, content["params"]),
            (self.buffers, content["buffers"]),
            (self.rule_state, content["state"]),
        ):
            for name, value in stored.items():
                mine[name].copy_(value)
        for key, state in self.optimizer_states.items():
            for name, own in state.slots.items():
                for slot, value in own.items():
                    value.copy_(content["moments"][key][name][slot])
            state.step_counts.update(content["numbers"][key])
        for purpose, generator in self.streams.items():
            generator.set_state(content["streams"][purpose])
        total.put(self.loss_sum, content["loss_sum"])
        self.correct.copy_(content["correct"])
        self.probes = content["probes"]

    def twin(self) -> Self:
        """Another state in the same state: what is done to one does not reach the other."""
        twin = type(self)(self.recipe, self.network, self.samples, self.device)
        twin.load_state_dict(deepcopy(self.state_dict()))
        return twin


def _moved(tensors: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
