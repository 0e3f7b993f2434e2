"""The tracker node with a model that runs out of memory for a while. For test_faults.py.

Usage: python failing_tracker.py FROM TO --ros-args ...
The steps FROM to TO - 1 of the tracker fail, warm-up not counted.
"""

from __future__ import annotations

import sys

import torch

from panosam2_core import PanoTracker
from panosam2_ros import tracker_node

first, end = int(sys.argv[1]), int(sys.argv[2])
encode, steps = PanoTracker._propagate, 0


def failing(self: PanoTracker, ids, *rest):
    global steps
    if ids:
        steps += 1
        if first <= steps - 1 < end:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return encode(self, ids, *rest)


warm_up = tracker_node._warm_up


def then_count(*arguments) -> None:
    global steps
    warm_up(*arguments)
    steps = 0


tracker_node._warm_up = then_count
PanoTracker._propagate = failing
tracker_node.main(sys.argv[:1] + sys.argv[3:])
