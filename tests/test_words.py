"""What commands say to go on with, and to inputs that are nearly right."""

from __future__ import annotations

import os
import pty
import re
import shlex
import socket
import sys
from threading import Event

import pytest

from fdfa_cli.cli import run as fdfa
from fdfa_cli.errors import UsageError
from fdfa_cli.recipe.shipped import shipped_recipes
from fdfa_cli.storage import RunFolder
from fdfa_cli.trials.engines import ray_init
from fdfa_cli.version import __version__

SMALL = ("network.hidden=[8]", "training.epochs=1", "training.device=cpu")
SWEEP = """
data: digits
network: {{name: mlp, hidden: [8]}}
rule: {rule}
training: {{epochs: 1, device: cpu, threads: 1}}
sweep: {{seeds: 1, parameters: {parameters}}}
"""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("train digits/mlp --epochs 3", "training.epochs=3"),
        ("train digits/mlp --epochs=3", "training.epochs=3"),
        ("train digits/mlp --lr 0.1", "optimizer.lr=0.1"),
        ("train digits/mlp --learning-rate 0.1", "optimizer.lr=0.1"),
        ("train digits/mlp --batch-size 8", "training.batch_size=8"),
        ("train digits/mlp --hidden [8]", "network.hidden=[8]"),
        ("train digits/mlp --rule dfa", "rule=dfa"),
        ("train --data mnist", "data=mnist"),
        ("train digits/mlp --epochs", "training.epochs=…"),
        ("sweep digits/sweep --epochs 3", "training.epochs=3"),
        ("compare digits/mlp --epochs 3", "training.epochs=3"),
        ("recipe check digits/mlp --epochs 3", "training.epochs=3"),
    ],
)
def test_an_option_of_the_recipe_is_shown_as_an_override(capsys, arguments, hint):
    assert fdfa(arguments.split()) == 2
    option = next(word for word in arguments.split() if word.startswith("--")).partition("=")[0]
    said = " ".join(re.sub("[│\n]", " ", capsys.readouterr().err).split())
    assert f"No such option: {option}. It is an option of the recipe: {hint} " in said


def test_an_option_that_is_spelled_wrong_is_no_option_of_the_recipe(capsys):
    assert fdfa(["train", "digits/mlp", "--sed", "1"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert fdfa(["train", "digits/mlp", "--colour", "red"]) == 2
    assert "recipe:" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(capsys, option):
    assert fdfa([option]) == 0
    assert capsys.readouterr().out == f"fdfa {__version__}\n"


def test_the_list_of_recipes_is_whole_in_a_narrow_terminal():
    """Lines are broken between words, and not by the terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "60", "TERM": "dumb"}
        os.execv(sys.executable, [sys.executable, "-m", "fdfa_cli", "recipe", "list"])
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # on Linux the end of a terminal is an error
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 60
    text = " ".join(" ".join(lines).split())
    for name, file in shipped_recipes().items():
        assert name in text
        assert f"{name} what it is {file.read_text().splitlines()[0].lstrip('# ').split()[0]}" in text


# ---------------------------------------------------------------------------------- runs of plugins


def test_a_sweeps_winner_and_its_trials_name_the_plugin(tmp_path, plugin, slow, capsys):
    slow.unlink()
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.format(rule="halved", parameters="{optimizer.lr: {values: [0.01, 0.1]}}"))
    results = tmp_path / "results"
    assert fdfa(["sweep", str(file), "--plugin", str(plugin), "--results", str(results), "--jobs", "1"]) == 0
    command = shlex.split(next(x for x in capsys.readouterr().out.splitlines() if x.startswith("fdfa train")))
    assert command[-2:] == ["--plugin", str(plugin)]
    assert fdfa([*command[1:], "--results", str(tmp_path / "winner"), "--quiet"]) == 0


def test_resuming_without_its_plugin_names_the_plugin(tmp_path, plugin, slow, capsys, monkeypatch):
    slow.unlink()
    results = tmp_path / "results"
    arguments = ["train", "digits/mlp", "rule=halved", *SMALL, "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["fdfa", *arguments, f"--plugin={plugin}"])
    assert fdfa([*sys.argv[1:], "--quiet"]) == 0
    (path,) = results.iterdir()
    with RunFolder.resume(path, ["fdfa"]) as run:
        run.update("interrupted", "a test")
    from fdfa_cli.rules.base import RULES

    with monkeypatch.context() as other:  # as in a process of its own
        other.setattr(RULES, "_models", {k: v for k, v in RULES.models().items() if k != "halved"})
        capsys.readouterr()
        assert fdfa(["train", "--resume", str(path)]) == 2
        said = capsys.readouterr().err
    assert said == (
        f"fdfa: {path}: rule 'halved' is not registered; the run was started with --plugin {plugin}: "
        "give that again\n"
    )
    assert fdfa(["train", "--resume", str(path), "--plugin", str(plugin), "--quiet"]) == 0


def test_a_folder_of_runs_is_no_run(tmp_path, capsys):
    assert fdfa(["train", "--resume", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"fdfa: {tmp_path}: not the folder of a run\n"
    assert fdfa(["train", "digits/mlp", *SMALL, "--results", str(tmp_path), "--quiet"]) == 0
    (path,) = tmp_path.iterdir()
    capsys.readouterr()
    assert fdfa(["train", "--resume", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"; the last of the runs in it is {path}\n")
    (path / "run.json").unlink()  # of a run that is damaged nothing is wrong with the command
    assert fdfa(["train", "--resume", str(path)]) == 1


@pytest.mark.parametrize(
    "command",
    ["report", "train --resume", "report --html", "train --results", "recipe copy digits/mlp", "sweep"],
)
def test_a_name_that_is_too_long_is_a_sentence(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    words = command.split()
    if command.startswith("train --results"):
        words[1:1] = ["digits/mlp", *SMALL]
    code = fdfa([*words, "x" * 300])
    printed = capsys.readouterr()
    assert code in (0, 2)
    assert "Traceback" not in printed.err
    assert not list(tmp_path.rglob("run.json"))


# --------------------------------------------------------------------------------------- clusters


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, capsys):
    pytest.importorskip("ray")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        arguments = ["sweep", "digits/sweep", "--engine", "ray", "--results", str(tmp_path)]
        assert fdfa([*arguments, "--address", address]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fdfa: --address {address}: nothing answers there: ")
    assert len(said.splitlines()) == 1
    for wrong in ("nowhere", "127.0.0.1:port", ":1"):
        assert fdfa([*arguments, "--address", wrong]) == 2
        assert f"--address {wrong}: must be host:port, or auto" in capsys.readouterr().err


class Silent:
    """Stands for Ray where somebody listens who is no cluster."""

    @staticmethod
    def init(**options: object) -> None:
        """Never comes back."""
        Event().wait()


class Broken:
    """Stands for Ray where it goes wrong."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def init(self, **options: object) -> None:
        """Goes wrong."""
        raise self.error


def test_a_cluster_that_does_not_answer_is_not_waited_for_long(monkeypatch, capsys):
    monkeypatch.setattr(ray_init, "QUICK", 0.01)
    monkeypatch.setattr(ray_init, "PATIENCE", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match="no Ray cluster answers within"):
            ray_init._join(Silent, address)
        assert capsys.readouterr().err == f"connecting to the Ray cluster at {address}\n"
        with pytest.raises(UsageError, match="another version"):
            ray_init._join(Broken(RuntimeError("another version\nand more")), address)
        with pytest.raises(KeyError):  # a bug stays one
            ray_init._join(Broken(KeyError("bug")), address)
