"""Clips whose target leaves, and comes back elsewhere.

In a planned scene an object is hidden by another one and comes out where one would expect it. Here
the target of a planned scene is taken away for a while, and goes on along its path turned about
the vertical: what is asked for is to find it again. A look-alike stays where the target was.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from panosam2_core.data.render import camera_at
from panosam2_core.data.rng import StableRng
from panosam2_core.data.scene import Scene
from panosam2_core.geometry.erp import rotation

__all__ = ["take_away"]

TRIES = 24


def take_away(
    scene: Scene, gone: tuple[int, int], least_deg: float, rng: StableRng
) -> Scene | None:
    """Take the target of a scene away for a while.

    Args:
        scene: Without a planned occlusion.
        gone: First and last frame without the target; it is there before and afterwards.
        least_deg: Least angle, as the camera sees it, between where the target was last and where
            it is first, in degrees.
        rng: Chooses the turn.

    Returns:
        The scene; None if no turn moves the target that far, as for one near a pole.

    Raises:
        ValueError: The target is not there before or after.
    """
    first, last = gone
    if not 0 < first <= last < scene.frames - 1:
        raise ValueError(f"expected 0 < first <= last < {scene.frames - 1}, got {gone}")
    target = scene.objects[0]
    before = _seen(scene, target.centre, first - 1)
    for _ in range(TRIES):
        centre = target.centre.copy()
        turn = rotation(rng.uniform(-math.pi, math.pi), 0.0, dtype=torch.float64).numpy()
        centre[first + 1 :] = centre[first + 1 :] @ turn.T
        after = _seen(scene, centre, last + 1)
        if math.degrees(math.acos(max(-1.0, min(1.0, float(before @ after))))) >= least_deg:
            moved = dataclasses.replace(target, centre=centre, gone=gone)
            return dataclasses.replace(scene, objects=(moved, *scene.objects[1:]))
    return None


def _seen(scene: Scene, centre: NDArray[np.float64], t: int) -> NDArray[np.float64]:
    """Return the direction (3,) of a path's point at frame ``t`` in the camera frame."""
    matrix, position = camera_at(scene, float(t))
    ray = matrix.T @ (centre[t] - position)
    return np.asarray(ray / np.linalg.norm(ray))
