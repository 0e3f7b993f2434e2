"""How many of oneDNN's kernels a stream needs, and how many are made anew with room for fewer.

    python benchmarks/kernels.py [--objects 3] [--frames 150]

Follows objects of `nano` on the pictures of `node.py soak`, of which one is prompted afresh on
every tenth frame or so, in a process in which oneDNN tells what it looks up. What it would make
anew with room for so many, the least recently used going first, is counted from that.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence

ROOMS = (1024, 512, 384, 320, 256, 192, 160, 128)
SEEN = ",create:cache_"


def main() -> None:
    """Print a line per room."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.follow:
        follow(args.objects, args.frames)
        return
    command = [sys.executable, __file__, "--follow"]
    command += ["--objects", str(args.objects), "--frames", str(args.frames)]
    env = os.environ | {"ONEDNN_VERBOSE": "profile_create"}
    told = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    rows = [line.split(",") for line in told.splitlines() if SEEN in line]
    if not rows:
        raise SystemExit("oneDNN told nothing; was torch built with it?")
    names = [",".join(row[4:-1]) for row in rows]
    costs = {n: float(row[-1]) for n, row in zip(names, rows, strict=True) if "miss" in row[3]}
    print(
        f"{args.objects} objects, {args.frames} frames: {len(names) / args.frames:.0f} looked up"
    )
    print(f"per frame, {len(set(names))} different ones; made anew per frame with room for")
    for room in ROOMS:
        missed = misses(names, room)
        took = sum(costs.get(name, 0.0) for name in missed) / args.frames
        print(f"{room:5d}: {len(missed) / args.frames:6.2f}, {took:6.2f} ms")


def misses(names: Sequence[str], room: int) -> list[str]:
    """What is not there when it is looked up, in order."""
    kept: OrderedDict[str, None] = OrderedDict()
    missed = []
    for name in names:
        if name not in kept:
            missed.append(name)
        kept[name] = None
        kept.move_to_end(name)
        if len(kept) > room:
            kept.popitem(last=False)
    return missed


def follow(objects: int, frames: int) -> None:
    """Track, so that oneDNN has something to tell."""
    from node import SMALL_HW, pictures

    from panosam2_core import PanoTracker, Prompt, load_model

    tracker, shown = PanoTracker(load_model("nano", device="cpu")), pictures()
    draws = random.Random(0)

    def click(object_id: int) -> Prompt:
        where = draws.uniform(0, SMALL_HW[1]), draws.uniform(10, SMALL_HW[0] - 10)
        return Prompt(object_id, points=[where])

    ids = range(1, 1 + objects)
    for number in range(frames):
        again = [click(draws.choice(ids))] if draws.random() < 0.1 else []
        prompts = [click(i) for i in ids] if number == 0 else again
        tracker.step(shown[number % len(shown)], prompts)


if __name__ == "__main__":
    main()
