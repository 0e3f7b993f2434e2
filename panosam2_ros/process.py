"""How a process that runs one node begins and ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logging_directory
from rclpy.node import Node

AnyNode = TypeVar("AnyNode", bound=Node)


@contextmanager
def running(make_node: Callable[[], AnyNode], args: list[str] | None) -> Iterator[AnyNode]:
    """Starts ROS and makes a node; ends both, also on Ctrl-C, SIGTERM or a foreign shutdown.

    Args:
        make_node: Makes the node.
        args: Command line; None takes the process's own.

    Yields:
        The node.
    """
    rclpy.init(args=[*(sys.argv if args is None else args), *_without_log_file()])
    node = make_node()
    try:
        yield node
    except (KeyboardInterrupt, ExternalShutdownException):
        # `ros2 launch` sends a second SIGINT; it must not interrupt the tidying up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _without_log_file() -> list[str]:
    """Arguments to do without a log file where none can be made: rcl would end the process.

    A disk that is full or read-only is no reason for a robot to lose its tracker; console and
    /rosout get the log all the same.
    """
    try:
        folder = str(get_logging_directory())
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK):
            return []
        reason = f"{folder} is read-only"
    except (OSError, RCLError) as error:
        reason = str(error)
    sys.stderr.write(f"no log file ({reason}); set ROS_LOG_DIR to keep one\n")
    return ["--ros-args", "--disable-external-lib-logs"]


@contextmanager
def until_shutdown(node: Node) -> Iterator[None]:
    """Lets a thread end quietly when ROS shuts down while it is publishing.

    Args:
        node: The node that it publishes with.

    Yields:
        Nothing.

    Raises:
        RCLError: What the thread's work raises while ROS is up.
    """
    try:
        yield
    except RCLError:
        if node.context.ok():
            raise
