"""Draws masks and what is known of the objects onto a frame, for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.results import ObjectState

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.unsignedinteger]

_STATES = {
    ObjectState.VISIBLE: "",
    ObjectState.OCCLUDED: " hidden",
    ObjectState.LOST: " lost",
}
_EDGE_STEPS = 24  # points per edge of a view
_TEXT_WIDTH = 1024  # pixels of a frame on which text is 11 pixels high; it grows with the frame
_GOLDEN = 0.61803398875  # spreads the hues of neighbouring ids as far as it goes


class Shown(Protocol):
    """What is written beside an object: an ``ObjectResult``, or a ``TrackedObject`` message."""

    @property
    def label(self) -> str:
        """The user's name for it."""

    @property
    def state(self) -> int:
        """A value of ``ObjectState``."""

    @property
    def visibility(self) -> float:
        """From 0 to 1."""

    @property
    def crosses_seam(self) -> bool:
        """Whether the box runs across the left and right edge."""

    @property
    def box(self) -> Sequence[float]:
        """``(x, y, width, height)`` in pixels of the frame."""

    @property
    def view(self) -> Sequence[float] | None:
        """``(lon, lat, width, height)`` of where it was looked for, as ``View`` has it.

        ``None`` or zeros: the whole frame.
        """


def colour(object_id: int) -> tuple[int, int, int]:
    """Gives every id its own colour.

    Args:
        object_id: The id.

    Returns:
        Red, green, blue, 0 to 255.
    """
    r, g, b = colorsys.hsv_to_rgb((0.98 + (object_id - 1) * _GOLDEN) % 1.0, 0.85, 1.0)
    return round(r * 255), round(g * 255), round(b * 255)


def draw(
    rgb: Pixels,
    labels: Labels,
    objects: Mapping[int, Shown],
    *,
    alpha: float,
    max_width: int,
) -> Pixels:
    """Draws one frame.

    Args:
        rgb: (height, width, 3) uint8.
        labels: (height, width), the object id per pixel, 0 is background.
        objects: The objects of this frame, by id.
        alpha: Opacity of the masks, 0 to 1.
        max_width: The result is made no wider than this, in pixels.

    Returns:
        (h, w, 3) uint8 RGB, a new array.
    """
    scale = min(1.0, max_width / rgb.shape[1])
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    canvas = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb.copy()
    for object_id, found in objects.items():
        mask = (labels == object_id).astype(np.uint8)
        if scale < 1:
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        if mask.any():
            _tint(canvas, mask, colour(object_id), alpha)
            _name(canvas, object_id, found, scale)
        if found.view is not None and found.view[2]:
            _window(canvas, found.view, colour(object_id))
    _legend(canvas, objects)
    return canvas


def tint(rgb: Pixels, labels: npt.NDArray[np.integer[Any]], alpha: float) -> Pixels:
    """Colours the objects of a label image, without names.

    Args:
        rgb: (height, width, 3) uint8.
        labels: (height, width), the object id per pixel, 0 is background.
        alpha: Opacity of the masks, 0 to 1.

    Returns:
        (height, width, 3) uint8 RGB, a new array.
    """
    canvas = rgb.copy()
    for object_id in np.unique(labels[labels > 0]).tolist():
        _tint(canvas, (labels == object_id).astype(np.uint8), colour(object_id), alpha)
    return canvas


def _tint(canvas: Pixels, mask: Pixels, rgb: tuple[int, int, int], alpha: float) -> None:
    x, y, w, h = cv2.boundingRect(mask)
    area, chosen = canvas[y : y + h, x : x + w], mask[y : y + h, x : x + w].astype(bool)
    mixed = area[chosen] * (1 - alpha) + np.array(rgb) * alpha
    area[chosen] = mixed.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, rgb, 2 * _stroke(canvas), cv2.LINE_AA)


def _name(canvas: Pixels, object_id: int, found: Shown, scale: float) -> None:
    width = canvas.shape[1]
    x, y = found.box[0] * scale, found.box[1] * scale
    text = f"{object_id} {found.label}".strip()
    low = round(12 * _text_scale(canvas))
    # An object across the seam is named on both sides.
    for left in (x, x - width) if x + found.box[2] * scale > width else (x,):
        _write(canvas, text, (max(int(left), 2), max(int(y) - 6, low)), colour(object_id))


def _window(canvas: Pixels, view: Sequence[float], rgb: tuple[int, int, int]) -> None:
    """Outline of a view; on the panorama its edges are curves, and the seam cuts them."""
    lon, lat, width, height = (float(value) for value in view)
    side, steps = np.linspace(-1, 1, _EDGE_STEPS), np.ones(_EDGE_STEPS)
    across = np.concatenate([side, steps, -side, -steps]) * width / 2
    up = np.concatenate([steps, -side, -steps, side]) * height / 2
    # Local ray (x ahead, y right, z up), lifted by the view's latitude.
    ahead, right, high = np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)
    ahead, high = (
        np.cos(lat) * ahead - np.sin(lat) * high,
        np.sin(lat) * ahead + np.cos(lat) * high,
    )
    rows, columns = canvas.shape[:2]
    u = ((np.arctan2(right, ahead) - lon) / (2 * np.pi) + 0.5) % 1 * columns
    v = (0.5 - np.arcsin(np.clip(high, -1, 1)) / np.pi) * rows
    points = np.stack([u, v], axis=1)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        if abs(start[0] - end[0]) < columns / 2:
            cv2.line(canvas, _pixel(start), _pixel(end), rgb, _stroke(canvas), cv2.LINE_AA)


def _pixel(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _legend(canvas: Pixels, objects: Mapping[int, Shown]) -> None:
    for line, (object_id, found) in enumerate(objects.items()):
        state = " seam" if found.crosses_seam else _STATES[ObjectState(found.state)]
        text = f"{object_id} {found.label}".strip() + f"  {found.visibility:.2f}{state}"
        step = 18 * _text_scale(canvas)
        _write(canvas, text, (6, round(step + step * line)), colour(object_id))


def _text_scale(canvas: Pixels) -> float:
    return max(0.8, int(canvas.shape[1]) / _TEXT_WIDTH)


def _stroke(canvas: Pixels) -> int:
    return max(1, round(_text_scale(canvas)))


def _write(canvas: Pixels, text: str, at: tuple[int, int], rgb: tuple[int, int, int]) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, _text_scale(canvas)
    thin = _stroke(canvas)
    cv2.putText(canvas, text, at, font, 0.5 * scale, (0, 0, 0), 3 * thin, cv2.LINE_AA)
    cv2.putText(canvas, text, at, font, 0.5 * scale, rgb, thin, cv2.LINE_AA)
