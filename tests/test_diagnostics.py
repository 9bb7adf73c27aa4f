"""Diagnostics: each figure against autograd, a closed form or a second computation; and no effect at all.

Seeds are fixed, so a test that passes keeps passing; the false-alarm probabilities are those of choosing
the seed. Variances are compared within 10 %, five times the standard deviation of their estimate or more
(below 6e-7 each).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from over import over
from rule_steps import Step, draw, take, take_many
from test_rule_statistics import jacobians
from test_train import assert_same_run, figures
from torch import Tensor
from trainings import resumed, stopped, trained

from fdfa_cli import machine
from fdfa_cli.cli import run as fdfa
from fdfa_cli.diagnostics import blocks, metrics
from fdfa_cli.diagnostics.meters import MemoryMeter
from fdfa_cli.diagnostics.metrics import RunningMoments, dead, spread
from fdfa_cli.diagnostics.probe import Probe
from fdfa_cli.diagnostics.recorder import Recording, recorded
from fdfa_cli.diagnostics.snapshot import Snapshot, running_moments
from fdfa_cli.network.base import Network
from fdfa_cli.network.layers import Linear, Mode, ModuleLayer
from fdfa_cli.network.losses import LOSSES, Batch
from fdfa_cli.network.zoo.cnn import CNN
from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.recipe.diagnostics import Diagnostics
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import dump, identity
from fdfa_cli.rules.base import RULES, Rule
from fdfa_cli.storage import RunFolder

CLASSES = 3
PLAIN = MLP(hidden=(6, 5), norm="none").build((4,), CLASSES)
NORMED = MLP(hidden=(6, 5), dropout=0.3).build((4,), CLASSES)
IMAGES = CNN(channels=(2, 3), kernels=(3,), pools=(2, 1), hidden=(4,), dropout=0.3).build((1, 8, 8), CLASSES)
NETWORKS = pytest.mark.parametrize(
    "network", [PLAIN, NORMED, IMAGES], ids=["plain", "batch norm and dropout", "images"]
)


def rule_of(name: str, **options: Any) -> Rule:
    return RULES.get(name)(**options)


def snapshot_of(rule: Rule, network: Network, step: Step) -> Snapshot:
    mode = Mode(True, step.buffers, step.noise)
    batch = Batch(step.x, step.labels, mode, LOSSES["cross_entropy"])
    return Snapshot(rule, network, step.params, step.state, batch, step=0)


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), 0).item()


class Autograd:
    """The same pass with torch's autograd: H_l and z_l, the gradients there and of the parameters."""

    def __init__(self, network: Network, step: Step) -> None:
        self.params = {name: p.clone().requires_grad_() for name, p in step.params.items()}
        mode, h = Mode(True, step.buffers, step.noise), step.x
        self.z, self.h = [], []
        for block in network.blocks:
            for layer in block.layers:
                if layer.name.endswith("activation"):
                    self.z.append(h)
                h, _ = layer.forward(self.params, h, mode)
            self.h.append(h)
        self.logits, _ = network.output.forward(self.params, h, mode)
        torch.nn.functional.cross_entropy(self.logits, step.labels).backward(
            inputs=[*self.params.values(), *self.z, *self.h], retain_graph=True
        )

    def pulled(self, network: Network, l: int, signal: Tensor) -> Tensor:
        """Gradients of block l's parameters for an error signal at its output, side by side."""
        own = [self.params[name] for name in network.blocks[l].parameters()]
        grads = torch.autograd.grad(self.h[l], own, signal, retain_graph=True)
        return torch.cat([g.flatten() for g in grads])

    def true(self, network: Network, l: int) -> Tensor:
        return torch.cat([self.params[name].grad.flatten() for name in network.blocks[l].parameters()])


# --- metrics ---------------------------------------------------------------------------------------------


@NETWORKS
def test_alignment_of_direct_feedback_equals_autograd(network):
    step = draw(rule_of("dfa"), network)
    snapshot = snapshot_of(rule_of("dfa"), network, step)
    true, exact = snapshot.exact()
    found = blocks.alignments(snapshot, {}, true, exact)
    reference = Autograd(network, step)
    error = (reference.logits.softmax(1) - torch.eye(CLASSES)[step.labels].double()).detach() / len(step.x)
    for l in range(len(network.blocks)):
        signal = (error @ step.state[f"feedback.{l}"].flatten(1)).view_as(reference.h[l])
        aim, weights, goal = (
            reference.h[l].grad,
            reference.pulled(network, l, signal),
            reference.true(network, l),
        )
        expected = {
            "signal_at": "output",
            "signal_cosine": cosine(signal, aim),
            "signal_angle_degrees": math.degrees(math.acos(cosine(signal, aim))),
            "signal_norm_ratio": (signal.norm() / aim.norm()).item(),
            "weight_cosine": cosine(weights, goal),
            "weight_angle_degrees": math.degrees(math.acos(cosine(weights, goal))),
            "weight_norm_ratio": (weights.norm() / goal.norm()).item(),
        }
        assert found[l].pop("signal_at") == expected.pop("signal_at")
        assert found[l] == pytest.approx(expected, rel=1e-6)


@NETWORKS
def test_backprop_is_aligned_with_itself(network):
    step = draw(rule_of("bp"), network)
    snapshot = snapshot_of(rule_of("bp"), network, step)
    for found in blocks.alignments(snapshot, {}, *snapshot.exact()).values():
        for name in ("signal", "weight"):
            assert found[f"{name}_cosine"] == pytest.approx(1, abs=1e-12)
            assert found[f"{name}_norm_ratio"] == pytest.approx(1, abs=1e-12)


def test_signal_before_the_activation_is_compared_there():
    """fg-a: D_l[b] = g_b u_l[b]/B with g_b = Σ_l ∇z_l[b]·u_l[b], from autograd's gradients."""
    rule = rule_of("fg-a")
    step = draw(rule, PLAIN)
    snapshot = snapshot_of(rule, PLAIN, step)
    found = blocks.alignments(snapshot, step.perturbations, *snapshot.exact())
    reference = Autograd(PLAIN, step)
    u = [step.perturbations[f"u.{l}"][0] * (z > 0) for l, z in enumerate(reference.z)]
    slopes = sum((z.grad * v).sum(1) for z, v in zip(reference.z, u, strict=True))
    for l, z in enumerate(reference.z):
        assert found[l]["signal_at"] == "preactivation"
        assert found[l]["signal_cosine"] == pytest.approx(cosine(slopes[:, None] * u[l], z.grad))


@pytest.mark.parametrize("name", ["fg-w", "shallow", "ff"])
def test_what_is_not_defined_is_absent(name):
    """fg-w brings no signal, `shallow` nothing at all, and ff's is of other samples."""
    rule = rule_of(name)
    step = draw(rule, PLAIN)
    snapshot = snapshot_of(rule, PLAIN, step)
    for found in blocks.alignments(snapshot, step.perturbations, *snapshot.exact()).values():
        assert not any(key.startswith("signal") for key in found)
        assert ("weight_cosine" in found) == (name != "shallow")


def own_jacobians(network: Network, step: Step) -> list[Tensor]:
    """By jacrev, of the network in evaluation with the batch's statistics as the running ones.

    Masks of dropout are taken into the weights: a mask on H_l is a factor on what H_l's Jacobian meets.
    """
    mode, h, statistics = Mode(True, step.buffers, step.noise), step.x, {}
    for block in network.blocks:
        for layer in block.layers:
            if layer.name.endswith("norm"):
                axes = [0, *range(2, h.ndim)]
                statistics[f"{layer.name}.running_mean"] = h.mean(axes)
                statistics[f"{layer.name}.running_var"] = h.var(axes, unbiased=False)
            h, _ = layer.forward(step.params, h, mode)

    class Held(Mode):
        """Training as far as dropout is concerned, evaluation for batch norm."""

    def forward(layers: Any, h: Tensor) -> Tensor:
        for layer in layers:
            training = layer.name.endswith("dropout")
            h, _ = layer.forward(step.params, h, Held(training, statistics, step.noise))
        return h

    found, h = [], step.x
    for l, block in enumerate(network.blocks):
        h = forward(block.layers, h)
        rest = [x for part in (*network.blocks[l + 1 :], network.output) for x in part.layers]
        full = torch.func.jacrev(lambda h, rest=rest: forward(rest, h))(h)  # B×C×B×…
        found.append(torch.stack([full[b, :, b].flatten(1) for b in range(len(h))]))
    return found


@NETWORKS
def test_feedback_is_compared_with_the_mean_own_jacobian(network):
    step = draw(rule_of("fdfa"), network)
    found = blocks.feedbacks(snapshot_of(rule_of("fdfa"), network, step))
    for l, j in enumerate(own_jacobians(network, step)):
        feedback, mean = step.state[f"feedback.{l}"].flatten(1), j.mean(0)
        spread = (j - mean).square().sum() / j.square().sum()
        assert found[l] == pytest.approx(
            {
                "feedback_cosine": cosine(feedback, mean),
                "feedback_error": ((feedback - mean).norm() / mean.norm()).item(),
                "jacobian_spread": spread.item(),
            },
            rel=1e-6,
            abs=1e-9,
        )


def test_without_batch_norm_own_jacobians_are_those_of_the_statistics_tests():
    step = draw(rule_of("fdfa"), PLAIN)
    for mine, theirs in zip(own_jacobians(PLAIN, step), jacobians(PLAIN, step), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_feedback_of_patches_stands_at_each_of_their_positions():
    rule = rule_of("fdfa-s", share=(2, 2))
    step = draw(rule, IMAGES)
    direct = rule.direct_feedback(snapshot_of(rule, IMAGES, step).seen())
    shapes = IMAGES.block_shapes
    assert [f.shape for f in direct.values()] == [(CLASSES, math.prod(shape)) for shape in shapes]
    coarse = step.state["feedback.0"].view(CLASSES, 2, 2, 2)  # a 3×3 image in patches of 2
    assert torch.equal(direct[0].view(CLASSES, 2, 3, 3)[:, :, 2, 1], coarse[:, :, 1, 0])


def test_a_wrapped_module_has_no_own_jacobian():
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6)).double()
    network = Network.of((4,), CLASSES, [[ModuleLayer(module)]], [Linear(6, CLASSES)])
    step = draw(rule_of("fdfa"), network)
    assert blocks.feedbacks(snapshot_of(rule_of("fdfa"), network, step)) == {}


@pytest.mark.parametrize("name", ["fa", "usf", "brsf", "frsf", "kp", "wm"])
def test_weight_alignment_is_of_the_matrix_that_brings_the_signal(name):
    """The cosine between W_{l+1} and what stands in for it on the way down to block l."""
    rule = rule_of(name)
    step = draw(rule, PLAIN)
    found = blocks.weight_alignments(snapshot_of(rule, PLAIN, step), step.perturbations)
    for l, weight in enumerate(("2.linear.weight", "out.linear.weight")):
        w, drawn = step.params[weight], {**step.state, **step.perturbations}
        if name == "usf":
            stands_in = w.sign()
        elif name in ("brsf", "frsf"):
            stands_in = drawn[f"size.{weight}"].abs() * w.sign()
        else:
            stands_in = drawn[f"feedback.{weight}"]
        assert found[l]["weight_alignment"] == pytest.approx(cosine(stands_in, w))
    assert blocks.weight_alignments(snapshot_of(rule_of("dfa"), PLAIN, draw(rule_of("dfa"), PLAIN)), {}) == {}


@NETWORKS
def test_activity_norms_and_dead_units(network):
    step = draw(rule_of("bp"), network)
    name = next(n for n in step.params if n.startswith("1.") and n.endswith("bias"))
    name = "1.norm.bias" if "1.norm.bias" in step.params else name
    step.params[name][0] = -1e3  # the first unit or channel never fires
    snapshot = snapshot_of(rule_of("bp"), network, step)
    found = blocks.activity(snapshot, *snapshot.exact())
    reference = Autograd(network, step)
    for l, h in enumerate(reference.h):
        assert found[l]["activation_norm"] == pytest.approx(
            h.detach().flatten(1).square().sum(1).mean().sqrt().item()
        )
        assert found[l]["gradient_norm"] == pytest.approx(reference.true(network, l).norm().item())
        fires = (reference.z[l] > 0).transpose(0, 1).flatten(1).any(1)
        assert found[l]["dead_units"] == pytest.approx(1 - fires.double().mean().item())
    assert found[0]["dead_units"] > 0
    assert dead(torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == 0.5


def test_a_cosine_of_what_is_not_finite_or_zero_is_none():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    assert metrics.cosine(one, other) == pytest.approx(1)
    for bad in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        assert metrics.cosine(one, torch.tensor(bad)) is None


# --- bias and variance -----------------------------------------------------------------------------------


def test_moments_are_those_of_the_whole_sample():
    vectors = torch.randn(11, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    seen = RunningMoments(half=5)
    for vector in vectors:
        seen.add(vector)
    assert seen.variance() == pytest.approx(vectors.var(0).sum().item())
    torch.testing.assert_close(seen.means()[0], vectors[:5].mean(0))
    torch.testing.assert_close(seen.means()[1], vectors[5:].mean(0))


def test_bias_and_noise_of_an_estimate_with_known_ones():
    """Noise of variance s² a component around g + c: bias ‖c‖/‖g‖, variance n s²/‖g‖², R = 20,000, n = 40.

    The relative standard deviation of the variance is √(2/(nR)) = 0.2 %, that of the squared bias below
    2 s √R⁻¹/‖c‖ + s² √n √2 R⁻¹/‖c‖² = 3 %: both are compared within five times that.
    """
    generator = torch.Generator().manual_seed(0)
    true, shift = (torch.randn(40, dtype=torch.float64, generator=generator) for _ in range(2))
    shift *= 0.3 * true.norm() / shift.norm()
    seen = RunningMoments(half=10_000)
    for _ in range(20_000):
        seen.add(true + shift + torch.randn(40, dtype=torch.float64, generator=generator))
    found = spread(seen, true)
    size = true.norm().item()
    assert found["variance"] == pytest.approx(40 / size**2, rel=0.01)
    assert found["bias"] == pytest.approx(0.3, rel=0.08)
    assert found["snr"] == pytest.approx(((true + shift).norm() / math.sqrt(40)).item(), rel=0.01)
    assert found["bias_error"] == pytest.approx(math.sqrt(40 / 20_000) / size, rel=0.6)


def test_a_rule_without_chance_has_no_variance_and_its_whole_error_is_bias():
    rule = rule_of("dfa")
    step = draw(rule, PLAIN)
    snapshot = snapshot_of(rule, PLAIN, step)
    true, _ = snapshot.exact()
    grads = snapshot.update({}).grads
    for l, (seen, exact) in running_moments([grads, grads], 8, snapshot, true).items():
        estimate = torch.cat([grads[name].flatten() for name in PLAIN.blocks[l].parameters()])
        found = spread(seen, exact)
        assert found["variance"] == 0
        assert found["snr"] is None
        assert found["bias"] == pytest.approx(((estimate - exact).norm() / exact.norm()).item())


@pytest.mark.parametrize(
    ("name", "options", "network"),
    [
        ("fg-w", {}, PLAIN),
        ("fg-w", {"tangents": 3}, IMAGES),
        ("fg-a", {}, PLAIN),
        ("fg-a", {"tangents": 3}, PLAIN),
    ],
)
def test_closed_form_of_the_gradients_variance(name, options, network):
    rule = rule_of(name, **options)
    step = draw(rule, network)
    expected = snapshot_of(rule, network, step).gradient_variance()
    assert len(expected) == len(network.blocks)
    many = take_many(rule, network, step, 20_000).grads
    for l, block in enumerate(network.blocks):
        measured = sum(many[n].flatten(1).var(0).sum().item() for n in block.parameters())
        assert measured == pytest.approx(expected[l], rel=0.1)


@pytest.mark.parametrize(
    "options",
    [{}, {"distribution": "rademacher"}, {"perturb": "in_turn", "distribution": "gaussian"}],
    ids=["gaussian", "rademacher", "in turn"],
)
def test_closed_form_of_the_variance_under_averaged_feedback(options):
    """2000 chains of the feedback with α = 0.3, settled to within 0.7^60."""
    rate, chains = 0.3, 2000
    rule = rule_of("fdfa-s" if "perturb" in options else "fdfa", feedback_rate=rate, **options)
    step = draw(rule, PLAIN)
    state = {name: f.expand(chains, *f.shape).clone() for name, f in step.state.items()}
    for number in range(60):
        moved = take_many(rule, PLAIN, step, chains, seed=number, number=number).state_grads
        for name, grad in moved.items():  # of F − Ĵ at the step's own F; each chain has another
            state[name] -= rate * (grad - step.state[name] + state[name])
    many = torch.func.vmap(lambda f: take(rule, PLAIN, replace(step, state=f)).grads)(state)
    for l, variance in snapshot_of(rule, PLAIN, step).gradient_variance().items():
        measured = sum(many[n].flatten(1).var(0).sum().item() for n in PLAIN.blocks[l].parameters())
        assert measured == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "network"),
    [
        ("fg-w", {"tangents": 2, "combine": "orthogonal"}, PLAIN),
        ("fg-a", {}, NORMED),
        ("fdfa", {}, NORMED),
        ("fdfa-adam", {}, PLAIN),
        ("dfa", {}, PLAIN),
    ],
)
def test_no_closed_form_where_none_is_known(name, options, network):
    rule = rule_of(name, **options)
    assert snapshot_of(rule, network, draw(rule, network)).gradient_variance() == {}


# --- watching --------------------------------------------------------------------------------------------


@NETWORKS
@pytest.mark.parametrize("name", sorted(RULES))
def test_a_watched_network_computes_the_same_bits(name, network):
    rule = rule_of(name)
    step = draw(rule, network)
    plain, seen = take(rule, network, step), take(rule, recorded(network, Recording()), step)
    for mine, theirs in zip(seen.trees.values(), plain.trees.values(), strict=True):
        if isinstance(theirs, Tensor):
            assert torch.equal(mine, theirs)
            continue
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert torch.equal(mine[key], theirs[key]), key


def test_bytes_are_those_alive_together():
    meter = MemoryMeter()
    kept = torch.zeros(100)
    with meter.tracking():
        meter.enter("forward")
        a = kept + 1  # 400 bytes
        b = a.view(10, 10) * 2  # 400 more; a view is none
        del a
        meter.enter("update")
        c = b.t() + kept.view(10, 10)
        meter.enter(None)
        del b, c
        _ = kept.repeat(100)  # counts for nothing
    assert meter.peaks == {"forward": 800, "update": 800}


# --- in a training ---------------------------------------------------------------------------------------

#: 5 steps of 128 samples an epoch.
FEW = (
    "data.validation=100",
    "data.limit=640",
    "training.epochs=2",
    "training.threads=1",
    "training.device=cpu",
)
MLP_RUN = ("network.hidden=[12,8]", "network.dropout=0.2", "training.batch_size=128")
CNN_RUN = (
    "network={name: cnn, channels: [2, 3], kernels: [3], pools: [2, 1], hidden: [8], dropout: 0.2}",
    "training.batch_size=128",
)
SECTION = "diagnostics={steps: [0, 2, 5], draws: 3, batches: 2}"


def recipe(*overrides: str) -> Recipe:
    return read("digits/mlp", over(FEW, *overrides)).recipe


def without(run: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "diagnostics"} for row in figures(run)]


def probes(run: RunFolder) -> list[dict[str, Any]]:
    return [probe for row in run.metrics() for probe in row["diagnostics"]]


def timeless(probe: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in probe.items() if k not in ("seconds", "phases")}


@pytest.mark.parametrize("network", [MLP_RUN, CNN_RUN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("name", sorted(RULES))
def test_training_digits_are_the_same_under_every_rule(tmp_path, name, network):
    options = [f"rule={name}", *network]
    plain = trained(tmp_path, recipe(*options))
    probed = trained(tmp_path, recipe(*options, SECTION, "diagnostics.settle=2"))
    assert without(probed)[0].keys() == without(plain)[0].keys()
    assert without(probed) == without(plain)
    mine, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (probed, plain))
    for content in (mine, theirs):
        content.pop("probes")
    assert str(mine) == str(theirs)  # optimizers and streams included
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert [probe["step"] for probe in probes(probed)] == [0, 2, 5]
    count = len(recipe(*options).network.build((1, 8, 8), 10).blocks)
    for probe in probes(probed):
        assert [block["block"] for block in probe["blocks"]] == list(range(1, count + 1))
        assert {"forward", "signal", "update"} <= probe["phases"].keys()
        for block in probe["blocks"]:
            assert block["gradient_norm"] > 0
            cosines = [v for k, v in block.items() if k.endswith("cosine") and v is not None]
            assert all(-1 <= v <= 1 for v in cosines)
            if name != "shallow":
                assert {"weight_cosine", "bias", "variance", "batch_variance"} <= block.keys()


@pytest.mark.parametrize("steps", [1, 4, 5, 9])
def test_an_interrupted_training_keeps_its_probes(tmp_path, steps):
    """There are 5 steps an epoch: stopped in the first, at the end of it, and in the second."""
    options = recipe("rule=fdfa", *MLP_RUN, SECTION, "diagnostics.every=1")
    whole = trained(tmp_path, options)
    taken = iter(range(1, 1000))
    run = resumed(stopped(tmp_path, options, lambda: next(taken) >= steps), options)
    assert without(run) == without(whole)
    assert list(map(timeless, probes(run))) == list(map(timeless, probes(whole)))
    assert [probe["step"] for probe in probes(whole)] == [0, 2, 5, 10]
    assert_same_run(*(replaced(one) for one in (run, whole)))


def replaced(run: RunFolder) -> RunFolder:
    """The run with its probes taken out of its rows, where they hold clocks."""
    rows = run.metrics()
    (run.path / "metrics.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != "diagnostics"}) + "\n" for row in rows)
    )
    return run


def test_probes_are_due_at_epochs_or_steps():
    def due(**options: Any) -> list[int]:
        return [step for step in range(31) if Diagnostics(**options).due(step, 10)]

    assert due() == [0, 10, 20, 30]
    assert due(every=2) == [0, 20]
    assert due(steps=(0, 7)) == [0, 7]
    assert due(every=3, steps=(1,)) == [0, 1, 30]


def test_measured_variance_is_that_of_the_closed_form_in_a_training(tmp_path):
    """Fdfa's feedback with α = 0.5 over 2000 steps: as good as 2000/3 independent ones, of 12 units each."""
    options = ["network={name: mlp, hidden: [12], norm: none}", "training.batch_size=64", "training.epochs=1"]
    for name, draws in (("fg-w", 4000), ("fg-a", 1000), ("rule={name: fdfa, feedback_rate: 0.5}", 2000)):
        rule = name if name.startswith("rule") else f"rule={name}"
        section = f"diagnostics={{steps: [0], draws: {draws}, settle: 20, batches: 0}}"
        (probe,) = probes(trained(tmp_path, recipe(*options, rule, section)))
        (block,) = probe["blocks"]
        assert block["variance"] == pytest.approx(block["variance_theory"], rel=0.1), name


def test_without_settling_the_feedback_is_held_still(tmp_path):
    run = trained(tmp_path, recipe("rule=fdfa", *MLP_RUN, SECTION))
    for block in probes(run)[-1]["blocks"]:
        assert block["variance"] == 0
        assert "variance_theory" not in block


def test_seconds_are_counted_apart_and_summed(tmp_path, monkeypatch):
    """By a clock that only a probe moves, 7 seconds each time."""
    now = [0.0]

    def look(self: Probe, plain: Any = Probe.measure) -> dict[str, Any]:
        now[0] += 7
        return plain(self)

    monkeypatch.setattr(machine, "now", lambda device: now[0])
    monkeypatch.setattr(Probe, "measure", look)
    run = trained(tmp_path, recipe("rule=fdfa", *MLP_RUN, SECTION))
    rows = run.metrics()
    assert [row["train_seconds"] for row in rows] == [0, 0]
    assert [row["diagnostics_seconds"] for row in rows] == [21, 0]
    assert [probe["seconds"] for probe in probes(run)] == [7, 7, 7]
    assert run.record.summary["diagnostics_seconds"] == 21
    assert "diagnostics" not in run.record.summary


def test_a_run_with_diagnostics_is_another_run_with_the_same_digits():
    """Or a sweep started again with them would skip what it has, and show none."""
    plain, probed = recipe("rule=fdfa"), recipe("rule=fdfa", "diagnostics={}")
    assert identity(plain) != identity(probed)
    assert "diagnostics" not in dump(plain)
    assert identity(probed) != identity(recipe("rule=fdfa", "diagnostics.draws=4"))


def test_command_shows_a_line_for_each_probed_epoch(tmp_path, capsys):
    options = ["train", "digits/mlp", *FEW, *MLP_RUN, "--results", str(tmp_path)]
    assert fdfa([*options, "rule=dfa", "diagnostics={every: 2}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    (probed,) = [line for line in lines if "cosine" in line and "step 0" not in line]
    path = next(Path(tmp_path).iterdir())
    last = probes(RunFolder.open(path))[-1]
    shown = " ".join(f"{block['signal_cosine']:.2f}" for block in last["blocks"])
    assert probed == f"  step 10: cosine of error signal and true one, by block: {shown}"
    assert fdfa([*options, "rule=fg-w", "diagnostics={}"]) == 0
    assert "cosine of gradient and true one" in capsys.readouterr().err


def test_one_draw_is_refused(capsys):
    assert fdfa(["train", "digits/mlp", "diagnostics.draws=1"]) == 2
    assert "diagnostics.draws: one has no variance: give 0 for none, or 2 and more" in capsys.readouterr().err
