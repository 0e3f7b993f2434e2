"""Weights of nano beside one another, a minute each.

    python benchmarks/quick_look.py FILE.safetensors ... [--clips 8] [--frames 40]

Follows the target of clips of the val split and of the demo's clip from its true mask. The score
is the mean IoU over all frames after the prompt; an absent target counts 1 if it is said to be
hidden, else 0.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from panosam2_core import ObjectState, PanoTracker, Prompt, load_model
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.data.demo import demo_config
from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld, WorldConfig


def main() -> None:
    """Print a line per file and clip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument(
        "--clips", type=int, default=8, help="of the val split, from the second on"
    )
    parser.add_argument("--frames", type=int, default=40, help="of each of them")
    args = parser.parse_args()
    keep_freed_memory()
    val = SyntheticWorld(WorldConfig(size_hw=(512, 1024)), "val")
    demo = SyntheticWorld(demo_config(), "demo").clip(0)
    for file in args.files:
        scores = []
        for index in range(1, args.clips + 1):
            clip = val.clip(index)
            scores.append(score(file, clip, min(args.frames, clip.num_frames)))
            print(f"{file.name} val {index}: {scores[-1]:.3f}", flush=True)
        print(f"{file.name} val: {statistics.mean(scores):.3f}", flush=True)
        print(f"{file.name} demo: {score(file, demo, demo.num_frames):.3f}", flush=True)


def score(file: Path, clip: SyntheticClip, frames: int) -> float:
    """Mean over the frames after the prompt."""
    return statistics.mean(
        _per_frame(PanoTracker(load_model("nano", checkpoint=file)), clip, frames)
    )


def _per_frame(tracker: PanoTracker, clip: SyntheticClip, frames: int) -> Iterator[float]:
    for t in range(frames):
        frame = clip.frame(t)
        truth = np.asarray(frame.labels) == clip.target_id
        known = bool(tracker.object_ids)
        if not known and not truth.any():
            continue
        image = np.ascontiguousarray(frame.image.permute(1, 2, 0).numpy())
        found = tracker.step(image, [] if known else [Prompt(1, mask=truth)]).objects[1]
        if known and truth.any():
            yield float((found.mask & truth).sum() / (found.mask | truth).sum())
        elif known:
            yield float(found.state is not ObjectState.VISIBLE)


if __name__ == "__main__":
    main()
