"""Runs camera, tracker, prompt and recorder as separate processes and tells what came out.

python -m panosam2_ros.demo
python -m panosam2_ros.demo --video walk.mp4 --prompt point:960,480
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from panosam2_ros.images import to_labels
from panosam2_ros.isolation import isolated_environment
from panosam2_ros.msg import FrameStats
from panosam2_ros.qos import profile

_START_TIMEOUT_S = 180.0
_WRITE_TIMEOUT_S = 300.0
_STALL_TIMEOUT_S = 120.0
_SERVICE_TIMEOUT_S = 30.0
_HEAR_S = 5.0
_OBJECT_ID = 1


class DemoError(RuntimeError):
    """The demo cannot go on; the text says why and where to look."""


@dataclass(frozen=True)
class Click:
    """What the demo prompts with.

    Attributes:
        arguments: For the prompt command.
        mark: (u, v) in pixels for the contact sheet.
        truth_id: The object's id in the true label images.
    """

    arguments: tuple[str, ...]
    mark: tuple[float, float]
    truth_id: int = _OBJECT_ID


def read_prompt(text: str) -> Click:
    """Reads the prompt of the command line.

    Args:
        text: "point:U,V" or "box:X0,Y0,X1,Y1", in pixels.

    Returns:
        The click.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    kind, _, rest = text.partition(":")
    try:
        values = [float(part) for part in rest.split(",")]
    except ValueError:
        values = []
    if kind == "point" and len(values) == 2:
        return Click(("--point", rest), (values[0], values[1]))
    if kind == "box" and len(values) == 4:
        mark = ((values[0] + values[2]) / 2, (values[1] + values[3]) / 2)
        return Click(("--box", rest), mark)
    raise argparse.ArgumentTypeError(f"expected point:U,V or box:X0,Y0,X1,Y1, got '{text}'")


def click_on_truth(truth: np.ndarray) -> Click:
    """Clicks where a person would: deep inside the target.

    Args:
        truth: (height, width) true ids of the first frame. Ids of the synthetic world's targets
            are the lowest ones.

    Returns:
        The click.

    Raises:
        DemoError: If there is no object.
    """
    ids = [int(i) for i in np.unique(truth) if i]
    if not ids:
        raise DemoError("expected an object in the first frame of the synthetic world, got none")
    mask = (truth == ids[0]).astype(np.uint8)
    width = mask.shape[1]
    # An object on the seam is whole only when the panorama continues on both sides.
    depth = cv2.distanceTransform(np.hstack([mask] * 3), cv2.DIST_L2, 5)[:, width : 2 * width]
    v, u = np.unravel_index(int(depth.argmax()), depth.shape)
    at = (float(u) + 0.5, float(v) + 0.5)
    return Click(("--point", f"{at[0]},{at[1]}"), at, ids[0])


@dataclass
class Processes:
    """The processes of the run; all of them end with it.

    Attributes:
        env: Their environment.
        logs: Folder for what they say.
    """

    env: dict[str, str]
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Starts a module of this package.

        Args:
            name: For messages and the log file.
            module: Its name.
            arguments: Its command line.
        """
        command = [sys.executable, "-m", f"panosam2_ros.{module}", *arguments]
        with open(self.logs / f"{name}.log", "wb") as log:
            self.running[name] = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def check(self, *names: str) -> None:
        """Makes sure that processes are still there or ended well.

        Args:
            names: Which ones.

        Raises:
            DemoError: With the end of the log of one that failed.
        """
        for name in names:
            if self.running[name].poll() not in (None, 0):
                raise DemoError(f"{name} failed:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """Reads the end of a log.

        Args:
            name: Whose.
            lines: How much of it.

        Returns:
            The text, and where the rest is.
        """
        path = self.logs / f"{name}.log"
        text = path.read_text("utf-8", "replace").splitlines()[-lines:]
        return "\n".join([*text, f"(all of it: {path})"])

    def wait(self, name: str, timeout_s: float) -> None:
        """Waits until a process ends.

        Args:
            name: Which one.
            timeout_s: How long, in seconds.

        Raises:
            DemoError: If it fails or takes too long, or another one fails meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while self.running[name].poll() is None:
            self.check(*self.running)
            if time.monotonic() > deadline:
                raise DemoError(f"{name} is not done after {timeout_s:.0f} s:\n{self.tail(name)}")
            with suppress(subprocess.TimeoutExpired):
                self.running[name].wait(0.5)
        self.check(name)

    def stop(self) -> None:
        """Ends all processes, first politely."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        deadline = time.monotonic() + 10
        for process in self.running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Conductor(Node):
    """Watches the run from inside: the true masks, the progress, and the play button."""

    def __init__(self) -> None:
        """Subscribes."""
        super().__init__("demo")
        self.truth: np.ndarray | None = None
        self.stats = FrameStats()
        self._recorder = AsyncParameterClient(self, "recorder")
        self._ready = self.create_client(Trigger, "/recorder/ready")
        self._play = self.create_client(SetBool, "/camera_360/play")
        self.create_subscription(
            Image, "/camera_360/ground_truth", self._on_truth, profile(2, transient_local=True)
        )
        self.create_subscription(FrameStats, "/panosam2/stats", self._on_stats, profile(10))

    def _on_truth(self, msg: Image) -> None:
        if self.truth is None:
            self.truth = to_labels(msg)

    def _on_stats(self, msg: FrameStats) -> None:
        self.stats = msg

    def tell_recorder(self, click: Click) -> None:
        """Tells the recorder what is clicked on.

        Args:
            click: The click.

        Raises:
            DemoError: If the recorder does not react.
        """
        values = {"mark": list(click.mark), "truth_id": click.truth_id}
        if not self._recorder.wait_for_services(_SERVICE_TIMEOUT_S):
            raise DemoError("the recorder offers no parameters")
        self._answer(
            self._recorder.set_parameters([Parameter(k, value=v) for k, v in values.items()]),
            "the recorder did not take the click",
        )

    def recorder_ready(self) -> bool:
        """Asks the recorder.

        Returns:
            Whether it has heard an image together with the tracker's result.

        Raises:
            DemoError: If it does not answer.
        """
        if not self._ready.wait_for_service(_SERVICE_TIMEOUT_S):
            raise DemoError("the recorder offers no ~/ready service")
        answer = self._ready.call_async(Trigger.Request())
        return self._answer(answer, "the recorder did not answer on ~/ready").success

    def play(self) -> None:
        """Presses play.

        Raises:
            DemoError: If the camera does not react.
        """
        if not self._play.wait_for_service(_SERVICE_TIMEOUT_S):
            raise DemoError("the camera offers no ~/play service")
        answer = self._play.call_async(SetBool.Request(data=True))
        self._answer(answer, "the camera did not answer on ~/play")

    def _answer(self, future: Future, complaint: str) -> Any:
        rclpy.spin_until_future_complete(self, future, timeout_sec=_SERVICE_TIMEOUT_S)
        if not future.done():
            raise DemoError(complaint)
        return future.result()


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Args:
        args: Without the program's name; None takes the process's own.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(prog="python -m panosam2_ros.demo", description=__doc__)
    parser.add_argument("--video", default="", help="a 360 video or a folder of images")
    parser.add_argument("--prompt", type=read_prompt, help="point:U,V or box:X0,Y0,X1,Y1")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many; 0: all")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="images per second; 0: as the tracker keeps up"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where to write")
    parser.add_argument("--checkpoint", default="", help="another weight file")
    parser.add_argument("--variant", default="nano", help="another network")
    options = parser.parse_args(args)
    if options.video and options.prompt is None:
        parser.error(
            'a video needs a prompt, such as --prompt point:960,480 (PROMPT="point:960,480")'
        )
    if options.video and not Path(options.video).exists():
        parser.error(f"there is no video or folder '{options.video}'")
    return options


def run(options: argparse.Namespace, processes: Processes) -> None:
    """Runs the demo; `processes` are to be stopped by the caller.

    Args:
        options: From `parse`.
        processes: Nothing started yet.

    Raises:
        DemoError: If something fails.
    """
    conductor = Conductor()
    try:
        _say(1, f"starting camera, tracker and recorder (logs: {processes.logs})")
        _start_all(options, processes)
        click = options.prompt
        if click is None:
            _until(conductor, processes, lambda: conductor.truth is not None, "the ground truth")
            click = click_on_truth(conductor.truth)
        conductor.tell_recorder(click)
        _say(2, "prompt: " + " ".join(click.arguments))
        _prompt(conductor, processes, click)
        _say(3, "playing")
        conductor.play()
        _follow(conductor, processes)
        _say(4, "writing video and contact sheet")
        processes.wait("recorder", _WRITE_TIMEOUT_S)
    finally:
        conductor.destroy_node()


def _start_all(options: argparse.Namespace, processes: Processes) -> None:
    tracker = [f"model.variant:={options.variant}", f"model.checkpoint:='{options.checkpoint}'"]
    processes.start("tracker", "tracker_node", *_ros({"image": "/image_raw"}, tracker))
    camera = [
        f"video:='{options.video}'",
        f"rate:={float(options.rate)}",
        f"frames:={options.frames}",
        "paused:=true",
        "wait_for_subscribers:=2",
    ]
    processes.start("camera", "camera_360", *_ros({"stats": "/panosam2/stats"}, camera))
    topics = {
        "image": "/image_raw",
        "ground_truth": "/camera_360/ground_truth",
        "end_of_stream": "/camera_360/end_of_stream",
        **{topic: f"/panosam2/{topic}" for topic in ("label_image", "objects", "stats")},
    }
    source = Path(options.video).name if options.video else "synthetic 360 world"
    recorder = [f"out:='{options.out}'", f"object_id:={_OBJECT_ID}", f"source:='{source}'"]
    processes.start("recorder", "recorder", *_ros(topics, recorder))


def _ros(topics: dict[str, str], settings: list[str]) -> list[str]:
    remaps = [part for old, new in topics.items() for part in ("-r", f"{old}:={new}")]
    return ["--ros-args", *remaps, *(part for one in settings for part in ("-p", one))]


def _until(
    conductor: Conductor, processes: Processes, done: Callable[[], bool], what: str
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not done():
        processes.check("tracker", "camera", "recorder")
        if time.monotonic() > deadline:
            raise DemoError(
                f"waited {_START_TIMEOUT_S:.0f} s in vain for {what}:\n"
                f"{processes.tail('camera')}\n{processes.tail('tracker')}"
            )
        rclpy.spin_once(conductor, timeout_sec=0.1)


def _prompt(conductor: Conductor, processes: Processes, click: Click) -> None:
    """Prompts, again if the recorder was not yet connected when the result went out."""
    arguments = (*click.arguments, "--id", str(_OBJECT_ID), "--timeout", str(_START_TIMEOUT_S))
    begin = time.monotonic()
    ready = False
    while not ready:
        processes.start("prompt", "prompt", *arguments)
        processes.wait("prompt", _START_TIMEOUT_S + 30)
        told = time.monotonic()
        while not ready and time.monotonic() - told < _HEAR_S:
            ready = conductor.recorder_ready()
            rclpy.spin_once(conductor, timeout_sec=0.1)
        if time.monotonic() - begin > _START_TIMEOUT_S:
            raise DemoError(f"the recorder hears no result:\n{processes.tail('recorder')}")
    sys.stdout.write("      " + processes.tail("prompt", 1).splitlines()[0] + "\n")


def _follow(conductor: Conductor, processes: Processes) -> None:
    """Shows the progress until the camera is done."""
    told, moved, processed = time.monotonic(), time.monotonic(), conductor.stats.processed
    while processes.running["camera"].poll() is None:
        rclpy.spin_once(conductor, timeout_sec=0.2)
        processes.check("tracker", "recorder")
        stats, now = conductor.stats, time.monotonic()
        if stats.processed != processed:
            moved, processed = now, stats.processed
        if now - moved > _STALL_TIMEOUT_S:
            raise DemoError(
                f"no result for {_STALL_TIMEOUT_S:.0f} s:\n{processes.tail('tracker')}"
            )
        if now - told > 5:
            told = now
            sys.stdout.write(
                f"      {stats.processed} frames, {stats.fps:.1f} per second, "
                f"{stats.latency_ms:.0f} ms each, {stats.dropped} dropped\n"
            )
            sys.stdout.flush()
    processes.check("camera")


def _say(step: int, text: str) -> None:
    sys.stdout.write(f"[{step}/4] {text}\n")
    sys.stdout.flush()


def main(args: Sequence[str] | None = None) -> int:
    """Runs the demo.

    Args:
        args: Command line without the program's name; None takes the process's own.

    Returns:
        0 if it ran to the end, else 1.
    """
    options = parse(args)
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with isolated_environment() as env:
        os.environ.update(env)
        # With rclpy's handlers a signal would end ROS under a demo that goes on waiting.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        processes = Processes(env, logs)
        try:
            run(options, processes)
        except DemoError as error:
            sys.stdout.write(f"\ndemo failed: {error}\n")
            return 1
        except KeyboardInterrupt:
            sys.stdout.write("\nstopped\n")
            return 1
        finally:
            processes.stop()
            rclpy.try_shutdown()
    _tell(options.out)
    return 0


def _tell(out: Path) -> None:
    numbers = (out / "summary.json").read_text("utf-8")
    sys.stdout.write(
        f"\n{numbers}\nDone. Look at {out}/sheet.png (ten seconds) and {out}/overlay.mp4.\n"
        'Next: make demo VIDEO=your360.mp4 PROMPT="point:960,480" tracks in your own video;\n'
        "the README says how to connect a camera.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
