"""Measures of a mask: brute force, Monte Carlo and the known corner cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.field_of_view import FieldOfView
from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import fit_bfov
from panosam2_core.geometry.region import measure

quick = settings(max_examples=30, deadline=None, derandomize=True)
SIZE = (96, 192)
PIXEL = math.pi / SIZE[0]

lons = st.floats(-math.pi, math.pi)
lats = st.floats(-0.5 * math.pi, 0.5 * math.pi)


def disc(lon: float, lat: float, radius: float, size_hw: tuple[int, int] = SIZE) -> np.ndarray:
    centre = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    return (erp.rays(size_hw, dtype=torch.float64) @ centre > math.cos(radius)).numpy()


def bearing_at(lon: float, lat: float) -> np.ndarray:
    """Body-frame direction of camera-frame angles."""
    ray = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    return erp.ray_to_bearing(ray).numpy()


def from_columns(*columns: int, width: int = 12) -> np.ndarray:
    mask = np.zeros((6, width), dtype=bool)
    mask[2:4, list(columns)] = True
    return mask


@pytest.mark.parametrize(
    ("columns", "box", "crosses"),
    [
        ((0,), (0, 2, 1, 2), False),
        ((11,), (11, 2, 1, 2), False),
        ((3, 4, 6), (3, 2, 4, 2), False),
        ((11, 0), (11, 2, 2, 2), True),
        ((10, 11, 0, 1, 2), (10, 2, 5, 2), True),
        ((1, 10), (10, 2, 4, 2), True),
        (tuple(range(12)), (0, 2, 12, 2), True),
        (tuple(i for i in range(12) if i != 5), (6, 2, 11, 2), True),
        ((0, 6), (0, 2, 7, 2), False),
    ],
)
def test_box_is_the_least_circular_interval(columns, box, crosses):
    got = measure(from_columns(*columns), pano=True)
    assert got.box == box
    assert got.crosses_seam is crosses
    assert got.area_px == 2 * len(columns)


@quick
@given(seed=st.integers(0, 1000))
def test_a_partial_panorama_measures_as_its_place_in_the_whole_one(seed):
    """A 90 degree cut about the horizon, seen by a camera that looks to its middle."""
    part = np.random.default_rng(seed).random((24, 48)) < 0.2
    whole = np.zeros(SIZE, dtype=bool)
    whole[36:60, 72:120] = part  # 48 of 192 columns, 24 of 96 rows, in the middle
    got, want = measure(part, True, fov=FieldOfView(math.pi / 2)), measure(whole, True)
    np.testing.assert_allclose(got.bearing, want.bearing, atol=1e-6)
    assert got.solid_angle_sr == pytest.approx(want.solid_angle_sr)
    assert got.angular_width == pytest.approx(want.angular_width)
    assert got.angular_height == pytest.approx(want.angular_height)
    edges = np.zeros((24, 48), dtype=bool)
    edges[:, [0, 47]] = True
    assert not measure(edges, True, fov=FieldOfView(math.pi / 2)).crosses_seam


@quick
@given(seed=st.integers(0, 1000), rows=st.tuples(st.integers(0, 47), st.integers(49, 96)))
def test_rows_that_are_cut_off_change_no_direction(seed, rows):
    """Cut alike above and below, ``vfov`` is enough; else the middle is said, too."""
    top, end = rows
    whole = np.zeros(SIZE, dtype=bool)
    whole[top:end] = np.random.default_rng(seed).random((end - top, SIZE[1])) < 0.02
    degrees = math.pi / SIZE[0]
    middle = (SIZE[0] / 2 - (top + end) / 2) * degrees
    fov = FieldOfView(vfov=(end - top) * degrees, middle_lat=middle)
    got, want = measure(whole[top:end], True, fov), measure(whole, True)
    if want is None:
        assert got is None
        return
    np.testing.assert_allclose(got.bearing, want.bearing, atol=1e-9)
    assert got.solid_angle_sr == pytest.approx(want.solid_angle_sr)
    assert got.angular_width == pytest.approx(want.angular_width)
    assert got.angular_height == pytest.approx(want.angular_height)
    x, y, w, h = want.box
    assert got.box == (x, y - top, w, h)
    assert got.crosses_seam == want.crosses_seam


@quick
@given(seed=st.integers(0, 1000), share=st.floats(0.001, 0.9))
def test_sums_are_those_over_pixels(seed, share):
    mask = np.random.default_rng(seed).random((17, 23)) < share
    got = measure(mask, pano=True)
    if not mask.any():
        assert got is None
        return
    rays = erp.rays((17, 23), dtype=torch.float64)
    solid = erp.row_solid_angle(17, 23, dtype=torch.float64)[:, None].numpy() * mask
    assert got.area_px == mask.sum()
    assert got.solid_angle_sr == pytest.approx(solid.sum())
    mean = (erp.ray_to_bearing(rays).numpy() * solid[..., None]).sum((0, 1))
    if np.linalg.norm(mean) > 0.01 * solid.sum():
        np.testing.assert_allclose(got.bearing, mean / np.linalg.norm(mean), atol=1e-5)
        assert got.lon == pytest.approx(math.atan2(mean[1], mean[0]), abs=1e-4)
        assert got.lat == pytest.approx(math.asin(got.bearing[2]))
    x, y, w, h = got.box
    assert 0 <= x < 23
    inside = np.zeros_like(mask)
    inside[y : y + h, np.arange(x, x + w) % 23] = True
    assert not (mask & ~inside).any()
    for column in (x, x + w - 1):
        assert mask[:, column % 23].any()


@quick
@given(lon=lons, lat=lats, radius=st.floats(0.08, 1.3))
def test_disc_anywhere(lon, lat, radius):
    mask = disc(lon, lat, radius)
    got = measure(mask, pano=True)
    # Border pixels fall either way: one pixel's width of the circumference at most.
    border = 2 * math.pi * math.sin(radius) * PIXEL
    assert got.solid_angle_sr == pytest.approx(2 * math.pi * (1 - math.cos(radius)), abs=border)
    assert got.bearing @ bearing_at(lon, lat) > math.cos(PIXEL)
    assert np.linalg.norm(got.bearing) == pytest.approx(1)
    assert got.angular_width == pytest.approx(2 * radius, abs=3 * PIXEL)
    assert got.angular_height == pytest.approx(2 * radius, abs=3 * PIXEL)
    want = fit_bfov(torch.from_numpy(mask), min_pixels=1)
    assert got.angular_width == pytest.approx(want.fov_h, abs=3 * PIXEL)
    assert got.angular_height == pytest.approx(want.fov_v, abs=3 * PIXEL)


def test_solid_angle_by_monte_carlo():
    mask = disc(2.9, 0.9, 0.7) & ~disc(-2.9, 0.7, 0.3)
    rays = np.random.default_rng(0).normal(size=(200_000, 3))
    uv = erp.ray_to_pixel(torch.from_numpy(rays), SIZE).numpy().astype(int)
    hits = mask[np.minimum(uv[:, 1], SIZE[0] - 1), uv[:, 0]].mean()
    assert measure(mask, pano=True).solid_angle_sr == pytest.approx(4 * math.pi * hits, abs=0.04)


@quick
@given(shift=st.integers(-192, 192), lat=lats)
def test_yaw_changes_place_only(shift, lat):
    mask = disc(0.2, lat, 0.5) & ~disc(0.4, lat, 0.2)
    a, b = measure(mask, True), measure(np.roll(mask, shift, 1), True)
    assert (a.area_px, a.box[1:]) == (b.area_px, b.box[1:])
    assert b.solid_angle_sr == pytest.approx(a.solid_angle_sr, rel=1e-6)
    if a.box[2] < SIZE[1]:
        assert b.box[0] == (a.box[0] + shift) % SIZE[1]
    turn = -shift * 2 * math.pi / SIZE[1]
    c, s = math.cos(turn), math.sin(turn)
    np.testing.assert_allclose(
        b.bearing, np.array(((c, -s, 0), (s, c, 0), (0, 0, 1))) @ a.bearing, atol=1e-5
    )
    assert b.angular_width == pytest.approx(a.angular_width, abs=PIXEL / 4)
    assert b.angular_height == pytest.approx(a.angular_height, abs=PIXEL / 4)


@pytest.mark.parametrize(
    ("lon", "lat", "azimuth"), [(40, 0, -40), (-100, 20, 100), (179, -30, -179)]
)
def test_azimuth_is_left_positive(lon, lat, azimuth):
    got = measure(disc(math.radians(lon), math.radians(lat), 0.2), pano=True)
    assert math.degrees(got.lon) == pytest.approx(azimuth, abs=0.5)
    assert math.degrees(got.lat) == pytest.approx(lat, abs=0.5)


def test_pole():
    got = measure(disc(0.0, math.pi / 2, 0.4), pano=True)
    np.testing.assert_allclose(got.bearing, (0, 0, 1), atol=1e-6)
    assert got.box[:3] == (0, 0, SIZE[1])
    assert got.crosses_seam
    assert got.angular_width == pytest.approx(0.8, abs=2 * PIXEL)


def test_masks_from_all_sides_have_no_bearing():
    ring = np.zeros(SIZE, dtype=bool)
    ring[44:52] = True
    got = measure(ring, pano=True)
    assert got.bearing.tolist() == [0, 0, 0]
    assert (got.lon, got.lat) == (0, 0)
    assert got.angular_width == pytest.approx(2 * math.pi)
    assert got.angular_height == pytest.approx(8 * PIXEL)
    whole = measure(np.ones(SIZE, dtype=bool), pano=True)
    assert whole.solid_angle_sr == pytest.approx(4 * math.pi)
    assert whole.bearing.tolist() == [0, 0, 0]
    assert whole.angular_height == pytest.approx(math.pi)


@pytest.mark.parametrize("pano", [True, False])
def test_single_pixels_and_nothing(pano):
    mask = np.zeros(SIZE, dtype=bool)
    assert measure(mask, pano) is None
    mask[30, 0] = True
    got = measure(mask, pano)
    assert (got.area_px, got.box) == (1, (0, 30, 1, 1))
    if pano:
        assert got.angular_height == pytest.approx(PIXEL)
        want = PIXEL * math.cos(got.lat)
        assert got.angular_width == pytest.approx(want, rel=0.01)


def test_planar_image_has_a_plain_box_and_no_angles():
    mask = from_columns(0, 1, 10)
    got = measure(mask, pano=False)
    assert got.box == (0, 2, 11, 2)
    assert got.area_px == 6
    assert got.crosses_seam is False
    assert got.bearing.tolist() == [0, 0, 0]
    numbers = (got.solid_angle_sr, got.lon, got.lat, got.angular_width, got.angular_height)
    assert numbers == (0, 0, 0, 0, 0)


def test_large_masks_are_thinned_without_harm():
    small, large = (measure(disc(1.0, -0.5, 0.9, size), pano=True) for size in (SIZE, (768, 1536)))
    assert large.angular_width == pytest.approx(1.8, abs=0.01)
    assert large.angular_height == pytest.approx(1.8, abs=0.01)
    assert small.angular_width == pytest.approx(large.angular_width, abs=2 * PIXEL)
    # Strided views, as of a label image, work too.
    view = disc(1.0, -0.5, 0.9, (192, 384))[::2, ::2]
    assert measure(view, True).solid_angle_sr == pytest.approx(large.solid_angle_sr, rel=0.02)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="bool mask"):
        measure(np.zeros(SIZE, dtype=np.uint8), True)
    with pytest.raises(ValueError, match="bool mask"):
        measure(np.zeros((1, *SIZE), dtype=bool), True)
