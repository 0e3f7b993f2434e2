#!/usr/bin/env python3
"""Sends one prompt to a running tracker and tells what it answered.

Examples:
    python -m panosam2_ros.prompt --point 960,480 --id 1
    python -m panosam2_ros.prompt --point 960,480 --not 900,480 --label cup
    python -m panosam2_ros.prompt --box 1800,300,120,600        (runs across the seam)
    python -m panosam2_ros.prompt --mask cup.png
    python -m panosam2_ros.prompt --bearing 90,-5               (90 degrees to the left)
    python -m panosam2_ros.prompt --remove --id 1
    python -m panosam2_ros.prompt --reset
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import Point
from rclpy.node import Node
from std_msgs.msg import Header

from panosam2_core.arguments import numbers
from panosam2_ros.images import to_image
from panosam2_ros.msg import Prompt, PromptResult
from panosam2_ros.process import running
from panosam2_ros.qos import profile

EXIT_OK, EXIT_REFUSED, EXIT_NO_ANSWER = 0, 1, 2
_ASK_AGAIN_S = 1.0
_CODES = {
    getattr(PromptResult, name): name
    for name in (
        "OK",
        "NO_FRAME",
        "STALE_FRAME",
        "BAD_COORDS",
        "TOO_MANY_OBJECTS",
        "UNKNOWN_ID",
        "BAD_MASK",
        "NOT_ACTIVE",
        "INTERNAL",
        "BUSY",
    )
}


_OPTIONS: dict[str, dict[str, Any]] = {
    "point": {
        "type": numbers(2),
        "action": "append",
        "default": [],
        "metavar": "U,V",
        "help": "a point on the object, in pixels of the camera image; may be repeated",
    },
    "not": {
        "type": numbers(2),
        "action": "append",
        "default": [],
        "metavar": "U,V",
        "dest": "not_points",
        "help": "a point that is not on the object",
    },
    "box": {
        "type": numbers(4),
        "metavar": "X0,Y0,X1,Y1",
        "help": "a box around it, in pixels; X1 < X0 crosses the seam",
    },
    "bearing": {
        "type": numbers(2),
        "action": "append",
        "default": [],
        "metavar": "AZ,EL",
        "help": "a direction in degrees: azimuth (left positive), elevation (-90 to 90)",
    },
    "mask": {"metavar": "FILE", "help": "a grey image, non-zero is the object"},
    "remove": {"action": "store_true", "help": "stop tracking the object --id"},
    "reset": {"action": "store_true", "help": "stop tracking everything"},
    "replace": {"action": "store_true", "help": "forget what is known of this object first"},
    "refine": {
        "action": "store_true",
        "help": "correct the object --id: read the points together with what is seen of it",
    },
    "id": {"type": int, "default": 0, "help": "the object; 0 lets the tracker choose"},
    "label": {"default": "", "help": "a name for it"},
    "max-frames": {"type": int, "default": 0, "help": "track only so many frames"},
    "node": {"default": "/panosam2", "help": "the tracker (default: %(default)s)"},
    "timeout": {
        "type": float,
        "default": 10.0,
        "help": "seconds to wait for the tracker and its first image (default: %(default)s)",
    },
}


_NUMERIC = {"--point", "--not", "--box", "--bearing"}
_NEGATIVE = re.compile(r"-[\d.]")


def _join_negatives(args: list[str]) -> list[str]:
    """Writes `--bearing -90,5` as `--bearing=-90,5`; argparse takes the first for two flags."""
    joined: list[str] = []
    for arg in args:
        if joined and joined[-1] in _NUMERIC and _NEGATIVE.match(arg):
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def parse(args: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
        args: Without the program's name; None takes the process's own.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(
        prog="python -m panosam2_ros.prompt",
        description="Tells a running tracker what to track, and prints its answer.",
        epilog="Exit code: 0 done, 1 refused, 2 no tracker answered.",
    )
    for flag, details in _OPTIONS.items():
        parser.add_argument(f"--{flag}", **details)
    options = parser.parse_args(_join_negatives(sys.argv[1:] if args is None else args))
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    marks = bool(options.point or options.not_points or options.box)
    chosen = [marks, bool(options.bearing), bool(options.mask), options.remove, options.reset]
    if sum(chosen) != 1:
        parser.error(
            "give one of: --point (with --not, --box), --bearing, --mask, --remove, --reset"
        )
    if not 0 <= options.id <= 65535:
        parser.error(f"--id must be 0 to 65535, got {options.id}")
    if not all(abs(elevation) <= 90 for _, elevation in options.bearing):
        parser.error("--bearing AZ,EL: the elevation must be -90 to 90 degrees")
    if options.remove and not options.id:
        parser.error("--remove needs --id")
    if options.refine and (not options.id or options.mask or options.replace):
        parser.error("--refine needs --id and points or a box")


def to_message(options: argparse.Namespace) -> Prompt:
    """Builds the prompt.

    Args:
        options: From `parse`.

    Returns:
        The message.

    Raises:
        ValueError: If the mask file is not an image.
    """
    msg = Prompt(object_id=options.id, label=options.label, max_frames=options.max_frames)
    if options.reset or options.remove:
        msg.action = Prompt.RESET if options.reset else Prompt.REMOVE
        return msg
    msg.action = Prompt.ADD
    if options.replace or options.refine:
        msg.action = Prompt.REPLACE if options.replace else Prompt.REFINE
    if options.mask:
        pixels = cv2.imread(options.mask, cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise ValueError(f"--mask: cannot read '{options.mask}' as an image")
        msg.mask = to_image(Header(), pixels.astype(np.uint8), "mono8")
    elif options.bearing:
        msg.coordinates = Prompt.BEARING
        msg.points = [_bearing(azimuth, elevation) for azimuth, elevation in options.bearing]
    else:
        msg.points = [Point(x=u, y=v) for u, v in (*options.point, *options.not_points)]
        msg.point_labels = [1] * len(options.point) + [0] * len(options.not_points)
        msg.box = list(options.box or ())
    return msg


def _bearing(azimuth_deg: float, elevation_deg: float) -> Point:
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    level = math.cos(elevation)
    return Point(x=level * math.cos(azimuth), y=level * math.sin(azimuth), z=math.sin(elevation))


class Client:
    """Sends prompts to one tracker and waits for the answers."""

    def __init__(self, node: Node, tracker: str) -> None:
        """Connects.

        Args:
            node: Sends and receives.
            tracker: Full name of the tracker node.
        """
        self._node = node
        self._answers: dict[int, PromptResult] = {}
        self._send = node.create_publisher(Prompt, f"{tracker}/prompt", profile(10))
        # The answer may go out before the tracker knows this subscription: late ones count, too.
        self._results = node.create_subscription(
            PromptResult,
            f"{tracker}/prompt_result",
            lambda answer: self._answers.update({answer.request_id: answer}),
            profile(10, transient_local=True),
        )

    def ask(self, prompt: Prompt, timeout_s: float) -> PromptResult | None:
        """Sends a prompt and waits for the answer.

        A tracker that has no image yet is asked again until it has one.

        Args:
            prompt: The prompt; its request_id is chosen here.
            timeout_s: How long to wait for the tracker and its answer, in seconds.

        Returns:
            The answer, None if there was none in time.
        """
        deadline = time.monotonic() + timeout_s
        if not self._until(deadline, lambda: self._send.get_subscription_count() > 0):
            return None
        answer = self._ask_once(prompt, deadline)
        while answer is not None and answer.code == PromptResult.NO_FRAME:
            self._until(min(deadline, time.monotonic() + _ASK_AGAIN_S), lambda: False)
            if time.monotonic() >= deadline:
                break
            answer = self._ask_once(prompt, deadline) or answer
        return answer

    def _ask_once(self, prompt: Prompt, deadline: float) -> PromptResult | None:
        prompt.request_id = random.randrange(1, 2**32)
        self._send.publish(prompt)
        self._until(deadline, lambda: prompt.request_id in self._answers)
        return self._answers.get(prompt.request_id)

    def _until(self, deadline: float, done: Callable[[], bool]) -> bool:
        while not done():
            if time.monotonic() > deadline:
                return False
            rclpy.spin_once(self._node, timeout_sec=0.05)
        return True


def main(args: list[str] | None = None) -> int:
    """Sends the prompt of the command line.

    Args:
        args: Without the program's name; None takes the process's own.

    Returns:
        The exit code.
    """
    args = sys.argv[1:] if args is None else args
    options = parse(rclpy.utilities.remove_ros_args([sys.argv[0], *args])[1:])
    try:
        message = to_message(options)
    except ValueError as error:
        _say(str(error))
        return EXIT_REFUSED
    answer = None
    with running(lambda: Node("panosam2_prompt"), [sys.argv[0], *args]) as node:
        answer = Client(node, options.node).ask(message, options.timeout)
    if answer is None:
        _say(
            f"no answer from {options.node} within {options.timeout:g} s. Is it running, with the "
            "same ROS_DOMAIN_ID, and not only unconfigured? Another name goes with --node"
        )
        return EXIT_NO_ANSWER
    _say(_describe(answer))
    return EXIT_OK if answer.success else EXIT_REFUSED


def _describe(answer: PromptResult) -> str:
    tracked = ", ".join(str(i) for i in answer.object_ids) or "none"
    stamp = answer.header.stamp
    outcome = "ok" if answer.success else f"refused, {_CODES.get(answer.code, answer.code)}"
    return (
        f"object {answer.object_id}: {outcome}: {answer.message} "
        f"(frame {stamp.sec}.{stamp.nanosec:09d}; tracked now: {tracked})"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
