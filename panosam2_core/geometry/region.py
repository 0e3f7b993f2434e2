"""Measures of an object's mask that the tracker reports for every frame.

This runs once per object and frame on the robot's CPU, next to the network. It therefore uses
numpy, looks at the mask's bounding box only, and replaces sums over pixels by one small matrix
product. Frames and signs are those of `panosam2_core.geometry.erp`; everything angular here is
in the BODY frame of ROS REP-103 (x forward, y left, z up), so the azimuth is LEFT-positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from panosam2_core.field_of_view import WHOLE_PANORAMA, FieldOfView

_FULL_TURN = 2.0 * math.pi
# A shorter mean direction (share of the solid angle) is rounding noise of a symmetric mask.
_MIN_MEAN = 1e-3
# As in `fit_bfov`: below this the mask surrounds the viewer.
_MIN_MEAN_EXTENT = 0.1
# Rows and columns looked at for the contour; more would change the extents by a pixel or two.
_MAX_LINES = 256

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class RegionMeasure:
    """What is known about the place and size of a mask.

    On a planar image (``pano=False``) every angular field is zero and ``bearing`` is the zero
    vector: without a camera model there is no direction.

    Attributes:
        area_px: Number of foreground pixels.
        solid_angle_sr: Solid angle in steradians, in (0, 4 pi].
        crosses_seam: Whether ``box`` runs over the panorama's left and right edge, or the mask
            goes all the way round.
        box: ``(x, y, w, h)`` in pixels, from the least circular interval of columns: ``x`` in
            [0, W), ``x + w`` may exceed W.
        bearing: ``(3,)`` float64 unit vector of the body frame, the mean direction weighted by
            solid angle. Zero for a mask that looks the same from all sides (e.g. a full ring).
        lon: Azimuth ``atan2(bearing_y, bearing_x)`` in radians, LEFT-positive.
        lat: Elevation ``asin(bearing_z)`` in radians, up-positive.
        angular_width: Extent in local longitude about ``bearing``, radians, in (0, 2 pi].
        angular_height: Extent in local latitude about ``bearing``, radians, in (0, pi].
    """

    area_px: int
    solid_angle_sr: float
    crosses_seam: bool
    box: tuple[int, int, int, int]
    bearing: _Floats
    lon: float
    lat: float
    angular_width: float
    angular_height: float


@lru_cache(maxsize=8)
def _tables(
    size_hw: tuple[int, int], fov: FieldOfView
) -> tuple[npt.NDArray[np.float32], _Floats, _Floats]:
    """``(W, 3)`` columns (1, cos lon, -sin lon), ``(H, 2)`` (cos, sin) lat, ``(H,)`` sr."""
    height, width = size_hw
    per_column, per_row = fov.pitch(size_hw)
    lon = (np.arange(width) + 0.5 - 0.5 * width) * per_column
    lat = (0.5 * height - 0.5 - np.arange(height)) * per_row + fov.middle_lat
    columns = np.stack((np.ones(width), np.cos(lon), -np.sin(lon)), axis=1).astype(np.float32)
    rows = np.stack((np.cos(lat), np.sin(lat)), axis=1)
    solid = rows[:, 0] * (2.0 * per_column * math.sin(0.5 * per_row))
    return columns, rows, solid


def circular_interval(occupied: npt.NDArray[np.bool_], pano: bool) -> tuple[int, int]:
    """Find the least interval that holds every occupied column.

    Args:
        occupied: (W,), at least one of them.
        pano: the interval may go on across the seam.

    Returns:
        Its first index, and its length.
    """
    index = np.flatnonzero(occupied)
    width = occupied.size
    first, last = int(index[0]), int(index[-1])
    if not pano:
        return first, last - first + 1
    gaps = np.diff(index) - 1
    outer = first + width - 1 - last
    widest = int(gaps.argmax()) if gaps.size else 0
    if gaps.size == 0 or int(gaps[widest]) <= outer:
        return first, last - first + 1
    return int(index[widest + 1]), width - int(gaps[widest])


def _ends(lines: npt.NDArray[np.bool_]) -> tuple[_Ints, _Ints, _Ints]:
    """Occupied lines of a bool matrix, with the first and one past the last entry of each."""
    index = np.flatnonzero(lines.any(axis=1))
    lines = lines[index]
    return index, lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)


def _outline(block: npt.NDArray[np.bool_]) -> tuple[_Floats, _Floats]:
    """Corner coordinates ``(u, v)`` of the contour, from row and column ends of the block."""
    step_v, step_h = (-(-size // _MAX_LINES) for size in block.shape)
    rows, left, right = _ends(block[::step_v])
    cols, top, bottom = _ends(np.ascontiguousarray(block[:, ::step_h].T))
    v, u = rows * step_v + 0.5, cols * step_h + 0.5
    return np.concatenate((left, right, u, u)), np.concatenate((v, v, top, bottom))


def _extents(lon: _Floats, lat: _Floats, lon0: float, lat0: float) -> tuple[float, float]:
    """Extents of local longitude and latitude about a centre (all camera-frame radians)."""
    c, s = math.cos(lat0), math.sin(lat0)
    cos_lat, sin_lat = np.cos(lat), np.sin(lat)
    ahead = cos_lat * np.cos(lon - lon0)
    lam = np.arctan2(cos_lat * np.sin(lon - lon0), c * ahead + s * sin_lat)
    phi = np.arcsin(np.clip(c * sin_lat - s * ahead, -1.0, 1.0))
    return float(np.ptp(lam)), float(np.ptp(phi))


def _planar(area: int, box: tuple[int, int, int, int]) -> RegionMeasure:
    """Measure of a mask on an ordinary image."""
    return RegionMeasure(area, 0.0, False, box, np.zeros(3), 0.0, 0.0, 0.0, 0.0)


def _on_sphere(
    block: npt.NDArray[np.bool_],
    box: tuple[int, int, int, int],
    size_hw: tuple[int, int],
    fov: FieldOfView,
) -> RegionMeasure:
    """Measure of a panorama's mask from its bounding block."""
    height, width = size_hw
    x, y, w, h = box
    per_column, per_row = fov.pitch(size_hw)
    columns, rows, solid = _tables(size_hw, fov)
    # (h, 3) per row: number of pixels, sums of cos lon and of -sin lon. Counts stay exact.
    sums = (block.astype(np.float32) @ columns.take(range(x, x + w), 0, mode="wrap")).astype(
        np.float64
    )
    row, solid = rows[y : y + h], solid[y : y + h]
    total = float(solid @ sums[:, 0])
    mean = np.array(
        (
            solid @ (row[:, 0] * sums[:, 1]),
            solid @ (row[:, 0] * sums[:, 2]),
            solid @ (row[:, 1] * sums[:, 0]),
        )
    )
    length = float(np.linalg.norm(mean))
    bearing = mean / length if length > _MIN_MEAN * total else np.zeros(3)
    lon, lat = math.atan2(bearing[1], bearing[0]), math.asin(max(-1.0, min(1.0, bearing[2])))
    if length < _MIN_MEAN_EXTENT * total:
        extent = (_FULL_TURN, h * per_row)
    else:
        u, v = _outline(block)
        u = (u + (x - 0.5 * width)) * per_column
        v = ((0.5 * height - y) - v) * per_row + fov.middle_lat
        extent = _extents(u, v, -lon, lat)
    crosses = fov.wraps and (x + w > width or w == width)
    area = int(sums[:, 0].sum())
    return RegionMeasure(area, total, crosses, box, bearing, lon, lat, *extent)


def measure(
    mask: npt.NDArray[np.bool_], pano: bool, fov: FieldOfView = WHOLE_PANORAMA
) -> RegionMeasure | None:
    """Measure a mask.

    Args:
        mask: ``(H, W)`` bool mask of one object.
        pano: Whether the image is an equirectangular panorama.
        fov: The part of the sphere that it shows.

    Returns:
        The measures, or None for an empty mask.

    Raises:
        ValueError: The mask is not ``(H, W)`` bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(
            f"expected a bool mask of shape (H, W), got {mask.dtype} {mask.shape}; "
            "threshold logits with > 0 and pass one object at a time"
        )
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    y, h = int(rows[0]), int(rows[-1] - rows[0]) + 1
    band = mask[y : y + h]
    occupied: npt.NDArray[np.bool_] = np.logical_or.reduce(band, axis=0)
    x, w = circular_interval(occupied, pano and fov.wraps)
    over = x + w - mask.shape[1]
    block = band[:, x : x + w] if over <= 0 else np.hstack((band[:, x:], band[:, :over]))
    if not pano:
        return _planar(int(np.count_nonzero(block)), (x, y, w, h))
    return _on_sphere(block, (x, y, w, h), (mask.shape[0], mask.shape[1]), fov)
