"""The actor that tells the tasks of a cluster when to stop, and gives them the files of data sets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.data import Data, data_root
from fdfa_cli.data.transfer import digest
from fdfa_cli.trials.engines.base import Job


@dataclass(frozen=True)
class DataFiles:
    """The files of the data sets of some jobs.

    `digests` is by the options of a set, as JSON; `files`, by digest, are the paths on this machine by name.
    """

    digests: Mapping[str, str]
    files: Mapping[str, Mapping[str, Path]]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> DataFiles:
        """The files that `jobs` read on this machine; raises `DataNotFound` where one is missing."""
        root, digests, files = data_root(), {}, {}
        for key, data in {job.recipe.data.model_dump_json(): job.recipe.data for job in jobs}.items():
            found = data.files(root)
            digests[key] = digest(found)
            files[digests[key]] = found
        return cls(digests, files)

    def digest(self, data: Data) -> str:
        """The digest of the files of `data`, which is empty for a set that needs no files."""
        return self.digests[data.model_dump_json()]


class Coordinator:
    """A Ray actor on the driver's machine; `files` are those of `DataFiles`."""

    def __init__(self, files: Mapping[str, Mapping[str, Path]]) -> None:
        self._files = files
        self._stop = asyncio.Event()

    async def stop(self) -> None:
        """Let every call of `stopped` return."""
        self._stop.set()

    async def stopped(self) -> None:
        """Return once training shall stop."""
        await self._stop.wait()

    async def fetch(self, digest: str) -> dict[str, bytes]:
        """The contents, by name, of the files whose digest this is."""
        return {name: path.read_bytes() for name, path in self._files[digest].items()}
