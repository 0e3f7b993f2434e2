"""What each part of PanoSAM2 is worth: trained with equal steps from a common start.

Usage: python benchmarks/ablation.py [--out out/ablation] [--seeds 3] [--rows NAME ...]

Trains the common start (config/train/ablation_base.yaml), then every row with every seed from it
(config/train/ablation.yaml with the row's changes), and measures each on clips of the val split
that no training sees. A seed decides on the clips; all of its rows are trained on the same ones.
What is finished is kept in the folder, so an interrupted run goes on. Writes docs/ablation.md.

Needs the fetched assets (scripts/fetch_assets.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from panosam2_core import PanoTracker, TrackerConfig, load_model, train
from panosam2_core.data.clips import ClipFrame
from panosam2_core.data.synthetic import SyntheticWorld, WorldConfig
from panosam2_core.evaluation.episodes import Episode, synthetic_episode
from panosam2_core.evaluation.predictors import TrackerPredictor
from panosam2_core.evaluation.run import evaluate
from panosam2_core.training.plan import TrainPlan, load_plan

ROOT = Path(__file__).parents[1]
BASE, ROW = (ROOT / "config/train" / name for name in ("ablation_base.yaml", "ablation.yaml"))
EVAL_SIZE, EVAL_FRAMES = (256, 512), 40
SUBSETS = ("all", "seam", "polar", "occlusion", "tiny", "large")

PC, MASK = ("network.pc_blocks=true",), ("network.previous_mask=true",)
LSMM = ("network.long_memory=true", "stages.0.long_frames=2")
LOSS = ("distortion.w_min=0.5", "distortion.w_max=2")
ALL = (*PC, *MASK, *LSMM, *LOSS)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    changes: tuple[str, ...]


ROWS = (
    Row("SAM2-nano", ()),
    Row("SAM2-nano, seam open", ("pano=false",)),
    Row("+ PA decoder", (*PC, *MASK)),
    Row("+ LSMM", LSMM),
    Row("+ loss", LOSS),
    Row("all", ALL),
    Row("PC blocks only", PC),
    Row("previous mask only", MASK),
    Row("all, N_l 0", (*ALL, "stages.0.long_frames=0")),
    Row("all, N_l 1", (*ALL, "stages.0.long_frames=1")),
    Row("all, N_l 3", (*ALL, "stages.0.long_frames=3")),
    Row("all, pseudo frames short", (*ALL, "network.pseudo_frames=short")),
    Row("all, weights 0.25 to 4", (*ALL, "distortion.w_min=0.25", "distortion.w_max=4")),
    Row("all, weights 0.8 to 1.25", (*ALL, "distortion.w_min=0.8", "distortion.w_max=1.25")),
)


def main() -> None:
    """Train, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS])
    parser.add_argument("--base-steps", type=int, help="instead of the plan's")
    parser.add_argument("--steps", type=int, help="of a row, instead of the plan's")
    parser.add_argument("--clips", type=int, default=16, help="of the val split")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--table", type=Path, default=ROOT / "docs/ablation.md")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = [row for row in ROWS if row.name in args.rows]
    steps = [f"stages.0.steps={args.steps}"] if args.steps else []
    base = args.out / "base/nano.safetensors"
    shorter = [f"stages.0.steps={args.base_steps}"] if args.base_steps else []
    run(BASE, base.parent, shorter, args.threads)
    episodes = held_episodes(args.clips)
    for seed in range(1, args.seeds + 1):
        for row in rows:
            changes = [*row.changes, *steps, f"seed={seed}"]
            measure_row(row, seed, changes, args.out, base, episodes, args.threads)
            found = read(args.out, rows, args.seeds)
            setting = {"base": load_plan(BASE, shorter), "row": load_plan(ROW, steps)}
            args.table.write_text(table(found, setting, args), encoding="utf-8")


def run(plan: Path, out: Path, changes: Sequence[str], threads: int, *more: str) -> None:
    """Train to the end, or go on to it."""
    done = out / "done"
    if done.is_file():
        return
    command = [str(plan), *changes, "--out", str(out), "--threads", str(threads), *more]
    if train.main(command):
        sys.exit(f"training of {out} failed")
    done.touch()


def measure_row(
    row: Row,
    seed: int,
    changes: Sequence[str],
    out: Path,
    base: Path,
    episodes: Sequence[Episode],
    threads: int,
) -> None:
    """Train and measure one row with one seed."""
    folder = out / slug(row, seed)
    file = folder / "scores.json"
    if file.is_file():
        return
    started = time.monotonic()
    run(ROW, folder, changes, threads, "--weights", str(base), "--log-every", "60")
    plan = load_plan(ROW, changes)
    model = load_model("nano", checkpoint=folder / "nano.safetensors", device="auto")
    model.set_input_size(plan.stages[-1].input_size)
    config = TrackerConfig(
        pano=plan.pano,
        long_frames=plan.stages[-1].long_frames,
        view="sphere",
        prompt_view="sphere",
        motion_gate_deg=0.0,
        remember_hidden=True,
    )
    predictor = TrackerPredictor(PanoTracker(model, config), "mask")
    result, _ = evaluate(predictor, episodes, lambda score: None)
    scores = {name: (result if name == "all" else result[name]) for name in SUBSETS}
    kept = {name: {k: part[k] for k in KEYS} for name, part in scores.items()}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    took = time.monotonic() - started
    print(f"{row.name}, seed {seed}: J&F {result['j_and_f']:.3f} after {took:.0f} s", flush=True)


KEYS = ("objects", "j_and_f", "j", "f", "visible_recall", "absent_recall")


def held_episodes(clips: int) -> list[Episode]:
    """Clips of the val split, drawn once."""
    config = WorldConfig(size_hw=EVAL_SIZE, frames=EVAL_FRAMES, assets="cached")
    world = SyntheticWorld(config, split="val")
    return [held(synthetic_episode(world, index)) for index in range(clips)]


def held(episode: Episode) -> Episode:
    """Keep the frames of an episode in memory."""
    frames: list[ClipFrame] = list(episode.frames())
    return Episode(episode.name, lambda: iter(frames), episode.ids, episode.known)


def slug(row: Row, seed: int) -> str:
    """Folder of a run."""
    name = "".join(c if c.isalnum() else "-" for c in row.name.lower())
    return f"{name}-{seed}"


Found = Mapping[str, list[Mapping[str, Mapping[str, Any]]]]


def read(out: Path, rows: Sequence[Row], seeds: int) -> Found:
    """Scores by row, of the seeds that are finished."""
    found = {}
    for row in rows:
        files = [out / slug(row, seed) / "scores.json" for seed in range(1, seeds + 1)]
        found[row.name] = [json.loads(f.read_text()) for f in files if f.is_file()]
    return found


def table(found: Found, plans: Mapping[str, TrainPlan], args: argparse.Namespace) -> str:
    """The document."""
    base, row = plans["base"], plans["row"]
    stage = row.stages[0]
    objects = {name: part["objects"] for name, part in next(iter(found.values()))[0].items()}
    lines = [
        "# Ablation",
        "",
        f"`python benchmarks/ablation.py --clips {args.clips} --seeds {args.seeds}"
        + (f" --base-steps {args.base_steps}" if args.base_steps else "")
        + (f" --steps {args.steps}`" if args.steps else "`"),
        "",
        "Every row starts from the same network: the shipped nano, the paper's parts taken out",
        f"and {base.total_steps} steps of `config/train/ablation_base.yaml` without them. It is",
        f"trained for {row.total_steps} steps of",
        f"`config/train/ablation.yaml` ({stage.input_size[0]}x{stage.input_size[1]}, clips of",
        f"{stage.num_frames} frames, one clip per step) with the parts that it names. Measured on",
        f"{args.clips} clips of {EVAL_FRAMES} frames of the synthetic val split at "
        f"{EVAL_SIZE[0]}x{EVAL_SIZE[1]}, mask prompt,",
        "whole panorama (`view: sphere`), without motion gate.",
        "J&F in points of 100; mean and standard deviation over the seeds,",
        "and the mean difference to the first row, seed by seed, with its standard error.",
        "",
        "| row | seeds | J&F | to SAM2-nano | "
        + " | ".join(f"{name} ({objects[name]})" for name in SUBSETS[1:])
        + " | seen | absent |",
        "|---" * (5 + len(SUBSETS)) + "|",
    ]
    first = found.get("SAM2-nano", [])
    for name, runs in found.items():
        if runs:
            lines.append(_line(name, runs, first))
    lines += ["", f"CPU: {platform.machine()}, torch {torch.__version__}.", ""]
    return "\n".join(lines)


def _line(name: str, runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]) -> str:
    def points(subset: str, key: str = "j_and_f") -> str:
        values = [100 * run[subset][key] for run in runs if run[subset][key] is not None]
        return _spread(values)

    cells = [name, str(len(runs)), points("all")]
    gains = [
        100 * (a["all"]["j_and_f"] - b["all"]["j_and_f"])
        for a, b in zip(runs, first, strict=False)
    ]
    cells.append("" if runs is first or not gains else _gain(gains))
    cells += [points(subset) for subset in SUBSETS[1:]]
    cells += [points("all", "visible_recall"), points("all", "absent_recall")]
    return "| " + " | ".join(cells) + " |"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    text = f"{statistics.mean(values):.1f}"
    return text + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _gain(gains: Sequence[float]) -> str:
    text = f"{statistics.mean(gains):+.1f}"
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    return text + (f" ± {error:.1f}" if error is not None else "")


if __name__ == "__main__":
    main()
