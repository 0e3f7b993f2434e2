#!/usr/bin/env python3
"""The node: tracks prompted objects through a camera's images.

Start it with `ros2 launch panosam2_ros tracker.launch.py`, or where there is no `ros2` command
with `python -m panosam2_ros.tracker_node --ros-args -r image:=/image_raw`.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from PIL import Image as PILImage
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from panosam2_core import (
    CheckpointError,
    ConfigError,
    PanoSAM2Error,
    PanoTracker,
    Prompt,
    load_model,
)
from panosam2_core.allocator import (
    give_back_free_memory,
    keep_freed_memory,
    limit_kernels,
    reserve_memory,
)
from panosam2_core.build import shipped_weights
from panosam2_core.model import PanoSAM2
from panosam2_ros import parameters
from panosam2_ros.camera_info import CameraInfoInput, Crop
from panosam2_ros.diagnostics import to_message
from panosam2_ros.health import Health, gpu_memory_mb, shape_hint
from panosam2_ros.image_input import ImageInput
from panosam2_ros.images import ImageError, check_input
from panosam2_ros.logs import NodeLogHandler
from panosam2_ros.msg import FrameStats, PromptResult
from panosam2_ros.msg import Prompt as PromptMsg
from panosam2_ros.outputs import Outputs
from panosam2_ros.process import refuse_other_arguments, running, until_shutdown
from panosam2_ros.qos import profile
from panosam2_ros.ring import AnyImage, FrameRing
from panosam2_ros.stamps import stamp_ns, to_stamp
from panosam2_ros.stream import Outcome, Stream, refusal
from panosam2_ros.transitions import answer_all_transitions
from panosam2_ros.worker import UnusableFrameError, Worker

_COMPLAIN_EVERY_S = 5.0
_GIVE_UP_EVERY_S = 0.25
# The middleware drops the oldest of more, and nobody hears of it; of those that come in time
# prompt.max_waiting may wait, and the others are answered. One with very many points holds up all
# that come after it, while it is made a Python object.
_PROMPT_DEPTH = 1000
_WARMUP_SIZE_HW = (256, 512)
_ABOUT = """Tracks prompted objects through a camera's images.

  python -m panosam2_ros.tracker_node --ros-args -r image:=/image_raw
  python -m panosam2_ros.tracker_node --ros-args --params-file config/tracker.yaml

config/tracker.yaml lists every parameter with its default and unit. Where there is a `ros2`
command: ros2 launch panosam2_ros tracker.launch.py"""


class TrackerNode(LifecycleNode):
    """Owns the inputs, the parameters and the lifecycle; the work is done by `Stream`."""

    def __init__(self) -> None:
        """Declares parameters and outputs. The model is loaded on configuring."""
        super().__init__("panosam2")
        answer_all_transitions(self)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._values = self._applied = parameters.values(self)
        self._stream: Stream | None = None
        self._worker: Worker[AnyImage, PromptMsg] | None = None
        self._input: ImageInput | None = None
        self._camera_info: CameraInfoInput | None = None
        self._arrived = 0
        self._complaining = threading.Lock()
        self._last_stamp = 0
        self._complaints: dict[str, float] = {}
        self._told_shape = self._told_info = ""
        self._health = Health()
        self._outputs = Outputs(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", profile(10))
        # As deep as a burst of prompts is long while an image is taken in: each is answered.
        self.create_subscription(PromptMsg, "~/prompt", self._on_prompt, profile(_PROMPT_DEPTH))
        self.create_subscription(PointStamped, "~/click", self._on_click, profile(10))
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # On the wall: a simulation that stands still is no reason to be silent.
        wall = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=wall)
        self.create_timer(_GIVE_UP_EVERY_S, self._give_up, clock=wall)

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
            Whether it worked; the log and /diagnostics say why not.
        """
        return self._ready("configure")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to listen and to work.

        Args:
            state: Where the node comes from.

        Returns:
            Whether it worked; it can fail when the model was released and is loaded again.
        """
        if self._stream is None and self._ready("activate") != TransitionCallbackReturn.SUCCESS:
            return TransitionCallbackReturn.FAILURE
        self._health.start()
        self._worker = Worker(self._work, self._reserve)
        self._camera_info = CameraInfoInput(self, "camera_info")
        self._input = ImageInput(
            self,
            "image",
            self._on_image,
            reliability=self._values["qos.reliability"],
            depth=self._values["qos.depth"],
            compressed=self._values["image_transport"] == "compressed",
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops to listen and forgets the objects; the model stays loaded if so wanted.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._stop()
        if self._values["release_gpu_on_deactivate"]:
            self._release()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops everything.

        Args:
            state: Where the node comes from.

        Returns:
            Success.
        """
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Ends the worker, then the node."""
        self._stop()
        super().destroy_node()

    def _ready(self, what: str) -> TransitionCallbackReturn:
        """Loads the model; what goes wrong is told, not raised."""
        try:
            self._stream = self._load()
        except PanoSAM2Error as error:
            self._health.last_error = str(error)
            self.get_logger().error(f"cannot {what}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            # rclpy would turn it into a failed transition without a word.
            self._health.last_error = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot {what}:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        self._health.last_error = ""
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> Stream:
        values = self._values = self._applied = parameters.values(self)
        parameters.check(values)
        begin = time.monotonic()
        variant = values["model.variant"]
        model = _model(values)
        loaded = time.monotonic()
        self.get_logger().info(f"model {variant} loaded in {loaded - begin:.1f} s; warming up")
        config = parameters.tracker_config(values)
        tracker = PanoTracker(model, config, _ignored(values["ignore_mask"]))
        _warm_up(PanoTracker(model, config), values["warmup_frames"])
        warm = time.monotonic()
        file = Path(parameters.checkpoint(values) or shipped_weights(variant))
        precision = str(model.precision).removeprefix("torch.")
        self._health.model = {
            "variant": variant,
            "checkpoint": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "device": str(model.pixel_mean.device),
            "precision": precision,
            "load_s": loaded - begin,
            "warmup_s": warm - loaded,
        }
        self.get_logger().info(
            f"model {variant} ({precision}) on {model.pixel_mean.device} ready in "
            f"{warm - begin:.1f} s"
        )
        ring = FrameRing(values["prompt.ring_frames"])
        return Stream(tracker, parameters.rules(values), ring)

    def _release(self) -> None:
        self._stream = None
        _free()

    def _stop(self) -> None:
        for source in (self._input, self._camera_info):
            if source is not None:
                source.close()
        left: list[PromptMsg] = []
        if self._worker is not None:
            left = self._worker.stop()
            give_back_free_memory()  # the next worker's thread may have another pool
        if self._stream is not None:
            left = [*self._stream.reset(), *left]
        self._input = self._camera_info = self._worker = None
        self._last_stamp = 0
        self._told_shape = self._told_info = ""
        with self._complaining:
            self._complaints.clear()
        self._health.start()
        with until_shutdown(self):
            for order in left:
                text = "the node was deactivated before it came to this prompt; send it again"
                self._outputs.answers.publish(refusal(order, "NOT_ACTIVE", text))

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
        # To forget is always possible: it needs neither a picture nor a place in the queue.
        forgets = order.action in (PromptMsg.RESET, PromptMsg.REMOVE)
        most = None if forgets else self._values["prompt.max_waiting"]
        if self._worker is None:
            text = "the node is not active; activate it, or start it with autostart:=true"
            self._outputs.answers.publish(refusal(order, "NOT_ACTIVE", text))
        elif self._health.paused and not forgets:
            text = "the node is paused; call ~/enable with true"
            self._outputs.answers.publish(refusal(order, "NOT_ACTIVE", text))
        elif not self._worker.put_order(order, most):
            self._outputs.answers.publish(
                refusal(order, "BUSY", f"{most} prompts wait already; send fewer")
            )

    def _give_up(self) -> None:
        """Prompts that wait for an image are answered in time also when no more images come."""
        if self._worker is not None and self._stream is not None and self._stream.is_waited_on:
            self._worker.wake()

    def _on_click(self, click: PointStamped) -> None:
        """One click is one new object, in the frame nearest to the click's stamp."""
        order = PromptMsg(points=[Point(x=click.point.x, y=click.point.y)])
        stamp = stamp_ns(click.header.stamp)
        if stamp and self._stream is not None:
            nearest = self._stream.ring.nearest(stamp)
            order.header.stamp = to_stamp(nearest or 0)
        self._on_prompt(order)

    def _on_reset(self, request: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        answer.success = self._worker is not None
        answer.message = (
            "all objects are being dropped" if answer.success else "the node is not active"
        )
        self._on_prompt(PromptMsg(action=PromptMsg.RESET))
        return answer

    def _on_enable(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        answer.success = self._worker is not None
        if answer.success:
            self._health.paused = not request.data
        told = "going on" if request.data else "paused; objects and model are kept"
        answer.message = told if answer.success else "the node is not active"
        return answer

    def _on_image(self, image: AnyImage) -> None:
        if self._worker is None or self._stream is None:
            return
        most = int(self._values["max_image_megapixels"] * 1e6)
        self._arrived += 1
        try:
            check_input(image, most)
        except ImageError as error:
            self._worker.reject_frame()
            self._health.last_error = str(error)
            self._complain(f"cannot use an image of {self._input_topic}: {error}")
            return
        if self._input is not None:
            self._input.look_at(image)
        if self._health.paused:
            self._worker.skip_frame()
            return
        self._stream.ring.put(image, most)
        if self._arrived % self._values["every_nth_frame"] or self._is_too_old(image):
            self._worker.skip_frame()
        else:
            self._worker.put_frame(image)

    def _is_too_old(self, image: AnyImage) -> bool:
        limit_ms = self._values["max_frame_age_ms"]
        return bool(limit_ms) and self._latency_ms(image.header) > limit_ms

    def _complain(self, text: str) -> None:
        """Logs an error, but not with every image; from either thread."""
        if self._is_news(text):
            self.get_logger().error(text)

    def _is_news(self, text: str) -> bool:
        """Whether nothing of the kind was told in the last seconds."""
        now = time.monotonic()
        kind = re.sub(r"\d+", "#", text)  # sizes differ from one image to the next
        with self._complaining:
            silent = now - self._complaints.get(kind, -math.inf) < _COMPLAIN_EVERY_S
            if not silent:
                self._complaints = {k: t for k, t in self._complaints.items() if t > now - 60}
                self._complaints[kind] = now
        return not silent

    @property
    def _input_topic(self) -> str:
        return self._input.topic if self._input is not None else ""

    # ---- work and outputs, on the worker's thread

    def _reserve(self) -> None:
        """Takes memory for the thread that calls it; the C library gives each its own."""
        if self._health.model["device"] != "cpu":
            return
        try:
            reserve_memory(self._values["memory_reserve_mb"])
        except MemoryError as error:
            self.get_logger().error(f"going on without memory_reserve_mb: {error}")

    def _work(
        self, image: AnyImage | None, orders: list[PromptMsg], is_new: bool, waited_s: float
    ) -> None:
        with until_shutdown(self):
            try:
                self._turn(self._stream, image, orders, is_new, waited_s)
            except (UnusableFrameError, RCLError):
                raise
            except Exception as error:
                self._fail(error)

    def _turn(
        self,
        stream: Stream,
        image: AnyImage | None,
        orders: list[PromptMsg],
        is_new: bool,
        waited_s: float,
    ) -> None:
        values = self._apply_parameters(stream)
        if is_new and image is not None:
            self._watch_time(stream, stamp_ns(image.header.stamp))
        outcome = stream.turn(image, orders, is_new=is_new)
        for answer in outcome.answers:
            self._outputs.answers.publish(answer)
            self._log_answer(answer)
        if image is not None and outcome.is_result:
            self._publish(stream, image.header, outcome, waited_s, values)
        if outcome.failure is not None:
            self._fail(outcome.failure)

    def _publish(
        self,
        stream: Stream,
        header: Header,
        outcome: Outcome,
        waited_s: float,
        values: dict[str, Any],
    ) -> None:
        """Masks and numbers first, pictures for people last."""
        self._look_at(outcome)
        objects, publish_ms = self._outputs.publish(header, outcome, stream, values)
        latency_ms = self._latency_ms(header)
        self._health.finished(outcome, latency_ms)
        if values["publish.stats"]:
            stats = self._frame_stats(header, outcome, waited_s, publish_ms, latency_ms)
            self._outputs.stats.publish(stats)
        self._outputs.publish_pictures(header, outcome, objects, stream.tracker.config, values)

    def _apply_parameters(self, stream: Stream) -> dict[str, Any]:
        """Takes over what was set since the last frame; never in the middle of one."""
        values = parameters.in_crop(self._values, self._crop())
        if (crop := values["crop"]) != self._applied.get("crop"):
            told = f"the roi of camera_info: {crop}" if crop else "the parameters, not camera_info"
            self.get_logger().info(f"bearings now follow {told}")
        if values != self._applied:
            stream.tracker.config = parameters.tracker_config(values)
            stream.rules = parameters.rules(values)
            self._applied = values
        return values

    def _crop(self) -> Crop | None:
        """The part of a panorama that the images are, if the camera says so."""
        if self._input is None or self._camera_info is None:
            return None
        return self._camera_info.crop(self._input.size_hw)

    def _look_at(self, outcome: Outcome) -> None:
        """Notes the size of compressed images, and tells what shape is expected."""
        if self._input is None or self._camera_info is None:
            return
        size_hw = (outcome.rgb.shape[0], outcome.rgb.shape[1])
        self._input.size_hw = size_hw
        fault = self._camera_info.fault(size_hw)
        if fault != self._told_info:
            self._told_info = fault
            if fault and self._is_news(fault):
                self.get_logger().warning(fault)
        hint = shape_hint(size_hw, self._applied)
        if hint != self._told_shape:
            self._told_shape = hint
            if hint:
                self.get_logger().warning(hint)

    def _fail(self, error: Exception) -> None:
        """Tells of a frame without a result; the objects are as they were before it.

        Raises:
            UnusableFrameError: Always, so that the worker counts it.
        """
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, torch.OutOfMemoryError):
            text = (
                f"out of memory on {self._device}; the next image is tried again. Track fewer "
                "objects (max_objects), or choose a smaller model.variant"
            )
            _free()
        elif not isinstance(error, ImageError):
            text += "\n" + "".join(traceback.format_exception(error)[-3:])
        self._health.failed(text)
        self._complain(f"an image has no result: {text}")
        raise UnusableFrameError

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

    def _latency_ms(self, header: Header) -> float:
        return 1e-6 * (self.get_clock().now().nanoseconds - stamp_ns(header.stamp))

    def _frame_stats(
        self,
        header: Header,
        outcome: Outcome,
        waited_s: float,
        publish_ms: float,
        latency_ms: float,
    ) -> FrameStats:
        stages = dict(outcome.result.stage_ms) if outcome.result else {}
        counts = self._worker.counts if self._worker is not None else None
        stats = FrameStats(
            header=header,
            queue_ms=1e3 * waited_s,
            preprocess_ms=stages.pop("preprocess", 0.0),
            postprocess_ms=stages.pop("postprocess", 0.0),
            inference_ms=float(sum(stages.values())),
            publish_ms=publish_ms,
            latency_ms=latency_ms,
            fps=self._health.fps(),
            objects=len(outcome.states),
            gpu_memory_mb=gpu_memory_mb(self._device),
            device=self._device,
            precision=self._health.model["precision"],
        )
        if counts is not None:
            # This frame is counted by the worker only when its work is over.
            stats.received, stats.dropped = counts.received, counts.dropped
            stats.processed = counts.processed + outcome.is_new
        return stats

    def _publish_diagnostics(self) -> None:
        counts = self._worker.counts if self._worker is not None else None
        values = parameters.in_crop(self._values, self._crop())
        reports = self._health.reports(
            counts, self._input, self._camera_info, values, self._device
        )
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")  # several cameras stay apart
        self._diagnostics.publish(to_message(stamp, name, self._device, reports))


def _model(values: dict[str, Any]) -> PanoSAM2:
    """Loads the network.

    Raises:
        CheckpointError: Saying, too, where the path came from.
    """
    checkpoint, variable = parameters.checkpoint(values), parameters.CHECKPOINT_VARIABLE
    try:
        return load_model(
            values["model.variant"],
            checkpoint=checkpoint or None,
            device=values["device"],
            input_size=values["model.input_size"] or None,
            precision=values["model.precision"],
            yaw_true=values["model.yaw_true"] or None,
        )
    except CheckpointError as error:
        if values["model.checkpoint"]:
            raise
        origin = f"the file is that of ${variable}" if checkpoint else f"or set ${variable}"
        raise CheckpointError(f"{error}; {origin}") from error


def _ignored(path: str) -> npt.NDArray[np.bool_] | None:
    """Reads the picture of what is never part of an object."""
    if not path:
        return None
    try:
        with PILImage.open(path) as picture:
            return np.asarray(picture.convert("RGB")).any(axis=2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"parameter ignore_mask: {error}") from error


def _warm_up(tracker: PanoTracker, frames: int) -> None:
    """Runs the model on an empty picture, so that the first real frame is not the slow one."""
    picture = np.zeros((*_WARMUP_SIZE_HW, 3), np.uint8)
    click = Prompt(object_id=1, points=[(_WARMUP_SIZE_HW[1] / 2, _WARMUP_SIZE_HW[0] / 2)])
    for index in range(frames):
        tracker.step(picture, prompts=[] if index else [click])


def main(args: list[str] | None = None) -> None:
    """Runs the node until it is told to stop.

    Args:
        args: Command line; None takes the process's own.
    """
    refuse_other_arguments("tracker_node", _ABOUT, args)
    # Also lest the size of the process swings by a quarter without anything growing.
    keep_freed_memory()
    limit_kernels()
    with running(TrackerNode, args) as node:
        logs = NodeLogHandler(node.get_logger(), "panosam2_core", "panosam2_ros")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            node.start()
            _spin(executor, node)
        finally:
            logs.close()


def _free() -> None:
    """Give back what is free on the GPU and beside it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_free_memory()


def _spin(executor: SingleThreadedExecutor, node: TrackerNode) -> None:
    """Serves until the end; an error in one callback must not cost the robot its tracker."""
    while True:
        try:
            executor.spin()
            return
        except (KeyboardInterrupt, ExternalShutdownException):
            raise
        except Exception:
            node.get_logger().error(
                f"going on after a fault of the node:\n{traceback.format_exc()}"
            )


if __name__ == "__main__":
    sys.exit(main())
