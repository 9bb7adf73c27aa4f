"""Data: splits against independent readers, batches against naive loops, files damaged on purpose."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fdfa_cli.data import Splits, Subset, digits, status
from fdfa_cli.data import data_root as default_data_root
from fdfa_cli.data.base import DATA, Data
from fdfa_cli.data.cifar import Cifar10, Cifar100
from fdfa_cli.data.image_folder import ImageFolder
from fdfa_cli.data.mnist import FashionMnist, Mnist
from fdfa_cli.data.split import stratified
from fdfa_cli.errors import DataCorrupt, DataNotFound, FdfaError, UsageError

CPU = torch.device("cpu")
REAL = [pytest.param(name, marks=pytest.mark.real_data(name)) for name in ("mnist", "cifar10")]
EVERYWHERE = ["digits", "synthetic", *REAL]

#: First positions of the digits' test and validation sets.
PINNED_TEST = [4, 5, 6, 9, 14, 17, 18, 19]
PINNED_VALIDATION = [1, 2, 7, 8, 13, 22, 26, 27]


def load(name: str, root: Path, **options: Any) -> Splits:
    return DATA.get(name)(**options).load(root, CPU)


def contents(subset: Subset) -> set[bytes]:
    return {image.tobytes() for image in subset.images.numpy()}


def torchvision_reads(name: str, root: Path, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images n×C×H×W uint8 and labels of a file, by torchvision's own reader."""
    if name == "mnist":
        file = torchvision.datasets.MNIST(root, train=train)
        return file.data[:, None], file.targets
    file = torchvision.datasets.CIFAR10(root, train=train)
    return torch.from_numpy(file.data).permute(0, 3, 1, 2), torch.tensor(file.targets)


# --- splits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYWHERE)
def test_splits_are_disjoint_and_whole(name: str, data_root: Path) -> None:
    splits = load(name, data_root)
    train, validation, test = splits.train, splits.validation, splits.test
    assert not set(train.index.tolist()) & set(validation.index.tolist())
    seen = [contents(part) for part in (train, validation, test)]
    assert [len(c) for c in seen] == [len(train), len(validation), len(test)]  # no image is there twice
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize("name", REAL)
def test_splits_are_cut_from_their_files(name: str, data_root: Path) -> None:
    splits = load(name, data_root, validation=0.25)
    images, labels = torchvision_reads(name, data_root, train=True)
    for part in (splits.train, splits.validation):
        assert torch.equal(part.images, images[part.index])
        assert torch.equal(part.labels, labels[part.index])
    assert len(splits.validation) == len(images) // 4
    assert len(splits.train) + len(splits.validation) == len(images)
    images, labels = torchvision_reads(name, data_root, train=False)
    assert torch.equal(splits.test.images, images)
    assert torch.equal(splits.test.labels, labels)


def test_digits_are_the_published_ones() -> None:
    splits = load("digits", Path("nowhere"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1197, 200, 400]
    order = torch.cat([part.index for part in (splits.train, splits.validation, splits.test)]).argsort()
    images, labels = (
        torch.cat([getattr(part, field) for part in (splits.train, splits.validation, splits.test)])[order]
        for field in ("images", "labels")
    )
    # The first line of optdigits.tes, and its class counts in optdigits.names.
    first = "0,0,5,13,9,1,0,0,0,0,13,15,10,15,5,0,0,3,15,2,0,11,8,0,0,4,12,0,0,8,8,0,0,5,8,0"
    assert images[0].flatten()[:36].tolist() == [int(v) for v in first.split(",")]
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for part in (splits.validation, splits.test):
        assert part.labels.bincount().float().std() < 1


def test_the_split_never_changes() -> None:
    """Runs of different versions, platforms and seeds share their test set: its positions are pinned."""
    splits = load("digits", Path("nowhere"))
    assert splits.test.index[:8].tolist() == PINNED_TEST
    assert splits.validation.index[:8].tolist() == PINNED_VALIDATION


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 9)
)
def test_stratified_gives_each_class_its_share(labels: list[int], share: float, seed: int) -> None:
    count = round(share * len(labels))
    drawn = stratified(torch.tensor(labels), count, seed).tolist()
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    got, all_ = Counter(labels[i] for i in drawn), Counter(labels)
    assert all(abs(got[c] - count * all_[c] / len(labels)) < 1 for c in all_)


def test_the_cut_follows_its_own_seed_and_limit_keeps_the_rest_apart() -> None:
    base, again, other = (load("digits", Path(), split_seed=s) for s in (0, 0, 1))
    assert torch.equal(base.validation.index, again.validation.index)
    assert not torch.equal(base.validation.index, other.validation.index)
    assert torch.equal(base.test.index, other.test.index)
    small = load("digits", Path(), limit=50)
    assert small.train.labels.bincount().tolist() == [5] * 10
    assert set(small.train.index.tolist()) < set(base.train.index.tolist())
    assert small.validation.labels.bincount().tolist() == [5] * 10
    assert set(small.validation.index.tolist()) < set(base.validation.index.tolist())
    assert torch.equal(small.test.index, base.test.index)
    many = load("digits", Path(), limit=5000)
    assert torch.equal(many.train.index, base.train.index)
    assert torch.equal(many.validation.index, base.validation.index)
    everything = load("digits", Path(), validation=0)
    assert (len(everything.train), len(everything.validation)) == (1397, 0)


def test_a_cut_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.validation: 1397 of the 1397 .* the most is 1396"):
        load("digits", Path(), validation=1397)


# --- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "fraction between 0 and 1"),
        ({"validation": 1.0}, "fraction between 0 and 1"),
        ({"validation": -1}, "greater than or equal to 0"),
        ({"augment": ["flip", "flip"]}, "names an augmentation twice"),
        ({"augment": ["crop", "resized_crop"]}, "not both"),
        ({"augment": ["rotate"]}, "'flip', 'crop' or 'resized_crop'"),
        ({"min_area": 0}, "greater than 0"),
        ({"resize": 0}, "greater than or equal to 1"),
        ({"split_seed": 2**32}, "less than 4294967296"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mnist.model_validate_json(json.dumps(options))


def test_shapes_classes_and_status_need_neither_torch_nor_files(tmp_path: Path) -> None:
    program = """if True:
        import json, pathlib, sys
        from fdfa_cli.data import status
        from fdfa_cli.data.base import DATA
        told = {n: [m().shape(), m().classes()] for n, m in DATA.models().items() if n != "image_folder"}
        told["cifar100, 224"] = [DATA.get("cifar100")(resize=224).shape(), 100]
        states = {s.name: s.state for s in status(pathlib.Path(sys.argv[1]))}
        heavy = [m for m in ("torch", "torchvision", "numpy", "PIL") if m in sys.modules]
        print(json.dumps([told, states, heavy]))
    """
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    told, states, heavy = json.loads(out)
    assert heavy == []
    assert told == {
        "cifar10": [[3, 32, 32], 10],
        "cifar100": [[3, 32, 32], 100],
        "cifar100, 224": [[3, 224, 224], 100],
        "digits": [[1, 8, 8], 10],
        "fashion_mnist": [[1, 28, 28], 10],
        "mnist": [[1, 28, 28], 10],
        "synthetic": [[32], 10],
    }
    assert states == {
        "cifar10": "missing",
        "cifar100": "missing",
        "digits": "built in",
        "fashion_mnist": "missing",
        "image_folder": "yours",
        "mnist": "missing",
        "synthetic": "built in",
    }


@pytest.mark.parametrize("name", ["digits", *REAL])
def test_loaded_samples_have_the_announced_shape(name: str, data_root: Path) -> None:
    options = DATA.get(name)(resize=12)  # type: ignore[call-arg]
    splits = options.load(data_root, CPU)
    for part in (splits.train, splits.validation, splits.test):
        x = part.batch(torch.arange(3))
        assert (x.shape, x.dtype) == ((3, *options.shape()), torch.float32)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.labels.unique().tolist() == list(range(options.classes()))


def test_data_root_is_the_environment_variable_or_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDFA_DATA", "~/elsewhere")
    assert default_data_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("FDFA_DATA")
    assert default_data_root() == Path.home() / ".cache" / "fdfa"


# --- files: missing, damaged, fetched ----------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array: type and number of dimensions, then each, big-endian (LeCun 1998)."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A tiny MNIST, as if it were the published one: its files, and checksums that know them."""
    chance = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 60), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = idx(chance.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n, dtype=np.uint8) % 10)
    monkeypatch.setattr(Mnist, "checksums", {f: hashlib.md5(b).hexdigest() for f, b in files.items()})
    return files


def put(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def downloads(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], error: BaseException | None = None
) -> list[Path]:
    """Let the download write `files`, then raise `error`; returns where it was asked to."""
    asked: list[Path] = []

    def download(cls: type[Mnist], root: Path) -> None:
        asked.append(root)
        put(files, root / cls.folder)
        (root / cls.folder / "train-images-idx3-ubyte.gz").write_bytes(b"left over")
        if error is not None:
            raise error

    monkeypatch.setattr(Mnist, "download", classmethod(download))
    return asked


def everything_in(folder: Path) -> list[str]:
    """Files, and folders without any."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or not any(p.iterdir())
    )


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_set_not_on_disk_says_where_and_how(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "FDFA_DATA" in message
    assert f"`fdfa data fetch {name}`" in message


def test_checksums_are_torchvisions() -> None:
    for ours, theirs in ((Cifar10, torchvision.datasets.CIFAR10), (Cifar100, torchvision.datasets.CIFAR100)):
        assert ours.checksums == dict(theirs.train_list + theirs.test_list)
        assert ours.folder == theirs.base_folder
        assert [ours.test_file] == [file for file, _ in theirs.test_list]
    for model in (Mnist, FashionMnist):
        theirs = getattr(torchvision.datasets, model.folder.partition("/")[0])
        assert {f"{file}.gz" for file in model.checksums} == {file for file, _ in theirs.resources}
        assert model.folder == f"{theirs.__name__}/raw"


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b[:20] + bytes([b[20] ^ 1]) + b[21:], lambda b: b"", lambda b: b + b"0"],
    ids=["cut", "flipped", "empty", "longer"],
)
def test_a_damaged_file_is_named(
    published: dict[str, bytes], tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    folder = put(published, tmp_path / "MNIST" / "raw")
    assert len(load("mnist", tmp_path, validation=10).train) == 50
    (folder / file).write_bytes(damage(published[file]))
    with pytest.raises(DataCorrupt) as caught:
        load("mnist", tmp_path)
    assert str(folder / file) in str(caught.value)
    assert "`fdfa data fetch mnist`" in str(caught.value)


@pytest.mark.real_data("mnist")
@pytest.mark.parametrize("offset", [17, 47_000_000, None])
def test_a_damaged_copy_of_the_real_file_is_named(
    data_root: Path, tmp_path: Path, offset: int | None
) -> None:
    shutil.copytree(data_root / Mnist.folder, tmp_path / Mnist.folder)
    damaged = tmp_path / Mnist.folder / "train-images-idx3-ubyte"
    damaged.chmod(0o644)
    with damaged.open("r+b") as file:
        if offset is None:
            file.truncate(47_000_000)
        else:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
    with pytest.raises(DataCorrupt, match="train-images-idx3-ubyte is damaged"):
        load("mnist", tmp_path)


def test_a_pickle_is_not_opened_before_it_is_verified(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    put(dict.fromkeys(Cifar10.checksums, pickle.dumps(Bomb())), tmp_path / Cifar10.folder)
    with pytest.raises(DataCorrupt, match="data_batch_1 is damaged"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_damaged_digits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(DataCorrupt, match=r"digits\.csv\.gz is damaged"):
        load("digits", Path())


def test_fetch_stores_the_set_once(
    published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "not" / "there"
    asked = downloads(monkeypatch, published)
    Mnist.fetch(root)
    assert everything_in(root) == sorted(f"MNIST/raw/{file}" for file in published)
    assert [s.state for s in status(root) if s.name == "mnist"] == ["present"]
    assert Mnist.status(root).bytes == sum(map(len, published.values()))
    assert len(load("mnist", root, validation=10).test) == 20
    Mnist.fetch(root)
    assert len(asked) == 1
    assert asked[0].parent == root  # on the same file system, so that what is verified is only renamed


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError("the network is gone"), FdfaError),
        (RuntimeError("File not found or corrupted."), FdfaError),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt),
    ],
)
def test_a_download_that_fails_midway_leaves_nothing(
    published: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    seen: type[BaseException],
) -> None:
    half = {"train-images-idx3-ubyte": published["train-images-idx3-ubyte"][:1000]}
    downloads(monkeypatch, half, error)
    with pytest.raises(seen, match=str(error)):
        Mnist.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_of_something_else_is_refused(
    published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads(monkeypatch, {**published, "t10k-labels-idx1-ubyte": b"<html>"})
    with pytest.raises(DataCorrupt, match="t10k-labels-idx1-ubyte"):
        Mnist.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", ["damaged", "missing"])
def test_fetch_repairs_a_set_and_keeps_what_else_is_there(
    published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    folder = put({**published, "notes.txt": b"mine"}, tmp_path / Mnist.folder)
    broken = folder / "t10k-images-idx3-ubyte"
    broken.write_bytes(b"") if loss == "damaged" else broken.unlink()
    assert Mnist.status(tmp_path).state == ("present" if loss == "damaged" else "incomplete")
    downloads(monkeypatch, published)
    Mnist.fetch(tmp_path)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {**published, "notes.txt": b"mine"}


def test_sets_without_a_download_say_so(tmp_path: Path) -> None:
    DATA.get("digits").fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="a folder of yours"):
        ImageFolder.fetch(tmp_path)


# --- the synthetic set -------------------------------------------------------------------------------


def test_synthetic_is_its_seeds_alone() -> None:
    one, same, other = (DATA.get("synthetic")(seed=s).load(Path(), CPU).train for s in (0, 0, 1))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)
    assert (one.images.dtype, tuple(one.batch(torch.arange(7)).shape)) == (torch.float32, (7, 32))


def test_synthetic_labels_are_learnable_and_noisy_as_told() -> None:
    options: dict[str, Any] = {"n_classes": 4, "samples": 20000, "test": 0.0005, "validation": 0}
    clean, noisy = (load("synthetic", Path(), noise=noise, **options).train for noise in (0.0, 0.4))
    assert torch.equal(clean.images, noisy.images)
    # A label is replaced with probability 0.4, by another class in 3 of 4 cases: 0.3 ± 0.0032 (one σ); the
    # seed is fixed, and five σ would be exceeded once in two million seeds.
    assert (clean.labels != noisy.labels).double().mean().item() == pytest.approx(0.3, abs=5 * 0.0033)
    sizes = clean.labels.bincount(minlength=4) / len(clean)
    assert 0.15 < sizes.min() < sizes.max() < 0.35
    # A function of the vectors: the linear least-squares classifier of one half is mostly right on the other.
    half, x = len(clean) // 2, clean.images.double()
    targets = torch.nn.functional.one_hot(clean.labels).double()
    fit = torch.linalg.lstsq(x[:half], targets[:half] - targets.mean(0)).solution
    assert ((x[half:] @ fit).argmax(1) == clean.labels[half:]).double().mean() > 0.5


def test_synthetic_needs_samples_to_train_on() -> None:
    with pytest.raises(UsageError, match=r"data\.test: 100 of 100"):
        load("synthetic", Path(), samples=100, test=100)


def test_every_set_tells_source_and_licence() -> None:
    for model in DATA.models().values():
        assert issubclass(model, Data)
        assert model.summary().endswith(".")
        if model.status(Path("nowhere")).state == "missing" or model.set_name() == "digits":
            assert "licence" in (model.__doc__ or "") or "CC BY" in (model.__doc__ or "")
