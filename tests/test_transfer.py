"""Data sets on machines that share no files: recognised by content, sent once, verified."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fdfa_cli.data.cifar import Cifar10
from fdfa_cli.data.digits import Digits
from fdfa_cli.data.image_folder import ImageFolder
from fdfa_cli.data.images import DownloadedImages
from fdfa_cli.data.transfer import digest, provide
from fdfa_cli.errors import DataCorrupt, DataNotFound


class Pair(DownloadedImages):
    """Two files."""

    name: str = "pair"
    folder = "pair/raw"
    checksums = {"a": hashlib.md5(b"first").hexdigest(), "b": hashlib.md5(b"second").hexdigest()}  # noqa: RUF012

    def classes(self) -> int:
        raise NotImplementedError

    def read(self, root: Path) -> Any:
        raise NotImplementedError

    @classmethod
    def download(cls, root: Path) -> None:
        raise NotImplementedError


CONTENT = {"pair/raw/a": b"first", "pair/raw/b": b"second"}


def write(root: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


class Sender:
    """What a driver would send, counted."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content, self.sent = content, 0

    def __call__(self) -> Mapping[str, bytes]:
        self.sent += 1
        return self.content


def test_the_digest_is_of_names_and_contents(tmp_path):
    files = Pair().files(write(tmp_path, CONTENT))
    lines = "".join(f"{name}\0{hashlib.sha256(CONTENT[name]).hexdigest()}\n" for name in sorted(CONTENT))
    assert digest(files) == hashlib.sha256(lines.encode()).hexdigest()
    assert digest({}) == ""


def test_a_set_that_brings_its_files_is_not_sent(tmp_path):
    send = Sender({})
    assert Digits().files(tmp_path) == {}
    assert provide(Digits(), digest({}), tmp_path, send) == (Digits(), tmp_path)
    assert send.sent == 0


def test_a_machine_that_has_the_files_uses_its_own(tmp_path):
    send = Sender(CONTENT)
    expected = digest(Pair().files(write(tmp_path, CONTENT)))
    assert provide(Pair(), expected, tmp_path, send) == (Pair(), tmp_path)
    assert send.sent == 0


@pytest.mark.parametrize("there", [{}, {"pair/raw/a": b"first", "pair/raw/b": b"other"}])
def test_a_machine_that_has_not_is_sent_them_once(there, tmp_path):
    expected = digest(Pair().files(write(tmp_path / "driver", CONTENT)))
    root, send = write(tmp_path / "node", there), Sender(CONTENT)
    root.mkdir(exist_ok=True)
    data, place = provide(Pair(), expected, root, send)
    assert digest(data.files(place)) == expected
    assert bytes(Pair.open(place, "b")) == b"second"
    assert provide(Pair(), expected, root, send) == (data, place)
    assert send.sent == 1
    for name, content in there.items():  # what the user has there is left alone
        assert (root / name).read_bytes() == content
    (place / "pair/raw/a").write_bytes(b"damaged")
    provide(Pair(), expected, root, send)
    assert send.sent == 2
    assert digest(data.files(place)) == expected


@pytest.mark.parametrize("arriving", [{"pair/raw/a": b"first"}, {**CONTENT, "pair/raw/b": b"tampered"}])
def test_what_arrives_damaged_is_not_kept(arriving, tmp_path):
    expected = digest(Pair().files(write(tmp_path / "driver", CONTENT)))
    with pytest.raises(DataCorrupt, match="did not arrive"):
        provide(Pair(), expected, tmp_path / "node", Sender(arriving))
    assert [path for path in (tmp_path / "node").rglob("*") if path.suffix != ".lock"] == [
        tmp_path / "node/shipped"
    ]


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    with pytest.raises(DataCorrupt, match="not a path inside"):
        provide(Pair(), "0" * 64, tmp_path, Sender({name: b""}))


def test_a_folder_of_images_goes_by_its_name(tmp_path):
    write(tmp_path / "far" / "pets", {"cat/1.png": b"x", "dog/2.png": b"y", ".hidden/3": b"z"})
    data = ImageFolder(folder=str(tmp_path / "far" / "pets"))
    files = data.files(tmp_path)
    assert set(files) == {"pets/cat/1.png", "pets/dog/2.png"}
    send = Sender({name: path.read_bytes() for name, path in files.items()})
    moved, place = provide(ImageFolder(folder="pets"), digest(files), tmp_path / "node", send)
    assert moved.classes.__self__.folder == "pets"
    assert set(moved.files(place)) == set(files)


def test_a_set_that_is_missing_says_how_to_fetch_it(tmp_path):
    with pytest.raises(DataNotFound, match="fdfa data fetch cifar10"):
        Cifar10().files(tmp_path)
