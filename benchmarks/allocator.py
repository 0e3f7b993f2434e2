"""What keeping freed memory is worth: one step of nano with and without it, interleaved.

    python benchmarks/allocator.py --json out/allocator.json

Every round starts two processes, one as glibc has it and one with
``panosam2_core.allocator.keep_freed_memory()``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

FRAMES, WARM = 30, 10


def measure(keep: bool) -> dict[str, float]:
    """Milliseconds and page faults of a median step."""
    import numpy as np

    from panosam2_core import PanoTracker, Prompt, load_model
    from panosam2_core.allocator import keep_freed_memory

    if keep and not keep_freed_memory():
        raise SystemExit("this C library has no mallopt, or MALLOC_..._ variables are set")
    tracker = PanoTracker(load_model("nano", device="cpu"))
    frame = np.random.default_rng(0).integers(0, 255, (512, 1024, 3), dtype=np.uint8)
    times, faults = [], []
    for number in range(FRAMES):
        prompts = [Prompt(1, box=(480, 200, 560, 260))] if number == 0 else []
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        tracker.step(frame, prompts)
        times.append(1e3 * (time.perf_counter() - started))
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt)
    return {"ms": statistics.median(times[WARM:]), "faults": statistics.median(faults[WARM:])}


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=("keep", "default"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one == "keep")))
        return
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    rows: dict[str, list[dict[str, float]]] = {"default": [], "keep": []}
    for _ in range(args.rounds):
        for name, row in rows.items():
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, env=clean, check=True, capture_output=True, text=True)
            row.append(json.loads(done.stdout))
            print(f"{name:8s} {row[-1]['ms']:7.1f} ms  {row[-1]['faults']:8.0f} page faults")
    ratios = [a["ms"] / b["ms"] for a, b in zip(rows["default"], rows["keep"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"rounds": rows, "ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
