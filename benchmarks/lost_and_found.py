"""Is a target found again that leaves the sphere and comes back elsewhere?

    python benchmarks/lost_and_found.py --clips 12 --json out/lost_and_found.json [--jobs 2]
        [--trackers sphere auto ...] [--checkpoint FILE] [--plain FILE]

Clips of the synthetic val world (`panosam2_core.data.absence`): the target is seen for 15 frames,
is not there for 35, and is back for 50 at least 40 degrees away, as the camera sees it; every
other clip has a look-alike that stays where the target was. The target is prompted by its mask.
Found again: IoU of 0.5 and more on three frames in a row. A false alarm: a mask while it is away.

Prints a table and writes JSON. Finished clips are kept in that file, and a run goes on from it.
`SAM2-nano` is our network without its panoramic parts, on frames that are not closed. It has been
trained with them: a fair peer has weights that were trained without (benchmarks/ablation.py leaves
them as sam2-nano-1/nano.safetensors), which --plain takes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from view_rows import PLAIN, ROWS, SAM2_RULES, VIEW_ROWS, Kept, digest, make_tracker

from panosam2_core.allocator import keep_freed_memory
from panosam2_core.data.absence import take_away
from panosam2_core.data.clips import ClipFrame
from panosam2_core.data.render import Canvas
from panosam2_core.data.rng import StableRng
from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld, WorldConfig
from panosam2_core.evaluation.predictors import TrackerPredictor
from panosam2_core.evaluation.scores import MIN_VISIBLE_PX

SEEN, AWAY, BACK = 15, 35, 50  # frames
ELSEWHERE_DEG = 40.0
SURE, IN_A_ROW = 0.5, 3
CLEAR = 0.6  # least visible share of the target when it leaves and when it is back
WITHIN = (10, 30)  # frames
SIZE = (512, 1024)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument(
        "--trackers",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        default=[PLAIN, SAM2_RULES, *VIEW_ROWS],
    )
    parser.add_argument("--checkpoint", type=Path, help="of nano, instead of its own")
    parser.add_argument(
        "--plain", type=Path, help=f"weights of {PLAIN}, trained without the parts"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, default=Path("out/lost_and_found.json"))
    args = parser.parse_args()
    indices = list(itertools.islice(usable(), args.clips))
    weights = {"weights": digest(args.checkpoint), "plain": digest(args.plain)}
    kept = Kept(args.json, {**weights, "frames": [SEEN, AWAY, BACK]})
    todo = {
        f"{tracker}, clip {index}": (
            tracker,
            index,
            (args.plain if tracker == PLAIN else None) or args.checkpoint,
        )
        for index in indices
        for tracker in args.trackers
    }
    kept.run(follow, todo, args.jobs)
    print(
        "\n".join(
            table({t: [kept.pieces[f"{t}, clip {i}"] for i in indices] for t in args.trackers})
        )
    )


@cache
def world(lookalike: bool) -> SyntheticWorld:
    """Targets of 8 to 30 degrees; nothing else hides them on purpose."""
    config = WorldConfig(
        SIZE,
        frames=SEEN + AWAY + BACK,
        angular_size_deg=(8.0, 30.0),
        p_occlusion=0.0,
        p_lookalike=float(lookalike),
    )
    return SyntheticWorld(config, "val")


def clip_of(index: int) -> SyntheticClip | None:
    """The clip, if its target can be seen when it leaves and when it is back."""
    source = world(index % 2 == 1)
    gone = (SEEN, SEEN + AWAY - 1)
    scene = take_away(
        source.clip(index).scene, gone, ELSEWHERE_DEG, StableRng("lost and found", index)
    )
    if scene is None:
        return None
    clip = SyntheticClip(scene, source.library, canvas())
    for t in (SEEN - 1, SEEN + AWAY, SEEN + AWAY + 2 * IN_A_ROW):
        if clip.truth(t)[1][clip.target_id] < CLEAR:
            return None
    return clip


@cache
def canvas() -> Canvas:
    """Grids of the frames."""
    return Canvas(SIZE, torch.device("cpu"))


def usable() -> Iterator[int]:
    """Numbers of the clips, first those without and with a look-alike in turn."""
    plain, twins = ((i for i in itertools.count(odd, 2) if clip_of(i)) for odd in (0, 1))
    for pair in zip(plain, twins, strict=False):
        yield from pair


def follow(tracker: str, index: int, checkpoint: Path | None) -> dict[str, Any]:
    """Track one clip.

    Args:
        tracker: of the rows.
        index: of the clip.
        checkpoint: of the network.

    Returns:
        IoU by frame, ``None`` where the target cannot be seen; frames on which there was a mask.
    """
    keep_freed_memory()
    predictor = TrackerPredictor(make_tracker(tracker, checkpoint), "mask")
    clip = clip_of(index)
    ious: list[float | None] = []
    masks: list[int] = []
    for t, drawn in enumerate(clip):
        truth = drawn.labels.numpy() == clip.target_id
        frame = ClipFrame(drawn.image.permute(1, 2, 0).numpy(), None, f"{t:05d}")
        found = predictor.step(frame, {1: truth} if t == 0 else {})[1]
        mask = found.mask & found.visible
        both = int((mask | truth).sum())
        seen = truth.sum() >= MIN_VISIBLE_PX
        ious.append(round(float((mask & truth).sum()) / both, 4) if seen else None)
        masks += [t] if mask.any() else []
    return {"iou": ious, "masks": masks, "lookalike": index % 2 == 1}


def frames_needed(ious: list[float | None]) -> int | None:
    """Frames until a target that is back is held, counted from 1; ``None``: it never is.

    Frames on which something else is in front of it neither count for nor against.
    """
    run, first = 0, 0
    for t, iou in enumerate(ious):
        if iou is None:
            continue
        run = run + 1 if iou >= SURE else 0
        first = t if run == 1 else first
        if run == IN_A_ROW:
            return first + 1
    return None


def table(rows: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of the table."""
    lines = [
        "| tracker | clips | held when it left | "
        + " | ".join(f"back within {n}" for n in WITHIN)
        + f" | within {BACK} | frames needed (median) | false alarms while away | "
        "back within 30, look-alike / none |",
        "|---" * (7 + len(WITHIN)) + "|",
    ]
    for name, clips in rows.items():
        needed = [frames_needed(c["iou"][SEEN + AWAY :]) for c in clips]
        held = [(c["iou"][SEEN - 1] or 0.0) >= SURE for c in clips]
        alarms = [sum(SEEN <= t < SEEN + AWAY for t in c["masks"]) / AWAY for c in clips]
        found = [n for n in needed if n is not None]
        split = [
            share([n for n, c in zip(needed, clips, strict=True) if c["lookalike"] is twin], 30)
            for twin in (True, False)
        ]
        cells = [name, str(len(clips)), f"{np.mean(held):.2f}"]
        cells += [share(needed, limit) for limit in (*WITHIN, BACK)]
        cells += [f"{statistics.median(found):g}" if found else "-", f"{np.mean(alarms):.2f}"]
        lines.append("| " + " | ".join([*cells, " / ".join(split)]) + " |")
    return lines


def share(needed: list[int | None], limit: int) -> str:
    """Share of clips whose target was back in time."""
    if not needed:
        return "-"
    return f"{np.mean([n is not None and n <= limit for n in needed]):.2f}"


if __name__ == "__main__":
    main()
