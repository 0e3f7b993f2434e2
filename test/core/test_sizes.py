"""2:1 panoramas and squares: SAM2's rotary code goes silently wrong on some, ours does not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis

from panosam2_core import PanoTracker, Prompt, TrackerConfig
from panosam2_core.build import VARIANTS, build_model
from panosam2_core.nn.position import GridRoPEAttention, rope_table

PANORAMAS = [(16, 32), (28, 56), (24, 48), (32, 64), (42, 84), (32, 128)]
SQUARES = [(16, 16), (32, 32)]


def turned(x: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """(tokens, channels) turned pair by pair, from the definition, in double precision."""
    rows, cols = grid_hw
    channels = x.shape[1]
    out = np.empty_like(x, dtype=np.float64)
    for token in range(rows * cols):
        row, col = divmod(token, cols)
        for pair in range(channels // 2):
            quarter = channels // 4
            place = col if pair < quarter else row
            angle = place / 10000.0 ** (4 * (pair % quarter) / channels)
            a, b = x[token, 2 * pair], x[token, 2 * pair + 1]
            out[token, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[token, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


@pytest.mark.parametrize("grid_hw", PANORAMAS + SQUARES)
def test_rotary_code_is_that_of_the_definition(grid_hw: tuple[int, int]) -> None:
    channels = 8
    x = np.random.default_rng(0).normal(size=(grid_hw[0] * grid_hw[1], channels))
    table = rope_table(channels, grid_hw, theta=10000.0, harmonic=False)
    pairs = torch.view_as_complex(torch.from_numpy(x).float().reshape(len(x), -1, 2))
    ours = torch.view_as_real(pairs * table).flatten(1)
    np.testing.assert_allclose(ours.numpy(), turned(x, grid_hw), atol=1e-4)


@pytest.mark.parametrize("grid_hw", [(28, 56), (24, 48), (32, 128)])
def test_sam2_s_own_rotary_code_is_wrong_there(grid_hw: tuple[int, int]) -> None:
    """It takes the grid for the square root of the number of tokens, without a word."""
    channels, tokens = 8, grid_hw[0] * grid_hw[1]
    x = np.random.default_rng(0).normal(size=(tokens, channels))
    side = int(math.sqrt(tokens))
    table = compute_axial_cis(dim=channels, end_x=side, end_y=side)
    if len(table) != tokens:  # 39 x 39 for 28 x 56: cut off or repeated to fit
        table = table.repeat(-(-tokens // len(table)), 1)[:tokens]
    query = torch.from_numpy(x).float()[None, None]
    theirs = apply_rotary_enc(query, query, freqs_cis=table)[0][0, 0].numpy()
    assert np.abs(theirs - turned(x, grid_hw)).max() > 0.1


@pytest.mark.parametrize("side", [32, 64])
def test_on_squares_both_are_the_same(side: int) -> None:
    theirs = compute_axial_cis(dim=64, end_x=side, end_y=side)
    torch.testing.assert_close(rope_table(64, (side, side), theta=10000.0, harmonic=False), theirs)


@pytest.mark.parametrize(
    "size_hw", [(32, 64), (256, 512), (448, 896), (512, 1024), (672, 1344), (256, 256), (512, 512)]
)
def test_a_stream_runs_at_every_size(size_hw: tuple[int, int]) -> None:
    """Every attention of the network is told its grid, and refuses another one."""
    small = dataclasses.replace(VARIANTS["nano"], width=64, memory_dim=32)
    model = build_model(small).eval().requires_grad_(False)
    model.set_input_size(size_hw)
    grid = (size_hw[0] // 16, size_hw[1] // 16)
    for module in model.modules():
        if isinstance(module, GridRoPEAttention):
            assert module.grid_hw == grid
    tracker = PanoTracker(model, TrackerConfig(pano=size_hw[1] == 2 * size_hw[0]))
    generator = np.random.default_rng(0)
    for t in range(2):
        frame = generator.integers(0, 255, (100, 200, 3), dtype=np.uint8)
        found = tracker.step(frame, [Prompt(1, points=[(50, 50)])] if t == 0 else ()).objects[1]
        assert found.logits.shape == (size_hw[0] // 4, size_hw[1] // 4)
        assert np.isfinite(found.logits).all()
        assert found.mask.shape == (100, 200)


def test_hiera_runs_at_a_size_that_is_no_power_of_two() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(VARIANTS["hiera_t"], input_size=(448, 896))
    tracker = PanoTracker(build_model(config).eval().requires_grad_(False))
    frame = np.random.default_rng(0).integers(0, 255, (90, 180, 3), dtype=np.uint8)
    for t in range(2):
        found = tracker.step(frame, [Prompt(1, points=[(50, 50)])] if t == 0 else ()).objects[1]
        assert found.logits.shape == (112, 224)
        assert np.isfinite(found.logits).all()
