"""What is asked for on the command line holds, or the command ends and names what cannot hold together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_recipe import FILE, recipe

from fdfa_cli import cli
from fdfa_cli.comparisons.plan import ComparisonPlan, plan_comparison
from fdfa_cli.comparisons.tuning import candidates
from fdfa_cli.document.load import parse
from fdfa_cli.errors import RecipeError
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.write import dump
from fdfa_cli.sweeps.plan import SweepPlan, plan_sweep

# overrides of which the last throws away the first, and what is said of it
LOST = [
    (["optimizer.lr=0.5", "optimizer=sgd"], "give optimizer first, then optimizer.lr"),
    (["rule.feedback_rate=0.5", "rule=fdfa"], "give rule first, then rule.feedback_rate"),
    (['rule.inject="block"', "rule=fdfa"], "give rule first, then rule.inject"),
    (
        ["rule.feedback_optimizer.lr=0.1", "rule.feedback_optimizer=adam"],
        "give rule.feedback_optimizer first",
    ),
    (["training.epochs=3", "training={batch_size: 8}"], "give training first, then training.epochs"),
    (["training={epochs: 3}", "training={batch_size: 8}"], "write both as one training={…}"),
    (["optimizer={name: sgd, lr: 0.5}", "optimizer=sgd"], "write both as one optimizer={…}"),
    (["rule=dfa", "rule=fdfa"], "rule is something else in override 'rule=dfa': give one of the two"),
    (["rule=dfa", "rule.name=fdfa"], "give one of the two"),
    (["training.epochs=3", "training.epochs=4"], "training.epochs is something else in"),
    (["training={epochs: 3}", "training.epochs=4"], "give one of the two"),
    (["training.epochs=3", "training={epochs: 4}"], "give one of the two"),
    (["training.threads=2", "training.threads="], "give one of the two"),
    (["diagnostics.every=2", "diagnostics=null"], "give one of the two"),
    (["data.limit=99", "optimizer.lr=1", "data=digits"], "give data first, then data.limit"),
    (["network.dropout=0", "network={name: mlp, hidden: [3]}"], "give network first, then network.dropout"),
]


@pytest.mark.parametrize(
    ("overrides", "words"), LOST, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_an_override_that_throws_an_earlier_one_away_is_an_error_that_names_both(
    overrides: list[str], words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(FILE.replace("digits", "{name: mnist}"), *overrides)
    (problem,) = caught.value.problems
    assert problem.where == f"override {overrides[-1]!r}"
    assert f"override {overrides[0]!r}" in problem.message
    assert words in problem.message


@pytest.mark.parametrize("overrides", [o for o, words in LOST if "first" in words], ids=" ".join)
def test_the_order_that_is_proposed_works(overrides: list[str]) -> None:
    first, *between, last = overrides
    reordered = recipe(FILE, last, *between, first)
    key, _, value = first.partition("=")
    found = json.loads(reordered.model_dump_json())
    for part in key.split("."):
        found = found[part]
    assert found == json.loads(value)


# overrides that hold together, and a key with its value in the end
HOLD = [
    (["optimizer=sgd", "optimizer.lr=0.25"], "optimizer.lr", 0.25),
    (["rule=dfa", "rule=dfa"], "rule.name", "dfa"),
    (["rule=dfa", "rule.name=dfa"], "rule.name", "dfa"),
    (["rule={name: dfa}", "rule=dfa"], "rule.name", "dfa"),
    (["optimizer.lr=0.25", "optimizer={lr: 0.25, name: sgd}"], "optimizer.lr", 0.25),
    (["optimizer.lr=1", "optimizer.lr=1.0"], "optimizer.lr", 1.0),
    (["training={epochs: 3}", "training.batch_size=8"], "training.epochs", 3),
    (["diagnostics={}", "diagnostics.every=2"], "diagnostics.every", 2),
    (["rule.feedback_optimizer=adam", "rule.feedback_optimizer.lr=0.25"],
     "rule.feedback_optimizer.name", "adam"),
    (["rule.feedback_optimizer={name: adam}", "rule={name: fdfa, feedback_optimizer: adam}"],
     "rule.feedback_optimizer.name", "adam"),
    (["schedule.warmup=2", "schedule.name=cosine"], "schedule.warmup", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "key", "value"), HOLD, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_overrides_that_agree_are_no_error(overrides: list[str], key: str, value: object) -> None:
    found = json.loads(recipe(FILE, *overrides).model_dump_json())
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_flags_are_overrides_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "digits/mlp", "--results", str(tmp_path)]
    assert cli.run([*command, "training.seed=2", "--seed", "1"]) == 2
    assert "training.seed is something else in override 'training.seed=2'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- sweeps

GRID = """\
sweep:
  seeds: [3, 4]
  parameters:
    optimizer.lr: {values: [0.1, 0.2]}
"""


def swept(text: str, *overrides: str) -> SweepPlan:
    return plan_sweep(apply(parse(text.encode(), "r.yaml"), overrides))


# overrides of the sweep of FILE + GRID, where what is wrong is reported, and what is said
SWEEPS = [
    (["optimizer.lr=0.5"], "r.yaml:9:5", "optimizer.lr is something else in override 'optimizer.lr=0.5'"),
    (["optimizer={name: sgd, lr: 0.5}"], "r.yaml:9:5", "is something else in override 'optimizer={name"),
    (["training.seed=5"], "override 'training.seed=5'", "since r.yaml:7:10 lists the seeds"),
    (["training={seed: 5, epochs: 3}"], "override 'training={seed: 5, epochs: 3}'", "lists the seeds"),
    (["sweep.seeds=3", "sweep={parameters: {training.epochs: {values: [1]}}}"],
     "override 'sweep={parameters: {training.epochs: {values: [1]}}}'", "give sweep first, then sweep.seeds"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "where", "words"), SWEEPS, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_what_a_sweep_throws_away_is_named_once(overrides: list[str], where: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        swept(FILE + GRID, *overrides)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert words in problem.message


def test_a_sweep_s_overrides_that_hold() -> None:
    assert len(swept(FILE + GRID, "optimizer=sgd", "training.epochs=5", "sweep.seeds=3").trials) == 6
    assert (
        len(swept(FILE + GRID, "sweep.parameters.optimizer.lr.values=[0.1]", "optimizer.momentum=0").trials)
        == 2
    )
    assert swept(FILE + GRID, "training.seed=5", "sweep.seeds=2").seeds == (5, 6)


@pytest.mark.parametrize(
    ("first", "second", "ok"),
    [
        ("optimizer.lr: {values: [0.1, 0.2]}", "optimizer: {values: [sgd, adam]}", False),
        ("optimizer: {values: [sgd, adam]}", "optimizer.lr: {values: [0.1, 0.2]}", True),
        ("optimizer: {values: [{name: sgd, lr: 0.3}, adam]}", "optimizer.lr: {values: [0.1, 0.2]}", False),
        ("rule.feedback_rate: {low: 0.1, high: 0.2, step: 0.1}", "rule: {values: [fdfa, fdfa-s]}", False),
    ],
)
def test_keys_of_a_grid_that_collide_are_named(first: str, second: str, ok: bool) -> None:
    text = FILE + f"sweep:\n  parameters:\n    {first}\n    {second}\n"
    if ok:
        rates = {(t.recipe.optimizer.name, t.recipe.optimizer.lr) for t in swept(text).trials}
        assert rates == {(name, lr) for name in ("sgd", "adam") for lr in (0.1, 0.2)}
        return
    with pytest.raises(RecipeError) as caught:
        swept(text)
    (problem,) = caught.value.problems
    assert problem.where == "r.yaml:9:5"
    assert "r.yaml:8:5" in problem.message


def test_the_winner_s_command_is_one_that_works() -> None:
    """What a sweep was given, and then a configuration's values, hold together in `fdfa train` as well."""
    given = ["optimizer=sgd", "sweep.seeds=[0]"]
    for configuration in swept(FILE + GRID, *given).configurations:
        values = [f"{key}={value}" for key, value in configuration.overrides.items()]
        assert recipe(FILE, given[0], *values) == configuration.trials[0].configured.model_copy(
            update={"training": recipe(FILE).training}
        )


# ---------------------------------------------------------------------------- comparisons

COMPARE = """\
compare:
  rules: [fdfa, bp, grape]
  overrides:
    bp: {optimizer.lr: 0.1}
    grape: {rule.feedback_rate: 0.1}
"""


def compared(*overrides: str, text: str = FILE + COMPARE) -> ComparisonPlan:
    return plan_comparison(apply(parse(text.encode(), "r.yaml"), overrides), "r.yaml")


# overrides of the comparison of FILE + COMPARE, where what is wrong is reported, and what is said
COMPARISONS = [
    (["optimizer.lr=0.2"], "r.yaml:9:24", "optimizer.lr is something else in override 'optimizer.lr=0.2'"),
    (["compare.rules=[bp, dfa]", "rule.feedback_rate=0.2"], "override 'rule.feedback_rate=0.2'",
     "is for rule 'fdfa', which is not compared (bp, dfa)"),
    (["compare.rules=[bp, grape]", "rule=fdfa"], "override 'rule=fdfa'", "which is not compared (bp, grape)"),
    (["compare.rules=[fdfa, fdfa-s]", "rule.feedback_rate=0.2"], "override 'rule.feedback_rate=0.2'",
     "is for rule 'fdfa' alone: say it for fdfa-s too, as in compare.overrides={fdfa: {"),
    (["compare.seeds=[1, 2]", "training.seed=3"], "override 'training.seed=3'",
     "give compare.seeds=[…] instead"),
    (["compare.overrides.fdfa={rule.feedback_rate: 0.3}", "rule.feedback_rate=0.2"],
     "override 'compare.overrides.fdfa={rule.feedback_rate: 0.3}'", "is something else in"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "where", "words"), COMPARISONS, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_what_a_comparison_throws_away_is_named_once(overrides: list[str], where: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compared(*overrides)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert words in problem.message


def test_a_comparison_s_overrides_that_hold() -> None:
    rate = {
        rule: getattr(configuration.trials[0].recipe.rule, "feedback_rate", None)
        for rule, configuration in compared(
            "rule.feedback_rate=0.2", "training.seed=3"
        ).configurations.items()
    }
    assert rate == {"fdfa": 0.2, "bp": None, "grape": 0.1}
    assert compared("rule=bp").configurations["fdfa"].trials[0].recipe.rule.name == "fdfa"


def test_tuning_may_try_other_rates_than_the_one_that_was_asked_for() -> None:
    task = compared("compare.rules=[fdfa]", "optimizer.lr=0.2")
    tried = [c.trials[0].recipe.optimizer.lr for c in candidates(task, "fdfa", 3)]
    assert tried[0] == 0.2
    assert 0.2 not in tried[1:]


def test_options_of_compare_do_not_undo_its_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "digits/compare", "--dry-run", "--rules", "bp"]
    assert cli.run([*command, "compare.seeds=2", "--seeds", "3"]) == 2
    assert "--seeds: compare.seeds is something else in override 'compare.seeds=2'" in capsys.readouterr().err
    assert cli.run([*command, "--seeds", "3"]) == 0


def test_what_is_stored_holds_nothing_of_how_it_was_asked_for() -> None:
    text = dump(recipe(FILE, "training.epochs=5"))
    assert resolve(parse(text.encode(), "r.yaml")).recipe == recipe(FILE, "training.epochs=5")
