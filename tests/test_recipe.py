"""Reading, overriding, resolving, writing and finding recipes. What is refused: test_broken_recipes.py."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

import pytest
from test_broken_recipes import GOOD

from fdfa_cli.document.load import parse
from fdfa_cli.errors import RecipeError, Unsupported
from fdfa_cli.optim.optimizers import OPTIMIZERS, SGD, Adam, Optimizer
from fdfa_cli.recipe.overrides import apply
from fdfa_cli.recipe.resolve import Resolved, resolve
from fdfa_cli.recipe.schema import Recipe, Training
from fdfa_cli.registry import Choice
from fdfa_cli.rules.base import RULES, Rule


class Probe(Rule):
    """A rule that recommends settings and refuses one loss."""

    name: Literal["probe"] = "probe"
    inner: Annotated[Optimizer | None, Choice(OPTIMIZERS)] = None
    based: Annotated[Optimizer, Choice(OPTIMIZERS)] = SGD(lr=0.25, momentum=0.5)

    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "data": {"normalize": "unit"},
        "training": {"batch_size": 16},
    }

    def check(self, network: Any, loss: str) -> None:
        if loss == "bce":
            raise Unsupported("rule probe cannot run on the loss bce; use mse")

    def step(self, *_: Any) -> Any:
        raise NotImplementedError


class DataOnly(Probe):
    """A rule that recommends something for the data only."""

    name: Literal["data-only"] = "data-only"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {"data": {"normalize": "symmetric"}}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with the rules above, for one test."""
    monkeypatch.setattr(RULES, "_models", RULES.models() | {"probe": Probe, "data-only": DataOnly})


def resolved(text: str, *overrides: str) -> Resolved:
    return resolve(apply(parse(text.encode(), "r.yaml"), overrides))


def recipe(text: str, *overrides: str) -> Recipe:
    return resolved(text, *overrides).recipe


# ------------------------------------------------------------------------------------------ reading

# The core schema's own examples (YAML 1.2.2, section 10.3), and what YAML 1.1 reads otherwise.
SCALARS = {
    "null": None, "Null": None, "~": None, "": None,
    "true": True, "True": True, "FALSE": False,
    "0": 0, "0o7": 7, "0x3A": 58, "-19": -19, "+12": 12, "010": 10,
    "0.": 0.0, "-0.0": -0.0, ".5": 0.5, "+12e03": 12000.0, "-2E+05": -200000.0,
    "1e-3": 0.001, "1e5": 100000.0,
    "yes": "yes", "on": "on", "No": "No", "y": "y", "1:30": "1:30", "1_000": "1_000", "0b11": "0b11",
    "2024-01-01": "2024-01-01", "=": "=", "nulL": "nulL", "0o8": "0o8", "1e": "1e", ".": ".", "--1": "--1",
    "'1'": "1", '"true"': "true", "!!str 3": "3", "!!float 3": 3.0, "[1, 1e1, on]": [1, 10.0, "on"],
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_those_of_yaml_12(text: str) -> None:
    value = parse(f"key: {text}\n".encode(), "r.yaml").tree["key"]
    assert value == SCALARS[text]
    assert type(value) is type(SCALARS[text])


def test_aliases_stand_for_what_they_name() -> None:
    tree = parse(b"a: &x {k: [1, &y 2]}\nb: *x\nc: *y\n", "r.yaml").tree
    assert tree == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": 2}


def test_every_value_is_placed_where_it_is_written() -> None:
    text = "alpha: beta\ngamma:\n  - delta\n  - {epsilon: zeta, eta: [theta]}\niota:\n    kappa: 'lambda'\n"
    document = parse(text.encode(), "r.yaml")
    lines = text.splitlines()

    def written_at(where: str) -> str:
        _, line, column = where.split(":")
        return lines[int(line) - 1][int(column) - 1 :]

    leaves = 0
    for path, place in document.values.items():
        value: Any = document.tree
        for key in path:
            value = value[key]
        if isinstance(value, str):
            leaves += 1
            assert written_at(place.where).lstrip("'").startswith(value)
    assert leaves == 5
    for path, place in document.keys.items():
        assert written_at(place.where).startswith(f"{path[-1]}:")
    assert len(document.keys) == 6


def test_byte_order_mark_shifts_no_position() -> None:
    assert parse(b"\xef\xbb\xbfdata: x\n", "r.yaml").values["data",].where == "r.yaml:1:7"


# ---------------------------------------------------------------------------------------- overrides

FILE = """\
data: digits
network: {name: mlp, hidden: [32, 16], dropout: 0.5}
rule: {name: fdfa, feedback_rate: 0.5, feedback_optimizer: {name: sgd, lr: 0.5}}
optimizer: {name: sgd, lr: 0.5, momentum: 0.5}
training: {epochs: 3, seed: 7}
"""

# (overrides, what they change: dotted name -> value; everything else is as the file says)
OVERRIDES = [
    (["training.epochs=4"], {"training.epochs": 4}),
    (["training={epochs: 9}"], {"training.epochs": 9, "training.seed": 0}),
    (["rule.feedback_rate=1e-2"], {"rule.feedback_rate": 0.01}),
    (["rule=fdfa"], {"rule.feedback_rate": 0.01, "rule.feedback_optimizer": None}),
    (["rule=fdfa", "rule.feedback_rate=0.2"], {"rule.feedback_rate": 0.2, "rule.feedback_optimizer": None}),
    (["rule.feedback_optimizer=adam"], {"rule.feedback_optimizer": json.loads(Adam().model_dump_json())}),
    (["rule.feedback_optimizer.lr=0.1"], {"rule.feedback_optimizer.lr": 0.1}),
    (["rule.feedback_optimizer=null"], {"rule.feedback_optimizer": None}),
    (["optimizer=sgd"], {"optimizer.lr": 0.1, "optimizer.momentum": 0.0}),
    (["optimizer={name: sgd, lr: 3}"], {"optimizer.lr": 3.0, "optimizer.momentum": 0.0}),
    (["network.hidden=[800,800]"], {"network.hidden": [800, 800]}),
    (["network.hidden=[]"], {"network.hidden": []}),
    (["network=mlp"], {"network.hidden": [128, 128], "network.dropout": 0.0}),
    (["data.normalize=unit"], {"data.normalize": "unit"}),
    (["schedule=cosine"], {"schedule": {"name": "cosine", "warmup": 0.0, "floor": 0.0}}),
    (["schedule.warmup=2"], {"schedule.warmup": 2.0}),
    (["training.threads="], {}),
    ([], {}),
]  # fmt: skip


def put(tree: dict[str, Any], dotted: str, value: object) -> None:
    *above, key = dotted.split(".")
    for name in above:
        tree = tree[name]
    tree[key] = value


@pytest.mark.parametrize(("overrides", "changes"), OVERRIDES, ids=lambda x: ",".join(x) or "none")
def test_overrides_change_what_they_name_and_nothing_else(
    overrides: list[str], changes: dict[str, object]
) -> None:
    expected = recipe(FILE).model_dump(mode="json")
    for dotted, value in changes.items():
        put(expected, dotted, value)
    assert recipe(FILE, *overrides).model_dump(mode="json") == expected


@pytest.mark.parametrize(
    ("section", "name"),
    [("rule", "bp"), ("data", "mnist"), ("optimizer", "rmsprop"), ("schedule", "step"), ("network", "mlp")],
)
def test_a_bare_name_is_that_section_with_its_defaults(section: str, name: str) -> None:
    alone = recipe(GOOD.replace("fdfa", "bp"), f"{section}={name}")
    over_a_full_file = recipe(FILE.replace("digits", "{name: digits, validation: 50}"), f"{section}={name}")
    assert getattr(over_a_full_file, section) == getattr(alone, section)
    assert getattr(alone, section) == type(getattr(alone, section))()


def test_keys_under_a_bare_name() -> None:
    short, written_out = recipe(GOOD, "rule.feedback_rate=0.5"), recipe(FILE, "rule.feedback_optimizer=null")
    assert short.rule == written_out.rule


MALFORMED = {
    "foo": "is not key=value",
    "": "is not key=value",
    "=3": "is not a dotted name",
    "rule..share=[1]": "is not a dotted name",
    ".rule=bp": "is not a dotted name",
    "rule.=bp": "is not a dotted name",
    "ru le=bp": "is not a dotted name",
    "training.epochs.x=1": "training.epochs is 3, and so has no key 'x'",
    "network.hidden.0=1": "is not a dotted name",
    "network.hidden.x=1": "network.hidden is a list, and so has no key 'x'",
    "training.device.x=1": "must be text, not a mapping",
    "training.device=gpu": "must be auto, cpu, mps, cuda or one of several GPUs, as cuda:0, not 'gpu'",
    "network.hidden=[1": "not closed",
    "training.seed=.nan": "not a finite number",
    "training.seed=!!python/none x": "!!python/none",
    "training.seed={a: 1, a: 2}": "'a' is given twice",
    "training.seed=@x": "put it in quotes",
    "rule=dfaa": "did you mean 'dfa'",
    "rul=dfa": "did you mean 'rule'",
    "rule.feedback_rte=1": "did you mean 'feedback_rate'",
    "training.epochs=x": "a whole number",
    "training.epochs=": "not empty",
    "rule=": "not empty",
    "rule={feedback_rate: 0.1}": "has no name",
}


@pytest.mark.parametrize("override", MALFORMED)
def test_a_wrong_override_is_named(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(FILE, "training.batch_size=2", override)
    (problem,) = caught.value.problems
    assert problem.where == f"override {override!r}"
    assert MALFORMED[override] in problem.message


def test_wrong_overrides_and_the_file_are_reported_together_in_order() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(FILE + "epoch: 3\n", "foo", "training.seed=-1", "=")
    assert [p.where for p in caught.value.problems] == [
        "r.yaml:6:1", "override 'foo'", "override 'training.seed=-1'", "override '='",
    ]  # fmt: skip


def test_an_override_mends_the_file() -> None:
    assert recipe(FILE.replace("epochs: 3", "epochs: many"), "training.epochs=3") == recipe(FILE)


# ----------------------------------------------------------------------------- recommended settings

PROBE = "data: digits\nnetwork: mlp\nrule: probe\n"


@pytest.mark.parametrize(
    ("more", "optimizer", "applied"),
    [
        # nothing said: as recommended
        (
            "",
            SGD(lr=0.01, momentum=0.9),
            {"optimizer.name": "sgd", "optimizer.lr": 0.01, "optimizer.momentum": 0.9},
        ),
        # keys without a name, or the same name: on top of what is recommended
        ("optimizer: {lr: 3}", SGD(lr=3, momentum=0.9), {"optimizer.name": "sgd", "optimizer.momentum": 0.9}),
        ("optimizer: {name: sgd, lr: 3}", SGD(lr=3, momentum=0.9), {"optimizer.momentum": 0.9}),
        ("optimizer: sgd", SGD(lr=0.01, momentum=0.9), {"optimizer.lr": 0.01, "optimizer.momentum": 0.9}),
        # another optimizer: its own defaults
        ("optimizer: adam", Adam(), {}),
        ("optimizer: {name: adam, lr: 3}", Adam(lr=3), {}),
    ],
)
@pytest.mark.usefixtures("probes")
def test_a_recommendation_lies_under_what_the_recipe_says(
    more: str, optimizer: Optimizer, applied: dict[str, object]
) -> None:
    result = resolved(PROBE + more + "\n", "data.normalize=standard", "training.batch_size=3")
    assert result.recipe.optimizer == optimizer
    assert result.recommended == applied


@pytest.mark.usefixtures("probes")
def test_recommendations_reach_every_section_and_give_way_to_the_user() -> None:
    result = resolved(PROBE + "training: {epochs: 2}\n")
    assert result.recipe.training == Training(epochs=2, batch_size=16)
    assert result.recipe.data.model_dump()["normalize"] == "unit"
    assert result.recommended.items() >= {"training.batch_size": 16, "data.normalize": "unit"}.items()
    # a data set that has no such option is left alone, and so is a value that was given
    assert "data.normalize" not in resolved(PROBE, "data=synthetic").recommended
    assert recipe(PROBE, "data.normalize=standard").data.model_dump()["normalize"] == "standard"


@pytest.mark.usefixtures("probes")
def test_a_section_not_mentioned_is_recommended_by_the_base_rule() -> None:
    for rule in ("data-only", "bp"):
        wanted = Probe.recommended if rule == "data-only" else Rule.recommended
        assert recipe(PROBE, f"rule={rule}").optimizer.model_dump().items() >= wanted["optimizer"].items()
    assert resolved(GOOD).recommended == {"optimizer.name": "adam", "optimizer.lr": 1e-3}


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_recommends_what_the_schema_accepts(name: str) -> None:
    result = resolved("data: digits\nnetwork: mlp\n", f"rule={name}")
    values = result.recipe.model_dump(mode="json")
    for dotted, value in result.recommended.items():
        section, key = dotted.split(".")
        assert values[section][key] == value
    sections = {key: set(values) for key, values in RULES.get(name).recommended.items()}
    named = {f"{section}.{key}" for section, keys in sections.items() for key in keys}
    assert named <= set(result.recommended)  # no recommended key is unknown


@pytest.mark.usefixtures("probes")
def test_a_choice_without_a_name_is_based_on_its_default() -> None:
    text = "data: digits\nnetwork: mlp\nrule: {name: probe, based: {lr: 3}}\n"
    assert recipe(text).rule.model_dump()["based"] == SGD(lr=3, momentum=0.5).model_dump()
    with pytest.raises(RecipeError, match=r"rule\.inner has no name"):
        recipe(text, "rule.inner.lr=3")


# ------------------------------------------------------------------------------ sections as a whole


@pytest.mark.usefixtures("probes")
def test_a_rule_that_does_not_fit_is_reported_at_the_rule() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(PROBE + "training: {loss: bce}\n")
    (problem,) = caught.value.problems
    assert problem.where == "r.yaml:3:7"
    assert "use mse" in problem.message


def test_a_network_too_deep_for_the_images_is_reported_at_the_network() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe("data: digits\nnetwork: alexnet\nrule: bp\n")
    (problem,) = caught.value.problems
    assert problem.where == "r.yaml:2:10"


@pytest.mark.parametrize("folder", ["/no/such/folder", "~0", "x" * 5000])
def test_a_folder_of_images_that_is_not_there_is_not_the_recipe_s_fault(folder: str) -> None:
    text = f"data: {{name: image_folder, folder: {folder}}}\nnetwork: mlp\nrule: bp\n"
    assert recipe(text).data.name == "image_folder"
