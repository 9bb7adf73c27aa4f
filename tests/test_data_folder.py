"""Image folders: layouts, decoding, what is kept of it, and folders that do not fit together."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from fdfa_cli.data import image_folder
from fdfa_cli.data.image_folder import ImageFolder
from fdfa_cli.errors import DataCorrupt, DataNotFound
from fdfa_cli.recipe.resolve import read

CPU = torch.device("cpu")


# --- image folders -----------------------------------------------------------------------------------


def picture(seed: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Image.Image:
    """A smooth picture of `size` (width, height), different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def paint(path: Path, seed: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **options).save(path)
    return path


@pytest.fixture
def layouts(tmp_path: Path) -> dict[str, Path]:
    """The same 12 training and 4 test pictures of two classes in each layout."""
    roots = {name: tmp_path / name for name in ("val", "test", "tiny", "flat")}
    lines = []
    for i in range(12):
        name, c = f"{i}.png", "ab"[i % 2]
        paint(roots["val"] / "train" / c / name, i)
        paint(roots["test"] / "train" / c / "deeper" / name, i)
        paint(roots["tiny"] / "train" / c / "images" / name, i)
        paint(roots["flat"] / c / name, i)
    for i in range(12, 16):
        name, c = f"{i}.png", "ab"[i // 2 % 2]
        paint(roots["val"] / "val" / c / name, i)
        paint(roots["test"] / "test" / c / name, i)
        paint(roots["test"] / "val" / c / name, 99)  # superseded by test/
        paint(roots["tiny"] / "val" / "images" / name, i)
        paint(roots["tiny"] / "test" / "images" / f"test_{i}.png", 99)  # published without labels
        lines.append(f"{name}\t{c}\t0\t0\t19\t19\n")
        paint(roots["flat"] / c / name, i)
    (roots["tiny"] / "val" / "val_annotations.txt").write_text("".join(lines))
    (roots["tiny"] / "wnids.txt").write_text("b\na\n")
    for file in ("notes.txt", ".hidden.png"):
        (roots["val"] / "train" / "a" / file).write_text("not a picture")
    return roots


def folder(path: Path, **options: Any) -> ImageFolder:
    return ImageFolder(folder=str(path), **{"size": 20, "validation": 4, **options})


def named(seeds: range) -> dict[bytes, int]:
    """Which seed a stored 20×20 picture was painted from."""
    return {np.asarray(picture(s)).transpose(2, 0, 1).tobytes(): s for s in seeds}


@pytest.mark.parametrize("layout", ["val", "test", "tiny", "flat"])
def test_every_layout_gives_the_same_pictures(layout: str, layouts: dict[str, Path], tmp_path: Path) -> None:
    options = folder(layouts[layout], test=4)
    splits = options.load(tmp_path / "root", CPU)
    seeds = named(range(16))
    found = [
        [
            (seeds[image.numpy().tobytes()], label)
            for image, label in zip(s.images, s.labels.tolist(), strict=True)
        ]
        for s in (splits.train, splits.validation, splits.test)
    ]
    assert [len(f) for f in found] == [8, 4, 4]
    assert sorted(seed for part in found for seed, _ in part) == list(range(16))
    assert all(label == (seed % 2 if seed < 12 else seed // 2 % 2) for part in found for seed, label in part)
    if layout != "flat":
        assert sorted(seed for seed, _ in found[2]) == [12, 13, 14, 15]
    assert options.shape() == (3, 20, 20)


def test_a_relative_folder_is_beside_the_recipe_or_else_under_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, mine = tmp_path / "root", tmp_path / "mine"
    monkeypatch.setenv("FDFA_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    for place, names in ((root / "pets", "ab"), (root / "cars", "abc"), (mine / "pets", "abcd")):
        for name in names:
            paint(place / name / "1.png", seed=1)
    file = Path("mine/recipe.yaml")
    text = "data: {{name: image_folder, folder: {}, size: 4}}\nnetwork: mlp\nrule: bp\n"

    def folder_and_classes(name: str) -> tuple[str, int]:
        file.write_text(text.format(name))
        data = read(str(file)).recipe.data
        assert isinstance(data, ImageFolder)
        return data.folder, data.classes()

    assert folder_and_classes("pets") == (str(mine / "pets"), 4)
    assert folder_and_classes("./pets") == (str(mine / "pets"), 4)
    assert folder_and_classes("cars") == ("cars", 3)
    assert folder_and_classes(str(root / "pets")) == (str(root / "pets"), 2)
    file.write_text(text.format("cars"))
    overridden = read(str(file), ["data.folder=pets"]).recipe.data
    assert isinstance(overridden, ImageFolder)
    assert overridden.folder == str(mine / "pets")


def test_classes_are_counted_and_a_missing_folder_is_named(
    layouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDFA_DATA", str(tmp_path))
    assert [ImageFolder(folder=name).classes() for name in layouts] == [2, 2, 2, 2]
    for ask in (
        lambda: ImageFolder(folder="nope").classes(),
        lambda: folder(Path("nope")).load(tmp_path, CPU),
    ):
        with pytest.raises(DataNotFound, match=f"{tmp_path}/nope(.|\n)*FDFA_DATA"):
            ask()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="a folder of images for each class"):
        ImageFolder(folder="empty").classes()


def test_a_class_of_trains_is_no_layout(tmp_path: Path) -> None:
    for i, c in enumerate(("plane", "ship", "train") * 2):
        paint(tmp_path / "set" / c / f"{i}.png", i)
    splits = folder(tmp_path / "set", validation=0, test=3).load(tmp_path, CPU)
    assert splits.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(30, 20), (20, 46), (40, 40), (7, 7), (80, 40), (60, 120)])
@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_are_resized_and_cut_as_torchvision_does(
    size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    for c in "ab":
        paint(tmp_path / "set" / c / "x.png", 5, size=size)
    train, _ = folder(tmp_path / "set", channels=channels, test=1).read(tmp_path)
    expected = reference.pil_to_tensor(picture(5, size, "RGB" if channels == 3 else "L"))
    expected = reference.center_crop(reference.resize(expected, [20]), [20, 20])
    # At the rim of the cut, torchvision also averages over pixels outside of it.
    assert (train.images[0].double() - expected)[:, 1:-1, 1:-1].abs().max() <= 1


def test_decoded_pictures_are_kept_until_a_file_changes(
    layouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, options = tmp_path / "root", folder(layouts["val"])
    decoded: list[str] = []
    original = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", lambda path, fit: decoded.append(path) or original(path, fit))

    def images() -> torch.Tensor:
        return options.read(root)[0].images

    first = images()
    assert len(decoded) == 16
    assert torch.equal(images(), first)
    assert len(decoded) == 16
    changed = layouts["val"] / "train" / "a" / "0.png"
    for change in (
        lambda: paint(changed.with_name("0.bmp"), 50),
        lambda: paint(changed.with_name("0.bmp"), 51),  # as many bytes as before
        lambda: paint(changed, 77),
        lambda: changed.rename(changed.with_name("z.png")),
        lambda: changed.with_name("z.png").unlink(),
    ):
        before, seen = images(), len(decoded)
        change()
        assert not torch.equal(images(), before)
        assert len(decoded) > seen
    assert len(list((root / "image_folder").iterdir())) == 1  # replaced, and nothing beside it


def test_other_sizes_and_folders_are_kept_apart(layouts: dict[str, Path], tmp_path: Path) -> None:
    for options in (
        folder(layouts["val"]),
        folder(layouts["val"], size=8),
        folder(layouts["val"], channels=1),
    ):
        assert options.read(tmp_path)[0].images.shape[1:] == options.stored_shape()[:1] + (options.size,) * 2
    folder(layouts["flat"]).read(tmp_path)
    assert len(list((tmp_path / "image_folder").iterdir())) == 4
    assert ImageFolder.status(tmp_path).bytes > 0


def encoded(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream := io.BytesIO(), form)
    return stream.getvalue()


def broken_png() -> bytes:
    """Its second block of pixels has no valid name, which only decoding meets."""
    before, _, after = encoded("PNG").rpartition(b"IDAT")
    return before + b"I\x00AT" + after


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", encoded("JPEG")[:3000], broken_png(), b"P6\nx x\n255\n"],
    ids=["empty", "text", "cut", "block", "header"],
)
def test_a_picture_that_cannot_be_read_is_named(
    layouts: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    bad = layouts["val"] / "val" / "b" / "bad.JPEG"
    bad.write_bytes(content)
    with pytest.raises(DataCorrupt, match=r"val/b/bad\.JPEG cannot be decoded"):
        folder(layouts["val"]).load(tmp_path / "root", CPU)
    assert not list((tmp_path / "root" / "image_folder").iterdir())


def test_a_damaged_store_of_decoded_pictures_is_named(layouts: dict[str, Path], tmp_path: Path) -> None:
    folder(layouts["val"]).read(tmp_path)
    (kept,) = (tmp_path / "image_folder").iterdir()
    content = bytearray(kept.read_bytes())
    content[100] ^= 1  # in the pixels of the first image
    kept.write_bytes(content)
    with pytest.raises(DataCorrupt, match=f"{kept.name} is damaged"):
        folder(layouts["val"]).read(tmp_path)


@pytest.mark.parametrize(
    ("layout", "spoil", "message"),
    [
        ("val", lambda root: paint(root / "val" / "c" / "0.png", 0), "val/c: the training part has no class"),
        ("val", lambda root: (root / "train" / "c").mkdir(), "train/c holds no image"),
        (
            "tiny",
            lambda root: (root / "val" / "images" / "12.png").unlink(),
            r"val_annotations.txt:1: .*12.png",
        ),
        (
            "tiny",
            lambda root: (root / "val" / "val_annotations.txt").write_text("12.png\tb\n13.png\tzebra\n"),
            "val_annotations.txt:2: .*'zebra'",
        ),
    ],
)
def test_a_folder_that_does_not_fit_together_is_named(
    layouts: dict[str, Path], tmp_path: Path, layout: str, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(layouts[layout])
    with pytest.raises(DataCorrupt, match=message):
        folder(layouts[layout]).read(tmp_path)


def test_standard_normalisation_of_a_folder_is_measured(layouts: dict[str, Path], tmp_path: Path) -> None:
    train = folder(layouts["val"], validation=0).load(tmp_path, CPU).train
    x = train.batch(torch.arange(12)).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-6
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-6, atol=0)
    for c in "ab":
        (tmp_path / "black" / c).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "black" / c / "0.png")
    black = folder(tmp_path / "black", validation=0, test=1).load(tmp_path, CPU).train
    assert black.batch(torch.arange(1)).abs().max() == 0
