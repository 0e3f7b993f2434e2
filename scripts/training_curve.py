"""Prints the learning curve of a training run as a Markdown table.

python scripts/training_curve.py out/nano/metrics.jsonl
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

COLUMNS = ("loss", "iou", "iou_last", "iou_error", "seconds")


def main(path: Path, rows: int = 20) -> None:
    """Print means over equal stretches of steps.

    Args:
        path: ``metrics.jsonl`` of a run. Of a step that a resumed run did twice the last counts.
        rows: of the table.
    """
    by_step = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_step[row["step"]] = row
    steps = [by_step[step] for step in sorted(by_step)]
    size = max(1, -(-len(steps) // rows))
    print(f"| steps | stage | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        means = (_mean([row[c] for row in part]) for c in COLUMNS)
        cells = " | ".join(f"{value:.3f}" for value in means)
        print(f"| {part[0]['step']}-{part[-1]['step']} | {part[0]['stage']} | {cells} |")


def _mean(values: list[float]) -> float:
    """Mean of the numbers that are there: a batch without a visible object has no IoU."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


if __name__ == "__main__":
    main(Path(sys.argv[1]))
