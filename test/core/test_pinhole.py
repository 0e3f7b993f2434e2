"""The pinhole view is what an ordinary camera would see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.geometry.erp import lonlat_grid, lonlat_to_ray, pixel_to_ray
from panosam2_core.geometry.pinhole import Pinhole, look_through, pinhole_grid

ERP = (128, 256)
ANGLES = st.floats(-math.pi, math.pi)
LATITUDES = st.floats(-math.pi / 2, math.pi / 2)
FOVS = st.floats(0.1, 2.5)


@settings(deadline=None)
@given(lon=ANGLES, lat=LATITUDES, hfov=FOVS)
def test_pixels_and_rays_obey_the_camera_matrix(lon: float, lat: float, hfov: float) -> None:
    """Independent of the code under test: project each pixel's ray with K [R | 0]."""
    camera = Pinhole(lon, lat, hfov, (24, 40))
    rays = pixel_to_ray(pinhole_grid(camera, ERP).double(), ERP).reshape(-1, 3).numpy()
    local = rays @ camera.rotation(torch.float64).numpy()  # R^T ray, for rows
    assert local[:, 2].min() > 0, "everything seen is in front"
    x = camera.focal_px * local[:, 0] / local[:, 2] + 20.0
    y = camera.focal_px * local[:, 1] / local[:, 2] + 12.0
    columns, rows = np.meshgrid(np.arange(40) + 0.5, np.arange(24) + 0.5)
    assert np.abs(x - columns.ravel()).max() < 2e-2
    assert np.abs(y - rows.ravel()).max() < 2e-2


@settings(deadline=None)
@given(lon=ANGLES, lat=LATITUDES, hfov=FOVS)
def test_the_middle_looks_where_it_should_and_the_width_is_the_field_of_view(
    lon: float, lat: float, hfov: float
) -> None:
    camera = Pinhole(lon, lat, hfov, (9, 4001))
    rays = pixel_to_ray(pinhole_grid(camera, (2000, 4000)).double(), (2000, 4000))
    ahead = lonlat_to_ray(torch.tensor(lon).double(), torch.tensor(lat).double())
    assert float(rays[4, 2000] @ ahead) > 1 - 1e-6
    across = math.acos(float((rays[4, 0] * rays[4, -1]).sum().clamp(-1, 1)))
    assert across == pytest.approx(hfov, abs=0.01)


def test_a_straight_line_in_the_world_is_straight_in_the_picture() -> None:
    """The edge of a great circle: a panorama bends it, a camera does not."""
    lon, lat = lonlat_grid(ERP)
    rays = lonlat_to_ray(lon[None, :], lat[:, None])
    normal = torch.tensor([0.5, 0.7, -0.4])
    image = ((rays @ normal) > 0).float()[None, None]
    seen = look_through(image, Pinhole(3.0, 0.4, 1.4, (60, 80)))[0, 0] > 0.5
    rows, columns = np.nonzero(np.diff(seen.numpy().astype(int), axis=0))
    assert len(rows) > 20
    fit = np.polyfit(columns, rows, 1)
    assert np.abs(np.polyval(fit, columns) - rows).max() < 1.5


def test_across_the_seam_nothing_breaks() -> None:
    lon, _ = lonlat_grid(ERP)
    image = torch.cos(lon)[None, None, None, :].expand(1, 1, *ERP)
    seen = look_through(image, Pinhole(math.pi, 0.0, 1.0, (20, 40)))[0, 0]
    assert float(seen.diff(dim=1).abs().max()) < 0.03
    assert torch.allclose(seen, seen.flip(1), atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hfov": math.pi},
        {"hfov": 0.0},
        {"lat": 2.0},
        {"lon": math.nan},
        {"size_hw": (0, 4)},
    ],
)
def test_impossible_cameras_are_refused(wrong: dict) -> None:
    good = {"lon": 0.0, "lat": 0.0, "hfov": 1.0, "size_hw": (4, 4)}
    with pytest.raises(ValueError, match="expected"):
        Pinhole(**{**good, **wrong})
