#!/usr/bin/env python3
"""Listens to a camera and a tracker until the camera's stream ends, then writes a report.

Leaves overlay.mp4, sheet.png and summary.json in the folder of the parameter `out`. Further
parameters: object_id (of the tracker), truth_id (the same object in the true label images), mark
(pixel of the click) and source (what was played).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import UInt64
from std_srvs.srv import Trigger

from panosam2_ros.images import to_labels, to_rgb
from panosam2_ros.msg import FrameStats, TrackedObjectArray
from panosam2_ros.process import refuse_other_arguments, running
from panosam2_ros.qos import profile
from panosam2_ros.report import (
    Recorded,
    contact_sheet,
    moments,
    score,
    seam_crossings,
    write_video,
)
from panosam2_ros.stamps import stamp_ns

_QUIET_S = 3.0  # after the stream's end, results that are still on their way get this long
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class Recorder(Node):
    """Collects everything about a run by the stamps of its images."""

    def __init__(self) -> None:
        """Subscribes to camera and tracker."""
        super().__init__("recorder")
        self.declare_parameter("out", "out/demo")
        self.declare_parameter("object_id", 1)
        self.declare_parameter("truth_id", 1)
        self.declare_parameter("mark", [-1.0, -1.0])
        self.declare_parameter("source", "camera")
        self.frames: dict[int, Recorded] = {}
        self.stats: dict[int, FrameStats] = {}
        self.published: int | None = None
        self.variant = ""
        self._result_times: list[float] = []
        self._last_heard = time.monotonic()
        lossless = profile(20)
        self.create_subscription(Image, "image", self._on_image, lossless)
        self.create_subscription(Image, "label_image", self._on_labels, lossless)
        self.create_subscription(
            Image, "ground_truth", self._on_truth, profile(20, transient_local=True)
        )
        self.create_subscription(TrackedObjectArray, "objects", self._on_objects, lossless)
        self.create_subscription(FrameStats, "stats", self._on_stats, profile(50))
        self.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, profile(10)
        )
        self.create_subscription(
            UInt64, "end_of_stream", self._on_end, profile(1, transient_local=True)
        )
        self.create_service(Trigger, "~/ready", self._on_ready)

    @property
    def done(self) -> bool:
        """Whether the stream has ended and nothing more comes in."""
        if self.published is None:
            return False
        processed = sum(frame.complete for frame in self.frames.values())
        quiet = time.monotonic() - self._last_heard > _QUIET_S
        return quiet or processed == self.published

    @property
    def recorded(self) -> list[Recorded]:
        """The frames in order of time."""
        return [self.frames[stamp] for stamp in sorted(self.frames)]

    @property
    def results_per_second(self) -> float:
        """Results per second from the first tracked frame to the last."""
        times = self._result_times
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def _frame(self, msg: Image | TrackedObjectArray) -> Recorded:
        self._last_heard = time.monotonic()
        return self.frames.setdefault(stamp_ns(msg.header.stamp), Recorded())

    def _on_image(self, msg: Image) -> None:
        bgr = cv2.cvtColor(to_rgb(msg), cv2.COLOR_RGB2BGR)
        self._frame(msg).jpeg = cv2.imencode(".jpg", bgr, _JPEG)[1]

    def _on_labels(self, msg: Image) -> None:
        labels = to_labels(msg).astype(np.uint16)
        self._frame(msg).labels_png = cv2.imencode(".png", labels, _FAST_PNG)[1]

    def _on_truth(self, msg: Image) -> None:
        labels = to_labels(msg).astype(np.uint8)
        self._frame(msg).truth_png = cv2.imencode(".png", labels, _FAST_PNG)[1]

    def _on_objects(self, msg: TrackedObjectArray) -> None:
        self._frame(msg).objects = list(msg.objects)
        if msg.objects:
            self._result_times.append(time.monotonic())

    def _on_stats(self, msg: FrameStats) -> None:
        if msg.objects:
            self.stats[stamp_ns(msg.header.stamp)] = msg

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            for value in status.values:
                if value.key == "variant":
                    self.variant = value.value

    def _on_ready(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Tells whether image and result of a frame with an object have both been heard."""
        response.success = any(frame.complete and frame.objects for frame in self.frames.values())
        return response

    def _on_end(self, msg: UInt64) -> None:
        self.published = msg.data
        self._last_heard = time.monotonic()


def summary(recorder: Recorder, object_id: int, truth_id: int) -> dict[str, Any]:
    """Sums up a run.

    Args:
        recorder: Has recorded it.
        object_id: The tracked object.
        truth_id: Its id in the true label images.

    Returns:
        The content of summary.json.
    """
    frames = recorder.recorded
    published = recorder.published or 0
    processed = sum(frame.labels_png is not None for frame in frames)
    course = moments(frames, object_id, truth_id)
    latencies = [stats.latency_ms for stats in recorder.stats.values()] or [0.0]
    median, tail = np.percentile(latencies, (50, 95))
    last = next(reversed(recorder.stats.values()), FrameStats())
    return {
        "frames_published": published,
        "frames_processed": processed,
        "frames_dropped": published - processed,
        "seam_crossings": len(seam_crossings(course)),
        "objects": [score(course, object_id)],
        "latency_ms": {"p50": round(float(median), 1), "p95": round(float(tail), 1)},
        "fps": round(recorder.results_per_second, 2),
        "device": last.device,
        "variant": recorder.variant,
    }


def write_report(recorder: Recorder) -> None:
    """Writes the three files.

    Args:
        recorder: Has recorded the run.

    Raises:
        ValueError: If the object was not tracked in a single frame.
    """
    object_id = recorder.get_parameter("object_id").value
    truth_id = recorder.get_parameter("truth_id").value
    mark = tuple(recorder.get_parameter("mark").value)
    out = Path(recorder.get_parameter("out").value)
    out.mkdir(parents=True, exist_ok=True)
    numbers = summary(recorder, object_id, truth_id)
    frames = recorder.recorded
    course = moments(frames, object_id, truth_id)
    if not course:
        raise ValueError(f"object {object_id} was not tracked in any frame; see the tracker's log")
    sheet = contact_sheet(
        frames,
        course,
        title=_title(numbers, recorder.get_parameter("source").value),
        mark=(mark[0], mark[1]) if min(mark) >= 0 else None,
        truth_id=truth_id,
    )
    cv2.imwrite(str(out / "sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    write_video(frames, truth_id, out / "overlay.mp4")
    (out / "summary.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def _title(numbers: dict[str, Any], source: str) -> str:
    parts = [
        f"PanoSAM2 {numbers['variant']} on {numbers['device']}",
        source,
        f"{numbers['frames_processed']} of {numbers['frames_published']} frames",
        f"{numbers['seam_crossings']} seam crossings",
        f"{numbers['fps']:.1f} fps",
    ]
    found = numbers["objects"][0]
    if found.get("mean_iou") is not None:
        parts.insert(2, f"mean IoU {found['mean_iou']:.2f} (mask in colour, truth as white line)")
    return "   |   ".join(parts)


def main(args: list[str] | None = None) -> int:
    """Records one run.

    Args:
        args: Command line; None takes the process's own.

    Returns:
        0 if the report was written, 1 if there was nothing to report.
    """
    refuse_other_arguments("recorder", str(__doc__), args)
    written = False
    with running(Recorder, args) as node:
        while not node.done:
            rclpy.spin_once(node, timeout_sec=0.1)
        node.get_logger().info(f"writing the report of {len(node.frames)} frames")
        try:
            write_report(node)
            written = True
        except ValueError as error:
            node.get_logger().error(str(error))
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
