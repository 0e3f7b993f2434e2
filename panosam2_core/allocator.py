"""Memory of a process that works on frame after frame: freed memory stays, but not for ever more.

On CPUs torch takes the tensors of every layer from the C library and gives them back. glibc hands
blocks of 128 KiB and more back to the system at once, and the next layer faults the same pages in
again, zeroed one by one: tens of thousands of faults per frame, which cost a third of the step of
``nano`` where it was measured (``benchmarks/allocator.py``). What stays falls into pieces among
things that outlive their frame, and for thousands of frames more is taken; a program that runs for
days takes it at once, as real-time programs do.

oneDNN makes a kernel for every shape that it meets and keeps 1024 of them. A tracker's shapes are
those of its objects times those of their memories, so a process grew for as long as there were new
ones.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of <malloc.h>
_PORTION = 4 * 2**20  # bytes; small enough not to be mapped one by one
_KEEP = 2**31 - 1  # bytes free at the top of the heap before some are given back
_STEP = 64 * 2**20  # bytes by which the heap grows
_LARGEST = 32 * 2**20  # bytes; larger blocks are mapped one by one, glibc allows no more
# What does not fit is made afresh: little with three objects, some percent of a frame with twelve
# (``benchmarks/kernels.py``).
_KERNELS = 256


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for all threads together.

    For programs, once, before they compute; the setting is the process's. Limits that the user has
    set by glibc's variables (``MALLOC_ARENA_MAX``, ``GLIBC_TUNABLES`` and so on) are left alone.

    Returns:
        Whether it was done; other C libraries have no such setting.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name.startswith("MALLOC_") for name in os.environ):
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
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)


def reserve_memory(megabytes: int) -> None:
    """Take memory at once that frames would take bit by bit, and keep it free for them.

    After :func:`keep_freed_memory`, on the thread that works on the frames, for threads may have
    memory of their own: libraries start some while they are imported, and then more pools exist
    than that function allows. Does nothing where the C library cannot.

    Args:
        megabytes: how much, in MiB, rounded down to a multiple of 4.

    Raises:
        MemoryError: when there is not so much; nothing is kept then.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
    except (AttributeError, OSError):
        return
    taken = []
    try:
        for _ in range(megabytes * 2**20 // _PORTION):
            block = libc.malloc(ctypes.c_size_t(_PORTION))
            if not block:
                raise MemoryError(f"there are no {megabytes} MiB of memory to reserve")
            taken.append(block)
            ctypes.memset(block, 1, _PORTION)  # the system gives what is touched
    finally:
        for block in taken:
            libc.free(ctypes.c_void_p(block))


def give_back_free_memory() -> None:
    """Give what is free back to the system, for programs that have done with a model.

    Does nothing where the C library cannot.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(ctypes.c_size_t(0))


def limit_kernels() -> None:
    """Keep no more of oneDNN's kernels than the frames of a stream need, rather than 1024.

    For programs, once, before they compute: oneDNN, and torch's wrapper of it, which keeps as many
    for every thread that computes, read it with their first kernel. What the user has set by their
    variables (``ONEDNN_`` or ``DNNL_PRIMITIVE_CACHE_CAPACITY``, ``LRU_CACHE_CAPACITY``) is left
    alone.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(_KERNELS))
