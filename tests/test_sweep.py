"""Sweeps: the same trials whoever trains them and however often they are stopped; failures in the open."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from fdfa_cli.cli import run as fdfa
from fdfa_cli.document.load import parse
from fdfa_cli.errors import Interrupted, RecipeError, UsageError
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import read, resolve
from fdfa_cli.recipe.sweep import Prune, Space, random
from fdfa_cli.recipe.write import identity
from fdfa_cli.rules.backprop import Backprop
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.sweeps.plan import plan_sweep
from fdfa_cli.sweeps.prune import survivors
from fdfa_cli.sweeps.run import train
from fdfa_cli.sweeps.search import sobol
from fdfa_cli.trials import store as store_module
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines import processes
from fdfa_cli.trials.engines.base import Job, Outcome, Stop
from fdfa_cli.trials.engines.batched import Batched
from fdfa_cli.trials.engines.options import EngineOptions, choose
from fdfa_cli.trials.engines.processes import Processes
from fdfa_cli.trials.engines.serial import Serial
from fdfa_cli.trials.progress import Tally, describe, time_left
from fdfa_cli.trials.runner import Runner
from fdfa_cli.trials.store import open_store

BASE = """\
data: {name: digits, limit: 200}
network: {name: mlp, hidden: [8]}
rule: bp
optimizer: {name: sgd, lr: 0.1}
training: {epochs: 2, batch_size: 50, device: cpu}
sweep:
"""
GRID = "  seeds: 2\n  parameters:\n    optimizer.lr: {values: [0.01, 0.1]}\n"


def recipe(folder: Path, section: str = GRID, base: str = BASE) -> Path:
    file = folder / "small.yaml"
    file.write_text(base + section)
    return file


def planned(section: str) -> Any:
    return plan_sweep(parse((BASE + section).encode(), "r.yaml"))


def trials(section: str) -> list[tuple[dict[str, Any], int]]:
    return [(dict(c.overrides), t.seed) for c in planned(section).configurations for t in c.trials]


def store(results: Path) -> dict[str, Any]:
    """Everything that a sweep leaves, but clocks, paths and who wrote it: by identity."""
    found = scan([results])
    assert not found.damaged
    content = {}
    for one in found.runs:
        rows = [{k: v for k, v in r.items() if not k.endswith("_seconds")} for r in one.metrics()]
        scores = {k: v for k, v in one.record.summary.items() if k.startswith(("test_", "best_"))}
        key = one.record.facts["identity"]
        assert key not in content, "a trial was trained twice"
        content[key] = (one.status, one.record.error, rows, scores)
    return content


def swept(file: Path, results: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = fdfa(["sweep", str(file), "--results", str(results), *arguments])
    return code, store(results)


# ------------------------------------------------------------------------------------------ spaces


@pytest.mark.parametrize(
    ("space", "listed"),
    [
        (Space(values=(1, "a", (2, 3))), (1, "a", (2, 3))),
        (Space(low=1, high=7, step=2), (1, 3, 5, 7)),
        (Space(low=1, high=6, step=2), (1, 3, 5)),
        (Space(low=0.1, high=0.5, step=0.1), (0.1, 0.2, 0.3, 0.4, 0.5)),
        (Space(low=0.1, high=0.5), None),
    ],
)
def test_listed_values_of_a_space(space, listed):
    assert space.listed == listed


@pytest.mark.parametrize(
    ("space", "cumulative"),
    [
        (Space(low=2.0, high=6.0), lambda x: (x - 2) / 4),
        (Space(low=1e-4, high=1.0, log=True), lambda x: 1 + math.log10(x) / 4),
    ],
)
def test_a_range_maps_uniform_points_to_its_law(space, cumulative):
    for i in range(101):
        assert cumulative(space.at(i / 101)) == pytest.approx(i / 101, abs=1e-5)


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (Space(values=("a", "b", "c")), ["a", "b", "c"]),
        (Space(low=1, high=4), [1, 2, 3, 4]),
        (Space(low=0.0, high=1.0, step=0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_finitely_many_values_share_the_points_equally(space, values):
    n = 60 * len(values)
    assert Counter(space.at((i + 0.5) / n) for i in range(n)) == dict.fromkeys(values, 60)
    assert space.at(0.0) == values[0]
    assert space.at(math.nextafter(1, 0)) == values[-1]


def test_a_logarithmic_range_of_whole_numbers_keeps_to_its_ends():
    values = [Space(low=1, high=100, log=True).at(i / 1000) for i in range(1000)]
    assert (min(values), max(values)) == (1, 100)
    assert all(isinstance(value, int) for value in values)
    assert values == sorted(values)


# ------------------------------------------------------------------------------------------ trials


def test_a_grid_is_every_combination_under_every_seed():
    section = "  seeds: [3, 5]\n  parameters:\n    optimizer.lr: {values: [0.1, 0.2]}\n" + (
        "    network.hidden: {values: [[4], [8, 8]]}\n"
    )
    expected = [
        ({"optimizer.lr": lr, "network.hidden": hidden}, seed)
        for lr in (0.1, 0.2)
        for hidden in ([4], [8, 8])
        for seed in (3, 5)
    ]
    assert trials(section) == expected


def test_a_trial_is_what_train_makes_of_its_overrides(tmp_path):
    file = recipe(tmp_path, "  parameters: {rule: {values: [dfa, {name: fdfa, feedback_rate: 0.1}]}}\n")
    configurations = plan_sweep(parse(file.read_bytes(), "r")).configurations
    for configuration, override in zip(
        configurations, ["rule=dfa", "rule={name: fdfa, feedback_rate: 0.1}"], strict=True
    ):
        assert configuration.trials[0].identity == identity(read(str(file), [override]).recipe)


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_more_trials_keep_the_first_ones(kind):
    def drawn(count: int, seed: int = 0) -> list[Any]:
        parameters = (
            "{optimizer.lr: {low: 1e-4, high: 1, log: true}, training.batch_size: {low: 8, high: 64}}"
        )
        return trials(f"  search: {kind}\n  trials: {count}\n  seed: {seed}\n  parameters: {parameters}\n")

    longest = drawn(13)
    assert len({json.dumps(overrides) for overrides, _ in longest}) == 13
    for count in (1, 2, 5, 8, 12):
        assert drawn(count) == longest[:count]
    assert drawn(13, seed=1) != longest


def test_sobol_is_spread_more_evenly_than_chance():
    # 16 points of a (0, m, 2)-net put one in each cell of a 4×4 grid; 16 random ones do with 1e-6
    spaces = {"a": Space(low=0.0, high=1.0), "b": Space(low=0.0, high=1.0)}
    points = sobol.points(spaces, 0, 16)
    assert len({(int(4 * p["a"]), int(4 * p["b"])) for p in points}) == 16


def test_a_parameter_more_leaves_the_other_draws_alone():
    one = {"optimizer.lr": Space(low=0.0, high=1.0)}
    two = {"network.dropout": Space(low=0.0, high=1.0), **one}
    assert random(one, 0, 4)["optimizer.lr"] == random(two, 0, 4)["optimizer.lr"]


def test_draws_that_agree_are_one_configuration():
    section = "  search: random\n  trials: 20\n  parameters: {optimizer.lr: {values: [0.1, 0.2]}}\n"
    assert len(trials(section)) == 2


MALFORMED = {
    "  parameters: {optimizer.lr: {low: 1, high: 1}}": ("7:16", "low (1) must be below high (1)"),
    "  parameters: {optimizer.lr: {low: 0, high: 1, log: true}}": ("7:16", "low above 0"),
    "  parameters: {optimizer.lr: {low: 0, high: 1}}": ("7:16", "a grid needs values"),
    "  parameters: {optimizer.lr: {low: 1}}": ("7:16", "low and high"),
    "  parameters: {optimizer.lr: {values: [1], low: 1}}": ("7:16", "either values"),
    "  parameters: {optimizer.lr: {low: 0, high: 1, step: 1e-9}}": ("7:16", "more than 100000"),
    "  parameters: {optimizer.lr: {values: []}}": ("7:39", "at least 1"),
    "  parameters: {optimizer.lr: {value: [1]}}": ("7:31", "did you mean 'values'"),
    "  parameters: {optimizer.lrr: {values: [1]}}": ("7:41", "did you mean 'lr'"),
    "  parameters: {optimiser.lr: {values: [1]}}": ("7:40", "did you mean 'optimizer'"),
    "  parameters: {optimizer.lr: {values: [0.1, fast]}}": ("7:45", "must be a number, not the text 'fast'"),
    "  parameters: {network.hidden: {values: [8]}}": ("7:42", "must be a list"),
    "  parameters: {network.hidden.size: {values: [8]}}": ("7:47", "has no key 'size'"),
    "  parameters: {rule: {values: [fdaf]}}": ("7:32", "did you mean 'fdfa'"),
    "  parameters: {training.seed: {values: [1, 2]}}": ("7:16", "list the seeds"),
    "  parameters: {training.threads: {values: [1, 2]}}": ("7:16", "changes where a run computes"),
    "  parameters: {sweep.seed: {values: [1, 2]}}": ("7:16", "no part of a single run"),
    "  parameters: {}": ("7:3", "sweep.parameters: is empty"),
    "  search: random\n  trials: 0\n  parameters: {optimizer.lr: {values: [1]}}": ("8:11", "at least 1"),
    "  search: random\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:11",
        "sweep.search: random needs trials",
    ),
    "  trials: 3\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:11",
        "sweep.trials: a grid trains every combination",
    ),
    "  search: tree\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:11",
        "'grid', 'random', 'sobol' or 'tpe'",
    ),
    "  metric: test_accuracy\n  parameters: {optimizer.lr: {values: [1]}}": ("7:11", "never of test data"),
    "  prune: medain\n  parameters: {optimizer.lr: {values: [1]}}": ("7:10", "did you mean 'median'"),
    "  prune: 3\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:10",
        "must be a mapping of options, not 3",
    ),
    "  seeds: [1, 1]\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:10",
        "sweep.seeds: a seed is given twice",
    ),
    "  seeds: 0\n  parameters: {optimizer.lr: {values: [1]}}": ("7:10", "at least 1"),
    "  seeds: 100000\n  parameters: {optimizer.lr: {values: [1, 2]}}": ("6:1", "more than the 100000"),
}


@pytest.mark.parametrize("section", MALFORMED)
def test_a_malformed_space_is_located_and_nothing_starts(section, tmp_path, capsys):
    place, message = MALFORMED[section]
    file = recipe(tmp_path, section + "\n")
    assert fdfa(["sweep", str(file), "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert f"{file}:{place}: " in error
    assert message in error
    assert not (tmp_path / "results").exists()
    assert fdfa(["recipe", "check", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"{file}:{place}: ")


def test_all_that_is_wrong_is_reported_once(tmp_path, capsys):
    section = "  seeds: 3\n  parameters: {optimizer.lr: {values: [fast, slow]}, rule: {values: [bp, fdaf]}}\n"
    assert fdfa(["sweep", str(recipe(tmp_path, section))]) == 2
    error = capsys.readouterr().err
    assert [error.count(word) for word in ("'fast'", "'slow'", "'fdaf'")] == [1, 1, 1]


@pytest.mark.parametrize("override", ["optimizer.lr.values=[0.5, 0.3]", "optimizer.lr={values: [0.5, 0.3]}"])
def test_a_parameter_of_the_space_is_overridden_by_its_dotted_key(override):
    document = apply(parse((BASE + GRID).encode(), "r.yaml"), [f"sweep.parameters.{override}"])
    (space,) = plan_sweep(document).sweep.parameters.values()
    assert list(space.values) == [0.5, 0.3]


def test_what_is_wrong_in_such_an_override_is_said_of_the_override():
    document = apply(parse((BASE + GRID).encode(), "r.yaml"), ["sweep.parameters.optimizer.lr.valuse=[1]"])
    with pytest.raises(
        RecipeError, match=r"override 'sweep\.parameters\.optimizer\.lr\.valuse=\[1\]'.*'values'"
    ):
        plan_sweep(document)


def test_metrics_of_validation_need_a_validation_set(tmp_path, capsys):
    assert fdfa(["sweep", str(recipe(tmp_path)), "data.validation=0"]) == 2
    assert "data.validation is 0" in capsys.readouterr().err


def test_a_recipe_without_the_section_says_so(capsys):
    assert fdfa(["sweep", "digits/mlp"]) == 2
    assert "no section sweep" in capsys.readouterr().err


def test_the_shipped_sweep_has_16_trials_or_more(capsys, tmp_path):
    assert fdfa(["sweep", "digits/sweep", "--dry-run", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "trial"
    assert len(lines) - 2 >= 16
    assert len({line.split()[-2] for line in lines[1:-1]}) == len(lines) - 2  # identities
    assert not list(tmp_path.iterdir())


def test_a_single_training_of_a_sweeps_recipe_knows_nothing_of_the_sweep(tmp_path):
    whole, single = read(str(recipe(tmp_path))), read(str(recipe(tmp_path, base=BASE)), ["sweep=null"])
    assert identity(whole.recipe) == identity(single.recipe)


# ------------------------------------------------------------------------------------------ pruning


@pytest.mark.parametrize(
    ("scores", "prune", "kept"),
    [
        ([0.1, 0.5, 0.3, 0.9], Prune(rule="median"), [1, 3]),
        ([0.1, 0.5, 0.3], Prune(rule="median"), [1, 2]),
        ([0.4, 0.4, 0.4], Prune(rule="median"), [0, 1, 2]),
        ([None, None, None, 0.2], Prune(rule="median"), [3]),
        ([0.1, 0.5, 0.3, 0.9], Prune(rule="halving", factor=2), [1, 3]),
        ([0.1, 0.5, 0.3, 0.9], Prune(rule="halving", factor=3), [1, 3]),
        ([0.1, 0.5, 0.3, 0.9], Prune(rule="halving", factor=4), [3]),
        ([0.5, 0.5, 0.5], Prune(rule="halving", factor=3), [0]),
        ([None, 0.1, None], Prune(rule="halving", factor=2), [1]),
        ([None, None], Prune(rule="halving", factor=2), []),
    ],
)
def test_survivors(scores, prune, kept):
    assert survivors(scores, prune) == kept


def test_rungs_grow_by_the_factor_and_stay_below_the_end():
    assert list(Prune(rule="halving", first=1, factor=3).rungs(27)) == [1, 3, 9]
    assert list(Prune(rule="halving", first=2, factor=2).rungs(3)) == [2]
    assert list(Prune(rule="halving").rungs(1)) == []


@pytest.mark.parametrize("overrides", [(), ("sweep.prune.factor=2",)])
def test_the_rule_s_name_alone_prunes_with_its_defaults(overrides):
    section = "  prune: {form}\n  parameters: {{optimizer.lr: {{values: [1]}}}}\n"
    alone, whole = (
        resolve(apply(parse((BASE + section.format(form=form)).encode(), "r.yaml"), overrides)).recipe.sweep
        for form in ("halving", "{rule: halving}")
    )
    assert alone == whole
    assert alone.prune == Prune(rule="halving", **({"factor": 2} if overrides else {}))


PRUNED = (
    "  seeds: 2\n  prune: {rule: halving, first: 1, factor: 2}\n"
    "  parameters: {optimizer.lr: {values: [0.0001, 0.2, 0.05, 0.001]}}\n"
)
FOUR = BASE.replace("epochs: 2", "epochs: 4")


def test_halving_trains_each_rung_to_its_epoch_and_judges_by_the_mean_over_seeds(tmp_path):
    code, content = swept(recipe(tmp_path, PRUNED, FOUR), tmp_path / "results", "--engine", "serial")
    assert code == 0
    epochs = Counter((status, len(rows)) for status, _, rows, _ in content.values())
    # 4 configurations at epoch 1, 2 at epoch 2, 1 to the end, each with both of its seeds
    assert epochs == {("pruned", 1): 4, ("pruned", 2): 2, ("completed", 4): 2}
    small = plan_sweep(parse((FOUR + PRUNED).encode(), "r"))
    at_one = {
        c.number: sum(content[t.identity][2][0]["val_accuracy"] for t in c.trials)
        for c in small.configurations
    }
    through = {c.number for c in small.configurations if len(content[c.trials[0].identity][2]) > 1}
    assert through == set(sorted(at_one, key=lambda n: -at_one[n])[:2])


# ------------------------------------------------------------------------- stopping and going on


class Stopping:
    """An engine that is interrupted after so many outcomes, of all the jobs it is ever given."""

    workers = 1

    def __init__(self, after: int) -> None:
        self.left = after

    def run(self, jobs: Sequence[Job], stop: Stop) -> Iterator[Outcome]:
        for outcome in Serial().run(jobs, stop):
            yield outcome
            self.left -= 1
            if not self.left:
                raise Interrupted("here")


@pytest.mark.parametrize(("section", "base"), [(GRID, BASE), (PRUNED, FOUR)], ids=["grid", "pruned"])
def test_interrupted_after_any_trial_it_ends_as_if_never_stopped(section, base, tmp_path):
    sweep = plan_sweep(parse((base + section).encode(), "r"))

    def go(folder: Path, engine: Any) -> None:
        with open_store(folder) as content:
            train(sweep, Runner(content, lambda jobs: engine))

    go(tmp_path / "whole", Serial())
    whole = store(tmp_path / "whole")
    for after in range(1, len(whole), 3):
        folder = tmp_path / f"stopped{after}"
        with pytest.raises(Interrupted):
            go(folder, Stopping(after))
        go(folder, Serial())
        assert store(folder) == whole


def stopped(
    number: signal.Signals, file: Path, results: Path, engine: str, lines: int, *arguments: str
) -> tuple[int, str]:
    """Start a sweep in a process group of its own, and signal it once it has reported so many trials.

    Ctrl-C goes to the whole group, as from a terminal. Returns the exit code and the rest of stderr.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--results", str(results)]
    process = subprocess.Popen(
        [*command, "--engine", engine, "--jobs", "2", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stderr is not None
    for _ in range(lines + 1):
        process.stderr.readline()
    if number is signal.SIGINT:
        while not any(log.stat().st_size for log in results.glob("*/2*/metrics.jsonl")):
            time.sleep(0.1)  # until a worker is in the middle of training
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    with process.stderr:  # ends when the workers, who share it, have ended too
        rest = process.stderr.read()
    return process.wait(), rest


@pytest.mark.parametrize("engine", ["processes", "batched"])
def test_ctrl_c_checkpoints_the_workers_and_says_how_to_go_on(tmp_path, engine):
    file = recipe(tmp_path, GRID, BASE.replace("epochs: 2", "epochs: 5000"))
    code, error = stopped(signal.SIGINT, file, tmp_path / "results", engine, 0)
    assert code == 130
    assert error == "fdfa: interrupted; what is done is stored: start the same command again to go on\n"
    assert {status for status, *_ in store(tmp_path / "results").values()} == {"interrupted"}


def test_processes_give_what_serial_gives(tmp_path, capsys):
    file = recipe(tmp_path)
    one = swept(file, tmp_path / "serial", "--engine", "serial")
    first = capsys.readouterr().out.splitlines()
    other = swept(file, tmp_path / "processes", "--engine", "processes", "--jobs", "2")
    second = capsys.readouterr().out.splitlines()
    assert one == other
    assert first[:-1] == second[:-1]
    assert Path(first[-1]).relative_to(tmp_path / "serial") == Path(second[-1]).relative_to(
        tmp_path / "processes"
    )
    assert (Path(first[-1]) / "sweep.json").read_text() == (Path(second[-1]) / "sweep.json").read_text()


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same trials with the same ends; losses to rounding, accuracies to a sample or two that tie."""
    assert one.keys() == other.keys()
    for key, (status, error, rows, scores) in one.items():
        theirs = other[key]
        assert (status, error, len(rows)) == (theirs[0], theirs[1], len(theirs[2]))
        for mine, yours in zip([*rows, scores], [*theirs[2], theirs[3]], strict=True):
            assert mine.keys() == yours.keys()
            for name, value in mine.items():
                slack = {"abs": 0.021} if "accuracy" in name else {"rel": 1e-3}
                assert (
                    value is None or name == "best_val_epoch" or yours[name] == pytest.approx(value, **slack)
                )


@pytest.fixture
def one_core(monkeypatch):
    """Stacks train in this process: a worker's start costs more than all of a small sweep."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})


@pytest.mark.parametrize(
    ("section", "base"),
    [
        ("  seeds: 3\n  parameters: {optimizer.lr: {values: [0.1, 1e30, 0.02]}}\n", BASE),
        (
            "  seeds: 2\n  parameters: {rule: {values: [bp, fdfa]}, optimizer.lr: {values: [0.1, 0.02]}}\n",
            BASE,
        ),
        (PRUNED, FOUR),
    ],
    ids=["one diverges", "two rules", "pruned"],
)
def test_batched_gives_what_serial_gives_to_rounding(tmp_path, one_core, section, base):
    file = recipe(tmp_path, section, base)
    code, one = swept(file, tmp_path / "serial", "--engine", "serial")
    assert swept(file, tmp_path / "batched", "--engine", "batched", "--jobs", "3")[0] == code
    assert_alike(one, store(tmp_path / "batched"))
    stored = [json.loads(f.read_text())["provenance"][-1] for f in tmp_path.glob("batched/*/*/run.json")]
    assert any("stacked" in entry for entry in stored)
    winners = [json.loads(next(tmp_path.glob(f"{e}/*/sweep.json")).read_text())["winner"]
               for e in ("serial", "batched")]  # fmt: skip
    assert winners[0] == winners[1]


@pytest.mark.slow
def test_batched_killed_at_any_moment_ends_as_if_never_stopped(tmp_path):
    """The stack that goes on then finds trials at different places."""
    section = "  seeds: 4\n  parameters: {optimizer.lr: {values: [0.02]}}\n"
    file = recipe(tmp_path, section, BASE.replace("epochs: 2", "epochs: 20"))
    _, whole = swept(file, tmp_path / "whole", "--engine", "serial")
    results = tmp_path / "killed"
    command = [sys.executable, "-m", "fdfa_cli", "sweep", str(file), "--results", str(results), "--quiet"]
    for rows in (1, 30):
        process = subprocess.Popen([*command, "--engine", "batched"], stdout=subprocess.DEVNULL)
        while sum(f.read_bytes().count(b"\n") for f in results.glob("*/2*/metrics.jsonl")) < rows:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
    swept(file, results, "--engine", "batched")
    assert_alike(whole, store(results))


def test_compare_trains_stacked_when_asked_and_says_that_times_are_not_compared(tmp_path, capsys, one_core):
    file = recipe(tmp_path, "", BASE.replace("sweep:\n", ""))
    arguments = ["compare", str(file), "--rules", "bp,dfa", "--seeds", "3", "--engine", "batched"]
    assert fdfa([*arguments, "--results", str(tmp_path / "results")]) == 0
    assert "not compared" in capsys.readouterr().out
    assert len(store(tmp_path / "results")) == 6


ENLARGED = [
    "  seeds: 1\n  parameters: {optimizer.lr: {values: [0.01]}}\n",
    "  seeds: 2\n  parameters: {optimizer.lr: {values: [0.01]}}\n",
    "  seeds: 2\n  parameters: {optimizer.lr: {values: [0.1, 0.01]}}\n",
    "  seeds: 2\n  parameters: {optimizer.lr: {values: [0.1, 0.01]}, rule: {values: [bp, dfa]}}\n",
]


def test_enlarging_trains_only_what_is_new(tmp_path):
    results = tmp_path / "results"
    written: list[dict[Path, int]] = []
    for section, count in zip(ENLARGED, (1, 2, 4, 8), strict=True):
        code, content = swept(recipe(tmp_path, section), results, "--engine", "serial", "training.epochs=1")
        assert code == 0
        assert len(content) == count
        written.append({file: file.stat().st_mtime_ns for file in results.glob("*/*/run.json")})
    for before, after in pairwise(written):
        assert before.items() <= after.items()


def test_two_processes_do_not_share_a_sweep(tmp_path):
    with (
        open_store(tmp_path / "s"),
        pytest.raises(UsageError, match="another process"),
        open_store(tmp_path / "s"),
    ):
        pass


# ------------------------------------------------------------------------------ what goes wrong


def test_a_diverging_trial_is_shown_counted_and_in_the_exit_code(tmp_path, capsys):
    section = "  seeds: 2\n  parameters: {optimizer.lr: {values: [1e30, 0.1]}}\n"
    code, content = swept(recipe(tmp_path, section), tmp_path / "results", "--engine", "serial")
    printed = capsys.readouterr()
    assert code == 1
    assert Counter(status for status, *_ in content.values()) == {"diverged": 2, "completed": 2}
    assert printed.err.count("diverged: the training loss is not finite") == 2
    heading, best, worst = printed.out.splitlines()[:3]
    assert heading.split()[-2:] == ["n", "diverged"]
    assert best.split()[1] == "0.1"
    assert worst.split()[1:] == ["1e+30", "-", "0", "2"]
    assert "2 completed, 2 diverged" in printed.out


@pytest.fixture
def failing(monkeypatch):
    """The trials of seed 1 fail, with a message that a terminal could take for markup."""
    from fdfa_cli.trials.engines import worker

    fit_together = worker.fit_together

    def fails(trainings: Any, *arguments: Any, **options: Any) -> Any:
        for training in trainings:
            if training.recipe.training.seed == 1:
                monkeypatch.setattr(training, "begin", failing)
        return fit_together(trainings, *arguments, **options)

    def failing(*arguments: Any) -> None:
        raise RuntimeError("[bold]out of luck[/bold]\x1b[2J")

    monkeypatch.setattr(worker, "fit_together", fails)


def test_a_failed_trial_is_shown_kept_counted_and_trained_again_when_asked(
    tmp_path, capsys, request, failing
):
    file, results = recipe(tmp_path), tmp_path / "results"
    code, content = swept(file, results, "--engine", "serial")
    printed = capsys.readouterr()
    assert code == 1
    assert Counter(status for status, *_ in content.values()) == {"failed": 2, "completed": 2}
    assert {error for status, error, *_ in content.values() if status == "failed"} == {
        "[bold]out of luck[/bold]\x1b[2J"
    }
    assert printed.err.count("[bold]out of luck[/bold]\\x1b[2J") == 2
    assert "no winner" in printed.out
    request.getfixturevalue("monkeypatch").undo()
    code, again = swept(file, results, "--engine", "serial")
    assert (code, again) == (1, content)  # a failure is not forgotten by starting again
    code, again = swept(file, results, "--engine", "serial", "--retry-failed")
    assert code == 0
    assert {status for status, *_ in again.values()} == {"completed"}


@pytest.mark.parametrize("engine", ["processes", "batched"])
def test_workers_that_fail_fast_stops_say_nothing(tmp_path, capfd, monkeypatch, engine):
    """They have told more than the driver, late as it is, still reads."""
    take = processes._Worker.take
    monkeypatch.setattr(processes._Worker, "take", lambda worker: time.sleep(0.5) or take(worker))
    section = "  seeds: 8\n  parameters: {optimizer.lr: {values: [0.001, 1e+30]}}\n"
    options = ("--engine", engine, "--jobs", "2", "--fail-fast", "--quiet")
    code, content = swept(recipe(tmp_path, section), tmp_path / "results", *options)
    assert code == 1
    assert "diverged" in {status for status, *_ in content.values()}
    errors = capfd.readouterr().err.splitlines()
    assert errors[-1] == "fdfa: --fail-fast: stopped at the first trial that diverged"
    assert all(line.startswith("[") for line in errors[:-1])


def test_fail_fast_stops_at_the_first(tmp_path, capsys, failing):
    code, content = swept(recipe(tmp_path), tmp_path / "results", "--engine", "serial", "--fail-fast")
    assert code == 1
    assert Counter(status for status, *_ in content.values()) == {"completed": 1, "failed": 1}
    assert "--fail-fast" in capsys.readouterr().err


def test_a_worker_that_is_killed_fails_its_trial_and_no_other(tmp_path):
    plugin = tmp_path / "deadly.py"
    plugin.write_text(
        "import os, signal\n"
        "from fdfa_cli.trials.engines import worker\n"
        "fit = worker.fit_together\n"
        "def deadly(trainings, *rest, **options):\n"
        "    if trainings[0].recipe.training.seed == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return fit(trainings, *rest, **options)\n"
        "worker.fit_together = deadly\n"
    )
    sweep = planned("  seeds: 3\n  parameters: {optimizer.lr: {values: [0.1]}}\n")
    with open_store(tmp_path / "s") as content:
        train(sweep, Runner(content, lambda jobs: Processes(1, plugins=[plugin])))
        results = [content.get(trial) for trial in sweep.trials]
    assert [result.status for result in results if result] == ["completed", "failed", "completed"]
    assert results[1] is not None
    assert "SIGKILL" in str(results[1].error)
    assert RunFolder.open(results[1].path).status == "failed"


# ------------------------------------------------------------------------------- what is chosen


def test_test_data_chooses_nothing(tmp_path, capsys):
    file, results = recipe(tmp_path), tmp_path / "results"
    swept(file, results, "--engine", "serial")
    honest = capsys.readouterr().out.splitlines()
    for index, path in enumerate(sorted(results.glob("*/*/run.json"))):  # every test accuracy is another
        record = json.loads(path.read_text())
        record["summary"]["test_accuracy"] = index / 10
        path.write_text(json.dumps(record))
    swept(file, results, "--engine", "serial")
    poisoned = capsys.readouterr().out.splitlines()
    differing = [pair for pair in zip(honest, poisoned, strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1  # the winner's score, reported once
    assert differing[0][0].startswith("winner: ")


def test_the_winner_is_best_by_the_mean_over_seeds_and_its_command_trains_it(tmp_path, capsys):
    file, results = recipe(tmp_path), tmp_path / "results"
    _, content = swept(file, results, "training.batch_size=40", "sweep.seeds=2", "--engine", "serial")
    *_, command, folder = capsys.readouterr().out.splitlines()
    stored = json.loads((Path(folder) / "sweep.json").read_text())
    means = {
        c["number"]: sum(content[r["identity"]][2][-1]["val_accuracy"] for r in c["runs"]) / 2
        for c in stored["configurations"]
    }
    assert [c["mean"] for c in stored["configurations"]] == sorted(means.values(), reverse=True)
    assert means[stored["winner"]] == max(means.values())
    program, verb, name, *overrides = shlex.split(command)
    assert (program, verb) == ("fdfa", "train")
    best = stored["configurations"][0]["runs"][0]
    assert identity(read(name, overrides).recipe) == best["identity"]


def test_a_metric_to_minimize_puts_the_smallest_first(tmp_path):
    section = "  metric: val_loss\n  parameters: {optimizer.lr: {values: [0.001, 0.1]}}\n"
    results = tmp_path / "results"
    _, content = swept(recipe(tmp_path, section), results, "--engine", "serial")
    stored = json.loads(next(results.glob("*/sweep.json")).read_text())
    losses = [content[c["runs"][0]["identity"]][2][-1]["val_loss"] for c in stored["configurations"]]
    assert losses == sorted(losses)
    assert losses[0] < losses[1]


def test_best_so_far_follows_the_mean():
    tally = Tally(4)
    tally.score("a", 0.9)
    tally.score("b", 0.8)
    assert tally.best == (0.9, "a")
    tally.score("a", 0.5)
    assert tally.best == (0.8, "b")


@pytest.mark.parametrize(
    ("name", "jobs", "expected"),
    [
        (EngineName.serial, 8, Serial),
        (EngineName.processes, 3, Processes),
        (EngineName.auto, 1, Serial),
        (EngineName.auto, 3, Batched),
    ],
)
def test_choice_of_an_engine(name, jobs, expected):
    small = planned(GRID)
    work = [Job(t, Path("x")) for t in small.trials]
    assert isinstance(choose(name, work, jobs, []), expected)


class Here(Backprop):
    """A rule that a script or a notebook defines for itself."""

    name: Literal["here"] = "here"  # type: ignore[assignment]


def test_what_the_running_program_defines_trains_in_its_process_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(Here, "__module__", "__main__")
    small = planned(GRID)
    jobs = [
        Job(replace(t, configured=t.configured.model_copy(update={"rule": Here()})), tmp_path)
        for t in small.trials
    ]
    for name in (EngineName.auto, EngineName.serial, EngineName.batched):
        assert EngineOptions(name).engine_for(jobs).processes == 1
    assert isinstance(choose(EngineName.auto, jobs, None, [], exact=True, alone=True), Serial)
    for name in (EngineName.processes, EngineName.ray):
        with pytest.raises(UsageError, match=f"--engine {name} .* do not know Here"):
            EngineOptions(name).engine_for(jobs)


def test_a_script_that_trains_in_processes_runs_once(tmp_path):
    """A process that is spawned would run it again, were the script not hidden from it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from fdfa_cli.document.load import load\n"
        "from fdfa_cli.sweeps.plan import plan_sweep\n"
        "from fdfa_cli.sweeps.run import run\n"
        "from fdfa_cli.trials.engine_name import EngineName\n"
        "from fdfa_cli.trials.engines.options import EngineOptions\n"
        "from fdfa_cli.trials.runner import Execution\n"
        "file, results = map(Path, sys.argv[1:])\n"
        "options = EngineOptions(EngineName.processes, workers=2)\n"
        "result = run(plan_sweep(load(file), 'mine'), results, Execution(options, command=('script',)))\n"
        "print(dict(result.statuses), result.folder.name)\n"
    )
    command = [sys.executable, str(script), str(recipe(tmp_path)), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    statuses, name = done.stdout.rsplit(maxsplit=1)
    assert (statuses, done.stderr) == ("{'completed': 4}", "")
    assert name.startswith("mine-sweep-")
    assert {run.record.provenance[0]["command"][0] for run in scan([tmp_path / "results"]).runs} == {"script"}


def test_every_gpu_is_used_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    crew = Processes(5, gpus=2)
    assert [crew._environment(i, 1)["CUDA_VISIBLE_DEVICES"] for i in range(5)] == ["4", "6", "4", "6", "4"]
    assert "CUDA_VISIBLE_DEVICES" not in Processes(5)._environment(0, 1)


def test_the_line_of_the_bar_says_what_went_wrong_and_how_long_it_takes():
    tally = Tally(24, Counter(completed=3, diverged=2, failed=1))
    assert describe(tally, 2) == "2 running  2 diverged  1 failed"
    assert time_left(30, 6, 18) == "0:01:30 left"
    assert time_left(30, 0, 24) == "-:--:-- left"


# ---------------------------------------------------------------------------- what never begins


@pytest.mark.parametrize("command", [["sweep"], ["compare", "--rules", "bp,dfa", "--tune"]])
def test_what_ends_before_any_training_leaves_no_folder(tmp_path, monkeypatch, capsys, command):
    """The data set is not there, which is noticed when the engine is chosen."""
    monkeypatch.setenv("FDFA_DATA", str(tmp_path / "data"))
    file = recipe(tmp_path, base=BASE.replace("digits, limit: 200", "mnist"))
    results = tmp_path / "results"
    assert fdfa([command[0], str(file), *command[1:], "--results", str(results)]) == 2
    assert "fdfa data fetch mnist" in capsys.readouterr().err
    assert not list(results.iterdir())


def test_a_store_that_is_removed_while_another_process_waits_for_it_is_made_anew(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    lock = store_module.lock
    with ExitStack() as first:
        first.enter_context(open_store(folder))

        def late(file: Any) -> bool:
            """Whoever has the lock removes the folder, and only then lets it go."""
            first.close()
            return lock(file)

        monkeypatch.setattr(store_module, "lock", late)
        with open_store(folder):
            assert (folder / ".lock").exists()
            with pytest.raises(UsageError, match="another process"), open_store(folder):
                pass


@pytest.mark.parametrize(
    ("command", "override", "only"),
    [
        (["sweep", "FILE"], "compare={rules: [bp]}", "compare"),
        (["compare", "FILE", "--rules", "bp"], "sweep.seeds=3", "sweep"),
        (["train", "FILE"], "sweep.seeds=3", "sweep"),
        (["train", "FILE"], "compare.seeds=3", "compare"),
    ],
)
def test_an_override_that_another_command_reads_is_refused(tmp_path, capsys, command, override, only):
    file = recipe(tmp_path)
    arguments = [str(file) if word == "FILE" else word for word in command]
    assert fdfa([*arguments, override, "--results", str(tmp_path / "results")]) == 2
    said = f"override '{override}': has no effect here: only `fdfa {only}` reads the section {only}"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
