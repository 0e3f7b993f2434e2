"""Weight files: read without running anything in them, written atomically."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from panosam2_core.config import ModelConfig
from panosam2_core.errors import CheckpointError
from panosam2_core.identify import identify_file


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a weight file without running anything in it.

    Args:
        path: ``.safetensors``, or ``.pt`` as published by Meta (``{"model": state}``).

    Returns:
        State dict, and the metadata of a safetensors file (empty for ``.pt``).

    Raises:
        CheckpointError: saying what the file is when it is not weights.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the weight file in it")
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return state, dict(file.metadata() or {})
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        what = identify_file(path) or str(error)
        raise CheckpointError(f"{path} is not a readable weight file: {what}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError, zipfile errors, and more
        # Not torch's own words: they advise to load the file unsafely.
        what = identify_file(path) or "no torch file, or one with more in it than tensors"
        raise CheckpointError(f"{path} is not a safe torch weight file: {what}") from error
    found = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path} holds no state dict (expected tensors by name)")
    return found, {}


def write_weights(
    path: Path, state: Mapping[str, Tensor], config: ModelConfig, notes: Mapping[str, str]
) -> None:
    """Write weights with their network's config inside. A killed process leaves no half file.

    Args:
        path: target ``.safetensors`` file.
        state: tensors by name.
        config: of the network.
        notes: further metadata (steps, seed, origin).
    """
    temporary = path.with_suffix(".tmp")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, temporary, metadata={**notes, **config_to_metadata(config)})
    os.replace(temporary, path)


def config_to_metadata(config: ModelConfig) -> dict[str, str]:
    """Model config as safetensors metadata.

    Args:
        config: of the saved network.

    Returns:
        ``{"config": json}``.
    """
    return {"config": json.dumps(dataclasses.asdict(config), sort_keys=True)}


def config_from_metadata(metadata: Mapping[str, str]) -> ModelConfig:
    """Inverse of :func:`config_to_metadata`.

    Args:
        metadata: of a safetensors file.

    Returns:
        The config.

    Raises:
        CheckpointError: when the metadata is not ours.
    """
    try:
        fields = json.loads(metadata["config"])
        fields["input_size"] = tuple(fields["input_size"])
        return ModelConfig(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"weight file has no usable model config: {error}") from error
