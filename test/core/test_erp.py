"""Conventions of the panorama, checked against closed forms and py360convert."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.geometry import erp

quick = settings(max_examples=30, deadline=None, derandomize=True)

lons = st.floats(-math.pi, math.pi)
lats = st.floats(-1.5, 1.5)
sizes = st.tuples(st.integers(1, 40), st.integers(2, 80))


def ray_at(lon_deg: float, lat_deg: float) -> torch.Tensor:
    lon, lat = torch.tensor((math.radians(lon_deg), math.radians(lat_deg)), dtype=torch.float64)
    return erp.lonlat_to_ray(lon, lat)


def smooth_panorama(size_hw: tuple[int, int]) -> torch.Tensor:
    """A band-limited picture, continuous over the seam and the poles."""
    x, y, z = erp.rays(size_hw, dtype=torch.float64).unbind(-1)
    return torch.stack((x + y * z, torch.sin(2 * z) + y, x * z - y))[None]


# --- conventions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lon", "lat", "ray", "bearing"),
    [
        (0, 0, (0, 0, 1), (1, 0, 0)),
        (90, 0, (1, 0, 0), (0, -1, 0)),
        (-90, 0, (-1, 0, 0), (0, 1, 0)),
        (180, 0, (0, 0, -1), (-1, 0, 0)),
        (0, 90, (0, -1, 0), (0, 0, 1)),
        (0, -90, (0, 1, 0), (0, 0, -1)),
    ],
)
def test_axes(lon, lat, ray, bearing):
    d = ray_at(lon, lat)
    torch.testing.assert_close(d, torch.tensor(ray, dtype=d.dtype), atol=1e-12, rtol=0)
    b = erp.ray_to_bearing(d)
    torch.testing.assert_close(b, torch.tensor(bearing, dtype=d.dtype), atol=1e-12, rtol=0)


def test_picture_centre_and_corners():
    lon, lat = erp.lonlat_grid((4, 8), dtype=torch.float64)
    assert lon[0].item() == pytest.approx(-math.pi + math.pi / 8)
    assert lon[-1].item() == pytest.approx(math.pi - math.pi / 8)
    assert lat[0].item() == pytest.approx(math.pi / 2 - math.pi / 8)
    uv = erp.ray_to_pixel(ray_at(0, 0), (4, 8))
    torch.testing.assert_close(uv, torch.tensor((4.0, 2.0), dtype=uv.dtype))


@quick
@given(size=sizes)
def test_rays_are_unit_and_at_pixel_centres(size):
    rays = erp.rays(size, dtype=torch.float64)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(size, dtype=rays.dtype))
    uv = erp.ray_to_pixel(rays, size)
    torch.testing.assert_close(
        uv[..., 0], (torch.arange(size[1]) + 0.5).to(uv).expand(size), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(
        uv[..., 1], (torch.arange(size[0]) + 0.5).to(uv)[:, None].expand(size), atol=1e-9, rtol=0
    )


@quick
@given(lon=lons, lat=lats, length=st.floats(0.1, 10), size=sizes)
def test_round_trips(lon, lat, length, size):
    ray = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    got = erp.ray_to_lonlat(ray * length)
    assert math.cos(got[0].item() - lon) == pytest.approx(1.0)
    assert got[1].item() == pytest.approx(lat, abs=1e-9)
    uv = erp.ray_to_pixel(ray * length, size)
    assert 0 <= uv[0] < size[1]
    assert 0 <= uv[1] <= size[0]
    torch.testing.assert_close(erp.pixel_to_ray(uv, size), ray, atol=1e-9, rtol=0)
    shifted = uv + uv.new_tensor((size[1], 0))
    torch.testing.assert_close(erp.pixel_to_ray(shifted, size), ray, atol=1e-9, rtol=0)
    torch.testing.assert_close(erp.bearing_to_ray(erp.ray_to_bearing(ray)), ray)


@quick
@given(lon=lons, size=sizes)
def test_pixel_column_stays_inside_in_single_precision(lon, size):
    for value in (lon, math.pi, -math.pi, math.nextafter(math.pi, 4)):
        ray = erp.lonlat_to_ray(torch.tensor(value), torch.tensor(0.2))
        u = erp.ray_to_pixel(ray, size)[0].item()
        assert 0 <= u < size[1]


def test_azimuth_of_bearing_is_left_positive():
    b = erp.ray_to_bearing(ray_at(30, 20))
    assert math.atan2(b[1], b[0]) == pytest.approx(-math.radians(30))
    assert math.asin(b[2]) == pytest.approx(math.radians(20))


# --- rotations ---------------------------------------------------------------------------------


@quick
@given(lon=lons, lat=lats, rho=st.floats(-math.pi, math.pi))
def test_rotation(lon, lat, rho):
    r = erp.rotation(lon, lat, rho, dtype=torch.float64)
    torch.testing.assert_close(r @ r.T, torch.eye(3, dtype=r.dtype), atol=1e-12, rtol=0)
    assert torch.linalg.det(r).item() == pytest.approx(1)
    target = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    torch.testing.assert_close(r @ r.new_tensor((0, 0, 1)), target, atol=1e-6, rtol=0)
    parts = (
        erp.rotation(lon, 0, dtype=r.dtype)
        @ erp.rotation(0, lat, dtype=r.dtype)
        @ erp.rotation(0, 0, rho, dtype=r.dtype)
    )
    torch.testing.assert_close(r, parts, atol=1e-12, rtol=0)


def test_positive_roll_turns_right_towards_down():
    x, y, _ = (erp.rotation(0, 0, math.radians(10)) @ torch.tensor((1.0, 0, 0))).tolist()
    assert x > 0
    assert y > 0


# --- padding, sampling, resizing ---------------------------------------------------------------


def test_wrap_pad_equals_circular_pad():
    x = torch.rand(2, 3, 4, 7)
    torch.testing.assert_close(erp.wrap_pad(x, 2, 3), F.pad(x, (2, 3, 0, 0), mode="circular"))
    torch.testing.assert_close(erp.wrap_pad(x, 1), F.pad(x, (1, 1, 0, 0), mode="circular"))
    torch.testing.assert_close(erp.wrap_pad(x, 0, 2), torch.cat((x, x[..., :2]), -1))
    torch.testing.assert_close(erp.wrap_pad(x, 7), torch.cat((x, x, x), -1))
    assert erp.wrap_pad(x, 0) is x
    torch.testing.assert_close(
        erp.wrap_pad(x, 9, 15), torch.cat((x[..., 5:], *[x] * 4, x[..., :1]), -1)
    )
    for left, right in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="0 or more"):
            erp.wrap_pad(x, left, right)


@pytest.mark.parametrize("size", [(8, 16), (9, 15), (1, 2)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_sampling_at_centres_is_identity(size, mode):
    image = torch.rand(2, 3, *size)
    uv = erp.ray_to_pixel(erp.rays(size), size)
    torch.testing.assert_close(erp.sample_erp(image, uv, mode), image, atol=1e-4, rtol=0)


@quick
@given(shift=st.integers(-40, 40), seed=st.integers(0, 100))
def test_sampling_does_not_see_the_seam(shift, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 2, 10, 20, generator=generator, dtype=torch.float64)
    uv = torch.rand(5, 6, 2, generator=generator, dtype=torch.float64) * 30 - 5
    want = erp.sample_erp(image, uv)
    got = erp.sample_erp(erp.roll_yaw(image, shift), uv + uv.new_tensor((shift, 0)))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("width", [16, 15])
def test_sampling_crosses_the_pole(width):
    image = torch.rand(1, 1, 8, width)
    for v, row in ((0.0, 0), (8.0, 7)):
        ends = image[0, 0, row]
        across = 0.5 * (torch.roll(ends, width // 2) + torch.roll(ends, -(width // 2)))
        uv = torch.stack((torch.arange(width) + 0.5, torch.full((width,), v)), -1)[None]
        got = erp.sample_erp(image, uv)[0, 0, 0]
        torch.testing.assert_close(got, 0.5 * (ends + across), atol=1e-5, rtol=0)


def test_sampling_types_and_batches():
    labels = torch.randint(0, 5, (2, 1, 8, 16), dtype=torch.uint8)
    uv = erp.ray_to_pixel(erp.rays((8, 16)), (8, 16))
    out = erp.sample_erp(labels, uv, "nearest")
    assert out.dtype == torch.float32
    assert torch.equal(out, labels.float())
    # Nearest never blends, not even exactly at a pole of an odd width.
    edge = torch.stack((torch.arange(15) + 0.5, torch.zeros(15)), -1)[None]
    odd = torch.randint(0, 5, (1, 1, 8, 15)).float()
    assert torch.equal(erp.sample_erp(odd, edge, "nearest")[0, 0, 0], odd[0, 0, 0])
    half = torch.rand(2, 1, 8, 16).half()
    assert erp.sample_erp(half, torch.stack((uv, uv.roll(1, 1)))).dtype == torch.float16
    image = torch.rand(1, 1, 8, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i: erp.sample_erp(i, uv.double() + 0.3), (image,))


@pytest.mark.parametrize(("lon", "lat", "rho"), [(0, 0, 0), (170, 35, 0), (-60, -70, 25)])
def test_perspective_view_agrees_with_py360convert(lon, lat, rho):
    py360convert = pytest.importorskip("py360convert")
    image = smooth_panorama((128, 256))
    fov, size = 70.0, (40, 50)
    tan = math.tan(math.radians(fov / 2))
    # py360convert puts the outermost samples on the edge of the view.
    x, y = np.linspace(-tan, tan, size[1]), np.linspace(-tan, tan, size[0])
    local = torch.from_numpy(np.stack([*np.meshgrid(x, y), np.ones(size)], -1))
    r = erp.rotation(*(math.radians(a) for a in (lon, lat, rho)), dtype=torch.float64)
    got = erp.sample_erp(image, erp.ray_to_pixel(local @ r.T, (128, 256)))[0]
    want = py360convert.e2p(
        image[0].permute(1, 2, 0).numpy(), (fov, fov), lon, lat, size, in_rot_deg=rho
    )
    np.testing.assert_allclose(got.permute(1, 2, 0).numpy(), want, atol=2e-3)


@pytest.mark.parametrize("size", [(20, 40), (5, 10), (13, 31), (10, 20), (30, 17)])
def test_planar_resize_is_interpolate(size):
    x = torch.rand(2, 3, 10, 20)
    want = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(erp.resize_wrap(x, size, pano=False), want)


@pytest.mark.parametrize("factor", [2, 4, 3, 0.5, 0.25])
@quick
@given(shift=st.integers(-24, 24))
def test_panoramic_resize_commutes_with_yaw(factor, shift):
    x = torch.rand(1, 2, 12, 24)
    shift = shift * 4 if factor < 1 else shift
    size = (int(12 * factor), int(24 * factor))
    first = erp.resize_wrap(erp.roll_yaw(x, shift), size, pano=True)
    after = erp.roll_yaw(erp.resize_wrap(x, size, pano=True), round(shift * factor))
    assert first.shape[-2:] == size
    # Two and four are exact in binary.
    torch.testing.assert_close(first, after, atol=0 if factor != 3 else 1e-5, rtol=0)


@pytest.mark.parametrize("width", [40, 33, 23, 17, 20])
def test_panoramic_resize_differs_at_the_edges_only(width):
    x = torch.rand(1, 1, 10, 20)
    wrapped, plain = (erp.resize_wrap(x, (10, width), pano=p) for p in (True, False))
    torch.testing.assert_close(wrapped[..., 2:-2], plain[..., 2:-2], atol=1e-4, rtol=0)
    triple = erp.resize_wrap(torch.cat((x, x, x), -1), (10, 3 * width), pano=False)
    torch.testing.assert_close(wrapped, triple[..., width : 2 * width], atol=1e-4, rtol=0)


# --- solid angle -------------------------------------------------------------------------------


@quick
@given(size=sizes)
def test_sphere_has_four_pi(size):
    total = size[1] * erp.row_solid_angle(*size, dtype=torch.float64).sum().item()
    assert total == pytest.approx(4 * math.pi)


def test_solid_angle_of_a_band():
    rows = erp.row_solid_angle(90, 180, dtype=torch.float64)
    # Rows 0..14 reach from the pole down to 60 degrees.
    cap = 2 * math.pi * (1 - math.cos(math.radians(30)))
    assert 180 * rows[:15].sum().item() == pytest.approx(cap)


# --- errors ------------------------------------------------------------------------------------


def test_errors_say_what_was_expected():
    image, uv = torch.rand(1, 1, 4, 8), torch.rand(2, 2, 2)
    with pytest.raises(ValueError, match="positive integers"):
        erp.lonlat_grid((0, 8))
    with pytest.raises(ValueError, match="ray of shape"):
        erp.ray_to_lonlat(torch.rand(4, 2))
    with pytest.raises(ValueError, match="uv of shape"):
        erp.pixel_to_ray(torch.rand(4, 3), (4, 8))
    with pytest.raises(ValueError, match="image of shape"):
        erp.sample_erp(image[0], uv)
    with pytest.raises(ValueError, match="uv of shape"):
        erp.sample_erp(image, uv[0])
    with pytest.raises(ValueError, match="uv of shape"):
        erp.sample_erp(image, uv.expand(3, 2, 2, 2))
    with pytest.raises(ValueError, match="bicubic"):
        erp.sample_erp(image, uv, "bicubic")
    with pytest.raises(ValueError, match="x of shape"):
        erp.resize_wrap(image[0], (2, 4), pano=True)
