"""Prompt messages to prompts of the core, and results of the core to messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import Header

from panosam2_core import FrameResult, ObjectResult, ObjectState, Prompt, PromptError
from panosam2_core.field_of_view import FieldOfView
from panosam2_core.prompting import label_image_prompts, pixel_of_bearing, pixel_of_lonlat
from panosam2_ros.axes import Axes
from panosam2_ros.images import ImageError, to_image, to_labels
from panosam2_ros.msg import Prompt as PromptMsg
from panosam2_ros.msg import TrackedObject, TrackedObjectArray
from panosam2_ros.stamps import stamp_ns

Pixel = tuple[float, float]

_IMAGE_AXES = Axes()

# A click on the last edge (latitude -90, or 1.0) still means the last row or column.
_INSIDE = 1e-3


def to_prompts(
    msg: PromptMsg,
    size_hw: tuple[int, int],
    *,
    fov: FieldOfView | None,
    free_ids: Iterator[int],
    axes: Axes = _IMAGE_AXES,
    max_objects: int | None = None,
) -> list[Prompt]:
    """Reads a prompt message that adds objects, prompts them afresh or corrects them.

    Args:
        msg: The message.
        size_hw: (height, width) of the image that it is about.
        fov: The part of the sphere that a panorama shows; None for an ordinary camera, in whose
            images angles mean nothing.
        free_ids: Ids for objects whose sender left the choice to us.
        axes: That directions are given in.
        max_objects: Most that a label image may have.

    Returns:
        One prompt, or one per label of a label image.

    Raises:
        PromptError: If coordinates or mask cannot be read. Whether they suit the image is for
            `PanoTracker.check_prompt` to say.
    """
    if msg.mask.width or msg.mask.height or msg.mask.data:
        if msg.points or msg.box:
            raise PromptError(
                "BAD_MASK", "a prompt needs points and/or a box, or else a mask; got both"
            )
        return _mask_prompts(msg, size_hw, free_ids, max_objects)
    points = [_pixel(msg.coordinates, p, size_hw, fov, axes) for p in msg.points]
    return [
        Prompt(
            object_id=msg.object_id or next(free_ids),
            points=points,
            labels=list(msg.point_labels),
            box=_box(msg, size_hw, fov, axes),
            label=msg.label,
            refine=msg.action == PromptMsg.REFINE,
            replace=msg.action == PromptMsg.REPLACE,
        )
    ]


def _mask_prompts(
    msg: PromptMsg, size_hw: tuple[int, int], free_ids: Iterator[int], max_objects: int | None
) -> list[Prompt]:
    try:
        labels = to_labels(msg.mask)
    except ImageError as error:
        raise PromptError("BAD_MASK", str(error)) from error
    if labels.shape != size_hw:
        labels = cv2.resize(labels, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    is_label_image = msg.mask.encoding == "32SC1" and not msg.object_id
    if not is_label_image:
        object_id = msg.object_id or next(free_ids)
        prompts = [Prompt(object_id=object_id, mask=labels != 0, label=msg.label)]
    else:
        prompts = label_image_prompts(labels, msg.label, max_objects)
    return [replace(prompt, replace=msg.action == PromptMsg.REPLACE) for prompt in prompts]


def _box(
    msg: PromptMsg, size_hw: tuple[int, int], fov: FieldOfView | None, axes: Axes
) -> tuple[float, float, float, float] | None:
    if not msg.box:
        return None
    if len(msg.box) != 4:
        raise PromptError(
            "BAD_COORDS",
            f"box needs 4 numbers (x_min, y_min, x_max, y_max), got {len(msg.box)}",
        )
    x0, y0, x1, y1 = msg.box
    if msg.coordinates == PromptMsg.PIXEL:
        return (x0, y0, x1, y1)
    if msg.coordinates == PromptMsg.NORMALIZED:
        height, width = size_hw
        return (x0 * width, y0 * height, x1 * width, y1 * height)
    if msg.coordinates == PromptMsg.BEARING:
        raise PromptError("BAD_COORDS", "a box cannot be given as bearings; use LONLAT_DEG")
    left, top = _pixel(msg.coordinates, Point(x=x0, y=y0), size_hw, fov, axes)
    right, bottom = _pixel(msg.coordinates, Point(x=x1, y=y1), size_hw, fov, axes)
    return (left, top, right, bottom)


def _pixel(
    coordinates: int, point: Point, size_hw: tuple[int, int], fov: FieldOfView | None, axes: Axes
) -> Pixel:
    height, width = size_hw
    if not all(math.isfinite(value) for value in (point.x, point.y, point.z)):
        raise PromptError(
            "BAD_COORDS", f"point ({point.x}, {point.y}, {point.z}) must be finite numbers"
        )
    if coordinates == PromptMsg.PIXEL:
        return (point.x, point.y)
    if coordinates == PromptMsg.NORMALIZED:
        u, v = point.x * width, point.y * height
        return (
            width - _INSIDE if point.x == 1.0 else u,
            height - _INSIDE if point.y == 1.0 else v,
        )
    if coordinates not in (PromptMsg.LONLAT_DEG, PromptMsg.BEARING):
        raise PromptError("BAD_COORDS", f"coordinates must be 0 to 3, got {coordinates}")
    if fov is None:
        raise PromptError(
            "BAD_COORDS",
            "angles need projection:=equirectangular; use PIXEL or NORMALIZED coordinates",
        )
    if coordinates == PromptMsg.BEARING:
        return pixel_of_bearing(axes.vector_in((point.x, point.y, point.z)), size_hw, fov)
    lon = axes.lon_in(math.radians(point.x))
    return pixel_of_lonlat(lon, math.radians(point.y), size_hw, fov)


class LastSeen:
    """Remembers when each object was last visible, in stamps of the images."""

    def __init__(self) -> None:
        self._stamps: dict[int, Time] = {}

    def update(
        self, result: FrameResult, stamp: Time, lost_after_s: float
    ) -> dict[int, ObjectState]:
        """Takes a frame in and tells which of the hidden objects count as lost.

        Args:
            result: What the tracker found.
            stamp: The stamp of that frame.
            lost_after_s: Seconds out of sight after which an object counts as lost.

        Returns:
            The state per object id.
        """
        states = {}
        self._stamps = {i: s for i, s in self._stamps.items() if i in result.objects}
        for object_id, found in result.objects.items():
            if found.state == ObjectState.VISIBLE:
                self._stamps[object_id] = stamp
                states[object_id] = ObjectState.VISIBLE
                continue
            since = stamp_ns(self._stamps.setdefault(object_id, stamp))
            hidden_s = (stamp_ns(stamp) - since) * 1e-9
            lost = hidden_s > lost_after_s
            states[object_id] = ObjectState.LOST if lost else ObjectState.OCCLUDED
        return states

    def forget(self, object_id: int) -> None:
        """Forgets an object that was removed.

        Args:
            object_id: Its id.
        """
        self._stamps.pop(object_id, None)

    def stamp(self, object_id: int) -> Time:
        """Looks up one object.

        Args:
            object_id: Its id.

        Returns:
            The stamp of the last frame in which it was visible, zero if there was none.
        """
        return self._stamps.get(object_id, Time())


def to_object_array(
    header: Header,
    result: FrameResult | None,
    *,
    size_hw: tuple[int, int],
    states: Mapping[int, ObjectState],
    last_seen: LastSeen,
    with_masks: bool,
    label_hw: tuple[int, int] | None = None,
    axes: Axes = _IMAGE_AXES,
    bearing_frame: str = "",
) -> TrackedObjectArray:
    """Builds the message about all objects of one frame.

    Args:
        header: The header of the source image.
        result: What the tracker found, None if nothing is tracked.
        size_hw: (height, width) of the source image.
        states: The state per object id.
        last_seen: When each object was last visible.
        with_masks: Whether every object carries its own mask.
        label_hw: (height, width) of the label image; None: as the source image.
        axes: To give directions in.
        bearing_frame: Name of the frame with these axes; empty: the image's.

    Returns:
        The message.
    """
    height, width = size_hw
    msg = TrackedObjectArray(header=header)
    msg.image_height, msg.image_width = height, width
    msg.label_height, msg.label_width = label_hw or size_hw
    msg.bearing_frame = bearing_frame or header.frame_id
    for found in result.objects.values() if result else ():
        found = replace(found, state=states[found.object_id])
        msg.objects.append(_to_object(header, found, last_seen, axes, with_mask=with_masks))
    return msg


def _to_object(
    header: Header, found: ObjectResult, last_seen: LastSeen, axes: Axes, *, with_mask: bool
) -> TrackedObject:
    x, y, z = axes.vector_out(tuple(float(value) for value in found.bearing))
    msg = TrackedObject(
        id=found.object_id,
        label=found.label,
        state=int(found.state),
        visibility=float(found.visibility),
        visibility_logit=float(found.visibility_logit),
        mask_score=float(found.mask_score),
        area_px=int(found.area_px),
        solid_angle_sr=float(found.solid_angle_sr),
        crosses_seam=bool(found.crosses_seam),
        box=[float(value) for value in found.box],
        lon=axes.lon_out(float(found.lon)),
        lat=float(found.lat),
        bearing=Vector3(x=x, y=y, z=z),
        angular_width=float(found.angular_width),
        angular_height=float(found.angular_height),
        view=[float(value) for value in found.view or (0, 0, 0, 0)],
        age=int(found.age),
        frames_since_seen=int(found.frames_since_seen),
        last_seen=last_seen.stamp(found.object_id),
    )
    if with_mask:
        msg.mask = to_image(header, found.mask.astype(np.uint8) * 255, "mono8")
    return msg


def free_ids(taken: Sequence[int], limit: int) -> Iterator[int]:
    """Finds ids for new objects.

    Args:
        taken: Ids in use.
        limit: The largest id that the label image can hold.

    Yields:
        The free ids from 1 upwards.

    Raises:
        PromptError: When there is none left.
    """
    for object_id in range(1, limit + 1):
        if object_id not in taken:
            yield object_id
    raise PromptError("TOO_MANY_OBJECTS", f"all ids from 1 to {limit} are in use; remove some")
