"""Whatever a recipe or an override holds, the answer is a recipe or a `RecipeError`."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_broken_recipes import GOOD
from test_recipe import FILE

from fdfa_cli.errors import RecipeError
from fdfa_cli.recipe.load import parse
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


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(st.binary(max_size=200))
@FUZZ
def test_fuzz_bytes(data: bytes) -> None:
    survives(data)


@given(
    st.text(
        st.sampled_from("data:rulenm[]{}-?!&*<>|%@`'\"#,.=~0123eE+_ \t\n\r\\\ufeff\x85\u2028éU"), max_size=60
    )
)
@FUZZ
def test_fuzz_yaml(text: str) -> None:
    survives(text.encode())
    survives(f"data: digits\nnetwork: mlp\nrule: {text}".encode())


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


@given(st.fixed_dictionaries({"data": PIECES, "network": PIECES, "rule": PIECES}, optional={
    "optimizer": PIECES, "schedule": PIECES, "training": PIECES, "x": PIECES}))  # fmt: skip
@FUZZ
def test_fuzz_values(tree: dict[str, object]) -> None:
    survives(yaml.safe_dump(tree, allow_unicode=True).encode())


@given(
    st.text(max_size=40)
    | st.from_regex(r"(rule|optimizer|training)(\.[a-z]{1,6}){0,2}=.{0,20}", fullmatch=True)
)
@FUZZ
def test_fuzz_overrides(override: str) -> None:
    survives(FILE.encode(), override)
    survives(GOOD.encode(), override)
