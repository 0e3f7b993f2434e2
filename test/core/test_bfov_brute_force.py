"""Bounding fields of view against an exhaustive search that shares no code with the fit.

What is fitted: the region in local longitude and latitude whose centre sees the shape reach as far
to the left as to the right, and as far up as down, so that the shape touches all four sides. The
fit gets the pixels of a mask; the search gets the outline itself, as unit vectors, tries a grid of
centres over the whole shape and then ever finer ones about the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter

from panosam2_core.geometry.bfov import fit_bfov

SIZE = (1024, 2048)
OUTLINE = 360
GRID, FINER = 25, 13
TOLERANCE = 0.5  # degrees
# In solid angle than the smallest region; half a pixel a side is a tenth of the smallest shapes.
LARGER = 1.25


def toward(lon, lat):
    """Unit vectors: x right, y down, z ahead."""
    lon, lat = np.broadcast_arrays(lon, lat)
    level = np.cos(lat)
    return np.stack([level * np.sin(lon), -np.sin(lat), level * np.cos(lon)], axis=-1)


PIXELS = (
    toward(
        (np.arange(SIZE[1]) + 0.5) / SIZE[1] * 2 * np.pi - np.pi,
        np.pi / 2 - (np.arange(SIZE[0])[:, None] + 0.5) / SIZE[0] * np.pi,
    )
    .astype(np.float32)
    .reshape(-1, 3)
)


@dataclass
class Blob:
    """All directions nearer to a centre than a radius that changes with the azimuth."""

    axes: np.ndarray  # (3, 3): centre, azimuth 0, azimuth 90
    radius: float
    waves: np.ndarray  # (5, 2): amplitude and phase
    order = np.arange(1, 6)

    def reach(self, azimuth):
        amplitude, phase = self.waves.T
        wave = np.cos(azimuth[..., None] * self.order + phase) @ amplitude
        return np.minimum(self.radius * np.maximum(0.15, 1 + wave), 1.4)

    def outline(self):
        azimuth = np.arange(OUTLINE) * 2 * np.pi / OUTLINE
        reach = self.reach(azimuth)[:, None]
        centre, first, second = self.axes
        side = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
        return np.cos(reach) * centre + np.sin(reach) * side

    def pixels(self):
        farthest = self.reach(np.arange(360) * np.pi / 180).max() + 0.01
        index = np.flatnonzero(PIXELS @ self.axes[0].astype(np.float32) > math.cos(farthest))
        ahead, first, second = self.axes.astype(np.float32) @ PIXELS[index].T
        inside = np.arccos(np.minimum(1, ahead)) < self.reach(np.arctan2(second, first))
        return index[inside]


def random_blob(rng, where):
    lon, lat = {
        "anywhere": (rng.uniform(-np.pi, np.pi), math.asin(rng.uniform(-1, 1))),
        "seam": (np.pi + rng.uniform(-0.05, 0.05), rng.uniform(-1, 1)),
        "pole": (rng.uniform(-np.pi, np.pi), rng.choice([-1, 1]) * rng.uniform(1.3, np.pi / 2)),
    }[where]
    centre = toward(lon, lat)
    first = np.cross(centre, rng.normal(size=3))
    first /= np.linalg.norm(first)
    amplitude = rng.uniform(0, 0.5, 5) / [1, 1, 3, 4, 5]
    waves = np.stack([amplitude, rng.uniform(0, 2 * np.pi, 5)], axis=1)
    radius = math.radians(math.exp(rng.uniform(math.log(2), math.log(35))))
    return Blob(np.stack([centre, first, np.cross(centre, first)]), radius, waves)


def local(points, centres):
    """Longitudes and latitudes (..., N) of points in the level frames of centres (..., 3)."""
    along = np.hypot(centres[..., 0], centres[..., 2])
    zero = np.zeros_like(along)
    right = np.stack([centres[..., 2] / along, zero, -centres[..., 0] / along], axis=-1)
    up = np.cross(right, centres)
    x, y, z = (axis @ points.T for axis in (right, up, centres))
    return np.arctan2(x, z), np.arcsin(np.clip(y, -1, 1))


def around(centre, half, count):
    """Centres on a square grid about one, and the distance between neighbours."""
    first = np.cross(centre, np.eye(3)[np.abs(centre).argmin()])
    first /= np.linalg.norm(first)
    step = np.linspace(-math.tan(half), math.tan(half), count)
    grid = centre + step[:, None, None] * first + step[:, None] * np.cross(centre, first)
    return grid / np.linalg.norm(grid, axis=-1, keepdims=True), 2 * half / (count - 1)


def about_pole(sign, half):
    """Centres on a grid of longitudes and distances from a pole."""
    lon = np.arange(90) * np.pi / 45
    away = (np.arange(24)[:, None] + 0.5) / 24 * half
    return toward(lon, sign * (np.pi / 2 - away)), half / 24


def unbalance(outline, centres):
    """How far the middle of the extents is from a centre; the extents."""
    lon, lat = local(outline, centres)
    extents = [np.stack([a.min(-1), a.max(-1)], axis=-1) for a in (lon, lat)]
    return np.hypot(*(e.mean(-1) for e in extents)), np.stack([np.ptp(e, -1) for e in extents], -1)


def lowest(values, count=10):
    """Indices of the local minima of a grid, the lowest first."""
    near = minimum_filter(values, size=3, mode="nearest")
    found = np.argwhere(values <= near)
    return found[np.argsort(values[tuple(found.T)])][:count]


def searched(outline, fitted):
    """The regions (centre, (width, height)) that an outline touches on all four sides.

    Where the level frame turns fast, near a pole, there may be several, and two that are close
    together slip through a grid over the whole shape; so one more grid lies about the fit.
    """
    mean = outline.mean(0) / np.linalg.norm(outline.mean(0))
    half = min(1.2, np.arccos(outline @ mean).max())
    grids = [around(mean, half, GRID), around(fitted, math.radians(TOLERANCE), GRID)]
    if math.acos(abs(mean[1])) < half:
        grids.append(about_pole(-np.sign(mean[1]), half))
    regions = []
    for centres, cell in grids:
        for place in lowest(unbalance(outline, centres)[0]):
            region = refined(outline, centres[tuple(place)], cell)
            if region and all(region[0] @ other[0] < math.cos(2e-3) for other in regions):
                regions.append(region)
    return regions


def solid_angle(width, height):
    return 2 * width * math.sin(height / 2)


def refined(outline, centre, cell):
    while True:
        centres, finer = around(centre, 1.5 * cell, FINER)
        off, extents = unbalance(outline, centres)
        best = np.unravel_index(off.argmin(), off.shape)
        if finer < math.radians(0.004):
            return (centre, extents[best]) if off[best] < math.radians(0.02) else None
        centre, cell = centres[best], finer


@pytest.mark.parametrize(("where", "count"), [("anywhere", 250), ("seam", 100), ("pole", 150)])
def test_fit_is_what_a_search_over_all_centres_finds(where, count):
    rng = np.random.default_rng(len(where))
    worst = np.zeros(3)
    for _ in range(count):
        blob = random_blob(rng, where)
        index = blob.pixels()
        mask = np.zeros(SIZE, bool)
        mask.flat[index] = True
        got = fit_bfov(torch.from_numpy(mask))
        centre = toward(got.lon, got.lat)
        regions = searched(blob.outline(), centre)
        off = [
            [math.acos(min(1, centre @ there)), abs(got.fov_h - size[0]), abs(got.fov_v - size[1])]
            for there, size in regions
        ]
        least = min(solid_angle(*size) for _, size in regions)
        assert solid_angle(got.fov_h, got.fov_v) < LARGER * least
        worst = np.maximum(worst, np.degrees(min(off, key=max)))
        lon, lat = local(PIXELS[index], centre)
        assert np.abs(lon).max() <= got.fov_h / 2, "it holds every pixel"
        assert np.abs(lat).max() <= got.fov_v / 2
    assert worst.max() < TOLERANCE, f"centre, width, height: {worst.round(2)} degrees"
