"""Data from strangers: every image comes out in its range and size, or a sentence names the file."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import logging
import os
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from fdfa_cli.cli import run
from fdfa_cli.data import decoded, files, image_folder, status
from fdfa_cli.data.files import LOCK, staging
from fdfa_cli.data.image_folder import ImageFolder
from fdfa_cli.data.mnist import Mnist
from fdfa_cli.data.picture import Fit, decode
from fdfa_cli.data.transfer import digest, provide
from fdfa_cli.errors import DataCorrupt, DataNotFound, FdfaError, UsageError
from fdfa_cli.storage.files import lock

CPU = torch.device("cpu")
#: Grey levels of 16 bits from end to end, and what they are of 8 bits: value / 257, rounded.
LEVELS = [0, 100, 129, 1000, 32768, 65000, 65406, 65535]
SCALED = [0, 0, 1, 4, 128, 253, 254, 255]


def stored(path: Path, channels: int = 1, size: tuple[int, int] = (8, 1)) -> np.ndarray:
    """The image at `path`, H×W×C, its shorter side `size`'s."""
    image = decode(str(path), Fit(channels, min(size), (min(size), max(size))))
    return image.transpose(1, 2, 0)


def tiff(values: bytes, bits: int, photometric: int = 1, sample_format: int = 1, count: int = 8) -> bytes:
    """A little-endian TIFF of `count`×`count` grey pixels, its tags as TIFF 6.0 numbers them."""
    tags = [(256, count), (257, count), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 10 * 12 + 4), (277, 1), (278, count), (279, len(values)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + values


def square(levels: list[int], kind: Any = np.uint16) -> np.ndarray:
    """8×8 pixels, every row the eight `levels`."""
    return np.tile(np.array(levels, dtype=kind), (8, 1))


def twelve_bits(levels: list[int]) -> bytes:
    """Two levels in three bytes."""
    pairs = zip(levels[::2], levels[1::2], strict=True)
    return b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)


# --- the range of a format ---------------------------------------------------------------------------


def saved(array: np.ndarray, form: str, mode: str | None = None) -> bytes:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(stream := io.BytesIO(), form)
    return stream.getvalue()


def big_endian() -> bytes:
    """A big-endian TIFF: the little-endian one with every number turned round."""
    little = tiff(b"", 16)
    number = struct.unpack("<H", little[8:10])[0]
    body = [struct.unpack("<HHII", little[10 + 12 * i : 22 + 12 * i]) for i in range(number)]
    values = square(LEVELS).astype(">u2").tobytes()
    body = [(tag, kind, n, len(values) if tag == 279 else value) for tag, kind, n, value in body]
    entries = b"".join(struct.pack(">HHII", *entry) for entry in body)
    return b"MM\0*" + struct.pack(">IH", 8, number) + entries + b"\0\0\0\0" + values


DEEP = {
    "PNG": lambda: saved(square(LEVELS), "PNG"),
    "TIFF, II": lambda: tiff(square(LEVELS).astype("<u2").tobytes(), 16),
    "TIFF, MM": big_endian,
    "TIFF, white is 0": lambda: tiff((65535 - square(LEVELS)).astype("<u2").tobytes(), 16, photometric=0),
    "PGM": lambda: b"P5 8 8 65535\n" + square(LEVELS).astype(">u2").tobytes(),
    "plain PGM": lambda: b"P2 8 8 65535\n" + " ".join(map(str, square(LEVELS).ravel())).encode(),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, channels: int, tmp_path: Path) -> None:
    (tmp_path / "deep.tif").write_bytes(DEEP[kind]())
    image = stored(tmp_path / "deep.tif", channels, (8, 8))
    assert (image == np.array(SCALED)[None, :, None]).all()


def test_twelve_bits_end_at_4095(tmp_path: Path) -> None:
    levels = [0, 8, 9, 1000, 2048, 4000, 4087, 4095]
    (tmp_path / "deep.tif").write_bytes(tiff(twelve_bits(levels * 8), 12))
    expected = [round(255 * level / 4095) for level in levels]
    assert (stored(tmp_path / "deep.tif", 1, (8, 8))[..., 0] == expected).all()


UNKNOWN = {
    "F, PFM": (lambda: b"Pf 8 8 -1.0\n" + square([0, 1] * 4, np.float32).tobytes(), "floating-point"),
    "F": (lambda: saved(square([0, 1] * 4, np.float32) / 2, "TIFF"), "floating-point"),
    "I": (lambda: tiff(square(LEVELS).astype("<u4").tobytes(), 32), "integers"),
    "I, signed": (lambda: tiff(square([-5, 5] * 4, np.int16).tobytes(), 16, sample_format=2), "integers"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_numbers_of_an_unknown_range_are_refused_by_file_and_mode(kind: str, tmp_path: Path) -> None:
    content, what = UNKNOWN[kind]
    (tmp_path / "odd.tif").write_bytes(content())
    with pytest.raises(DataCorrupt, match=rf"odd\.tif holds {what}.*mode '{kind[0]}' of a (TIFF|PPM) file"):
        stored(tmp_path / "odd.tif", 3, (8, 8))


def coloured(mode: str) -> Image.Image:
    """One red and one black pixel (white and black where there is no colour), in `mode`."""
    image = Image.new("RGB", (2, 2), (255, 0, 0) if mode not in ("1", "L", "LA") else (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 1, 2))
    image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.new("L", (2, 2), 7))
    return image


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("1", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": b"\0\x80\0"}),
        ("RGB", "PNG", {"transparency": (255, 0, 0)}),
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("CMYK", "TIFF", {}),
        ("RGB", "BMP", {}),
        ("P", "GIF", {}),
    ],
)
def test_every_mode_of_eight_bits_keeps_its_colours(
    mode: str, form: str, options: dict[str, Any], tmp_path: Path
) -> None:
    coloured(mode).save(tmp_path / "x.png", form, **options)
    bright = 255 if mode in ("1", "L", "LA") else 0
    assert stored(tmp_path / "x.png", 3, (2, 2)).tolist() == [[[0, 0, 0], [255, bright, bright]]] * 2


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_picture_of_many_is_taken(form: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    extra = {"lossless": True} if form == "WEBP" else {}
    first.save(tmp_path / "x.png", form, save_all=True, append_images=[second], **extra)
    assert (stored(tmp_path / "x.png", 3, (4, 4)) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_a_picture_is_turned_as_its_exif_data_says(
    orientation: int, upright: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert (stored(tmp_path / "x.png", 1, (4, 4))[..., 0] == upright(pixels)).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0garbage garbage", b"\xff" * 40])
def test_damaged_exif_data_turn_nothing(exif: bytes, tmp_path: Path) -> None:
    Image.new("L", (4, 4), 9).save(tmp_path / "x.jpg", exif=exif)
    assert (stored(tmp_path / "x.jpg", 1, (4, 4)) == 9).all()


def test_no_program_is_run_on_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript, which is a language, to Ghostscript, whatever the file is called."""
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", "EPS")
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("a program was run"))
    with pytest.raises(DataCorrupt, match=r"x\.png cannot be decoded: it is none of"):
        stored(tmp_path / "x.png", 3, (4, 4))


def test_a_picture_that_would_fill_the_memory_is_named(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(DataCorrupt, match=r"bomb\.png cannot be decoded: .*decompression bomb"):
        stored(tmp_path / "bomb.png", 3, (60_000, 60_000))


# --- folders -----------------------------------------------------------------------------------------


def paint(path: Path, level: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of four images each, of the levels 0 to 7."""
    for i in range(8):
        paint(tmp_path / "pets" / ("cat", "dog")[i // 4] / f"{i}.png", i)
    return tmp_path / "pets"


def folder(path: Path, **options: Any) -> ImageFolder:
    return ImageFolder(folder=str(path), **{"channels": 1, "validation": 2, "test": 2, **options})


def levels(options: ImageFolder, root: Path) -> list[int]:
    """The levels of all the images that come out, sorted."""
    splits = options.load(root, CPU)
    return sorted(
        int(x.flatten()[0]) for s in (splits.train, splits.validation, splits.test) for x in s.images
    )


def named(home: Path, name: str) -> bool:
    """Make a folder of this name where the file system can: not all take bytes that are no UTF-8."""
    try:
        (home / name).mkdir(parents=True)
    except OSError:
        return False
    return True


def test_names_are_what_they_are(tmp_path: Path) -> None:
    home = tmp_path / ("s" * 250)
    odd = ["-rf", "with\nnew line", "Ünïcode", "\udcff\udc80", "x" * 250, "a\tb", "%s {0} [red]"]
    odd = [name for name in odd if named(home, name)]
    for i, name in enumerate(odd):
        paint(home / name / f"{name[:200]}.png", i)
        paint(home / name / "-.png", 100 + i)
    options, numbers = folder(home), range(len(odd))
    assert levels(options, tmp_path / "root") == [*numbers, *(100 + i for i in numbers)]
    assert levels(options, tmp_path / "root") == [*numbers, *(100 + i for i in numbers)]  # as they are kept
    assert [Path(k.folder or "") for k in decoded.kept(tmp_path / "root")] == [home]
    assert len(digest(options.files(tmp_path))) == 64


@pytest.mark.skipif(os.pathconf("/", "PC_PATH_MAX") < 4096, reason="paths are shorter than 1200 folders")
def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    here = Path.cwd()
    for i, c in enumerate("ab"):
        (tmp_path / "set" / c).mkdir(parents=True)
        os.chdir(tmp_path / "set" / c)
        for _ in range(1200):
            os.mkdir("d")  # noqa: PTH102 - a full path would be looked up from the top each time
            os.chdir("d")
        paint(Path("0.png"), i)
        paint(Path("1.png"), 2 + i)
    os.chdir(here)
    try:
        assert levels(folder(tmp_path / "set", validation=1, test=1), tmp_path) == [0, 1, 2, 3]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "set"], check=True)  # Python's own is recursive


def with_part(pets: Path, part: str) -> Path:
    """Make `pets` the training part of a folder that also has the empty part `part`; gives that."""
    pets.rename(pets.with_name("moved"))
    pets.mkdir()
    pets.with_name("moved").rename(pets / "train")
    (pets / part / ("cat" if part == "test" else "images")).mkdir(parents=True)
    return pets / part


def annotate(pets: Path, content: bytes) -> None:
    (with_part(pets, "val") / "val_annotations.txt").write_bytes(content)


def doubled(pets: Path) -> None:
    """Thirty folders that each link twice to the next one: 2^30 ways to one image."""
    for i in range(30):
        (pets / f".{i}").mkdir()
        for link in "xy":
            (pets / f".{i}" / link).symlink_to(pets / f".{i + 1}")
    paint(pets / ".30" / "0.png")
    (pets / "cat" / "many").symlink_to(pets / ".0")


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "link to above": (lambda p: (p / "cat" / "up").symlink_to(p), "cat/up/cat is a link to a folder"),
    "link to its folder": (
        lambda p: (p / "cat" / "me").symlink_to(p / "cat"),
        "cat/me is a link to a folder",
    ),
    "link to itself": (
        lambda p: (p / "cat" / "me.png").symlink_to(p / "cat" / "me.png"),
        r"cat/me\.png is a li",
    ),
    "class of itself": (lambda p: (p / "emu").symlink_to(p / "emu"), "pets/emu is a link to nothing"),
    "links that double": (doubled, "is a link to a folder that is read already"),
    "link to nothing": (
        lambda p: (p / "cat" / "no.png").symlink_to("nowhere"),
        r"cat/no\.png is a link to no",
    ),
    "class of nothing": (lambda p: (p / "emu").symlink_to("nowhere"), "pets/emu is a link to nothing"),
    "pipe": (
        lambda p: os.mkfifo(p / "cat" / "x.png"),
        r"cat/x\.png cannot be read: a pipe, socket or dev",
    ),
    "device": (
        lambda p: (p / "cat" / "x.png").symlink_to("/dev/zero"),
        r"cat/x\.png cannot be read: a pipe, socket or dev",
    ),
    "empty class": (lambda p: (p / "emu").mkdir(), "pets/emu holds no image"),
    "empty test": (lambda p: with_part(p, "test"), "pets/test gives no image"),
    "annotations of nothing": (lambda p: annotate(p, b""), "val_annotations.txt gives no image"),
    "annotations in no UTF-8": (lambda p: annotate(p, b"\xff\n"), "val_annotations.txt is not text in UTF-8"),
    "new line in a name": (
        lambda p: (p / "cat" / "a\nb.png").write_bytes(b""),
        r"'/.*cat/a\\nb\.png' cannot be d",
    ),
}


@pytest.mark.parametrize("spoil", HOSTILE)
def test_what_is_wrong_with_a_folder_is_named(spoil: str, pets: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[spoil]
    change(pets)
    with pytest.raises(DataCorrupt, match=message):
        folder(pets).load(tmp_path / "root", CPU)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]


def refuse(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, of: Path, error: OSError) -> None:
    """Let `holder`'s function `name` raise `error` for the path `of`: permissions do not bind root."""
    original = getattr(holder, name)

    def refusing(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if Path(os.fspath(path)) == of:
            raise type(error)(error.errno, os.strerror(error.errno or 0), os.fspath(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(holder, name, refusing)


DENIED = PermissionError(13, "")


@pytest.mark.parametrize("part", ["cat", "."])
def test_a_folder_that_may_not_be_listed_is_named(
    part: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, os, "scandir", pets / part, DENIED)
    with pytest.raises(UsageError, match=rf"{pets / part} may not be read by this user: Permission denied"):
        folder(pets).load(tmp_path / "root", CPU)


def test_an_image_that_may_not_be_read_is_named(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, os, "open", pets / "cat" / "1.png", DENIED)
    for ask in (
        lambda: folder(pets).load(tmp_path / "root", CPU),
        lambda: digest(folder(pets).files(tmp_path)),
    ):
        with pytest.raises(UsageError, match=r"cat/1\.png may not be read by this user: Permission denied"):
            ask()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_permissions_themselves_are_named(pets: Path, tmp_path: Path) -> None:
    (pets / "cat").chmod(0)
    try:
        with pytest.raises(UsageError, match="pets/cat may not be read by this user"):
            folder(pets).load(tmp_path / "root", CPU)
    finally:
        (pets / "cat").chmod(0o700)


def test_one_class_is_nothing_to_learn(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pets / "dog").rename(pets / "cat" / "dog")
    for ask in (lambda: folder(pets).classes(), lambda: folder(pets).require(tmp_path)):
        with pytest.raises(UsageError, match=r"pets has one class, 'cat', .* at least two"):
            ask()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{name: image_folder, folder: {pets}}}\nnetwork: mlp\nrule: bp\n")
    assert run(["train", str(recipe), "--results", str(tmp_path / "results")]) == 2
    assert "r.yaml:1" in (said := capsys.readouterr().err)
    assert "has one class, 'cat'" in said
    assert not (tmp_path / "results").exists()


def test_a_missing_folder_is_told_where_it_was_looked_for_before_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDFA_DATA", "sets")
    Path("r.yaml").write_text("data: {name: image_folder, folder: pets}\nnetwork: mlp\nrule: bp\n")
    assert run(["train", "r.yaml", "--results", "results"]) == 2
    assert f"there is no folder {tmp_path}/sets/pets\n" in capsys.readouterr().err
    assert not Path("results").exists()
    assert run(["data", "list"]) == 0
    assert f"{tmp_path}/sets/<data.folder>" in capsys.readouterr().out


def test_a_recipe_of_images_is_checked_without_torch(pets: Path) -> None:
    program = """if True:
        import sys
        from fdfa_cli.data.image_folder import ImageFolder
        told = ImageFolder(folder=sys.argv[1], channels=1)
        print(told.shape(), told.classes(), sorted({"torch", "numpy"} & set(sys.modules)))
    """
    told = subprocess.run([sys.executable, "-c", program, pets], capture_output=True, text=True, check=True)
    assert told.stdout == "(1, 8, 8) 2 []\n"


def test_images_are_counted_without_being_read(pets: Path, tmp_path: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"no image")
    assert folder(pets, test=3).counted(tmp_path)[:2] == (5, 3)
    with pytest.raises(UsageError, match=r"data\.test: 8 of 8 images"):
        folder(pets, test=8).counted(tmp_path)
    for i in range(5):
        paint(pets / "part" / "test" / "ab"[i % 2] / f"{i}.png")
        paint(pets / "part" / "train" / "ab"[i % 2] / f"{i}.png")
    paint(pets / "part" / "train" / "a" / "more.png")
    assert folder(pets / "part").counted(tmp_path)[:2] == (6, 5)


# --- the size of what is stored ----------------------------------------------------------------------


def test_images_of_one_size_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    for i in range(8):
        paint(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", i, size=[(32, 48), (48, 32)][i // 4])
    options = folder(Path("set"))
    assert options.shape() == (1, 32, 32)
    assert tuple(options.load(tmp_path, CPU).train.batch(torch.arange(2)).shape) == (2, 1, 32, 32)
    assert folder(Path("set"), resize=12).shape() == (1, 12, 12)
    assert tuple(
        folder(Path("set"), resize=12).load(tmp_path, CPU).train.batch(torch.arange(2)).shape[1:]
    ) == (
        1,
        12,
        12,
    )


def test_images_of_several_sizes_ask_for_one(tmp_path: Path) -> None:
    for i in range(6):
        paint(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", i, size=(20 + 10 * (i == 5), 20))
    with pytest.raises(UsageError, match=r"data\.size: .*b/5\.png has 30×20 pixels, the first one 20×20"):
        folder(tmp_path / "set").load(tmp_path / "root", CPU)
    assert levels(folder(tmp_path / "set", size=10), tmp_path / "root") == list(range(6))
    with pytest.raises(UsageError, match=r"data\.size"):  # whatever is kept of another size
        folder(tmp_path / "set").load(tmp_path / "root", CPU)


def peak(act: Callable[[], object]) -> int:
    """The most bytes that `act` had allocated at once, numpy's included."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_holds_what_the_limit_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1200 images of 3 KiB are 3.7 MB; 50 of them are kept, and pieces of 64 KiB are decoded and read."""
    for module in (decoded, image_folder):
        monkeypatch.setattr(module, "PIECE", 2**16)
    for i in range(1200):
        paint(tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.ppm", i % 256, size=(32, 32))
    for i in range(10):
        paint(tmp_path / "set" / "test" / "ab"[i % 2] / f"{i}.ppm", i, size=(32, 32))
    options = folder(tmp_path / "set", channels=3, limit=30, validation=10)
    options.load(tmp_path / "warm", CPU)  # what is imported now is not counted
    first = peak(lambda: options.load(tmp_path, CPU))
    again = peak(lambda: options.load(tmp_path, CPU))
    # The listing takes some 0.6 KB an image; all of them in memory, or copied once, would be 3.7 MB more.
    assert first < 2_500_000, first
    assert again < 2_500_000, again


def test_the_limit_takes_the_images_that_it_took_of_all(pets: Path, tmp_path: Path) -> None:
    """Samples are chosen by position and class alone, as if all of them were in memory."""
    options = folder(pets, limit=2)
    file, test = options.read(tmp_path)
    validation, rest = file.cut(2, 0)
    train, _ = rest.cut(2, 0)
    splits = options.load(tmp_path, CPU)
    for expected, part in ((train, splits.train), (validation, splits.validation), (test, splits.test)):
        assert torch.equal(expected.images, part.images)
        assert torch.equal(expected.labels, part.labels)
        assert torch.equal(expected.index, part.index)


# --- what is kept of decoded images ------------------------------------------------------------------


def kept_file(root: Path) -> Path:
    (kept,) = (root / "image_folder").iterdir()
    return kept


def other_images(cache: Path) -> None:
    """Put what belongs to another folder there."""
    home = cache.parent.parent / "other"
    for i in range(8):
        paint(home / "set" / "ab"[i % 2] / f"{i}.png", 200 + i)
    folder(home / "set").read(home)
    kept_file(home).replace(cache)


def compressed(cache: Path) -> None:
    """A zip with the right names and sizes, of a thousandth of its bytes."""
    with zipfile.ZipFile(cache) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(cache, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(cache: Path) -> None:
        cache.unlink()
        make(cache)

    return change


CACHES: dict[str, Callable[[Path], object]] = {
    "list": replaced(lambda p: torch.save([1, 2], p)),
    "tensor": replaced(lambda p: torch.save(torch.zeros(3), p)),
    "of an earlier version": replaced(lambda p: torch.save({"fingerprint": "x", "train": torch.zeros(3)}, p)),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:300]),
    "without its end": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "random": lambda p: p.write_bytes(random.Random(0).randbytes(1000)),
    "pipe": replaced(os.mkfifo),
    "link to nothing": replaced(lambda p: p.symlink_to("nowhere")),
    "link to itself": replaced(lambda p: p.symlink_to(p)),
    "device": replaced(lambda p: p.symlink_to("/dev/zero")),
    "other images": other_images,
    "compressed": compressed,
    "no images": lambda p: zipfile.ZipFile(p, "w").close(),
}


@pytest.mark.parametrize("damage", CACHES)
def test_what_is_kept_is_made_again_where_it_is_another(
    damage: str,
    pets: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    root, options = tmp_path / "root", folder(pets)
    assert levels(options, root) == list(range(8))
    cache = kept_file(root)
    CACHES[damage](cache)
    caplog.clear()
    assert levels(options, root) == list(range(8))
    (said,) = caplog.messages
    assert said.startswith(f"decoding 8 images of {pets}, once: {cache}")
    assert levels(options, root) == list(range(8))
    assert caplog.messages == [said]


def test_a_place_that_cannot_be_taken_is_named(pets: Path, tmp_path: Path) -> None:
    folder(pets).read(tmp_path)
    cache = kept_file(tmp_path)
    cache.unlink()
    (cache / "in the way").mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"{cache} cannot be written: Is a directory"):
        folder(pets).read(tmp_path)
    assert [path.name for path in (tmp_path / "image_folder").iterdir()] == [cache.name]


@pytest.mark.parametrize("error", [DENIED, OSError(28, "")])
def test_a_root_that_cannot_be_written_is_named(
    error: OSError, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*arguments: Any, **options: Any) -> str:
        raise type(error)(error.errno, os.strerror(error.errno or 0))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refusing)
    with pytest.raises(
        UsageError, match=rf"image_folder cannot be written: {os.strerror(error.errno or 0)}; FDFA"
    ):
        folder(pets).read(tmp_path)


def test_a_disk_that_fills_leaves_nothing(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(UsageError, match=r"pets-ownx1-.*\.zip cannot be written: No space left"):
        folder(pets).read(tmp_path)
    assert list((tmp_path / "image_folder").iterdir()) == []


def test_a_root_that_is_a_file_is_named(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(UsageError, match="root/image_folder cannot be written: Not a directory"):
        folder(pets).read(tmp_path / "root")


def test_what_is_kept_and_may_not_be_read_is_named(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(pets).read(tmp_path)
    refuse(monkeypatch, os, "open", kept_file(tmp_path), DENIED)
    with pytest.raises(UsageError, match=rf"{kept_file(tmp_path)} may not be read by this user"):
        folder(pets).read(tmp_path)


def test_superseded_files_go_and_others_stay_in_the_list(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    other = tmp_path / "elsewhere" / "pets"
    for i in range(8):
        paint(other / "ab"[i % 2] / f"{i}.png", i)
    for options in (folder(pets), folder(pets, size=5), folder(other)):
        options.read(tmp_path)
    cache = tmp_path / "image_folder"
    place = next(k.path for k in decoded.kept(tmp_path) if k.folder == str(pets)).stem.rpartition("-")[-1]
    for legacy in (f"pets-64x3-{place}.pt", "cars-64x3-0123456789ab.pt"):
        (cache / legacy).write_bytes(b"x")
    folder(pets).read(tmp_path)
    assert len(list(cache.iterdir())) == 5  # nothing new was made, so nothing is superseded
    paint(pets / "cat" / "new.png", 50)
    folder(pets).read(tmp_path)
    found = {(k.path.name[:9], k.folder) for k in decoded.kept(tmp_path)}
    assert found == {("pets-ownx", str(pets)), ("pets-ownx", str(other)), ("cars-64x3", None)}
    assert run(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert all(str(k.path) in said for k in decoded.kept(tmp_path))
    assert str(other) in said
    assert ImageFolder.status(tmp_path).bytes == sum(f.stat().st_size for f in cache.iterdir())


# --- published files ---------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An IDX file of uint8."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """MNIST's files with 20 images each, as if these were published."""
    contents = {}
    for part in ("train", "t10k"):
        contents[f"{part}-images-idx3-ubyte"] = idx(np.full((20, 28, 28), 7, dtype=np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(np.arange(20, dtype=np.uint8) % 10)
    monkeypatch.setattr(Mnist, "checksums", {f: hashlib.md5(b).hexdigest() for f, b in contents.items()})
    return contents


def put(contents: Mapping[str, bytes], root: Path) -> Path:
    (root / Mnist.folder).mkdir(parents=True)
    for name, content in contents.items():
        (root / Mnist.folder / name).write_bytes(content)
    return root / Mnist.folder / "train-labels-idx1-ubyte"


PUBLISHED: dict[str, tuple[Callable[[Path], object], type[FdfaError], str]] = {
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"0"), DataCorrupt, "is damaged: its 29 bytes"),
    "far too long": (lambda p: os.truncate(p, 2**31), DataCorrupt, "its 2147483648 bytes are too many"),
    "folder": (replaced(lambda p: p.mkdir()), DataNotFound, "there is no .*train-labels"),
    "pipe": (replaced(os.mkfifo), DataNotFound, "there is no .*train-labels"),
    "device": (replaced(lambda p: p.symlink_to("/dev/zero")), DataNotFound, "there is no .*train-labels"),
    "link to itself": (
        replaced(lambda p: p.symlink_to(p)),
        DataCorrupt,
        "train-labels.* cannot be read: Too many",
    ),
    "packed": (lambda p: p.rename(f"{p}.gz"), DataNotFound, r"only .*ubyte\.gz, which is not unpacked"),
    "folder is a file": (
        lambda p: [p.parent.rename(p.parents[1] / "x"), p.parent.write_text("")],
        DataNotFound,
        "is no",
    ),
}


@pytest.mark.parametrize("damage", PUBLISHED)
def test_a_published_file_that_is_another_thing_is_named(
    damage: str, tiny_mnist: dict[str, bytes], tmp_path: Path
) -> None:
    change, error, message = PUBLISHED[damage]
    change(put(tiny_mnist, tmp_path))
    for ask in (lambda: [Mnist().require(tmp_path), Mnist(validation=2).load(tmp_path, CPU)],):
        with pytest.raises(error, match=message):
            ask()
    assert Mnist.status(tmp_path).state in ("present", "incomplete", "missing", "unreadable")


def test_opening_a_pipe_does_not_wait_for_a_writer(tiny_mnist: dict[str, bytes], tmp_path: Path) -> None:
    file = put(tiny_mnist, tmp_path)
    replaced(os.mkfifo)(file)
    with pytest.raises(DataCorrupt, match="train-labels-idx1-ubyte cannot be read: a pipe, socket or dev"):
        Mnist.open(tmp_path, file.name)


def test_a_published_file_that_may_not_be_read_is_named(
    tiny_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tiny_mnist, tmp_path)
    refuse(monkeypatch, os, "open", file, DENIED)
    for ask in (lambda: Mnist().load(tmp_path, CPU), lambda: Mnist.fetch(tmp_path)):
        with pytest.raises(UsageError, match=rf"{file} may not be read by this user"):
            ask()


@pytest.fixture
def closed_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root that may not be entered."""
    root, original = tmp_path / "closed", Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if root in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, **options)

    root.mkdir()
    monkeypatch.setattr(Path, "stat", stat)
    refuse(monkeypatch, os, "scandir", root / "image_folder", DENIED)
    refuse(monkeypatch, os, "listdir", root / "image_folder", DENIED)
    monkeypatch.setenv("FDFA_DATA", str(root))
    return root


def test_a_root_that_may_not_be_entered_is_named(
    closed_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {s.name: s.state for s in status(closed_root)} == {
        "cifar10": "unreadable",
        "cifar100": "unreadable",
        "digits": "built in",
        "fashion_mnist": "unreadable",
        "image_folder": "unreadable",
        "mnist": "unreadable",
        "synthetic": "built in",
    }
    assert run(["data", "list"]) == 0
    capsys.readouterr()
    (tmp_path / "r.yaml").write_text("data: {name: image_folder, folder: pets}\nnetwork: mlp\nrule: bp\n")
    for recipe in ("mnist/mlp", str(tmp_path / "r.yaml")):
        assert run(["train", recipe, "--results", str(tmp_path / "results")]) == 2
        assert f"{closed_root}/" in (said := capsys.readouterr().err)
        assert "may not be read by this user: Permission denied" in said
    assert not (tmp_path / "results").exists()


def test_a_root_in_nobodys_home_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FDFA_DATA", "~nobody-of-this-name/data")
    assert run(["data", "list"]) == 2
    assert "FDFA_DATA: '~nobody-of-this-name/data' names no folder" in capsys.readouterr().err


# --- fetching ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server on this machine: its address, and the files that it serves, by name."""
    contents: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"") + self.path.count("short") * 10))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", contents
        running.shutdown()


def test_packed_files_are_fetched_and_unpacked(
    server: tuple[str, dict[str, bytes]],
    tiny_mnist: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, contents = server
    packed = {f"{name}.gz": gzip.compress(content) for name, content in tiny_mnist.items()}
    contents |= packed
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    Mnist.fetch(tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / Mnist.folder).iterdir()} == tiny_mnist
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


FETCH = """if True:
    import sys
    import torchvision
    torchvision.datasets.MNIST.mirrors = [sys.argv[1]]
    sys.argv = ["fdfa", "data", "fetch", "mnist"]
    from fdfa_cli.__main__ import main
    main()
"""


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "Error downloading train-images"), (b"<html>", "not found or corrupted")]
)
def test_a_fetch_that_fails_ends_with_one_sentence_and_leaves_nothing(
    server: tuple[str, dict[str, bytes]], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Nothing follows it: modules in C++ that torchvision loads would complain if they were not freed."""
    address, contents = server
    if content is not None:
        contents["train-images-idx3-ubyte.gz"] = content
    done = subprocess.run(
        [sys.executable, "-c", FETCH, address],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FDFA_DATA": str(tmp_path / "root")},
    )
    assert (done.returncode, done.stdout) == (1, "")
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("fdfa: downloading mnist failed, nothing was stored: ")
    assert reason in sentence
    assert list((tmp_path / "root").iterdir()) == []


def test_a_fetch_removes_what_killed_ones_left_but_not_what_is_in_use(
    tiny_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(cls: type[Mnist], root: Path) -> None:
        put(tiny_mnist, root)

    monkeypatch.setattr(Mnist, "download", classmethod(download))
    for name in (".fetch-mnist-early", ".fetch-mnist-killed", ".fetch-mnist-running", ".fetch-cifar10-other"):
        put({"half": b"x"}, tmp_path / name)
    for name in ("killed", "running"):
        (tmp_path / f".fetch-mnist-{name}" / LOCK).touch()
    with (tmp_path / ".fetch-mnist-running" / LOCK).open("rb") as file:
        assert lock(file)
        Mnist.fetch(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".fetch-cifar10-other",
        ".fetch-mnist-running",
        "MNIST",
    ]


def test_two_at_once_leave_each_others_folders(tmp_path: Path) -> None:
    with staging(tmp_path, ".fetch-x-") as first, staging(tmp_path, ".fetch-x-") as second:
        assert first != second
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may take a folder for a leftover between its making and its locking."""
    original, made = files.tempfile.mkdtemp, []

    def raced(**options: Any) -> str:
        made.append(original(**options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(files.tempfile, "mkdtemp", raced)
    with staging(tmp_path, ".fetch-x-") as staged:
        assert str(staged) == made[1]
        assert staged.is_dir()


def test_fetching_into_a_root_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FDFA_DATA", str(tmp_path / "file"))
    assert run(["data", "fetch", "mnist"]) == 2
    assert f"fdfa: {tmp_path / 'file'} cannot be written: File exists" in capsys.readouterr().err


# --- transfer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "error", "message"),
    [
        ({"": b""}, DataCorrupt, "'' is not a path inside"),
        ({"a\0b": b""}, DataCorrupt, "is not a path inside"),
        ({".": b""}, DataCorrupt, "'.' is not a path inside"),
        ({"x" * 300: b""}, UsageError, "cannot be written: File name too long"),
        ({"a": b"", "a/b": b""}, UsageError, "a/b cannot be written: "),
    ],
)
def test_names_that_no_file_can_have_are_refused(
    contents: dict[str, bytes], error: type[FdfaError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        provide(ImageFolder(folder="pets"), "0" * 64, tmp_path, lambda: contents)
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_files_of_any_name_are_sent(tmp_path: Path) -> None:
    strange = "\udcff" if named(tmp_path / "try", "\udcff") else "é"
    for i, c in enumerate((strange, "a\nb")):
        paint(tmp_path / "far" / "pets" / c / f"{c}.png", i)
    data = folder(tmp_path / "far" / "pets")
    (tmp_path / "far" / "more").mkdir()
    paint(tmp_path / "far" / "more" / "linked.png", 9)
    (tmp_path / "far" / "pets" / "a\nb" / "link").symlink_to(tmp_path / "far" / "more")
    sent = data.files(tmp_path)
    assert len(sent) == 3
    moved, place = provide(
        data,
        digest(sent),
        tmp_path / "node",
        lambda: {name: path.read_bytes() for name, path in sent.items()},
    )
    assert (moved, place) == (data, tmp_path / "node")  # by its full path it is here, too
    moved, place = provide(
        ImageFolder(folder="pets", channels=1, validation=0, test=1),
        digest(sent),
        tmp_path / "node",
        lambda: {name: path.read_bytes() for name, path in sent.items()},
    )
    assert levels(moved, place) == [0, 1, 9]


@pytest.mark.parametrize("name", [".", "..", "pets/..", "~", "/"])
def test_a_folder_without_a_name_of_its_own_is_given_one(name: str) -> None:
    moved = ImageFolder(folder=name).movable()
    assert moved.folder == "images"
    assert moved.movable() == moved


def test_a_node_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/shipped/0+ cannot be written: Not a directory"):
        provide(ImageFolder(folder="pets"), "0" * 64, tmp_path / "file", dict)


# --- all of it at random -----------------------------------------------------------------------------

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
FORMS = ("PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP", "PPM")
NAMES = ("-x", "a\nb", "\udcfe", ".hidden", "é", "cat", "val", "train", "test", "n" * 240, "x.png", "[a]")


def anything(path: Path, chance: random.Random) -> None:
    """Some file, link, pipe or folder at `path`, which is often an image."""
    kind = chance.choice([*["image"] * 12, "cut", "noise", "link", "pipe", "folder", "empty"])
    if kind in ("image", "cut"):
        image = Image.new("L", (chance.choice([1, 8, 8, 8, 9]), 8), chance.randrange(256))
        try:
            image.convert(chance.choice(MODES)).save(stream := io.BytesIO(), chance.choice(FORMS))
        except (OSError, ValueError):  # a mode that the format, or Pillow, has not
            image.save(stream := io.BytesIO(), "PNG")
        content = stream.getvalue()
        path.write_bytes(content[: len(content) // 2] if kind == "cut" else content)
    elif kind == "link":
        path.symlink_to(chance.choice([path, path.parent, path.parent.parent, path.with_name("nowhere")]))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(chance.randbytes(50) if kind == "noise" else b"")


def anywhere(home: Path, chance: random.Random) -> None:
    """Two or three classes at `home`, often sound, sometimes with something else."""
    wild = chance.random() < 0.5
    for name in chance.sample(NAMES, 3) if wild else chance.sample(NAMES[4:6] + NAMES[9:], 3):
        if not named(home, name):
            continue
        for i in range(4):
            if wild and chance.random() < 0.2:
                anything(home / name / f"{i}{chance.choice(['.png', '.tif', '.JPG', ''])}", chance)
            else:
                Image.new(chance.choice(MODES[:8]), (8, 8)).save(home / name / f"{i}.png", "TIFF")


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_folder_images_or_a_sentence_come_out(seed: int, tmp_path: Path) -> None:
    chance, outcomes = random.Random(seed), []
    for i in range(12):
        home, root = tmp_path / str(i) / "set", tmp_path / str(i) / "root"
        anywhere(home, chance)
        options = folder(home, channels=chance.choice([1, 3]), size=chance.choice([None, None, 5]))
        for damage in (None, chance.choice(list(CACHES))):
            if damage and (root / "image_folder").is_dir() and any((root / "image_folder").iterdir()):
                CACHES[damage](kept_file(root))
            try:
                splits = options.load(root, CPU)
            except FdfaError as error:
                outcomes.append(str(error))
                continue
            outcomes.append("")
            for part in (splits.train, splits.validation, splits.test):
                assert part.images.dtype == torch.uint8
                assert part.images.shape[1:] == (options.channels, options.size or 8, options.size or 8)
                assert part.labels.max() < options.classes()
    assert "" in outcomes
    assert all(message == "" or str(tmp_path) in message or "data." in message for message in outcomes)
