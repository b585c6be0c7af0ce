"""How the C library gives memory back: a process through which models pass should keep it."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_ON_HEAP = 32 << 20
KEPT_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Tell the C allocator to keep what is freed for the next message instead of returning it to
    the kernel.

    Receiving and exporting a model otherwise spends more time on fresh pages than on copying
    (tests/benchmarks/hop.py). The price: up to `KEPT_BYTES` of freed memory stay with the process.
    Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
