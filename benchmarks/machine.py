"""What a figure was measured on, and when."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What stands beside every figure that is kept.

    Returns:
        Date, commit (``-dirty`` where it is not what was run), processor, cores, threads, load of
        the last minute and torch's version.
    """
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "cpu": dict(getattr(torch.cpu, "get_capabilities", dict)()).get("cpu_name"),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }
