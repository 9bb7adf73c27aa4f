"""Private parts of torch, which a torch older or newer than the tested one may lack.

Each is asked for through `private`, by the kernels of a CPU, the optimizers, stacks and diagnostics, and
whoever asks has a public way to the same result:

    _fused_sgd_, _fused_adam_, _fused_adamw_          torch.optim's functions, tensor by tensor
    ops.mkldnn._linear_pointwise                      F.linear
    _nnpack_spatial_convolution, _nnpack_available    direct convolutions
    ops.aten._adaptive_avg_pool2d and its _backward   products with matrices of means
    _C._functorch.is_functorch_wrapped_tensor         whether the tensor has memory of its own
    utils._pytree, utils._python_dispatch             stacked steps are not recorded; a probe weighs no bytes

One more is not asked for but overridden: `TorchDispatchMode._should_skip_dynamo`, which a torch without it
never calls.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any

from fdfa_cli.lazy import torch

_log = logging.getLogger(__name__)


@cache
def private(path: str) -> Any | None:
    """The part of torch at `path`, such as ``"ops.mkldnn._linear_pointwise"``.

    None where this torch lacks it, which is logged once, for ``--debug``.
    """
    assert torch.version  # loaded as `lazy` loads it
    found: Any = importlib.import_module("torch")
    version = found.__version__
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            _log.debug("this torch (%s) has no torch.%s: done without it", version, path)
            return None
    return found


def transformed(t: torch.Tensor) -> bool:
    """Whether a transform of `torch.func` runs over `t`, which then stands for other tensors."""
    told = private("_C._functorch.is_functorch_wrapped_tensor")
    if told is not None:
        return bool(told(t))
    try:
        t.data_ptr()
    except RuntimeError:  # what stands for others has no memory of its own
        return True
    return False


@cache
def recording_mode() -> type | None:
    """The base of modes that see every operation below `torch.func`; None where torch has none."""
    base: Any = private("utils._python_dispatch.TorchDispatchMode")
    if base is None:
        return None

    class Mode(base):  # type: ignore[misc]  # torch does not type it
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # To tell the compiler that it may not look into the mode, torch would import all of it: a second
            # or more, and thirty lines about its leaks when the process ends.
            return False

    return Mode
