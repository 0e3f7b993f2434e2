"""Bounding fields of view: closed forms, brute force and the known corner cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import (
    BFoV,
    crop,
    crop_grid,
    enlarge,
    fit_bfov,
    latitude_range,
    longitude_half_range,
    uncrop,
    uncrop_grid,
)

quick = settings(max_examples=30, deadline=None, derandomize=True)
SIZE = (128, 256)
PIXEL = math.pi / SIZE[0]
WHOLE = BFoV(0.0, 0.0, 2 * math.pi, math.pi)

lons = st.floats(-math.pi, math.pi)
lats = st.floats(-0.5 * math.pi, 0.5 * math.pi)
regions = st.builds(BFoV, lons, lats, st.floats(0.2, 2 * math.pi), st.floats(0.2, math.pi))


def centre_ray(lon: float, lat: float) -> torch.Tensor:
    return erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))


def cosine_to(lon: float, lat: float, size_hw: tuple[int, int] = SIZE) -> torch.Tensor:
    """Cosine of the angle between every pixel and a direction."""
    return erp.rays(size_hw, dtype=torch.float64) @ centre_ray(lon, lat)


def disc(lon: float, lat: float, radius: float, size_hw: tuple[int, int] = SIZE) -> torch.Tensor:
    return cosine_to(lon, lat, size_hw) > math.cos(radius)


def random_rays(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rays = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return rays / rays.norm(dim=1, keepdim=True)


def contains(region: BFoV, rays: torch.Tensor) -> torch.Tensor:
    """Membership straight from the definition."""
    local = rays @ erp.rotation(region.lon, region.lat, dtype=rays.dtype)
    lam, phi = erp.ray_to_lonlat(local)
    return (lam.abs() <= region.fov_h / 2) & (phi.abs() <= region.fov_v / 2)


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.atan2(torch.linalg.cross(a, b).norm(), float(a @ b))


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


# --- mask to BFoV ------------------------------------------------------------------------------


@quick
@given(lon=lons, lat=lats, radius=st.floats(0.1, 1.2))
def test_disc_anywhere(lon, lat, radius):
    got = fit_bfov(disc(lon, lat, radius))
    assert angle(centre_ray(got.lon, got.lat), centre_ray(lon, lat)) < 1.5 * PIXEL
    # An extended BFoV holds a disc exactly: 2 radius both ways.
    assert got.fov_h == pytest.approx(2 * radius, abs=3 * PIXEL)
    assert got.fov_v == pytest.approx(2 * radius, abs=3 * PIXEL)


@quick
@given(region=regions, seed=st.integers(0, 3))
def test_region_holds_its_mask(region, seed):
    mask = uncrop_grid(region, (8, 8), SIZE)[1]
    if seed:
        mask &= disc(region.lon, region.lat, 0.3 * seed)
    got = fit_bfov(mask)
    if got is None:
        assert mask.sum() < 8
        return
    assert abs(got.lon) <= math.pi
    inside = uncrop_grid(enlarge(got, 1.1), (8, 8), SIZE)[1]
    assert (mask & ~inside).sum() <= 0.02 * mask.sum()


@quick
@given(shift=st.integers(-256, 256), lat=lats)
def test_yaw_moves_the_centre_only(shift, lat):
    mask = disc(0.3, lat, 0.4) & ~disc(0.5, lat, 0.2)
    a, b = fit_bfov(mask), fit_bfov(erp.roll_yaw(mask, shift))
    turned = centre_ray(a.lon + shift * 2 * math.pi / SIZE[1], a.lat)
    assert angle(turned, centre_ray(b.lon, b.lat)) < 1e-3
    assert a.fov_h == pytest.approx(b.fov_h, abs=2e-3)
    assert a.fov_v == pytest.approx(b.fov_v, abs=2e-3)


def test_extents_reach_the_edges_of_the_pixels():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[62:66, 100:140] = True
    got = fit_bfov(mask)
    assert got.lon == pytest.approx((120 / 256 - 0.5) * 2 * math.pi, abs=1e-4)
    assert got.fov_h == pytest.approx(40 * PIXEL, abs=0.05 * PIXEL)
    assert got.fov_v == pytest.approx(4 * PIXEL, abs=0.05 * PIXEL)


@pytest.mark.parametrize("lat", [0.0, 0.9, -1.2])
def test_centre_is_the_middle_of_the_extents(lat):
    # Heavy on one side, so that the mean direction is far from the middle.
    mask = disc(0.0, lat, 0.5) | (uncrop_grid(BFoV(0.8, lat, 1.6, 0.05), (8, 8), SIZE)[1])
    got = fit_bfov(mask)
    local = erp.rays(SIZE)[mask] @ erp.rotation(got.lon, got.lat)
    lam, phi = erp.ray_to_lonlat(local)
    assert (lam.max() + lam.min()).item() == pytest.approx(0, abs=0.1)
    assert (phi.max() + phi.min()).item() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_tiny_masks_have_none(count):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[40, :count] = True
    assert fit_bfov(mask) is None
    mask[41, :8] = True
    assert fit_bfov(mask) is not None
    assert fit_bfov(mask & False, min_pixels=0) is None


def test_pole_inside():
    for lat in (math.pi / 2, -math.pi / 2, 1.4):
        got = fit_bfov(disc(0.7, lat, 0.5))
        assert angle(centre_ray(got.lon, got.lat), centre_ray(0.7, lat)) < PIXEL
        assert got.fov_h == pytest.approx(1.0, abs=2 * PIXEL)


def test_seam_inside():
    mask = disc(math.pi, 0.2, 0.4)
    assert mask[:, 0].any()
    assert mask[:, -1].any()
    got = fit_bfov(mask)
    assert abs(abs(got.lon) - math.pi) < PIXEL
    assert got.fov_h == pytest.approx(0.8, abs=2 * PIXEL)


def test_ring_goes_all_round():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[60:72] = True
    got = fit_bfov(mask)
    assert got.wraps
    assert got.lat == 0.0
    assert got.fov_v == pytest.approx(16 * PIXEL, abs=2 * PIXEL)
    assert not (mask & ~uncrop_grid(got, (8, 8), SIZE)[1]).any()


def test_antipodal_parts_and_whole_sphere():
    both = disc(0.3, 0.4, 0.2) | disc(0.3 - math.pi, -0.4, 0.2)
    got = fit_bfov(both)
    assert got.wraps
    assert not (both & ~uncrop_grid(got, (8, 8), SIZE)[1]).any()
    whole = fit_bfov(torch.ones(SIZE, dtype=torch.bool))
    assert whole.wraps
    assert whole.fov_v == pytest.approx(math.pi)


def test_more_than_half_a_turn_wide():
    want = BFoV(2.0, 0.3, math.radians(250), math.radians(40))
    got = fit_bfov(uncrop_grid(want, (8, 8), SIZE)[1])
    # No warping: the mean direction still is that of the region.
    assert angle(centre_ray(got.lon, got.lat), centre_ray(2.0, 0.3)) < 2 * PIXEL
    assert got.fov_h == pytest.approx(want.fov_h, abs=3 * PIXEL)
    assert got.fov_v == pytest.approx(want.fov_v, abs=3 * PIXEL)


@pytest.mark.parametrize("size", [(64, 128), (256, 512), (127, 255)])
def test_resolution_does_not_matter(size):
    got = fit_bfov(disc(1.0, -0.8, 0.35, size))
    want = fit_bfov(disc(1.0, -0.8, 0.35))
    pixel = math.pi / min(size[0], SIZE[0])
    assert angle(centre_ray(got.lon, got.lat), centre_ray(want.lon, want.lat)) < pixel
    assert got.fov_h == pytest.approx(want.fov_h, abs=2 * pixel)


def test_thinning_keeps_the_extents():
    mask = disc(-2.0, 0.6, 0.8)
    full, thin = fit_bfov(mask), fit_bfov(mask, max_samples=100)
    assert angle(centre_ray(full.lon, full.lat), centre_ray(thin.lon, thin.lat)) < 2 * PIXEL
    assert thin.fov_h == pytest.approx(full.fov_h, abs=2 * PIXEL)
    assert thin.fov_v == pytest.approx(full.fov_v, abs=2 * PIXEL)


@pytest.mark.parametrize("max_samples", [600, 20_000])
def test_trim_ignores_a_false_pixel(max_samples):
    mask = disc(0.0, 0.0, 0.4)
    stray = mask.clone()
    stray[20, 40] = True
    want = fit_bfov(mask)
    assert fit_bfov(stray, max_samples=20_000).fov_h > 1.5 * want.fov_h
    got = fit_bfov(stray, trim=0.005, max_samples=max_samples)
    assert got.fov_h == pytest.approx(want.fov_h, rel=0.1)
    assert got.fov_v == pytest.approx(want.fov_v, rel=0.1)


# --- regions -----------------------------------------------------------------------------------


@quick
@given(region=regions)
def test_ranges_are_those_of_the_region(region):
    rays = random_rays(20_000)
    rays = rays[contains(region, rays)]
    lon, lat = erp.ray_to_lonlat(rays)
    low, high = latitude_range(region)
    assert -math.pi / 2 <= low <= high <= math.pi / 2
    assert lat.min() >= low - 1e-9
    assert lat.max() <= high + 1e-9
    off = torch.remainder(lon - region.lon + math.pi, 2 * math.pi) - math.pi
    assert off.abs().max() <= longitude_half_range(region) + 1e-9


@quick
@given(region=regions)
def test_ranges_are_tight(region):
    # A dense border of the region, and its axis, reach the closed forms.
    t = torch.linspace(-1, 1, 801, dtype=torch.float64)
    lam, phi = t * region.fov_h / 2, t * region.fov_v / 2
    edge = torch.ones_like(t)
    points = [(lam, edge * phi[0]), (lam, edge * phi[-1]), (edge * lam[0], phi), (edge * 0, phi)]
    rays = torch.cat([erp.lonlat_to_ray(a, b) for a, b in points])
    lon, lat = erp.ray_to_lonlat(rays @ erp.rotation(region.lon, region.lat, dtype=t.dtype).T)
    low, high = latitude_range(region)
    assert lat.min().item() == pytest.approx(low, abs=0.01)
    assert lat.max().item() == pytest.approx(high, abs=0.01)
    half = longitude_half_range(region)
    if half < math.pi:
        off = torch.remainder(lon - region.lon + math.pi, 2 * math.pi) - math.pi
        assert off.abs().max().item() == pytest.approx(half, abs=1e-6)


@quick
@given(region=regions)
def test_area_of_the_region(region):
    inside = uncrop_grid(region, (8, 8), SIZE)[1]
    area = (inside.double().sum(1) @ erp.row_solid_angle(*SIZE, dtype=torch.float64)).item()
    want = 2 * region.fov_h * math.sin(region.fov_v / 2)
    border = 2 * (region.fov_h + region.fov_v)
    assert area == pytest.approx(want, abs=border * PIXEL + 0.01)
    share = contains(region, random_rays(20_000)).double().mean().item()
    assert 4 * math.pi * share == pytest.approx(want, abs=0.2)


def test_enlarge_clamps():
    small = BFoV(1.0, 0.5, 0.2, 0.1)
    assert enlarge(small) == BFoV(1.0, 0.5, 0.4, 0.2)
    assert enlarge(small, 2, 1.0, 0.5) == BFoV(1.0, 0.5, 1.0, 0.5)
    assert enlarge(small, 100) == BFoV(1.0, 0.5, 2 * math.pi, math.pi)
    with pytest.raises(ValueError, match="ratio above 0"):
        enlarge(small, 0)


# --- crops -------------------------------------------------------------------------------------


def test_whole_sphere_is_the_identity():
    image = torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(crop(image, WHOLE, SIZE), image, atol=2e-4, rtol=0)
    torch.testing.assert_close(uncrop(image, WHOLE, SIZE, -1.0), image, atol=2e-4, rtol=0)


@quick
@given(region=regions)
def test_grids_are_inverse(region):
    size = (10, 12)
    uv = crop_grid(region, size, SIZE, dtype=torch.float64)
    rays = erp.pixel_to_ray(uv, SIZE)
    assert contains(region, rays.reshape(-1, 3)).all()
    local = rays @ erp.rotation(region.lon, region.lat, dtype=rays.dtype)
    lam, phi = erp.ray_to_lonlat(local)
    i, j = torch.arange(12) + 0.5, torch.arange(10) + 0.5
    want_phi = (0.5 - j / 10) * region.fov_v
    torch.testing.assert_close(phi, want_phi[:, None].expand(size).to(phi), atol=1e-6, rtol=0)
    want_lam = ((i / 12 - 0.5) * region.fov_h).expand(size).to(lam)
    torch.testing.assert_close(lam.cos(), want_lam.cos(), atol=1e-5, rtol=0)
    grid, inside = uncrop_grid(region, size, SIZE)
    rays = erp.rays(SIZE)[inside]
    back = crop_grid_rays(region, grid[inside], size)
    torch.testing.assert_close(back, rays, atol=1e-4, rtol=0)


def crop_grid_rays(region: BFoV, uv: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """World rays of crop coordinates, from the definition of the crop."""
    lam = (uv[:, 0] / size_hw[1] - 0.5) * region.fov_h
    phi = (0.5 - uv[:, 1] / size_hw[0]) * region.fov_v
    return erp.lonlat_to_ray(lam, phi) @ erp.rotation(region.lon, region.lat).T


@quick
@given(region=regions)
def test_crop_shows_what_is_there(region):
    # A smooth function of the ray is its own ground truth at any direction.
    field = torch.tensor((0.5, -0.8, 0.3))
    image = (erp.rays(SIZE) @ field)[None, None]
    uv = crop_grid(region, (20, 24), SIZE)
    want = erp.pixel_to_ray(uv, SIZE) @ field
    got = crop(image, region, (20, 24), antialias=False)[0, 0]
    torch.testing.assert_close(got, want, atol=2e-3, rtol=0)
    # Shrinking first averages over more than a degree: close, and right at the poles too.
    rough = crop(image, region, (20, 24))[0, 0]
    torch.testing.assert_close(rough, want, atol=3e-2, rtol=0)


@quick
@given(region=regions)
def test_uncrop_visits_every_pixel_of_the_region(region):
    grid, inside = uncrop_grid(region, (6, 7), SIZE)
    got = uncrop(torch.ones(1, 1, 6, 7), region, SIZE, -3.0)[0, 0]
    # Both compute in single precision: a pixel on the very edge may fall either way.
    assert ((got > 0) != inside).sum() <= 2
    assert set(got.round(decimals=4).unique().tolist()) <= {1.0, -3.0}
    ramp = torch.arange(7.0).expand(1, 1, 6, 7) + 0.5
    got = uncrop(ramp, region, SIZE, -3.0)[0, 0]
    clear = inside & (grid[..., 0] > 0.6) & (grid[..., 0] < 6.4) & (got != -3)
    torch.testing.assert_close(got[clear], grid[..., 0][clear], atol=1e-3, rtol=0)


@pytest.mark.parametrize("radius", [3, 15])
@pytest.mark.parametrize("lat", [0, 45, 80, 90])
@pytest.mark.parametrize("lon", [0, 180])
def test_crop_and_back_keeps_the_mask(lon, lat, radius):
    size, radius = (256, 512), math.radians(radius)
    cosine = cosine_to(math.radians(lon), math.radians(lat), size)
    mask = cosine > math.cos(radius)
    region = enlarge(fit_bfov(mask), 2, math.radians(120), math.radians(60))
    logits = ((cosine - math.cos(radius)) * 100).float()[None, None]
    back = uncrop(crop(logits, region, size), region, size, -10.0)[0, 0] > 0
    # Only the contour itself may fall either way: a twentieth of a pixel.
    clear = (torch.acos(cosine.clamp(-1, 1)) - radius).abs() > 0.05 * math.pi / size[0]
    assert torch.equal(back & clear, mask & clear)
    assert iou(back, mask) > 0.97


@quick
@given(regions, st.integers(0, 11), st.integers(0, 23), st.integers(1, 5), st.integers(1, 9))
def test_uncrop_of_what_is_above_a_value_is_all_of_it(region, row, column, rows, columns):
    patch = torch.zeros(1, 1, 12, 24)
    patch[..., row : row + rows, column : column + columns] = 1.0
    size = (8 * SIZE[0], 8 * SIZE[1])
    whole = uncrop(patch, region, size, -10.0)
    for above in (0.01, 0.9, 2.0):
        part = uncrop(patch, region, size, -10.0, above=above)
        # Other lengths are vectorised otherwise: positions are rounded differently.
        torch.testing.assert_close(
            part.clamp(min=above), whole.clamp(min=above), atol=2e-3, rtol=0
        )


@pytest.mark.parametrize("finer", [1, 3])
@pytest.mark.parametrize("lon", [0.3, 3.1, -3.1])
@pytest.mark.parametrize("lat", [0.0, 0.7, -0.7, 1.2])
def test_a_crop_of_a_window_is_one_of_the_panorama(lon, lat, finer):
    image = torch.randint(0, 255, (1, 3, finer * SIZE[0], finer * SIZE[1]), dtype=torch.uint8)
    region = BFoV(lon, lat, 1.2, 0.6)
    pixels = round(0.6 / math.pi * SIZE[0])
    # Cells of fine pixels are counted from the column in the middle of the region.
    column = round(lon / (2 * math.pi) * image.shape[-1])
    small = torch.nn.functional.avg_pool2d(image.double().roll(-column, dims=-1), finer)
    ahead = replace(region, lon=lon - column * 2 * math.pi / image.shape[-1])
    want = erp.sample_erp(small, crop_grid(ahead, (pixels, 2 * pixels), SIZE, dtype=torch.float64))
    got = crop(image, region, (pixels, 2 * pixels))
    torch.testing.assert_close(got.double(), want, atol=0.02, rtol=0)


def test_crop_of_a_full_turn_has_no_seam():
    logits = cosine_to(1.0, 0.2).float()[None, None]
    region = BFoV(-2.0, 0.3, 2 * math.pi, math.pi)
    back = uncrop(crop(logits, region, SIZE), region, SIZE, -10.0)
    torch.testing.assert_close(back, logits, atol=5e-3, rtol=0)


def test_uncrop_of_a_full_turn_blends_over_the_back():
    patch = torch.rand(1, 1, 6, 16)
    ahead, behind = (BFoV(lon, 0.0, 2 * math.pi, 1.0) for lon in (0.0, math.pi))
    want = uncrop(patch, ahead, SIZE, 0.0)
    got = uncrop(erp.roll_yaw(patch, 8), behind, SIZE, 0.0)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(128, 256), (126, 250)])
def test_antialias_averages_fine_stripes(size):
    stripes = (torch.arange(size[1]) % 2).float().expand(1, 1, *size)
    got = crop(stripes, WHOLE, (size[0] // 2, size[1] // 2))
    torch.testing.assert_close(got, torch.full_like(got, 0.5), atol=1e-4, rtol=0)
    sharp = crop(stripes, WHOLE, (16, 32), antialias=False)
    assert sharp.shape == (1, 1, 16, 32)
    odd = crop(torch.rand(1, 1, 127, 251), WHOLE, (40, 80))
    assert odd.shape == (1, 1, 40, 80)


def test_types_are_kept():
    region = BFoV(0.0, 0.0, 1.0, 1.0)
    mask = disc(0.0, 0.0, 0.3)[None, None]
    assert crop(mask, region, (8, 8)).dtype == torch.float32
    assert crop(mask, region, (2, 2)).dtype == torch.float32
    assert uncrop(crop(mask, region, (8, 8)).half(), region, SIZE, 0).dtype == torch.float16
    labels = torch.randint(0, 9, (1, 1, *SIZE), dtype=torch.uint8)
    near = crop(labels, region, (8, 8), mode="nearest")
    assert near.dtype == torch.float32
    assert torch.equal(near, near.round())
    back = uncrop(near, region, SIZE, 255.0, mode="nearest")
    assert set(back.unique().tolist()) <= {*near.unique().tolist(), 255.0}


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (0, 0, 7, 1),
        (0, 0, 1, 4),
        (0, 2, 1, 1),
        (math.nan, 0, 1, 1),
        (0, 0, math.inf, 1),
    ],
)
def test_bfov_checks_its_ranges(numbers):
    with pytest.raises(ValueError, match="radians"):
        BFoV(*numbers)


def test_errors_say_what_was_expected():
    mask = torch.ones(SIZE, dtype=torch.bool)
    with pytest.raises(ValueError, match="bool mask"):
        fit_bfov(mask.float())
    with pytest.raises(ValueError, match="bool mask"):
        fit_bfov(mask[None])
    with pytest.raises(ValueError, match="trim"):
        fit_bfov(mask, trim=0.5)
    with pytest.raises(ValueError, match="patch of shape"):
        uncrop(torch.rand(4, 4), WHOLE, SIZE, 0)
    with pytest.raises(ValueError, match="bicubic"):
        uncrop(torch.rand(1, 1, 4, 4), WHOLE, SIZE, 0, mode="bicubic")
    with pytest.raises(ValueError, match="at least 1x1"):
        crop(torch.rand(1, 1, 4, 8), WHOLE, (0, 4))
    with pytest.raises(ValueError, match="image of shape"):
        crop(torch.rand(8), WHOLE, (4, 8))
    with pytest.raises(ValueError, match="image of shape"):
        crop(torch.rand(4, 4), WHOLE, SIZE)
