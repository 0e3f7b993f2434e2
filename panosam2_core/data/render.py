"""Draws a planned scene: panorama, exact labels and visible areas at one resolution.

Each pixel's ray meets the textured sheets of the objects; the nearest one wins. Only the part
of the grid that can see an object is touched, which keeps a frame cheap on one CPU core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from panosam2_core.data.assets import AssetLibrary
from panosam2_core.data.rng import StableRng
from panosam2_core.data.scene import Scene, SceneObject
from panosam2_core.geometry import erp

F64 = NDArray[np.float64]
NOISE_POOL = 97
"""Extra rows and columns of the noise pool from which each frame cuts its own window."""


@dataclass(frozen=True)
class Rendered:
    """One drawn frame.

    Attributes:
        image: (3, H, W) uint8 RGB, or None if only labels were asked for.
        labels: (H, W) uint8, 0 background, else the id of the nearest object.
        visible_sr: Visible solid angle by object id, steradian.
        whole_sr: Solid angle by object id if nothing were in front, steradian.
    """

    image: Tensor | None
    labels: Tensor
    visible_sr: dict[int, float]
    whole_sr: dict[int, float]


@dataclass(frozen=True)
class _Pose:
    """An object at one time in the camera frame; axes are unit vectors."""

    item: SceneObject
    centre: F64
    axis_x: F64
    axis_y: F64
    normal: F64
    distance: float
    time: float


def lerp(values: F64, time: float) -> F64:
    """Interpolate (T, ...) linearly at a fractional frame, clamped to the clip."""
    time = min(max(time, 0.0), len(values) - 1.0)
    low = min(int(time), max(len(values) - 2, 0))
    high = min(low + 1, len(values) - 1)
    return np.asarray(values[low] + (values[high] - values[low]) * (time - low))


def camera_at(scene: Scene, time: float) -> tuple[F64, F64]:
    """Return the camera's rotation (3, 3), camera to world, and position (3,)."""
    yaw, pitch, roll = (float(a) for a in lerp(scene.angles, time))
    matrix = erp.rotation(yaw, pitch, roll, dtype=torch.float64).numpy()
    return matrix, lerp(scene.position, time)


def pose_at(item: SceneObject, matrix: F64, position: F64, time: float) -> _Pose:
    """Place an object before the camera at a fractional frame."""
    away = lerp(item.centre, time) - position
    distance = float(np.linalg.norm(away))
    look = away / distance
    right = np.array([look[2], 0.0, -look[0]])
    right = right / max(float(np.linalg.norm(right)), 1e-9)
    down = np.cross(look, right)
    spin = float(lerp(item.spin, time))
    c, s = math.cos(spin), math.sin(spin)
    axis_x, axis_y = c * right + s * down, -s * right + c * down
    tilt_x, tilt_y = (float(a) for a in lerp(item.tilt, time))
    axis_x, look = (
        math.cos(tilt_x) * axis_x + math.sin(tilt_x) * look,
        math.cos(tilt_x) * look - math.sin(tilt_x) * axis_x,
    )
    axis_y, look = (
        math.cos(tilt_y) * axis_y + math.sin(tilt_y) * look,
        math.cos(tilt_y) * look - math.sin(tilt_y) * axis_y,
    )
    turn = matrix.T
    return _Pose(item, turn @ away, turn @ axis_x, turn @ axis_y, turn @ look, distance, time)


def ball_window(
    centre: F64, reach: float, size_hw: tuple[int, int]
) -> tuple[int, int, list[tuple[int, int]]]:
    """Return rows [top, bottom) and column spans that can see a ball in the camera frame."""
    height, width = size_hw
    distance = float(np.linalg.norm(centre))
    radius = math.asin(min(1.0, reach / distance)) if distance > reach else math.pi
    lat = math.asin(max(-1.0, min(1.0, -float(centre[1]) / distance)))
    lon = math.atan2(float(centre[0]), float(centre[2]))
    top = math.floor(height * (0.5 - (lat + radius) / math.pi))
    bottom = math.ceil(height * (0.5 - (lat - radius) / math.pi))
    top, bottom = max(top, 0), min(bottom, height)
    if abs(lat) + radius >= math.pi / 2 - 1e-6:
        return top, bottom, [(0, width)]
    half = math.asin(min(1.0, math.sin(radius) / math.cos(lat)))
    left = math.floor(width * (0.5 + (lon - half) / (2 * math.pi)))
    right = math.ceil(width * (0.5 + (lon + half) / (2 * math.pi)))
    if right - left >= width:
        return top, bottom, [(0, width)]
    left, right = left % width, left % width + (right - left)
    if right <= width:
        return top, bottom, [(left, right)]
    return top, bottom, [(left, width), (0, right - width)]


class Canvas:
    """Grids of one resolution on one device, shared by all clips drawn at it.

    Args:
        size_hw: (height, width) in pixels.
        device: Where to draw.
    """

    def __init__(self, size_hw: tuple[int, int], device: torch.device) -> None:
        self.size_hw = size_hw
        self.device = device
        lon, lat = erp.lonlat_grid(size_hw, device=device)
        self.sin_lon, self.cos_lon = lon.sin()[None], lon.cos()[None]
        self.sin_lat, self.cos_lat = lat.sin()[:, None], lat.cos()[:, None]
        self.row_sr = erp.row_solid_angle(*size_hw, device=device)
        height, width = size_hw
        shape = (3, height + NOISE_POOL, width + NOISE_POOL)
        noise = StableRng("noise pool").normals(math.prod(shape)).astype(np.float32)
        self.noise = torch.from_numpy(noise.reshape(shape)).to(device)

    def dot(self, v: F64, rows: slice, columns: slice) -> Tensor:
        """Return the dot product of each ray in a window with a vector, (h, w)."""
        a, b, c = (float(x) for x in v)
        flat = a * self.sin_lon[:, columns] + c * self.cos_lon[:, columns]
        return self.cos_lat[rows] * flat - b * self.sin_lat[rows]


class SceneRenderer:
    """Draws the frames of one scene on one canvas.

    Args:
        scene: What to draw.
        library: Where its assets come from.
        canvas: Resolution and device.
    """

    def __init__(self, scene: Scene, library: AssetLibrary, canvas: Canvas) -> None:
        self.scene, self.library, self.canvas = scene, library, canvas
        self._sprites: dict[int, list[Tensor]] = {}
        self._background: Tensor | None = None

    def render(self, t: int, want_image: bool = True) -> Rendered:
        """Draw frame ``t``; labels are those of the shutter's middle."""
        canvas, scene = self.canvas, self.scene
        labels = torch.zeros(canvas.size_hw, dtype=torch.uint8, device=canvas.device)
        whole = {item.object_id: 0.0 for item in self.scene.objects}
        image = self._compose(float(t), labels, whole, want_image)
        if image is not None and scene.blur > 0.0:
            for shift in (-0.5 * scene.blur, 0.5 * scene.blur):
                extra = self._compose(t + shift, None, None, True)
                if extra is not None:
                    image += extra
            image /= 3.0
        visible = self._visible(labels)
        shown = None if image is None else self._expose(image, t)
        return Rendered(shown, labels, visible, whole)

    def _compose(
        self,
        time: float,
        labels: Tensor | None,
        whole: dict[int, float] | None,
        want_image: bool,
    ) -> Tensor | None:
        """Draw the background and the objects, far to near, at a fractional frame."""
        matrix, position = camera_at(self.scene, time)
        image = self._backdrop(matrix, position) if want_image else None
        there = [item for item in self.scene.objects if item.there(time)]
        poses = [pose_at(item, matrix, position, time) for item in there]
        for pose in sorted(poses, key=lambda p: -p.distance):
            area = 0.0
            for rows, columns in self._windows(pose):
                area += self._draw(pose, rows, columns, image, labels)
            if whole is not None:
                whole[pose.item.object_id] = area
        return image

    def _windows(self, pose: _Pose) -> Iterator[tuple[slice, slice]]:
        top, bottom, spans = ball_window(pose.centre, pose.item.reach, self.canvas.size_hw)
        if bottom > top:
            for left, right in spans:
                yield slice(top, bottom), slice(left, right)

    def _local(self, pose: _Pose, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return where each ray meets the object's sheet, in sheet units [-1, 1]."""
        canvas, item = self.canvas, pose.item
        toward = canvas.dot(pose.normal, rows, columns).clamp_(min=0.02)
        scale = float(pose.centre @ pose.normal) / toward
        x0, y0 = float(pose.centre @ pose.axis_x), float(pose.centre @ pose.axis_y)
        x = (canvas.dot(pose.axis_x, rows, columns) * scale - x0) / item.half_x
        y = (canvas.dot(pose.axis_y, rows, columns) * scale - y0) / item.half_y
        amplitude, frequency, speed, phase_x, phase_y = item.warp
        if amplitude <= 0.0:
            return x, y
        moved = speed * pose.time
        return (
            x + amplitude * torch.sin(frequency * y + (phase_x + moved)),
            y + amplitude * torch.sin(frequency * x + (phase_y + 0.7 * moved)),
        )

    def _draw(
        self, pose: _Pose, rows: slice, columns: slice, image: Tensor | None, labels: Tensor | None
    ) -> float:
        """Draw one object in one window; return its unoccluded solid angle there."""
        item = pose.item
        x, y = self._local(pose, rows, columns)
        sprite = self._sprite_level(pose)
        if image is None:
            sprite = sprite[:, 3:]
        grid = torch.stack((x, y), dim=-1)[None]
        texel = F.grid_sample(sprite, grid, mode="bilinear", align_corners=False)[0]
        alpha = texel[-1]
        if image is not None:
            shade = (1.0 + item.shade[0] * x + item.shade[1] * y).clamp_(0.35, 1.5)
            part = image[:, rows, columns]
            part.mul_(1.0 - alpha).add_(texel[:3].mul_(shade))
        if labels is None:
            return 0.0
        inside = alpha > 0.5
        labels[rows, columns].masked_fill_(inside, item.object_id)
        counts = inside.sum(dim=1, dtype=torch.float32)
        return float((counts * self.canvas.row_sr[rows]).sum())

    def _sprite_level(self, pose: _Pose) -> Tensor:
        """Return the sprite at the coarsest level that still has a texel per pixel."""
        item = pose.item
        levels = self._sprites.get(item.object_id)
        if levels is None:
            levels = self._sprites[item.object_id] = self._prepare(item)
        pixels = 2.0 * max(item.half_x, item.half_y) / pose.distance
        pixels *= self.canvas.size_hw[0] / math.pi
        fits = [level for level in levels if level.shape[-1] >= pixels]
        return fits[-1] if fits else levels[0]

    def _prepare(self, item: SceneObject) -> list[Tensor]:
        """Return premultiplied, recoloured sprite levels (1, 4, S, S), finest first."""
        raw = self.library.sprite(item.sprite)
        if item.mirror:
            raw = raw[:, ::-1]
        rgba = torch.from_numpy(np.array(raw)).to(self.canvas.device).float().div_(255.0)
        colour = torch.from_numpy(item.colour).to(rgba)
        rgb = (rgba[..., :3] @ colour.T).clamp_(0.0, 1.0)
        alpha = rgba[..., 3:]
        level = torch.cat((rgb * alpha, alpha), dim=-1).permute(2, 0, 1)[None].contiguous()
        levels = [level]
        while level.shape[-1] >= 20:
            level = F.avg_pool2d(level, 2)
            levels.append(level)
        return levels

    def _backdrop(self, matrix: F64, position: F64) -> Tensor:
        """Draw the background as a far sphere, (3, H, W) float32 in [0, 1]."""
        everything = slice(None)
        rows = [self.canvas.dot(matrix[i], everything, everything) for i in range(3)]
        x, y, z = (
            r + float(p) / self.scene.background_radius
            for r, p in zip(rows, position, strict=True)
        )
        source = self._panorama()
        height, width = source.shape[-2] - 2, source.shape[-1] - 2
        # Longitude and latitude in padded texture units [-1, 1]; the pad holds the wrap.
        turn = self.scene.background_turn / (2 * math.pi)
        u = torch.atan2(x, z).mul_(1.0 / (2 * math.pi)).add_(0.5 + turn).remainder_(1.0)
        v = torch.atan2(y, torch.sqrt(x * x + z * z)).mul_(1.0 / math.pi).add_(0.5)
        grid = torch.stack(
            (
                u.mul_(2.0 * width / (width + 2)).add_(2.0 / (width + 2) - 1.0),
                v.mul_(2.0 * height / (height + 2)).add_(2.0 / (height + 2) - 1.0),
            ),
            dim=-1,
        )[None]
        return F.grid_sample(
            source, grid, mode="bilinear", padding_mode="border", align_corners=False
        )[0]

    def _panorama(self) -> Tensor:
        """Return the background (1, 3, h + 2, w + 2) with wrapped margins, kept for the clip."""
        if self._background is None:
            target = self.canvas.size_hw[0]
            raw = np.array(self.library.panorama(self.scene.background, target))
            image = torch.from_numpy(raw).to(self.canvas.device).permute(2, 0, 1)[None]
            image = image.float().div_(255.0)
            while image.shape[-2] >= 2 * target:
                image = F.avg_pool2d(image, 2)
            half = image.shape[-1] // 2
            top, bottom = image[:, :, :1].roll(half, -1), image[:, :, -1:].roll(half, -1)
            self._background = erp.wrap_pad(torch.cat((top, image, bottom), dim=2), 1)
        return self._background

    def _expose(self, image: Tensor, t: int) -> Tensor:
        """Apply exposure and sensor noise; return (3, H, W) uint8."""
        scene, canvas = self.scene, self.canvas
        gain = torch.from_numpy(scene.gain[t] * 255.0).to(image)[:, None, None]
        image = image.mul_(gain)
        if scene.noise > 0.0:
            rng = StableRng("noise", scene.key, t)
            height, width = canvas.size_hw
            top, left = rng.integer(0, NOISE_POOL), rng.integer(0, NOISE_POOL)
            window = canvas.noise[:, top : top + height, left : left + width]
            image.add_(window, alpha=scene.noise * 255.0)
        return image.add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)

    def _visible(self, labels: Tensor) -> dict[int, float]:
        """Return the visible solid angle of each object."""
        out = {}
        for item in self.scene.objects:
            counts = (labels == item.object_id).sum(dim=1, dtype=torch.float32)
            out[item.object_id] = float((counts * self.canvas.row_sr).sum())
        return out
