"""Fixtures shared by the core tests: small networks, built once."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from panosam2_core.build import VARIANTS, build_model
from panosam2_core.model import PanoSAM2


def randomize(model: nn.Module, seed: int) -> None:
    """Fill every parameter with noise, identity-initialised ones too, so that all matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * 0.05)


@pytest.fixture(scope="session")
def small_nano() -> PanoSAM2:
    """nano at 64x128 with random weights everywhere; objects count as visible, masks as good."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(VARIANTS["nano"], input_size=(64, 128)))
    randomize(model, seed=1)
    nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)
    nn.init.constant_(model.sam_mask_decoder.iou_prediction_head.layers[-1].bias, 4.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def noise_frames() -> list[npt.NDArray[np.uint8]]:
    """Forty 64x128 frames of coarse noise, of one colour as portraits tell colours apart.

    So the masks of random weights are believed (`TrackerConfig.least_likeness`).
    """
    generator = np.random.default_rng(0)
    coarse = generator.integers(128, 170, (40, 8, 16, 3), dtype=np.uint8)
    return [np.repeat(np.repeat(c, 8, axis=0), 8, axis=1) for c in coarse]


class Recorded(TorchDispatchMode):
    """Names of the operators that ran, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))

    def times(self, name: str) -> int:
        """How often operators ran that have this in their name."""
        return sum(count for ran, count in self.names.items() if name in ran)
