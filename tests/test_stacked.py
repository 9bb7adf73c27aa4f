"""Stacked trials: what each comes to is what it comes to alone, up to the rounding of float32 sums."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from over import over

from fdfa_cli.data import data_root
from fdfa_cli.errors import Interrupted
from fdfa_cli.network.kernels import vmap_rules
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.recipe.write import identity
from fdfa_cli.rules.backprop import Backprop
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.step import Update
from fdfa_cli.storage import RunFolder
from fdfa_cli.streams import Draw
from fdfa_cli.training import footprint
from fdfa_cli.training.grouping import groups
from fdfa_cli.training.stack import StackedTrainState
from fdfa_cli.training.state import TrainState
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines import batched
from fdfa_cli.trials.engines.base import Job, Outcome
from fdfa_cli.trials.engines.batched import LARGEST, Batched
from fdfa_cli.trials.engines.options import choose
from fdfa_cli.trials.engines.processes import Processes
from fdfa_cli.trials.engines.serial import Serial
from fdfa_cli.trials.engines.worker import train_job, train_stack
from fdfa_cli.trials.plan import Trial

SMALL = ("network.hidden=[12,9]", "training.epochs=2", "training.threads=1", "training.device=cpu")
CPU = torch.device("cpu")


def recipe(*overrides: str, seed: int = 0) -> Recipe:
    return read("digits/mlp", over((*SMALL, "data.limit=300", f"training.seed={seed}"), *overrides)).recipe


def varied(base: Recipe, factor: float, seed: int) -> Recipe:
    """`base` with another seed, learning rate and every float option of its rule."""
    real = {name: factor * value for name, value in base.rule if isinstance(value, float)}
    return base.model_copy(
        update={
            "rule": base.rule.model_copy(update=real),
            "optimizer": base.optimizer.model_copy(update={"lr": factor * base.optimizer.lr}),
            "training": base.training.model_copy(update={"seed": seed}),
        }
    )


def states(recipes: Sequence[Recipe]) -> tuple[list[TrainState], Any]:
    splits = recipes[0].data.load(data_root(), CPU)
    network = recipes[0].network.build(recipes[0].data.shape(), recipes[0].data.classes())
    return [TrainState(one, network, len(splits.train), CPU) for one in recipes], splits


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        yield from chain.from_iterable(leaves(value, f"{path}.{key}") for key, value in tree.items())
    else:
        yield path, tree


def assert_same(one: TrainState, other: TrainState, tolerance: float = 1e-3) -> None:
    """Everything that a checkpoint would hold.

    Tensors by the norm of their difference: a unit at the edge of its ReLU, or an error at zero whose sign
    is sent, falls to one side or the other by rounding, and single entries with it.
    """
    mine, theirs = dict(leaves(one.state_dict())), dict(leaves(other.state_dict()))
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            difference = (value - theirs[path]).norm()
            assert difference <= tolerance * value.norm() + 1e-5 * value.numel() ** 0.5, path
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[path]), path
        elif path != ".seconds":
            assert value == theirs[path], path


def advance(team: TrainState | StackedTrainState, train: Any, steps: int) -> None:
    """As the loop does: the states begin an epoch when they are at the end of one."""
    with torch.no_grad():
        for _ in range(steps):
            if team.position == team.steps:
                for state in team.states:
                    state.epoch += 1
                    state.begin_epoch()
            team.advance(train)
        team.settle()


def assert_stacked_as_alone(recipes: Sequence[Recipe], steps: int) -> None:
    alone, splits = states(recipes)
    together, _ = states(recipes)
    advance(StackedTrainState(together), splits.train, steps)
    for one, other in zip(alone, together, strict=True):
        advance(one, splits.train, steps)
        assert_same(one, other)


# --- a step ------------------------------------------------------------------------------------------------

#: Wider than fg-a-multi has tangents, whose projection is ill-conditioned otherwise.
MLP = "network={name: mlp, hidden: [32, 24], dropout: 0.2}"
CNN = "network={name: cnn, channels: [3, 4], kernels: [3], pools: [1, 2], hidden: [8]}"


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_comes_to_what_it_comes_to_alone(rule, network):
    """Three trials that differ in all that a stack lets differ, four steps; every tensor and optimizer."""
    base = recipe(network, f"rule={rule}", "optimizer={name: sgd, lr: 0.002, momentum: 0.9}")
    recipes = [varied(base, factor, seed) for factor, seed in ((1.0, 0), (0.8, 1), (0.6, 2))]
    assert groups(recipes) in ([[0, 1, 2]], [[2, 1, 0]])
    alone, splits = states(recipes)
    together, _ = states(recipes)
    stack = StackedTrainState(together)
    advance(stack, splits.train, 4)
    x, labels = splits.validation.batch(torch.arange(30)), splits.validation.labels[:30]
    with torch.no_grad():
        losses, correct = stack.score(x, labels)
    for k, state in enumerate(alone):
        advance(state, splits.train, 4)
        assert_same(state, together[k], 0.02)
        with torch.no_grad():
            loss, hits = state.score(x, labels)
        torch.testing.assert_close(losses[k], loss, rtol=1e-3, atol=1e-5)
        assert abs(int(correct[k] - hits)) <= 1
    # The trials are not each other's: a stack that mixed them up would be seen.
    for one, other in combinations(alone, 2):
        assert any((one.params[n] - other.params[n]).abs().max() > 1e-2 for n in one.params)


OPTIMIZERS = {
    "sgd": "optimizer={name: sgd, lr: 0.1}",
    "momentum": "optimizer={name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 0.01}",
    "nesterov": "optimizer={name: sgd, lr: 0.05, momentum: 0.8, nesterov: true}",
    "adam": "optimizer={name: adam, lr: 1e-3, betas: [0.8, 0.99], eps: 1e-4}",
    "decayed adam": "optimizer={name: adam, lr: 1e-3, weight_decay: 0.1, eps: 1e-4}",
    "adamw": "optimizer={name: adamw, lr: 1e-3, weight_decay: 0.3, eps: 1e-4}",
    "rmsprop": "optimizer={name: rmsprop, lr: 1e-3, alpha: 0.9, momentum: 0.5, eps: 1e-4}",
}
SCHEDULES = ("constant", "{name: exponential, gamma: 0.5}", "{name: cosine, warmup: 0.5}")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_trial_keeps_its_own_optimizer_and_schedule(schedule):
    """All optimizers in one stack, two trials of each, across the end of an epoch; slots and rates too."""
    settings = [
        (text, f"schedule={schedule}", f"training.epochs={epochs}")
        for text in OPTIMIZERS.values()
        for epochs in (2, 3)
    ]
    recipes = [recipe("network.norm=none", *own, seed=k) for k, own in enumerate(settings)]
    assert len(groups(recipes)) == 1
    assert_stacked_as_alone(recipes, 13)


def test_tensors_that_fill_no_register_move_to_the_same_digits():
    """Ten entries a trial: in rows of one tensor, the kernel would round other ones as its last."""
    recipes = [recipe("optimizer=adam", seed=k) for k in range(3)]
    alone, _ = states(recipes)
    together, _ = states(recipes)
    stack, shape = StackedTrainState(together), alone[0].params["out.linear.bias"].shape
    assert shape == (10,)
    loss, logits = torch.zeros(3), torch.zeros(3, 1, 10)
    for _ in range(20):
        grads = torch.randn(3, *shape)
        stack.apply(Update({"out.linear.bias": grads}, loss, logits))
        for one, grad in zip(alone, grads, strict=True):
            one.apply(Update({"out.linear.bias": grad}, loss[0], logits[0]))
    for one, other in zip(alone, together, strict=True):
        for slot, value in one.optimizer_states["weights"].slots["out.linear.bias"].items():
            assert torch.equal(value, other.optimizer_states["weights"].slots["out.linear.bias"][slot]), slot
        assert torch.equal(one.params["out.linear.bias"], other.params["out.linear.bias"])


def test_a_stack_takes_over_and_hands_back_in_the_middle():
    """Alone, then stacked, then another stack of fewer, then alone again: slots and streams go along."""
    recipes = [recipe("rule=fdfa", "network.dropout=0.1", f"optimizer={{name: adam, lr: {lr}, eps: 1e-3}}")
               for lr in (1e-3, 2e-3, 3e-3)]  # fmt: skip
    recipes = [varied(one, 1.0, seed) for seed, one in enumerate(recipes)]
    alone, splits = states(recipes)
    moved, _ = states(recipes)
    for one in moved:
        advance(one, splits.train, 2)
    advance(StackedTrainState(moved), splits.train, 3)
    advance(StackedTrainState(moved[1:]), splits.train, 3)
    advance(moved[2], splits.train, 4)
    for steps, one, other in zip((5, 8, 12), alone, moved, strict=True):
        advance(one, splits.train, steps)
        assert_same(one, other)


AUGMENTED = "data={name: digits, augment: [flip, crop], limit: 300}"


@pytest.mark.parametrize("rule", list(RULES))
def test_trials_of_one_seed_share_draws_and_come_to_what_each_comes_to_alone(rule):
    """Two of seed 0 that differ in what moves them, one with other options of its rule too, and seeds 1, 0.

    Every stream: order, augmentation, dropout, perturbations. Then the stack loses the one that drew.
    """
    base = recipe(MLP, AUGMENTED, f"rule={rule}", "optimizer={name: sgd, lr: 0.002, momentum: 0.9}")
    slower = base.model_copy(update={"optimizer": base.optimizer.model_copy(update={"lr": 0.001})})
    recipes = [base, slower, varied(base, 0.8, 0), varied(base, 1.0, 1), slower]
    alone, splits = states(recipes)
    together, _ = states(recipes)
    advance(StackedTrainState(together), splits.train, 3)
    advance(StackedTrainState(together[1:]), splits.train, 3)
    for k, (one, other) in enumerate(zip(alone, together, strict=True)):
        advance(one, splits.train, 6 if k else 3)
        assert_same(one, other, 0.02)


def test_what_trials_of_one_seed_share_is_drawn_once(monkeypatch):
    asked: list[torch.Generator] = []
    fill = Draw.fill
    monkeypatch.setattr(Draw, "fill", lambda *given: asked.append(given[2]) or fill(*given))
    recipes = [recipe("rule=fdfa", f"optimizer.lr={lr}", seed=seed) for lr in (1e-3, 2e-3) for seed in (0, 1)]
    together, splits = states(recipes)
    asked.clear()
    advance(StackedTrainState(together), splits.train, 1)
    perturbations = len(together[0].network.blocks)
    drawing = [state.streams["perturbation"] for state in together[:2]]
    assert asked == [generator for generator in drawing for _ in range(perturbations)]


class Jittered(Backprop):
    """Backprop on noisy inputs: what it draws depends on an option in which a stack's trials may differ."""

    noise: float

    def perturbations(self, network, batch_size, step):
        return {"x": Draw((batch_size, *network.shape), "gaussian", self.noise)}

    def step(self, s):
        return super().step(replace(s, batch=replace(s.batch, x=s.batch.x + s.perturbations["x"])))


def test_trials_whose_rules_draw_differently_share_nothing():
    base = recipe("optimizer={name: sgd, lr: 0.01}")
    recipes = [base.model_copy(update={"rule": Jittered(noise=noise)}) for noise in (0.1, 3.0)]
    assert_stacked_as_alone(recipes, 3)


# --- which trials, and how many ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (("training.seed=5",), True),
        (("training.epochs=7",), True),
        (("training.checkpoint_every=3",), True),
        (("optimizer={name: sgd, lr: 0.1}",), True),
        (("schedule=cosine",), True),
        (("rule.feedback_rate=0.5",), True),
        (("rule.feedback_optimizer=adam",), False),
        (("rule=fdfa-s",), False),
        (("rule={name: fdfa-s, perturb: all}",), False),
        (("rule={name: fdfa-s, share: [2]}",), False),
        (("rule=dfa",), False),
        (("network.hidden=[12,8]",), False),
        (("network.dropout=0.1",), False),
        (("data.split_seed=3",), False),
        (("data.limit=299",), False),
        (("training.batch_size=31",), False),
        (("training.loss=mse",), False),
        (("training.drop_last=true",), False),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_may_differ_in_a_stack(other, together):
    pair = [recipe("rule=fdfa"), recipe(*over(["rule=fdfa"], *other))]
    assert len(groups(pair)) == (1 if together else 2)


@pytest.mark.parametrize("own", ["training.precision=bf16", "diagnostics={every: 1}"])
def test_what_is_always_alone(own):
    assert len(groups([recipe(own, seed=1), recipe(own, seed=2)])) == 2


#: A plugin: an optimizer like LARS, whose step depends on the norms of a whole tensor and its gradient.
LARS = """
from typing import Literal

from fdfa_cli.optim.optimizers import OPTIMIZERS, Optimizer


@OPTIMIZERS.register
class Lars(Optimizer):
    name: Literal["lars"] = "lars"
    lr: float = 0.02

    @property
    def slot_count(self):
        return 0

    def init_slots(self, tensor):
        return {}

    def step(self, group, lr):
        for tensor, grad in zip(group.tensors, group.grads, strict=True):
            tensor.sub_(lr * (tensor.norm() + 0.1) / (grad.norm() + 1e-6) * grad)
"""


def test_optimizers_that_look_at_whole_tensors_are_not_stacked(monkeypatch, tmp_path):
    """Stacked, the norms would be those of all trials together, and every trial would be another one."""
    monkeypatch.chdir(tmp_path)
    Path("lars.py").write_text(LARS)
    found = {}
    for chosen in ("auto", "serial"):
        command = ["sweep", "digits/mlp", "optimizer=lars", *SMALL, "data.limit=300", "sweep.seeds=4"]
        command += ["sweep.parameters={optimizer.lr: {values: [0.01, 0.04]}}", "--plugin", "lars.py"]
        command += ["--engine", chosen, "--results", chosen, "--quiet"]
        subprocess.run([sys.executable, "-m", "fdfa_cli", *command], check=True)
        runs = [RunFolder.open(path.parent) for path in Path(chosen).rglob("run.json")]
        assert not any("stacked" in entry for one in runs for entry in one.record.provenance)
        found[chosen] = {one.record.facts["identity"]: figures(one.path) for one in runs}
    assert len(found["serial"]) == 8
    assert found["auto"] == found["serial"]


class Rooted(Backprop):
    """Backprop whose gradients an option scales that `math.sqrt` is asked of: it may be no tensor."""

    name: Literal["rooted"] = "rooted"
    scale: float = 4.0
    shared_options: ClassVar[frozenset[str]] = frozenset({"scale"})

    def step(self, s):
        update = super().step(s)
        return replace(update, grads={n: math.sqrt(self.scale) * g for n, g in update.grads.items()})


def test_options_that_may_be_no_tensors_are_shared_in_a_stack():
    base = recipe("optimizer={name: sgd, lr: 0.01}")
    recipes = [
        base.model_copy(
            update={
                "rule": Rooted(scale=scale),
                "training": base.training.model_copy(update={"seed": seed}),
            }
        )
        for scale in (4.0, 9.0)
        for seed in (0, 1)
    ]
    assert groups(recipes) == [[0, 1], [2, 3]]
    for group in groups(recipes):
        assert_stacked_as_alone([recipes[i] for i in group], 3)
    with pytest.raises(RuntimeError, match="vmap"):  # what `groups` keeps apart
        assert_stacked_as_alone(recipes, 1)


def trial(one: Recipe) -> Trial:
    return Trial(one, one.training.seed, identity(one))


def jobs(recipes: Sequence[Recipe], folder: Path) -> list[Job]:
    return [Job(trial(one), folder) for one in recipes]


def test_memory_and_jobs_cut_the_stacks(monkeypatch, tmp_path):
    some = jobs([recipe(seed=k) for k in range(40)], tmp_path)
    size = footprint.bytes_of(some[0].recipe)

    def heights(free: float, processes: int, largest: int | None = None) -> list[int]:
        monkeypatch.setattr(batched, "free_memory", lambda device: int(free))
        stacks = Batched(some, processes, largest=largest).stacks(some)
        assert sorted(job.identity for stack in stacks for job in stack) == sorted(j.identity for j in some)
        return [len(stack) for stack in stacks]

    plenty = 1e15
    assert heights(plenty, 1) == [40]
    assert heights(plenty, 2) == [20, 20]
    assert heights(plenty, 20) == [batched.SMALLEST] * (40 // batched.SMALLEST)
    assert heights(plenty, 1, largest=12) == [10] * 4
    assert heights(plenty, 1, largest=1) == [1] * 40
    assert heights(10.5 * size / batched.SHARE, 1) == [10] * 4
    assert heights(10.5 * size / batched.SHARE, 2) == [5] * 8  # each process has half of it
    assert heights(0, 1) == [1] * 40
    many = jobs([recipe(seed=k) for k in range(2 * LARGEST)], tmp_path)
    assert [len(stack) for stack in Batched(many, 1).stacks(many)] == [1] * 2 * LARGEST  # still no memory


def test_auto_stacks_what_it_pays_for(tmp_path):
    def chosen(*overrides: str, count: int = 8) -> object:
        some = jobs([recipe(*overrides, seed=k) for k in range(count)], tmp_path)
        return type(choose(EngineName.auto, some, 2, []))

    assert chosen() is Batched
    assert chosen(CNN) is Processes
    assert chosen("network.hidden=[800,800]") is Processes
    assert chosen(count=1) is Processes
    assert chosen("diagnostics={every: 1}") is Processes
    some = jobs([recipe(CNN, seed=k) for k in range(4)], tmp_path)
    assert isinstance(choose(EngineName.batched, some, 2, []), Batched)
    assert isinstance(choose(EngineName.serial, some, 2, []), Serial)


# --- runs --------------------------------------------------------------------------------------------------


def figures(path: Path | None) -> list[dict[str, float]]:
    assert path is not None
    rows = RunFolder.open(path).metrics()
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


def assert_same_figures(one: Path | None, other: Path | None) -> None:
    """Losses to rounding; an accuracy may differ by a sample or two whose logits tie."""
    mine, theirs = figures(one), figures(other)
    assert [row.keys() for row in mine] == [row.keys() for row in theirs]
    for a, b in zip(mine, theirs, strict=True):
        for key, value in a.items():
            if value is None:
                assert b[key] is None, key
            else:
                slack = {"abs": 0.011} if key.endswith("accuracy") else {"rel": 2e-3}
                assert b[key] == pytest.approx(value, **slack), key


def alone(job: Job) -> Outcome:
    return train_job(job, lambda: False, 1)


def by_seed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.job.recipe.training.seed)


#: Without batch norm no bias has a gradient of nothing but rounding, which Adam would blow up.
STEADY = ("network.norm=none", "rule=fdfa", "optimizer={name: adam, lr: 1e-3, eps: 1e-4}")


def test_runs_are_those_that_each_trains_alone(tmp_path):
    recipes = [recipe(*STEADY, f"training.epochs={2 + k % 2}", seed=k) for k in range(4)]
    together = list(train_stack(jobs(recipes, tmp_path / "stacked"), lambda: False, 4))
    assert [outcome.job.recipe.training.epochs for outcome in together] == [2, 2, 3, 3]  # as they end
    for outcome, job in zip(by_seed(together), jobs(recipes, tmp_path / "alone"), strict=True):
        single = alone(job)
        assert (outcome.status, outcome.error) == (single.status, single.error) == ("completed", None)
        assert_same_figures(outcome.run, single.run)
        mine, theirs = (RunFolder.open(o.run).record for o in (outcome, single) if o.run)
        assert mine.summary.keys() == theirs.summary.keys()
        assert mine.summary["test_accuracy"] == pytest.approx(theirs.summary["test_accuracy"], abs=0.006)
        assert (mine.provenance[0]["workers"], mine.provenance[0]["stacked"]) == (4, 4)
        checkpoints = [o.run / "checkpoint.pt" for o in (outcome, single) if o.run]
        sizes = [file.stat().st_size for file in checkpoints]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.02)  # its own rows, not the stack


@pytest.mark.parametrize("batch", [8, 2], ids=["seen at the end of the epoch", "seen within the epoch"])
def test_a_diverging_trial_disturbs_no_other(tmp_path, batch):
    recipes = [
        recipe(
            "network.norm=none", f"training.batch_size={batch}", f"optimizer={{name: sgd, lr: {lr}}}", seed=k
        )
        for k, lr in enumerate((0.01, 1e30, 0.02))
    ]
    together = by_seed(list(train_stack(jobs(recipes, tmp_path / "stacked"), lambda: False, 3)))
    singles = [alone(job) for job in jobs(recipes, tmp_path / "alone")]
    assert (
        [o.status for o in together] == [o.status for o in singles] == ["completed", "diverged", "completed"]
    )
    assert together[1].error == singles[1].error == "the training loss is not finite in epoch 1"
    # Where it stopped. What it got right until then is chaotic: rounding, which kernels decide, is blown up
    # by a rate of 1e30.
    for outcome in (together[1], singles[1]):
        rows = [(row["epoch"], row["train_loss"], row["lr"]) for row in figures(outcome.run)]
        assert rows == [(1, None, 1e30)]
    for outcome, single in zip(together[::2], singles[::2], strict=True):
        assert_same_figures(outcome.run, single.run)


@pytest.mark.parametrize("first", ["stacked", "alone"])
@pytest.mark.parametrize("steps", [3, 14])
def test_what_one_engine_stops_another_goes_on_with(tmp_path, first, steps):
    """Stopped after so many steps (10 an epoch), at a different place each when alone; then the other way."""
    recipes = [recipe(*STEADY, "training.epochs=3", "training.batch_size=30", seed=k) for k in range(3)]
    whole = [alone(job) for job in jobs(recipes, tmp_path / "whole")]
    some = jobs(recipes, tmp_path / first)

    def stop_after(count: int) -> Any:
        asked = iter(range(10**9))
        return lambda: next(asked) >= count

    if first == "stacked":
        with pytest.raises(Interrupted, match="interrupted in epoch"):
            list(train_stack(some, stop_after(steps), 3))
    else:
        for k, job in enumerate(some):
            with pytest.raises(Interrupted):
                train_job(job, stop_after(steps + 2 * k), 1)
    runs = {run.record.facts["identity"]: run for run in map(RunFolder.open, (tmp_path / first).iterdir())}
    assert {run.status for run in runs.values()} == {"interrupted"}
    on = [replace(job, run=runs[job.identity].path) for job in some]
    ended = [alone(j) for j in on] if first == "stacked" else list(train_stack(on, lambda: False, 3))
    for outcome, single in zip(by_seed(ended), whole, strict=True):
        assert outcome.status == "completed"
        assert_same_figures(outcome.run, single.run)


def test_closing_early_checkpoints_those_that_train_on(tmp_path):
    recipes = [recipe(*STEADY, f"training.epochs={epochs}", seed=epochs) for epochs in (1, 3, 3)]
    outcomes = train_stack(jobs(recipes, tmp_path), lambda: False, 3)
    assert next(outcomes).status == "completed"
    outcomes.close()
    runs = [RunFolder.open(path) for path in tmp_path.iterdir()]
    assert sorted(run.status for run in runs) == ["completed", "interrupted", "interrupted"]
    assert all(torch.load(run.checkpoint, weights_only=True)["epoch"] == 1 for run in runs)


def test_a_pause_is_an_outcome(tmp_path):
    some = [Job(trial(one), tmp_path, until=1) for one in (recipe(*STEADY, seed=k) for k in range(2))]
    outcomes = list(train_stack(some, lambda: False, 2))
    assert [(outcome.status, len(figures(outcome.run))) for outcome in outcomes] == [("interrupted", 1)] * 2


def test_one_that_cannot_be_stored_fails_alone(tmp_path):
    """Its metrics are unreadable when it ends; the others do not notice."""
    recipes = [recipe(*STEADY, "training.epochs=1", seed=k) for k in range(3)]
    some = jobs(recipes, tmp_path)

    def damage() -> bool:
        for path in tmp_path.glob("2*"):
            if RunFolder.open(path).record.facts["seed"] == 1:
                (path / "recipe.yaml").exists() and (path / "checkpoint.pt").mkdir(exist_ok=True)
        return False

    outcomes = by_seed(list(train_stack(some, damage, 3)))
    assert [outcome.status for outcome in outcomes] == ["completed", "failed", "completed"]
    assert "checkpoint.pt" in str(outcomes[1].error)


def test_a_step_that_cannot_be_stacked_fails_with_its_reason(tmp_path, monkeypatch):
    step = Backprop.step

    def branching(self: Any, s: Any) -> Any:
        if s.params["out.linear.bias"].sum() > 1e9:
            raise AssertionError
        return step(self, s)

    monkeypatch.setattr(Backprop, "step", branching)
    outcomes = list(train_stack(jobs([recipe(seed=k) for k in range(2)], tmp_path), lambda: False, 2))
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert "data-dependent control flow" in str(outcomes[0].error)
    assert alone(jobs([recipe(seed=3)], tmp_path)[0]).status == "completed"


def test_the_channels_of_all_trials_lie_side_by_side_without_being_copied():
    x = torch.randn(3, 1, 4, 5)
    channels = vmap_rules._channels(x, 0, 3)
    assert channels.shape == (1, 12, 5)
    assert channels.data_ptr() == x.data_ptr()
    torch.testing.assert_close(vmap_rules._trials(channels, 3), x, rtol=0, atol=0)
