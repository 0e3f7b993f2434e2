"""Is the loader fast enough? Its rate beside the training step's, both alone on the machine.

Usage: python benchmarks/loader.py [PLAN] [--stage 0] [--batches 8] [--workers 1] [--json FILE]

A loader that makes batches at least as fast as the step uses them is no bottleneck. Both share
the processor when they run together, so on a machine with few cores the step gets slower too; the
last column is what a short run with both really does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from panosam2_core.training.loop import Trainer
from panosam2_core.training.parallel import join_processes
from panosam2_core.training.plan import load_plan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    plan_path = Path(__file__).parents[1] / "config/train/nano_refine.yaml"
    parser.add_argument("plan", type=Path, nargs="?", default=plan_path)
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    plan = load_plan(args.plan)
    stage = plan.stages[args.stage]
    # The speed does not depend on the weights.
    plan = dataclasses.replace(plan, init="shipped", stages=(stage,))
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(plan, Path(out), join_processes(args.device), lambda metrics: None)
        trainer.model.set_input_size(stage.input_size)
        alone = trainer.batches(stage, 0)
        threads = torch.get_num_threads()
        load = _median(lambda: next(alone), args.batches)
        torch.set_num_threads(threads)  # the loader takes one
        batch = next(alone)
        torch.set_num_threads(threads)
        step = _median(lambda: trainer.train_step([batch], stage), args.batches)
        together = trainer.batches(stage, args.workers)
        both = _median(lambda: trainer.train_step([next(together)], stage), args.batches)
    result = {
        "plan": args.plan.name,
        "stage": stage.name,
        "clips_per_batch": stage.clips,
        "workers": args.workers,
        "threads": threads,
        "load_seconds": load,
        "step_seconds": step,
        "loader_over_step_rate": step / load,
        "together_seconds": both,
        "device": str(trainer.device),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _median(work: Callable[[], object], times: int) -> float:
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
