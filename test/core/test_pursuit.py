"""Where to look next: a great circle, a ladder, and patience."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panosam2_core.geometry.region import measure
from panosam2_core.pursuit import (
    ENTER,
    KEEP,
    LADDER,
    PATIENCE,
    WIDENED,
    Pursuit,
    begin,
    missed,
    seen,
)

ANGLES = st.floats(-math.pi, math.pi, allow_nan=False)
SIZES = st.floats(0.01, 3.0, allow_nan=False)


@dataclass
class Spot:
    """A mask's measures, made up."""

    bearing: np.ndarray = field(default_factory=lambda: np.array([1.0, 0.0, 0.0]))
    angular_width: float = 0.2
    angular_height: float = 0.1


def body(lon: float, lat: float) -> np.ndarray:
    """Unit vector x forward, y left, z up; ``lon`` to the left."""
    level = math.cos(lat)
    return np.array([level * math.cos(lon), level * math.sin(lon), math.sin(lat)])


def middle(pursuit: Pursuit) -> np.ndarray:
    view = pursuit.view()
    return body(-view.lon, view.lat)


def turn(axis: np.ndarray, angle: float, vector: np.ndarray) -> np.ndarray:
    """Rodrigues' rotation, written down a second time with a matrix."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return matrix @ vector


@given(ANGLES, st.floats(-1.5, 1.5), SIZES, SIZES)
def test_the_first_view_is_about_the_object_and_holds_it(
    lon: float, lat: float, width: float, height: float
) -> None:
    pursuit = begin(Spot(body(lon, lat), width, height))
    extent = max(width, 2 * height)
    if extent > ENTER * LADDER[-1]:
        assert pursuit is None
        return
    assert pursuit is not None
    assert np.allclose(middle(pursuit), body(lon, lat), atol=1e-9)
    view = pursuit.view()
    assert view.fov_h == pytest.approx(2 * view.fov_v)
    assert extent <= ENTER * view.fov_h
    smaller = [w for w in LADDER if w < LADDER[pursuit.rung]]
    assert all(extent > ENTER * w for w in smaller)


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.001, math.radians(29)),
    ANGLES,
    st.floats(-1.5, 1.5),
)
def test_what_moves_evenly_on_a_great_circle_stays_in_the_middle(
    seed: int, speed: float, lon: float, lat: float
) -> None:
    start = body(lon, lat)
    axis = np.cross(start, np.random.default_rng(seed).normal(size=3))
    at = [turn(axis, speed * t, start) for t in range(6)]
    pursuit = begin(Spot(at[0]))
    for place in at[1:3]:
        assert pursuit is not None
        pursuit = seen(pursuit, Spot(place))
    for place in at[3:]:
        assert pursuit is not None
        assert np.allclose(middle(pursuit), place, atol=1e-6), "over poles and the seam, too"
        pursuit = seen(pursuit, Spot(place))


@given(ANGLES, st.floats(-1.2, 1.2), st.floats(0.001, 0.2))
def test_a_gap_in_sight_does_not_count_as_speed(lon: float, lat: float, speed: float) -> None:
    axis = np.cross(body(lon, lat), [0.3, -0.5, 0.8])
    at = [turn(axis, speed * t, body(lon, lat)) for t in range(5)]
    pursuit = begin(Spot(at[0]))
    assert pursuit is not None
    hidden = missed(pursuit)
    assert hidden is not None
    back = seen(hidden, Spot(at[2]))
    assert back is not None
    assert back.unseen == 0
    assert np.allclose(middle(back), at[3], atol=1e-6)


def test_a_jump_is_no_motion() -> None:
    pursuit = begin(Spot())
    assert pursuit is not None
    jumped = seen(pursuit, Spot(body(2.5, 0.0)))
    assert jumped is not None
    gone_on = math.acos(float(np.clip(middle(jumped) @ body(2.5, 0.0), -1, 1)))
    assert gone_on == pytest.approx(math.radians(30.0), abs=1e-6)


def test_opposite_directions_have_no_axis() -> None:
    pursuit = begin(Spot())
    assert pursuit is not None
    behind = seen(pursuit, Spot(body(math.pi, 0.0)))
    assert behind is not None
    assert np.allclose(middle(behind), body(math.pi, 0.0), atol=1e-9)


def test_a_rung_is_kept_while_the_object_fills_a_sensible_share_of_it() -> None:
    for rung, width in enumerate(LADDER):
        for share in (KEEP[0] * 1.01, KEEP[1] * 0.99):
            kept = seen(Pursuit(rung, (0.0, 0.0, 1.0)), Spot(angular_width=share * width))
            assert kept is not None
            assert kept.rung == rung
    grown = seen(Pursuit(len(LADDER) - 1, (0.0, 0.0, 1.0)), Spot(angular_width=0.51 * LADDER[-1]))
    assert grown is None, "too large for every rung: the panorama is the better view"


def test_out_of_sight_the_view_waits_then_widens_then_gives_up() -> None:
    moving = Pursuit(0, (0.0, 0.0, 1.0), (0.0, 0.1, 0.0))
    widths, turned, pursuit = [], [], moving
    while pursuit is not None:
        view = pursuit.view()
        widths.append(view.fov_h)
        turned.append(view.lon)
        pursuit = missed(pursuit)
    assert len(widths) == WIDENED + 1
    assert widths == [LADDER[0]] * (PATIENCE + 1) + [2 * LADDER[0]] * (WIDENED - PATIENCE)
    steps = np.diff(turned)
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all(), "an object that is not seen is not followed for ever"
    assert turned[0] == pytest.approx(0.1)


def test_a_ring_about_the_viewer_has_no_view() -> None:
    ring = np.zeros((64, 128), np.bool_)
    ring[30:34] = True
    found = measure(ring, pano=True)
    assert found is not None
    assert begin(found) is None
    assert seen(Pursuit(0, (0.0, 0.0, 1.0)), found) is None
