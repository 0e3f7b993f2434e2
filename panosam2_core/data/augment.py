"""Augmentation that is true on the sphere.

A panorama may be turned about any axis and mirrored, and stays a panorama; it may not be cropped
or scaled. Turning about the vertical axis moves whole columns and is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from panosam2_core.geometry.erp import ray_to_pixel, rays, roll_yaw, rotation, sample_erp


@dataclass(frozen=True)
class AugmentConfig:
    """How much a clip is changed; every frame of it in the same way.

    Attributes:
        yaw: turn about the vertical axis by any angle.
        tilt_deg: largest turn about each horizontal axis, degrees.
        flip: chance of mirroring left and right.
        photometric: largest relative change of brightness, contrast and saturation, 0 to 1.

    Raises:
        ValueError: when a number is out of range.
    """

    yaw: bool = True
    tilt_deg: float = 10.0
    flip: float = 0.5
    photometric: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 <= self.flip <= 1 and 0 <= self.photometric < 1 and 0 <= self.tilt_deg <= 90):
            raise ValueError(
                "expected flip in [0, 1], photometric in [0, 1), tilt_deg in [0, 90], got "
                f"{self.flip}, {self.photometric}, {self.tilt_deg}"
            )


def augment(
    images: Tensor, labels: Tensor, config: AugmentConfig, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Change a clip.

    Args:
        images: (T, 3, H, W) uint8 panoramas.
        labels: (T, H, W) integer ids.
        config: how much.
        generator: of the numbers; the same state gives the same result.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    width = images.shape[-1]
    if config.yaw:
        shift = int(generator.integers(width))
        images, labels = roll_yaw(images, shift), roll_yaw(labels, shift)
    if generator.random() < config.flip:
        images, labels = images.flip(-1), labels.flip(-1)
    if config.tilt_deg:
        pitch, roll = np.radians(generator.uniform(-config.tilt_deg, config.tilt_deg, 2))
        images, labels = tilt(images, labels, float(pitch), float(roll))
    if config.photometric:
        images = _recolour(images, config.photometric, generator)
    return images, labels


def tilt(images: Tensor, labels: Tensor, pitch: float, roll: float) -> tuple[Tensor, Tensor]:
    """Turn panoramas about the horizontal axes.

    Args:
        images: (T, 3, H, W) uint8.
        labels: (T, H, W) integer ids; each pixel takes the nearest one.
        pitch: radians, brings what is above the horizon in front of the camera.
        roll: radians about the direction of view; brings what is on the right up.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    size = (images.shape[-2], images.shape[-1])
    turned = rays(size) @ rotation(0.0, pitch, roll).T
    uv = ray_to_pixel(turned, size)
    moved = sample_erp(images.float(), uv).round().to(images.dtype)
    ids = sample_erp(labels[:, None].float(), uv, mode="nearest")[:, 0].to(labels.dtype)
    return moved, ids


def _recolour(images: Tensor, amount: float, generator: np.random.Generator) -> Tensor:
    brightness, contrast, saturation = 1 + amount * generator.uniform(-1, 1, 3)
    x = images.float() * brightness
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    x = grey + (x - grey) * saturation
    mean = math.fsum(grey.mean(dim=(1, 2, 3)).tolist()) / len(grey)
    result: Tensor = ((x - mean) * contrast + mean).round().clamp(0, 255)
    return result.to(images.dtype)
