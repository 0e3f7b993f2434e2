"""How alike two masks are: region overlap J and boundary agreement F.

As in the DAVIS benchmark and the toolkits built on it (360VOTS, PanoVOS), and as it should be on
a panorama: with a boundary that goes on across the seam, and with pixels counted by the solid
angle they cover.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal (DAVIS)

Mask = npt.NDArray[np.bool_]


class MaskScore(NamedTuple):
    """Agreement of a mask with the truth, each in [0, 1].

    Attributes:
        j: intersection over union of pixels; 1 when both are empty.
        f: F measure of the boundaries, as the published toolkits have it: a boundary ends at the
            left and right edges of the frame.
        f_wrap: the same with edges that meet. Turning the camera does not change it.
        j_sphere: ``j`` by solid angle.
        f_sphere: ``f_wrap`` with boundary pixels counted by solid angle; the tolerance stays in
            pixels, as in 360VOTS.
    """

    j: float
    f: float
    f_wrap: float
    j_sphere: float
    f_sphere: float


def score_mask(predicted: Mask, truth: Mask) -> MaskScore:
    """Compare two masks of one frame.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        The scores.

    Raises:
        ValueError: when the shapes differ or are not (H, W).
    """
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise ValueError(
            f"expected two masks (H, W) of one shape, got {predicted.shape} and {truth.shape}"
        )
    height, width = truth.shape
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    solid = np.cos(latitude)[:, None]
    even = np.ones((height, 1))
    closed = _Boundaries(predicted, truth, wrap=True)
    return MaskScore(
        j=_overlap(predicted, truth, even),
        f=_Boundaries(predicted, truth, wrap=False).agreement(even),
        f_wrap=closed.agreement(even),
        j_sphere=_overlap(predicted, truth, solid),
        f_sphere=closed.agreement(solid),
    )


def boundary(mask: Mask, *, wrap: bool) -> Mask:
    """Pixels that differ from their right, lower or lower right neighbour (DAVIS).

    Args:
        mask: (H, W) bool.
        wrap: the right neighbour of the last column is the first one. Off: the last column has
            none. The last row has no lower neighbours in either case.

    Returns:
        (H, W) bool.
    """
    below = np.concatenate([mask[1:], mask[-1:]])
    if wrap:
        right, diagonal = np.roll(mask, -1, axis=1), np.roll(below, -1, axis=1)
    else:
        right = np.concatenate([mask[:, 1:], mask[:, -1:]], axis=1)
        diagonal = np.concatenate([below[:, 1:], below[:, -1:]], axis=1)
    found: Mask = (mask != right) | (mask != below) | (mask != diagonal)
    return found


class _Boundaries:
    """Boundaries of two masks, and which of their pixels lie near the other one."""

    def __init__(self, predicted: Mask, truth: Mask, *, wrap: bool) -> None:
        self.predicted, self.truth = (boundary(m, wrap=wrap) for m in (predicted, truth))
        radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
        self.predicted_matched = self.predicted & _near(self.truth, radius, wrap=wrap)
        self.truth_matched = self.truth & _near(self.predicted, radius, wrap=wrap)

    def agreement(self, weights: npt.NDArray[np.float64]) -> float:
        """F measure with (H, 1) weights of the rows."""
        predicted, truth = _total(self.predicted, weights), _total(self.truth, weights)
        if not predicted or not truth:
            return float(predicted == truth)
        precision = _total(self.predicted_matched, weights) / predicted
        recall = _total(self.truth_matched, weights) / truth
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _overlap(predicted: Mask, truth: Mask, weights: npt.NDArray[np.float64]) -> float:
    union = _total(predicted | truth, weights)
    return _total(predicted & truth, weights) / union if union else 1.0


def _total(mask: Mask, weights: npt.NDArray[np.float64]) -> float:
    return float(mask.sum(axis=1) @ weights[:, 0])


def _near(mask: Mask, radius: int, *, wrap: bool) -> Mask:
    """Pixels within ``radius`` of the mask, the seam closed or not."""
    if not mask.any():
        return mask
    margin = radius if wrap else 0
    wide = np.pad(mask, ((0, 0), (margin, margin)), mode="wrap")
    distance = cv2.distanceTransform((~wide).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; half of one is room for rounding.
    near: Mask = (distance**2 < radius**2 + 0.5)[:, margin : margin + mask.shape[1]]
    return near
