"""Finds the places of a panorama that have the colours of an object, without the network.

A network recognises what it has lost when it is shown it in the middle of a view of the right
width, and hardly ever on a panorama (docs/views.md), so a search had better know where to look.
Paper silent; likeness of a window's colours as in :mod:`panosam2_core.likeness`, at every place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry import erp
from panosam2_core.likeness import colours

GRID_HW = (64, 128)  # places, of 2.8 degrees
PIXELS = 4 * 4  # of the panorama, that speak for a place
APART = math.radians(15.0)  # least angle between two answers


def likely_places(
    frame: Tensor, known: Tensor, size: float, first: float, count: int
) -> list[tuple[float, float]]:
    """Find them.

    Args:
        frame: (3, H, W) uint8 RGB, a closed panorama.
        known: (P, 216) portraits of an object.
        size: of the object in steradians.
        first: longitude in the frame from which columns are counted, so that a rolled panorama
            has the same places, rolled.
        count: how many are wanted.

    Returns:
        (longitude, latitude) of each in radians, likeliest first; fewer where nothing else has any
        of its colours.
    """
    # Views snap to eighths of a pixel; what is on a pixel must not fall to the one before it.
    turned = math.floor(round((first / math.tau + 0.5) * frame.shape[-1] * 8) / 8)
    has = known.amax(dim=0) > 0
    likeness = _likeness(_cells(frame, turned, has), known[:, has], math.sqrt(size))
    rays = erp.rays(GRID_HW, device=frame.device)
    found = []
    for _ in range(count):
        row, column = divmod(int(likeness.argmax()), GRID_HW[1])
        if float(likeness[row, column]) <= 0:
            break
        lon = ((column + 0.5) / GRID_HW[1] + turned / frame.shape[-1] - 0.5) * math.tau
        lat = (0.5 - (row + 0.5) / GRID_HW[0]) * math.pi
        found.append((math.remainder(lon, math.tau), lat))
        likeness[(rays * rays[row, column]).sum(dim=-1) > math.cos(APART)] = -1.0
    return found


def _cells(frame: Tensor, turned: int, of: Tensor) -> Tensor:
    """(C, h, w) pixels of some colours in every cell, of some pixels; columns from a turn on."""
    rows, columns = (
        ((torch.arange(4 * cells, device=frame.device) + 0.5) * pixels / (4 * cells)).long()
        for cells, pixels in zip(GRID_HW, frame.shape[-2:], strict=True)
    )
    pixels = frame.index_select(1, rows)
    pixels = pixels.index_select(2, (columns + turned) % frame.shape[-1])
    height, width = GRID_HW
    cell = torch.arange(height * width, device=frame.device).view(height, width)
    cell = cell.repeat_interleave(4, 0).repeat_interleave(4, 1)
    asked = int(of.sum())
    number = torch.where(of, of.cumsum(0) - 1, asked)  # all others count as one more
    kinds = number[colours(pixels.flatten(1) / 255)] * height * width + cell.flatten()
    counts = torch.bincount(kinds, minlength=(asked + 1) * height * width)
    return counts.view(-1, height, width)[:asked]


def _likeness(counts: Tensor, known: Tensor, side: float) -> Tensor:
    """(h, w) likeness of what is in a window about each cell, as wide and high as the object."""
    counts = counts.float()
    height, width = GRID_HW
    rows = _odd(side * height / math.pi, height)
    tall = F.avg_pool2d(
        counts[None], (rows, 1), stride=1, padding=(rows // 2, 0), count_include_pad=False
    )[0]
    lines = []
    for row in range(height):
        level = math.cos((0.5 - (row + 0.5) / height) * math.pi)
        columns = _odd(side / level * width / math.tau, width)
        line = F.pad(tall[:, row], (columns // 2, columns // 2), mode="circular")
        lines.append(F.avg_pool1d(line, columns, stride=1))
    roots = (torch.stack(lines, dim=1) / PIXELS).sqrt()
    return torch.stack([(one[:, None, None] * roots).sum(dim=0) for one in known]).amax(dim=0)


def _odd(cells: float, most: int) -> int:
    """The nearest odd number of cells, at least one and fewer than all."""
    return min(2 * math.floor(cells / 2) + 1, most - 1 - most % 2)
