"""Pixel weights of the distortion-guided mask loss (paper section 3.3, Algorithm 2).

An equirectangular picture shows an object too large near the poles and hides how small it is in
its surroundings. The weights are therefore computed in a less distorted crop about the object
and projected back onto the panorama:

1. BFoV of the ground-truth mask; an absent object weighs 1 everywhere.
2. Search region: the BFoV enlarged; crop the mask in it.
3. ``r``: share of foreground in the crop; ``w_fg = clip((1 - r) / r, w_min, w_max)``.
4. Background at distance ``d`` from the object, ``d_max`` at most, both in crop pixels:
   ``w_bg = clip(w_fg (1 - r) exp(-a d / d_max), w_min, w_max)``.
5. Back on the panorama; everything outside the region weighs ``w_min``.

The equation is not legible in the paper. Read literally ("the foreground weight is the foreground
proportion") it could never reach the upper clip of 2 and would favour *large* objects. Chosen
because the ratio of background to foreground satisfies every other sentence of section 3.3 and
the log-symmetric ranges of the paper's table 8: weights are continuous across the contour, hard
background next to the object weighs almost as much as the object, and far background the least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from panosam2_core.geometry.bfov import BFoV, crop, enlarge, fit_bfov, uncrop

_FloatArray = npt.NDArray[np.float32]
_BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DistortionConfig:
    """Settings of `distortion_weights`.

    Attributes:
        w_min: Least weight, above 0 (paper: 0.5).
        w_max: Greatest weight, at least ``w_min`` (paper: 2).
        ratio: Enlargement of the object's BFoV into the search region, at least 1 (paper silent;
            2 as in 360VOT's framework. The tight BFoV would make ``r`` about a half for every
            object).
        crop_hw: Size ``(h, w)`` of the crop (paper silent; 256 x 512 for reference results,
            64 x 128 is enough for masks of 256 x 512 and below: the weights are smooth).
        min_fov_h: Least width of the search region in radians (paper silent; 0).
        min_fov_v: Least height of the search region in radians (paper silent; 0).
        decay: The factor ``a`` of the background's decay (the paper names a "decay factor" without
            a number). None: ``ln(w_max / w_min)``, chosen because the greatest weight then decays
            to exactly the least at ``d_max``.

    Raises:
        ValueError: A number is out of range.
    """

    w_min: float = 0.5
    w_max: float = 2.0
    ratio: float = 2.0
    crop_hw: tuple[int, int] = (256, 512)
    min_fov_h: float = 0.0
    min_fov_v: float = 0.0
    decay: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 < self.w_min <= self.w_max < math.inf:
            raise ValueError(
                f"expected 0 < w_min <= w_max, got w_min={self.w_min}, w_max={self.w_max}; "
                "the paper uses 0.5 and 2"
            )
        if not self.ratio >= 1.0 or min(self.crop_hw) < 1:
            raise ValueError(
                f"expected ratio >= 1 and a crop of positive size, got ratio={self.ratio}, "
                f"crop_hw={self.crop_hw}"
            )
        if self.decay is not None and not self.decay >= 0.0:
            raise ValueError(f"expected decay >= 0 or None, got {self.decay}")

    @property
    def decay_factor(self) -> float:
        """The factor ``a`` in effect."""
        return math.log(self.w_max / self.w_min) if self.decay is None else self.decay


def foreground_weight(r: float, config: DistortionConfig) -> float:
    """Weight of every foreground pixel.

    Args:
        r: Share of foreground in the search region, in [0, 1].
        config: Gives the clip range.

    Returns:
        ``clip((1 - r) / r, w_min, w_max)``.
    """
    if r <= 0.0:
        return config.w_max
    return min(max((1.0 - r) / r, config.w_min), config.w_max)


def crop_weights(foreground: _BoolArray, config: DistortionConfig, wraps: bool) -> _FloatArray:
    """Weights inside the search region (steps 3 and 4).

    Args:
        foreground: ``(h, w)`` bool crop of the mask.
        config: Clip range and decay.
        wraps: Whether the crop's left and right edges meet (a region of 360 degrees).

    Returns:
        ``(h, w)`` float32 weights in [w_min, w_max].
    """
    r = float(np.count_nonzero(foreground)) / foreground.size
    if r == 0.0:
        return np.full(foreground.shape, config.w_min, dtype=np.float32)
    w_fg = foreground_weight(r, config)
    background = ~foreground
    if wraps:
        half = -(-foreground.shape[1] // 2)
        wide = ndimage.distance_transform_edt(np.pad(background, ((0, 0), (half, half)), "wrap"))
        distance = wide[:, half : half + foreground.shape[1]]
    else:
        distance = ndimage.distance_transform_edt(background)
    decay = np.exp(distance.astype(np.float32) * (-config.decay_factor / max(distance.max(), 1.0)))
    weights = np.clip(w_fg * (1.0 - r) * decay, config.w_min, config.w_max)
    weights[foreground] = w_fg
    result: _FloatArray = weights.astype(np.float32, copy=False)
    return result


def _crop_foreground(mask: Tensor, region: BFoV, crop_hw: tuple[int, int]) -> _BoolArray:
    """The mask in the search region, ``(h, w)`` bool."""
    share = crop(mask[None, None], region, crop_hw)[0, 0]
    # A line thinner than half a crop pixel reaches 0.5 nowhere: take where it is strongest.
    threshold = min(0.5, float(share.max()) * 0.999)
    found: _BoolArray = (share > threshold).numpy()
    return found


def distortion_weights(mask: Tensor, config: DistortionConfig | None = None) -> Tensor:
    """Weight of every panorama pixel in the mask loss.

    The weights depend on the ground truth only. The foreground is uniform, also where the
    re-projection would blur its edge.

    Args:
        mask: ``(H, W)`` bool ground-truth mask of one object, on any device; the work is done on
            the CPU.
        config: Settings; None: the paper's.

    Returns:
        ``(H, W)`` float32 weights in [w_min, w_max] on the mask's device; all ones for an absent
        object (fewer than 8 pixels; text silent, chosen because SAM2 keeps no mask term there).

    Raises:
        ValueError: The mask is not ``(H, W)`` bool.
    """
    config = DistortionConfig() if config is None else config
    local = mask.detach().cpu()
    bfov = fit_bfov(local)
    size_hw = (mask.shape[0], mask.shape[1])
    if bfov is None:
        return torch.ones(size_hw, device=mask.device)
    region = enlarge(bfov, config.ratio, config.min_fov_h, config.min_fov_v)
    foreground = _crop_foreground(local, region, config.crop_hw)
    weights = crop_weights(foreground, config, region.wraps)
    out = uncrop(torch.from_numpy(weights)[None, None], region, size_hw, config.w_min)[0, 0]
    # Interpolation rounds: keep the promised range to the last bit.
    out.clamp_(config.w_min, config.w_max)
    out[local] = foreground_weight(float(foreground.mean()), config)
    return out.to(mask.device)
