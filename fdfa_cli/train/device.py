"""Where a training computes.

Importing torch takes more than a second, which whoever only hands trainings out to other processes does not
have to spend where it is plain that there is no GPU.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from fdfa_cli.errors import UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.recipe.schema import Training
from fdfa_cli.train.allocator import keep_freed_memory

#: Devices in /dev through which Linux reaches a GPU: NVIDIA's, those of its boards, of Windows below, of AMD.
DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")


def gpus(folder: Path = Path("/dev")) -> int:
    """How many GPUs torch can use; not asked, and so not imported, where the system has no driver for any."""
    if sys.platform == "linux" and not any(any(folder.glob(pattern)) for pattern in DRIVERS):
        return 0
    return torch.cuda.device_count()


def chosen(training: Training) -> str:
    """Name of the device to compute on, a GPU where the recipe leaves the choice open and there is one.

    Raises `UsageError` where the device is not there.
    """
    wanted = training.device
    if wanted == "auto":
        return "cuda" if gpus() else "cpu"
    _, _, index = wanted.partition(":")
    if wanted.startswith("cuda") and int(index or 0) >= (count := gpus()):
        raise UsageError(f"device {wanted!r} is not there: this machine has {count} CUDA devices")
    return wanted


def prepare(training: Training) -> torch.device:
    """Set threads, precision and allocator, choose the device, and begin to watch its peak memory.

    Raises `UsageError` where the device is not there.
    """
    device = torch.device(chosen(training))
    if training.threads:
        torch.set_num_threads(training.threads)
    torch.set_float32_matmul_precision("high" if training.precision == "tf32" else "highest")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        keep_freed_memory()
        with suppress(OSError):  # Linux only; elsewhere the peak is that of all the process has done
            Path("/proc/self/clear_refs").write_text("5")
    return device
