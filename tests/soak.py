"""`make soak`: what must hold by chance and for long, repeated until the time is over.

    python tests/soak.py --seconds 1800           # stops at the first violation, with how to repeat it
    python tests/soak.py --part full_disk --seed 7      # one part once
    python tests/soak.py --part hostile_folders --count 10000

Every part is a function of an empty folder, a seed and how much of it to do. It returns what it has
counted, or raises `Violation`. After every round, what has happened so far is written to --out as JSON, so
that it is stored whatever ends the soak: a violation, Ctrl-C, SIGTERM (as `timeout` sends) or SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import psutil
import torch
from hostile_runs import make
from test_recipe_fuzz import FUZZ, KINDS
from test_sweep import BASE, store

from fdfa_cli import cli
from fdfa_cli.data import data_root
from fdfa_cli.recipe.resolve import read
from fdfa_cli.storage import RunFolder, atomic_write
from fdfa_cli.storage.provenance import provenance
from fdfa_cli.training.loop import fit
from fdfa_cli.training.training_run import TrainingRun

#: What half an hour is to reach; a shorter soak reaches its share.
SECONDS, FOLDERS, RECIPES, EPOCHS = 1800.0, 10_000, 10_000, 3_000
#: Folders or recipes of one round.
BATCH = 1000
#: What Python (an arena) and malloc (its top) take from the system at a time, bytes.
GRANULE = 2**20 + 2**17
#: Seconds after which a process is taken to hang.
HANGS = 300.0
RULES = ("bp", "dfa", "fdfa", "fdfa-adam", "kp", "fg-w", "grape", "ff", "pepita", "wm")

#: What a run is made of.
FILES = ["checkpoint.pt", "metrics.jsonl", "recipe.yaml", "run.json"]

Counts = Counter[str]


class Violation(Exception):
    """Something that must hold does not."""


def require(holds: bool, *message: object) -> None:
    """Raise `Violation` with the message unless it holds."""
    if not holds:
        raise Violation(" ".join(map(str, message)))


# ---------------------------------------------------------------------------------------- processes


def start(*arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    """`fdfa` with `arguments`, as `spawn` starts it."""
    return spawn([sys.executable, "-m", "fdfa_cli", *arguments], limit)


def spawn(command: Sequence[str], limit: int | None = None) -> subprocess.Popen[str]:
    """A process with a group of its own, whose files may have `limit` bytes at most."""

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # A full disk would leave half a module in the cache of bytecode, which all would read.
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
        preexec_fn=prepare,
    )


def ended(process: subprocess.Popen[str], codes: Sequence[int]) -> str:
    """What the process printed; it must end, with one of `codes` and without a traceback."""
    try:
        out, err = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired as error:
        kill(process)
        raise Violation(f"{process.args} hangs") from error
    said = f"{process.args}\nexit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    require(process.returncode in codes, "another exit code than", codes, "of", said)
    require("Traceback (most recent call last)" not in out + err, "a traceback:", said)
    return out


def epochs_stored(results: Path) -> int:
    """Rows of metrics in all runs of `results`, and of the sweeps in it; drafts come and go."""
    files = [*results.glob("2*/metrics.jsonl"), *results.glob("[!.]*/2*/metrics.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files)


def killed(process: subprocess.Popen[str], results: Path, epochs: int, chance: random.Random) -> bool:
    """Kill the process while it starts, or when it has trained some of the `epochs` that are left."""
    before = epochs_stored(results)
    wanted = before + chance.randint(0, max(0, epochs - before))
    begun = time.monotonic()
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 4))
        wanted = before
    while epochs_stored(results) < wanted and process.poll() is None:
        require(time.monotonic() - begun < HANGS, f"{process.args} hangs")
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    return kill(process, alone=chance.random() < 0.5)


def kill(process: subprocess.Popen[str], alone: bool = False) -> bool:
    """Kill the process, with its group unless `alone`; whether it had not ended before."""
    with contextlib.suppress(ProcessLookupError):
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


# --------------------------------------------------------------------------------- one training, killed


def training(chance: random.Random) -> tuple[str, ...]:
    """A training of a few seconds."""
    options = [
        f"rule={chance.choice(RULES)}",
        f"network.hidden=[{chance.randint(4, 40)},{chance.randint(4, 40)}]",
        f"training.epochs={chance.randint(20, 80)}",
        f"training.seed={chance.randrange(2**32)}",
        f"network.dropout={chance.choice((0, 0.2))}",
        "training.threads=1",
        "training.device=cpu",
    ]
    return ("digits/mlp", *options)


def undisturbed(folder: Path, recipe: str, *overrides: str) -> RunFolder:
    """The run of a training that nothing disturbs."""
    resolved = read(recipe, overrides).recipe.single()
    training = TrainingRun.new(resolved, folder, ["fdfa"])
    fit(training, data_root())
    return RunFolder.open(training.run.path)


def started_runs(results: Path) -> list[Path]:
    """The folders of runs in `results`."""
    return sorted(file.parent for file in results.glob("2*/run.json"))


def onward(results: Path, arguments: Sequence[str]) -> list[str]:
    """The command that goes on with the training in `results`, or starts it where it had not got so far."""
    if runs := started_runs(results):
        require(len(runs) == 1, "one training left several runs:", runs)
        return ["train", "--resume", str(runs[0]), "--quiet"]
    return ["train", *arguments, "--results", str(results), "--quiet"]


def require_same(results: Path, whole: RunFolder, about: str) -> None:
    """The run in `results` is completed and, but for its clocks, the same as `whole` to the last bit."""
    (path,) = started_runs(results)
    run = RunFolder.open(path)
    require(run.status == "completed", about, "ended", run.status, run.record.error)
    require(timeless(run.metrics()) == timeless(whole.metrics()), about, "has other metrics")
    mine, theirs = (torch.load(r.checkpoint, weights_only=True) for r in (run, whole))
    require(equal(timeless(mine), timeless(theirs)), about, "has another checkpoint")
    for key in ("test_accuracy", "test_loss", "best_val_accuracy", "best_val_epoch"):
        require(run.record.summary.get(key) == whole.record.summary.get(key), about, "has another", key)
    require(names(path) == FILES, about, "left", names(path))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What is printed goes nowhere."""
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
        yield


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(file.name for file in folder.iterdir())


def timeless(tree: Any) -> Any:
    """`tree` without its clocks."""
    if isinstance(tree, dict):
        return {key: timeless(v) for key, v in tree.items() if not str(key).endswith("seconds")}
    return [timeless(value) for value in tree] if isinstance(tree, list | tuple) else tree


def equal(one: Any, other: Any) -> bool:
    """Whether two trees hold the same tensors and values."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def killed_training(folder: Path, seed: int, kills: int = 3) -> Counts:
    """A training killed at random moments, from its first import on, is resumed to the same bits."""
    chance = random.Random(seed)
    arguments = training(chance)
    whole = undisturbed(folder / "whole", *arguments)
    results, counts = folder / "killed", Counter(trainings=1)
    for _ in range(kills):
        process = start(*onward(results, arguments))
        counts["kills of trainings"] += killed(process, results, len(whole.metrics()), chance)
    ended(start(*onward(results, arguments)), [0])
    require_same(results, whole, f"{arguments}, killed and resumed,")
    return counts


# ------------------------------------------------------------------------------------- sweeps, killed


def sweep_recipe(folder: Path, chance: random.Random) -> Path:
    """A sweep of four trials of about a second."""
    text = BASE.replace("epochs: 2", f"epochs: {chance.randint(50, 200)}").replace("bp", chance.choice(RULES))
    rates = sorted(chance.uniform(0.001, 0.05) for _ in range(2))
    file = folder / "swept.yaml"
    file.write_text(f"{text}  seeds: 2\n  parameters: {{optimizer.lr: {{values: {rates}}}}}\n")
    return file


def swept_whole(file: Path, results: Path) -> dict[str, Any]:
    """What an undisturbed sweep leaves."""
    with silent():
        code = cli.run(["sweep", str(file), "--results", str(results), "--engine", "serial", "--quiet"])
    require(code in (0, 1), "an undisturbed sweep ended with", code)
    return stored(results)


def stored(results: Path) -> dict[str, Any]:
    """What a sweep left, by identity."""
    try:
        return store(results)
    except AssertionError as error:
        raise Violation(f"the sweep in {results}: {error}") from error


def killed_sweep(folder: Path, seed: int, kills: int = 3) -> Counts:
    """A sweep whose driver, or all of which, is killed at random moments ends as if it never was."""
    chance = random.Random(seed)
    file = sweep_recipe(folder, chance)
    whole = swept_whole(file, folder / "whole")
    epochs = epochs_stored(folder / "whole")
    results, counts = folder / "killed", Counter(sweeps=1)
    command = ["sweep", str(file), "--results", str(results), "--quiet"]
    for _ in range(kills):
        engine = ["--engine", chance.choice(("serial", "processes")), "--jobs", "2"]
        process = start(*command, *engine)
        counts["kills of sweeps"] += killed(process, results, epochs, chance)
    ended(start(*command, "--engine", "serial"), [0, 1])
    require(stored(results) == whole, "a sweep that was killed and started again left something else")
    return counts


# ------------------------------------------------------------------------------------------ full disks


def full_disk(folder: Path, seed: int, sizes: int = 3) -> Counts:
    """A training, a sweep and a page on a disk that is full at a random size: a sentence, and no loss."""
    chance = random.Random(seed)
    arguments = training(chance)
    whole = undisturbed(folder / "whole", *arguments)
    results, counts = folder / "full", Counter(trainings=1, sweeps=1)
    for _ in range(sizes):
        process = start(*onward(results, arguments), limit=size(chance))
        ended(process, [0, 1, 2])
        counts["full disks"] += process.returncode != 0
    ended(start(*onward(results, arguments)), [0])
    require_same(results, whole, f"{arguments}, on a full disk and resumed,")
    page = start("report", str(results), "--html", str(folder / "page.html"), limit=size(chance))
    ended(page, [0, 1, 2])
    counts["full disks"] += page.returncode != 0
    require(page.returncode != 0 or (folder / "page.html").read_text().endswith("</html>\n"), "half a page")

    file = sweep_recipe(folder, chance)
    command = ["sweep", str(file), "--results", str(folder / "swept"), "--quiet", "--engine", "serial"]
    expected = swept_whole(file, folder / "swept whole")
    process = start(*command, limit=size(chance))
    ended(process, [0, 1, 2])
    counts["full disks"] += process.returncode != 0
    ended(start(*command, "--retry-failed"), [0, 1])
    require(
        stored(folder / "swept") == expected, "a sweep on a full disk, started again, left something else"
    )
    return counts


def size(chance: random.Random) -> int:
    """Bytes from one to those of a checkpoint, as often between 10 and 100 as between 100 and 1000."""
    return round(10 ** chance.uniform(0, 5.3))


# ----------------------------------------------------------------------------- folders and recipes by chance


def views(folder: Path) -> Iterator[list[str]]:
    """The ways to look at the runs in `folder`, as command lines."""
    for form in ("table", "json", "csv", "markdown", "latex"):
        yield ["report", str(folder), "--format", form]
        yield ["report", str(folder), "--rows", "epochs", "--format", form]
    yield ["report", str(folder), "--columns", "optimizer.lr,training.epochs", "--sort", "-test_accuracy"]
    yield ["report", str(folder), "--group-by", "rule,optimizer.lr"]
    yield ["report", str(folder), "--html", str(folder.parent / "page.html")]
    yield ["report", str(folder), "--plots", str(folder.parent / "plots")]


def hostile_folders(folder: Path, seed: int, count: int = BATCH) -> Counts:
    """Damaged run folders hide no whole one in any view, and end none by a traceback or a hang."""
    runs = folder / "runs"
    runs.mkdir()
    made = list(make(runs, count, seed))
    whole = {one.path.name for one in made if one.whole}
    for command in views(runs):
        out = ended(start(*command), [0, 1])
        if command[2:] == ["--format", "json"]:
            shown = {row["run"] for row in json.loads(out)}
            require(whole <= shown, "whole runs that are not shown:", sorted(whole - shown)[:3])
    counts = Counter({"run folders": count})
    looked_at_by_a_sweep(folder, made)
    counts["views"] = watched(runs) + 1 + len(list(views(runs)))
    for one in random.Random(seed).sample(made, min(4, count)):
        process = start("train", "--resume", str(one.path), "--quiet")
        ended(process, [0, 1, 2])
        counts["damaged runs resumed"] += 1
    return counts


def watched(runs: Path) -> int:
    """Follow the runs for a moment, until Ctrl-C; the views that this was."""
    process = start("report", str(runs), "--watch")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    ended(process, [0, 1, 130])
    return 1


def looked_at_by_a_sweep(folder: Path, made: Sequence[Any]) -> None:
    """A sweep that finds the damaged runs among its own says what it would train."""
    file = folder / "swept.yaml"
    file.write_text(BASE + "  parameters: {optimizer.lr: {values: [0.01, 0.1]}}\n")
    command = ["sweep", str(file), "--results", str(folder / "results"), "--dry-run"]
    store = Path(ended(start(*command), [0]).splitlines()[-1])
    store.parent.mkdir()
    store.symlink_to(made[0].path.parent)
    ended(start(*command), [0, 1])


def recipes(folder: Path, seed: int, count: int = BATCH) -> Counts:
    """Generated recipes and overrides are read to a recipe, or to located problems."""
    counts = Counter[str]()
    for kind, (generated, check) in KINDS.items():

        def checked(value: Any, check: Callable[[Any], None] = check) -> None:
            counts["recipes"] += 1
            check(value)

        share = hypothesis.settings(FUZZ, max_examples=-(-count // len(KINDS)), database=None)
        try:
            hypothesis.seed(seed)(share(hypothesis.given(value=generated)(lambda value: checked(value))))()
        except Exception as error:
            raise Violation(f"of the kind {kind}: {error!r}") from error
    return counts


# ------------------------------------------------------------------------------------------- for long


def long_training(folder: Path, seed: int, epochs: int = EPOCHS) -> Counts:
    """A training of many epochs whose memory, open files, threads and store stay as they must."""
    options = ["data.limit=200", "network.hidden=[16]", "training.threads=1", f"training.seed={seed}"]
    command = ["train", "digits/mlp", *options, f"training.epochs={epochs}", "--results", str(folder)]
    with sampled(epochs) as samples, silent():
        code = cli.run([*command, "--quiet"])
    require(code == 0, "the training ended with", code)
    (path,) = started_runs(folder)
    run = RunFolder.open(path)
    require([row["epoch"] for row in run.metrics()] == [*range(1, epochs + 1)], "rows are missing")
    require(names(path) == FILES, "files of the run:", names(path))
    small = undisturbed(folder / "small", "digits/mlp", *options, "training.epochs=2")
    grown = run.checkpoint.stat().st_size - small.checkpoint.stat().st_size
    require(abs(grown) < 1024, "the checkpoint grew by", grown, "bytes")  # numbers that got longer, padded
    require_flat(samples, (path / "metrics.jsonl").stat().st_size / epochs)
    return Counter({"epochs of one training": epochs})


def resources() -> tuple[int, int, int]:
    """Resident bytes, open files and threads of this process."""
    me = psutil.Process()
    return me.memory_info().rss, me.num_fds(), me.num_threads()


@contextlib.contextmanager
def sampled(epochs: int) -> Iterator[list[array[int]]]:
    """Gives columns, into which `resources` are put whenever a row of metrics has been stored."""
    columns = [array("q", bytes(8 * epochs)) for _ in range(3)]  # that do not grow while they are filled
    append, rows = RunFolder.append, itertools.count()

    def appended(run: RunFolder, row: Mapping[str, Any]) -> None:
        append(run, row)
        number = next(rows)
        for column, value in zip(columns, resources(), strict=True):
            column[number] = value

    with mock.patch.object(RunFolder, "append", appended):
        yield columns


def require_flat(samples: Sequence[Sequence[int]], row: float) -> None:
    """Files and threads are as many late as early, and memory has hardly grown; `samples` are columns.

    Compared are medians over the second and the last sixth: at the first epochs, memory for what is needed
    again and again is taken for the first time. Between them memory may grow by what the epochs stored on
    disk, a `row` each, and once by what Python and malloc take from the system at a time for small objects.
    Whatever keeps a set of parameters or a graph of a step from epoch to epoch grows by more.
    """
    count = len(samples[0])
    early, late = slice(count // 6, count // 3), slice(count * 5 // 6, count)
    (rss, files, threads), (more, files_then, threads_then) = (
        [statistics.median(column[part]) for column in samples] for part in (early, late)
    )
    grown, allowed = more - rss, row * count * 2 / 3 + GRANULE
    print(f"memory grew by {grown:.0f} bytes in {count} epochs, where {allowed:.0f} are allowed")
    require(grown <= allowed, f"memory grew by {grown:.0f} bytes, more than {allowed:.0f}")
    require(files_then == files, "open files:", files, "and then", files_then)
    require(threads_then == threads, "threads:", threads, "and then", threads_then)


# --------------------------------------------------------------------------------------- all together

PARTS: dict[str, Callable[..., Counts]] = {
    part.__name__: part
    for part in (long_training, killed_training, full_disk, killed_sweep, recipes, hostile_folders)
}
#: What a part is to reach in half an hour; the others are repeated as long as there is time.
WANTED = {"recipes": RECIPES, "hostile_folders": FOLDERS, "long_training": EPOCHS}


def amount(part: str) -> int:
    """How much of a part one round does."""
    return EPOCHS if part == "long_training" else BATCH


def once(part: str, seed: int, **how_much: int) -> Counts:
    """One round of a part in a folder that goes afterwards, unless the part has found something."""
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"fdfa-soak-{part}-"))
        counts = PARTS[part](folder, seed, **how_much)
    except Exception as error:
        kind = "" if isinstance(error, Violation) else f"{type(error).__name__}: "
        raise Violation(f"{kind}{error}\n(what there was: {folder})") from error
    # Python's own recursion is too shallow for the deepest of hostile folders.
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return counts


def rounds(seconds: float, seed: int) -> Iterator[tuple[str, int]]:
    """The parts in turn, each once at least, until the time is over and each has reached its share."""
    begun, share = time.monotonic(), min(1.0, seconds / SECONDS)
    reached = Counts()
    for number in range(10**9):
        over = time.monotonic() - begun >= seconds
        left = False
        for part in PARTS:
            more = reached[part] < share * WANTED.get(part, 0)
            if more or (part not in WANTED and (not over or number == 0)):
                reached[part] += amount(part)
                left = left or more
                yield part, random.Random(f"{seed} {part} {number}").getrandbits(32)
            over = time.monotonic() - begun >= seconds
        if over and not left:
            return


def peak(who: int) -> int:
    """The most memory that a process held, in bytes; `ru_maxrss` is in KiB except on macOS."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def soak(work: Iterable[tuple[str, int]], seed: int) -> Iterator[dict[str, Any]]:
    """Do the parts of `work`, each with its seed, up to the first violation or interruption.

    Yields the result so far after every round. Its ``ended`` is "running" until the work is done
    ("completed"), something was found ("violation") or a signal came ("interrupted").
    """
    known = provenance(["soak"], {})
    result: dict[str, Any] = {
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seed": seed,
        "processor": processor(),
        **{key: known[key] for key in ("cores", "platform", "python", "torch", "commit", "dirty")},
    }
    counts, violations, begun = Counts(), [], time.monotonic()

    def reached(ended: str) -> dict[str, Any]:
        return result | {
            "ended": ended,
            "seconds": round(time.monotonic() - begun, 1),
            "counts": dict(sorted(counts.items())),
            "violations": violations,
            "peak_rss_bytes": {
                "soak": peak(resource.RUSAGE_SELF),
                "children": peak(resource.RUSAGE_CHILDREN),
            },
        }

    for part, part_seed in work:
        at = time.monotonic()
        try:
            counts += once(part, part_seed)
        except KeyboardInterrupt:
            print(f"interrupted in {part} ({part_seed})", flush=True)
            yield reached("interrupted")
            return
        except Violation as violation:
            violations.append({"part": part, "seed": part_seed, "what": str(violation)})
            again = f"python tests/soak.py --part {part} --seed {part_seed}"
            print(f"VIOLATION in {part}:\n{violation}\nto repeat it: {again}", flush=True)
            yield reached("violation")
            return
        counts[f"rounds of {part}"] += 1
        now = time.monotonic()
        print(f"{now - begun:6.0f} s  {part} ({part_seed}): {now - at:.0f} s", flush=True)
        yield reached("running")
    yield reached("completed")


def processor() -> str:
    """The processor's name where the system tells it, and the vector registers that torch uses of it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or ['unknown'])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def parts_once(part: str, seed: int, count: int | None) -> Iterator[tuple[str, int]]:
    """Rounds of one part, the first with `seed` itself, until `count` folders, recipes or epochs are done."""
    rounds = 1 if count is None else -(-count // amount(part))
    yield part, seed
    for number in range(1, rounds):
        yield part, random.Random(f"{seed} {part} {number}").getrandbits(32)


def main() -> int:
    """Parse, soak, store; 1 where something was found, 130 where a signal came first."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=None, help="drawn where none is given, and printed")
    parser.add_argument("--part", choices=PARTS, help="only this; once where no --count is given")
    parser.add_argument("--count", type=int, default=None, help="folders, recipes or epochs of --part")
    parser.add_argument("--out", type=Path, default=None, help="where the result goes, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tempfile.tempdir = tempfile.mkdtemp(prefix="fdfa-soak-")
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    part = arguments.part
    work = parts_once(part, seed, arguments.count) if part else rounds(arguments.seconds, seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    text, ended = "", "completed"
    for result in soak(work, seed):
        text, ended = json.dumps(result, indent=2), result["ended"]
        if arguments.out is not None:
            atomic_write(arguments.out, f"{text}\n".encode())
    print(text)
    if ended != "violation":
        subprocess.run(["rm", "-rf", tempfile.tempdir], check=True)
    return {"completed": 0, "violation": 1, "interrupted": 130}[ended]


if __name__ == "__main__":
    sys.exit(main())
