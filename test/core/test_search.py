"""Laws of where lost objects are looked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from panosam2_core.charts import search_regions
from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import BFoV
from panosam2_core.likely import likely_places
from panosam2_core.likeness import portrait
from panosam2_core.search import CYCLE, PLACES, WIDE, Look, shares, where

SIZE = (256, 512)
RAYS = erp.rays(SIZE, dtype=torch.float64)
RED, GREEN = (200, 40, 30), (40, 190, 60)


def ray(lon: float, lat: float) -> torch.Tensor:
    angles = torch.tensor((lon, lat), dtype=torch.float64)
    return erp.lonlat_to_ray(*angles)


def scene(*spots: tuple[float, float, float, tuple[int, int, int]]) -> torch.Tensor:
    """(3, H, W) grey noise with discs: longitude, latitude, radius in radians, colour."""
    random = torch.Generator().manual_seed(0)
    frame = torch.randint(90, 170, (1, *SIZE), generator=random).expand(3, -1, -1).clone()
    for lon, lat, radius, colour in spots:
        inside = RAYS @ ray(lon, lat) > math.cos(radius)
        frame[:, inside] = torch.tensor(colour)[:, None]
    return frame.to(torch.uint8)


def looks_of(*colours: tuple[int, int, int]) -> torch.Tensor:
    """(1, 216) portrait of a thing that has as much of each colour."""
    found = portrait(torch.tensor(colours).T / 255)
    assert found is not None
    return found[:1]


def apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.degrees(math.acos(min(1.0, float(ray(*one) @ ray(*other)))))


LON, LAT = st.floats(-math.pi, math.pi), st.floats(-1.3, 1.3)


@settings(max_examples=30)
@given(LON, LAT, st.floats(0.07, 0.3), LON)
def test_what_has_the_colours_is_the_likeliest_place(
    lon: float, lat: float, radius: float, first: float
) -> None:
    """Nearer than a quarter of a view in which it is shown as it was last seen."""
    frame = scene((lon, lat, radius, RED), (lon + 2, -lat, radius, GREEN))
    size = math.tau * (1 - math.cos(radius))
    found = likely_places(frame, looks_of(RED), size, first, 1)[0]
    assert apart(found, (lon, lat)) < max(4.0, math.degrees(radius) / 2)


def test_the_next_place_is_another_one() -> None:
    one, other = (0.5, 0.2), (-2.0, -0.4)
    frame = scene((*one, 0.15, RED), (*other, 0.15, RED))
    found = likely_places(frame, looks_of(RED), 0.07, 0.0, 2)
    assert sorted(min(apart(place, spot) for place in found) for spot in (one, other))[1] < 4


def test_a_thing_of_two_colours_is_not_one_that_has_one_of_them() -> None:
    both = scene((1.0, 0.0, 0.2, RED), (-2.0, 0.0, 0.2, RED), (-2.0, 0.1, 0.1, GREEN))
    found = likely_places(both, looks_of(RED, GREEN), 0.12, 0.0, 1)[0]
    assert apart(found, (-2.0, 0.05)) < 8


@given(st.integers(-255, 255), st.floats(-3, 3))
@example(-208, 0.0)
@settings(max_examples=30)
def test_a_rolled_panorama_has_the_same_places_rolled(columns: int, first: float) -> None:
    frame = scene((0.5, 0.2, 0.15, RED), (-2.0, -0.6, 0.1, RED))
    pixel = math.tau / SIZE[1]
    first = round(first / pixel * 8) * pixel / 8  # views snap to eighths
    here = likely_places(frame, looks_of(RED), 0.05, first, 3)
    rolled = frame.roll(columns, -1)
    turned = math.remainder(first + columns * pixel, math.tau)
    there = likely_places(rolled, looks_of(RED), 0.05, turned, 3)
    for (lon, lat), (other, level) in zip(here, there, strict=True):
        assert level == lat
        assert math.remainder(other - lon - columns * pixel, math.tau) == pytest.approx(
            0, abs=1e-9
        )


def test_where_nothing_has_the_colours_there_is_no_likely_place() -> None:
    assert likely_places(scene(), looks_of(RED), 0.07, 0.0, PLACES) == []


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_looks_are_shared_evenly(now: int, lost: int, looks: int) -> None:
    frames = [shares(now + t, lost, looks) for t in range(lost)]
    assert all(sum(counts) == looks for counts in frames)
    assert [sum(own) for own in zip(*frames, strict=True)] == [looks] * lost
    assert max(frames[0]) - min(frames[0]) <= 1


@pytest.mark.parametrize("degrees", [60.0, 120.0, 180.0, 360.0])
@pytest.mark.parametrize("coloured", [True, False])
def test_a_search_goes_everywhere(degrees: float, coloured: bool) -> None:
    width = math.radians(degrees)
    last = BFoV(0.3, -0.2, width, width / 2)
    frame = scene((2.0, 0.4, 0.15, RED), *((x, 0.0, 0.1, GREEN) for x in (0.0, 1.0, 3.0)))
    wide = min(math.pi, max(WIDE, width))
    directions = search_regions(last, wide)
    places = likely_places(frame, looks_of(RED, GREEN), 0.07, 0.0, PLACES) if coloured else []
    went = [where(number, last, places) for number in range(len(CYCLE) * len(directions))]
    assert went.count(None) == len(directions)
    assert set(directions) <= set(went)
    assert went.count(BFoV(0.3, -0.2, wide, wide / 2)) >= len(directions)
    likely = [
        region
        for number, region in enumerate(went)
        if CYCLE[number % len(CYCLE)] is Look.LIKELY and region is not None
    ]
    if coloured:
        assert len(set(likely)) == PLACES
        assert {region.fov_h for region in likely} == {min(math.pi, width)}
        near = [apart((region.lon, region.lat), (2.0, 0.4)) < 4 for region in likely]
        assert np.mean(near) == pytest.approx(1 / 2, abs=0.1), "every other one at the likeliest"
        others = [region for region, close in zip(likely, near, strict=True) if not close]
        shares = [others.count(region) / len(others) for region in set(others)]
        assert shares == pytest.approx([1 / (PLACES - 1)] * (PLACES - 1), abs=0.1)
    else:
        few = [where(number, last, []) for number in range(len(CYCLE))]
        assert len(set(few)) == len(CYCLE) or len(directions) < 4, "no direction twice"
