"""What an ordinary camera would see that keeps looking at one object."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from geometry_msgs.msg import Quaternion, TransformStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from panosam2_core import FrameResult, ObjectState
from panosam2_core.geometry.pinhole import Pinhole, look_through
from panosam2_ros.axes import Axes
from panosam2_ros.images import Pixels, to_image

# From a camera's axes (x right, y down, z forward) to the image's (x forward, y left, z up).
_BODY_OF_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class View(NamedTuple):
    """One picture of the camera that follows.

    Attributes:
        image: rgb8.
        info: Its camera matrix; no distortion.
        transform: From the bearing frame to that of the camera.
    """

    image: Image
    info: CameraInfo
    transform: TransformStamped


class Follower:
    """Looks at an object; while it is out of sight, where it was last."""

    def __init__(self) -> None:
        self._object_id = 0
        self._lonlat: tuple[float, float] | None = None

    def aim(self, result: FrameResult | None, wanted: int) -> None:
        """Turns to the object.

        Args:
            result: What the tracker found.
            wanted: Its id; 0: the one that is tracked longest.
        """
        objects = result.objects if result else {}
        object_id = wanted or next(iter(objects), 0)
        if object_id != self._object_id or object_id not in objects:
            self._lonlat = None
        self._object_id = object_id
        found = objects.get(object_id)
        if found is not None and found.state is ObjectState.VISIBLE:
            self._lonlat = (found.lon, found.lat)

    def look(
        self,
        header: Header,
        rgb: Pixels,
        *,
        hfov: float,
        size_hw: tuple[int, int],
        axes: Axes,
        frame_id: str,
    ) -> View | None:
        """Renders what it sees.

        Args:
            header: Of the image.
            rgb: (H, W, 3) panorama all round.
            hfov: Width of the view in radians.
            size_hw: (height, width) of the picture.
            axes: Of the bearing frame.
            frame_id: Name of the bearing frame; empty: the image's.

        Returns:
            The picture; None as long as the object has not been seen.
        """
        if self._lonlat is None:
            return None
        lon, lat = self._lonlat
        camera = Pinhole(-lon, lat, hfov, size_hw)  # the core counts longitude to the right
        panorama = torch.from_numpy(np.require(rgb, requirements=["C", "W"]))
        seen = look_through(panorama.permute(2, 0, 1)[None], camera)[0]
        pixels = seen.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        parent = frame_id or header.frame_id
        child = f"{parent}_follow" if parent else "follow"
        head = Header(stamp=header.stamp, frame_id=child)
        transform = TransformStamped(
            header=Header(stamp=header.stamp, frame_id=parent), child_frame_id=child
        )
        transform.transform.rotation = _orientation(camera, axes)
        return View(to_image(head, pixels, "rgb8"), _info(head, camera), transform)


def _info(header: Header, camera: Pinhole) -> CameraInfo:
    height, width = camera.size_hw
    f = camera.focal_px
    # ROS counts pixel centres as whole numbers, the core counts corners.
    x, y = (value - 0.5 for value in camera.centre_px)
    info = CameraInfo(header=header, height=height, width=width, distortion_model="plumb_bob")
    info.d = [0.0] * 5
    info.k = [f, 0.0, x, 0.0, f, y, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [f, 0.0, x, 0.0, 0.0, f, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def _orientation(camera: Pinhole, axes: Axes) -> Quaternion:
    """Rotation that takes vectors of the follow camera to the bearing frame."""
    # The core's panorama has a camera's axes, too: x right, y down, z forward.
    columns = _BODY_OF_OPTICAL @ camera.rotation(torch.float64).numpy()
    turned = np.stack([axes.vector_out(tuple(c)) for c in columns.T], axis=1)
    x, y, z, w = _quaternion(turned)
    return Quaternion(x=x, y=y, z=z, w=w)


def _quaternion(m: np.ndarray) -> tuple[float, float, float, float]:
    """Of a rotation matrix, by the largest of the four (Shepperd's method)."""
    trace = float(np.trace(m))
    squares = np.array([*(1 + 2 * np.diag(m) - trace), 1 + trace])
    i = int(squares.argmax())
    q = np.zeros(4)
    q[i] = math.sqrt(squares[i])
    if i == 3:
        q[:3] = (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1])
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q[j], q[k] = m[j, i] + m[i, j], m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    largest = q[i]
    q[[n for n in range(4) if n != i]] /= largest
    return tuple(float(value) / 2 for value in q)  # type: ignore[return-value]
