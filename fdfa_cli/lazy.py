"""Heavy packages, imported at their first use.

`fdfa --help`, checking a recipe and reading a report must answer before torch could even be imported
(it takes seconds). So every module here writes ``from fdfa_cli.lazy import torch`` and may be imported
freely; the real package is loaded when the first attribute of it is asked for. Type checkers see the
real package.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

# How often an idle thread of torch's looks for work before it sleeps: for some 0.5 ms in place of 10, so
# that others may have its core (see `network.kernels.nnpack`). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    import numpy
    import torch
    import torch.nn.functional as F
    import torchvision
    from torch.optim import adam, rmsprop, sgd
else:

    class _LazyModule(types.ModuleType):
        """Stands for a module until an attribute of it is read; keeps every attribute once found."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # pickling and introspection must not load the package
                raise AttributeError(name)
            value = getattr(_imported(self.__name__), name)
            setattr(self, name, value)
            return value

    def _imported(name: str) -> types.ModuleType:
        """The package, which the garbage collector is kept from: neither while it is loaded nor later.

        Looking through the half million objects that torch leaves behind, of which none will ever be free,
        would take 0.2 s while it is imported and 0.4 s when the process ends.
        """
        if name in sys.modules:
            return importlib.import_module(name)
        gc.disable()
        try:
            return importlib.import_module(name)
        finally:
            gc.enable()
            gc.freeze()

    torch = _LazyModule("torch")
    F = _LazyModule("torch.nn.functional")
    torchvision = _LazyModule("torchvision")
    numpy = _LazyModule("numpy")
    adam = _LazyModule("torch.optim.adam")
    rmsprop = _LazyModule("torch.optim.rmsprop")
    sgd = _LazyModule("torch.optim.sgd")

__all__ = ["F", "adam", "numpy", "rmsprop", "sgd", "torch", "torchvision"]
