"""Keeps freed memory in the process, so that no frame waits for its pages again.

On CPUs torch takes the tensors of every layer from the C library and gives them back. glibc hands
blocks of 128 KiB and more back to the system at once, and the next layer faults the same pages in
again, zeroed one by one: tens of thousands of faults per frame, which cost a third of the step of
``nano`` where it was measured (``benchmarks/allocator.py``).
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of <malloc.h>
_KEEP = 2**31 - 1  # bytes free at the top of the heap before some are given back
_STEP = 64 * 2**20  # bytes by which the heap grows
_LARGEST = 32 * 2**20  # bytes; larger blocks are mapped one by one, glibc allows no more


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for all threads together.

    For programs, once, before they compute; the setting is the process's. Limits that the user has
    set by glibc's own variables (``MALLOC_TRIM_THRESHOLD_`` and so on) are left alone.

    Returns:
        Whether it was done; other C libraries have no such setting.
    """
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST,
        _TRIM_THRESHOLD: _KEEP,
        _TOP_PAD: _STEP,
        _ARENA_MAX: 1,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())
