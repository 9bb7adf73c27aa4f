"""Published archives, fetched and unpacked: torch is not needed for it, nor loaded."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import SupportsRead

#: Seconds that a server may be silent.
PATIENCE = 60


@dataclass(frozen=True)
class Archive:
    """A published file: the `urls` it is found at, tried in turn, and its MD5 checksum."""

    urls: tuple[str, ...]
    md5: str

    @property
    def name(self) -> str:
        """The file's name, which tells how it is packed."""
        return self.urls[0].rpartition("/")[-1]

    def fetch(self, folder: Path) -> Path:
        """Download it into `folder`, verified; raises OSError with what went wrong at every address."""
        from http.client import HTTPException

        wrong = []
        for url in self.urls:
            print(f"downloading {url}", file=sys.stderr)
            try:
                self._fetch(url, folder / self.name)
                return folder / self.name
            except (OSError, HTTPException, ValueError) as error:
                wrong.append(f"{url}: {_reason(error)}")
        raise OSError("; ".join(wrong))

    def _fetch(self, url: str, target: Path) -> None:
        import urllib.request  # which takes 30 ms, and not only a download loads this module

        request = urllib.request.Request(url, headers={"User-Agent": "fdfa"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file, 2**20)
        with target.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != self.md5:
            raise ValueError(f"its {target.stat().st_size} bytes are not what was published there")


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    reason = getattr(error, "reason", None) or error  # urllib wraps what the system says
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return " ".join(text.split()) or type(error).__name__


def unpack(archive: Path, files: Iterable[str], folder: Path) -> None:
    """Write those of `files`, paths inside `folder`, that the verified `archive` (.tar.gz or .gz) holds.

    Nothing else in it is looked at, so no name in it leads anywhere. Raises OSError.
    """
    import tarfile

    if not archive.name.endswith(".tar.gz"):
        (file,) = (file for file in files if Path(file).name == archive.name.removesuffix(".gz"))
        with gzip.open(archive) as content:
            _copy(content, folder / file)
        return
    with tarfile.open(archive, "r:gz") as tar:
        for file in files:
            member = tar.extractfile(file)
            assert member is not None, "a published archive holds files where its files are"
            _copy(member, folder / file)


def _copy(content: SupportsRead[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 2**20)
