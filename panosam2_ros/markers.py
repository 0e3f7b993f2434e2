"""Objects on the unit sphere about the camera, for rviz2 and Foxglove."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from panosam2_core import FrameResult, ObjectResult, ObjectState
from panosam2_core.field_of_view import FieldOfView
from panosam2_core.media.overlay import colour
from panosam2_ros.axes import Axes

OUTLINE_POINTS = 96  # per contour; a rounder outline nobody sees
LIFETIME = Duration(sec=1)  # what is no longer published goes by itself


def to_markers(
    header: Header,
    result: FrameResult | None,
    states: Mapping[int, ObjectState],
    *,
    fov: FieldOfView,
    axes: Axes,
    frame_id: str,
) -> MarkerArray:
    """Draws an arrow, the outline and the name of every object that is visible.

    Args:
        header: Of the image.
        result: What the tracker found, None if nothing is tracked.
        states: The state per object id.
        fov: The part of the sphere that the image shows.
        axes: To give directions in.
        frame_id: Frame with these axes; empty: the image's.

    Returns:
        The message.
    """
    msg = MarkerArray()
    head = Header(stamp=header.stamp, frame_id=frame_id or header.frame_id)
    for object_id, found in result.objects.items() if result else ():
        if states[object_id] != ObjectState.VISIBLE:
            continue
        r, g, b = (value / 255 for value in colour(object_id))
        paint = ColorRGBA(r=r, g=g, b=b, a=0.9)
        tip = axes.vector_out(tuple(float(value) for value in found.bearing))
        arrow = _marker(head, "bearing", object_id, Marker.ARROW, paint)
        arrow.points = [Point(), _point(tip, 0.95)]
        arrow.scale.x, arrow.scale.y, arrow.scale.z = 0.02, 0.05, 0.08
        name = _marker(head, "label", object_id, Marker.TEXT_VIEW_FACING, paint)
        name.pose.position = _point(tip, 1.08)
        name.scale.z = 0.08
        name.text = found.label or str(object_id)
        outline = _marker(head, "outline", object_id, Marker.LINE_LIST, paint)
        outline.scale.x = 0.01
        outline.points = _outline(found, fov, axes)
        msg.markers += [arrow, name, outline]
    return msg


def _marker(head: Header, space: str, object_id: int, kind: int, paint: ColorRGBA) -> Marker:
    marker = Marker(header=head, ns=space, id=object_id, type=kind, action=Marker.ADD)
    marker.color = paint
    marker.lifetime = LIFETIME
    marker.pose.orientation.w = 1.0
    return marker


def _outline(found: ObjectResult, fov: FieldOfView, axes: Axes) -> list[Point]:
    """Both ends of every piece of the mask's contours; a piece across the seam stays short."""
    mask = found.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    height, width = mask.shape
    points: list[Point] = []
    for contour in contours:
        step = max(1, len(contour) // OUTLINE_POINTS)
        ring = [
            _point(_direction(u, v, (height, width), fov, axes), 1.0)
            for u, v in contour[::step, 0].tolist()
        ]
        for start, end in zip(ring, [*ring[1:], ring[0]], strict=True):
            points += [start, end]
    return points


def _direction(
    u: float, v: float, size_hw: tuple[int, int], fov: FieldOfView, axes: Axes
) -> tuple[float, float, float]:
    per_column, per_row = fov.pitch(size_hw)
    lon = (size_hw[1] / 2 - u - 0.5) * per_column
    lat = (size_hw[0] / 2 - v - 0.5) * per_row + fov.middle_lat
    flat = math.cos(lat)
    return axes.vector_out((flat * math.cos(lon), flat * math.sin(lon), math.sin(lat)))


def _point(vector: Sequence[float], length: float) -> Point:
    return Point(x=length * vector[0], y=length * vector[1], z=length * vector[2])
