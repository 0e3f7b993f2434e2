"""What the benchmarks of views compare, and the file that keeps what is finished.

The views are those of `panosam2_core.config.VIEWS`; a gate is a change to `TrackerConfig` that
switches it off, an option one that switches on what is off. A new view, gate or option needs a
line here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from panosam2_core import PanoTracker, TrackerConfig, load_model
from panosam2_core.build import NANO_WEIGHTS
from panosam2_core.config import VIEWS

GATES: dict[str, dict[str, Any]] = {
    "motion gate": {"motion_gate_deg": 0.0},
    "least score": {"least_score": 0.0},
    "most growth": {"most_growth": 0.0},
    "likeness": {"least_likeness": 0.0},
    "hidden frames left out": {"remember_hidden": True},
    "long-term memory": {"long_frames": 0},
    "all of these": {
        "motion_gate_deg": 0.0,
        "least_score": 0.0,
        "most_growth": 0.0,
        "least_likeness": 0.0,
        "remember_hidden": True,
        "long_frames": 0,
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "anchors": {"anchors": 3},
    "three looks of a search per frame": {"search_looks": 3},
}
VIEW_ROWS: dict[str, dict[str, Any]] = {view: {"view": view} for view in VIEWS}
GATE_ROWS = {f"auto, without {gate}": {"view": "auto", **off} for gate, off in GATES.items()}
GATE_ROWS |= {f"auto, with {option}": {"view": "auto", **on} for option, on in OPTIONS.items()}
# SAM2's rules for memory and masks, with our network as it was trained; and as near to SAM2's
# network as ours comes, without the panoramic parts and on frames that are not closed.
SAM2_RULES, PLAIN = "sphere, SAM2's rules", "SAM2-nano"
_RULES = {
    "view": "sphere",
    "long_frames": 0,
    "motion_gate_deg": 0.0,
    "least_likeness": 0.0,
    "remember_hidden": True,
}
ROWS = {**VIEW_ROWS, **GATE_ROWS, SAM2_RULES: _RULES, PLAIN: {**_RULES, "pano": False}}
PARTS = ("pc_blocks", "previous_mask")


def make_tracker(
    row: str,
    checkpoint: Path | None = None,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
) -> PanoTracker:
    """Build the tracker of a row.

    Args:
        row: of :data:`ROWS`.
        checkpoint: weights of `nano`; ``None``: those that come along.
        seed: of the tracker's draws; ``None``: no draws.
        size: (height, width) of the network's input.

    Returns:
        The tracker.
    """
    model = load_model("nano", checkpoint=checkpoint, input_size=size)
    if row == PLAIN:
        model.switch_off(*PARTS)
    return PanoTracker(model, TrackerConfig(**ROWS[row], seed=seed))


def digest(checkpoint: Path | None) -> str:
    """Tell weights apart: the beginning of the SHA-256 of their file; ``None``: nano's own."""
    own = resources.files("panosam2_core").joinpath(NANO_WEIGHTS)
    data = checkpoint.read_bytes() if checkpoint else own.read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]


class Kept:
    """Finished pieces of a benchmark in a JSON file, so that an interrupted run goes on.

    Args:
        file: to keep them in.
        setting: what they depend on.

    Raises:
        SystemExit: when the file is of another setting.
    """

    def __init__(self, file: Path, setting: Mapping[str, Any]) -> None:
        self.file, self.setting = file, json.loads(json.dumps(setting))
        self.pieces: dict[str, Any] = {}
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["setting"] != self.setting:
                raise SystemExit(f"{file} is of {found['setting']}; name another file with --json")
            self.pieces = found["pieces"]

    def run(self, work: Callable[..., Any], todo: Mapping[str, Sequence[Any]], jobs: int) -> None:
        """Do what is not finished.

        Args:
            work: a function of a module; its result is kept.
            todo: its arguments by the name of the piece.
            jobs: processes at a time; 1: this one.
        """
        left = {name: args for name, args in todo.items() if name not in self.pieces}
        if jobs == 1:
            for name, args in left.items():
                self._keep(name, work(*args))
            return
        context = get_context("spawn")
        with ProcessPoolExecutor(
            jobs, context, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            names = {pool.submit(work, *args): name for name, args in left.items()}
            for done in as_completed(names):
                self._keep(names[done], done.result())

    def _keep(self, name: str, piece: Any) -> None:
        self.pieces[name] = piece
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        text = json.dumps({"setting": self.setting, "pieces": self.pieces}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, self.file)
        print(f"{len(self.pieces)}: {name}", flush=True)


def spread(values: Sequence[float | None], factor: float = 100.0) -> str:
    """Mean and standard deviation, as a table has it; of nothing a dash."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.mean(known):.1f}"
    return text + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")
