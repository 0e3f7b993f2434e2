"""Command line: ``python -m panosam2_core.train PLAN.yaml --out DIR [KEY=VALUE ...]``.

Goes on where a run in the same folder stopped. ``Ctrl-C`` is safe: the last checkpoint stays.
DIR gets the weights (VARIANT.safetensors), metrics.jsonl and curves with pictures for TensorBoard
(board). Several GPUs: ``accelerate launch -m panosam2_core.train ...``.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.logging import RichHandler

from panosam2_core.allocator import keep_freed_memory
from panosam2_core.errors import PanoSAM2Error
from panosam2_core.training.loop import Trainer
from panosam2_core.training.parallel import join_processes
from panosam2_core.training.plan import TrainPlan, load_plan

_SHOWN = ("loss", "dice", "iou", "iou_last", "iou_error", "occlusion", "seconds", "waited")


def main(argv: list[str] | None = None) -> int:
    """Train.

    Args:
        argv: command line without the program; ``None``: the process's.

    Returns:
        Exit code: 0 finished, 1 failed with a message, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="panosam2_core.train", description=__doc__)
    parser.add_argument("plan", type=Path, help="YAML plan, for example config/train/*.yaml")
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="go before the plan: data.0.path=BAG, stages.0.steps=50, seed=3",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and metrics")
    parser.add_argument("--weights", type=Path, help="start from these instead of from scratch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw samples")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--log-every", type=int, default=20, help="steps between two log lines")
    args = parser.parse_intermixed_args(argv)
    keep_freed_memory()
    console = Console(stderr=True)
    logging.basicConfig(
        level="INFO", format="%(message)s", handlers=[RichHandler(console=console)]
    )
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        plan = load_plan(args.plan, args.changes)
        progress = _Progress(plan, args.log_every, console)
        processes = join_processes(args.device)
        trainer = Trainer(plan, args.out, processes, progress, weights=args.weights)
        trainer.run(args.workers)
    except (PanoSAM2Error, FloatingPointError) as error:
        console.print("[red]error:[/red]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        console.print("[red]error:[/red] out of memory.", _memory_hint(plan, trainer.step))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; run the same command to go on from the last checkpoint")
        return 130
    console.print(f"done: {args.out / plan.variant}.safetensors")
    return 0


def _is_out_of_memory(error: RuntimeError) -> bool:
    # torch has a class for the GPU's memory only.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _memory_hint(plan: TrainPlan, step: int) -> str:
    stage = plan.stage_at(step)
    number = plan.stages.index(stage)
    return (
        f"In stage {stage.name!r} lower one of: stages.{number}.clips={stage.clips} (and raise "
        f"accumulate={plan.accumulate} as much, for the same result), stages.{number}.bptt="
        f"{stage.bptt or stage.num_frames} (frames that gradients reach back), "
        f"stages.{number}.objects={stage.objects}, "
        f"stages.{number}.input_size={list(stage.input_size)}"
        + ("" if plan.precision == "bfloat16" else "; or set precision=bfloat16")
    )


class _Progress:
    """Prints a running mean of the metrics and the time left."""

    def __init__(self, plan: TrainPlan, every: int, console: Console) -> None:
        self.plan, self.every, self.console = plan, every, console
        self.rows: list[Mapping[str, Any]] = []
        self.started = time.monotonic()

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        self.rows.append(metrics)
        if len(self.rows) < self.every:
            return
        mean = {
            key: _mean([row[key] for row in self.rows if row[key] is not None]) for key in _SHOWN
        }
        left = (self.plan.total_steps - metrics["step"]) * mean["seconds"] / 60
        self.console.print(
            f"[{metrics['stage']}] step {metrics['step']}/{self.plan.total_steps} "
            + " ".join(f"{key} {value:.3f}" for key, value in mean.items())
            + f" left {left:.0f} min"
        )
        self.rows.clear()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


if __name__ == "__main__":
    sys.exit(main())
