"""What a user can say about an object, and the check that it makes sense on a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PromptError

MAX_OBJECT_ID = 65535  # fits the uint16 of the ROS messages and of 16-bit label images


@dataclass(frozen=True)
class Prompt:
    """Clicks, a box or a mask that name one object on one frame.

    Coordinates are pixels of the *original* frame with the origin at the top-left **corner**:
    pixel column ``i`` covers ``[i, i + 1)`` and its centre is ``i + 0.5``.

    Attributes:
        object_id: 1..65535. A new id adds an object, a known one is prompted again.
        points: ``(u, v)`` clicks, ``0 <= u < W``, ``0 <= v < H``.
        labels: one per point, 1 = on the object, 0 = not on it. Empty: all 1.
        box: ``(x0, y0, x1, y1)``. ``x1 < x0`` or ``x1 > W`` means that the box runs across the
            panorama's seam to the right.
        mask: ``(H, W)`` array, non-zero = object. Excludes points and box.
        refine: correct what the tracker sees of a known object on this frame, instead of saying
            afresh what the object is: the points and box are read together with the object's
            memory and its predicted mask, as in SAM2's interactive correction. Needs points or a
            box; all points may be beside the object.
        label: free text carried to the results.
        replace: forget what is known of an object with this id, if there is one.
    """

    object_id: int
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    mask: npt.NDArray[np.generic] | None = None
    label: str = ""
    refine: bool = False
    replace: bool = False


def check_prompt(prompt: Prompt, size_hw: tuple[int, int], *, pano: bool) -> None:
    """Raise when ``prompt`` cannot be applied to a frame of ``size_hw``.

    Args:
        prompt: the prompt to check.
        size_hw: (height, width) of the frame in pixels.
        pano: whether boxes may cross the left/right edge.

    Raises:
        PromptError: code ``UNKNOWN_ID`` for an id outside 1..65535, ``BAD_COORDS`` for points or
            a box that are not finite or not on the frame, ``BAD_MASK`` for a mask of the wrong
            shape or an empty one.
    """
    number: object = prompt.object_id
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not whole or not 1 <= prompt.object_id <= MAX_OBJECT_ID:
        raise PromptError(
            "UNKNOWN_ID", f"object_id must be 1..{MAX_OBJECT_ID}, a whole number, got {number!r}"
        )
    _check_types(prompt)
    kinds = len(prompt.points) > 0 or prompt.box is not None, prompt.mask is not None
    if sum(kinds) != 1:
        raise PromptError(
            "BAD_COORDS",
            "a prompt needs points and/or a box, or else a mask; got "
            + ("both" if all(kinds) else "neither"),
        )
    if prompt.refine and prompt.mask is not None:
        raise PromptError("BAD_COORDS", "a correction (refine) needs points and/or a box")
    _check_points(prompt, size_hw)
    if prompt.box is not None:
        _check_box(prompt.box, size_hw, pano=pano)
    if prompt.mask is not None:
        _check_mask(prompt.mask, size_hw)


def _check_types(prompt: Prompt) -> None:
    """Refuse what is no list of numbers, before anything is computed with it."""
    box = () if prompt.box is None else prompt.box
    try:
        numbers = [*box, *prompt.labels, *(value for point in prompt.points for value in point)]
    except TypeError as error:
        text = f"points, labels and box must be lists: {error}"
        raise PromptError("BAD_COORDS", text) from error
    odd = [value for value in numbers if not isinstance(value, Real)]
    if odd:
        text = f"expected numbers in points, labels and box, got {odd[0]!r}"
        raise PromptError("BAD_COORDS", text)


def _check_points(prompt: Prompt, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    if len(prompt.labels) not in (0, len(prompt.points)):
        raise PromptError(
            "BAD_COORDS",
            f"expected one label per point: {len(prompt.points)} points, "
            f"{len(prompt.labels)} labels",
        )
    if any(label not in (0, 1) for label in prompt.labels):
        raise PromptError("BAD_COORDS", f"labels must be 0 or 1, got {list(prompt.labels)}")
    names_object = prompt.box is not None or prompt.refine
    if len(prompt.labels) and not names_object and 1 not in prompt.labels:
        raise PromptError("BAD_COORDS", "at least one point must be on the object (label 1)")
    for point in prompt.points:
        if len(point) != 2:
            raise PromptError("BAD_COORDS", f"a point must be (u, v), got {point}")
        u, v = point
        if not (math.isfinite(u) and math.isfinite(v)):
            raise PromptError("BAD_COORDS", f"point ({u}, {v}) is not finite")
        if not (0 <= u < width and 0 <= v < height):
            raise PromptError(
                "BAD_COORDS", f"point ({u:g}, {v:g}) is outside the {width}x{height} image"
            )


def _check_box(
    box: tuple[float, float, float, float], size_hw: tuple[int, int], *, pano: bool
) -> None:
    height, width = size_hw
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise PromptError("BAD_COORDS", f"box must be four finite numbers, got {tuple(box)}")
    x0, y0, x1, y1 = box
    crosses = x1 < x0 or x1 > width
    x_ok = 0 <= x0 < width and x1 >= 0 and (x1 <= width or (pano and x1 < x0 + width))
    if not x_ok or not 0 <= y0 < y1 <= height or x0 == x1 or (crosses and not pano):
        seam = " (x1 < x0 or x1 > width crosses the seam)" if pano else ""
        raise PromptError(
            "BAD_COORDS",
            f"box must have 0 <= x0 < {width}, x1 >= 0, 0 <= y0 < y1 <= {height} and a positive "
            "width"
            f"{seam}, got ({x0:g}, {y0:g}, {x1:g}, {y1:g})",
        )


def _check_mask(mask: npt.NDArray[np.generic], size_hw: tuple[int, int]) -> None:
    if not isinstance(mask, np.ndarray):
        raise PromptError("BAD_MASK", f"mask must be a NumPy array, got {type(mask).__name__}")
    if mask.shape != tuple(size_hw):
        raise PromptError(
            "BAD_MASK", f"mask must have the frame's shape {tuple(size_hw)}, got {mask.shape}"
        )
    if mask.dtype.kind not in "buif":
        raise PromptError("BAD_MASK", f"mask must be boolean or numeric, got {mask.dtype}")
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise PromptError("BAD_MASK", "mask holds values that are not finite")
    if not mask.any():
        raise PromptError("BAD_MASK", "mask is empty: no pixel is set")


def box_span(box: tuple[float, float, float, float], width: int) -> tuple[float, float]:
    """Left and right edge of a box in unwrapped columns.

    Args:
        box: ``(x0, y0, x1, y1)`` in pixels, may cross the seam.
        width: of the panorama in pixels.

    Returns:
        ``(left, right)`` with ``0 <= left < width`` and ``left < right``; ``right`` may exceed
        ``width``.
    """
    left, right = box[0], box[2]
    return left, right if right > left else right + width
