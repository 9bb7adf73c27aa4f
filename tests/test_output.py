"""Output that cannot be written, streams that lack characters, and signals: nothing is lost by them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stored import stored_run

from fdfa_cli import output
from fdfa_cli.errors import OutputLost, ReaderGone
from fdfa_cli.storage import RunFolder

TRAIN = ("train", "digits/fdfa", "network.hidden=[16]", "training.device=cpu")
TWICE = (*TRAIN, "training.epochs=2")
SWEEP = """
data: digits
network: {name: mlp, hidden: [8]}
rule: bp
training: {epochs: 1, device: cpu, threads: 1}
sweep: {seeds: 1, parameters: {optimizer.lr: {values: [0.01, 0.1]}}}
"""

#: Seconds after which something is taken to hang; never waited for when all is well.
HANGS = 240.0

Start = Callable[[], None]


def closed(*descriptors: int) -> Start:
    """Makes a process start without these."""
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


def full(*descriptors: int) -> Start:
    """Makes every write of a process to these fail with "No space left on device"."""
    return lambda: [os.dup2(os.open("/dev/full", os.O_WRONLY), d) for d in descriptors] and None


def unread(*descriptors: int) -> Start:
    """Gives these of a process a pipe that nobody reads."""

    def start() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for descriptor in descriptors:
            os.dup2(writer, descriptor)

    return start


def started(*arguments: str, start: Start | None = None, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fdfa_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | variables,
        preexec_fn=start,
    )


def ended(*arguments: str, start: Start | None = None, **variables: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command."""
    with started(*arguments, start=start, **variables) as process:
        shown, said = process.communicate()
    return process.returncode, shown.decode("latin-1"), said.decode()


only = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")


# ------------------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize(
    "start",
    [
        *(pytest.param(closed(*d), id=f"closed {d}") for d in ((1,), (2,), (0, 1, 2))),
        pytest.param(full(1, 2), id="full", marks=only),
        pytest.param(unread(1, 2), id="unread"),
    ],
)
def test_a_training_goes_on_whatever_becomes_of_its_output(tmp_path, start):
    code, _, said = ended(*TWICE, "--results", str(tmp_path), start=start)
    assert code == 0, said
    assert "Traceback" not in said
    (path,) = tmp_path.iterdir()
    run = RunFolder.open(path)
    assert (run.status, len(run.metrics())) == ("completed", 2)
    for name in ("run.json", "recipe.yaml", "metrics.jsonl"):  # which would get the number of a closed one
        assert b"epoch 1/2" not in (path / name).read_bytes()
        assert str(path).encode() not in (path / name).read_bytes()


def test_a_training_whose_reader_goes_ends_as_if_read(tmp_path):
    """As in `fdfa train … 2>&1 | head -1`."""
    process = started(*TRAIN, "training.epochs=40", "--results", str(tmp_path))
    assert process.stderr is not None
    with process, process.stderr:
        while not (line := process.stderr.readline()).startswith(b"epoch"):
            assert line  # not its end
    assert process.returncode == 0
    (path,) = tmp_path.iterdir()
    run = RunFolder.open(path)
    assert (run.status, len(run.metrics())) == ("completed", 40)


@only
def test_the_folder_that_cannot_be_printed_is_named_on_stderr(tmp_path):
    _, _, said = ended(*TWICE, "--quiet", "--results", str(tmp_path), start=full(1))
    (path,) = tmp_path.iterdir()
    assert (
        said == f"warning: cannot write to standard output: No space left on device; the run is in {path}\n"
    )


@pytest.mark.parametrize(("engine", "start"), [("serial", unread(2)), ("processes", closed(2))])
def test_a_sweep_goes_on_whatever_becomes_of_its_progress(tmp_path, start, engine):
    (tmp_path / "recipe.yaml").write_text(SWEEP)
    results = tmp_path / "results"
    code, shown, _ = ended(
        "sweep",
        str(tmp_path / "recipe.yaml"),
        *("--engine", engine, "--jobs", "1", "--results", str(results)),
        start=start,
    )
    assert code == 0
    assert "winner" in shown
    assert {run.status for run in map(RunFolder.open, results.glob("*/2*"))} == {"completed"}


# --------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        pytest.param(closed(1), "it is closed", id="closed"),
        pytest.param(full(1), "No space left on device", id="full", marks=only),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [["report"], ["rules", "--format", "json"], ["data", "list"], ["--help"], ["--version"]],
    ids=" ".join,
)
def test_results_that_cannot_be_printed_are_said_to_be_lost(tmp_path, monkeypatch, start, reason, arguments):
    stored_run(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code, _, said = ended(*arguments, start=start)
    assert (code, said) == (1, f"fdfa: cannot write to standard output: {reason}\n")


def test_results_that_nobody_reads_end_without_a_word(tmp_path):
    stored_run(tmp_path)
    assert ended("report", str(tmp_path), start=unread(1)) == (1, "", "")


def test_results_that_cannot_be_told_to_be_lost(tmp_path):
    stored_run(tmp_path)
    assert ended("report", str(tmp_path), start=closed(1, 2)) == (1, "", "")


@only
def test_a_mistake_keeps_its_exit_code_where_it_cannot_be_told():
    assert ended("train", "digts/mlp", start=full(1, 2))[0] == 2


@only
def test_a_sweep_whose_table_cannot_be_printed_has_stored_all(tmp_path):
    (tmp_path / "recipe.yaml").write_text(SWEEP)
    results = tmp_path / "results"
    code, _, said = ended(
        "sweep", str(tmp_path / "recipe.yaml"), "--quiet", "--results", str(results), start=full(1)
    )
    assert (code, said) == (1, "fdfa: cannot write to standard output: No space left on device\n")
    assert list(results.glob("*/sweep.json"))
    assert {run.status for run in map(RunFolder.open, results.glob("*/2*"))} == {"completed"}


def test_a_stream_that_is_full_for_now_is_waited_for():
    """A terminal's descriptor that another program has made non-blocking takes all that is printed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = (
        "import sys\nfrom fdfa_cli import output\noutput.prepare()\nprint('x' * 300_000)\n"
        "sys.stdout.flush()\nprint('y' * 300_000, file=sys.stderr)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=writer, stderr=writer):
        os.close(writer)
        with open(reader, "rb") as stream:  # noqa: PTH123 - a descriptor
            assert stream.read() == b"x" * 300_000 + b"\n" + b"y" * 300_000 + b"\n"


def test_the_first_write_that_fails_is_told_and_no_other():
    reader, writer = os.pipe()
    os.close(reader)
    stream = output._text(None, writer, needed=True)
    with pytest.raises(ReaderGone):
        print("x" * 100_000, file=stream)
    print("x" * 100_000, file=stream, flush=True)
    os.close(writer)
    lost = output._text(None, os.open(os.devnull, os.O_RDONLY), needed=True)
    with pytest.raises(OutputLost, match="closed"):
        print("x", file=lost, flush=True)
    assert output._lost(OSError(errno.ENOSPC, "No space")).args == (
        "cannot write to standard output: No space",
    )


# ------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["recipe", "list"], {"PYTHONIOENCODING": "ascii"}),
        (["rules", "fdfa"], {"PYTHONIOENCODING": "latin-1"}),
        (["rules"], {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (["train", "--help"], {"PYTHONIOENCODING": "ascii:strict"}),
    ],
    ids=str,
)
def test_every_stream_can_show_every_page(arguments, variables):
    code, shown, said = ended(*arguments, **variables)
    assert (code, said) == (0, "")
    assert shown


def test_characters_that_a_stream_lacks_are_escaped(tmp_path):
    """A completed run is not failed by the name of its folder, which both streams get to show."""
    results = tmp_path / "x é"
    code, shown, said = ended(*TWICE, "--results", str(results), PYTHONIOENCODING="ascii")
    assert code == 0, said
    (path,) = results.iterdir()
    assert shown == f"{tmp_path}/x \\xe9/{path.name}\n"
    code, _, said = ended("report", str(results / "ö"), PYTHONIOENCODING="ascii")
    assert code == 2
    assert "x \\xe9/\\xf6: no such folder" in said


# --------------------------------------------------------------------------------------------- signals


def epochs_stored(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("**/2*/metrics.jsonl"))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint(tmp_path, number):
    process = started(*TRAIN, "training.epochs=100000", "--results", str(tmp_path))
    wait_for(lambda: epochs_stored(tmp_path) >= 2, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert b"stopping: a checkpoint is being written\n" in said
    (path,) = tmp_path.iterdir()
    run = RunFolder.open(path)
    assert run.status == "interrupted"
    assert run.checkpoint.exists()


def test_under_nohup_a_training_outlives_its_terminal(tmp_path):
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = started(*TRAIN, "training.epochs=40", "--results", str(tmp_path), start=nohup)
    wait_for(lambda: epochs_stored(tmp_path) >= 2, process)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate()
    assert process.returncode == 0, said
    (path,) = tmp_path.iterdir()
    assert RunFolder.open(path).status == "completed"


@pytest.mark.parametrize("engine", ["serial", "batched", "processes"])
def test_a_sweep_whose_terminal_goes_loses_no_trial(tmp_path, engine):
    """SIGHUP comes to the driver and to all its workers."""
    (tmp_path / "recipe.yaml").write_text(SWEEP.replace("epochs: 1,", "epochs: 100000,"))
    results = tmp_path / "results"
    process = started(
        *("sweep", str(tmp_path / "recipe.yaml"), "--results", str(results)),
        *("--engine", engine, "--jobs", "2"),
        start=os.setsid,
    )
    wait_for(lambda: epochs_stored(results) >= 4, process)
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    runs = [RunFolder.open(path) for path in results.glob("*/2*")]
    assert {run.status for run in runs} == {"interrupted"}
    assert any(run.checkpoint.exists() for run in runs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_trains_nothing_is_interrupted_too(tmp_path, number):
    """Not even a plugin that is being loaded takes it for a failure of its own."""
    there, plugin = tmp_path / "there", tmp_path / "plugin.py"
    plugin.write_text(
        f"import time\nfrom pathlib import Path\nPath({str(there)!r}).touch()\ntime.sleep(600)\n"
    )
    process = started("rules", "--plugin", str(plugin))
    wait_for(there.exists, process)
    process.send_signal(number)
    assert process.communicate() == (b"", b"fdfa: interrupted\n")
    assert process.returncode == 130


BUILDING = '''
import time
from pathlib import Path
from typing import Literal
from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.network.base import NETWORKS

@NETWORKS.register
class Large(MLP):
    """A network that takes long to be built."""

    name: Literal["large"] = "large"

    def build(self, shape, classes):
        if Path({there!r}).exists():
            Path({there!r}).unlink()
            time.sleep(600)
        return super().build(shape, classes)
'''


def test_a_training_that_is_being_built_stops_at_once(tmp_path):
    there, plugin, results = tmp_path / "there", tmp_path / "large.py", tmp_path / "results"
    plugin.write_text(BUILDING.format(there=str(there)))
    process = started(
        *("train", "digits/mlp", "network={name: large, hidden: [8]}", "rule=bp", "--plugin", str(plugin)),
        *("--results", str(results)),
    )
    wait_for(lambda: list(results.glob("2*/run.json")), process)
    there.touch()
    wait_for(lambda: not there.exists(), process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    (path,) = results.iterdir()
    run = RunFolder.open(path)
    assert (run.status, run.record.error, run.checkpoint.exists()) == ("interrupted", "interrupted", False)


def proxied(port: int, data: Path) -> dict[str, str]:
    """Variables that send downloads to a port of this machine, and what comes of them to `data`."""
    proxy = f"http://127.0.0.1:{port}"
    return {"FDFA_DATA": str(data), "http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_download_that_is_interrupted_leaves_nothing(tmp_path, number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = started("data", "fetch", "mnist", **proxied(server.getsockname()[1], tmp_path))
        server.settimeout(HANGS)
        with server.accept()[0]:  # it waits for an answer
            assert any(tmp_path.iterdir())
            process.send_signal(number)
            assert process.communicate() == (b"", b"fdfa: interrupted\n")
    assert process.returncode == 130
    assert not any(tmp_path.iterdir())


def test_a_download_that_fails_says_so_and_no_more(tmp_path):
    """No remarks of the packages that torchvision loads, when the process ends."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        code, _, said = ended("data", "fetch", "mnist", **proxied(nobody.getsockname()[1], tmp_path))
    assert code == 1
    assert said.startswith("fdfa: downloading mnist failed, nothing was stored: ")
    assert len(said.splitlines()) == 1
