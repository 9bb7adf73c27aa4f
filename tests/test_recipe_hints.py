"""What is said about recipes, options and values that are nearly right: the word that was meant."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fdfa_cli import cli
from fdfa_cli.data.base import DATA
from fdfa_cli.errors import RecipeError, UsageError
from fdfa_cli.network.base import NETWORKS
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.optim.schedules import SCHEDULES
from fdfa_cli.recipe import explain, shipped
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.base import RULES

# what is written -> the whole hint about it
HINTS = {
    "optimizer.learning_rate=0.1": ", did you mean 'lr'? (",
    "optimizer.learningRate=0.1": ", did you mean 'lr'? (",
    "optimizer.wd=0": ", did you mean 'weight_decay'? (",
    "training.batchsize=8": ", did you mean 'batch_size'? (",
    "training.bs=8": ", did you mean 'batch_size'? (",
    "training.num_epochs=8": ", did you mean 'epochs'? (",
    "training.manual_seed=8": ", did you mean 'seed'? (",
    "training={criterion: mse}": ", did you mean 'loss'? (",
    "network.batch_norm=batch": ", did you mean 'norm'? (",
    "data.val_size=100": ", did you mean 'validation'? (",
    "training.epoch=3": ", did you mean 'epochs'? (",  # spelled alike, as before
    "training.lr=0.1": ", did you mean 'optimizer.lr'? (",
    "optimizer.num_epochs=3": ", did you mean 'training.epochs'? (",
    "training.early_stopping=true": " of training (options",
    "model=mlp": "unknown section 'model', did you mean 'network'?",
    "optim.lr=0.1": "unknown section 'optim', did you mean 'optimizer'?",
    "learning_rate=0.1": "is called 'lr' here, an option of optimizer: `optimizer.lr=…`",
    "optimizer.lr=0,1": "must be a number, not the text '0,1': write a decimal point, not a comma",
    "optimizer.lr=1,5e-3": "write a decimal point, not a comma",
    "optimizer={name: sgd, lr: 0,1}": "a number has a decimal point, not a comma",
    "training.epochs=1,000": "must be a whole number, not the text '1,000': write it without a comma",
    "optimizer.lr='0.1'": "remove the quotes",
    "optimizer.lr=a,b": "must be a number, not the text 'a,b' (",
}


@pytest.mark.parametrize("override", HINTS)
def test_an_option_by_another_name_is_told_its_own(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read("digits/mlp", [override])
    (problem,) = caught.value.problems
    assert problem.where == f"override {override!r}"
    assert HINTS[override] in problem.message


def test_every_synonym_is_one_of_a_name_that_exists_and_of_no_other() -> None:
    models = [
        m for registry in (DATA, NETWORKS, RULES, OPTIMIZERS, SCHEDULES) for m in registry.models().values()
    ]
    options = {name for model in models for name in model.model_fields}
    training = set(type(read("digits/mlp").recipe.training).model_fields)
    known = options | training | set(Recipe.model_fields)
    assert set(explain._SYNONYMS) <= known
    spelled = {name.replace("_", "") for name in known}
    for name, words in explain._SYNONYMS.items():
        for word in words.split():
            assert explain._synonyms(word)[0] == name or word == "stepsize", word
            assert word not in spelled, f"{word} is itself an option"


# --------------------------------------------------------------------------- files that are not there


def said(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        shipped.find(name)
    return str(caught.value)


def test_a_file_that_is_not_there_is_named_with_those_near_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "other.yml", "sub/deep.yaml", "notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert (
        said("nofile.yaml")
        == "there is no file nofile.yaml, and no recipe of that name (see `fdfa recipe list`)"
    )
    assert said("b.yaml").startswith("there is no file b.yaml, and")  # near by its suffix only
    assert said("mnie.yaml") == "there is no file mnie.yaml, did you mean 'mine.yaml'?"
    assert said("other.yaml") == "there is no file other.yaml, did you mean 'other.yml'?"
    assert said("sub/dep.yaml") == "there is no file sub/dep.yaml, did you mean 'sub/deep.yaml'?"
    assert said("nosub/deep.yaml").startswith("there is no file nosub/deep.yaml, and")
    assert said("mnist/mpl.yaml").startswith(
        "unknown recipe 'mnist/mpl.yaml', did you mean 'mnist/mlp.yaml'?"
    )
    Path("mnist").mkdir()
    Path("mnist/mpp.yaml").touch()  # what is in the folder comes before what is shipped
    assert said("mnist/mpl.yaml") == "there is no file mnist/mpl.yaml, did you mean 'mnist/mpp.yaml'?"


def test_a_file_in_a_folder_that_may_not_be_entered_is_not_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(file: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(Path, "lstat", denied)
    assert shipped.find("locked/mine.yaml") == Path("locked/mine.yaml")  # which says so when it is opened
    assert shipped.find("mnist/mlp") == shipped.shipped_recipes()["mnist/mlp"]


def test_recipes_and_overrides_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.yaml").touch()
    Path("rule=dfa").mkdir()  # as results are sometimes laid out
    long = f"network.hidden={[16] * 300}"
    items = ["a=b.yaml", "rule=dfa", "mnist/mlp", long, "training.epochs=3", "x=\0"]
    assert shipped.split(items) == (
        ["a=b.yaml", "mnist/mlp"],
        ["rule=dfa", long, "training.epochs=3", "x=\0"],
    )


@pytest.mark.parametrize(
    "command",
    ["recipe check digits/mlp", "recipe show digits/mlp", "train digits/mlp", "sweep digits/sweep --dry-run",
     "compare digits/mlp --rules bp --dry-run"],
)  # fmt: skip
def test_an_override_longer_than_a_file_name_is_an_override(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"network.hidden={[16] * 300}".replace("]", ", 0]")
    assert (
        cli.run([*command.split(), long, *([] if "recipe" in command else ["--results", str(tmp_path)])]) == 2
    )
    assert "network.hidden.300 must be at least 1, not 0" in capsys.readouterr().err
