"""Objects do not jump: what a mask shows far from where its object just was is something else.

Paper silent; chosen because a network that finds an object by its looks also finds others that
look like it, and memory then makes them part of the object. SAMURAI (arXiv 2411.11922) reasons
likewise with boxes; here it is the mask itself, on the sphere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.erp import lonlat_grid, wrap_pad
from panosam2_core.model import MASK_STRIDE, PointPrompts

OUTSIDE = -10.0  # logit of what is not the object, as that of a mask prompt
PROMPT_MARGIN = math.radians(3.0)  # of clicks and boxes, which are drawn by hand
WHOLE_SPHERE = (2 * math.pi, math.pi)  # width and height of a panorama

_Bits = npt.NDArray[np.bool_]


def prompt_region(prompts: PointPrompts, size_hw: tuple[int, int]) -> Tensor:
    """Where the user says that objects are.

    Args:
        prompts: of B objects.
        size_hw: (H, W) of the decoded masks.

    Returns:
        (B, 1, H, W) bool: the boxes, and the pixels of the clicks on the objects.
    """
    height, width = size_hw
    region = torch.zeros(len(prompts.xy), 1, height, width, dtype=torch.bool)
    cells = (prompts.xy / MASK_STRIDE).floor().long().cpu()
    for image, places, labels in zip(region[:, 0], cells, prompts.labels.cpu(), strict=True):
        rows, columns = places[:, 1].clamp(0, height - 1), places[:, 0] % width
        image[rows[labels == 1], columns[labels == 1]] = True
        corners = places[(labels == 2) | (labels == 3)]
        if len(corners):
            (left, top), (right, bottom) = corners.tolist()
            span = torch.arange(left, min(right, left + width - 1) + 1) % width
            image[max(0, top) : bottom + 1, span] = True
    return region.to(prompts.xy.device)


def spread(
    region: Tensor,
    radians: Sequence[float],
    fov: tuple[float, float] = WHOLE_SPHERE,
    *,
    wraps: bool = True,
) -> Tensor:
    """Grow regions of a panorama, or of a crop in local longitude and latitude, by angles.

    Args:
        region: (B, 1, H, W) bool.
        radians: B angles, at least 0.
        fov: (width, height) in radians that it spans.
        wraps: its left and right edges meet.

    Returns:
        (B, 1, H, W) bool: every pixel that can be reached by going the angle along the column
        and then the angle along the row, and at least the next one. That is a little more than
        a circle, but near a pole less of what lies beyond it: half the angle is always covered.
    """
    height, width = region.shape[-2:]
    _, lat = lonlat_grid((height, width), region.device)
    per_column = fov[0] / width * (lat * (fov[1] / math.pi)).cos()
    grown = []
    for one, angle in zip(region, radians, strict=True):
        rows = min(height, max(1, math.ceil(angle / (fov[1] / height))))
        tall = F.max_pool2d(one[None].float(), (2 * rows + 1, 1), 1, (rows, 0))[0, 0]
        columns = (angle / per_column).ceil().clamp(1, width // 2 if wraps else width).long()
        grown.append(_widen(tall, columns, wraps=wraps))
    return torch.stack(grown)[:, None]


def _widen(mask: Tensor, columns: Tensor, *, wraps: bool) -> Tensor:
    """(H, W) mask above 0, grown to both sides by (H,) columns, at most the margin's width."""
    width = mask.shape[-1]
    margin = width // 2 if wraps else width
    padded = wrap_pad(mask, margin) if wraps else F.pad(mask, (margin, margin))
    total = F.pad(padded.cumsum(dim=1), (1, 0))
    here = torch.arange(width, device=mask.device) + margin
    reach = columns[:, None]
    found = total.gather(1, here + reach + 1) - total.gather(1, here - reach)
    return found > 0.5


def connected(mask: Tensor, seeds: Tensor, *, wraps: bool = True) -> Tensor:
    """Parts of a mask that hang together with seeds, across the seam too.

    Args:
        mask: (B, 1, H, W) bool.
        seeds: (B, 1, H, W) bool.
        wraps: the left and right edges meet.

    Returns:
        (B, 1, H, W) bool, the 8-connected components of ``mask`` that a seed lies in.
    """
    # On the host whatever the device is: a label per part costs less than to let the seeds flood.
    masks, starts = mask[:, 0].cpu().numpy(), seeds[:, 0].cpu().numpy()
    kept = np.empty(masks.shape, np.bool_)
    for whole, one, start in zip(kept, masks, starts, strict=True):
        whole[:] = _connected(one, start, wraps=wraps)
    return torch.from_numpy(kept)[:, None].to(mask.device)


def _connected(mask: _Bits, seeds: _Bits, *, wraps: bool) -> _Bits:
    """The same for one (H, W) mask."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    kept = np.zeros(count, np.bool_)
    kept[labels[mask & seeds]] = True
    if wraps:
        first, last = np.pad(labels[:, 0], 1), labels[:, -1]
        meet = {p for row in range(3) for p in zip(first[row:], last, strict=False) if all(p)}
        joins = [(a, b) for a, b in meet if a != b]
        while found := [pair for pair in joins if kept[pair[0]] != kept[pair[1]]]:
            for pair in found:
                kept[list(pair)] = True
    whole: _Bits = kept[labels]
    return whole


def keep_near(logits: Tensor, near: Tensor, *, wraps: bool = True) -> Tensor:
    """Take out of masks what does not hang together with where the objects may be.

    Args:
        logits: (B, 1, H, W), above 0 inside the mask.
        near: (B, 1, H, W) bool, where the objects may be.
        wraps: the left and right edges meet.

    Returns:
        Like ``logits``; what is left out gets :data:`OUTSIDE`.
    """
    mask = logits > 0
    stray = mask & ~connected(mask, near, wraps=wraps)
    return torch.where(stray, logits.new_tensor(OUTSIDE), logits)
