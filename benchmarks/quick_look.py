"""Weights of nano and settings of the tracker beside one another, a minute or two each.

    python benchmarks/quick_look.py [FILE.safetensors ...] [--set view=sphere,anchors=3 ...]
                                    [--clips 12] [--frames 48] [--no-demo]

Follows the target of clips of the val split and of the demo's clip from its true mask. The score
is the mean IoU over all frames after the prompt; an absent target counts 1 if it is said to be
hidden, else 0. Every file (none: the weights that ship) is run with every --set, changes to
`TrackerConfig`; `--set default` changes nothing. All see the same frames, which are drawn once.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panosam2_core import ObjectState, PanoTracker, Prompt, TrackerConfig, load_model
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.data.demo import demo_config
from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld, WorldConfig


def main() -> None:
    """Print a line per clip, and what each row gives beside the first one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    parser.add_argument(
        "--set", dest="settings", nargs="+", default=["default"], metavar="NAME=VALUE,..."
    )
    parser.add_argument("--clips", type=int, default=12, help="of the val split")
    parser.add_argument("--first", type=int, default=0, help="of these clips")
    parser.add_argument("--frames", type=int, default=48, help="of each of them")
    parser.add_argument("--demo", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    keep_freed_memory()
    rows = {
        f"{file.name if file else 'nano'} {text}": (file, TrackerConfig(**changes(text)))
        for file in (args.files or [None])
        for text in args.settings
    }
    val = SyntheticWorld(WorldConfig(size_hw=(512, 1024)), "val")
    scores = []
    for index in range(args.first, args.first + args.clips):
        clip = val.clip(index)
        scores.append(look(f"val {index}", rows, clip, min(args.frames, clip.num_frames)))
    for number, name in enumerate(rows):
        print(f"{name}: val " + beside([row[number] for row in scores], [r[0] for r in scores]))
    if args.demo:
        demo = SyntheticWorld(demo_config(), "demo").clip(0)
        look("demo", rows, demo, demo.num_frames)


def changes(text: str) -> dict[str, Any]:
    """Read changes to a `TrackerConfig`.

    Args:
        text: ``NAME=VALUE,...``, or ``default``. A value is a literal of Python, or else a word.

    Returns:
        Values by name.
    """
    if text == "default":
        return {}
    pairs = (part.split("=", 1) for part in text.split(","))
    return {name: _literal(value) for name, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def beside(scores: Sequence[float], first: Sequence[float]) -> str:
    """Mean of a row; the mean difference to the first row, and how many clips it rests on."""
    gains = [mine - other for mine, other in zip(scores, first, strict=True)]
    better, worse = sum(g > 0.005 for g in gains), sum(g < -0.005 for g in gains)
    return (
        f"{statistics.mean(scores):.3f} ({statistics.mean(gains):+.3f}; "
        f"{better} clips better, {worse} worse)"
    )


def look(
    name: str,
    rows: Mapping[str, tuple[Path | None, TrackerConfig]],
    clip: SyntheticClip,
    frames: int,
) -> list[float]:
    """Follow the target of a clip with every row.

    Args:
        name: of the clip.
        rows: weights and settings.
        clip: with a target.
        frames: of the clip.

    Returns:
        Score of every row, mean over the frames after the prompt.
    """
    trackers = [PanoTracker(load_model("nano", checkpoint=f), c) for f, c in rows.values()]
    scores: list[list[float]] = [[] for _ in trackers]
    for t in range(frames):
        frame = clip.frame(t)
        truth = np.asarray(frame.labels) == clip.target_id
        known = bool(trackers[0].object_ids)
        if not known and not truth.any():
            continue
        image = np.ascontiguousarray(frame.image.permute(1, 2, 0).numpy())
        prompts = [] if known else [Prompt(1, mask=truth)]
        for tracker, kept in zip(trackers, scores, strict=True):
            found = tracker.step(image, prompts).objects[1]
            if known and truth.any():
                kept.append(float((found.mask & truth).sum() / (found.mask | truth).sum()))
            elif known:
                kept.append(float(found.state is not ObjectState.VISIBLE))
    means = [statistics.mean(kept) for kept in scores]
    for row, mean in zip(rows, means, strict=True):
        print(f"{row}: {name} {mean:.3f}", flush=True)
    return means


if __name__ == "__main__":
    main()
