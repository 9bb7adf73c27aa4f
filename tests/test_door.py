"""What is read back from disk: each field and each kind of file that does not fit, and what is said of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stored import stored_run
from trainings import trained

from fdfa_cli import cli
from fdfa_cli.data import data_root
from fdfa_cli.document import yaml12
from fdfa_cli.document.load import MAX_BYTES, load, parse, values
from fdfa_cli.door import open_regular, open_to_append, read_regular
from fdfa_cli.errors import RecipeError, RunDamaged, UsageError
from fdfa_cli.recipe.resolve import read
from fdfa_cli.recipe.write import dump
from fdfa_cli.storage import RunFolder, scan
from fdfa_cli.storage.run import remove_abandoned
from fdfa_cli.training import checkpoint
from fdfa_cli.trials.announcement import ANNOUNCEMENT, Announcement
from fdfa_cli.trials.store import Store

NO_FILES = ["pipe", "device", "endless", "folder", "loop", "missing", "large"]


def put(kind: str, file: Path) -> Path:
    """Puts something that is no file of its kind in place of `file`."""
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/tty" if Path("/dev/tty").exists() else "/dev/null")
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "large":
        with file.open("wb") as stream:
            stream.truncate(2**40)
    return file


# Opening


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_a_regular_file_of_bounded_size_is_opened(tmp_path, kind):
    file = put(kind, tmp_path / "x")
    for read_it in (lambda: read_regular(file, 100), lambda: open_regular(file, 100)):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its text follows
            read_it()
        assert caught.value.strerror
        assert str(caught.value.filename) == str(file)
    assert ("pipe, socket or device" in caught.value.strerror) == (kind in ("pipe", "device", "endless"))


def test_a_file_of_just_the_size_is_read_whole_and_links_to_files_are_followed(tmp_path):
    file, link = tmp_path / "x", tmp_path / "link"
    file.write_bytes(b"a" * 100_000)
    link.symlink_to(file)
    assert read_regular(link, 100_000) == b"a" * 100_000
    with open_regular(link, 100_000) as stream:
        assert stream.read() == b"a" * 100_000
    with pytest.raises(OSError, match="larger than"):
        read_regular(link, 99_999)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "a link to a file"])
def test_nothing_is_appended_to_what_is_no_file_of_the_folder(tmp_path, kind):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    file = tmp_path / "x"
    if kind == "a link to a file":
        file.symlink_to(precious)
    else:
        put(kind, file)
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_to_append(file)
    assert precious.read_text() == "keep"


def test_a_linked_log_of_metrics_is_not_cut(tmp_path):
    """Resuming cuts what is torn from metrics.jsonl: through a link, of any file at all."""
    path = stored_run(tmp_path, status="interrupted")
    precious = tmp_path / "precious"
    precious.write_text("one line that is no row, without an end")
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(UsageError, match="a symbolic link, not a regular file"):
        RunFolder.resume(path, ["fdfa"])
    assert precious.read_text() == "one line that is no row, without an end"


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "recipe.yaml"])
def test_a_run_with_no_file_where_one_belongs_is_named_and_the_others_are_shown(tmp_path, capsys, file, kind):
    good = stored_run(tmp_path, "rule=bp", second=1)
    bad = stored_run(tmp_path, "rule=dfa")
    put(kind, bad / file)
    for arguments in (["--rows", "epochs"], ["--columns", "run,optimizer.lr,curve"]):
        assert cli.run(["report", str(tmp_path), *arguments, "--format", "json"]) in (0, 1)
        assert good.name in capsys.readouterr().out
    cli.run(["report", str(tmp_path), "--columns", "run,optimizer.lr,curve"])
    assert str(bad) in capsys.readouterr().err


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_recipe_that_is_no_file_is_refused(tmp_path, kind, capsys):
    file = put(kind, tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: "):
        load(file)
    assert cli.run(["recipe", "check", str(file)]) == 2
    assert cli.run(["recipe", "copy", str(file), str(tmp_path / "copy.yaml")]) in (1, 2)
    assert "recipe.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "folder", "a link to a file"])
def test_a_sweeps_lock_that_is_no_file_is_a_usage_error(tmp_path, kind):
    from fdfa_cli.trials.store import open_store

    if kind == "a link to a file":
        (tmp_path / ".lock").symlink_to(tmp_path / "x")
    else:
        put(kind, tmp_path / ".lock")
    with pytest.raises(UsageError, match="cannot write to"), open_store(tmp_path):
        pass


# run.json


def changed(path: Path, change: object) -> None:
    """Rewrites run.json by a function of its content, or with other text in it."""
    file = path / "run.json"
    if callable(change):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        old, new = change
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))


RECORDS = {
    "a summary of 401 digits": (("0.875", "9" * 401), "summary.test_accuracy is not a finite number"),
    "a summary of 5000 digits": (("0.875", "9" * 5000), "not JSON"),
    "a number whose square is infinite": (("0.875", "1e200"), "summary.test_accuracy is not a finite number"),
    "an accuracy above one": (("0.875", "98.5"), "summary.test_accuracy must be from 0 to 1, not 98.5"),
    "a truth for a number": (("0.875", "true"), "summary.test_accuracy is not a finite number"),
    "epochs that are no count": (
        ("\"epochs\": 2", "\"epochs\": 2.5"), "summary.epochs is not a number of epochs"
    ),
    "too many numbers": (
        lambda c: c["summary"].update({f"x{i}": i for i in range(2000)}), "more than 1000 entries"
    ),
    "a dotted name": (lambda c: c["summary"].update({"optimizer.lr": 1}), "'optimizer.lr' is not a name"),
    "a name that acts": (lambda c: c["summary"].update({"\x1b[2J": 1}), r"'\x1b[2J' is not a name"),
    "a choice that acts": (lambda c: c["facts"].update(rule="\x1b[2J"), r"facts.rule cannot be '\x1b[2J'"),
    "a long choice": (lambda c: c["facts"].update(rule="x" * 10**6), "facts.rule cannot be"),
    "an empty choice": (lambda c: c["facts"].update(data=""), "facts.data cannot be ''"),
    "a truth for a seed": (lambda c: c["facts"].update(seed=True), "facts.seed is not a whole number"),
    "a number called run": (lambda c: c["summary"].update(run=1), "run is not a name of a number"),
    "a fact called run": (lambda c: c["facts"].update(run="x"), "facts.run is the name of something else"),
    "a number and a fact": (lambda c: c["facts"].update(epochs=1), "facts.epochs is the name of something"),
    "a seed of too many bits": (lambda c: c["facts"].update(seed=2**63), "facts.seed is not a whole number"),
    "a fact too deep": (lambda c: c["facts"].update(x=[[[[[[[[[[1]]]]]]]]]]), "facts.x cannot be"),
    "no such day": (lambda c: c.update(created="2026-02-30T00:00:00Z"), "created is not a time in UTC"),
    "a time elsewhere": (
        lambda c: c.update(created="2026-01-01T00:00:00+02:00"), "created is not a time in UTC"
    ),
    "a time without a zone": (lambda c: c.update(created="2026-01-01"), "created is not a time in UTC"),
    "a long error": (lambda c: c.update(error="x" * 10**6), "error is longer than"),
    "a schema that is true": (lambda c: c.update(schema=True), "schema True; this version reads 1"),
    "a status that is a list": (lambda c: c.update(status=[1]), "status a list of 1 is none of"),
    "an entry missing": (lambda c: c.pop("summary"), "summary is missing"),
    "a command that is text": (
        lambda c: c["provenance"][0].update(command="x"), "provenance.command cannot be"
    ),
    "words that are none": (lambda c: c["provenance"][0].update(command=[1]), "provenance.command cannot be"),
    "a device that is a list": (
        lambda c: c["provenance"][0].update(device=[]), "provenance.device cannot be"
    ),
    "too many threads": (lambda c: c["provenance"][0].update(threads=10**12), "provenance.threads cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_is_checked_field_by_field(tmp_path, capsys, what):
    good, bad = stored_run(tmp_path, "rule=bp"), stored_run(tmp_path, second=1, test_accuracy=0.875)
    change, reason = RECORDS[what]
    changed(bad, change)
    runs, damaged = scan([tmp_path])
    assert [run.path for run in runs] == [good]
    (error,) = damaged
    assert str(error).startswith(f"{bad}/run.json: ")
    assert reason in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < len(str(bad)) + 200
    assert cli.run(["report", str(tmp_path), "--format", "json"]) == 1
    assert good.name in capsys.readouterr().out


def test_no_writer_writes_what_the_door_refuses(tmp_path):
    """Overflow becomes null, a long error is cut, and a row that is none is refused before it is stored."""
    path = stored_run(tmp_path, rows=[{"epoch": 3, "train_loss": 1e200, "lr": -1e300}], test_loss=1e160)
    run = RunFolder.open(path)
    assert run.metrics()[2] == {"epoch": 3, "train_loss": None, "lr": None}
    assert run.record.summary["test_loss"] is None
    with RunFolder.resume(path, ["fdfa"]) as run:
        run.update("failed", "x" * 10**6)
        for row in ({"epoch": 4, "note": "x"}, {"epoch": 0}, {"epoch": True}, {"epoch": 4, "a.b": 1}):
            with pytest.raises(ValueError):  # noqa: PT011 - each has its own
                run.append(row)
    assert 1000 < len(RunFolder.open(path).record.error) < 10**5
    assert len(RunFolder.open(path).metrics()) == 3


# metrics.jsonl

PROBE = {"step": 3, "epoch": 0.5, "blocks": [{"block": 1, "variance": 0.5, "signal_at": "output"}]}


def probe(**changes: object) -> str:
    return json.dumps({"epoch": 3, "diagnostics": [PROBE | changes]})


ROWS = {
    "brackets": ("[" * 100_000, ""),
    "objects": ('{"a":' * 100_000, ""),
    "text for seconds": ('{"epoch": 3, "train_seconds": "x"}', "train_seconds is not a finite number: 'x'"),
    "infinity": ('{"epoch": 3, "val_loss": 1e999}', "val_loss is not a finite number: inf"),
    "a list": ('{"epoch": 3, "val_loss": [1]}', "val_loss is not a finite number: a list of 1"),
    "an epoch again": ('{"epoch": 2}', "epoch must be a whole number above 2, not 2"),
    "half an epoch": ('{"epoch": 3.5}', "epoch must be a whole number above 2, not 3.5"),
    "an epoch that is true": ('{"epoch": true}', "epoch must be"),
    "an epoch of too many bits": ('{"epoch": 9007199254740992}', "epoch must be"),
    "negative seconds": ('{"epoch": 3, "train_seconds": -1}', "train_seconds must be from 0"),
    "diagnostics in text": ('{"epoch": 3, "diagnostics": "x"}', "diagnostics is not a list"),
    "diagnostics null": ('{"epoch": 3, "diagnostics": null}', "diagnostics is not a list"),
    "diagnostics an object": ('{"epoch": 3, "diagnostics": {"blocks": []}}', "diagnostics is not a list"),
    "a probe in text": ('{"epoch": 3, "diagnostics": ["x"]}', "a list of blocks"),
    "no blocks": (probe(blocks=None), "a list of blocks"),
    "a block in text": (probe(blocks=["x"]), "the number of their block"),
    "a block without its number": (probe(blocks=[{"variance": 1}]), "the number of their block"),
    "a figure in text": (
        probe(blocks=[{"block": 1, "bias": "x"}]), "diagnostics.blocks.bias is not a finite"
    ),
    "a cosine of two": (
        probe(blocks=[{"block": 1, "signal_cosine": 2}]), "signal_cosine must be from -1 to 1"
    ),
    "a figure called run": (probe(blocks=[{"block": 1, "run": 3}]), "run is not a name of a number"),
    "a number called rule": ('{"epoch": 3, "rule": 3}', "rule is not a name of a number"),
    "a signal nowhere": (probe(blocks=[{"block": 1, "signal_at": "\x1b"}]), r"signal_at cannot be '\x1b'"),
    "phases in a list": (probe(phases=[1]), "diagnostics.phases must be an object of objects"),
    "a phase in text": (probe(phases={"forward": "x"}), "diagnostics.phases must be an object of objects"),
    "seconds of a phase": (probe(phases={"forward": {"seconds": []}}), "forward.seconds is not a finite"),
    "a step in text": (probe(step="x"), "diagnostics.step is not a number of steps"),
    "an epoch in text": (probe(epoch=None), "diagnostics.epoch is not a number of epochs"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("status", ["completed", "running"])
def test_a_row_of_metrics_is_checked_field_by_field(tmp_path, capsys, what, status):
    good = stored_run(tmp_path, "rule=bp", rows=[{"epoch": 3, "diagnostics": [PROBE]}])
    bad = stored_run(tmp_path, "rule=dfa", status=status if status == "completed" else None, second=1)
    line, reason = ROWS[what]
    with (bad / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunDamaged, match=r"metrics\.jsonl:3: not a row of metrics") as caught:
        list(RunFolder(bad, scan([good]).runs[0].record).metrics())
    assert reason in str(caught.value)
    views = (["--rows", "epochs"], ["--rows", "diagnostics"], ["--columns", "run,curve"])
    for view in views if status == "completed" else views[:1]:
        assert cli.run(["report", str(tmp_path), "--format", "json", *view]) == 1
        printed = capsys.readouterr()
        assert good.name in printed.out
        assert f"{bad}/metrics.jsonl:3: not a row of metrics" in printed.err
    assert (Store(tmp_path).damaged == []) == (status == "completed")


def test_folders_too_deep_are_named_and_the_others_read(tmp_path):
    good = stored_run(tmp_path, "rule=bp")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    runs, damaged = scan([tmp_path])
    assert [run.path for run in runs] == [good]
    (error,) = damaged
    assert "more than 100 folders deep, so not looked into" in str(error)
    shutil.rmtree(tmp_path / "d", ignore_errors=True)


# recipe.yaml

RECIPES = {
    "no such day": ("lr: 2001-99-99", None),
    "a date": ("lr: 2001-01-01", None),
    "binary": ("lr: !!binary aGk=", "the tag !!binary is not allowed"),
    "a set": ("lr: !!set {a, b}", "the tag !!set is not allowed"),
    "an alias of itself": ("lr: &a [*a]", "an alias that contains itself?"),
    "5000 digits": ("lr: " + "9" * 5000, "the number does not fit in 64 bits"),
    "not a number": ("lr: .nan", "is not a finite number"),
    "a key twice": ("lr: 0.1\n  lr: 0.2", "the key 'lr' is given twice"),
    "a number as a key": ("\n3: 4\n", "'3' is not a name"),
    "brackets": ("lr: " + "[" * 200_000, "levels deep"),
    "dashes": ("\nx:\n" + "- " * 100_000, "levels deep"),
    "doubling aliases": (
        "\nb0: &a0 [x, x]\n" + "".join(f"b{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
        "more than 10000 values",
    ),
    "a long list": ("lr: [" + "1, " * 80_000 + "]", "more than 20000 keys and values"),
    "indented too deep": ("\nx:\n" + "".join(" " * i + "a:\n" for i in range(3, 700)), "levels deep"),
}


@pytest.mark.parametrize("what", RECIPES)
def test_a_stored_recipe_is_read_as_yaml_says_or_named(tmp_path, capsys, what):
    stored_run(tmp_path, "rule=bp")
    bad = stored_run(tmp_path, "rule=dfa", second=1)
    written, reason = RECIPES[what]
    file = bad / "recipe.yaml"
    text = file.read_text()
    file.write_text(text + written if written[0] == "\n" else text.replace("lr: 0.001", written, 1))
    for view in (["--columns", "run,optimizer.lr"], ["--group-by", "optimizer.lr"]):
        assert cli.run(["report", str(tmp_path), *view, "--format", "json"]) == (0 if reason is None else 1)
        printed = capsys.readouterr()
        assert "0.001" in printed.out
        assert (reason or "") in printed.err
        assert (str(file) in printed.err) == (reason is not None)


def test_an_unreadable_recipe_alone_is_named_beside_the_name_that_it_may_have(tmp_path, capsys):
    path = stored_run(tmp_path)
    (path / "recipe.yaml").write_text("a: [1")
    assert cli.run(["report", str(tmp_path), "--columns", "run,optimizer.lr"]) == 2
    assert f"could not be read: {path}/recipe.yaml:1:4: a list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["a: 1e-3", "a: on", "a: 010", "a: 1:30", "a: 0o17", "a: 2001-01-01", "a: 1_000", "a: ~", "a: .5",
     "a: '1'", "a: [1, {b: x}, []]", "a: 'x: y'", "a: Null", "a: True", "a: -0x1F", "a: 0x1F", "a: é",
     "a: +1", "a:\n  b: 1"],
)  # fmt: skip
def test_the_quick_reader_reads_as_the_strict_one(text):
    assert repr(yaml12.quick(text)) == repr(values(text, "x")) == repr(parse(text.encode(), "x").tree)


def test_the_quick_reader_reads_every_shipped_recipe_as_it_is_stored():
    from fdfa_cli.recipe.shipped import shipped_recipes

    for name in shipped_recipes():
        text = dump(read(name).recipe.single())
        assert len(text) < MAX_BYTES
        assert yaml12.quick(text) == parse(text.encode(), name).tree, name


# .plan.json


@pytest.mark.parametrize(
    "text",
    ["[", "[" * 100_000, "3", "null", '{"total": "x", "identities": []}', '{"total": 1}',
     '{"total": 1e999, "identities": []}', '{"total": 1, "identities": 3}',
     '{"total": -1, "identities": []}', "\x00"],
)  # fmt: skip
def test_an_announcement_that_is_none_is_passed_over(tmp_path, text):
    (tmp_path / ANNOUNCEMENT).write_text(text)
    assert Announcement.read(tmp_path) is None


@pytest.mark.parametrize("kind", NO_FILES)
def test_an_announcement_that_is_no_file_is_passed_over(tmp_path, kind):
    put(kind, tmp_path / ANNOUNCEMENT)
    assert Announcement.read(tmp_path) is None


# checkpoint.pt

TINY = ("network.hidden=[3]", "training.epochs=2", "data.limit=100", "training.threads=1")


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after the first of two epochs."""
    recipe = read("digits/mlp", TINY).recipe.single()
    folder = tmp_path_factory.mktemp("paused")
    return trained(folder, recipe, until=1).path


@pytest.fixture
def stopped(paused, tmp_path) -> Path:
    return shutil.copytree(paused, tmp_path / paused.name)


def session_of(path: Path) -> object:
    """A new state of the run's recipe."""
    from fdfa_cli.recipe.resolve import resolve
    from fdfa_cli.training.state import TrainState

    recipe = resolve(load(path / "recipe.yaml")).recipe
    train = recipe.data.load(data_root(), torch.device("cpu")).train
    network = recipe.network.build(recipe.data.shape(), recipe.data.classes())
    return TrainState(recipe, network, len(train), torch.device("cpu"))


def same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_no_flipped_bit_of_a_checkpoint_is_trained_on(stopped):
    """In some 500 places, the tensors' data among them: it is refused, or nothing has changed."""
    file, state = stopped / "checkpoint.pt", session_of(stopped)
    whole = file.read_bytes()
    checkpoint.load(file, state)
    truth = torch.load(file, weights_only=True)
    truth.pop("format")
    assert same(truth, state.state_dict())
    fresh, refused = session_of(stopped), []
    checkpoint.load(file, fresh)
    for place in range(0, len(whole), len(whole) // 500):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            checkpoint.load(file, fresh)
        except RunDamaged as error:
            refused.append(str(error))
        assert same(truth, fresh.state_dict()), place
    assert len(refused) > 250
    assert all(message.startswith(f"{file}: damaged: ") for message in refused)


def test_a_flipped_weight_is_named_and_the_run_is_not_called_diverged(stopped, capsys):
    file = stopped / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    weight = torch.load(file, weights_only=True)["params"]
    inside = content.index(next(iter(weight.values())).numpy().tobytes()[:32]) + 3
    content[inside] ^= 0x40
    file.write_bytes(content)
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert f"{file}: damaged: the checksum of" in said
    assert "if you remove it, the run starts again" in said
    assert RunFolder.open(stopped).status == "failed"
    file.unlink()
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert RunFolder.open(stopped).status == "completed"


def entry(name: str, value: object) -> object:
    """A change of a checkpoint's content: `value` at the dotted `name`, or a function of what was there."""

    def change(content: dict) -> dict:
        *above, last = name.split("/")
        place = content
        for key in above:
            place = place[key]
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value(place[last]) if callable(value) else value
        return content

    return change


REMOVED = object()
CHECKPOINTS = {
    "a list": (lambda _: [1], "not a checkpoint"),
    "a tensor": (lambda _: torch.zeros(3), "not a checkpoint"),
    "empty": (lambda _: {}, "of another format than 3"),
    "another format": (entry("format", 2), "of another format than 3"),
    "no epoch": (entry("epoch", REMOVED), "the entries of the checkpoint are not those of this training"),
    "no numbers": (entry("numbers", REMOVED), "the entries of the checkpoint"),
    "one more entry": (lambda c: c | {"more": 1}, "the entries of the checkpoint"),
    "no moments": (entry("moments/weights", {}), "the entries of moments.weights"),
    "parameters in a list": (entry("params", lambda p: list(p.values())), "the entries of params"),
    "an epoch in text": (entry("epoch", "x"), "epoch cannot be 'x'"),
    "a negative epoch": (entry("epoch", -1), "epoch cannot be -1"),
    "an epoch that is true": (entry("epoch", True), "epoch cannot be True"),
    "a position beyond the epoch": (entry("position", 10**6), "position cannot be 1000000 of"),
    "seconds that are none": (entry("seconds", float("nan")), "seconds cannot be nan"),
    "a stream that is too short": (
        entry("streams/dropout", torch.zeros(3, dtype=torch.uint8)), "streams.dropout"
    ),
    "a stream that is no state": (
        entry("streams/dropout", lambda s: torch.full_like(s, 255)), "damaged"
    ),
    "another type": (entry("loss_sum", torch.zeros(())), "loss_sum is float32[], not float64[]"),
    "another shape": (
        entry("correct", torch.zeros(2, dtype=torch.int64)), "correct is int64[2], not int64[]"
    ),
    "a number for a tensor": (entry("correct", 3), "correct is no tensor"),
    "a sparse tensor": (entry("correct", torch.eye(2).to_sparse()), "damaged"),
    "a tensor without data": (
        entry("correct", torch.zeros((), dtype=torch.int64, device="meta")), "correct is"
    ),
    "probes in text": (entry("probes", "x"), "diagnostics is not a list"),
    "a probe in text": (entry("probes", ["x"]), "diagnostics must be objects"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_is_compared_with_the_training_entry_by_entry(stopped, capsys, what):
    file = stopped / "checkpoint.pt"
    change, reason = CHECKPOINTS[what]
    state = session_of(stopped)
    before = {name: tensor.clone() for name, tensor in state.params.items()}
    torch.save(change(torch.load(file, weights_only=True)), file)
    with pytest.raises(RunDamaged, match=r"checkpoint\.pt: damaged: ") as caught:
        checkpoint.load(file, state)
    assert reason in str(caught.value)
    assert same(before, state.params)
    assert state.epoch == 0
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert f"{file}: damaged: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", [*NO_FILES, "text", "compressed", "nothing"])
def test_a_checkpoint_that_is_no_archive_of_ours_is_named(stopped, capsys, kind):
    file = stopped / "checkpoint.pt"
    if kind in ("text", "nothing"):
        file.write_text("hello" if kind == "text" else "")
    elif kind == "compressed":
        import zipfile

        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**6))
    else:
        put(kind, file)
    code = cli.run(["train", "--resume", str(stopped), "--quiet"])
    said = capsys.readouterr().err
    if kind in ("missing", "loop"):  # as if it was stopped before its first one
        assert code == 0
    else:
        assert code == 1
        assert f"{file}: " in said


def test_a_checkpoint_that_may_not_be_read_is_named(stopped, monkeypatch, capsys):
    """As for a user without the permission, whoever runs the tests."""
    opened = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith("checkpoint.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert f"{stopped}/checkpoint.pt: Permission denied" in capsys.readouterr().err


# Going on with a run


def test_an_edited_recipe_is_not_gone_on_with(stopped, capsys):
    file = stopped / "recipe.yaml"
    before = (stopped / "run.json").read_bytes()
    file.write_text(file.read_text().replace("lr: 0.001", "lr: 0.5"))
    assert "lr: 0.5" in file.read_text()
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert f"{file}: the recipe is not the one that was started" in capsys.readouterr().err
    assert (stopped / "run.json").read_bytes() == before


def test_where_it_computes_may_be_edited(stopped):
    file = stopped / "recipe.yaml"
    file.write_text(file.read_text().replace("checkpoint_every: 1", "checkpoint_every: 2"))
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 0


def test_a_run_whose_rows_lack_what_the_end_sums_up_comes_to_its_end(stopped):
    file = stopped / "metrics.jsonl"
    row = json.loads(file.read_text())
    del row["train_seconds"], row["val_accuracy"]
    file.write_text(json.dumps(row) + "\n")
    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert RunFolder.open(stopped).record.summary["best_val_epoch"] == 2


@pytest.mark.parametrize(
    ("stored", "wanted", "default", "used", "said"),
    [
        (3, None, 1, 3, False),  # as many as before, however many it would be now
        (3, 2, 1, 2, True),
        (3, 3, 1, 3, False),
        (10**6, None, 1, None, True),
        (None, None, 1, None, False),
        (None, 2, 1, 2, False),
    ],
)
def test_a_run_goes_on_with_the_threads_that_it_had(monkeypatch, capsys, stored, wanted, default, used, said):
    from fdfa_cli.training import start

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: default)
    threads = "null" if wanted is None else wanted
    recipe = read("digits/mlp", [f"training.threads={threads}"]).recipe.single()
    run = SimpleNamespace(path="RUN", record=SimpleNamespace(provenance=[{"threads": stored}]))
    assert start._on_threads_of(run, recipe).training.threads == used
    assert (f"RUN: trained on {stored} threads so far" in capsys.readouterr().err) == said


# What is trained again, and what is left over


@pytest.mark.parametrize("recipe", ["whole", "damaged"])
def test_what_cannot_be_read_is_said_until_it_is_trained_again(tmp_path, recipe):
    lost = stored_run(tmp_path, "rule=dfa")
    (lost / "run.json").unlink()
    if recipe == "damaged":
        (lost / "recipe.yaml").write_text("[")
    stored_run(tmp_path, "rule=bp", second=1)
    assert [str(error) for error in Store(tmp_path).damaged] == [f"{lost}: run.json missing"]
    stored_run(tmp_path, "rule=dfa", second=2)
    assert Store(tmp_path).damaged == []
    assert [str(error) for error in scan([tmp_path]).damaged] == [f"{lost}: run.json missing"]


def test_metrics_that_cannot_be_read_end_no_sweep(tmp_path):
    path = stored_run(tmp_path, curve=(0.5, 0.6, 0.7))
    (path / "metrics.jsonl").write_text("[]\n")
    store, trial = (
        Store(tmp_path),
        SimpleNamespace(identity=RunFolder.open(path).record.facts["identity"], epochs=9),
    )
    for _ in range(2):
        assert store.value(trial, "val_accuracy", 1) is None
    assert [str(error) for error in store.damaged] == [
        f"{path}/metrics.jsonl:1: not a row of metrics: not an object"
    ]


KILLED = """
    import os, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from fdfa_cli.storage import RunFolder
    def watch(event, arguments):
        if event == "os.rename" and str(arguments[0]).endswith(".new"):
            if sys.argv[2] == "killed":
                os._exit(9)
            print("creating", flush=True)
            sys.stdin.read()
    sys.addaudithook(watch)
    facts = {"data": "d", "network": "n", "rule": "r", "seed": 0, "identity": "0123abcd" * 2}
    noon = datetime(2026, 1, 2, tzinfo=UTC)
    RunFolder.create(Path(sys.argv[1]), "r", facts, [], clock=lambda: noon).close()
"""


def creator(results: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(results), how],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_what_a_killed_creator_left_is_removed_but_nothing_of_one_that_lives(tmp_path):
    kept = stored_run(tmp_path)
    others = [tmp_path / ".mine.new", tmp_path / "empty", tmp_path / ".20260102T000000Z-file.new"]
    for other in others[:2]:
        other.mkdir()
    others[2].touch()
    creator(tmp_path, "killed").communicate()
    left = {path.name for path in tmp_path.iterdir()} - {kept.name, *(other.name for other in others)}
    name = "20260102T000000Z-d-n-r-0123abcd"
    assert left == {name, f".{name}.new"}
    with creator(tmp_path, "waits") as living:
        assert living.stdout.readline() == "creating\n"
        before = {path.name for path in tmp_path.iterdir()}
        remove_abandoned(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == before
        living.communicate("")
    assert RunFolder.open(tmp_path / f"{name}-2").status == "interrupted"
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        kept.name, f"{name}-2", *(other.name for other in others)
    }  # fmt: skip
    remove_abandoned(tmp_path / "not there")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_start_removes_what_a_killed_one_left(tmp_path, command):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "data: {name: digits, limit: 100}\nnetwork: {name: mlp, hidden: [2]}\nrule: bp\n"
        "training: {epochs: 1}\n"
        + ("sweep: {parameters: {optimizer.lr: {values: [0.1]}}}\n" if command == "sweep" else "")
    )
    results = tmp_path / "results"
    arguments = [command, str(recipe), "--results", str(results), "--quiet"]
    if command == "sweep":
        assert cli.run([*arguments, "--engine", "serial"]) == 0
        (where,) = results.iterdir()
        arguments += ["--engine", "serial"]
    else:
        where = results
    creator(where, "killed").communicate()
    assert list(where.glob(".2*.new"))
    assert cli.run(arguments) == 0
    assert not list(where.glob(".2*.new"))
    assert not (where / "20260102T000000Z-d-n-r-0123abcd").exists()


def test_a_folder_that_somebody_holds_does_not_keep_a_run_from_being_created(tmp_path, monkeypatch):
    """A cleaner that was stopped in the middle, for example."""
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    try:
        assert RunFolder.open(stored_run(tmp_path)).status == "completed"
    finally:
        os.close(handle)


def test_the_time_a_run_was_created_is_in_utc_to_the_second(tmp_path):
    path = stored_run(tmp_path, second=5)
    assert datetime.fromisoformat(RunFolder.open(path).record.created) == datetime(
        2026, 1, 2, 0, 0, 5, tzinfo=UTC
    )
