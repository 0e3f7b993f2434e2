"""A robot does not restart its tracker: ten thousand frames, with objects coming and going.

Those are for the continuous integration (``CI`` in the environment); the everyday run takes a
quarter of them, which is still five times what the longest memory holds.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panosam2_core import PanoTracker, Prompt, TrackerConfig
from panosam2_core.build import VARIANTS, build_model

FRAMES, WARM_UP = (10_000, 2_000) if os.environ.get("CI") else (2_500, 500)
SIZE = (32, 96)
MEGABYTE = 2**20


def resident_bytes() -> int:
    """Memory of this process, without what the allocator keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def state_of_a_full_object(tracker: PanoTracker, frames: npt.NDArray[np.uint8]) -> int:
    """Bytes of an object that was prompted more often than is remembered, and then tracked."""
    most = 0
    for t, frame in enumerate(frames):
        prompts = [Prompt(1, points=[(50.0, 16.0)])] if t % 4 == 0 and t < 24 else ()
        tracker.step(frame, prompts)
        most = max(most, tracker.state_bytes())
    tracker.reset()
    return most


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On so small a network threads wait for one another longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_thousands_of_frames_leave_nothing_behind() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(
        VARIANTS["nano"], input_size=SIZE, width=64, memory_dim=32, attention_layers=1
    )
    tracker = PanoTracker(
        build_model(config).eval().requires_grad_(False), TrackerConfig(view="sphere")
    )
    generator = np.random.default_rng(0)
    frames = generator.integers(128, 170, (50, *SIZE, 3), dtype=np.uint8)
    full = state_of_a_full_object(tracker, frames)
    most_resident, at_warm_up = 0, 0
    for t in range(FRAMES):
        known = tracker.object_ids
        prompts = []
        if t % 40 == 0 and len(known) < 3:
            prompts = [Prompt(int(generator.integers(1, 60_000)), points=[(50.0, 16.0)])]
        elif t % 40 == 20 and known:
            again = int(generator.choice(known))
            prompts = [Prompt(again, box=(80, 4, 110, 28), refine=bool(generator.integers(2)))]
        elif t % 40 == 30 and len(known) == 3:
            tracker.remove(int(generator.choice(known)))
        tracker.step(frames[t % len(frames)], prompts)
        assert tracker.state_bytes() <= len(tracker.object_ids) * full, t
        if t >= WARM_UP and t % 500 == 0:
            at_warm_up = at_warm_up or resident_bytes()
            most_resident = max(most_resident, resident_bytes())
    assert resident_bytes() - at_warm_up < MEGABYTE
    assert most_resident - at_warm_up < 8 * MEGABYTE  # at no time a hoard that is given back
    for object_id in tracker.object_ids:
        tracker.remove(object_id)
    assert tracker.state_bytes() == 0
