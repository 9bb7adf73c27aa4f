"""Search by tree-structured Parzen estimators: the same suggestions for anyone, from the results alone."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_sweep import BASE, FOUR, Stopping, planned, recipe, store, swept

from fdfa_cli.cli import run as fdfa
from fdfa_cli.document.load import parse
from fdfa_cli.errors import Interrupted
from fdfa_cli.recipe.sweep import Space, Sweep, Tpe
from fdfa_cli.sweeps import search
from fdfa_cli.sweeps.observation import Observation
from fdfa_cli.sweeps.plan import plan_sweep
from fdfa_cli.sweeps.run import observations, train
from fdfa_cli.trials.engine_name import EngineName
from fdfa_cli.trials.engines.base import Job
from fdfa_cli.trials.engines.options import EngineOptions
from fdfa_cli.trials.engines.processes import Processes
from fdfa_cli.trials.engines.serial import Serial
from fdfa_cli.trials.runner import Runner
from fdfa_cli.trials.store import open_store

#: Every kind of space.
SPACES = {
    "rate": Space(low=1e-4, high=1.0, log=True),
    "share": Space(low=0.0, high=1.0),
    "units": Space(low=1, high=64, log=True),
    "layers": Space(low=1, high=4),
    "step": Space(low=0.1, high=0.5, step=0.1),
    "choice": Space(values=([8], "b", {"name": "c"})),
}


def sweep(trials: int, parameters: Any = SPACES, **options: Any) -> Sweep:
    tpe = Tpe(startup=6, round=4)
    return Sweep(**{"parameters": parameters, "search": "tpe", "trials": trials, "tpe": tpe, **options})


def objective(overrides: Any) -> float:
    """More is better; the best is rate 0.01 and choice b."""
    return -((math.log10(overrides["rate"]) + 2) ** 2) + (overrides["choice"] == "b")


def searched(section: Sweep, scored: Any = objective) -> list[Observation]:
    found: list[Observation] = []
    while drawn := search.next_round(section, found):
        found += [Observation(overrides, scored(overrides)) for overrides in drawn]
    return found


def test_values_are_those_of_their_spaces():
    for one in searched(sweep(40)):
        overrides = one.overrides
        assert 1e-4 <= overrides["rate"] <= 1
        assert 0 <= overrides["share"] <= 1
        assert isinstance(overrides["units"], int)
        assert 1 <= overrides["units"] <= 64
        assert overrides["layers"] in (1, 2, 3, 4)
        assert overrides["step"] in (0.1, 0.2, 0.3, 0.4, 0.5)
        assert overrides["choice"] in ([8], "b", {"name": "c"})


def test_the_first_round_is_that_of_a_random_search():
    first = search.next_round(sweep(40, seed=3), [])
    assert first == search.next_round(sweep(6, seed=3, search="random", tpe=None), [])


def test_rounds_are_as_long_as_asked_for_and_end_with_the_trials():
    section, found, lengths = sweep(16), [], []
    while drawn := search.next_round(section, found):
        lengths.append(len(drawn))
        found += [Observation(overrides, 0.5) for overrides in drawn]
    assert lengths == [6, 4, 4, 2]


def test_more_trials_keep_the_first_ones():
    longest = searched(sweep(23))
    for count in (1, 5, 6, 7, 13, 22):
        assert searched(sweep(count)) == longest[:count]
    assert searched(sweep(23, seed=1)) != longest


def test_a_round_depends_on_what_is_told_and_on_nothing_else():
    found = searched(sweep(14))
    assert search.next_round(sweep(18), found) == search.next_round(sweep(18), list(found))
    other = [*found[:3], Observation(found[3].overrides, 9.0), *found[4:]]
    assert search.next_round(sweep(18), other) != search.next_round(sweep(18), found)


def test_suggestions_do_not_depend_on_the_hash_seed_of_the_process():
    program = (
        "import json, test_tpe as t\n"
        "print(json.dumps([dict(one.overrides) for one in t.searched(t.sweep(14))]))\n"
    )
    printed = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", program]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""  # Optuna is silent
        printed.add(done.stdout)
    assert printed == {json.dumps([dict(one.overrides) for one in searched(sweep(14))]) + "\n"}


def test_it_learns():
    # The mean score of the trials after the first round: chance stays where it was.
    def late(found: list[Observation]) -> float:
        return statistics.fmean(one.score or 0.0 for one in found[10:])

    rounds = Tpe(startup=10, round=4)
    for seed in range(3):
        chance = searched(sweep(50, seed=seed, search="random", tpe=None))
        assert late(searched(sweep(50, seed=seed, tpe=rounds))) > late(chance) + 1


def test_what_has_no_score_is_avoided_like_the_worst():
    # All that diverges is above a rate of 0.01, half of the range on its scale: where nothing is known of
    # the scores, half of the suggestions would be there.
    def scored(overrides: Any) -> float | None:
        return None if overrides["rate"] > 0.01 else 0.5

    found = searched(sweep(46), scored)[6:]
    assert sum(one.score is None for one in found) < len(found) / 4
    # and a search in which nothing has a score goes on
    assert len(searched(sweep(14), lambda overrides: None)) == 14


def test_what_was_pruned_early_counts_less_than_what_was_pruned_late():
    first = [Observation(o, None) for o in search.next_round(sweep(40), [])]
    late = [Observation(one.overrides, 0.1, 9 if one.overrides["rate"] < 0.01 else 1) for one in first]
    early = [Observation(one.overrides, 0.1, 1 if one.overrides["rate"] < 0.01 else 9) for one in first]

    def rates(found: list[Observation]) -> float:
        drawn = [search.next_round(sweep(40, seed=seed), found) for seed in range(10)]
        return statistics.fmean(math.log10(o["rate"]) for several in drawn for o in several)

    assert rates(late) < rates(early) - 0.5


# ----------------------------------------------------------------------------------- whole sweeps

TPE = (
    "  search: tpe\n  trials: 7\n  seeds: 2\n  tpe: {startup: 3, round: 2}\n"
    "  parameters:\n    optimizer.lr: {low: 0.001, high: 1.0, log: true}\n"
    "    network.hidden: {values: [[4], [8]]}\n"
)
PRUNED = TPE + "  prune: {rule: median}\n"


def test_processes_give_what_serial_gives(tmp_path, capsys):
    file = recipe(tmp_path, TPE)
    one = swept(file, tmp_path / "serial", "--engine", "serial")
    first = capsys.readouterr().out.splitlines()
    other = swept(file, tmp_path / "processes", "--engine", "processes", "--jobs", "2")
    assert one == other
    assert len(one[1]) == 14
    assert first[:-1] == capsys.readouterr().out.splitlines()[:-1]


def test_it_is_not_stacked_since_it_follows_results_to_the_last_digit(tmp_path, capsys):
    file = recipe(tmp_path, TPE)
    assert fdfa(["sweep", str(file), "--engine", "batched", "--results", str(tmp_path / "r")]) == 2
    assert "take auto, serial, processes or ray" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    work = [Job(trial, tmp_path) for trial in planned(TPE).trials]
    assert isinstance(EngineOptions(EngineName.auto, 2, exact=True).engine_for(work), Processes)


@pytest.mark.parametrize(("section", "base"), [(TPE, BASE), (PRUNED, FOUR)], ids=["whole", "pruned"])
def test_interrupted_after_any_trial_it_ends_as_if_never_stopped(section, base, tmp_path):
    sweep = plan_sweep(parse((base + section).encode(), "r.yaml"))

    def go(folder: Path, engine: Any) -> Any:
        with open_store(folder) as content:
            return train(sweep, Runner(content, lambda jobs: engine))

    ended = go(tmp_path / "whole", Serial())
    whole = store(tmp_path / "whole")
    assert [len(drawn) for drawn in ended.rounds] == [3, 2, 2]
    assert set(whole) == {trial.identity for trial in ended.trials}
    for after in (1, 6, 8, 11):
        folder = tmp_path / f"stopped{after}"
        with pytest.raises(Interrupted):
            go(folder, Stopping(after))
        assert go(folder, Serial()).rounds == ended.rounds
        assert store(folder) == whole


def test_raising_the_trials_trains_only_what_is_new(tmp_path):
    file, results = recipe(tmp_path, TPE), tmp_path / "results"
    swept(file, results, "--engine", "serial", "sweep.trials=4")
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/*/run.json")}
    code, content = swept(file, results, "--engine", "serial")
    after = {path: path.stat().st_mtime_ns for path in results.glob("*/*/run.json")}
    assert code == 0
    assert (len(before), len(after)) == (8, 14)
    assert before.items() <= after.items()
    assert content == swept(file, tmp_path / "whole", "--engine", "serial")[1]


def test_each_rung_keeps_the_better_half_of_all_that_ever_got_there(tmp_path):
    sweep = planned(PRUNED)
    with open_store(tmp_path / "s") as content:
        ended = train(sweep, Runner(content, lambda jobs: Serial()))
        results = {c.number: [content.get(t) for t in c.trials] for c in ended.configurations}
        at_one = {
            c.number: statistics.fmean(content.value(t, "val_accuracy", 1) or 0.0 for t in c.trials)
            for c in ended.configurations
        }
        scores = [one.score for one in observations(ended, content)]
    seen: list[float] = []
    for drawn in ended.rounds:
        seen += [at_one[c.number] for c in drawn]
        for c in drawn:
            status = "completed" if at_one[c.number] >= statistics.median_high(seen) else "pruned"
            assert {r.status for r in results[c.number] if r} == {status}
            if status == "pruned":
                assert scores[c.number - 1] == pytest.approx(at_one[c.number])
    assert Counter(r.status for several in results.values() for r in several if r)["pruned"] > 0


def test_a_dry_run_shows_what_is_known(tmp_path, capsys):
    file, results = recipe(tmp_path, TPE), tmp_path / "results"
    command = ["sweep", str(file), "--results", str(results), "--engine", "serial"]
    assert fdfa([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6 + 2 + 1
    assert "4 more configurations will be suggested" in lines[-2]
    assert fdfa([*command, "sweep.trials=4"]) == 0
    capsys.readouterr()
    assert fdfa([*command, "--dry-run"]) == 0  # the second round is one trial further, and not yet at its end
    known = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in known[1:11]] == ["completed"] * 8 + ["new"] * 2
    assert "2 more configurations will be suggested" in known[-2]


MALFORMED = {
    "  search: tpe\n  parameters: {optimizer.lr: {low: 0, high: 1}}": (
        "7:11",
        "sweep.search: tpe needs trials",
    ),
    "  search: tpe\n  trials: 0\n  parameters: {optimizer.lr: {low: 0, high: 1}}": ("8:11", "at least 1"),
    "  search: tpe\n  trials: 9\n  parameters: {optimizer.lr: {low: 2, high: 1}}": ("9:16", "below high (1)"),
    "  search: tpe\n  trials: 9\n  parameters: {optimizer.lr: {values: []}}": ("9:39", "at least 1"),
    "  search: tpe\n  trials: 9\n  parameters: {optimizer.lrr: {low: 1, high: 2}}": (
        "9:16",
        "did you mean 'lr'",
    ),
    "  search: tpe\n  trials: 9\n  parameters: {rule: {low: 1, high: 2}}": ("9:16", "the name of a rule"),
    # drawn after the first round only: the ends are checked
    "  search: tpe\n  trials: 9\n  tpe: {startup: 1}\n  parameters: {optimizer.lr: {low: -1e-9, high: 1}}": (
        "10:16",
        "optimizer.lr must be at least 0",
    ),
    "  search: tpe\n  trials: 9\n  tpe: {startup: 0}\n  parameters: {optimizer.lr: {low: 0, high: 1}}": (
        "9:18",
        "at least 1",
    ),
    "  search: tpe\n  trials: 9\n  tpe: {rounds: 2}\n  parameters: {optimizer.lr: {low: 0, high: 1}}": (
        "9:9",
        "did you mean 'round'",
    ),
    "  tpe: {round: 2}\n  parameters: {optimizer.lr: {values: [1]}}": (
        "7:3",
        "sweep.tpe: these options are for search: tpe",
    ),
}


@pytest.mark.parametrize("section", MALFORMED)
def test_a_malformed_section_is_located_and_nothing_starts(section, tmp_path, capsys):
    place, message = MALFORMED[section]
    file = recipe(tmp_path, section + "\n")
    for command in (["sweep", str(file), "--results", str(tmp_path / "r")], ["recipe", "check", str(file)]):
        assert fdfa(command) == 2
        error = capsys.readouterr().err
        assert f"{file}:{place}: " in error
        assert message in error
    assert not (tmp_path / "r").exists()
