"""The planned clip of `make demo`: a van circles the camera on a plaza.

Nothing here is drawn at random, and nothing is fitted to a network: a person chose the scene so
that a viewer sees at once what matters in a panorama. The van starts in the middle of the image,
crosses the seam in both directions because it drives and the camera pans, passes once behind an
advertising board that hides all of it, and comes out again. Sprites and panorama are of the
``demo`` split, which no training sees. Axes and units are those of `panosam2_core.data.scene`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from panosam2_core.data.assets import AssetLibrary
from panosam2_core.data.scene import (
    F64,
    ClipPlan,
    Role,
    Scene,
    SceneObject,
    WorldConfig,
    outline_of,
)

DEMO_PLAN = ClipPlan("demo-v1/0", seam=True, occlusion=True, lookalike=False)
DEMO_FRAMES = 240
CAMERA_HEIGHT = 1.6
"""Metres above the ground; procedural streets are painted for this height."""
HIDDEN = (129, 140)
"""First and last frame in which the board hides the whole van."""
BEHIND = 135
"""Frame in which the van's centre is behind the board's."""

_AS_DRAWN = np.eye(3)
_LIGHT = 0.08  # amplitude of the exposure drift, share of the brightness


@dataclass(frozen=True)
class _Figure:
    """Looks and size of one thing that stands on the ground.

    Attributes:
        role: Why it is there.
        sprite: Asset reference.
        wide: Metres, width of the silhouette.
        tall: Metres, height of the silhouette.
        sway: Radians of in-plane swing.
        swing: Frames of one swing.
        warp: Share of the half side by which it deforms.
    """

    role: Role
    sprite: str
    wide: float
    tall: float
    sway: float = 0.0
    swing: float = 24.0
    warp: float = 0.0


_VAN = _Figure("target", "proc:demo/67", 4.2, 2.2, sway=0.012, swing=17.0)
_BOARD = _Figure("occluder", "proc:demo/15#slab", 3.22, 2.6)
_WALKER = _Figure("other", "proc:demo/11", 0.95, 1.75, sway=0.04, swing=14.0, warp=0.02)
_DOG = _Figure("other", "proc:demo/48", 1.2, 0.85, sway=0.05, swing=10.0, warp=0.02)


def demo_config(size_hw: tuple[int, int] = (512, 1024)) -> WorldConfig:
    """Return the config of the demo split for frames of (height, width) pixels.

    Clip 0 keeps its bounds by construction; further clips are drawn at random from it. The paper
    has no demo; 25 to 45 degrees is how large a car or a person close by looks.

    Raises:
        ConfigError: ``size_hw`` is not (h, 2h) with h >= 32.
    """
    return WorldConfig(
        size_hw=size_hw,
        frames=DEMO_FRAMES,
        objects=(4, 4),
        angular_size_deg=(25.0, 45.0),
        max_latitude_deg=30.0,
        object_speed_deg=3.0,
        yaw_speed_deg=4.0,
        tilt_deg=4.0,
        translation_m=0.12,
        p_seam=1.0,
        p_occlusion=1.0,
        occlusion_frames=(8, 15),
        p_lookalike=0.0,
        p_motion_blur=0.0,
        exposure=_LIGHT,
        noise=0.012,
        warp=0.02,
        spin_deg=0.0,
        p_upright=1.0,
    )


def _swing(amplitude: float, period: float, phase: float = 0.0) -> F64:
    """Return a sinusoid (T,) over the clip; ``period`` in frames, ``phase`` in turns."""
    t = np.arange(DEMO_FRAMES)
    return np.asarray(amplitude * np.sin(2 * np.pi * (t / period + phase)))


def _steps(speed_deg: F64) -> F64:
    """Add up speeds (T,) in degrees per frame to angles (T,) in radians that start at 0."""
    return np.asarray(np.radians(np.cumsum(speed_deg) - speed_deg[0]))


def _ground(azimuth: F64, distance: F64) -> F64:
    """Return points (T, 3) at the camera's height; ``azimuth`` in radians, ``distance`` metres."""
    flat = np.zeros(DEMO_FRAMES)
    return np.stack([distance * np.sin(azimuth), flat, distance * np.cos(azimuth)], axis=-1)


def _stand(number: int, figure: _Figure, path: F64, library: AssetLibrary) -> SceneObject:
    """Put a figure on the ground along a path (T, 3) given at the camera's height."""
    rgba = library.sprite(figure.sprite)
    size, inside = rgba.shape[0], rgba[..., 3] > 127
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    half_x = figure.wide * size / (2.0 * (columns[-1] + 1 - columns[0]))
    half_y = figure.tall * size / (2.0 * (rows[-1] + 1 - rows[0]))
    foot = half_y * ((rows[-1] + 1) / size * 2.0 - 1.0)
    outer = outline_of(rgba).outer + 1.5 * figure.warp
    return SceneObject(
        object_id=number,
        role=figure.role,
        sprite=figure.sprite,
        mirror=False,
        colour=_AS_DRAWN,
        half_x=half_x,
        half_y=half_y,
        reach=max(half_x, half_y) * outer,
        centre=path + np.array([0.0, CAMERA_HEIGHT - foot, 0.0]),
        spin=_swing(figure.sway, figure.swing),
        tilt=np.zeros((DEMO_FRAMES, 2)),
        warp=(figure.warp, 2.5, 2 * math.pi / figure.swing, 0.0, 1.0),
        shade=(0.1, -0.15),
    )


def _drive() -> F64:
    """Return the van's azimuth (T,) in radians: once round and a bit, never back."""
    return _steps(1.8 + _swing(0.5, 110.0, 0.4))


def _pan() -> F64:
    """Return the camera's yaw (T,) in radians: pans there and back, never over 4 deg/frame."""
    return _steps(_swing(3.0, 92.0, 0.5) - 0.4)


def build_demo_scene(library: AssetLibrary) -> Scene:
    """Plan the demo clip.

    Args:
        library: Assets of the ``demo`` split.

    Returns:
        The scene, equal at every call; ``objects[0]`` is the target.
    """
    azimuth = _drive()
    round_path = _ground(azimuth, 6.6 + _swing(0.5, 170.0))
    board = _ground(np.full(DEMO_FRAMES, azimuth[BEHIND]), np.full(DEMO_FRAMES, 3.2))
    walker = _ground(0.9 - _steps(0.5 + _swing(0.2, 90.0)), 4.6 + _swing(0.4, 200.0))
    dog = _ground(-1.4 + _steps(0.6 + _swing(0.5, 70.0)), 3.6 + _swing(0.3, 120.0))
    pairs = ((_VAN, round_path), (_BOARD, board), (_WALKER, walker), (_DOG, dog))
    tilt = math.radians(demo_config().tilt_deg)
    angles = np.stack([_pan(), _swing(0.8 * tilt, 83.0), _swing(0.6 * tilt, 131.0)], axis=-1)
    position = np.stack([_swing(a, p) for a, p in ((0.1, 73.0), (0.04, 31.0), (0.1, 97.0))], -1)
    return Scene(
        frames=DEMO_FRAMES,
        angles=angles,
        position=position,
        objects=tuple(_stand(i + 1, f, p, library) for i, (f, p) in enumerate(pairs)),
        background="proc:demo/5",
        background_turn=0.6,
        background_radius=30.0,
        gain=np.exp(_swing(_LIGHT, 140.0))[:, None] * np.array([1.02, 1.0, 0.98]),
        noise=demo_config().noise,
        blur=0.0,
        occlusion=HIDDEN,
        key=DEMO_PLAN.key,
    )
