"""How a process that runs one node begins and ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rclpy
import rclpy.utilities
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger, get_logging_directory
from rclpy.node import Node

from panosam2_core.errors import ConfigError

AnyNode = TypeVar("AnyNode", bound=Node)


def refuse_other_arguments(name: str, about: str, args: list[str] | None) -> None:
    """Ends the process on ``--help``, with usage, and on what is no ROS argument, with an error.

    Without this rcl ignores both, and a node starts that nobody asked for.

    Args:
        name: Module of the node in this package.
        about: What the node is and where its parameters are.
        args: Command line with the program's name; None takes the process's own.

    Raises:
        SystemExit: 0 after the usage, 2 after the error.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m panosam2_ros.{name}",
        usage="%(prog)s [--help] [--ros-args -r FROM:=TO -p NAME:=VALUE ...]",
        description=about,
        epilog="It runs until Ctrl-C. -r renames a topic, -p sets a parameter, --params-file FILE "
        "takes parameters from a file; all of them come after --ros-args.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv if args is None else args)[1:])


@contextmanager
def running(make_node: Callable[[], AnyNode], args: list[str] | None) -> Iterator[AnyNode]:
    """Starts ROS and makes a node; ends both, also on Ctrl-C, SIGTERM or a foreign shutdown.

    Args:
        make_node: Makes the node.
        args: Command line; None takes the process's own.

    Yields:
        The node.

    Raises:
        SystemExit: 1, after one line in the log, if a parameter cannot be what it was set to.
    """
    rclpy.init(args=[*(sys.argv if args is None else args), *_without_log_file()])
    try:
        node = make_node()
    except ConfigError as error:
        get_logger("panosam2_ros").fatal(str(error))
        rclpy.try_shutdown()
        raise SystemExit(1) from None
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
