"""Command line: ``python -m panosam2_core.train PLAN.yaml --out DIR``.

Goes on where a run in the same folder stopped. ``Ctrl-C`` is safe: the last checkpoint stays.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.logging import RichHandler

from panosam2_core.build import resolve_device
from panosam2_core.errors import PanoSAM2Error
from panosam2_core.training.loop import Trainer
from panosam2_core.training.plan import TrainPlan, load_plan


def main(argv: list[str] | None = None) -> int:
    """Train.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 finished, 1 failed with a message, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="panosam2_core.train", description=__doc__)
    parser.add_argument("plan", type=Path, help="YAML plan, for example config/train/*.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and metrics")
    parser.add_argument("--weights", type=Path, help="start from these instead of from scratch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw samples")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--log-every", type=int, default=20, help="steps between two log lines")
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    logging.basicConfig(
        level="INFO", format="%(message)s", handlers=[RichHandler(console=console)]
    )
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        plan = load_plan(args.plan)
        progress = _Progress(plan, args.log_every, console)
        device = resolve_device(args.device)
        trainer = Trainer(plan, args.out, device, progress, weights=args.weights)
        trainer.run(args.workers)
    except (PanoSAM2Error, FloatingPointError) as error:
        console.print(f"[red]error:[/red] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; run the same command to go on from the last checkpoint")
        return 130
    console.print(f"done: {args.out / plan.variant}.safetensors")
    return 0


class _Progress:
    """Prints a running mean of the metrics and the time left."""

    def __init__(self, plan: TrainPlan, every: int, console: Console) -> None:
        self.plan, self.every, self.console = plan, every, console
        self.rows: list[Mapping[str, float]] = []
        self.started = time.monotonic()

    def __call__(self, metrics: Mapping[str, float]) -> None:
        self.rows.append(metrics)
        if len(self.rows) < self.every:
            return
        mean = {
            key: sum(row[key] for row in self.rows) / len(self.rows)
            for key in ("loss", "dice", "iou", "iou_last", "iou_error", "occlusion", "seconds")
        }
        left = (self.plan.total_steps - metrics["step"]) * mean["seconds"] / 60
        self.console.print(
            f"[{metrics['stage']}] step {metrics['step']}/{self.plan.total_steps} "
            + " ".join(f"{key} {value:.3f}" for key, value in mean.items())
            + f" left {left:.0f} min"
        )
        self.rows.clear()


if __name__ == "__main__":
    sys.exit(main())
