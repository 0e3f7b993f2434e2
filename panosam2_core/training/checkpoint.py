"""Checkpoints: written atomically, read without running anything in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panosam2_core.model import PanoSAM2
from panosam2_core.weight_file import write_weights


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write what a run needs to go on. A killed process leaves the old file or the new one.

    Args:
        path: target file.
        state: tensors and plain values.
    """
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def save_weights(
    path: Path, model: PanoSAM2, state: dict[str, Tensor], notes: dict[str, str]
) -> None:
    """Write weights for users, in half precision, with the model's config inside.

    Args:
        path: target ``.safetensors`` file.
        model: gives the config.
        state: weights to save (for example averaged ones).
        notes: further metadata (steps, seed, data).
    """
    half = {key: value.to(torch.float16) for key, value in state.items()}
    write_weights(path, half, model.config, notes)
