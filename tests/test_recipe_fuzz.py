"""Whatever a recipe or an override holds, the answer is a recipe or a `RecipeError`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_broken_recipes import GOOD
from test_recipe import FILE

from fdfa_cli.document.load import parse
from fdfa_cli.errors import RecipeError
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import resolve


def survives(data: bytes, *overrides: str) -> None:
    """Reading gives a recipe or a RecipeError with messages, and nothing else."""
    problems = None
    try:
        resolve(apply(parse(data, "r.yaml"), overrides))
    except RecipeError as error:
        problems = error.problems
    assert problems is None or (problems and all(p.where and p.message for p in problems))


YAML = st.text(
    st.sampled_from("data:rulenm[]{}-?!&*<>|%@`'\"#,.=~0123eE+_ \t\n\r\\\ufeff\x85\u2028éU"), max_size=60
)

PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["dfa", "fdfa", "adam", "mlp", "digits", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "data", "network", "rule", "optimizer", "schedule", "training", "hidden", "lr", "epochs",
             "feedback_optimizer", "feedback_rate", "share", "betas", "device", "folder", "dfa", "fdfa"]
        ) | st.text(max_size=4),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip

TREES = st.fixed_dictionaries({"data": PIECES, "network": PIECES, "rule": PIECES}, optional={
    "optimizer": PIECES, "schedule": PIECES, "training": PIECES, "x": PIECES})  # fmt: skip

OVERRIDE = st.text(max_size=40) | st.from_regex(
    r"(rule|optimizer|training)(\.[a-z]{1,6}){0,2}=.{0,20}", fullmatch=True
)
#: Overrides that are right by themselves, or nearly, and so reach those before them.
TYPICAL = st.sampled_from(
    ["rule=dfa", "rule=fdfa", "rule.name=dfa", "rule.feedback_rate=0.5", "rule.feedback_optimizer=adam",
     "rule.feedback_optimizer.lr=1", "rule={name: fdfa, feedback_rate: 0.1}", "optimizer=sgd",
     "optimizer.lr=1", "optimizer={lr: 0.5}", "optimizer=", "training={epochs: 3}", "training.epochs=4",
     "training=", "training=3", "schedule.warmup=2", "schedule=step", "diagnostics={}",
     "diagnostics.every=2", "diagnostics=null", "sweep.seeds=3", "compare={rules: [bp]}",
     "sweep={parameters: {rule: {values: [dfa]}}}", "compare.seeds=2"]
)  # fmt: skip


def _as_it_is(data: bytes) -> None:
    survives(data)


def _in_place_of_the_rule(text: str) -> None:
    survives(text.encode("utf-8", "surrogatepass"))
    survives(f"data: digits\nnetwork: mlp\nrule: {text}".encode())


def _as_a_file(tree: dict[str, object]) -> None:
    survives(yaml.safe_dump(tree, allow_unicode=True).encode())


def _on_two_files(overrides: Sequence[str]) -> None:
    survives(FILE.encode(), *overrides)
    survives(GOOD.encode(), *overrides)


#: What is generated, and what is done with each.
KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "bytes": (st.binary(max_size=200), _as_it_is),
    "yaml": (YAML, _in_place_of_the_rule),
    "values": (TREES, _as_a_file),
    "an override": (st.tuples(OVERRIDE), _on_two_files),
    "overrides": (st.lists(TYPICAL | OVERRIDE, max_size=5), _on_two_files),
}
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", KINDS)
def test_fuzz(kind: str) -> None:
    generated, check = KINDS[kind]
    FUZZ(given(generated)(check))()
