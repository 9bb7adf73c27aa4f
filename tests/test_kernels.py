"""`FDFA_KERNELS=reference`: kernels chosen for a processor are left aside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fdfa_cli.errors import UsageError
from fdfa_cli.network.layers import fourier, normalise, processor, products

CACHES = (processor.reference, products._onednn_is_quicker, fourier._direct_is_slow)


@pytest.fixture
def choose(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets what the environment says; everything else is in favour of the fast kernels."""
    for module, width, family in ((products, "AVX512", 26), (fourier, "AVX2", 25)):
        monkeypatch.setattr(module, "vectors", lambda width=width: width)
        monkeypatch.setattr(module, "maker", lambda family=family: ("AuthenticAMD", family))
        monkeypatch.setattr(module, "private", lambda path: lambda: True)
    for cached in CACHES:
        cached.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for cached in CACHES:
        cached.cache_clear()


@pytest.mark.parametrize(("value", "fast"), [("reference", False), ("fast", True), (None, True)])
def test_the_environment_chooses_kernels(choose, value, fast):
    if value is None:
        choose.delenv(processor.VARIABLE, raising=False)
    else:
        choose.setenv(processor.VARIABLE, value)
    assert products._onednn_is_quicker() is fast
    assert fourier._direct_is_slow() is fast
    assert (normalise._fold(torch.ones(4, 8, 6, 6)) > 1) is fast


def test_what_the_environment_may_say(choose):
    choose.setenv(processor.VARIABLE, "slow")
    with pytest.raises(UsageError, match="FDFA_KERNELS must be fast or reference, not 'slow'"):
        processor.reference()


def test_a_setting_that_is_not_known_is_named():
    script = Path(__file__).with_name("processors.py")
    command = [sys.executable, str(script), "OMP_NUM_THREADS=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown setting OMP_NUM_THREADS=3; known: ATEN_CPU_CAPABILITY=default" in done.stderr
