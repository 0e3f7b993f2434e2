"""What an ordinary camera would see that stood where the panorama's did.

The image of a pinhole camera without distortion, looking at a direction on the sphere. Frame and
signs are those of `panosam2_core.geometry.erp`; the camera's own axes are those of every pinhole
camera: x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from panosam2_core.geometry.erp import Size, ray_to_pixel, rotation, sample_erp, turn


@dataclass(frozen=True, slots=True)
class Pinhole:
    """A camera that looks at a direction of the panorama, its rows level.

    Attributes:
        lon: Longitude it looks at in radians, right-positive.
        lat: Latitude it looks at in radians, up-positive, in [-pi/2, pi/2].
        hfov: Width of its picture in radians, in (0, pi).
        size_hw: Size ``(h, w)`` of its picture.

    Raises:
        ValueError: A number is out of range.
    """

    lon: float
    lat: float
    hfov: float
    size_hw: Size

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0.0 < self.hfov < math.pi and abs(self.lat) <= 0.5 * math.pi + 1e-6):
            raise ValueError(
                "expected 0 < hfov < pi and |lat| <= pi/2 in radians, got "
                f"hfov={self.hfov}, lat={self.lat}"
            )
        if not math.isfinite(self.lon) or min(self.size_hw) < 1:
            raise ValueError(
                f"expected a finite lon and a size above 0, got {self.lon}, {self.size_hw}"
            )

    @property
    def focal_px(self) -> float:
        """Focal length in pixels, the same in x and y."""
        return 0.5 * self.size_hw[1] / math.tan(0.5 * self.hfov)

    @property
    def centre_px(self) -> tuple[float, float]:
        """Principal point ``(x, y)`` in pixel-corner coordinates: the middle of the picture."""
        return 0.5 * self.size_hw[1], 0.5 * self.size_hw[0]

    def rotation(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(3, 3)`` matrix from the camera's axes to those of the panorama."""
        return rotation(self.lon, self.lat, dtype=dtype)


def pinhole_grid(
    camera: Pinhole, erp_hw: Size, device: torch.device | str | None = None
) -> Tensor:
    """Panorama coordinates of a camera's pixel centres.

    Args:
        camera: The camera.
        erp_hw: Size ``(H, W)`` of the panorama.
        device: Where to put the result.

    Returns:
        ``(h, w, 2)`` pixel-corner coordinates for `sample_erp`.
    """
    height, width = camera.size_hw
    x, y = camera.centre_px
    u = (torch.arange(width, device=device) + 0.5 - x) / camera.focal_px
    v = (torch.arange(height, device=device) + 0.5 - y) / camera.focal_px
    v, u = torch.meshgrid(v, u, indexing="ij")
    local = torch.stack((u, v, torch.ones_like(u)), dim=-1)
    world = turn(local, camera.rotation().to(local.device))
    return ray_to_pixel(world / world.norm(dim=-1, keepdim=True), erp_hw)


def look_through(image: Tensor, camera: Pinhole) -> Tensor:
    """Render a camera's picture.

    Args:
        image: ``(B, C, H, W)`` panoramas; integer types are sampled in float32.
        camera: The camera.

    Returns:
        ``(B, C, h, w)``, in the type of ``image`` where that is floating, else float32. Bilinear;
        a picture much coarser than the panorama shows aliasing.
    """
    size = (image.shape[-2], image.shape[-1])
    return sample_erp(image, pinhole_grid(camera, size, image.device))
