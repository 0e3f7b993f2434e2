"""Checkpoints: written atomically, read without running anything in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from panosam2_core.build import config_to_metadata
from panosam2_core.model import PanoSAM2


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
    half = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in state.items()}
    temporary = path.with_suffix(".tmp")
    save_file(half, temporary, metadata={**config_to_metadata(model.config), **notes})
    os.replace(temporary, path)
