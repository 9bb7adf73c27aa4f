"""What the random rules promise about their randomness: means, variances, laws and what stays in memory.

Seeds are fixed, so a test that passes keeps passing; the false-alarm probabilities are those of choosing
the seed. A mean is compared within 5 standard errors on every component: for one component the chance of
a false alarm is 6e-7, for the at most 500 components of a test below 3e-4. A variance is compared within
10 %, five times the standard deviation of its estimate or more.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from rule_steps import Outcome, Step, draw, take, take_many
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Conv2d, Linear, Mode
from fdfa_cli.network.zoo.cnn import CNN
from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.optim.state import OptimizerState
from fdfa_cli.recipe.resolve import read
from fdfa_cli.rules.base import RULES, Rule
from fdfa_cli.rules.forward_forward import wrong_labels
from fdfa_cli.streams import sample
from fdfa_cli.training.loop import evaluate
from fdfa_cli.training.state import TrainState

DRAWS = 40_000
CLASSES = 3
NORMED = MLP(hidden=(6, 5)).build((4,), CLASSES)
PLAIN = MLP(hidden=(6, 5), norm="none").build((4,), CLASSES)
IMAGES = CNN(channels=(2, 2), kernels=(3,), pools=(2, 1), hidden=(4,), norm="none").build((1, 8, 8), CLASSES)


def rule_of(name: str, **options: Any) -> Rule:
    return RULES.get(name)(**options)


def flat(tensors: dict[str, Tensor], start: int = 1) -> Tensor:
    """All entries side by side (…, n), names in order; `start` batch axes are kept."""
    return torch.cat([tensors[name].flatten(start) for name in sorted(tensors)], -1)


def assert_mean(samples: Tensor, expected: Tensor) -> None:
    """`samples` (n×…) have this mean, within 5 standard errors on every component."""
    error = samples.std(0) / len(samples) ** 0.5
    deviation = (samples.mean(0) - expected).abs()
    assert (deviation <= 5 * error + 1e-12).all(), (deviation / error).max()
    assert error.max() < 0.2 * expected.abs().max()  # or the mean would prove little


def assert_variance(samples: Tensor, expected: Tensor) -> None:
    """Sum over components within 10 %, and no component further off than the sampling of it allows."""
    measured = samples.var(0)
    assert measured.sum().item() == pytest.approx(expected.sum().item(), rel=0.1)
    torch.testing.assert_close(measured, expected, rtol=0.25, atol=1e-12)


# --- forward gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [NORMED, IMAGES], ids=["batch norm", "images"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("fg-w", {}), ("fg-w", {"tangents": 3}), ("fg-w-multi", {"tangents": 2, "combine": "mean"})],
)
def test_weight_forward_gradients_are_unbiased(name, options, network):
    rule = rule_of(name, **options)
    step = draw(rule, network)
    true = flat(take(rule_of("bp"), network, step).grads, 0)
    assert_mean(flat(take_many(rule, network, step, DRAWS).grads), true)


@pytest.mark.parametrize("network", [PLAIN, IMAGES], ids=["units", "images"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("fg-a", {}), ("fg-a", {"tangents": 3}), ("fg-a-multi", {"tangents": 2, "combine": "mean"})],
)
def test_activity_forward_gradients_are_unbiased(name, options, network):
    """Without batch statistics; with them a sample's effect on the other samples is left out by design."""
    rule = rule_of(name, **options)
    step = draw(rule, network)
    true = take(rule_of("bp"), network, step).grads
    many = take_many(rule, network, step, DRAWS).grads
    exact = {name for name in true if name.startswith("out.")}
    for name in exact:
        torch.testing.assert_close(many[name], true[name].expand_as(many[name]))
    hidden = sorted(true.keys() - exact)
    assert_mean(flat({n: many[n] for n in hidden}), flat({n: true[n] for n in hidden}, 0))


@pytest.mark.parametrize("tangents", [1, 3])
def test_variance_of_the_weight_forward_gradient(tangents):
    """Var ĝ_i = (‖∇L‖² + g_i²)/k."""
    rule = rule_of("fg-w", tangents=tangents)
    step = draw(rule, NORMED)
    g = flat(take(rule_of("bp"), NORMED, step).grads, 0)
    assert_variance(flat(take_many(rule, NORMED, step, DRAWS).grads), (g @ g + g**2) / tangents)


@pytest.mark.parametrize("tangents", [1, 3])
def test_variance_of_the_activity_forward_gradient(tangents):
    """Var Σ_b D[b]_i = Σ_b (‖∇z_b‖² + g_bi²) 1[active]/(k B²), seen at the biases; ∇z_b over all blocks.

    g_b, the gradient of sample b's own loss at its pre-activations, is b's bias gradient alone.
    """
    rule = rule_of("fg-a", tangents=tangents)
    step = draw(rule, PLAIN)
    biases = [name for name in PLAIN.parameters() if name.endswith("bias") and not name.startswith("out.")]

    def seen(outcome: Outcome, start: int) -> Tensor:
        return flat({name: outcome.grads[name] for name in biases}, start)

    size = len(step.x)
    alone = [replace(step, x=step.x[b : b + 1], labels=step.labels[b : b + 1]) for b in range(size)]
    g = torch.stack([seen(take(rule_of("bp"), PLAIN, one), 0) for one in alone])  # B×N
    variance = (g.square().sum(1, keepdim=True) + g**2) * (g != 0)
    expected = variance.sum(0) / size**2 / tangents
    assert_variance(seen(take_many(rule, PLAIN, step, DRAWS), 1), expected)


@pytest.mark.parametrize("name", ["fg-w", "fg-a"])
def test_orthogonal_combination_is_the_projection_and_best_in_angle(name):
    """For one sample, a bias's gradient is the signal at its unit: so both spaces are seen in gradients."""
    options = {"tangents": 4}
    mean, projection = (rule_of(name, combine=c, **options) for c in ("mean", "orthogonal"))
    step = draw(mean, PLAIN, batch=1)
    every = list(PLAIN.parameters())
    names = [n for n in every if n.endswith("bias") and "out" not in n] if name == "fg-a" else every
    g = torch.cat([take(rule_of("bp"), PLAIN, step).grads[n].flatten() for n in names])
    for seed in range(50):
        drawn = draw(mean, PLAIN, batch=1, seed=seed).perturbations
        taken = (take(rule, PLAIN, replace(step, perturbations=drawn)).grads for rule in (mean, projection))
        of_mean, of_projection = (torch.cat([grads[n].flatten() for n in names]) for grads in taken)
        keys = [f"u.{l}" for l in range(len(PLAIN.blocks))] if name == "fg-a" else every
        v = torch.cat([drawn[key].flatten(1) for key in keys], 1)
        v = v * (g != 0) if name == "fg-a" else v  # inactive units are not perturbed
        q, _ = torch.linalg.qr(v.T)
        torch.testing.assert_close(of_projection, q @ (q.T @ g))
        cosines = [torch.cosine_similarity(estimate, g, 0) for estimate in (of_projection, of_mean)]
        assert cosines[0] > cosines[1]
        assert of_projection.norm() < g.norm()


# --- FDFA's estimate of the Jacobians --------------------------------------------------------------------


def jacobians(network: Network, step: Step) -> list[Tensor]:
    """∂Z[b]/∂H_l[b] of every sample and block (B×C×N_l), by torch.func.jacrev of what follows the block."""
    mode = Mode(True, step.buffers, step.noise)
    h, found = step.x, []
    for l, block in enumerate(network.blocks):
        h, _ = block.forward(step.params, h, mode)
        rest = (*network.blocks[l + 1 :], network.output)

        def logits(h: Tensor, rest: Any = rest) -> Tensor:
            for part in rest:
                h, _ = part.forward(step.params, h, Mode(True, step.buffers, step.noise))
            return h

        full = torch.func.jacrev(logits)(h)  # B×C×B×…
        found.append(torch.stack([full[b, :, b].flatten(1) for b in range(len(h))]))
    return found


def estimates(rule: Rule, network: Network, step: Step, draws: int, number: int = 0) -> dict[str, Tensor]:
    """Ĵ_l (n×C×N_l) of `draws` steps: the state's gradient is F − Ĵ."""
    state_grads = take_many(rule, network, step, draws, number=number).state_grads
    return {name: step.state[name] - grad for name, grad in state_grads.items()}


def closed_form(js: list[Tensor], l: int, perturbed: list[int], sign: int) -> Tensor:
    """Var Ĵ_cj = Σ_b (Σ_l ‖J_l[c]‖² ± J_cj²)/B²: plus for Gaussian, minus for ±1 perturbations."""
    total = sum(js[m].square().sum(2, keepdim=True) for m in perturbed)
    return (total + sign * js[l].square()).sum(0) / len(js[0]) ** 2


@pytest.mark.parametrize(("distribution", "sign"), [("gaussian", 1), ("rademacher", -1)])
def test_fdfa_estimates_the_mean_jacobian_with_the_variance_of_the_closed_form(distribution, sign):
    rule = rule_of("fdfa", distribution=distribution)
    step = draw(rule, PLAIN)
    js = jacobians(PLAIN, step)
    for l, samples in enumerate(estimates(rule, PLAIN, step, DRAWS).values()):
        assert_mean(samples, js[l].mean(0))
        assert_variance(samples, closed_form(js, l, [0, 1], sign))


def test_fdfa_with_batch_norm_estimates_a_samples_own_jacobian():
    """Perturbations of other samples, which act through the batch's statistics, average out."""
    rule = rule_of("fdfa")
    step = draw(rule, NORMED)
    js = jacobians(NORMED, step)
    for l, samples in enumerate(estimates(rule, NORMED, step, DRAWS).values()):
        assert_mean(samples, js[l].mean(0))


@pytest.mark.parametrize("rate", [0.3, 0.1])
@pytest.mark.parametrize(("name", "sign"), [("fdfa", 1), ("fdfa-s", -1)])
def test_averaged_feedback_has_the_stationary_error_of_the_closed_form(name, sign, rate):
    """E‖F − J̄‖² = α/(2 − α) Σ Var Ĵ, with the optimizer that the rule itself asks for; 500 chains."""
    chains, steps = 500, 60 if rate == 0.3 else 80
    together = {"perturb": "all"} if name == "fdfa-s" else {}  # of which fdfa knows nothing else
    rule = rule_of(name, feedback_rate=rate, **together)
    step = draw(rule, PLAIN)
    js = jacobians(PLAIN, step)
    optimizer, schedule = rule.feedback_training(*(None, None))
    assert schedule.factor(7.0, 10) == 1
    for l, samples in enumerate(estimates(rule, PLAIN, step, chains * steps).values()):
        # From the mean, so that what is left of the start does not count.
        f = js[l].mean(0).expand(chains, -1, -1).clone()
        state = OptimizerState.new({"F": f}, optimizer)
        for estimate in samples.view(steps, chains, *f.shape[1:]):
            state.apply({"F": f - estimate}, optimizer, optimizer.lr)
        variance = closed_form(js, l, [0, 1], sign).sum() * rate / (2 - rate)
        settled = 1 - (1 - rate) ** (2 * steps)
        error = (f - js[l].mean(0)).square().sum((1, 2)).mean()
        assert error.item() == pytest.approx((variance * settled).item(), rel=0.1)


def test_in_turn_perturbs_one_block_a_step_and_pays_for_that_one_only():
    """The variance lacks the other blocks' ‖J‖²."""
    rule = rule_of("fdfa-s", perturb="in_turn", distribution="rademacher")
    js = jacobians(PLAIN, draw(rule, PLAIN))
    for number in range(4):
        step, l = draw(rule, PLAIN, number=number), number % 2
        assert list(step.perturbations) == [f"v.{l}"]
        found = estimates(rule, PLAIN, step, DRAWS, number=number)
        assert list(found) == [f"feedback.{l}"]
        assert_mean(found[f"feedback.{l}"], jacobians(PLAIN, step)[l].mean(0))
        alone = closed_form(js, l, [l], -1)
        assert_variance(found[f"feedback.{l}"], alone)
        assert 1.15 * alone.sum() < closed_form(js, l, [0, 1], -1).sum()  # so the two can be told apart


def test_in_turn_takes_no_tangent_below_the_perturbed_block(monkeypatch):
    carried: list[str] = []
    for kind in (Linear, Conv2d):

        def dual(self: Any, params: Any, x: Tensor, dx: Any, mode: Mode, plain: Any = kind.dual) -> Any:
            if dx is not None:
                carried.append(self.name)
            return plain(self, params, x, dx, mode)

        monkeypatch.setattr(kind, "dual", dual)
    rule = rule_of("fdfa-s")
    weighted = ["1.conv", "2.conv", "3.linear", "out.linear"]
    for number in range(3):
        carried.clear()
        take(rule, IMAGES, draw(rule, IMAGES, number=number))
        assert carried == weighted[number + 1 :]


def test_shared_perturbations_estimate_the_mean_over_each_patch():
    """Var = Σ_b (‖S_c‖² − S_cp²)/(|p| B)², where S sums the Jacobian over the positions of patch p."""
    rule = rule_of("fdfa-s", share=(2, 2))
    for l, (channels, side) in enumerate(((2, 3), (2, 1), (4, 0))):
        step = draw(rule, IMAGES, number=l)
        js = jacobians(IMAGES, step)[l]
        samples = estimates(rule, IMAGES, step, DRAWS // 2, number=l)[f"feedback.{l}"].flatten(2)
        if side < 2:  # the block has no positions to share over
            sums, size = js, torch.ones(js.shape[-1])
        else:  # a 3×3 image in patches of 2×2, 2×1, 1×2 and 1×1
            image = js.view(*js.shape[:2], channels, 3, 3)
            rows = torch.stack((image[..., :2, :].sum(-2), image[..., 2, :]), -2)
            sums = torch.stack((rows[..., :2].sum(-1), rows[..., 2]), -1).flatten(2)
            size = torch.tensor([4, 2, 2, 1]).repeat(channels)
        assert_mean(samples, (sums / size).mean(0))
        assert_variance(samples, closed_form([sums], 0, [0], -1) / size**2)


# --- draws -----------------------------------------------------------------------------------------------


def test_batchwise_sizes_are_redrawn_at_every_step_and_not_in_evaluation():
    recipe = read("digits/mlp", ["rule=brsf", "network.hidden=[8,8]", "training.device=cpu"]).recipe
    splits = recipe.data.load(None, torch.device("cpu"))
    network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
    seen: list[dict[str, Tensor]] = []

    class Watched(type(recipe.rule)):
        def step(self, s):
            seen.append(s.perturbations)
            return super().step(s)

    recipe = recipe.model_copy(update={"rule": Watched()})
    states = [TrainState(recipe, network, len(splits.train), torch.device("cpu")) for _ in range(2)]
    with torch.no_grad():
        for state, evaluates in zip(states, (False, True), strict=True):
            for _ in range(3):
                rows = state.rows()
                state.step(splits.train.batch(rows), splits.train.labels[rows])
                if evaluates:
                    evaluate(state, splits.validation, "val")
    assert len(seen) == 6  # evaluation takes no step
    for name in seen[0]:
        first, second, third = (drawn[name] for drawn in seen[:3])
        assert not (first == second).any()
        assert not (second == third).any()
        for one, other in zip(seen[:3], seen[3:], strict=True):
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_wrong_labels_are_wrong_and_uniform(classes):
    """Every wrong label has probability 1/(C − 1), within 5 standard errors (C(C − 1) ≤ 90 of them)."""
    count = 200_000
    generator = torch.Generator().manual_seed(0)
    draws = rule_of("ff").perturbations(MLP().build((16,), classes), count, 0)["wrong"].sample(generator)
    labels = torch.randint(classes, (count,), generator=generator)
    wrong = wrong_labels(labels, draws, classes)
    assert (wrong != labels).all()
    assert ((wrong >= 0) & (wrong < classes)).all()
    p = 1 / (classes - 1)
    for label in range(classes):
        counts = torch.bincount(wrong[labels == label], minlength=classes).double()
        n = counts.sum()
        expected = n * p * (torch.arange(classes) != label)
        assert ((counts - expected).abs() <= 5 * (n * p * (1 - p)) ** 0.5).all()


def test_wrong_labels_at_the_ends_of_the_draw():
    labels = torch.arange(10).repeat(2)
    draws = torch.tensor([-1.0, 1.0]).repeat_interleave(10)
    wrong = wrong_labels(labels, draws, 10)
    assert (wrong != labels).all()


# --- memory ----------------------------------------------------------------------------------------------


class LiveMemory(TorchDispatchMode):
    """Bytes of the storages that operations made and somebody still holds; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in _tensors(args)} - self.holders.keys()
        result = func(*args, **(kwargs or {}))
        for t in _tensors(result):
            storage = t.untyped_storage()
            if storage.data_ptr() not in known:  # not a view of what was there before
                self.hold(storage.data_ptr(), storage.nbytes())
                weakref.finalize(t, self.release, storage.data_ptr(), storage.nbytes())
        return result

    def hold(self, storage: int, size: int) -> None:
        self.holders[storage] = self.holders.get(storage, 0) + 1
        if self.holders[storage] == 1:
            self.live += size
            self.peak = max(self.peak, self.live)

    def release(self, storage: int, size: int) -> None:
        self.holders[storage] -= 1
        if not self.holders[storage]:
            del self.holders[storage]
            self.live -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak(rule: Rule, depth: int) -> int:
    """Bytes at the peak of a step: a batch of 1000 through blocks of 8 units, so weights count for little."""
    network = MLP(hidden=(8,) * depth).build((8,), CLASSES)
    step = draw(rule, network, batch=1000)
    with LiveMemory() as memory:
        perturbations = sample(rule.perturbations(network, 1000, 0), torch.Generator().manual_seed(0))
        take(rule, network, replace(step, perturbations=perturbations))
    return memory.peak


@pytest.mark.parametrize(
    ("name", "grows"),
    [
        *((name, False) for name in ("shallow", "drtp", "lg-bp", "lg-fg-w", "lg-fg-a", "ff")),
        *((name, True) for name in ("bp", "fa", "dfa", "fdfa", "fg-a")),
    ],
)
def test_unlocked_rules_free_each_block_as_they_go(name, grows):
    """What a step makes, its perturbations included: the same at 4 and 16 blocks; for others, growing."""
    shallow, deep = (peak(rule_of(name), depth) for depth in (4, 16))
    assert deep > 2.5 * shallow if grows else deep < 1.2 * shallow
