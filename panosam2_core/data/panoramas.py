"""Procedural panoramas: streets, rooms and soft fields, made from a seed.

Everything is a function of the viewing ray, so the result has no seam and no pole artefact.
Frame: x right, y down, z forward, unit rays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panosam2_core.data.procedural import hsv_to_rgb, random_colour
from panosam2_core.data.rng import StableRng

F32 = NDArray[np.float32]


def _rays(height: int, width: int) -> tuple[F32, F32, F32, F32, F32]:
    """Return x, y, z, lon, lat, each (H, W) float32."""
    lon = 2 * np.pi * ((np.arange(width) + 0.5) / width - 0.5)
    lat = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    lon2, lat2 = (a.astype(np.float32) for a in np.meshgrid(lon, lat))
    flat = np.cos(lat2)
    return flat * np.sin(lon2), -np.sin(lat2), flat * np.cos(lon2), lon2, lat2


def noise3d(rng: StableRng, x: F32, y: F32, z: F32, scale: float, octaves: int = 4) -> F32:
    """Return smooth value noise in [0, 1] at 3-D points; ``scale`` is cells per unit."""
    lattice = rng.uniforms(32**3).astype(np.float32)
    total, weight = np.zeros_like(x), 0.0
    for octave in range(octaves):
        step = scale * 2**octave
        total += _trilinear(lattice, x * step + 7.3, y * step + 3.1, z * step + 1.7) * 0.5**octave
        weight += 0.5**octave
    return np.asarray(total / weight, dtype=np.float32)


def _trilinear(lattice: F32, x: F32, y: F32, z: F32) -> F32:
    """Interpolate a periodic 32^3 lattice smoothly at points."""
    lows, parts = [], []
    for value in (x, y, z):
        low = np.floor(value)
        part = value - low
        lows.append(low.astype(np.int64))
        parts.append(part * part * (3.0 - 2.0 * part))
    total = np.zeros_like(x)
    for corner in range(8):
        bits = (corner & 1, corner >> 1 & 1, corner >> 2 & 1)
        index = np.zeros(x.shape, dtype=np.int64)
        weight = np.ones_like(x)
        for low, part, bit in zip(lows, parts, bits, strict=True):
            index = index * 32 + ((low + bit) & 31)
            weight = weight * (part if bit else 1.0 - part)
        total += lattice[index] * weight
    return total


def _tiles(rng: StableRng, u: F32, v: F32) -> F32:
    """Return a tile pattern in [0, 1] on plane coordinates in metres."""
    size = rng.uniform(0.4, 1.6)
    a, b = u / size, v / (size * rng.uniform(0.4, 1.2))
    row = np.floor(b)
    a = a + 0.5 * (row % 2) * rng.integer(0, 1)
    joint = np.minimum(np.abs(a % 1.0 - 0.5), np.abs(b % 1.0 - 0.5)) > 0.0
    edge = (np.abs(a % 1.0 - 0.5) > 0.46) | (np.abs(b % 1.0 - 0.5) > 0.46)
    cell = np.sin(np.floor(a) * 12.9898 + row * 78.233) * 43758.547 % 1.0
    return np.asarray(np.where(edge, 0.0, 0.45 + 0.55 * cell * joint), dtype=np.float32)


def _mix(a: F32, b: F32, weight: F32) -> F32:
    """Blend colours or images by a (H, W) weight in [0, 1]."""
    part = weight[..., None]
    return np.asarray(a * (1.0 - part) + b * part, dtype=np.float32)


def _skyline(rng: StableRng, image: F32, lon: F32, lat: F32, grain: F32) -> F32:
    """Paint buildings with windows over the horizon, far ones first."""
    for _ in range(rng.integer(8, 22)):
        centre, half = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.3)
        height = rng.uniform(0.08, 0.75)
        offset = (lon - centre + np.pi) % (2 * np.pi) - np.pi
        rise = np.tan(np.clip(lat, -1.4, 1.4)) / np.maximum(np.cos(offset), 0.3)
        inside = (np.abs(offset) < half) & (rise < height) & (lat > -0.12)
        wall = random_colour(rng) * np.float32(0.8)
        glass = random_colour(rng) * np.float32(rng.uniform(0.3, 1.2))
        wide, tall = rng.uniform(0.03, 0.08), rng.uniform(0.03, 0.1)
        pane = (np.abs(offset / wide % 1.0 - 0.5) < 0.3) & (np.abs(rise / tall % 1.0 - 0.5) < 0.32)
        front = _mix(wall, glass, pane.astype(np.float32)) * (0.75 + 0.5 * grain)[..., None]
        image = np.where(inside[..., None], front, image)
    return np.asarray(image, dtype=np.float32)


def street(rng: StableRng, height: int, width: int) -> F32:
    """Outdoor scene: sky with clouds, textured ground, buildings, bushes."""
    x, y, z, lon, lat = _rays(height, width)
    grain = noise3d(rng, x, y, z, rng.uniform(6.0, 12.0))
    sky_top = hsv_to_rgb(rng.uniform(0.5, 0.7), rng.uniform(0.1, 0.7), rng.uniform(0.4, 1.0))
    sky_low = hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.35), rng.uniform(0.6, 1.0))
    rise = np.clip(lat / 1.2, 0.0, 1.0) ** np.float32(0.6)
    image = _mix(np.broadcast_to(sky_low, (height, width, 3)), sky_top, rise)
    cloud = np.clip((noise3d(rng, x, y * 2.0, z, 2.5) - rng.uniform(0.4, 0.6)) * 4.0, 0.0, 1.0)
    image = _mix(image, np.ones(3, np.float32) * np.float32(rng.uniform(0.6, 1.0)), cloud)
    image = _skyline(rng, image, lon, lat, grain)
    if rng.chance(0.7):
        crown = noise3d(rng, x, np.zeros_like(y), z, rng.uniform(3.0, 7.0), 3)
        bush = (lat < (crown - rng.uniform(0.35, 0.6)) * rng.uniform(0.6, 1.4)).astype(np.float32)
        green = hsv_to_rgb(rng.uniform(0.15, 0.42), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.6))
        leaves = green * (0.3 + 1.4 * noise3d(rng, x, y, z, 22.0, 3))[..., None]
        image = _mix(image, leaves, bush)
    depth = np.minimum(1.6 / np.maximum(y, 0.01), 60.0)
    tile = _tiles(rng, x * depth, z * depth) if rng.chance(0.6) else grain
    earth = random_colour(rng) * np.float32(0.7)
    pave = random_colour(rng) * np.float32(0.8)
    ground = _mix(np.broadcast_to(earth, image.shape), pave, tile) * (0.5 + grain)[..., None]
    haze = np.asarray(np.clip(1.0 - depth / 60.0, 0.0, 1.0) ** 2, dtype=np.float32)
    ground = _mix(np.broadcast_to(sky_low * np.float32(0.7), image.shape), ground, haze)
    return np.asarray(np.where((y > 0.025)[..., None], ground, image), dtype=np.float32)


def _wall(rng: StableRng, u: F32, v: F32, grain: F32) -> F32:
    """Paint one room surface on plane coordinates in metres: pattern, pictures, doors."""
    base, other = random_colour(rng), random_colour(rng)
    pattern = rng.integer(0, 3)
    if pattern == 0:
        mix = _tiles(rng, u, v)
    elif pattern == 1:
        mix = (np.sin(u * rng.uniform(4.0, 20.0)) > 0).astype(np.float32) * np.float32(0.5)
    else:
        mix = np.clip(grain * 1.6 - 0.3, 0.0, 1.0) * np.float32(0.6)
    image = _mix(np.broadcast_to(base, (*u.shape, 3)), other, mix)
    for _ in range(rng.integer(1, 5)):
        cu, cv = rng.uniform(-2.5, 2.5), rng.uniform(-1.0, 0.8)
        hu, hv = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.9)
        du, dv = np.abs(u - cu) / hu, np.abs(v - cv) / hv
        frame, inner = np.maximum(du, dv) < 1.0, np.maximum(du, dv) < 0.86
        image = np.where(frame[..., None], random_colour(rng) * np.float32(0.4), image)
        paint = _mix(random_colour(rng), random_colour(rng), np.clip(grain * 2 - 0.5, 0, 1))
        image = np.where(inner[..., None], paint, image)
    return np.asarray(image * (0.7 + 0.6 * grain)[..., None], dtype=np.float32)


def room(rng: StableRng, height: int, width: int) -> F32:
    """Indoor scene: a box seen from inside, walls with patterns, pictures, doors."""
    x, y, z, _, _ = _rays(height, width)
    turn = rng.uniform(0.0, 2 * np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, z = c * x + s * z, -s * x + c * z
    half = (rng.uniform(2.0, 5.0), rng.uniform(1.2, 1.8), rng.uniform(2.0, 5.0))
    grain = noise3d(rng, x, y, z, rng.uniform(5.0, 14.0))
    reach = [h / np.maximum(np.abs(a), 1e-4) for h, a in zip(half, (x, y, z), strict=True)]
    depth = np.minimum.reduce(reach)
    px, py, pz = x * depth, y * depth, z * depth
    image = np.zeros((height, width, 3), dtype=np.float32)
    for axis, (a, u, v) in enumerate(((x, pz, py), (y, px, pz), (z, px, py))):
        for side in (-1.0, 1.0):
            face = (reach[axis] <= depth) & (a * side > 0)
            light = np.float32(rng.uniform(0.55, 1.1))
            image[face] = _wall(rng, u[face][None], v[face][None], grain[face][None])[0] * light
    return image


def field(rng: StableRng, height: int, width: int) -> F32:
    """Soft multi-colour noise: foliage, rock, fog; no straight edge to hold on to."""
    x, y, z, _, lat = _rays(height, width)
    image = np.broadcast_to(random_colour(rng), (height, width, 3)).astype(np.float32)
    for _ in range(4):
        layer = noise3d(rng, x, y * np.float32(rng.uniform(0.6, 2.5)), z, rng.uniform(1.5, 9.0))
        cover = np.clip((layer - rng.uniform(0.35, 0.6)) * rng.uniform(3.0, 12.0), 0.0, 1.0)
        image = _mix(image, random_colour(rng), cover)
    grain = noise3d(rng, x, y, z, 16.0)
    return np.asarray(image * (0.55 + 0.5 * grain + 0.15 * lat / 1.57)[..., None], np.float32)


def make_panorama(seed: str, size_hw: tuple[int, int] = (512, 1024)) -> NDArray[np.uint8]:
    """Make one procedural panorama.

    Args:
        seed: Key of the random stream; equal seeds give equal panoramas.
        size_hw: (height, width) of the result in pixels.

    Returns:
        (H, W, 3) uint8 RGB equirectangular image without a seam.
    """
    rng = StableRng("panorama", seed)
    kind = rng.choice((street, room, street, room, field))
    image = kind(rng, *size_hw)
    return np.asarray(np.clip(image, 0.0, 1.0) * 255.0 + 0.5, np.uint8)
