"""Turns the panorama so that its edges are away from its objects.

What a network sees at the left and right edge of a panorama is worse than what it sees in the
middle, or at best equal. A turn about the vertical axis is exact: columns are rolled, and what is
remembered with them, by whole tokens. It also makes a tracker's masks independent of where the
camera has its edge: the panorama is turned to the same columns of the world. Where objects have
views of their own it need not follow them, and is cut once, where the frame itself says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from panosam2_core.geometry.region import circular_interval
from panosam2_core.prompts import Prompt, box_span

Span = tuple[int, int]  # first column in [0, width), number of columns

NEAR = 1 / 16  # of the width: nearer to an edge than this, an object is too near
ROWS = 256  # of a frame that are added up at the least, if it has so many
LEAST_SHARE = 1e-6  # of the light; what is less one-sided is so by rounding
LEAST_STEP = 32  # pixels of the network's input: networks of this stride see no difference


def columns_of(prompt: Prompt, width: int) -> list[Span]:
    """Tell which columns of a closed panorama a prompt is about.

    Args:
        prompt: that fits the frame.
        width: of the frame in pixels.

    Returns:
        (first column in [0, width), number of columns) of its mask or its box, and of each click
        on the object.
    """
    if prompt.mask is not None:
        return [circular_interval((np.asarray(prompt.mask) != 0).any(axis=0), pano=True)]
    labels = list(prompt.labels) or [1] * len(prompt.points)
    spans = [
        (int(u), 1) for (u, _), label in zip(prompt.points, labels, strict=True) if label == 1
    ]
    if prompt.box is not None:
        left, right = box_span(prompt.box, width)
        spans.append((int(left), math.ceil(right) - int(left)))
    return spans


def free_edge(spans: Sequence[Span], width: int) -> tuple[int, int]:
    """Find where an edge is farthest from all objects.

    Args:
        spans: columns that objects take, at least one.
        width: columns all round.

    Returns:
        The middle column of the widest gap, and the columns from there to the nearest object.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    # Round once to learn how far the last objects reach past the first column.
    reach = max(start + count for start, count in spans) - width
    gaps = []
    for i in order:
        start, count = spans[i]
        # Of equal gaps the one before the object that is named first, wherever column 0 is.
        gaps.append((start - reach, -i, reach))
        reach = max(reach, start + count)
    length, _, start = max(gaps)
    room = max(0, length) // 2
    return (start + room) % width, room


def dark_edge(frame: Tensor) -> int | None:
    """Find a column that belongs to the scene, whatever the column at which a camera begins.

    Paper silent; chosen because it costs one sum and hangs on no object: opposite to the
    direction from which most light comes (the first harmonic of the columns' brightness).

    Args:
        frame: (1, 3, H, W) uint8 of a closed panorama.

    Returns:
        A column in [0, W); of a rolled frame the rolled column. ``None`` where light comes from
        nowhere in particular, as of a black frame.
    """
    height, width = frame.shape[-2:]
    rows = frame[0, :, :: max(1, height // ROWS)]  # enough to see where light comes from
    light = rows.sum(dim=(0, 1), dtype=torch.int64).to("cpu", torch.float64)
    angle = (torch.arange(width, dtype=torch.float64) + 0.5) * (math.tau / width)
    east, north = float(light @ angle.cos()), float(light @ angle.sin())
    if math.hypot(east, north) <= LEAST_SHARE * float(light.sum()):
        return None
    dark = (math.atan2(north, east) / math.tau + 0.5) * width
    # Symmetric frames are dark in the middle of a column or between two: far from this rounding.
    return math.floor(dark + 0.25) % width


def clearance(edge: int, spans: Sequence[Span], width: int) -> int:
    """Columns from an edge to the nearest object.

    Args:
        edge: column.
        spans: columns that objects take, at least one.
        width: columns all round.

    Returns:
        0 when the edge lies in an object.
    """
    nearest = width
    for start, count in spans:
        after = (start - edge) % width
        inside = after + count > width  # the object begins before the edge and ends after it
        nearest = 0 if inside else min(nearest, after, width - after - count)
    return max(0, nearest)


def move(edge: int, spans: Sequence[Span], width: int, step: int) -> int:
    """Tell by how much to turn a panorama further.

    Args:
        edge: column at which it is cut now.
        spans: columns that objects take.
        width: columns all round.
        step: columns; what is remembered can be turned by multiples of it only.

    Returns:
        Columns to the right, a multiple of ``step``; 0 while no object is near the edge, or if
        that would not help much.
    """
    if not spans:
        return 0
    now = clearance(edge, spans, width)
    if now >= NEAR * width:
        return 0
    best, _ = free_edge(spans, width)
    moved = math.floor((best - edge) % width / step + 0.5) * step % width
    room = clearance((edge + moved) % width, spans, width)
    return moved if room >= max(2 * now, NEAR * width) else 0


def least_step(width: int, input_width: int, tokens: int) -> int:
    """The smallest turn that is whole in every respect.

    Args:
        width: columns of the frame.
        input_width: columns of the network's input.
        tokens: columns of its token grid.

    Returns:
        Columns of the frame: whole, also in tokens and in :data:`LEAST_STEP` of the input.
    """
    coarse = math.lcm(tokens // math.gcd(width, tokens), LEAST_STEP * tokens // input_width)
    return width * coarse // tokens
