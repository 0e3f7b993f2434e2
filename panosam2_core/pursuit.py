"""Where to look for one object next: its direction, its motion and a rung of the zoom ladder.

A local view is a crop of the sphere about the object (:class:`panosam2_core.geometry.bfov.BFoV`),
twice as wide as high like the network's input. 360VOTS' framework scales its search region with
every mask; here the widths are the rungs of a ladder, and a rung is kept while the object fills a
sensible share of it, so that its size in memory jumps seldom. The view follows by constant
velocity on the great circle. While the object is out of sight the view grows, then gives up:
:func:`missed` returns ``None`` and the whole panorama has to be searched.

Plain numbers, no tensors: the tracker and the training clips share this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from panosam2_core.geometry.bfov import BFoV

LADDER = (math.radians(60.0), math.radians(120.0), math.radians(180.0))  # of local views
ENTER = 1 / 3  # of a rung's width that an object may fill when the rung is chosen
KEEP = (1 / 8, 1 / 2)  # share of its width between which a rung is kept
FASTEST = math.radians(30.0)  # per frame; more is a mistake, not a motion
STEADY = 0.7  # weight of the newest step in the velocity
SLOWING = 0.8  # of the velocity per frame out of sight
PATIENCE = 2  # frames out of sight with the same view
WIDENED = 6  # and then with one of twice the width, before it is given up

_Vector = tuple[float, float, float]


class Found(Protocol):
    """What is known of a mask, see :class:`panosam2_core.geometry.region.RegionMeasure`."""

    @property
    def bearing(self) -> npt.NDArray[np.float64]:
        """Direction in the body frame; zero for a mask that looks the same from all sides."""

    @property
    def angular_width(self) -> float:
        """Radians."""

    @property
    def angular_height(self) -> float:
        """Radians."""


@dataclass(frozen=True)
class Pursuit:
    """One object followed in local views.

    Attributes:
        rung: of :data:`LADDER`.
        ray: unit vector in the camera frame (x right, y down, z forward), where it was last seen.
        velocity: rotation vector in radians per frame, camera frame.
        unseen: frames since it was seen.
    """

    rung: int
    ray: _Vector
    velocity: _Vector = (0.0, 0.0, 0.0)
    unseen: int = 0

    def view(self) -> BFoV:
        """The region to look at on the next frame."""
        # Each frame out of sight turns by less than the one before it.
        turns = (1.0 - SLOWING ** (self.unseen + 1)) / (1.0 - SLOWING)
        x, y, z = _turned(np.array(self.ray), turns * np.array(self.velocity))
        width = min(LADDER[self.rung] * (1.0 if self.unseen <= PATIENCE else 2.0), math.tau)
        lat = math.asin(max(-1.0, min(1.0, -y)))
        return BFoV(math.atan2(x, z), lat, width, width / 2)


def begin(found: Found) -> Pursuit | None:
    """Choose the first local view of an object.

    Args:
        found: where it was seen.

    Returns:
        ``None`` when it is too large for every rung or has no direction: then the panorama is
        the better view.
    """
    rung = _rung(_extent(found))
    if rung is None or not found.bearing.any():
        return None
    return Pursuit(rung, _ray(found))


def seen(before: Pursuit, found: Found) -> Pursuit | None:
    """Follow an object that was seen again.

    Args:
        before: the pursuit on that frame.
        found: where it was seen.

    Returns:
        The pursuit for the next frame; ``None`` when it has grown too large.
    """
    extent = _extent(found)
    low, high = (share * LADDER[before.rung] for share in KEEP)
    rung = before.rung if low <= extent <= high else _rung(extent)
    if rung is None or not found.bearing.any():
        return None
    ray = _ray(found)
    step = _rotation_vector(np.array(before.ray), np.array(ray)) / (before.unseen + 1)
    length = float(np.linalg.norm(step))
    if length > FASTEST:
        step = step * (FASTEST / length)
    known = any(before.velocity)
    velocity = STEADY * step + (1 - STEADY) * np.array(before.velocity) if known else step
    return Pursuit(rung, ray, _vector(velocity))


def missed(before: Pursuit) -> Pursuit | None:
    """Go on without having seen the object.

    Args:
        before: the pursuit on that frame.

    Returns:
        The pursuit for the next frame; ``None`` when it is time to search everywhere.
    """
    unseen = before.unseen + 1
    return None if unseen > WIDENED else replace(before, unseen=unseen)


def _rung(extent: float) -> int | None:
    fitting = (i for i, width in enumerate(LADDER) if extent <= ENTER * width)
    return next(fitting, None)


def _extent(found: Found) -> float:
    """Width of the object in a view that is twice as wide as high."""
    return max(found.angular_width, 2 * found.angular_height)


def _ray(found: Found) -> _Vector:
    ahead, left, up = (float(value) for value in found.bearing)
    return -left, -up, ahead


def _vector(values: npt.NDArray[np.float64]) -> _Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _rotation_vector(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Axis times angle of the shortest turn; zero between opposite rays, whose axis is unknown."""
    axis = np.cross(start, end)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return np.zeros(3)
    turn: npt.NDArray[np.float64] = axis * (math.atan2(sine, float(start @ end)) / sine)
    return turn


def _turned(
    ray: npt.NDArray[np.float64], turn: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Rotate by a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return ray
    axis = turn / angle
    across, along = np.cross(axis, ray), axis * float(axis @ ray)
    rotated: npt.NDArray[np.float64] = (
        ray * math.cos(angle) + across * math.sin(angle) + along * (1 - math.cos(angle))
    )
    return rotated / np.linalg.norm(rotated)
