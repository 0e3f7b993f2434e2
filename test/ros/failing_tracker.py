"""The tracker node with a model that runs out of memory for a while. For test_faults.py.

Usage: python failing_tracker.py FROM TO --ros-args ...
The steps FROM to TO - 1 of the tracker fail half-way, counted from the first that knows an object;
warm-up is not counted.
"""

from __future__ import annotations

import sys

import torch

from panosam2_core import PanoTracker
from panosam2_core.model import PanoSAM2
from panosam2_ros import tracker_node

first, end = int(sys.argv[1]), int(sys.argv[2])
step, encode_memory, warm_up = PanoTracker.step, PanoSAM2.encode_memory, tracker_node._warm_up
steps = 0


def counted(self: PanoTracker, *arguments, **rest):
    global steps
    steps += bool(self.object_ids)
    return step(self, *arguments, **rest)


def failing(self: PanoSAM2, *arguments, **rest):
    if first <= steps - 1 < end:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return encode_memory(self, *arguments, **rest)


def then_count(*arguments) -> None:
    global steps
    warm_up(*arguments)
    steps = 0


PanoTracker.step, PanoSAM2.encode_memory, tracker_node._warm_up = counted, failing, then_count
tracker_node.main(sys.argv[:1] + sys.argv[3:])
