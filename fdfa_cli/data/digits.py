"""The optical digits, bundled: a set to try everything on, without a download."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from fdfa_cli.data.base import DATA, TEST_SEED, Amount, Counts, Subset
from fdfa_cli.data.images import ImageData
from fdfa_cli.errors import DataCorrupt
from fdfa_cli.lazy import numpy, torch

SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
#: Samples held out for testing: the file has no test part of its own, so the cut is fixed here.
TEST = 400
#: Samples that are not for testing.
TRAIN = 1397


@DATA.register
class Digits(ImageData):
    """UCI optical digits, 8×8 grey, 10 classes, 1397 + 400; bundled.

    Alpaydin and Kaynak 1998, UCI Machine Learning Repository; CC BY 4.0 (see ``bundled/LICENSE``).
    """

    name: Literal["digits"] = "digits"

    stored: ClassVar[tuple[int, int]] = (1, 8)
    white: ClassVar[int] = 16
    mean: ClassVar[tuple[float, ...]] = (0.3053,)
    std: ClassVar[tuple[float, ...]] = (0.3760,)

    validation: Annotated[
        Amount, Field(description="samples, or fraction, cut from the 1397 that are not for testing")
    ] = 200

    @override
    def classes(self) -> int:
        return 10

    @override
    def counts(self) -> Counts:
        return Counts(TRAIN, TEST)

    @override
    def read(self, root: Path) -> tuple[Subset, Subset]:
        """Ignores `root`. Samples of both parts are numbered by their position in the one file."""
        file = importlib.resources.files(__package__) / "bundled" / "digits.csv.gz"
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise DataCorrupt(f"{file} is damaged: install fdfa-cli again")
        lines = gzip.decompress(content).decode().splitlines()
        table = torch.from_numpy(numpy.loadtxt(lines, dtype=numpy.uint8, delimiter=","))
        test, train = Subset.whole(table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].long()).cut(
            TEST, TEST_SEED
        )
        return train, test
