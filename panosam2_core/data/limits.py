"""How fast and how far things really move in a planned clip, and how far they may.

A `WorldConfig` bounds what is drawn at random. What a plan derives from those draws can leave the
bounds: an occluder that must be out of the way in time, a look-alike swung about its target, a
camera that follows a fast target near a pole so that it stays off the seam. A clip that must keep
the bounds, as those of the fixed test split, is therefore measured. Only the plan is read, no
frame is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panosam2_core.data.scene import Scene, WorldConfig

__all__ = ["MotionBounds", "measure_motion", "stated_bounds"]


@dataclass(frozen=True)
class MotionBounds:
    """Largest values of one clip, or the largest ones allowed.

    Attributes:
        yaw_deg_per_frame: Change of the camera's yaw angle from one frame to the next, without
            sign, in degrees. Pitch and roll do not count.
        object_deg_per_frame: Angle between an object's directions in consecutive frames, in
            degrees. The direction is that of the object's centre in world axes, seen from the
            world's origin: this is the object's own motion, without the camera's turn and path.
        latitude_deg: Latitude of an object's centre, without sign, in degrees; again in world
            axes and seen from the world's origin. In the image the tilt and the path of the
            camera (`WorldConfig.tilt_deg`, `WorldConfig.translation_m`) come on top.
    """

    yaw_deg_per_frame: float
    object_deg_per_frame: float
    latitude_deg: float

    def within(self, bounds: MotionBounds) -> bool:
        """Tell whether no value is above that of ``bounds``; NaN never is within."""
        return (
            self.yaw_deg_per_frame <= bounds.yaw_deg_per_frame
            and self.object_deg_per_frame <= bounds.object_deg_per_frame
            and self.latitude_deg <= bounds.latitude_deg
        )


def stated_bounds(config: WorldConfig) -> MotionBounds:
    """Return the bounds that a config states.

    They are meant as `MotionBounds` says, since free objects are drawn by direction and latitude
    about the world's origin.
    """
    return MotionBounds(config.yaw_speed_deg, config.object_speed_deg, config.max_latitude_deg)


def measure_motion(scene: Scene) -> MotionBounds:
    """Return the largest values over all frames and all objects of a scene, whatever their role.

    A speed is 0 in a scene of one frame; an object's values are 0 in a scene without objects.
    """
    yaw = np.abs(np.diff(scene.angles[:, 0])).max(initial=0.0)
    speeds, latitudes = [0.0], [0.0]
    for item in scene.objects:
        speeds.append(_turns(item.centre).max(initial=0.0))
        level = np.hypot(item.centre[:, 0], item.centre[:, 2])
        latitudes.append(np.arctan2(np.abs(item.centre[:, 1]), level).max())
    worst = np.degrees([yaw, np.max(speeds), np.max(latitudes)])
    return MotionBounds(float(worst[0]), float(worst[1]), float(worst[2]))


def _turns(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (T - 1,) between consecutive points (T, 3) seen from the origin."""
    before, after = points[:-1], points[1:]
    # The arc tangent is exact for small angles, where the arc cosine loses half of the digits.
    across = np.linalg.norm(np.cross(before, after), axis=-1)
    return np.asarray(np.arctan2(across, (before * after).sum(-1)))
