"""Makes prompts from angles, strokes and label images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PromptError
from panosam2_core.field_of_view import WHOLE_PANORAMA, FieldOfView
from panosam2_core.prompts import Prompt

Pixel = tuple[float, float]
_INSIDE = 1e-6  # pixels; the lower edge of the last row is no longer in the frame


def pixel_of_lonlat(
    lon: float, lat: float, size_hw: tuple[int, int], fov: FieldOfView = WHOLE_PANORAMA
) -> Pixel:
    """Find the pixel that looks in a direction.

    Args:
        lon: longitude in radians, left-positive (REP-103); any number of turns.
        lat: latitude in radians, up-positive, in [-pi/2, pi/2].
        size_hw: (height, width) of the panorama in pixels.
        fov: the part of the sphere that it shows, as :attr:`TrackerConfig.fov`.

    Returns:
        ``(u, v)`` with ``0 <= u < W`` and ``0 <= v < H``.

    Raises:
        PromptError: ``BAD_COORDS`` for angles that are not finite, out of range, or not in the
            picture of a partial panorama.
    """
    if not (math.isfinite(lon) and math.isfinite(lat) and abs(lat) <= math.pi / 2 + 1e-9):
        raise PromptError(
            "BAD_COORDS",
            f"longitude and latitude must be finite, latitude within +-90 degrees, "
            f"got {math.degrees(lon):g} and {math.degrees(lat):g} degrees",
        )
    height, width = size_hw
    per_column, per_row = fov.pitch(size_hw)
    lon = math.remainder(lon, math.tau)
    u, v = 0.5 * width - lon / per_column, 0.5 * height - (lat - fov.middle_lat) / per_row
    if fov.wraps and u >= width:  # half a turn to the right is the left edge again
        u = 0.0
    if not fov.is_whole and not (-_INSIDE <= u < width and -_INSIDE <= v < height):
        raise PromptError(
            "BAD_COORDS",
            f"longitude {math.degrees(lon):g} and latitude {math.degrees(lat):g} degrees are "
            f"outside the part of the sphere that the {width}x{height} image shows",
        )
    # Rounding may leave the picture.
    return max(0.0, u), min(max(0.0, v), height - _INSIDE)


def pixel_of_bearing(
    bearing: Sequence[float], size_hw: tuple[int, int], fov: FieldOfView = WHOLE_PANORAMA
) -> Pixel:
    """Find the pixel that looks along a vector.

    Args:
        bearing: (3,) vector of any length above 0: x forward, y left, z up (REP-103).
        size_hw: (height, width) of the panorama in pixels.
        fov: the part of the sphere that it shows.

    Returns:
        ``(u, v)`` with ``0 <= u < W`` and ``0 <= v < H``.

    Raises:
        PromptError: ``BAD_COORDS`` for the zero vector, one that is not finite, or one that
            points outside a partial panorama.
    """
    x, y, z = (float(value) for value in bearing)
    if not all(math.isfinite(value) for value in (x, y, z)):
        raise PromptError("BAD_COORDS", f"a bearing must be finite, got ({x}, {y}, {z})")
    if x == y == z == 0:
        raise PromptError("BAD_COORDS", "a bearing must not be the zero vector")
    return pixel_of_lonlat(math.atan2(y, x), math.atan2(z, math.hypot(x, y)), size_hw, fov)


def scribble_prompt(
    object_id: int,
    line: Sequence[Pixel],
    size_hw: tuple[int, int],
    *,
    count: int = 8,
    wraps: bool = True,
    label: str = "",
) -> Prompt:
    """Make a prompt from a stroke over an object.

    SAM2 knows clicks only; it was trained with up to eight, so that many are taken from the
    stroke, evenly spaced, its ends included.

    Args:
        object_id: 1..65535.
        line: ``(u, v)`` corners of the stroke in pixels of the frame.
        size_hw: (height, width) of the frame.
        count: clicks to take, at least 1.
        wraps: the left and right edges meet, and the stroke takes the shorter way between two
            corners, over the seam where that is shorter.
        label: free text carried to the results.

    Returns:
        A prompt with clicks on the object.

    Raises:
        PromptError: ``BAD_COORDS`` for a stroke without corners, or corners outside the frame.
    """
    corners = np.array(line, dtype=np.float64).reshape(-1, 2)
    height, width = size_hw
    inside = (corners >= 0).all() and (corners < (width, height)).all()
    if not (len(corners) and np.isfinite(corners).all() and inside):
        raise PromptError(
            "BAD_COORDS", f"a scribble needs corners inside the {width}x{height} image, got {line}"
        )
    steps = np.diff(corners, axis=0)
    if wraps:
        steps[:, 0] = (steps[:, 0] + width / 2) % width - width / 2
    along = np.concatenate(([0.0], np.hypot(*steps.T).cumsum()))
    unrolled = np.concatenate((corners[:1], corners[0] + steps.cumsum(axis=0)))
    at = np.linspace(0.0, along[-1], max(1, count if along[-1] > 0 else 1))
    u, v = (np.interp(at, along, unrolled[:, axis]) for axis in (0, 1))
    u = u % width if wraps else u.clip(0)  # adding up steps may miss an edge by a rounding
    v = v.clip(0)
    last = width - _INSIDE, height - _INSIDE
    points = [(min(float(a), last[0]), min(float(b), last[1])) for a, b in zip(u, v, strict=True)]
    return Prompt(object_id, points=points, label=label)


def label_image_prompts(
    labels: npt.NDArray[np.integer], label: str = "", most: int | None = None
) -> list[Prompt]:
    """Make a prompt for each object of a label image.

    Args:
        labels: (H, W) integers, 0 = background, otherwise object ids.
        label: free text carried to the results.
        most: objects that are wanted; every one takes a mask of the image's size.

    Returns:
        A mask prompt per value above 0, smallest id first.

    Raises:
        PromptError: ``BAD_MASK`` for an array of another kind, or one without any object,
            ``TOO_MANY_OBJECTS``.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise PromptError(
            "BAD_MASK",
            f"a label image must be (H, W) integers, got {labels.shape} {labels.dtype}",
        )
    values = [int(value) for value in np.unique(labels) if value > 0]
    if not values:
        raise PromptError("BAD_MASK", "the label image is empty: no value above 0")
    if most is not None and len(values) > most:
        raise PromptError(
            "TOO_MANY_OBJECTS", f"the label image has {len(values)} objects; {most} are allowed"
        )
    return [Prompt(value, mask=labels == value, label=label) for value in values]


def resized(prompt: Prompt, size_hw: tuple[int, int], new_hw: tuple[int, int]) -> Prompt:
    """Fit a prompt to another size of its frame.

    Args:
        prompt: for a frame of ``size_hw``.
        size_hw: (height, width) in pixels.
        new_hw: (height, width) of the same picture, resized.

    Returns:
        The prompt for that. A mask keeps at least one pixel.
    """
    if new_hw == tuple(size_hw):
        return prompt
    v, u = new_hw[0] / size_hw[0], new_hw[1] / size_hw[1]
    box, mask = prompt.box, prompt.mask
    if box is not None:
        box = (box[0] * u, box[1] * v, box[2] * u, box[3] * v)
    if mask is not None:
        share = cv2.resize(
            (np.asarray(mask) != 0).astype(np.float32), new_hw[::-1], interpolation=cv2.INTER_AREA
        )
        mask = share >= min(0.5, float(share.max()))
    points = [(x * u, y * v) for x, y in prompt.points]
    return dataclasses.replace(prompt, points=points, box=box, mask=mask)
