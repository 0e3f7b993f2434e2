"""The image subscription: follows the publisher's quality of service and notices starvation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from panosam2_ros.delivery import Delivery
from panosam2_ros.qos import matching, reliability_name
from panosam2_ros.ring import AnyImage
from panosam2_ros.stamps import stamp_ns

WATCH_PERIOD_S = 0.25
# With the watch's period and that of /diagnostics it is told within five seconds.
STARVING_AFTER_S = 3.5
STARVING_HINT = (
    "if it is running, its images are too large for the default shared memory: start the camera "
    "driver, too, with FASTDDS_DEFAULT_PROFILES_FILE (before Fast DDS 3: "
    "FASTRTPS_DEFAULT_PROFILES_FILE) set to config/fastdds_large_images.xml"
)

MISMATCH_HINT = (
    "qos.reliability is set to reliable, but the camera offers best effort, so nothing can arrive;"
    " set qos.reliability:=auto"
)


class ImageInput:
    """Subscribes to an image topic once a publisher is there, with the publisher's profile."""

    def __init__(
        self,
        node: Node,
        topic: str,
        on_image: Callable[[AnyImage], None],
        *,
        reliability: str,
        depth: int,
        compressed: bool = False,
    ) -> None:
        """Starts to look for a publisher.

        Args:
            node: The node to subscribe with.
            topic: A relative name, so that it can be remapped.
            on_image: Called with every image.
            reliability: "auto", "reliable" or "best_effort".
            depth: Images the middleware keeps.
            compressed: Listen to `sensor_msgs/CompressedImage` on TOPIC/compressed instead.
        """
        self.topic = node.resolve_topic_name(topic)
        if compressed:  # as image_transport names it: after the remapped base topic
            self.topic += "/compressed"
        self.encoding = self.frame_id = self.offered_reliability = ""
        self.size_hw: tuple[int, int] | None = None
        self.stamp_skew_ms = 0.0
        self._type = CompressedImage if compressed else Image
        self._last_arrival = time.monotonic()
        self.incompatible_count = self.lost_count = 0
        self._node = node
        self._on_image = on_image
        self._reliability = reliability
        self._depth = depth
        self._subscription: Subscription | None = None
        self._profile: QoSProfile | None = None
        self._arrivals: deque[float] = deque(maxlen=60)
        self._delivery = Delivery(STARVING_AFTER_S, time.monotonic())
        self._warned = False
        # On the wall: with use_sim_time a bag may be paused while its player comes or goes.
        wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(WATCH_PERIOD_S, self._watch, clock=wall)
        self._watch()
        if self._subscription is None:
            node.get_logger().info(f"waiting for a camera on {self.topic}")

    def close(self) -> None:
        """Ends the subscription."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    @property
    def publishers(self) -> int:
        """How many publishers the topic has."""
        return self._node.count_publishers(self.topic)

    @property
    def used_reliability(self) -> str:
        """The reliability that is subscribed with, empty if nobody publishes."""
        return reliability_name(self._profile) if self._profile is not None else ""

    @property
    def starvation(self) -> str:
        """That little or nothing of what somebody publishes arrives, why, and how to mend it.

        Empty if all is well.
        """
        if self._subscription is None or not self._delivery.starving(time.monotonic()):
            return ""
        arrived, lost = self._delivery.arrived, self._delivery.lost
        some = f"only {arrived} of {arrived + lost} images arrived" if lost else "no image arrived"
        forced = self._reliability == "reliable" and "best_effort" in self.offered_reliability
        hint = MISMATCH_HINT if forced else STARVING_HINT
        return f"{some} in {STARVING_AFTER_S:.1f} s although a camera is there; {hint}"

    @property
    def age_s(self) -> float:
        """Seconds since the last image arrived, or since the start."""
        return time.monotonic() - self._last_arrival

    @property
    def rate_hz(self) -> float:
        """Images per second, from the 60th last image until now."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(time.monotonic() - self._arrivals[0], 1e-6)

    def _watch(self) -> None:
        offered = self._node.get_publishers_info_by_topic(self.topic)
        self.offered_reliability = ", ".join(
            sorted({reliability_name(publisher.qos_profile) for publisher in offered})
        )
        if not offered:
            self._delivery.begin(time.monotonic())
            return
        profile = matching(
            [publisher.qos_profile for publisher in offered], self._reliability, self._depth
        )
        if self._profile is None or self._profile.reliability != profile.reliability:
            self._unsubscribe()
            self._subscribe(profile)
        elif starvation := self.starvation:
            if not self._warned:
                publisher = f"{offered[0].node_namespace.rstrip('/')}/{offered[0].node_name}"
                told = f"{self.topic}, published by {publisher}: {starvation}"
                self._node.get_logger().warning(told)
            self._warned = True
        elif not self._delivery.lost:  # at a share about a half it is told once
            self._warned = False

    def _subscribe(self, profile: QoSProfile) -> None:
        self._profile = profile
        self._delivery.begin(time.monotonic())
        self._subscription = self._node.create_subscription(
            self._type,
            self.topic,
            self._receive,
            profile,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible, message_lost=self._on_lost
            ),
        )
        self._node.get_logger().info(
            f"listening to {self.topic} ({reliability_name(profile)}, depth {profile.depth})"
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._profile = None

    def _on_incompatible(self, event: object) -> None:
        """Counts and tells; `_watch` subscribes again with what the publishers offer."""
        self.incompatible_count += 1
        text = "matching it again" if self._reliability == "auto" else MISMATCH_HINT
        self._node.get_logger().warning(
            f"a publisher of {self.topic} offers another quality of service; {text}"
        )

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self.lost_count += event.total_count_change
        self._delivery.add(time.monotonic(), lost=event.total_count_change)

    def _receive(self, image: AnyImage) -> None:
        now = time.monotonic()
        self._arrivals.append(now)
        self._last_arrival = now
        self._delivery.add(now, arrived=1)
        skew = self._node.get_clock().now().nanoseconds - stamp_ns(image.header.stamp)
        self.stamp_skew_ms = skew * 1e-6
        self._on_image(image)

    def look_at(self, image: AnyImage) -> None:
        """Notes what kind of image it is, and tells when that changes in mid-stream.

        Args:
            image: That can be read.
        """
        before = (self.encoding, self.frame_id, self.size_hw)
        self.frame_id = image.header.frame_id
        if isinstance(image, CompressedImage):
            self.encoding = image.format  # its size is known when it has been decoded
        else:
            self.encoding, self.size_hw = image.encoding, (image.height, image.width)
        after = (self.encoding, self.frame_id, self.size_hw)
        if before != after and before[2] is not None:
            names = ("encoding", "frame_id", "size (height, width)")
            changes = [
                f"{name} {old} -> {new}"
                for name, old, new in zip(names, before, after, strict=True)
                if old != new
            ]
            self._node.get_logger().warning(
                f"the images of {self.topic} changed: {', '.join(changes)}; the objects are kept"
            )
