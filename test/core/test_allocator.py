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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_a_frame_is_worked_on_in_the_memory_of_the_one_before() -> None:
    """Nothing is given back to the system and fetched again; as it comes, much of it is."""
    pages = {}
    for how in ("kept", "plain"):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        command = [sys.executable, "-c", FRAMES, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
        pages[how] = int(done.stdout)
    assert pages["kept"] < 200
    assert pages["plain"] > 2000, "or else nothing is gained by it on this machine"
