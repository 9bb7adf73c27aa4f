"""Fixtures that several rooms' tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fdfa_cli.data import data_root as default_data_root
from fdfa_cli.registry import DATA, NETWORKS, OPTIMIZERS, RULES, SCHEDULES


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    """What a test registers is forgotten after it: others ask for all that there is."""
    registries = (DATA, NETWORKS, OPTIMIZERS, RULES, SCHEDULES)
    known = [registry.models() for registry in registries]
    yield
    for registry, models in zip(registries, known, strict=True):
        registry._models = models


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """The folder of real data; skips where it lacks what ``@pytest.mark.real_data("mnist")`` names."""
    root = default_data_root()
    for marker in request.node.iter_markers("real_data"):
        for name in marker.args:
            if DATA.get(name).status(root).state != "present":
                pytest.skip(f"{name} is not in {root}: `fdfa data fetch {name}`")
    return root
