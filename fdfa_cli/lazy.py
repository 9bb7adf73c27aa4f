"""Heavy packages, imported at their first use.

`fdfa --help`, checking a recipe and reading a report must answer before torch could even be imported
(it takes seconds). So every module here writes ``from fdfa_cli.lazy import torch`` and may be imported
freely; the real package is loaded when the first attribute of it is asked for. Type checkers see the
real package.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch
    import torch.nn.functional as F
    import torchvision
else:

    class _LazyModule(types.ModuleType):
        """Stands for a module until an attribute of it is read; keeps every attribute once found."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # pickling and introspection must not load the package
                raise AttributeError(name)
            value = getattr(importlib.import_module(self.__name__), name)
            setattr(self, name, value)
            return value

    torch = _LazyModule("torch")
    F = _LazyModule("torch.nn.functional")
    torchvision = _LazyModule("torchvision")
    numpy = _LazyModule("numpy")

__all__ = ["F", "numpy", "torch", "torchvision"]
