"""How a process that runs one node begins and ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
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
    rclpy.init(args=args)
    node = make_node()
    try:
        yield node
    except (KeyboardInterrupt, ExternalShutdownException):
        # `ros2 launch` sends a second SIGINT; it must not interrupt the tidying up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


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
