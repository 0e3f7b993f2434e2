"""Command line: ``python -m panosam2_core.evaluate --split test --model nano --json FILE``.

Measures masks against the truth: of a tracker (--model), or written by another program
(--predictions DIR with CLIP/FRAME.png). On the synthetic world, whose test split is fixed and
needs no download, the target of each clip is prompted on its first frame. On recordings (--data
PATH) every object is, on the first frame on which it is labelled. --html makes a page with plots
and the worst clips.

In the same harness: --tracker sam2 is SAM2's own video predictor, untouched (with Meta's weights);
sam2_bfov is that in a search region about the object, panosam2_bfov our network in such a region.
--without switches off parts of ours.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from panosam2_core.allocator import keep_freed_memory, limit_kernels
from panosam2_core.arguments import add_yaw_true
from panosam2_core.build import PRESETS, load_model, parse_input_size
from panosam2_core.config import PROMPT_VIEWS, VIEWS, TrackerConfig
from panosam2_core.data.clips import DataError
from panosam2_core.data.datasets import KINDS, open_clips
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_core.errors import ConfigError, PanoSAM2Error
from panosam2_core.evaluation.episodes import Episode, recorded_episode, synthetic_episode
from panosam2_core.evaluation.page import page
from panosam2_core.evaluation.predictors import (
    PROMPTS,
    FolderPredictor,
    Predictor,
    ResultWriter,
    TrackerPredictor,
)
from panosam2_core.evaluation.run import SUBSETS, EpisodeScore, Groups, evaluate
from panosam2_core.evaluation.search_region import SearchRegionPredictor
from panosam2_core.evaluation.upstream import UpstreamPredictor, build_upstream
from panosam2_core.tracker import PanoTracker

TRACKERS = ("panosam2", "panosam2_bfov", "sam2", "sam2_bfov")
NETWORK_PARTS = {"pc-blocks": "pc_blocks", "previous-mask": "previous_mask"}
PARTS = (
    *NETWORK_PARTS,
    "long-memory",
    "seen-only",
    "motion-gate",
    "colours",
    "prompt-view",
    "local-views",
    "wrap",
)

COLUMNS = {
    "objects": "n",
    "j_and_f": "J&F",
    "j": "J",
    "f": "F",
    "f_wrap": "F wrap",
    "mean_iou": "IoU",
    "visible_recall": "seen",
    "absent_recall": "absent",
}


def main(argv: list[str] | None = None) -> int:
    """Evaluate.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 finished, 1 failed with a message or some clips could not be measured.
    """
    args = _parser().parse_args(argv)
    args.dataset = args.dataset or ("auto" if args.data else "synthetic")
    keep_freed_memory()
    limit_kernels()
    console = Console(stderr=True)
    logging.basicConfig(level="WARNING", handlers=[RichHandler(console=console)])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        predictor, what = _predictor(args)
        episodes, count = _episodes(args)
        writer = ResultWriter(args.results) if args.results else None
        failed: dict[str, str] = {}

        def broken(clip: str, error: DataError) -> None:
            failed[clip] = str(error)
            console.print(f"left out: {error}", style="red", markup=False, soft_wrap=True)

        report = _reporter(console, count)
        groups = _groups(args.groups)
        result, rows = evaluate(predictor, episodes, report, writer, groups, broken)
        if not rows:
            raise DataError("no clip could be measured")
    except PanoSAM2Error as error:
        console.print("[red]error:[/red]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    where = f"synthetic-{args.split or 'test'}" if args.dataset == "synthetic" else str(args.data)
    title = f"{what.pop('title')} on {where}"
    result |= {"failed": failed, "dataset": args.dataset, "split": args.split, **what}
    Console().print(_table(result, title))
    _write(args.json, json.dumps(result, indent=2) + "\n", console)
    _write(args.html, page(title, result, rows), console)
    if failed:
        console.print(f"{len(failed)} of {count} clips could not be measured")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panosam2_core.evaluate", description=__doc__)
    add = parser.add_argument
    kinds, text = ["synthetic", "auto", *KINDS], "default: auto with --data, else synthetic"
    add("--dataset", choices=kinds, help=text)
    add("--data", type=Path, help="recording or folder of the dataset")
    add("--split", help="synthetic: val, test (default) or demo; of recordings: as they have it")
    add("--image-topic", help="of recordings; the only one")
    add("--label-topic", help="of recordings; the one that ends in label_image")
    add("--predictions", type=Path, help="measure these label images instead of a tracker")
    add("--groups", type=Path, help='JSON of further subsets: {"seen": ["CLIP", "CLIP/ID"]}')
    add("--model", default="nano", help="variant")
    add("--checkpoint", type=Path, help="weights; nano has its own")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--precision", default="auto", help="auto, float32 or bfloat16")
    add_yaw_true(parser)
    add("--tracker", choices=TRACKERS, default=TRACKERS[0], help="ours, or a peer")
    parts = f"switch off parts of ours: {', '.join(PARTS)}"
    add("--without", nargs="+", choices=PARTS, default=[], metavar="PART", help=parts)
    names = ", ".join(PRESETS)
    add("--input-size", metavar="HxW", help=f"of the network, or {names}; default: the variant's")
    add("--prompt", choices=PROMPTS, default="mask", help="kind of prompt")
    add("--clips", type=int, default=0, help="how many; 0: all (of synthetic val: 20)")
    add("--long-frames", type=int, default=2, help="N_l of LSMM; 0: off")
    view, gate = TrackerConfig.prompt_view, TrackerConfig.motion_gate_deg
    add("--view", choices=VIEWS, default=TrackerConfig.view, help="what the network is shown")
    add("--prompt-view", choices=PROMPT_VIEWS, default=view, help="where prompts are resolved")
    add("--motion-gate", type=float, default=gate, metavar="DEG", help="per frame; 0: off")
    add("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    add("--results", type=Path, help="write the masks to this folder, as benchmark servers want")
    add("--json", type=Path, help="write the numbers to this file")
    add("--html", type=Path, help="write a page with plots and the worst clips to this file")
    return parser


def _predictor(args: argparse.Namespace) -> tuple[Predictor, dict[str, Any]]:
    if args.predictions:
        if not args.predictions.is_dir():
            raise DataError(f"{args.predictions} is no folder of predictions")
        return FolderPredictor(args.predictions), {
            "title": str(args.predictions),
            "predictions": str(args.predictions),
        }
    theirs = args.tracker.startswith("sam2")
    if theirs and args.without:
        raise ConfigError("--without is for our own tracker, which has the parts")
    if theirs and args.yaw_true is not None:
        raise ConfigError("--yaw-true is for our own tracker; sam2's knows the yaw")
    make, size = _peer(args) if theirs else _ours(args)
    if args.tracker.endswith("_bfov"):
        predictor: Predictor = SearchRegionPredictor(make)
    else:
        predictor = make()
    without = "".join(f", without {part}" for part in args.without)
    return predictor, {
        "title": f"{args.tracker} {args.model}{without}, {args.prompt} prompt,",
        "tracker": args.tracker,
        "without": args.without,
        "model": args.model,
        "view": args.view,
        "precision": args.precision,
        "yaw_true": args.yaw_true,
        "prompt": args.prompt,
        "input_size": list(size),
    }


def _ours(args: argparse.Namespace) -> tuple[Callable[[], Predictor], tuple[int, int]]:
    model = load_model(
        args.model,
        checkpoint=args.checkpoint,
        device=args.device,
        precision=args.precision,
        yaw_true=args.yaw_true,
        input_size=args.input_size,
    )
    region = args.tracker == "panosam2_bfov"
    # What a search region shows is an ordinary picture.
    off = {*args.without, *(("wrap", "motion-gate", "prompt-view") if region else ())}
    model.switch_off(*(NETWORK_PARTS[part] for part in off & set(NETWORK_PARTS)))
    config = TrackerConfig(
        pano="wrap" not in off,
        long_frames=0 if "long-memory" in off else args.long_frames,
        view="sphere" if "local-views" in off else args.view,
        prompt_view="sphere" if "prompt-view" in off else args.prompt_view,
        motion_gate_deg=0.0 if "motion-gate" in off else args.motion_gate,
        least_likeness=0.0 if "colours" in off else TrackerConfig.least_likeness,
        remember_hidden="seen-only" in off,
    )
    return lambda: TrackerPredictor(PanoTracker(model, config), args.prompt), model.input_size


def _peer(args: argparse.Namespace) -> tuple[Callable[[], Predictor], tuple[int, int]]:
    if args.model == "nano":
        raise ConfigError(
            "sam2 has no network of nano's size; give --model and Meta's --checkpoint. The nearest"
            f" to it with nano: --without {' '.join(PARTS)}"
        )
    if args.checkpoint is None:
        raise ConfigError(f"--tracker {args.tracker} needs Meta's weights: --checkpoint FILE")
    height, width = parse_input_size(args.input_size) if args.input_size else (None, None)
    if height != width:
        raise ConfigError("sam2's predictor squeezes frames into a square: --input-size NxN")
    network = build_upstream(args.model, args.checkpoint, args.device, height)
    size = (network.image_size, network.image_size)
    pano = args.tracker == "sam2"
    return partial(UpstreamPredictor, network, args.prompt, pano=pano), size


def _episodes(args: argparse.Namespace) -> tuple[Iterator[Episode], int]:
    if args.dataset == "synthetic":
        if args.data is not None:
            raise ConfigError("the synthetic world takes no --data; --dataset auto reads it")
        split = args.split or "test"
        if split not in ("val", "test", "demo"):
            raise ConfigError(f"the synthetic world has val, test and demo, not {split!r}")
        world = SyntheticWorld(split=split)  # type: ignore[arg-type]
        count = min(args.clips or (20 if split == "val" else len(world)), len(world))
        return (synthetic_episode(world, index) for index in range(count)), count
    if args.data is None:
        raise ConfigError(f"--dataset {args.dataset} needs --data PATH")
    clips = open_clips(
        args.data,
        args.dataset,
        split=args.split,
        image_topic=args.image_topic,
        label_topic=args.label_topic,
    )
    clips = clips[: args.clips or len(clips)]
    return (recorded_episode(clip) for clip in clips), len(clips)


def _groups(path: Path | None) -> Groups | None:
    if path is None:
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        taken = {*SUBSETS, "latitude"} & set(raw)
        if taken:
            raise ValueError(f"{sorted(taken)[0]!r} is the name of a subset already")
        return {str(name): frozenset(map(str, members)) for name, members in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not give groups: {error}") from error


def _reporter(console: Console, count: int) -> Callable[[EpisodeScore], None]:
    done: list[str] = []

    def report(row: EpisodeScore) -> None:
        done.append(row.name)
        flags = sorted({name for i in row.scores for name in row.subsets(i)})
        shown = "nothing to score" if row.j_and_f is None else f"J&F {row.j_and_f:.3f}"
        console.print(f"{len(done)}/{count} {row.name}: {shown} {' '.join(flags)}", markup=False)

    return report


def _table(result: dict[str, Any], title: str) -> Table:
    fps = f", {result['fps']:.1f} frames/s" if result["fps"] else ""
    table = Table("subset", *COLUMNS.values(), title=f"{title}{fps}")
    rows = {"all": result, **{name: result[name] for name in SUBSETS}}
    rows |= {k: v for k, v in result.items() if isinstance(v, dict) and "j_and_f" in v}
    for name, row in rows.items():
        table.add_row(name, *(_cell(row[key]) for key in COLUMNS))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _write(path: Path | None, text: str, console: Console) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    console.print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
