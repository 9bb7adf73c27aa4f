"""What SECURITY.md promises of files that others made, tried with files that were made to break it.

Tried elsewhere: recipes (test_broken_recipes.py), the page in a browser (test_html.py), paths of sent data
(test_transfer.py), pickled data sets (test_data.py), CSV (test_report_query.py).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from soak import undisturbed

from fdfa_cli import cli
from fdfa_cli.document import load, yaml12
from fdfa_cli.report.html.reproduce import line
from fdfa_cli.storage import RunFolder


@pytest.fixture
def stranger(tmp_path: Path) -> RunFolder:
    """An interrupted run that can be gone on with, of which a stranger may have changed every byte."""
    options = ("network.hidden=[4]", "data.limit=200", "training.threads=1", "training.epochs=2")
    run = undisturbed(tmp_path / "runs", "digits/mlp", *options)
    change(run, lambda record: record.update(status="interrupted"))
    return run


def change(run: RunFolder, how: Callable[[dict[str, Any]], object]) -> None:
    file = run.path / "run.json"
    record = json.loads(file.read_text())
    how(record)
    file.write_text(json.dumps(record))


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def plain(bomb: Bomb) -> bytes:
    return pickle.dumps({"format": 3, "params": bomb})


def archive(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 3, "params": bomb}, buffer)
    return buffer.getvalue()


def legacy(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 3, "params": bomb}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def compressed(bomb: Bomb) -> bytes:
    """Of an archive's parts, with a gigabyte of zeros in a megabyte."""
    source, buffer = zipfile.ZipFile(io.BytesIO(archive(bomb))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
        with target.open(f"{source.namelist()[0].partition('/')[0]}/data/9", "w", force_zip64=True) as zeros:
            for _ in range(2**6):
                zeros.write(bytes(2**24))
    return buffer.getvalue()


@pytest.mark.parametrize("made", [plain, archive, legacy, compressed])
def test_a_checkpoint_of_a_stranger_runs_nothing(
    made: Callable[[Bomb], bytes], stranger: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = made(Bomb(tmp_path / "exploded"))
    stranger.checkpoint.write_bytes(content)
    assert cli.run(["train", "--resume", str(stranger.path), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert f"{stranger.checkpoint}: damaged" in said
    assert "weights_only" not in said  # torch advises to switch that off
    assert ("it holds other things than plain tensors and numbers" in said) is (made is archive)
    assert not (tmp_path / "exploded").exists()
    if made is plain:  # it would have, had it been read as pickles are
        pickle.loads(content)
        assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("command", ["train --resume", "report --html page.html", "report"])
def test_a_plugin_that_a_run_folder_names_is_not_loaded(
    command: str, stranger: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = stranger.path / "plugin.py"
    plugin.write_text("import os; os.mkdir('exploded')\n")
    words = ["fdfa", "train", "digits/mlp", "--plugin", str(plugin)]
    change(stranger, lambda record: record["provenance"][0].update(command=words))
    assert cli.run([*command.split(), str(stranger.path)]) == 0
    assert not Path("exploded").exists()


WORDS = [
    "$(touch exploded)", "`touch exploded`", "; touch exploded", "a\ntouch exploded\n", "\\", "a b", "", "é",
    "$HOME/$(touch exploded)", "'; touch exploded; '", '$HOME"; touch exploded; "', "-x=$IFS",
    "$USER`touch exploded`",
]  # fmt: skip


def test_a_command_to_paste_is_one_command_whatever_its_words_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USER", "someone")
    script = f"fdfa() {{ printf '%s\\0' \"$@\"; }}\n{line(['fdfa', *WORDS])}\n"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    home, user = "$HOME", "$USER"
    expected = [word.replace(home, "/home/someone").replace(user, "someone") for word in WORDS]
    assert done.stdout.split("\0")[:-1] == expected
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_run_folder_is_not_written_through(stranger: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name in ("metrics.jsonl", "run.json", "checkpoint.pt"):
        file = stranger.path / name
        content = file.read_bytes()
        mine.write_bytes(content)
        file.unlink()
        file.symlink_to(mine)
        code = cli.run(["train", "--resume", str(stranger.path), "--quiet"])
        assert mine.read_bytes() == content, (name, code)
        file.unlink()
        file.write_bytes(content)


def test_the_limits_are_those_of_the_code() -> None:
    text = " ".join((Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8").split())
    values = f"{load.MAX_VALUES:,}".replace(",", " ")
    assert f"At most {load.MAX_BYTES // 1024} KiB, {values} values" in text
    assert f", {yaml12.MAX_DEPTH} levels" in text
    assert PIL.Image.MAX_IMAGE_PIXELS is not None
    assert f"more than {round(2 * PIL.Image.MAX_IMAGE_PIXELS / 1e6)} million pixels" in text
