"""Learning rules: one table, a row a rule, and the properties that every row must have.

The second opinion is `reference_rules`: each rule once more, naively, from its equations. A rule without
a row here fails `test_every_rule_has_a_row`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import pytest
import reference_rules as naive
import torch
import torch.utils._pytree as pytree
from rule_steps import Outcome, Step, draw, take
from torch import Tensor, nn
from trainings import resumed, stopped, trained

from fdfa_cli.errors import Unsupported
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Linear, Mode, ModuleLayer
from fdfa_cli.network.losses import LOSSES, Batch
from fdfa_cli.network.zoo.alexnet import AlexNet
from fdfa_cli.network.zoo.cnn import CNN
from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.network.zoo.resnet import ResNet
from fdfa_cli.optim.optimizers import Adam
from fdfa_cli.optim.schedules import Exponential
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules import step as rules
from fdfa_cli.rules.base import RULES, Rule
from fdfa_cli.rules.step import Update
from fdfa_cli.storage import RunFolder
from fdfa_cli.training.state import TrainState

#: Epochs of digits/mlp, which has 30, in the tests of learning.
EPOCHS = 10


@dataclass(frozen=True)
class Row:
    """What is known of one rule.

    `floor` is what the mean digits test accuracy of seeds 0, 1, 2 must exceed, on any processor, after
    `EPOCHS` epochs of the rule's recommended settings. `variants` are settings under which the rule must
    equal the reference. `without_blocks` says what its step gives on a network that is an output layer
    only: the exact gradient, the exact gradient of the bias alone, a random direction of descent, or a
    refusal.
    """

    name: str
    reference: Callable[[naive.Case], Update]
    floor: float
    variants: tuple[Mapping[str, Any], ...] = ({},)
    only_output_learns: bool = False
    beats_shallow: bool = True
    without_blocks: Literal["exact", "exact bias", "direction", "refused"] = "exact"
    #: Settings under which true Jacobians as feedback give backprop's gradient on a linear network.
    jacobian_is_exact: Mapping[str, Any] | None = None


FDFA = ({}, {"inject": "activation"}, {"distribution": "rademacher"})
STRUCTURED = (
    {},
    {"perturb": "all", "share": (1,), "distribution": "gaussian"},
    {"inject": "activation"},
    {"distribution": "rademacher", "perturb": "in_turn"},
    {"perturb": "all", "share": (2,)},
    {"perturb": "in_turn", "share": (4, 3)},
    {"inject": "activation", "perturb": "all", "share": (3, 2)},
)
TANGENTS = (
    {},
    {"tangents": 3, "combine": "mean"},
    {"tangents": 3, "combine": "orthogonal"},
    {"tangents": 1, "combine": "orthogonal"},
)
INITS = tuple({"feedback_init": init} for init in ("kaiming_uniform", "uniform", "zero"))

RULES_TABLE = [
    Row("bp", naive.bp, floor=0.96),
    Row("shallow", naive.shallow, floor=0.89, only_output_learns=True, beats_shallow=False),
    Row("fa", naive.fa, floor=0.96),
    Row("usf", naive.usf, floor=0.96),
    Row("brsf", naive.brsf, floor=0.96),
    Row("frsf", naive.frsf, floor=0.96),
    Row("kp", naive.kp, floor=0.96, variants=({}, {"decay": 0.1})),
    Row("wm", naive.wm, floor=0.96, variants=({}, {"mirror_rate": 0.7, "mirror_samples": 5})),
    Row("dfa", naive.dfa, floor=0.95, variants=INITS, jacobian_is_exact={}),
    Row("sdfa", naive.sdfa, floor=0.94, variants=INITS[:1]),
    Row("drtp", naive.drtp, floor=0.94, variants=INITS[:1]),
    Row(
        "dkp",
        naive.dkp,
        floor=0.96,
        variants=({}, {"decay": 0.1}),
        jacobian_is_exact={"decay": 0.0},
    ),
    Row(
        "pepita",
        naive.pepita,
        floor=0.95,
        variants=({}, {"feedback_scale": 0.5}),
        without_blocks="exact bias",  # its second pass has another input
    ),
    # One direction a step, of 26,000: after 30 epochs it is at 0.75, and `shallow` at 0.94.
    Row("fg-w", naive.fg_w, floor=0.45, variants=TANGENTS, beats_shallow=False, without_blocks="direction"),
    Row("fg-w-multi", naive.fg_w, floor=0.92, variants=TANGENTS[:1], without_blocks="direction"),
    Row("fg-a", naive.fg_a, floor=0.93, variants=TANGENTS),
    Row("fg-a-multi", naive.fg_a, floor=0.95, variants=TANGENTS[:1]),
    Row("lg-bp", naive.lg_bp, floor=0.96),
    Row("lg-fg-w", naive.lg_fg_w, floor=0.90),
    Row("lg-fg-a", naive.lg_fg_a, floor=0.94),
    Row("fdfa", naive.fdfa, floor=0.96, variants=FDFA, jacobian_is_exact={}),
    Row("fdfa-adam", naive.fdfa, floor=0.96, variants=FDFA[:1], jacobian_is_exact={}),
    Row("fdfa-s", naive.fdfa, floor=0.96, variants=STRUCTURED, jacobian_is_exact={}),
    Row(
        "grape",
        naive.grape,
        floor=0.95,
        variants=(*STRUCTURED[:6], {"feedback_rate": 3.0}, {"calibrate_every": 2}),
        jacobian_is_exact={},
    ),
    Row("ff", naive.ff, floor=0.90, variants=({}, {"threshold": 1.5}), without_blocks="refused"),
]

every_row = pytest.mark.parametrize("row", RULES_TABLE, ids=lambda row: row.name)


def test_every_rule_has_a_row():
    assert sorted(row.name for row in RULES_TABLE) == list(RULES)


# --- one step of any rule --------------------------------------------------------------------------------

CLASSES = 4
NETWORKS = {
    "mlp": MLP(hidden=(7, 6), dropout=0.2).build((1, 3, 3), CLASSES),
    "cnn": CNN(channels=(3, 4), kernels=(3,), pools=(2, 1), hidden=(6,)).build((2, 12, 12), CLASSES),
    "alexnet": AlexNet(width=0.02, dropout=0.1).build((2, 15, 15), CLASSES),
    "resnet": ResNet(depth=8, width=2).build((1, 8, 8), CLASSES),
}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def take_naively(row: Row, rule: Rule, network: Network, step: Step, loss: str) -> Outcome:
    net = naive.twin(network, step.params, step.buffers)
    x, noise, labels = step.x, step.noise, step.labels
    case = naive.Case(
        rule, net, step.state, x, labels, noise, step.perturbations, loss_name=loss, classes=network.classes
    )
    u = row.reference(case)
    buffers = {name: net.get_buffer(name) for name in network.buffers()}
    return Outcome(dict(u.grads), dict(u.state_grads), dict(u.state), buffers, u.loss, u.logits)


def assert_close(one: Outcome, other: Outcome, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(
        _plain(one), _plain(other), rtol=rtol, atol=atol, check_dtype=False, check_stride=False
    )


def _plain(outcome: Outcome) -> dict[str, Any]:
    """In one order of names, without autograd's graph."""
    return pytree.tree_map(torch.detach, outcome.trees)


@pytest.fixture(autouse=True)
def double_precision_references():
    """The references write literals; they are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- equal to the naive implementation -------------------------------------------------------------------


@every_network
@every_row
def test_equals_the_naive_implementation(row, network):
    """Every gradient, feedback, running statistic, loss and logit; also on a last, partial batch."""
    small = network in (NETWORKS["mlp"], NETWORKS["cnn"])
    for i, options in enumerate(row.variants if small else row.variants[:1]):
        rule = RULES.get(row.name)(**options)
        for number, (batch, loss) in enumerate(zip((5, 3, 5) if small else (4,), LOSSES, strict=False)):
            step = draw(rule, network, seed=7 * i + number, batch=batch, number=number)
            assert_close(take(rule, network, step, loss), take_naively(row, rule, network, step, loss))


def test_forward_forward_scores_every_label_by_its_goodness():
    """Evaluation is part of this rule; the others read the logits."""
    for network in (NETWORKS["mlp"], NETWORKS["cnn"]):
        rule = RULES.get("ff")()
        step = draw(rule, network)
        net = naive.twin(network, step.params, step.buffers)
        case = naive.Case(rule, net, {}, step.x, step.labels, step.noise, {}, "cross_entropy", CLASSES)
        scores = rule.predict(network, step.params, step.buffers, step.x)
        torch.testing.assert_close(scores, naive.goodness_scores(case), rtol=1e-9, atol=1e-11)


@every_row
def test_without_hidden_blocks_a_rule_is_backpropagation(row):
    """The output layer's exact gradient is all that is left, for rules in which that is exact."""
    network = MLP(hidden=()).build((3, 3), CLASSES)
    rule = RULES.get(row.name)()
    if row.without_blocks == "refused":
        with pytest.raises(Unsupported, match="has none"):
            rule.check(network, "cross_entropy")
        return
    step = draw(rule, network)
    grads, true = (take(r, network, step).grads for r in (rule, RULES.get("bp")()))
    if row.without_blocks == "direction":
        assert sum((grads[name] * true[name]).sum() for name in true) > 0
    elif row.without_blocks == "exact bias":
        torch.testing.assert_close(grads["out.linear.bias"], true["out.linear.bias"])
    else:
        torch.testing.assert_close(grads, true, rtol=1e-12, atol=1e-14)


# --- every architecture, every precision -----------------------------------------------------------------

ARCHITECTURES = {
    "mlp": MLP(hidden=(16, 12)).build((1, 16, 16), 10),
    "cnn": CNN(channels=(4, 6), hidden=(12,)).build((3, 16, 16), 10),
    "alexnet": AlexNet(width=1 / 64).build((3, 32, 32), 10),
    "resnet": ResNet(depth=8, width=4).build((3, 16, 16), 10),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("network", ARCHITECTURES.values(), ids=ARCHITECTURES)
@every_row
def test_runs_on_every_architecture(row, network, dtype):
    """Finite throughout; a gradient of the right shape for every parameter that is said to learn."""
    rule = RULES.get(row.name)()
    rule.check(network, "cross_entropy")
    step = draw(rule, network, batch=6, dtype=torch.float32)
    outcome = take(rule, network, replace(step, x=step.x.to(dtype)))
    learning = (network.output if row.only_output_learns else network.chain).parameters()
    assert {name: tuple(g.shape) for name, g in outcome.grads.items()} == {
        name: draw.shape for name, draw in learning.items()
    }
    for name, value in {**outcome.state_grads, **outcome.state}.items():
        assert value.shape == step.state[name].shape
    for tree in (outcome.grads, outcome.state_grads, outcome.state, outcome.buffers):
        assert all(value.isfinite().all() for value in tree.values())
        assert all(value.dtype in (torch.float32, dtype) for value in tree.values())
    assert outcome.loss.isfinite()
    assert outcome.logits.shape == (6, 10)


def test_rules_that_replace_weights_refuse_a_wrapped_module():
    layer = ModuleLayer(nn.Sequential(nn.Linear(6, 5), nn.Tanh()))
    network = Network.of((6,), 3, [[layer]], [Linear(5, 3)])
    for name in ("fa", "usf", "brsf", "frsf", "kp", "wm"):
        with pytest.raises(Unsupported, match=r"wrapped module.*dfa, fdfa and bp work"):
            RULES.get(name)().check(network, "cross_entropy")


def test_forward_forward_refuses_an_input_too_small_for_the_label():
    with pytest.raises(Unsupported, match=r"first 10 entries of the input, which has only 9"):
        RULES.get("ff")().check(MLP().build((3, 3), 10), "cross_entropy")


# --- stacked trials --------------------------------------------------------------------------------------


def stacked(steps: list[Step]) -> Step:
    return Step(*pytree.tree_map(lambda *tensors: torch.stack(tensors), *(step.trees for step in steps)))


@pytest.mark.parametrize("network", [NETWORKS["mlp"], NETWORKS["cnn"]], ids=["mlp", "cnn"])
@every_row
def test_stacked_over_trials_equals_alone(row, network):
    """One `torch.func.vmap` over trials, each with its own tensors and its own values of real options."""
    for rule in (RULES.get(row.name)(**options) for options in row.variants):
        real = {name: value for name, value in rule if isinstance(value, float)}
        alone = [rule.model_copy(update={n: (1 + 0.3 * k) * v for n, v in real.items()}) for k in range(3)]
        steps = [draw(own, network, seed=k) for k, own in enumerate(alone)]

        def trial(real: dict[str, Tensor], *trees: Any, rule: Rule = rule) -> dict[str, Any]:
            return take(rule.model_copy(update=real), network, Step(*trees)).trees

        values = {n: torch.tensor([getattr(own, n) for own in alone]) for n in real}
        together = torch.func.vmap(trial)(values, *stacked(steps).trees)
        for k, (own, step) in enumerate(zip(alone, steps, strict=True)):
            mine = Outcome(**pytree.tree_map(lambda t, k=k: t[k], together))
            assert_close(mine, take(own, network, step), rtol=1e-10, atol=1e-12)


# --- identities ------------------------------------------------------------------------------------------


def one_sample(rule: Rule, network: Network, step: Step, b: int) -> Step:
    """Sample b alone: the axis that counts samples is the one that another batch size makes longer."""

    def rows(tensors: Mapping[str, Tensor], draws: Callable[[int], Mapping[str, Any]]) -> dict[str, Tensor]:
        of_one, of_two = draws(1), draws(2)
        taken = {}
        for name, value in tensors.items():
            shapes = zip(of_one[name].shape, of_two[name].shape, strict=True)
            axis = next((i for i, (one, two) in enumerate(shapes) if one != two), None)
            taken[name] = value if axis is None else value.narrow(axis, b, 1)
        return taken

    perturbations = rows(step.perturbations, lambda size: rule.perturbations(network, size, 0))
    noise = rows(step.noise, network.noise)
    x, labels = step.x[b : b + 1], step.labels[b : b + 1]
    return replace(step, x=x, labels=labels, noise=noise, perturbations=perturbations)


@pytest.mark.parametrize("norm", ["none", "layer"])
@every_row
def test_samples_never_mix(row, norm):
    """Without batch statistics a batch's gradients are the mean of its samples' own.

    So nothing of one sample (data, label, perturbation) is in the contribution of another.
    """
    for network in (
        MLP(hidden=(7, 6), norm=norm, dropout=0.2).build((1, 3, 3), CLASSES),
        CNN(channels=(3,), kernels=(3,), hidden=(6,), norm=norm).build((2, 8, 8), CLASSES),
    ):
        for options in row.variants:
            rule = RULES.get(row.name)(**options)
            step = draw(rule, network)
            whole = take(rule, network, step)
            alone = [take(rule, network, one_sample(rule, network, step, b)) for b in range(len(step.x))]
            for part in ("grads", "state_grads"):
                got = getattr(whole, part)
                expected = {n: torch.stack([getattr(one, part)[n] for one in alone]).mean(0) for n in got}
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "row", [row for row in RULES_TABLE if row.jacobian_is_exact is not None], ids=lambda row: row.name
)
def test_true_jacobians_as_feedback_make_backprop_of_a_linear_network(row):
    """Every J_l = W_L ⋯ W_{l+1} is one matrix for all samples, so E J_l is the true error signal."""
    network = MLP(hidden=(7, 6, 5), norm="none", activation="identity").build((9,), CLASSES)
    rule = RULES.get(row.name)(**row.jacobian_is_exact)
    step = draw(rule, network)
    jacobian, state = step.params["out.linear.weight"], {}
    for l in reversed(range(3)):
        state[f"feedback.{l}"] = jacobian
        jacobian = jacobian @ step.params[f"{l + 1}.linear.weight"]
    grads = take(rule, network, replace(step, state=state)).grads
    torch.testing.assert_close(grads, take(RULES.get("bp")(), network, step).grads, rtol=1e-10, atol=1e-13)


def test_kolen_pollack_weights_and_feedback_meet_at_the_rate_of_the_decay():
    """Under SGD every entry of W − F shrinks by the factor 1 − ηλ a step; without decay not at all."""
    network, rate = NETWORKS["cnn"], 0.3
    for decay in (0.1, 0.0):
        rule = RULES.get("kp")(decay=decay)
        step = draw(rule, network)
        pairs = [name.removeprefix("feedback.") for name in step.state]
        apart = {n: step.params[n] - step.state[f"feedback.{n}"] for n in pairs}
        params, state = step.params, step.state
        for t in range(20):
            data = draw(rule, network, seed=t)
            u = take(rule, network, replace(data, params=params, state=state))
            params = {n: value - rate * u.grads[n] for n, value in params.items()}
            state = {n: value - rate * u.state_grads[n] for n, value in state.items()}
        for n in pairs:
            left = (1 - rate * decay) ** 20 * apart[n]
            torch.testing.assert_close(params[n] - state[f"feedback.{n}"], left, rtol=1e-10, atol=1e-12)


def test_direct_kolen_pollack_feedback_of_the_last_block_learns_as_the_output_weights_do():
    for network in (NETWORKS["mlp"], NETWORKS["cnn"]):
        u = take(rule := RULES.get("dkp")(decay=0.0), network, draw(rule, network))
        last = f"feedback.{len(network.blocks) - 1}"
        torch.testing.assert_close(u.state_grads[last], u.grads["out.linear.weight"], rtol=1e-12, atol=0)


def test_weight_mirror_turns_feedback_to_the_weights():
    """Noise alone, no training: the angle between W and F closes, and |F| stays what it was drawn with."""
    network = NETWORKS["cnn"]
    rule = RULES.get("wm")(mirror_samples=64)
    step = draw(rule, network)
    state = step.state
    for t in range(60):
        perturbations = draw(rule, network, seed=t).perturbations
        state = take(rule, network, replace(step, state=state, perturbations=perturbations)).state
    for name, f in state.items():
        w = step.params[name.removeprefix("feedback.")]
        assert torch.cosine_similarity(w.flatten(), f.flatten(), 0) > 0.9
        bound = network.parameters()[name.removeprefix("feedback.")].scale
        assert f.norm() == pytest.approx(bound * math.sqrt(f.numel() / 3))


def test_grape_columns_have_norm_one_and_turn_towards_the_estimate():
    network = NETWORKS["mlp"]
    rule = RULES.get("grape")()
    step = draw(rule, network)
    s = rules.Step(network, step.params, step.state, _batch(step), step.perturbations)
    _, jacobians = rule.estimate(s)
    state = take(rule, network, step).state
    for l, (name, f) in enumerate(state.items()):
        torch.testing.assert_close(f.norm(dim=0), torch.ones(f.shape[1]))
        before, after = (torch.cosine_similarity(g, jacobians[l], 0) for g in (step.state[name], f))
        assert (after > before).all()


def _batch(step: Step) -> Batch:
    return Batch(step.x, step.labels, Mode(True, step.buffers, step.noise), LOSSES["cross_entropy"])


def test_grape_calibrates_by_backpropagation_at_every_kth_batch():
    network = NETWORKS["mlp"]
    for every, calibrated in ((0, []), (1, [0, 1, 2, 3, 4, 5]), (3, [2, 5])):
        rule = RULES.get("grape")(calibrate_every=every)
        assert [t for t in range(6) if not rule.perturbations(network, 5, t)] == calibrated


# --- published settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "law", "scale"),
    [
        # of C×N_l feedback on 6 units; of PEPITA's on 9 inputs; of fa's on 7×6 weights
        ("dfa", {}, "uniform", (6 / 6) ** 0.5),
        ("dfa", {"feedback_init": "uniform"}, "uniform", 1 / 6**0.5),
        ("dkp", {"feedback_init": "zero"}, "constant", 0.0),
        ("drtp", {}, "uniform", (6 / 6) ** 0.5),
        ("fdfa", {}, "constant", 0.0),
        ("fdfa-s", {}, "constant", 0.0),
        ("grape", {}, "gaussian", 1.0),
        ("pepita", {}, "uniform", 0.05 * (6 / 9) ** 0.5),
        ("fa", {}, "uniform", 1 / 7**0.5),
        ("frsf", {}, "uniform", 1 / 7**0.5),
    ],
)
def test_initial_law_of_the_feedback(name, options, law, scale):
    network = MLP(hidden=(7, 6)).build((9,), CLASSES)
    draws = RULES.get(name)(**options).state(network)
    draw = draws.get("feedback.1") or next(iter(draws.values()))
    assert (draw.law, draw.scale) == (law, pytest.approx(scale))


@pytest.mark.parametrize(
    ("name", "optimizer", "rate"),
    [("fdfa", "sgd", 0.01), ("fdfa-s", "sgd", 0.003), ("fdfa-adam", "adam", 1e-4), ("dkp", "adam", 1e-4)],
)
def test_feedback_has_its_own_optimizer_at_a_constant_rate(name, optimizer, rate):
    rule = RULES.get(name)()
    own, schedule = rule.feedback_training(Adam(lr=0.5), Exponential())
    assert (own.name, own.lr, own.weight_decay) == (optimizer, rate, getattr(rule, "decay", 0))
    assert getattr(own, "momentum", 0) == 0
    assert {schedule.factor(t, 10) for t in (0, 3.5, 9)} == {1}


def test_direct_kolen_pollack_decays_weights_and_feedback_alike_beside_what_their_optimizers_do():
    """One step of SGD of rate η shrinks every tensor by 1 − η (own decay + λ), and follows the gradients."""
    options = recipe("dkp", "rule.decay=0.1", "rule.feedback_optimizer={name: sgd, lr: 0.5}",
                     "optimizer={name: sgd, lr: 0.2, weight_decay: 0.3}")  # fmt: skip
    network = options.network.build(options.data.shape(), options.data.classes())
    state = TrainState(options, network, 64, torch.device("cpu"))
    before = state.twin()
    x, y = torch.rand(32, *options.data.shape()), torch.randint(10, (32,))
    batch = Batch(x, y, Mode(training=True, buffers=before.buffers), LOSSES["cross_entropy"])
    with torch.no_grad():
        update = options.rule.step(rules.Step(network, before.params, before.rule_state, batch, {}))
        state.step(x, y)
    for now, was, grads, rate, decay in (
        (state.params, before.params, update.grads, 0.2, 0.4),
        (state.rule_state, before.rule_state, update.state_grads, 0.5, 0.1),
    ):
        for name in now:
            torch.testing.assert_close(now[name], (1 - rate * decay) * was[name] - rate * grads[name])


def test_kolen_pollack_feedback_moves_with_the_weights_own_optimizer():
    given = (Adam(lr=0.5), Exponential())
    for name in ("kp", "lg-bp"):
        assert RULES.get(name)().feedback_training(*given) == given


# --- trainings -------------------------------------------------------------------------------------------


def recipe(name: str, *overrides: str) -> Recipe:
    return read(
        "digits/mlp", [f"rule={name}", "training.threads=1", "training.device=cpu", *overrides]
    ).recipe


def stored(run: RunFolder) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Metrics without the clocks, and every tensor of the checkpoint."""
    rows = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in run.metrics()]
    content = torch.load(run.checkpoint, weights_only=True)
    return rows, {key: content[key] for key in ("params", "buffers", "state", "moments", "numbers")}


@pytest.fixture
def single_precision():
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("single_precision")
@every_row
def test_interrupted_and_resumed_equals_uninterrupted_digit_for_digit(tmp_path, row):
    small = ("network.hidden=[12,10]", "training.epochs=2", "data.limit=200", "network.dropout=0.1")
    options = recipe(row.name, *small)
    whole = trained(tmp_path, options)
    steps = iter(range(10))
    run = stopped(tmp_path, options, lambda: next(steps) == 9)  # in the second epoch
    rows, tensors = stored(resumed(run, options))
    expected_rows, expected = stored(whole)
    assert rows == expected_rows
    torch.testing.assert_close(tensors, expected, rtol=0, atol=0)


@cache
def accuracy(folder: Path, name: str) -> float:
    """Mean digits test accuracy of seeds 0, 1 and 2 under the rule's recommended settings."""
    settings = [(f"training.epochs={EPOCHS}", f"training.seed={seed}") for seed in range(3)]
    runs = [trained(folder, recipe(name, *overrides)) for overrides in settings]
    return mean(run.record.summary["test_accuracy"] for run in runs)


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.usefixtures("single_precision")
@every_row
def test_learns(runs_folder, row):
    reached = accuracy(runs_folder, row.name)
    assert reached > row.floor
    assert (reached > accuracy(runs_folder, "shallow")) is row.beats_shallow
