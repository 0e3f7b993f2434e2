"""Pixel weights of the mask loss: the check table, invariants and corner cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import enlarge, fit_bfov, uncrop_grid
from panosam2_core.losses.distortion import (
    DistortionConfig,
    crop_weights,
    distortion_weights,
    foreground_weight,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)
SIZE = (64, 128)
FAST = DistortionConfig(crop_hw=(32, 64))


def disc(lon: float, lat: float, radius: float, size_hw: tuple[int, int] = SIZE) -> torch.Tensor:
    centre = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    return erp.rays(size_hw, dtype=torch.float64) @ centre > math.cos(radius)


# Share of foreground -> its weight, and the background's at the contour and far away.
TABLE = [
    (0.001, 2.0, 2.0, 0.5),
    (0.12, 2.0, 1.76, 0.5),
    (0.33, 2.0, 1.34, 0.5),
    (0.5, 1.0, 0.5, 0.5),
    (0.7, 0.43, 0.5, 0.5),
    (0.9, 0.11, 0.5, 0.5),
]


@pytest.mark.parametrize(("r", "w_fg", "contour", "far"), TABLE)
def test_check_table(r, w_fg, contour, far):
    width = 1000
    crop = np.zeros((2, width), dtype=bool)
    crop[:, : round(r * width)] = True
    weights = crop_weights(crop, DistortionConfig(), wraps=False)
    edge = round(r * width)
    assert weights[0, 0] == pytest.approx(max(w_fg, 0.5), rel=1e-3)
    assert weights[0, edge] == pytest.approx(contour, rel=0.015)
    assert weights[0, -1] == pytest.approx(far, rel=1e-3)
    assert foreground_weight(r, DistortionConfig()) == pytest.approx(max(w_fg, 0.5), rel=1e-3)


def test_default_decay_reaches_the_least_weight():
    assert DistortionConfig().decay_factor == pytest.approx(math.log(4))
    assert DistortionConfig(decay=3.0).decay_factor == 3.0
    assert DistortionConfig(w_min=1.0, w_max=1.0).decay_factor == 0.0


@quick
@given(
    lon=st.floats(-math.pi, math.pi),
    lat=st.floats(-1.57, 1.57),
    radius=st.floats(0.1, 1.2),
    high=st.floats(1.0, 4.0),
    ratio=st.floats(1.0, 3.0),
)
def test_range_uniform_foreground_and_outside(lon, lat, radius, high, ratio):
    config = DistortionConfig(1 / high, high, ratio, crop_hw=(32, 64))
    mask = disc(lon, lat, radius)
    weights = distortion_weights(mask, config)
    assert weights.shape == SIZE
    assert weights.dtype == torch.float32
    low, high = (np.float32(w) for w in (config.w_min, config.w_max))
    assert low <= weights.min()
    assert weights.max() <= high
    assert weights[mask].unique().numel() == 1
    region = enlarge(fit_bfov(mask), ratio)
    outside = ~uncrop_grid(enlarge(region, 1.02), (8, 8), SIZE)[1] & ~mask
    assert (weights[outside] == low).all()


@quick
@given(seed=st.integers(0, 1000), wraps=st.booleans())
def test_background_falls_with_distance(seed, wraps):
    rng = np.random.default_rng(seed)
    crop = np.zeros((16, 24), dtype=bool)
    y, x = rng.integers(1, 12), rng.integers(0, 20)
    crop[y : y + 3, x : x + 4] = True
    weights = crop_weights(crop, DistortionConfig(), wraps)
    assert weights.dtype == np.float32
    points = np.argwhere(crop)
    at = np.argwhere(~crop)
    offset = np.abs(at[:, None] - points[None])
    if wraps:
        offset[..., 1] = np.minimum(offset[..., 1], 24 - offset[..., 1])
    distance = np.sqrt((offset**2).sum(-1)).min(1)
    order = np.argsort(distance)
    assert (np.diff(weights[~crop][order]) <= 1e-6).all()
    assert weights[crop].min() >= weights[~crop].max() * 0.99


@quick
@given(shift=st.integers(-128, 128), lat=st.floats(-1.5, 1.5))
def test_yaw_moves_the_weights(shift, lat):
    mask = disc(0.3, lat, 0.5)
    want = erp.roll_yaw(distortion_weights(mask, FAST), shift)
    got = distortion_weights(erp.roll_yaw(mask, shift), FAST)
    # The local frame is the same up to rounding; a crop pixel may fall either way.
    assert (got - want).abs().mean() < 0.01
    assert ((got - want).abs() > 0.1).double().mean() < 0.01


def test_ring_is_equivariant_too():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[28:36] = True
    mask[24:40, 10:30] = True
    config = DistortionConfig(crop_hw=(32, 64))
    want = erp.roll_yaw(distortion_weights(mask, config), 64)
    got = distortion_weights(erp.roll_yaw(mask, 64), config)
    torch.testing.assert_close(got, want, atol=0.02, rtol=0)


def test_pole_weighs_as_the_equator():
    # What is far from the object on the sphere is far in the weights, whatever the picture says.
    size = (128, 256)
    profile = []
    for lat in (0.0, math.pi / 2):
        weights = distortion_weights(disc(0.0, lat, 0.3, size), DistortionConfig())
        centre = erp.lonlat_to_ray(torch.tensor(0.0), torch.tensor(lat))
        angle = torch.acos((erp.rays(size) @ centre).clamp(-1, 1))
        near = (angle > 0.33) & (angle < 0.4)
        profile.append((weights[0, 0] if lat else weights[64, 128], weights[near].mean()))
    torch.testing.assert_close(profile[0][0], profile[1][0])
    torch.testing.assert_close(profile[0][1], profile[1][1], atol=0.06, rtol=0)


def test_absent_and_tiny_objects_weigh_one():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    assert torch.equal(distortion_weights(mask, FAST), torch.ones(SIZE))
    mask[3, 3:10] = True
    assert torch.equal(distortion_weights(mask), torch.ones(SIZE))


def test_whole_sphere_weighs_least():
    weights = distortion_weights(torch.ones(SIZE, dtype=torch.bool), FAST)
    assert torch.equal(weights, torch.full(SIZE, 0.5))


def test_line_thinner_than_a_crop_pixel_is_not_lost():
    mask = torch.zeros((256, 512), dtype=torch.bool)
    mask[128, 100:400] = True
    config = DistortionConfig(crop_hw=(16, 32), min_fov_v=math.pi)
    weights = distortion_weights(mask, config)
    assert (weights[mask] == 2.0).all()
    assert weights[127, 250] > weights[60, 250] >= 0.5


def test_empty_crop():
    weights = crop_weights(np.zeros((4, 6), dtype=bool), DistortionConfig(), wraps=False)
    assert (weights == 0.5).all()
    assert foreground_weight(0.0, DistortionConfig()) == 2.0


def test_crop_size_hardly_matters():
    mask = disc(1.0, -0.9, 0.4, (128, 256))
    want = distortion_weights(mask, DistortionConfig())
    got = distortion_weights(mask, DistortionConfig(crop_hw=(64, 128)))
    assert (got - want).abs().mean() < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"w_min": 0.0},
        {"w_min": 3.0},
        {"w_max": math.inf},
        {"ratio": 0.5},
        {"crop_hw": (0, 8)},
        {"decay": -1.0},
    ],
)
def test_config_checks_its_ranges(options):
    with pytest.raises(ValueError, match="expected"):
        DistortionConfig(**options)


def test_mask_must_be_bool():
    with pytest.raises(ValueError, match="bool mask"):
        distortion_weights(torch.ones(SIZE))
