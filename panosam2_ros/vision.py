"""Results as messages of vision_msgs, for programs that read those; only where it is installed."""

from __future__ import annotations

from rclpy.node import Node

from panosam2_ros.msg import TrackedObject, TrackedObjectArray
from panosam2_ros.qos import profile

try:
    from vision_msgs.msg import (
        BoundingBox2D,
        Detection2D,
        Detection2DArray,
        LabelInfo,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
        Point2D,
        Pose2D,
        VisionClass,
    )

    AVAILABLE = True
except ImportError:
    AVAILABLE = False

_BACKGROUND = "background"


class VisionOutputs:
    """Publishes `~/label_info` and `~/detections`, or nothing where vision_msgs is missing."""

    def __init__(self, node: Node) -> None:
        """Makes the publishers.

        Args:
            node: The node.
        """
        self._said: tuple[object, ...] | None = None
        if not AVAILABLE:
            return
        latched = profile(1, transient_local=True)
        self._label_info = node.create_publisher(LabelInfo, "~/label_info", latched)
        self._detections = node.create_publisher(Detection2DArray, "~/detections", profile(5))

    def publish(self, objects: TrackedObjectArray, threshold: float) -> None:
        """Publishes what is seen of a frame; the names of the labels when they change.

        Args:
            objects: Of the frame.
            threshold: Visibility in [0, 1] under which an object counts as hidden.
        """
        if not AVAILABLE:
            return
        said = (threshold, *((found.id, found.label) for found in objects.objects))
        if said != self._said:
            self._said = said
            self._label_info.publish(to_label_info(objects, threshold))
        if self._detections.get_subscription_count():
            self._detections.publish(to_detections(objects))


def to_label_info(objects: TrackedObjectArray, threshold: float) -> LabelInfo:
    """Names the values of `~/label_image`.

    Args:
        objects: Of a frame.
        threshold: Visibility in [0, 1] under which an object counts as hidden.

    Returns:
        The message: 0 is the background, an object without a label has its id for a name.
    """
    names = {0: _BACKGROUND} | {o.id: o.label or str(o.id) for o in objects.objects}
    classes = [VisionClass(class_id=i, class_name=name) for i, name in sorted(names.items())]
    return LabelInfo(header=objects.header, class_map=classes, threshold=threshold)


def to_detections(objects: TrackedObjectArray) -> Detection2DArray:
    """Lists the objects that are seen.

    Args:
        objects: Of a frame.

    Returns:
        The message. `id`, and the class of the only hypothesis, is the object's id, as
        `~/label_info` names it; the score is its visibility. An object on the seam has one box,
        its centre in the image and one side past an edge.
    """
    seen = [found for found in objects.objects if found.state == TrackedObject.VISIBLE]
    return Detection2DArray(
        header=objects.header, detections=[_detection(objects, found) for found in seen]
    )


def _detection(objects: TrackedObjectArray, found: TrackedObject) -> Detection2D:
    x, y, width, height = (float(value) for value in found.box)
    # x + width / 2 may be past the right edge, where the left one goes on.
    centre = Point2D(x=(x + width / 2) % objects.image_width, y=y + height / 2)
    hypothesis = ObjectHypothesis(class_id=str(found.id), score=float(found.visibility))
    return Detection2D(
        header=objects.header,
        id=str(found.id),
        results=[ObjectHypothesisWithPose(hypothesis=hypothesis)],
        bbox=BoundingBox2D(center=Pose2D(position=centre), size_x=width, size_y=height),
    )
