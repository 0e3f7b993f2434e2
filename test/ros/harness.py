"""Real nodes in processes of their own, over real DDS, in a domain that nobody else uses."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from panosam2_ros.msg import FrameStats, Prompt, PromptResult, TrackedObjectArray
from rcl_interfaces.msg import Log
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_ros.images import to_image
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns

# Generous, for machines that are busy with something else; nothing waits longer than it has to.
PATIENCE_S = 120.0
_REQUEST_IDS = itertools.count(1)


@contextmanager
def process(
    env: dict[str, str], log: Path, module: str, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a module of the package until the context ends."""
    with open(log, "wb") as sink:
        running = subprocess.Popen(
            [sys.executable, "-m", f"panosam2_ros.{module}", *arguments],
            env=env,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@dataclass
class Heard:
    """What the tracker has published."""

    labels: dict[int, Image] = field(default_factory=dict)
    objects: dict[int, TrackedObjectArray] = field(default_factory=dict)
    overlays: dict[int, Image] = field(default_factory=dict)
    stats: dict[int, FrameStats] = field(default_factory=dict)
    answers: dict[int, PromptResult] = field(default_factory=dict)
    logs: list[str] = field(default_factory=list)


class Tester:
    """The other end of a tracker: camera, user and viewer in one node."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self, tracker: str, image_topic: str, *, reliable: bool = True) -> None:
        self.node = Node("tester_" + tracker.strip("/").replace("/", "_"))
        self.heard = Heard()
        self.clock_ns = 1_700_000_000_123_456_789
        self.image = self.node.create_publisher(Image, image_topic, profile(2, reliable=reliable))
        self.prompt = self.node.create_publisher(Prompt, f"{tracker}/prompt", profile(100))
        self._listen(Image, f"{tracker}/label_image", self.heard.labels)
        self._listen(TrackedObjectArray, f"{tracker}/objects", self.heard.objects)
        self._listen(FrameStats, f"{tracker}/stats", self.heard.stats)
        self.node.create_subscription(
            PromptResult,
            f"{tracker}/prompt_result",
            lambda answer: self.heard.answers.update({answer.request_id: answer}),
            profile(1000, transient_local=True),  # as deep as the node's queue of prompts
        )
        self.node.create_subscription(
            Log,
            "/rosout",
            lambda m: self.heard.logs.append(m.msg),
            profile(100, transient_local=True),
        )

    def _listen(self, kind: type, topic: str, into: dict, *, reliable: bool = True) -> None:
        def keep(msg: Image) -> None:
            into[stamp_ns(msg.header.stamp)] = msg

        self.node.create_subscription(kind, topic, keep, profile(20, reliable=reliable))

    def listen_to_overlay(self, tracker: str):
        def keep(msg: Image) -> None:
            self.heard.overlays[stamp_ns(msg.header.stamp)] = msg

        topic = f"{tracker}/overlay"
        return self.node.create_subscription(Image, topic, keep, profile(5, reliable=False))

    def until(self, done: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline, (
                f"waited in vain for {what}; log: {self.heard.logs}"
            )
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def connect(self) -> None:
        self.until(lambda: self.image.get_subscription_count() > 0, "the tracker's subscription")
        self.until(lambda: self.prompt.get_subscription_count() > 0, "the prompt subscription")

    def greet(self, rgb: np.ndarray) -> None:
        """Sends images until every output is heard: what is sent to a subscriber that the
        publisher does not know yet is lost."""
        heard = self.heard

        def answered() -> bool:
            self.image.publish(to_image(self.header(), rgb, "rgb8"))
            self.spin(0.5)
            return bool(heard.labels and heard.objects and heard.stats)

        self.until(answered, "the first results")

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=min(left, 0.05))

    def header(self, step_ns: int = 100_000_001) -> Header:
        self.clock_ns += step_ns
        header = Header(frame_id="head/camera 360")
        header.stamp.sec, header.stamp.nanosec = divmod(self.clock_ns, 1_000_000_000)
        return header

    def send(self, rgb: np.ndarray, step_ns: int = 100_000_001) -> int:
        """Publishes a frame and waits for its result; returns its stamp."""
        return self.send_image(to_image(self.header(step_ns), rgb, "rgb8"))

    def send_image(self, image: Image) -> int:
        stamp = stamp_ns(image.header.stamp)
        self.image.publish(image)
        heard = self.heard
        self.until(lambda: stamp in heard.labels and stamp in heard.objects, "a result")
        return stamp

    def ask(self, prompt: Prompt) -> PromptResult:
        """Sends a prompt and waits for its answer."""
        return self.answer_to(self.publish(prompt))

    def publish(self, prompt: Prompt) -> int:
        """Sends a prompt; returns the number that its answer will carry."""
        prompt.request_id = next(_REQUEST_IDS)
        self.prompt.publish(prompt)
        return prompt.request_id

    def answer_to(self, request_id: int) -> PromptResult:
        self.until(lambda: request_id in self.heard.answers, "an answer")
        return self.heard.answers[request_id]

    def close(self) -> None:
        self.node.destroy_node()


def start_tracker(env: dict[str, str], log: Path, namespace: str, *settings: str):
    """Settings are values for -p, or whole arguments such as --params-file, FILE."""
    parts = [part for s in settings for part in (("-p", s) if ":=" in s else (s,))]
    return process(
        env,
        log,
        "tracker_node",
        "--ros-args",
        "-r",
        f"__ns:={namespace}",
        "-p",
        "device:=cpu",
        *parts,
    )


@dataclass(frozen=True)
class Scene:
    """A few frames of the synthetic world with the truth about one object."""

    frames: list[np.ndarray]
    masks: list[np.ndarray]
    click: tuple[float, float]
