"""Fixtures that tests of several packages use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fdfa_cli.data import data_root as default_data_root
from fdfa_cli.data.base import DATA
from fdfa_cli.network.base import NETWORKS
from fdfa_cli.network.kernels import VARIABLE, kernels
from fdfa_cli.optim.optimizers import OPTIMIZERS
from fdfa_cli.optim.schedules import SCHEDULES
from fdfa_cli.rules.base import RULES


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    """What a test registers is forgotten after it: others ask for all that there is."""
    registries = (DATA, NETWORKS, OPTIMIZERS, RULES, SCHEDULES)
    known = [registry.models() for registry in registries]
    yield
    for registry, models in zip(registries, known, strict=True):
        registry._models = models


@pytest.fixture
def fast_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels that are chosen where the environment says nothing."""
    yield from _kernels("fast", monkeypatch)


@pytest.fixture
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels that ``FDFA_KERNELS=reference`` chooses."""
    yield from _kernels("reference", monkeypatch)


def _kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, name)
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """The folder of real data; skips where it lacks what ``@pytest.mark.real_data("mnist")`` names."""
    root = default_data_root()
    for marker in request.node.iter_markers("real_data"):
        for name in marker.args:
            if DATA.get(name).status(root).state != "present":
                pytest.skip(f"{name} is not in {root}: `fdfa data fetch {name}`")
    return root


RULE = '''\
import time
from pathlib import Path
from typing import ClassVar, Literal
from fdfa_cli.rules.base import RULES
from fdfa_cli.rules.direct import DirectFeedback

@RULES.register
class Halved(DirectFeedback):
    """Direct feedback of half the error; slow as long as there is a certain file."""

    name: Literal["halved"] = "halved"
    source: ClassVar[str] = "a test"

    def message(self, error):
        if Path({slow!r}).exists():
            time.sleep(0.01)
        return error / 2
'''


@pytest.fixture
def slow(tmp_path) -> Path:
    """A file; as long as it exists, trainings by the rule of `plugin` take their time."""
    file = tmp_path / "slow"
    file.touch()
    return file


@pytest.fixture
def plugin(tmp_path, slow) -> Path:
    """A file that registers the rule `halved`."""
    file = tmp_path / "halved.py"
    file.write_text(RULE.format(slow=str(slow)))
    return file
