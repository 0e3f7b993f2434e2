"""What a camera says of its images: their size, and which part of a panorama they are."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from panosam2_ros.qos import matching, reliability_name

_WATCH_PERIOD_S = 0.25


@dataclass(frozen=True)
class Crop:
    """The part of a whole panorama that the images are; all in degrees.

    Attributes:
        hfov_deg: That the columns span.
        vfov_deg: That the rows span.
        yaw_deg: From the panorama's middle to the images', to the left.
        middle_lat_deg: Latitude of the images' middle row.
    """

    hfov_deg: float
    vfov_deg: float
    yaw_deg: float
    middle_lat_deg: float


def crop_of(info: CameraInfo) -> Crop | None:
    """Reads the roi: a window of an equirectangular panorama of the size width x height.

    Args:
        info: Without a `fault`.

    Returns:
        The part of the panorama; None if the roi is not set, or is all of it.
    """
    roi = info.roi
    cut = (roi.width, roi.height) != (info.width, info.height)
    if not (info.width and info.height and roi.width and roi.height and cut):
        return None
    return Crop(
        360 * roi.width / info.width,
        180 * roi.height / info.height,
        360 * (0.5 - (roi.x_offset + roi.width / 2) / info.width),
        180 * (0.5 - (roi.y_offset + roi.height / 2) / info.height),
    )


def fault(info: CameraInfo, size_hw: tuple[int, int] | None) -> str:
    """Says why a message cannot be of these images.

    Args:
        info: The message. One of width or height 0 says nothing, and has no fault.
        size_hw: (height, width) of the images; None if not known yet.

    Returns:
        Why; empty if it can be.
    """
    if not (info.width and info.height):
        return ""
    roi, whole = info.roi, f"{info.width}x{info.height}"
    if roi.x_offset + roi.width > info.width or roi.y_offset + roi.height > info.height:
        window = f"{roi.width}x{roi.height}+{roi.x_offset}+{roi.y_offset}"
        return f"its roi {window} is not within {whole}"
    is_set = roi.width and roi.height
    width, height = (roi.width, roi.height) if is_set else (info.width, info.height)
    width //= max(1, info.binning_x)
    height //= max(1, info.binning_y)
    if size_hw is None or size_hw == (height, width):
        return ""
    return f"it is of {width}x{height} images, but they are {size_hw[1]}x{size_hw[0]}"


class CameraInfoInput:
    """Subscribes to a camera's info once a publisher is there, with the publisher's profile.

    Args:
        node: The node to subscribe with.
        topic: A relative name, so that it can be remapped.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self.topic = node.resolve_topic_name(topic)
        self.info: CameraInfo | None = None
        self._node = node
        self._subscription: Subscription | None = None
        self._profile: QoSProfile | None = None
        wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_WATCH_PERIOD_S, self._watch, clock=wall)
        self._watch()

    def close(self) -> None:
        """Ends the subscription."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    def fault(self, size_hw: tuple[int, int] | None) -> str:
        """Says that the newest info cannot be of the images, why, and what follows.

        Args:
            size_hw: (height, width) of the images; None if not known yet.

        Returns:
            The text; empty if all is well or nothing has come.
        """
        reason = fault(self.info, size_hw) if self.info is not None else ""
        return reason and (
            f"{self.topic} is ignored: {reason}; remap camera_info to the topic of this camera, "
            "or crop or resize it together with the images"
        )

    def crop(self, size_hw: tuple[int, int] | None) -> Crop | None:
        """The part of a panorama that the images are, as far as the newest info tells.

        Args:
            size_hw: (height, width) of the images; None if not known yet.
        """
        info = self.info
        return None if info is None or fault(info, size_hw) else crop_of(info)

    @property
    def summary(self) -> str:
        """Size and roi for /diagnostics; empty if nothing has come."""
        if self.info is None:
            return ""
        size, roi = f"{self.info.width}x{self.info.height}", self.info.roi
        if not (roi.width and roi.height):
            return size
        return f"{size} roi {roi.width}x{roi.height}+{roi.x_offset}+{roi.y_offset}"

    def _watch(self) -> None:
        offered = [p.qos_profile for p in self._node.get_publishers_info_by_topic(self.topic)]
        if not offered:
            return
        profile = matching(offered, "auto", 1)
        # Some drivers send it once, for whoever comes later.
        if all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in offered):
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        if profile == self._profile:
            return
        self._unsubscribe()
        self._profile = profile
        self._subscription = self._node.create_subscription(
            CameraInfo, self.topic, self._receive, profile
        )
        self._node.get_logger().info(f"listening to {self.topic} ({reliability_name(profile)})")

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._profile = None

    def _receive(self, info: CameraInfo) -> None:
        self.info = info
