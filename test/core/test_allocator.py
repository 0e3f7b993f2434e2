"""The memory of a process that works on frame after frame."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

FRAMES = textwrap.dedent("""
    import resource, sys, threading
    import numpy as np
    from panosam2_core.allocator import keep_freed_memory

    if sys.argv[1] == "kept":
        assert keep_freed_memory()
    faults = []

    def work():
        kept = []
        for frame in range(30):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            sizes = [(i % 5 + 1) << 20 for i in range(20)]  # 60 MB in blocks of 1 to 5 MB
            blocks = [np.ones(size, np.uint8) for size in sizes]
            kept = [*kept, np.ones(100_000, np.uint8)][-7:]  # what outlives its frame
            del blocks
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(sum(faults[10:]))
""")

PIECES = textwrap.dedent("""
    import os
    import numpy as np
    from panosam2_core.allocator import give_back_free_memory, keep_freed_memory

    def size():
        pages = int(open("/proc/self/statm").read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    assert keep_freed_memory()
    blocks = [np.ones(1_000_000, np.uint8) for _ in range(100)]
    full = size()
    del blocks[::2]
    kept = size()
    give_back_free_memory()
    print(full - kept, kept - size())
""")
RESERVE = textwrap.dedent("""
    import os, resource, sys
    import numpy as np
    from panosam2_core.allocator import keep_freed_memory, reserve_memory

    def size():
        pages = int(open("/proc/self/statm").read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    assert keep_freed_memory()
    before = size()
    reserve_memory(int(sys.argv[1]))
    reserved, faults = size(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(1_000_000, np.uint8) for _ in range(100)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(reserved - before, size() - reserved, faults)
""")

SHAPES = textwrap.dedent("""
    import os, sys
    import torch
    from panosam2_core.allocator import limit_kernels

    if sys.argv[1] == "limited":
        limit_kernels()
    torch.set_num_threads(1)
    rows = torch.zeros(64, 1400, dtype=torch.bfloat16)
    sizes = []
    with torch.inference_mode():
        for width in range(8, 1400):
            torch.mm(rows[:, :width], rows[:, :width].T)
            if width in (900, 1399):
                pages = int(open("/proc/self/statm").read().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    print(sizes[1] - sizes[0])
""")


SETTINGS = ("MALLOC_", "GLIBC_", "ONEDNN_", "DNNL_", "LRU_CACHE_")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc, /proc")


def printed(script: str, *args: str) -> list[float]:
    """What a script prints in a process whose memory nobody has set up otherwise."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    return [float(word) for word in done.stdout.split()]


def test_a_frame_is_worked_on_in_the_memory_of_the_one_before() -> None:
    """Nothing is given back to the system and fetched again; as it comes, much of it is."""
    (kept,), (plain,) = printed(FRAMES, "kept"), printed(FRAMES, "plain")
    assert kept < 200
    assert plain > 2000, "or else nothing is gained by it on this machine"


def test_free_memory_between_what_is_in_use_goes_back_on_demand_only() -> None:
    freed, given_back = printed(PIECES)
    assert freed < 1 < 40 < given_back  # MiB; 48 were freed


def test_what_was_reserved_is_there_for_what_comes_later() -> None:
    taken, grown, faults = printed(RESERVE, "160")
    assert 150 < taken < 170
    assert grown < 1
    assert faults < 500
    taken, grown, faults = printed(RESERVE, "0")
    assert taken < 1
    assert grown > 80, "or else there was no need to"
    assert faults > 10_000


def test_more_than_there_is_cannot_be_reserved() -> None:
    script = textwrap.dedent("""
        import resource
        import numpy as np
        from panosam2_core.allocator import keep_freed_memory, reserve_memory

        keep_freed_memory()
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        try:
            reserve_memory(4096)
        except MemoryError:
            print(np.ones(1 << 28, np.uint8).sum() >> 28)  # all of it is free again
    """)
    assert printed(script) == [1.0]


def test_shapes_that_are_new_make_the_process_larger_only_up_to_a_number() -> None:
    """As they come, the libraries keep a kernel for each of 1024."""
    (limited,), (plain,) = printed(SHAPES, "limited"), printed(SHAPES, "plain")
    if plain < 20:
        pytest.skip("this CPU multiplies bfloat16 without a kernel per shape")
    assert limited < 0.1 * plain
