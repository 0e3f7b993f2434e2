"""Command line: ``python -m panosam2_core.evaluate --split test --model nano --json FILE``.

Tracks the target of each clip of the synthetic world from a prompt on its first frame and compares
the masks with the truth. The test split is fixed and needs no download.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from panosam2_core.build import load_model
from panosam2_core.config import PROMPT_VIEWS, TrackerConfig
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_core.errors import PanoSAM2Error
from panosam2_core.evaluation.scores import mean
from panosam2_core.evaluation.synthetic import PROMPTS, SUBSETS, ClipScore, evaluate
from panosam2_core.tracker import PanoTracker

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
        Exit code: 0 finished, 1 failed with a message.
    """
    args = _parser().parse_args(argv)
    console = Console(stderr=True)
    logging.basicConfig(level="WARNING", handlers=[RichHandler(console=console)])
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        size = (args.size[0], args.size[1]) if args.size else None
        model = load_model(
            args.model, checkpoint=args.checkpoint, device=args.device, input_size=size
        )
        tracker = PanoTracker(
            model,
            TrackerConfig(
                long_frames=args.long_frames,
                prompt_view=args.prompt_view,
                motion_gate_deg=args.motion_gate,
            ),
        )
        world = SyntheticWorld(split=args.split)
    except PanoSAM2Error as error:
        console.print(f"[red]error:[/red] {error}")
        return 1
    clips = min(args.clips or len(world), len(world))

    def report(row: ClipScore) -> None:
        flags = [name for name in SUBSETS if name in row.subsets]
        iou = mean(row.score.iou)
        shown = "never visible" if iou is None else f"IoU {iou:.3f}"
        console.print(f"clip {row.index + 1}/{clips} {shown} {' '.join(flags)}")

    result = evaluate(tracker, world, clips, args.prompt, report)
    result |= {"split": args.split, "model": args.model, "input_size": list(model.input_size)}
    Console().print(_table(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        console.print(f"wrote {args.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panosam2_core.evaluate", description=__doc__)
    parser.add_argument("--dataset", choices=["synthetic"], default="synthetic")
    parser.add_argument("--split", choices=["val", "test", "demo"], default="test")
    parser.add_argument("--model", default="nano", help="variant")
    parser.add_argument("--checkpoint", type=Path, help="weights; nano has its own")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="network input size")
    parser.add_argument("--prompt", choices=PROMPTS, default="mask", help="kind of prompt")
    parser.add_argument("--clips", type=int, default=0, help="how many; 0: all of the test split")
    parser.add_argument("--long-frames", type=int, default=2, help="N_l of LSMM; 0: off")
    parser.add_argument(
        "--prompt-view",
        choices=PROMPT_VIEWS,
        default=TrackerConfig.prompt_view,
        help="where points and boxes are resolved",
    )
    gate = TrackerConfig.motion_gate_deg
    parser.add_argument(
        "--motion-gate", type=float, default=gate, metavar="DEG", help="per frame; 0: off"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    return parser


def _table(result: dict[str, Any]) -> Table:
    title = f"{result['model']} on synthetic-{result['split']}, {result['prompt']} prompt"
    table = Table("subset", *COLUMNS.values(), title=f"{title}, {result['fps']:.1f} frames/s")
    for name, row in {"all": result, **{name: result[name] for name in SUBSETS}}.items():
        table.add_row(name, *(_cell(row[key]) for key in COLUMNS))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
