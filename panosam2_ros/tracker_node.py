#!/usr/bin/env python3
"""The node: tracks prompted objects through a camera's images.

Start it with `ros2 launch panosam2_ros tracker.launch.py`, or where there is no `ros2` command
with `python -m panosam2_ros.tracker_node --ros-args -r image:=/image_raw`.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections import deque
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_core import PanoSAM2Error, PanoTracker, Prompt, TrackerConfig, load_model
from panosam2_core.media.overlay import draw
from panosam2_ros import parameters
from panosam2_ros.diagnostics import ERROR, WARN, Report, to_message
from panosam2_ros.image_input import STARVING_HINT, ImageInput
from panosam2_ros.images import ImageError, check_image, to_image
from panosam2_ros.logs import NodeLogHandler
from panosam2_ros.messages import to_object_array
from panosam2_ros.msg import FrameStats, PromptResult, TrackedObjectArray
from panosam2_ros.msg import Prompt as PromptMsg
from panosam2_ros.process import running, until_shutdown
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns
from panosam2_ros.stream import Outcome, Rules, Stream, refusal
from panosam2_ros.worker import Worker

_COMPLAIN_EVERY_S = 5.0
_WARMUP_SIZE_HW = (256, 512)


class TrackerNode(LifecycleNode):
    """Owns the topics, the parameters and the lifecycle; the work is done by `Stream`."""

    def __init__(self) -> None:
        """Declares parameters and outputs. The model is loaded on configuring."""
        super().__init__("panosam2")
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._values = parameters.values(self)
        self._stream: Stream | None = None
        self._worker: Worker[Image, PromptMsg] | None = None
        self._input: ImageInput | None = None
        self._last_stamp = 0
        self._complaints: dict[str, float] = {}
        self._finished: deque[float] = deque(maxlen=60)
        self._latencies: deque[float] = deque(maxlen=200)
        self._last_error = ""
        self._create_outputs()
        self.create_subscription(PromptMsg, "~/prompt", self._on_prompt, profile(10))
        self.create_timer(1.0, self._publish_diagnostics)

    def start(self) -> None:
        """Configures and activates, if the parameter autostart says so."""
        if not self._values["autostart"]:
            self.get_logger().info("waiting to be configured (autostart is off)")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and runs it once.

        Args:
            state: Where the node comes from.

        Returns:
            Whether it worked; the log says why not.
        """
        begin = time.monotonic()
        try:
            self._stream = self._load()
        except PanoSAM2Error as error:
            self._last_error = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            # rclpy would turn it into a failed transition without a word.
            self._last_error = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot configure:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        self._last_error = ""
        self.get_logger().info(
            f"model {self._values['model.variant']} on {self._device} ready in "
            f"{time.monotonic() - begin:.1f} s"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to listen and to work.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._finished.clear()
        self._latencies.clear()
        self._worker = Worker(self._work)
        self._input = ImageInput(
            self,
            "image",
            self._on_image,
            reliability=self._values["qos.reliability"],
            depth=self._values["qos.depth"],
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops to listen and forgets the objects; the model stays loaded.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._stream = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops everything.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._stop()
        self._stream = None
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Ends the worker, then the node."""
        self._stop()
        super().destroy_node()

    def _load(self) -> Stream:
        values = self._values = parameters.values(self)
        model = load_model(
            values["model.variant"],
            checkpoint=values["model.checkpoint"] or None,
            device=values["device"],
            precision=values["model.precision"],
        )
        tracker = PanoTracker(
            model,
            TrackerConfig(
                pano=values["projection"] == "equirectangular",
                hfov_deg=values["hfov_deg"],
                mask_threshold=values["mask_threshold"],
                occluded_below=values["visibility.occluded_below"],
                max_objects=values["max_objects"],
                prompt_view=values["prompt.view"],
            ),
        )
        _warm_up(tracker, values["warmup_frames"])
        mono16 = values["publish.label_encoding"] == "mono16"
        return Stream(
            tracker,
            Rules(
                max_id=65535 if mono16 else 254,
                lost_after_s=values["visibility.lost_after_s"],
                prompt_max_ahead_s=values["prompt.max_ahead_ms"] * 1e-3,
            ),
        )

    def _stop(self) -> None:
        if self._input is not None:
            self._input.close()
        left = self._worker.stop() if self._worker is not None else []
        if self._stream is not None:
            left = [*self._stream.reset(), *left]
        self._input = self._worker = None
        self._last_stamp = 0
        with until_shutdown(self):
            for order in left:
                text = "the node was deactivated before it came to this prompt; send it again"
                self._prompt_result.publish(refusal(order, "NOT_ACTIVE", text))

    @property
    def _device(self) -> str:
        return str(self._stream.tracker.model.pixel_mean.device) if self._stream else "none"

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        verdict = parameters.check_change(changed, configured=self._stream is not None)
        if verdict.successful:
            known = {p.name: p.value for p in changed if p.name in self._values}
            self._values = {**self._values, **known}
        return verdict

    # ---- inputs, on the executor's thread

    def _on_prompt(self, order: PromptMsg) -> None:
        if self._worker is None:
            text = "the node is not active; activate it, or start it with autostart:=true"
            self._prompt_result.publish(refusal(order, "NOT_ACTIVE", text))
        else:
            self._worker.put_order(order)

    def _on_image(self, image: Image) -> None:
        if self._worker is None:
            return
        try:
            check_image(image)
        except ImageError as error:
            self._worker.reject_frame()
            self._last_error = str(error)
            self._complain(f"cannot use an image of {self._input_topic}: {error}")
        else:
            self._worker.put_frame(image)

    def _complain(self, text: str) -> None:
        """Logs an error, but the same one not with every image."""
        now = time.monotonic()
        if now - self._complaints.get(text, -math.inf) > _COMPLAIN_EVERY_S:
            self._complaints = {t: s for t, s in self._complaints.items() if s > now - 60}
            self._complaints[text] = now
            self.get_logger().error(text)

    @property
    def _input_topic(self) -> str:
        return self._input.topic if self._input is not None else ""

    # ---- work and outputs, on the worker's thread

    def _work(
        self, image: Image | None, orders: list[PromptMsg], is_new: bool, waited_s: float
    ) -> None:
        with until_shutdown(self):
            self._turn(self._stream, image, orders, is_new, waited_s)

    def _turn(
        self,
        stream: Stream,
        image: Image | None,
        orders: list[PromptMsg],
        is_new: bool,
        waited_s: float,
    ) -> None:
        if is_new and image is not None:
            self._watch_time(stream, stamp_ns(image.header.stamp))
        outcome = stream.turn(image, orders, is_new=is_new)
        if image is not None and outcome.is_result:
            self._publish(stream, image, outcome, waited_s)
        for answer in outcome.answers:
            self._prompt_result.publish(answer)
            self._log_answer(answer)
        if outcome.failure is not None:
            self._last_error = str(outcome.failure)
            raise outcome.failure

    def _log_answer(self, answer: PromptResult) -> None:
        text = f"prompt for object {answer.object_id}: {answer.message}"
        if answer.success:
            self.get_logger().info(text)
        else:
            self.get_logger().warning(text)

    def _watch_time(self, stream: Stream, stamp: int) -> None:
        if stamp < self._last_stamp:
            back_s = (self._last_stamp - stamp) * 1e-9
            self.get_logger().warning(
                f"time jumped back by {back_s:.3f} s (a bag that loops, or two cameras on "
                f"{self._input_topic}?); the objects are kept, the memory of their motion is not"
            )
            stream.tracker.forget_short_term()
        self._last_stamp = stamp

    def _create_outputs(self) -> None:
        self._label_image = self.create_publisher(Image, "~/label_image", profile(1))
        self._objects = self.create_publisher(TrackedObjectArray, "~/objects", profile(5))
        self._prompt_result = self.create_publisher(
            PromptResult, "~/prompt_result", profile(10, transient_local=True)
        )
        self._overlay = self.create_publisher(Image, "~/overlay", profile(1, reliable=False))
        self._stats = self.create_publisher(FrameStats, "~/stats", profile(10))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", profile(10))

    def _publish(self, stream: Stream, image: Image, outcome: Outcome, waited_s: float) -> None:
        begin = time.monotonic()
        size_hw = outcome.rgb.shape[:2]
        encoding = self._values["publish.label_encoding"]
        dtype = np.uint16 if encoding == "mono16" else np.uint8
        result = outcome.result
        labels = result.label_image(dtype) if result else np.zeros(size_hw, dtype)
        objects = to_object_array(
            image.header,
            result,
            size_hw=size_hw,
            states=outcome.states,
            last_seen=stream.last_seen,
            with_masks=self._values["publish.object_masks"],
        )
        self._label_image.publish(to_image(image.header, labels, encoding))
        self._objects.publish(objects)
        publish_ms = 1e3 * (time.monotonic() - begin)
        self._finished.append(time.monotonic())
        if self._values["publish.stats"]:
            self._stats.publish(self._frame_stats(image.header, outcome, waited_s, publish_ms))
        if self._overlay.get_subscription_count():
            drawn = draw(
                outcome.rgb,
                labels,
                {found.id: found for found in objects.objects},
                alpha=self._values["overlay.alpha"],
                max_width=self._values["overlay.max_width"],
            )
            self._overlay.publish(to_image(image.header, drawn, "rgb8"))

    def _frame_stats(
        self, header: Header, outcome: Outcome, waited_s: float, publish_ms: float
    ) -> FrameStats:
        stages = dict(outcome.result.stage_ms) if outcome.result else {}
        latency_ms = 1e-6 * (self.get_clock().now().nanoseconds - stamp_ns(header.stamp))
        self._latencies.append(latency_ms)
        counts = self._worker.counts if self._worker is not None else None
        stats = FrameStats(
            header=header,
            queue_ms=1e3 * waited_s,
            preprocess_ms=stages.pop("preprocess", 0.0),
            postprocess_ms=stages.pop("postprocess", 0.0),
            inference_ms=float(sum(stages.values())),
            publish_ms=publish_ms,
            latency_ms=latency_ms,
            fps=self._fps(),
            objects=len(outcome.states),
            gpu_memory_mb=_gpu_memory_mb(self._device),
            device=self._device,
            precision="fp32",
        )
        if counts is not None:
            # This frame is counted by the worker only when its work is over.
            stats.received, stats.dropped = counts.received, counts.dropped
            stats.processed = counts.processed + outcome.is_new
        return stats

    def _fps(self) -> float:
        """Results per second until now, so that the rate falls when no more come."""
        if len(self._finished) < 2:
            return 0.0
        return (len(self._finished) - 1) / max(time.monotonic() - self._finished[0], 1e-6)

    # ---- diagnostics

    def _publish_diagnostics(self) -> None:
        stamp = self.get_clock().now().to_msg()
        reports = [self._tracker_report(), self._input_report(), self._model_report()]
        self._diagnostics.publish(to_message(stamp, self.get_name(), self._device, reports))

    def _tracker_report(self) -> Report:
        counts = self._worker.counts if self._worker is not None else None
        median, tail = _percentiles(self._latencies)
        facts: dict[str, Any] = {
            "state": "active" if self._worker is not None else "not active",
            "objects": len(self._stream.tracker.object_ids) if self._stream else 0,
            "fps": self._fps(),
            "latency_ms_p50": median,
            "latency_ms_p95": tail,
            "processed": counts.processed if counts else 0,
            "dropped": counts.dropped if counts else 0,
            "last_error": self._last_error,
        }
        slow = tail > self._values["diagnostics.max_latency_ms"]
        low = 0 < self._fps() < self._values["diagnostics.min_rate_hz"]
        return (
            Report("tracker", facts)
            .check(slow, WARN, "results are late; use a GPU or a smaller model")
            .check(low, WARN, "few results per second; unless the camera is slow, use a GPU")
            .check(self._stream is None and bool(self._last_error), ERROR, self._last_error)
        )

    def _input_report(self) -> Report:
        source = self._input
        if source is None:
            return Report("input", {})
        facts = {
            "topic": source.topic,
            "publishers": source.publishers,
            "reliability": source.used_reliability,
            "incompatible_qos_count": source.incompatible_count,
            "rate_hz": source.rate_hz,
        }
        nobody = f"no camera publishes {source.topic}; remap the input `image` to your camera's"
        return (
            Report("input", facts)
            .check(not source.publishers, WARN, nobody)
            .check(
                source.starving, WARN, f"a camera is there, but no image arrives; {STARVING_HINT}"
            )
        )

    def _model_report(self) -> Report:
        facts = {
            "variant": self._values["model.variant"],
            "checkpoint": self._values["model.checkpoint"] or "comes along",
            "device": self._device,
        }
        return Report("model", facts).check(
            self._device == "cpu", WARN, "runs on the CPU; a GPU is several times faster"
        )


def _gpu_memory_mb(device: str) -> float:
    return torch.cuda.memory_allocated(device) / 2**20 if device.startswith("cuda") else 0.0


def _percentiles(latencies_ms: deque[float]) -> tuple[float, float]:
    if not latencies_ms:
        return 0.0, 0.0
    median, tail = np.percentile(list(latencies_ms), (50, 95))
    return float(median), float(tail)


def _warm_up(tracker: PanoTracker, frames: int) -> None:
    """Runs the model on an empty picture, so that the first real frame is not the slow one."""
    picture = np.zeros((*_WARMUP_SIZE_HW, 3), np.uint8)
    click = Prompt(object_id=1, points=[(_WARMUP_SIZE_HW[1] / 2, _WARMUP_SIZE_HW[0] / 2)])
    for index in range(frames):
        tracker.step(picture, prompts=[] if index else [click])
    tracker.reset()


def main(args: list[str] | None = None) -> None:
    """Runs the node until it is told to stop.

    Args:
        args: Command line; None takes the process's own.
    """
    with running(TrackerNode, args) as node:
        logs = NodeLogHandler(node.get_logger(), "panosam2_core", "panosam2_ros")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            node.start()
            _spin(executor, node)
        finally:
            logs.close()


def _spin(executor: SingleThreadedExecutor, node: TrackerNode) -> None:
    while True:
        try:
            executor.spin()
            return
        except RCLError as error:
            # rclpy raises out of spin when someone asks for a transition that is not allowed now.
            node.get_logger().error(f"refused: {error}")


if __name__ == "__main__":
    sys.exit(main())
