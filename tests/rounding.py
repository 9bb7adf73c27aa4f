"""A pytest plugin: sums round otherwise in a stack than alone, as on a processor that is not at hand.

Which kernels agree to the last digit depends on the processor, so a test that promises digits may pass here
and fail elsewhere. Under ``-p rounding`` products and convolutions of float32 numbers that nothing stacks are
computed in float64 and rounded once; stacked ones stay float32 kernels' own.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, float32

from fdfa_cli.internals import transformed

_linear, _conv2d = F.linear, F.conv2d


def _elsewhere(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == weight.dtype == float32 and not transformed(x) and not transformed(weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `F.linear`."""
    if not _elsewhere(x, weight):
        return _linear(x, weight, bias)
    y = _linear(x.double(), weight.double(), None if bias is None else bias.double())
    return y.float()


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **more: Any) -> Tensor:
    """See `F.conv2d`."""
    if not _elsewhere(x, weight):
        return _conv2d(x, weight, bias, *how, **more)
    wide = None if bias is None else bias.double()
    return _conv2d(x.double(), weight.double(), wide, *how, **more).float()


F.linear, F.conv2d = linear, conv2d
