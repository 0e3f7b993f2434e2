"""Procedural RGBA sprites: shapes with textures, made from a seed, no files needed.

Every sprite is a signed distance field (negative inside) on a square canvas [-1, 1]^2 plus a
colour texture. The shapes range from plain blobs to standing figures and vehicles, because a
tracker trained on discs alone learns discs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from panosam2_core.data.rng import StableRng

F32 = NDArray[np.float32]
Shape = Callable[[StableRng, F32, F32], F32]

SPRITE_SIZE = 160
"""Side of a sprite canvas in pixels; 70 degrees at 512x1024 are about 200 pixels."""


def hsv_to_rgb(hue: float, saturation: float, value: float) -> F32:
    """Convert one HSV colour, each part in [0, 1], to RGB float32 (3,) in [0, 1]."""
    phase = (hue * 6.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    fall = np.clip(np.minimum(phase, 4.0 - phase), 0.0, 1.0)
    return np.asarray(value - value * saturation * fall, dtype=np.float32)


def random_colour(rng: StableRng) -> F32:
    """Draw an RGB colour (3,): a quarter are near grey, as clothes and cars are."""
    saturation = rng.uniform(0.0, 0.2) if rng.chance(0.25) else rng.uniform(0.3, 0.95)
    return hsv_to_rgb(rng.uniform(), saturation, rng.uniform(0.2, 1.0))


def _upsampler(cells: int, size: int) -> F32:
    """Return the (size, cells) matrix of smooth interpolation from cells to pixels."""
    at = (np.arange(size) + 0.5) / size * (cells - 1)
    left = np.minimum(at.astype(np.int64), cells - 2)
    part = at - left
    part = part * part * (3.0 - 2.0 * part)
    matrix = np.zeros((size, cells), dtype=np.float32)
    matrix[np.arange(size), left] = 1.0 - part
    matrix[np.arange(size), left + 1] = part
    return matrix


def noise2d(rng: StableRng, size: int, cells: int, octaves: int = 3) -> F32:
    """Return smooth value noise (size, size) in [0, 1], coarsest lattice ``cells``."""
    total = np.zeros((size, size), dtype=np.float32)
    weight = 0.0
    for octave in range(octaves):
        count = cells * 2**octave + 1
        lattice = rng.uniforms(count * count).reshape(count, count).astype(np.float32)
        matrix = _upsampler(count, size)
        total += (matrix @ lattice @ matrix.T) * 0.5**octave
        weight += 0.5**octave
    return total / np.float32(weight)


def _ellipse(x: F32, y: F32, cx: float, cy: float, rx: float, ry: float) -> F32:
    """Approximate signed distance to an axis-aligned ellipse."""
    radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    return np.asarray((radius - 1.0) * min(rx, ry), dtype=np.float32)


def _box(x: F32, y: F32, cx: float, cy: float, hx: float, hy: float, r: float) -> F32:
    """Signed distance to a rounded box with half sides hx, hy and corner radius r."""
    dx = np.abs(x - cx) - (hx - r)
    dy = np.abs(y - cy) - (hy - r)
    outside = np.sqrt(np.maximum(dx, 0.0) ** 2 + np.maximum(dy, 0.0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0.0) - r, dtype=np.float32)


def _limb(x: F32, y: F32, a: tuple[float, float], b: tuple[float, float], r: float) -> F32:
    """Signed distance to a capsule of radius r from point a to point b."""
    ux, uy = b[0] - a[0], b[1] - a[1]
    part = np.clip(((x - a[0]) * ux + (y - a[1]) * uy) / (ux * ux + uy * uy + 1e-9), 0.0, 1.0)
    gap = np.sqrt((x - a[0] - part * ux) ** 2 + (y - a[1] - part * uy) ** 2)
    return np.asarray(gap - r, dtype=np.float32)


def blob(rng: StableRng, x: F32, y: F32) -> F32:
    """Closed curve whose radius is a random Fourier series of the angle."""
    angle = np.arctan2(y, x)
    radius = np.full(x.shape, 0.68)
    for order in range(2, 6):
        amplitude = rng.uniform(-0.2, 0.2) / (order - 0.6)
        radius = radius + amplitude * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(x, y) - radius, dtype=np.float32)


def polygon(rng: StableRng, x: F32, y: F32) -> F32:
    """Polygon or star with 3 to 8 corners."""
    corners = rng.integer(3, 8)
    inner = rng.uniform(0.45, 0.7) if rng.chance(0.4) else None
    count = corners * (2 if inner else 1)
    radii = np.full(count, 0.92)
    if inner:
        radii[1::2] = 0.92 * inner
    else:
        radii = radii * rng.uniforms(count, 0.75, 1.0)
    angles = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 2 * np.pi)
    px, py = radii * np.cos(angles), radii * np.sin(angles)
    return _polygon_distance(x, y, px, py)


def _polygon_distance(x: F32, y: F32, px: NDArray[np.float64], py: NDArray[np.float64]) -> F32:
    """Signed distance to a simple polygon by edge distance and crossing parity."""
    nearest = np.full_like(x, 9.0)
    inside = np.zeros(x.shape, dtype=bool)
    for i in range(len(px)):
        j = (i + 1) % len(px)
        nearest = np.minimum(nearest, _limb(x, y, (px[i], py[i]), (px[j], py[j]), 0.0))
        spans = (py[i] > y) != (py[j] > y)
        cross = (px[j] - px[i]) * (y - py[i]) / (py[j] - py[i] + 1e-12) + px[i]
        inside ^= spans & (x < cross)
    return np.asarray(np.where(inside, -nearest, nearest), dtype=np.float32)


def slab(rng: StableRng, x: F32, y: F32) -> F32:
    """Rounded rectangle: signs, boxes, doors, screens."""
    hx, hy = rng.uniform(0.7, 0.92), rng.uniform(0.7, 0.92)
    return _box(x, y, 0.0, 0.0, hx, hy, rng.uniform(0.02, 0.6) * min(hx, hy))


def disc(rng: StableRng, x: F32, y: F32) -> F32:
    """Near-circular shape; covers what it passes in front of."""
    squash = rng.uniform(0.86, 0.92)
    power = rng.uniform(2.0, 4.0)
    norm = (np.abs(x / 0.92) ** power + np.abs(y / squash) ** power) ** (1.0 / power)
    return np.asarray((norm - 1.0) * squash, dtype=np.float32)


def figure(rng: StableRng, x: F32, y: F32) -> F32:
    """Standing person: head, torso, two arms, two legs in a random pose."""
    lean = rng.uniform(-0.06, 0.06)
    shoulder, hip = rng.uniform(0.14, 0.2), rng.uniform(0.1, 0.15)
    parts = [_ellipse(x, y, lean, -0.78, rng.uniform(0.1, 0.13), rng.uniform(0.13, 0.16))]
    parts.append(_box(x, y, lean / 2, -0.28, shoulder, 0.36, 0.1))
    for side in (-1.0, 1.0):
        foot = (side * rng.uniform(0.06, 0.3), 0.88)
        knee = (side * rng.uniform(0.08, 0.2), 0.45)
        width = rng.uniform(0.07, 0.1)
        parts.append(_limb(x, y, (side * hip * 0.6, 0.05), knee, width))
        parts.append(_limb(x, y, knee, foot, width * 0.85))
        elbow = (side * (shoulder + rng.uniform(0.04, 0.2)), rng.uniform(-0.4, -0.15))
        hand = (elbow[0] + rng.uniform(-0.2, 0.2), elbow[1] + rng.uniform(-0.25, 0.3))
        parts.append(_limb(x, y, (side * shoulder * 0.9, -0.52), elbow, 0.06))
        parts.append(_limb(x, y, elbow, hand, 0.05))
    return np.asarray(np.minimum.reduce(parts), dtype=np.float32)


def vehicle(rng: StableRng, x: F32, y: F32) -> F32:
    """Side view of a car or van: body, cabin and wheels."""
    nose = rng.uniform(0.1, 0.4)
    body = _box(x, y, 0.0, 0.15, 0.92, rng.uniform(0.18, 0.26), 0.12)
    cabin = _box(x, y, rng.uniform(-0.2, 0.2), -0.15, 0.9 - nose, rng.uniform(0.2, 0.32), 0.16)
    wheels = [_ellipse(x, y, s * rng.uniform(0.5, 0.62), 0.36, 0.17, 0.17) for s in (-1.0, 1.0)]
    return np.asarray(np.minimum.reduce([body, cabin, *wheels]), dtype=np.float32)


def animal(rng: StableRng, x: F32, y: F32) -> F32:
    """Body, head, tail and four legs."""
    side = rng.sign()
    rx, ry = rng.uniform(0.45, 0.6), rng.uniform(0.2, 0.34)
    parts = [_ellipse(x, y, 0.0, 0.0, rx, ry)]
    head = (side * rng.uniform(0.58, 0.7), rng.uniform(-0.5, -0.2))
    parts.append(_ellipse(x, y, *head, rng.uniform(0.17, 0.26), rng.uniform(0.15, 0.22)))
    parts.append(_limb(x, y, (side * rx * 0.7, -0.05), head, 0.11))
    for place in (-0.75, -0.45, 0.45, 0.75):
        foot = (place * rx + rng.uniform(-0.1, 0.1), rng.uniform(0.55, 0.8))
        parts.append(_limb(x, y, (place * rx, 0.05), foot, 0.075))
    tail = (-side * rng.uniform(0.7, 0.9), rng.uniform(-0.5, 0.2))
    parts.append(_limb(x, y, (-side * rx * 0.9, 0.0), tail, 0.05))
    return np.asarray(np.minimum.reduce(parts), dtype=np.float32)


def cluster(rng: StableRng, x: F32, y: F32) -> F32:
    """Union of overlapping ellipses: bushes, bags, bundles."""
    parts = [_ellipse(x, y, 0.0, 0.0, 0.5, 0.5)]
    for _ in range(rng.integer(3, 6)):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.55)
        centre = (reach * float(np.cos(angle)), reach * float(np.sin(angle)))
        parts.append(_ellipse(x, y, *centre, rng.uniform(0.2, 0.38), rng.uniform(0.2, 0.38)))
    return np.asarray(np.minimum.reduce(parts), dtype=np.float32)


SHAPES: dict[str, Shape] = {
    "blob": blob,
    "polygon": polygon,
    "slab": slab,
    "disc": disc,
    "figure": figure,
    "vehicle": vehicle,
    "animal": animal,
    "cluster": cluster,
}
"""Shape families; people are drawn more often than the rest by :func:`make_sprite`."""

_DRAW_ORDER = ("figure", "blob", "figure", "polygon", "vehicle", "slab", "animal", "cluster")


def _pattern(rng: StableRng, x: F32, y: F32) -> F32:
    """Return a pattern (S, S) in [0, 1]: stripes, checks, dots, patches or noise."""
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(2.0, 7.0)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    kind = rng.integer(0, 5)
    if kind == 0:
        return np.asarray(np.sin(along * pitch * np.pi) > rng.uniform(-0.5, 0.5), np.float32)
    if kind == 1:
        checks = np.sin(along * pitch * np.pi) * np.sin(across * pitch * np.pi)
        return np.asarray(checks > 0, np.float32)
    if kind == 2:
        dots = np.hypot(along * pitch % 1.0 - 0.5, across * pitch % 1.0 - 0.5)
        return np.asarray(dots < rng.uniform(0.2, 0.4), np.float32)
    field = noise2d(rng, x.shape[0], rng.integer(2, 6))
    if kind == 3:
        return np.asarray(field > 0.5, np.float32)
    if kind == 4:
        return np.asarray((y + rng.uniform(-0.3, 0.3)) > 0, np.float32)
    return np.asarray(np.clip((field - 0.3) * 2.5, 0.0, 1.0), np.float32)


def _texture(rng: StableRng, x: F32, y: F32, distance: F32) -> F32:
    """Return RGB (S, S, 3) in [0, 1] for a shape given its distance field."""
    colours = [random_colour(rng) for _ in range(3)]
    mix = _pattern(rng, x, y)[..., None] * np.float32(rng.uniform(0.4, 1.0))
    image = colours[0] * (1.0 - mix) + colours[1] * mix
    if rng.chance(0.6):
        spots = _pattern(rng, x, y)[..., None] * np.float32(rng.uniform(0.3, 0.9))
        image = image * (1.0 - spots) + colours[2] * spots
    grain = noise2d(rng, x.shape[0], 8, 3)[..., None] - 0.5
    image = image * (1.0 + np.float32(rng.uniform(0.1, 0.6)) * grain)
    if rng.chance(0.5):
        rim = np.clip(1.0 + distance / rng.uniform(0.05, 0.25), 0.0, 1.0)[..., None]
        image = image * (1.0 - 0.6 * rim)
    return np.asarray(np.clip(image, 0.0, 1.0), dtype=np.float32)


def _dress(rng: StableRng, image: F32, x: F32, y: F32) -> F32:
    """Paint skin, trousers and hair over a figure so that it reads as a person."""
    skin = np.array([0.9, 0.7, 0.55], np.float32) * np.float32(rng.uniform(0.35, 1.0))
    legs, hair = random_colour(rng), random_colour(rng) * np.float32(0.5)
    waist = np.float32(rng.uniform(-0.05, 0.12))
    shade = (0.85 + 0.15 * x)[..., None]
    image = np.where((y > waist)[..., None], legs * shade, image)
    image = np.where((y > 0.8)[..., None], hair, image)
    image = np.where((y < -0.62)[..., None], skin * shade, image)
    return np.asarray(np.where((y < -0.82)[..., None], hair, image), dtype=np.float32)


def make_sprite(seed: str, shape: str | None = None, size: int = SPRITE_SIZE) -> NDArray[np.uint8]:
    """Make one procedural sprite.

    Args:
        seed: Key of the random stream; equal seeds give equal sprites.
        shape: Family name from :data:`SHAPES`; None draws one.
        size: Side of the square result in pixels.

    Returns:
        (size, size, 4) uint8 RGBA, straight (not premultiplied) alpha.
    """
    rng = StableRng("sprite", seed)
    kind = rng.choice(_DRAW_ORDER)
    kind = shape or kind
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2.0 - 1.0).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    distance = SHAPES[kind](rng, x, y)
    image = _texture(rng, x, y, distance)
    if kind == "figure":
        image = _dress(rng, image, x, y)
    alpha = np.clip(0.5 - distance * (size / 2.0), 0.0, 1.0)
    rgba = np.concatenate([image, alpha[..., None]], axis=-1)
    return np.asarray(rgba * 255.0 + 0.5, dtype=np.uint8)
