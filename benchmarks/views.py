"""Views of the sphere and gates: what each is worth, what it costs, and if it keeps its laws.

    python benchmarks/views.py table [--clips 48] [--seeds 3] [--rows NAME ...] [--jobs 2]
    python benchmarks/views.py speed [--clips 6] [--frames 40] [--input-size 512x1024]
    python benchmarks/views.py roll VIDEO --box X0,Y0,X1,Y1 [--rolls 16,80,256] [--frames 40]
    python benchmarks/views.py sheets VIDEO --box X0,Y0,X1,Y1 [--box ...] --out sheet.png

table   J&F by subset of the synthetic test split, every view, and `auto` without each gate; a seed
        is that of the tracker's draws. Finished rows are kept in --json; a run goes on from it.
speed   frames per second over those of `sphere`: every frame goes to all trackers in turn, and a
        ratio is that of one clip. With one thread the seconds are those of the processor.
roll    a clip and the same clip rolled, prompts too: IoU of the un-rolled masks.
sheets  `sphere` and `auto` side by side.

All take --checkpoint, weights of `nano` instead of its own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from view_footage import add_footage, roll, sheets
from view_rows import GATE_ROWS, ROWS, VIEW_ROWS, Kept, digest, make_tracker, spread

from panosam2_core import PanoTracker, Prompt
from panosam2_core.allocator import keep_freed_memory
from panosam2_core.build import parse_input_size
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_core.evaluation.episodes import Episode, synthetic_episode
from panosam2_core.evaluation.predictors import TrackerPredictor
from panosam2_core.evaluation.run import SUBSETS, evaluate

KEYS = ("objects", "j_and_f", "visible_recall", "absent_recall")
HALF = "local, half size"


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("table")
    part.add_argument("--clips", type=int, default=48, help="of the test split")
    part.add_argument("--seeds", type=int, default=3)
    part.add_argument(
        "--rows", nargs="+", choices=ROWS, metavar="ROW", default=[*VIEW_ROWS, *GATE_ROWS]
    )
    part.add_argument("--jobs", type=int, default=1, help="processes")
    part.add_argument("--json", type=Path, default=Path("out/views.json"))
    part.set_defaults(work=table)
    part = parts.add_parser("speed")
    part.add_argument("--clips", type=int, default=6, help="of the test split")
    part.add_argument("--frames", type=int, default=40, help="of each")
    part.add_argument(
        "--input-size",
        type=parse_input_size,
        metavar="HxW",
        help="instead of nano's; of half: half",
    )
    part.set_defaults(work=speed)
    add_footage(parts.add_parser("roll"), roll)
    add_footage(parts.add_parser("sheets"), sheets)
    for part in parts.choices.values():
        part.add_argument("--checkpoint", type=Path, help="of nano, instead of its own")
    args = parser.parse_args()
    keep_freed_memory()
    args.work(args)


def table(args: argparse.Namespace) -> None:
    """Print the table of views and gates."""
    kept = Kept(args.json, {"weights": digest(args.checkpoint), "clips": args.clips})
    seeds = range(1, args.seeds + 1)
    todo = {
        f"{row}, seed {seed}": (row, seed, args.clips, args.checkpoint)
        for seed in seeds
        for row in args.rows
    }
    kept.run(measure_row, todo, args.jobs)
    rows = {row: [kept.pieces[f"{row}, seed {seed}"] for seed in seeds] for row in args.rows}
    print("\n".join(lines_of(rows)))


def measure_row(row: str, seed: int, clips: int, checkpoint: Path | None) -> dict[str, Any]:
    """Measure one row with one seed.

    Args:
        row: of the rows.
        seed: of the tracker's draws.
        clips: of the test split.
        checkpoint: of the network.

    Returns:
        Scores of all targets and of the subsets, and frames per second.
    """
    keep_freed_memory()
    predictor = TrackerPredictor(make_tracker(row, checkpoint, seed), "mask")
    world = SyntheticWorld(split="test")
    episodes = (synthetic_episode(world, index) for index in range(clips))
    result, _ = evaluate(predictor, episodes, lambda score: None)
    scores = {name: result if name == "all" else result[name] for name in ("all", *SUBSETS)}
    return {
        "fps": result["fps"],
        **{name: {key: part[key] for key in KEYS} for name, part in scores.items()},
    }


def lines_of(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of the table: J&F in points of 100, mean and standard deviation over the seeds."""
    first = next(iter(rows.values()))[0]
    names = [f"{name} ({first[name]['objects']})" for name in ("all", *SUBSETS)]
    lines = [
        "| row | " + " | ".join([*names, "seen", "absent", "frames/s"]) + " |",
        "|---" * (len(names) + 4) + "|",
    ]
    for row, runs in rows.items():
        cells = [spread([run[name]["j_and_f"] for run in runs]) for name in ("all", *SUBSETS)]
        for key in ("visible_recall", "absent_recall"):
            cells.append(spread([run["all"][key] for run in runs]))
        cells.append(spread([run["fps"] for run in runs], 1.0))
        lines.append("| " + " | ".join([row, *cells]) + " |")
    return lines


def speed(args: argparse.Namespace) -> None:
    """Print frames per second, and ratios to `sphere` clip by clip."""
    size = args.input_size
    trackers = {row: make_tracker(row, args.checkpoint, size=size) for row in VIEW_ROWS}
    full = trackers["sphere"].model.input_size
    trackers[HALF] = make_tracker("local", args.checkpoint, size=(full[0] // 2, full[1] // 2))
    world = SyntheticWorld(split="test")
    spent: dict[str, list[float]] = {name: [] for name in trackers}
    for index in range(args.clips):
        seconds = time_clip(trackers, synthetic_episode(world, index), args.frames)
        for name, value in seconds.items():
            spent[name].append(value)
        print(f"clip {index}: " + ratios(seconds), flush=True)
    print(f"\n| view | frames/s | over `sphere`, all {args.clips} clips | median clip | range |")
    print("|---|---|---|---|---|")
    for name, values in spent.items():
        each = [base / value for base, value in zip(spent["sphere"], values, strict=True)]
        print(
            f"| {name} | {args.clips * args.frames / sum(values):.2f} "
            f"| {sum(spent['sphere']) / sum(values):.2f} | {statistics.median(each):.2f} "
            f"| {min(each):.2f} to {max(each):.2f} |"
        )


def ratios(seconds: dict[str, float]) -> str:
    """Frames per second over those of `sphere`, in a line."""
    base = seconds["sphere"]
    return ", ".join(f"{name} {base / value:.2f}" for name, value in seconds.items())


def time_clip(trackers: dict[str, PanoTracker], episode: Episode, frames: int) -> dict[str, float]:
    """Seconds of every tracker over the frames of a clip after the first."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    names: Sequence[str] = list(trackers)
    seconds = dict.fromkeys(names, 0.0)
    for tracker in trackers.values():
        tracker.reset()
    for t, frame in enumerate(itertools.islice(episode.frames(), frames + 1)):
        target = next(iter(episode.ids or ()))
        prompts = [Prompt(1, mask=frame.labels == target)] if t == 0 else []
        names = [*names[1:], names[0]]  # nobody is always the first after the picture was drawn
        for name in names:
            started = clock()
            trackers[name].step(frame.rgb, prompts)
            seconds[name] += clock() - started if t else 0.0
    return seconds


if __name__ == "__main__":
    main()
