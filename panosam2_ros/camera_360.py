#!/usr/bin/env python3
"""A 360 camera without a camera: plays the synthetic world, a video file or a folder of images.

python -m panosam2_ros.camera_360
python -m panosam2_ros.camera_360 --ros-args -p video:=walk.mp4 -p rate:=15.0 -p loop:=true
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header, UInt64
from std_srvs.srv import SetBool

from panosam2_ros import overrides
from panosam2_ros.images import to_image
from panosam2_ros.msg import FrameStats
from panosam2_ros.process import refuse_other_arguments, running, until_shutdown
from panosam2_ros.qos import profile
from panosam2_ros.sources import Prefetch, SourceError, SourceFrame, open_source
from panosam2_ros.stamps import stamp_ns

_ANSWER_TIMEOUT_S = 30.0
_CONNECT_S = 10
_PARAMETERS = (
    ("video", "", "Video file or folder of images; empty plays the synthetic world."),
    ("clip", 0, "Clip of the synthetic demo split; only clip 0 is the planned demo."),
    ("rate", 10.0, "Images per second; 0 sends the next image when the tracker is done."),
    ("frames", 0, "Stop after so many images; 0 plays all."),
    ("loop", False, "Begin again at the end."),
    ("paused", False, "Send the first image, then wait for ~/play."),
    ("wait_for_subscribers", 1, "Subscribers of the image to wait for before starting."),
    ("frame_id", "camera", "frame_id of the headers."),
)


class Camera360(Node):
    """Publishes `image_raw`, and `~/ground_truth` (object ids) where it is known."""

    def __init__(self) -> None:
        """Declares parameters and topics."""
        super().__init__("camera_360")
        for name, default, description in _PARAMETERS:
            overrides.check(self, name, default)
            self.declare_parameter(name, default, ParameterDescriptor(description=description))
        overrides.warn_of_unknown(self)
        self.failed = False
        self._stop = threading.Event()
        self._playing = threading.Event()
        self._answered = threading.Condition()
        self._last_answer = 0
        self._image = self.create_publisher(Image, "image_raw", profile(2))
        self._truth = self.create_publisher(
            Image, "~/ground_truth", profile(2, transient_local=True)
        )
        self._end = self.create_publisher(
            UInt64, "~/end_of_stream", profile(1, transient_local=True)
        )
        self.create_service(SetBool, "~/play", self._on_play)
        self.create_subscription(FrameStats, "stats", self._on_stats, profile(10))
        self._thread = threading.Thread(target=self._run, name="camera")

    def start(self) -> None:
        """Starts to play, in a thread of its own; the node shuts down at the end."""
        self._thread.start()

    def stop(self) -> None:
        """Stops playing."""
        self._stop.set()
        self._playing.set()
        with self._answered:
            self._answered.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _get(self, name: str) -> str | int | float | bool:
        return self.get_parameter(name).value

    def _on_play(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._playing.set()
        else:
            self._playing.clear()
        response.success = True
        response.message = "playing" if request.data else "paused"
        return response

    def _on_stats(self, stats: FrameStats) -> None:
        with self._answered:
            self._last_answer = max(self._last_answer, stamp_ns(stats.header.stamp))
            self._answered.notify()

    def _run(self) -> None:
        try:
            with closing(Prefetch(self._frames(self._open()))) as frames, until_shutdown(self):
                self._play(frames)
        except SourceError as error:
            self.failed = True
            self.get_logger().error(str(error))
        except Exception:
            # Nobody looks at what ends a thread; the process must not go on without images.
            self.failed = True
            self.get_logger().error(f"the camera broke:\n{traceback.format_exc()}")
        finally:
            rclpy.try_shutdown()

    def _open(self) -> Iterator[SourceFrame]:
        return open_source(str(self._get("video")), int(self._get("clip")))

    def _play(self, frames: Prefetch) -> None:
        self._wait_for_subscribers()
        if not self._get("paused"):
            self._playing.set()
        sent, due = 0, time.monotonic()
        for frame in frames:
            if sent:
                self._playing.wait()
            if self._stop.is_set():
                return
            stamp = self._send(frame)
            sent += 1
            if sent == 1:
                # A subscriber counts as soon as this side knows it; it listens when it answers.
                self._image.wait_for_all_acked(Duration(seconds=_CONNECT_S))
                due = time.monotonic()
            if self._playing.is_set():
                due = self._pace(stamp, due)
        self.get_logger().info(f"end of stream after {sent} images")
        self._end.publish(UInt64(data=sent))
        for publisher in (self._image, self._truth, self._end):
            publisher.wait_for_all_acked(Duration(seconds=2))

    def _frames(self, source: Iterator[SourceFrame]) -> Iterator[SourceFrame]:
        limit, sent = int(self._get("frames")), 0
        while True:
            before = sent
            for frame in source:
                yield frame
                sent += 1
                if sent == limit:
                    return
            if sent == before:
                raise SourceError("expected images, the source has none; choose another `video`")
            if not self._get("loop"):
                return
            source = self._open()

    def _wait_for_subscribers(self) -> None:
        wanted = int(self._get("wait_for_subscribers"))
        topic = self._image.topic_name
        if self._image.get_subscription_count() < wanted:
            self.get_logger().info(f"waiting for {wanted} subscriber(s) of {topic}")
        while self._image.get_subscription_count() < wanted and not self._stop.wait(0.05):
            pass

    def _send(self, frame: SourceFrame) -> int:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=str(self._get("frame_id")))
        if frame.truth is not None:
            self._truth.publish(to_image(header, frame.truth, "mono8"))
        self._image.publish(to_image(header, frame.rgb, "rgb8"))
        return stamp_ns(header.stamp)

    def _pace(self, stamp: int, due: float) -> float:
        """Waits for the time of the next image and returns it."""
        rate = float(self._get("rate"))
        if rate > 0:
            due = max(due + 1 / rate, time.monotonic() - 1 / rate)
            self._stop.wait(max(0.0, due - time.monotonic()))
            return due
        with self._answered:
            answered = self._answered.wait_for(
                lambda: self._last_answer >= stamp or self._stop.is_set(), _ANSWER_TIMEOUT_S
            )
        if not answered:
            self.get_logger().warning(
                f"the tracker has not answered for {_ANSWER_TIMEOUT_S:.0f} s; sending the next "
                "image. Is `stats` remapped to its ~/stats? Else set rate above 0"
            )
        return time.monotonic()


def main(args: list[str] | None = None) -> int:
    """Plays until the end or until told to stop.

    Args:
        args: Command line; None takes the process's own.

    Returns:
        0, or 1 if the source could not be read.
    """
    listed = "\n".join(
        f"  {name} (default {value!r}): {text}" for name, value, text in _PARAMETERS
    )
    refuse_other_arguments("camera_360", f"{__doc__}\nParameters:\n{listed}", args)
    with running(Camera360, args) as node:
        try:
            node.start()
            rclpy.spin(node)
        finally:
            node.stop()
    return int(node.failed)


if __name__ == "__main__":
    sys.exit(main())
