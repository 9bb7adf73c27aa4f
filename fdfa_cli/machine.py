"""The cores, the memory and the time that this process gets of its machine, on any POSIX system.

Only Linux has `/proc`, control groups and a processor affinity that the standard library knows. What is read
there is used where it is there.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fdfa_cli.lazy import torch

#: Where Linux keeps what limits containers and other groups of processes.
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: Files of a group's limit of memory and of what it uses, in the two versions of control groups.
MEMORY = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
#: More bytes than any machine has.
PLENTY = 2**63


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _group_cores())))


def free_memory() -> int:
    """Bytes that this process may still take without swapping."""
    import psutil

    try:
        available = int(psutil.virtual_memory().available)
    except OSError:  # Linux without /proc
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(0, min(available, _group_memory(), _address_space()))


def peak_memory() -> int:
    """Most bytes of memory that the process has held, on Linux since `forget_peak`, else since its start."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # all others count in KiB


def forget_peak() -> None:
    """Let `peak_memory` start again from what is held now, which only Linux can do."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def now(device: torch.device) -> float:
    """A clock in seconds, read after everything queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _group_memory() -> int:
    """Bytes that the control groups of this process still allow it."""
    left = PLENTY
    for controller, most, used in MEMORY:
        for folder in _groups(controller):
            # Without a limit it says "max", or in version 1 a number that no machine reaches.
            with suppress(OSError, ValueError):
                left = min(left, int((folder / most).read_text()) - _held(folder, used))
    return left


def _address_space() -> int:
    """Bytes of address space that `ulimit -v` still allows this process."""
    import resource

    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return PLENTY
    with suppress(psutil.Error, OSError):  # Linux without /proc
        return limit - int(psutil.Process().memory_info().vms)
    return limit


def _held(folder: Path, used: str) -> int:
    """Bytes that a group uses, without cached files, which the system drops when memory is needed."""
    cached = 0
    with suppress(OSError, ValueError):
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(facts.get("inactive_file", 0))
    return int((folder / used).read_text()) - cached


def _group_cores() -> float:
    """Seconds of processor time that the control groups around this process give it a second."""
    least = math.inf
    for folder in _groups(""):
        with suppress(OSError, ValueError):
            share, period = (folder / "cpu.max").read_text().split()
            least = min(least, int(share) / int(period))
    for folder in _groups("cpu"):
        with suppress(OSError, ValueError):
            share, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(share) > 0:
                least = min(least, int(share) / int(period))
    return least


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, the outermost first.

    `controller` is empty in version 2, whose groups have them all.
    """
    top = GROUPS / controller
    yield top
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                folder = top
                for name in Path(path).relative_to("/").parts:
                    folder /= name
                    yield folder
