"""The driver's coordinator on a cluster: tells tasks when to stop, and hands out the files of data sets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdfa_cli.data import Data, data_root
from fdfa_cli.data.shipping import digest
from fdfa_cli.trials.engines.base import Job


@dataclass(frozen=True)
class DataFiles:
    """The data sets of some jobs: `digests` by the set's options as JSON, and the `files` of each digest."""

    digests: Mapping[str, str]
    files: Mapping[str, Mapping[str, Path]]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> DataFiles:
        """What `jobs` read on this machine; raises `DataNotFound` where it is not here."""
        root, digests, files = data_root(), {}, {}
        for key, data in {job.recipe.data.model_dump_json(): job.recipe.data for job in jobs}.items():
            found = data.files(root)
            digests[key] = digest(found)
            files[digests[key]] = found
        return cls(digests, files)

    def digest(self, data: Data) -> str:
        """Of the files of a set; empty where it needs none."""
        return self.digests[data.model_dump_json()]


class Coordinator:
    """An actor on the driver's machine; see `DataFiles` for `files`."""

    def __init__(self, files: Mapping[str, Mapping[str, Path]]) -> None:
        self._files = files
        self._stop = asyncio.Event()

    async def stop(self) -> None:
        """Tell all who wait in `stopped`."""
        self._stop.set()

    async def stopped(self) -> None:
        """Returns when there is no more to do."""
        await self._stop.wait()

    async def fetch(self, digest: str) -> dict[str, bytes]:
        """The contents of a data set's files."""
        return {name: path.read_bytes() for name, path in self._files[digest].items()}
