"""The C library's allocator, told to keep what a training frees and will ask for again."""

from __future__ import annotations

import ctypes

#: The numbers of these options in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Blocks up to this many bytes are kept, and as many bytes of them.
KEPT = 2**30


def keep_freed_memory() -> None:
    """Let freed blocks be used again, not given back to the system.

    A step frees activations of some megabytes, and the next one needs them again. By default glibc returns
    such blocks at once, and the system must then clear and map every page anew: on one thread that was a
    fifth of the DFA step of a small convolutional network (57 in place of 46 ms). C libraries without
    `mallopt` are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
