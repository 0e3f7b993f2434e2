"""How a process that runs one node begins and ends."""

from __future__ import annotations

import ctypes
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


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_NEVER = 2**30


def keep_freed_memory() -> bool:
    """Makes the process keep the memory that a frame frees, for the next frame.

    As it comes, glibc gives each thread a pool of its own and large blocks back to the system
    again and again: the process's size then swings by a quarter without anything growing, and
    every frame pays for fresh pages. One pool that is never given back has the size of the
    most that was needed at a time, and stays at it. To be called before other threads begin.

    Returns:
        Whether the process's C library can be told so; only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    wanted = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, _NEVER),
    )
    return all(mallopt(name, value) for name, value in wanted)


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
