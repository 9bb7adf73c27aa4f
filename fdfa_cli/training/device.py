"""Where a training computes.

Importing torch takes more than a second, which whoever only hands trainings out to other processes does not
have to spend where it is plain that there is no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fdfa_cli import machine
from fdfa_cli.errors import Unsupported, UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.recipe.schema import Training
from fdfa_cli.training.allocator import keep_freed_memory

#: Devices in /dev through which Linux reaches a GPU: NVIDIA's, those of its boards, of Windows below, of AMD.
DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")


def gpus(folder: Path = Path("/dev")) -> int:
    """How many GPUs torch can use; not asked, and so not imported, where the system has no driver for any."""
    if sys.platform == "linux" and not any(any(folder.glob(pattern)) for pattern in DRIVERS):
        return 0
    return torch.cuda.device_count()


def metal() -> bool:
    """Whether torch can use an Apple GPU; not asked, and so not imported, on other systems."""
    return sys.platform == "darwin" and torch.backends.mps.is_available()


def chosen(training: Training) -> str:
    """Name of the device to compute on, a GPU where the recipe leaves the choice open and there is one.

    Raises `UsageError` where the device is not there, `Unsupported` where it cannot compute as wanted.
    """
    wanted = training.device
    if wanted == "auto":
        wanted = "cuda" if gpus() else "mps" if metal() else "cpu"
    _, _, index = wanted.partition(":")
    if wanted.startswith("cuda") and int(index or 0) >= (count := gpus()):
        raise UsageError(f"device {wanted!r} is not there: this machine has {count} CUDA devices")
    if wanted == "mps" and not metal():
        raise UsageError("device 'mps' is not there: torch finds no Apple GPU on this machine")
    if wanted == "mps" and training.precision == "tf32":
        raise Unsupported("training.precision=tf32: device 'mps' has no such products; take fp32 or bf16")
    if wanted == "mps" and training.precision == "bf16" and not _has_bfloat16(wanted):
        raise Unsupported("training.precision=bf16: device 'mps' has it from macOS 14 on; here take fp32")
    return wanted


def prepare(training: Training) -> torch.device:
    """Set threads, precision and allocator, choose the device, and begin to watch its peak memory.

    Raises as `chosen` does.
    """
    device = torch.device(chosen(training))
    if training.threads:
        torch.set_num_threads(training.threads)
    torch.set_float32_matmul_precision("high" if training.precision == "tf32" else "highest")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        keep_freed_memory()
        machine.forget_peak()
    return device


def name(device: torch.device) -> str:
    """What the device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":  # what its allocator holds, which gives little back: it counts no peak
        return torch.mps.driver_allocated_memory()
    return machine.peak_memory()


def free_memory(device: str) -> int:
    """Bytes that the device of this name has left: a GPU, or this machine, for this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    if device == "mps":
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return min(left, machine.free_memory())  # they share it
    return machine.free_memory()


def _has_bfloat16(device: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.bfloat16, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def described(device: torch.device) -> dict[str, Any]:
    """Where this process computes, as a run's provenance says it: device and threads."""
    return {"device": name(device), "threads": torch.get_num_threads()}
