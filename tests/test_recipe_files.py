"""Recipes as files: writing, identity, the schema for editors, the shipped ones, and the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from test_broken_recipes import BROKEN, GOOD
from test_recipe import FILE, SCALARS, recipe, resolved

from fdfa_cli.cli import run
from fdfa_cli.document.load import Document, parse
from fdfa_cli.errors import RecipeError, UnknownName, UsageError
from fdfa_cli.recipe import shipped
from fdfa_cli.recipe.json_schema import json_schema
from fdfa_cli.recipe.resolve import read, resolve
from fdfa_cli.recipe.schema import EXECUTION_FIELDS, OPTIONAL, Training
from fdfa_cli.recipe.write import dump, identity
from fdfa_cli.rules.base import RULES

# ------------------------------------------------------------------------------------------ writing

SHIPPED = sorted(shipped.shipped_recipes())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dump_is_complete_and_reads_back_equal(name: str) -> None:
    first = read(name).recipe
    text = dump(first)
    second = resolved(text)
    assert second.recipe == first
    assert second.recommended == {}  # nothing was left for a rule to fill in
    assert identity(second.recipe) == identity(first)
    # a YAML 1.1 reader finds the same values
    absent = {section for section in OPTIONAL if getattr(first, section) is None}
    assert yaml.safe_load(text) == first.model_dump(mode="json", exclude=absent)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.floats(0, 1e300))
@settings(max_examples=80, deadline=None)
def test_any_text_and_number_survive_a_dump(folder: str, rate: float) -> None:
    document = parse(b"data: image_folder\nnetwork: mlp\nrule: bp\n", "r.yaml")
    tree = {
        **document.tree,
        "data": {"name": "image_folder", "folder": folder, "size": 8},
        "optimizer": {"lr": rate},
    }
    try:
        first = resolve(Document(tree, document.values)).recipe
    except RecipeError:  # a folder that the operating system knows how to refuse
        return
    assert recipe(dump(first)) == first


@pytest.mark.parametrize(
    "text", [*SCALARS, "1e5", ".inf", "<<", "a: b", "# x", "- x", "\u2028", "\x85", " x ", "x\ny"]
)
def test_text_that_looks_like_something_else_stays_text(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))  # "." is the root itself, whatever lies in this machine's
    first = recipe("data: {name: image_folder, folder: x}\nnetwork: mlp\nrule: bp\n")
    first = first.model_copy(update={"data": first.data.model_copy(update={"folder": text or "''"})})
    assert recipe(dump(first)) == first


def test_identity_is_of_what_is_computed() -> None:
    base = identity(recipe(FILE))
    assert len(base) >= 12
    assert set(base) <= set("0123456789abcdef")
    same = [
        recipe(FILE, "training.device=cpu", "training.threads=3", "training.checkpoint_every=2"),
        recipe("\n".join(reversed(FILE.splitlines())) + "\n"),
        recipe(FILE, "training.batch_size=64", "optimizer.lr=0.50"),
        recipe(FILE.replace("lr: 0.5, ", "lr: 5e-1, ")),
    ]
    assert {identity(r) for r in same} == {base}
    others = [
        "training.seed=8", "training.epochs=4", "training.loss=mse", "rule.feedback_rate=0.4", "rule=dfa",
        "optimizer.lr=0.4", "network.hidden=[16, 32]", "data.normalize=unit", "schedule=step",
    ]  # fmt: skip
    assert len({identity(recipe(FILE, other)) for other in others} | {base}) == len(others) + 1


def test_identity_sees_every_field_of_training_but_where_and_how_fast() -> None:
    changed = {
        "epochs": 99, "batch_size": 99, "seed": 99, "loss": "mse", "precision": "bf16", "drop_last": True,
        "device": "cpu", "threads": 9, "checkpoint_every": 9,
    }  # fmt: skip
    assert set(changed) == set(Training.model_fields), "a new field of training: say whether it is execution"
    base = identity(recipe(FILE))
    for field, value in changed.items():
        seen = identity(recipe(FILE, f"training.{field}={json.dumps(value)}")) != base
        assert seen == (field not in EXECUTION_FIELDS)


# ----------------------------------------------------------------------------------- for the editor


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema())


def test_schema_is_valid_and_complete(validator: Draft202012Validator) -> None:
    schema = validator.schema
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["rule"]["anyOf"][0]["enum"] == list(RULES)
    assert schema["required"] == ["data", "network", "rule"]
    epochs = schema["$defs"]["Training"]["properties"]["epochs"]
    assert (
        epochs.items() >= {"description": "passes over the training set", "default": 10, "minimum": 1}.items()
    )
    models = [schema, *schema["$defs"].values()]
    # The last form of a model that a value can stand for is that of its options.
    objects = [model["anyOf"][-1] if "anyOf" in model else model for model in models]
    assert all(o["additionalProperties"] is False for o in objects)
    assert all(o["description"] for o in objects)


@pytest.mark.parametrize("text", [*(shipped.shipped_recipes()[n].read_text() for n in SHIPPED), GOOD, FILE])
def test_schema_accepts_what_the_loader_accepts(text: str, validator: Draft202012Validator) -> None:
    loaded = resolved(text)
    validator.validate(parse(text.encode(), "r.yaml").tree)
    validator.validate(loaded.recipe.model_dump(mode="json"))


@pytest.mark.parametrize(
    "more",
    [
        "optimizer: {lr: 0.1}",
        "schedule: {warmup: 1}",
        "training: {threads: null}",
        "sweep: {parameters: {optimizer.lr: {values: [0.1]}}, prune: median}",
    ],
)
def test_schema_knows_the_shorthands(more: str, validator: Draft202012Validator) -> None:
    validator.validate(parse((GOOD + more).encode(), "r.yaml").tree)
    recipe(GOOD + more)


#: Broken recipes that JSON Schema cannot see: there a float that is whole is an integer.
INVISIBLE = {"float-for-a-count"}


def readable(data: bytes) -> object:
    """The values of a broken recipe where the reader finds nothing wrong, else None."""
    try:
        document = parse(data, "r.yaml")
    except RecipeError:
        return None
    return None if document.findings else document.tree


@pytest.mark.parametrize(
    "data",
    [pytest.param(p.values[0], id=p.id) for p in BROKEN if readable(p.values[0]) and p.id not in INVISIBLE],
)
def test_schema_refuses_what_the_loader_refuses(data: bytes, validator: Draft202012Validator) -> None:
    assert not validator.is_valid(readable(data))


# ---------------------------------------------------------------------------------- shipped recipes


def test_the_promised_recipes_are_shipped_and_say_what_they_are() -> None:
    assert set(SHIPPED) >= {
        "digits/fdfa", "digits/mlp", "mnist/mlp", "mnist/cnn", "cifar10/mlp", "cifar10/cnn",
        "cifar100/alexnet", "tiny_imagenet/alexnet",
    }  # fmt: skip
    for file in shipped.shipped_recipes().values():
        assert shipped.summary(file).endswith(".")


def test_every_shipped_recipe_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "check", *SHIPPED]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: ok" for name in SHIPPED]


@pytest.mark.parametrize("rule", list(RULES))
def test_digits_mlp_takes_every_rule(rule: str) -> None:
    assert read("digits/mlp", [f"rule={rule}"]).recipe.rule.name == rule


def test_a_recipe_is_found_by_name_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = shipped.shipped_recipes()["mnist/mlp"]
    for name in ("mnist/mlp", "mnist/mlp.yaml", "recipes/mnist/mlp.yaml", "./recipes/mnist/mlp"):
        assert shipped.find(name) == recipe
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/mlp").write_text(GOOD)
    assert shipped.find("mnist/mlp") == Path("mnist/mlp")
    with pytest.raises(UnknownName, match="did you mean 'cifar10/mlp'"):
        shipped.find("cifar/mlp")


def test_copy_refuses_to_overwrite(tmp_path: Path) -> None:
    copy = shipped.copy("mnist/mlp", tmp_path)
    assert copy == tmp_path / "mlp.yaml"
    assert copy.read_bytes() == shipped.shipped_recipes()["mnist/mlp"].read_bytes()
    copy.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        shipped.copy("mnist/mlp", tmp_path)
    assert copy.read_text() == "mine"
    shipped.copy("mnist/mlp", copy, force=True)
    assert copy.read_bytes() == shipped.shipped_recipes()["mnist/mlp"].read_bytes()
    shipped.copy(str(copy), copy, force=True)  # onto itself
    assert copy.read_bytes() == shipped.shipped_recipes()["mnist/mlp"].read_bytes()
    with pytest.raises(UsageError, match="cannot be written"):
        shipped.copy("mnist/mlp", tmp_path / "no" / "folder.yaml")
    with pytest.raises(UsageError, match="is not a file"):
        shipped.copy("mnist/mlp", Path("/dev/null"), force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.yaml"]


COPY = """
import resource, sys
from fdfa_cli.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sys.exit(run(["recipe", "copy", "mnist/mlp", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("before", [None, "mine"])
def test_a_copy_for_which_there_is_no_room_leaves_what_was_there(before: str | None, tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    if before is not None:
        target.write_text(before)
    command = [sys.executable, "-c", COPY, str(target), *([] if before is None else ["--force"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"fdfa: {target}: File too large\n"
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == (
        {} if before is None else {"mine.yaml": before}
    )


# ------------------------------------------------------------------------------------- the commands


def test_show_prints_a_recipe_that_can_be_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipe", "show", "digits/mlp", "rule=dfa", "training.seed=5"]) == 0
    out, err = capsys.readouterr()
    assert "rule dfa sets optimizer.name=adam, optimizer.lr=0.001, because the recipe does not" in err
    file = tmp_path / "r.yaml"
    file.write_text(out)
    assert read(str(file)).recipe == read("digits/mlp", ["rule=dfa", "training.seed=5"]).recipe


def test_check_reports_every_file_and_applies_overrides_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("bad.yaml").write_text(GOOD + "x: 1\ny: 2\n")
    Path("a=b.yaml").write_text(GOOD)
    assert run(["recipe", "check", "good.yaml", "bad.yaml", "a=b.yaml", "mnist/mlp", "nothing.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == ["good.yaml: ok", "a=b.yaml: ok", "mnist/mlp: ok"]
    assert [line.split(" ")[0] for line in err.splitlines() if line.startswith("bad")] == [
        "bad.yaml:4:1:",
        "bad.yaml:5:1:",
    ]
    assert "nothing.yaml" in err
    assert run(["recipe", "check", "good.yaml", "rule=dfaa"]) == 2
    assert "override 'rule=dfaa'" in capsys.readouterr().err
    assert run(["recipe", "check", "rule=dfa"]) == 2


def test_a_plugin_s_rule_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from fdfa_cli.rules.base import RULES\n"
        "from fdfa_cli.rules.backprop import Backprop\n"
        "@RULES.register\n"
        "class Mine(Backprop):\n"
        "    name: Literal['mine'] = 'mine'\n"
        "    gain: float = 1.0\n"
    )
    assert run(["recipe", "check", "digits/mlp", "rule=mine"]) == 2
    assert run(["recipe", "check", "digits/mlp", "rule=mine", "rule.gain=2", "--plugin", str(plugin)]) == 0
    capsys.readouterr()
    assert run(["recipe", "schema", "--plugin", str(plugin)]) == 0
    assert "gain" in json.loads(capsys.readouterr().out)["$defs"]["Mine"]["properties"]


COMMANDS = ["check mnist/mlp rule=dfa", "show digits/fdfa", "schema", "list"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_anything_heavy(command: str) -> None:
    program = (
        "import sys; from fdfa_cli.cli import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(bool(heavy))"
    )
    arguments = [sys.executable, "-c", program, "recipe", *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
