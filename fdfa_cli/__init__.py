"""fdfa: train deep networks without backpropagating errors, and compare the rules that do.

    run = fdfa_cli.train("digits/mlp", rule="fdfa", training={"epochs": 3})
    run.summary["test_accuracy"]
    run.model()                                        # a torch.nn.Module
    fdfa_cli.runs("results", where="rule=fdfa").to_pandas()

A name is loaded when it is first asked for, so the import itself takes no time. What plugins are made of is
here, too: rules, layers, networks, data sets, optimizers and schedules, with the registries of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fdfa_cli.version import __version__

if TYPE_CHECKING:
    from fdfa_cli.api.recipes import load
    from fdfa_cli.api.stored import Run, Runs, runs
    from fdfa_cli.api.studies import Comparison, Sweep, compare, sweep
    from fdfa_cli.api.trainings import resume, train
    from fdfa_cli.data.base import DATA, Counts, Data, Subset
    from fdfa_cli.errors import FdfaError, Unsupported, UsageError
    from fdfa_cli.lazy import torch
    from fdfa_cli.network import layers
    from fdfa_cli.network.base import NETWORKS, Network, NetworkOptions
    from fdfa_cli.network.layers import Layer, Mode, Tensors
    from fdfa_cli.optim.optimizers import OPTIMIZERS, Optimizer, ParameterGroup
    from fdfa_cli.optim.schedules import SCHEDULES, Schedule
    from fdfa_cli.registry import load_plugin
    from fdfa_cli.rules.base import RULES, Rule
    from fdfa_cli.rules.direct import DirectFeedback
    from fdfa_cli.rules.step import Step, Trace, Update, feedback_signal, gathered
    from fdfa_cli.streams import Draw, Shape

#: The module of every name.
_MODULES = {
    "load": "api.recipes",
    **dict.fromkeys(("Run", "Runs", "runs"), "api.stored"),
    **dict.fromkeys(("Comparison", "Sweep", "compare", "sweep"), "api.studies"),
    **dict.fromkeys(("resume", "train"), "api.trainings"),
    **dict.fromkeys(("DATA", "Counts", "Data", "Subset"), "data.base"),
    **dict.fromkeys(("NETWORKS", "Network", "NetworkOptions"), "network.base"),
    **dict.fromkeys(("Layer", "Mode", "Tensors"), "network.layers"),
    **dict.fromkeys(("OPTIMIZERS", "Optimizer", "ParameterGroup"), "optim.optimizers"),
    **dict.fromkeys(("SCHEDULES", "Schedule"), "optim.schedules"),
    **dict.fromkeys(("RULES", "Rule"), "rules.base"),
    **dict.fromkeys(("Step", "Trace", "Update", "feedback_signal", "gathered"), "rules.step"),
    "DirectFeedback": "rules.direct",
    **dict.fromkeys(("Draw", "Shape"), "streams"),
    **dict.fromkeys(("FdfaError", "Unsupported", "UsageError"), "errors"),
    "load_plugin": "registry",
    "torch": "lazy",
}

__all__ = [
    "DATA",
    "NETWORKS",
    "OPTIMIZERS",
    "RULES",
    "SCHEDULES",
    "Comparison",
    "Counts",
    "Data",
    "DirectFeedback",
    "Draw",
    "FdfaError",
    "Layer",
    "Mode",
    "Network",
    "NetworkOptions",
    "Optimizer",
    "ParameterGroup",
    "Rule",
    "Run",
    "Runs",
    "Schedule",
    "Shape",
    "Step",
    "Subset",
    "Sweep",
    "Tensors",
    "Trace",
    "Unsupported",
    "Update",
    "UsageError",
    "__version__",
    "compare",
    "feedback_signal",
    "gathered",
    "layers",
    "load",
    "load_plugin",
    "resume",
    "runs",
    "sweep",
    "torch",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name's module when the name is first asked for."""
    if name == "layers":
        return importlib.import_module(f"{__name__}.network.layers")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
