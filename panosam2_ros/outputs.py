"""What the tracker node publishes with every frame. Pictures only while somebody looks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from panosam2_core import TrackerConfig
from panosam2_core.media.overlay import draw
from panosam2_core.model import MASK_STRIDE
from panosam2_ros import parameters
from panosam2_ros.follow import Follower
from panosam2_ros.images import to_image, to_jpeg
from panosam2_ros.markers import to_markers
from panosam2_ros.messages import to_object_array
from panosam2_ros.msg import FrameStats, PromptResult, TrackedObjectArray
from panosam2_ros.qos import profile
from panosam2_ros.stream import Outcome, Stream
from panosam2_ros.vision import VisionOutputs


class Outputs:
    """The node's publishers of results."""

    def __init__(self, node: Node) -> None:
        """Makes them.

        Args:
            node: The node.
        """
        make = node.create_publisher
        picture = profile(1, reliable=False)
        self._label_image = make(Image, "~/label_image", profile(1))
        self._objects = make(TrackedObjectArray, "~/objects", profile(5))
        self.answers = make(PromptResult, "~/prompt_result", profile(100, transient_local=True))
        self.stats = make(FrameStats, "~/stats", profile(10))
        self._overlay = make(Image, "~/overlay", picture)
        self._overlay_jpeg = make(CompressedImage, "~/overlay/compressed", picture)
        self._markers = make(MarkerArray, "~/markers", profile(1))
        self._follow_image = make(Image, "~/follow/image_raw", picture)
        self._follow_info = make(CameraInfo, "~/follow/camera_info", picture)
        self._follow_transform = make(TransformStamped, "~/follow/transform", profile(1))
        self._follower = Follower()
        self._vision = VisionOutputs(node)

    def publish(
        self, header: Header, outcome: Outcome, stream: Stream, values: Mapping[str, Any]
    ) -> tuple[TrackedObjectArray, float]:
        """Publishes the label image and the objects of a frame.

        Args:
            header: Of the image.
            outcome: Of the frame.
            stream: That gave it.
            values: Parameters by name.

        Returns:
            The objects, and the milliseconds that it took.
        """
        begin = time.monotonic()
        shown = labels = _labels(outcome, values)
        if values["publish.label_resolution"] == "model":
            size = tuple(side // MASK_STRIDE for side in stream.tracker.model.input_size)
            shown = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        objects = to_object_array(
            header,
            outcome.result,
            size_hw=outcome.rgb.shape[:2],
            states=outcome.states,
            last_seen=stream.last_seen,
            with_masks=values["publish.object_masks"],
            label_hw=shown.shape,
            axes=parameters.axes(values),
            bearing_frame=values["bearing_frame"],
        )
        self._label_image.publish(to_image(header, shown, values["publish.label_encoding"]))
        self._objects.publish(objects)
        self._vision.publish(objects, values["visibility.occluded_below"])
        return objects, 1e3 * (time.monotonic() - begin)

    def publish_pictures(
        self,
        header: Header,
        outcome: Outcome,
        objects: TrackedObjectArray,
        config: TrackerConfig,
        values: Mapping[str, Any],
    ) -> None:
        """Publishes what people look at, while they do.

        Args:
            header: Of the image.
            outcome: Of the frame.
            objects: From `publish`.
            config: Of the tracker.
            values: Parameters by name.
        """
        self._publish_overlay(header, outcome, objects, values)
        self._publish_on_sphere(header, outcome, config, values)

    def _publish_overlay(
        self,
        header: Header,
        outcome: Outcome,
        objects: TrackedObjectArray,
        values: Mapping[str, Any],
    ) -> None:
        raw = self._overlay.get_subscription_count()
        jpeg = self._overlay_jpeg.get_subscription_count()
        if not (raw or jpeg):
            return
        drawn = draw(
            outcome.rgb,
            _labels(outcome, values),
            {found.id: found for found in objects.objects},
            alpha=values["overlay.alpha"],
            max_width=values["overlay.max_width"],
        )
        if raw:
            self._overlay.publish(to_image(header, drawn, "rgb8"))
        if jpeg:
            self._overlay_jpeg.publish(to_jpeg(header, drawn, values["overlay.jpeg_quality"]))

    def _publish_on_sphere(
        self, header: Header, outcome: Outcome, config: TrackerConfig, values: Mapping[str, Any]
    ) -> None:
        """What needs directions: not of an ordinary camera."""
        if not config.pano:
            return
        axes, frame_id = parameters.axes(values), values["bearing_frame"]
        if values["publish.markers"] and self._markers.get_subscription_count():
            markers = to_markers(
                header,
                outcome.result,
                outcome.states,
                fov=config.fov,
                axes=axes,
                frame_id=frame_id,
            )
            self._markers.publish(markers)
        self._follower.aim(outcome.result, values["follow.object_id"])
        followers = (self._follow_image, self._follow_info, self._follow_transform)
        if not config.is_whole or not any(p.get_subscription_count() for p in followers):
            return
        view = self._follower.look(
            header,
            outcome.rgb,
            hfov=math.radians(values["follow.hfov_deg"]),
            size_hw=(values["follow.height"], values["follow.width"]),
            axes=axes,
            frame_id=frame_id,
        )
        if view is not None:
            for publisher, message in zip(followers, view, strict=True):
                publisher.publish(message)


def _labels(outcome: Outcome, values: Mapping[str, Any]) -> np.ndarray:
    dtype = np.uint16 if values["publish.label_encoding"] == "mono16" else np.uint8
    if outcome.result is None:
        return np.zeros(outcome.rgb.shape[:2], dtype)
    return outcome.result.label_image(dtype)
