"""Charts: what is shown to the network comes back to where it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.charts import LocalView, WholeFrame, search_regions, settle
from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import BFoV, crop, fit_bfov, recrop, uncrop
from panosam2_core.model import PointPrompts
from panosam2_core.motion import prompt_region

FRAME = (512, 1024)
INPUT = (256, 512)
DIRECTIONS = [(0.0, 0.0), (3.1, 0.2), (1.0, 1.2), (-2.0, -1.5), (0.5, math.pi / 2)]


def disc(lon: float, lat: float, radius: float, size_hw: tuple[int, int]) -> torch.Tensor:
    """(1, 1, H, W) float, 1 within ``radius`` of a direction."""
    centre = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    near = erp.rays(size_hw, dtype=torch.float64) @ centre > math.cos(radius)
    return near[None, None].float()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("degrees", [3, 8, 20, 60])
def test_masks_survive_the_way_there_and_back(
    direction: tuple[float, float], degrees: float
) -> None:
    width = math.radians(min(360.0, max(20.0, 4 * degrees)))
    chart = LocalView(BFoV(*direction, width, width / 2))
    mask = disc(*direction, math.radians(degrees / 2), (1024, 2048))
    there = chart.gather(mask, (512, 1024)) * 20 - 10
    back = chart.on_frame(there, (1024, 2048)) > 0
    both = (back & (mask > 0)).sum() / (back | (mask > 0)).sum()
    assert both >= 0.99


def test_the_whole_sphere_as_a_view_is_the_frame() -> None:
    picture = torch.rand(1, 3, *INPUT, generator=torch.Generator().manual_seed(0))
    sphere = BFoV(0.0, 0.0, 2 * math.pi, math.pi)
    assert (crop(picture, sphere, INPUT) - picture).abs().max() < 1e-4
    exact = picture.double()
    assert (uncrop(exact, sphere, INPUT, 0.0) - exact).abs().max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_from_view_to_view_is_by_way_of_the_panorama(
    lon: float, lat: float, right: float, up: float
) -> None:
    """What one view shows as another would, beside doing it with a fine panorama in between."""
    source = BFoV(lon, lat, 1.0, 0.5)
    target = BFoV(lon + right, max(-1.57, min(1.57, lat + up)), 0.8, 0.4)
    seen = disc(lon, lat, 0.15, (1024, 2048))
    there = crop(seen, source, (128, 256))
    direct = recrop(there, source, target, (128, 256), 0.0)
    around = crop(uncrop(there, source, (2048, 4096), 0.0), target, (128, 256))
    assert ((direct > 0.5) == (around > 0.5)).float().mean() > 0.995


def test_carrying_loses_nothing_and_adds_two_pixels_at_most() -> None:
    view = LocalView(BFoV(2.0, 0.7, 1.0, 0.5))
    region = torch.rand(1, 64, 128, generator=torch.Generator().manual_seed(1)) > 0.99
    carried = view.carry(region, view.region)[0]
    assert (carried | ~region).all()
    near = torch.nn.functional.max_pool2d(region.float(), 5, 1, 2) > 0
    assert not (carried & ~near).any()


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_thin_things_are_carried_between_samples(width: float) -> None:
    """A column of one pixel, seen half a pixel to the side or from a view of twice the width."""
    source = BFoV(2.0, 0.0, 1.0, 0.5)
    target = LocalView(BFoV(2.0 + 0.5 / 128, 0.0, width, width / 2))
    for column in range(50, 70):
        line = torch.zeros(1, 64, 128, dtype=torch.bool)
        line[:, 20:40, column] = True
        assert target.carry(line, source).sum() >= 8


def test_what_a_view_does_not_show_is_not_the_object() -> None:
    view = LocalView(BFoV(0.0, 0.0, 1.0, 0.5))
    everything = torch.full((1, 1, 64, 128), 7.0)
    back = view.on_frame(everything, FRAME)
    inside = disc(0.0, 0.0, 0.24, FRAME)[0, 0] > 0
    outside = disc(0.0, 0.0, 0.6, FRAME)[0, 0] == 0
    assert (back[0, 0][inside] > 0).all()
    assert (back[0, 0][outside] < 0).all()


def test_clicks_outside_of_a_view_are_not_placed() -> None:
    view = LocalView(BFoV(0.0, 0.0, 1.0, 0.5))

    def placed(u: float, v: float) -> PointPrompts | None:
        one = PointPrompts(torch.tensor([[[u, v]]]), torch.ones(1, 1, dtype=torch.int32))
        return view.place(one, INPUT)

    ahead = placed(256.0, 128.0)
    assert ahead is not None
    assert torch.allclose(ahead.xy, torch.tensor([[[256.0, 128.0]]]), atol=1e-3)
    assert placed(10.0, 128.0) is None
    assert WholeFrame(pano=True).place(ahead, INPUT) is ahead


def test_a_click_at_the_edge_of_a_view_stays_inside_of_it() -> None:
    """A view does not wrap: rounded onto its far edge the click would be at the other one."""
    view = LocalView(BFoV(0.0, 0.0, 1.2, 0.6))
    ahead = 0.5999999 / (2 * math.pi) * INPUT[1] + INPUT[1] / 2
    one = PointPrompts(
        torch.tensor([[[ahead, INPUT[0] / 2]]]), torch.ones(1, 1, dtype=torch.int32)
    )
    placed = view.place(one, INPUT)
    assert placed is not None
    assert INPUT[1] - 1 < placed.xy[0, 0, 0] < INPUT[1]
    assert prompt_region(placed, (INPUT[0] // 4, INPUT[1] // 4))[0, 0, :, -1].any()


@pytest.mark.parametrize("degrees", [60, 90, 120])
def test_a_search_looks_everywhere_and_begins_where_the_object_was(degrees: float) -> None:
    start = BFoV(2.0, 0.4, 1.0, 0.5)
    views = [LocalView(region) for region in search_regions(start, math.radians(degrees))]
    covered = torch.zeros(1, 1, 90, 180, dtype=torch.bool)
    for view in views:
        covered |= view.on_frame(torch.ones(1, 1, 32, 64), (90, 180)) > 0
    assert covered.all()

    def away(view: LocalView) -> float:
        rays = erp.lonlat_to_ray(
            torch.tensor([view.region.lon, start.lon], dtype=torch.float64),
            torch.tensor([view.region.lat, start.lat], dtype=torch.float64),
        )
        return float(torch.arccos((rays[0] @ rays[1]).clamp(-1, 1)))

    distances = [away(view) for view in views]
    assert distances == pytest.approx(sorted(distances), abs=1e-6)
    assert distances[0] < math.radians(degrees) / 2


@given(columns=st.integers(-512, 512), lat=st.floats(-1.4, 1.4))
def test_a_search_goes_the_same_way_round_on_a_rolled_panorama(columns: int, lat: float) -> None:
    turn = columns * math.tau / 1024
    here = search_regions(BFoV(0.3, lat, 1.0, 0.5), math.radians(90))
    there = search_regions(
        BFoV(math.remainder(0.3 + turn, math.tau), lat, 1.0, 0.5), math.radians(90)
    )
    for one, other in zip(here, there, strict=True):
        assert other.lat == one.lat
        assert abs(math.remainder(other.lon - one.lon - turn, math.tau)) < 1e-9


@given(st.integers(0, 63), st.integers(0, 127), st.integers(1, 20), st.integers(1, 20))
def test_a_mask_prompt_is_never_empty(v: int, u: int, height: int, width: int) -> None:
    share = torch.zeros(1, 1, 64, 128)
    share[..., v : v + height, u : u + width] = 0.3
    found = settle(share, 4)
    assert found.any()
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert torch.nn.functional.avg_pool2d(found, 4).max() > 0.6


def test_half_precision_around_it_leaves_geometry_alone() -> None:
    """The tracker's step runs under autocast, which rounds matrix products."""
    picture = torch.rand(1, 3, *INPUT, generator=torch.Generator().manual_seed(0))
    source, target = BFoV(2.0, 0.7, 1.0, 0.5), BFoV(2.1, 0.6, 1.0, 0.5)
    mask = disc(2.0, 0.7, 0.2, INPUT)[0] > 0

    def all_of_it() -> list[torch.Tensor]:
        patch = crop(picture, source, (64, 128))
        fitted = fit_bfov(mask[0])
        assert fitted is not None
        return [
            patch,
            uncrop(patch, source, INPUT, 0.0),
            recrop(patch, source, target, (64, 128), 0.0),
            torch.tensor([fitted.lon, fitted.lat, fitted.fov_h, fitted.fov_v]),
        ]

    exact = all_of_it()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = all_of_it()
    for one, other in zip(exact, rough, strict=True):
        assert torch.equal(one, other)
