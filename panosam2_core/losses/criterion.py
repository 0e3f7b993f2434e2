"""The training criterion (paper 3.3, Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.model import Decoded


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; the paper's values.

    Attributes:
        bce: weighted binary cross entropy of the best mask.
        dice: dice of the best mask.
        iou: squared error of every mask's predicted IoU.
        occlusion: binary cross entropy of the visibility.
        other_masks: share of the mask terms that also reaches the candidates that are not best.
            Paper silent (0); above 0 a small network's candidates stay usable while its IoU head
            still chooses badly.
    """

    bce: float = 0.5
    dice: float = 0.5
    iou: float = 1.0
    occlusion: float = 0.1
    other_masks: float = 0.0


class FrameLoss(NamedTuple):
    """Loss of one frame, means over B objects.

    Attributes:
        total: weighted sum of the terms.
        bce: of the best mask, over visible objects.
        dice: likewise.
        iou: squared error of the predicted IoU.
        occlusion: cross entropy of the visibility.
        true_iou: (B,) IoU of the mask the model chose, NaN where the object is not visible.
    """

    total: Tensor
    bce: Tensor
    dice: Tensor
    iou: Tensor
    occlusion: Tensor
    true_iou: Tensor


def frame_loss(
    decoded: Decoded,
    target: Tensor,
    weights: Tensor,
    visible: Tensor,
    config: LossConfig,
    *,
    pano: bool = True,
) -> FrameLoss:
    """Compare decoded masks with the truth.

    Mask terms use logits before the visibility gate: the gate overwrites them with a constant and
    would leave no gradient. Absent objects take part in the occlusion term only, as in SAM2.

    Args:
        decoded: of B objects.
        target: (B, H', W') float 0..1 truth, at the resolution of the loss.
        weights: (B, H', W') from :func:`panosam2_core.losses.distortion.distortion_weights`.
        visible: (B,) bool.
        config: weights of the terms.
        pano: circular columns when logits are resized to the target's resolution.

    Returns:
        The loss and its parts.
    """
    size = (target.shape[-2], target.shape[-1])
    logits = resize_wrap(decoded.candidates, size, pano=pano)  # (B, M, H', W')
    truth = target[:, None].expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    bce = (bce * weights[:, None]).mean(dim=(2, 3))  # (B, M)
    dice = dice_loss(logits.sigmoid(), truth)
    mask_terms = config.bce * bce + config.dice * dice
    best = mask_terms.argmin(dim=1, keepdim=True)
    mean_mask = (1 - config.other_masks) * mask_terms.gather(1, best)[:, 0]
    mean_mask = mean_mask + config.other_masks * mask_terms.mean(dim=1)
    ious = binary_iou(logits > 0, truth > 0.5)
    iou_error = (decoded.candidate_ious - ious).square().mean(dim=1)
    seen = visible.to(logits.dtype)
    count = seen.sum().clamp(min=1)
    occlusion = F.binary_cross_entropy_with_logits(decoded.object_logit[:, 0], seen)
    iou = (iou_error * seen).sum() / count
    chosen = decoded.candidate_ious.argmax(dim=1, keepdim=True)
    return FrameLoss(
        total=(mean_mask * seen).sum() / count + config.iou * iou + config.occlusion * occlusion,
        bce=(bce.gather(1, best)[:, 0] * seen).sum() / count,
        dice=(dice.gather(1, best)[:, 0] * seen).sum() / count,
        iou=iou,
        occlusion=occlusion,
        true_iou=ious.gather(1, chosen)[:, 0].masked_fill(~visible, torch.nan),
    )


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Dice loss over the last two dimensions, smoothed by one pixel as in SAM2.

    Args:
        probability: (..., H, W) in 0..1.
        target: like ``probability``.

    Returns:
        (...) in 0..1.
    """
    overlap = 2 * (probability * target).sum(dim=(-2, -1))
    return 1 - (overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)


def binary_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union over the last two dimensions.

    Args:
        a: (..., H, W) bool.
        b: like ``a``.

    Returns:
        (...) float; 1 where both are empty.
    """
    union = (a | b).sum(dim=(-2, -1))
    iou = (a & b).sum(dim=(-2, -1)) / union.clamp(min=1)
    return torch.where(union > 0, iou, 1.0)
