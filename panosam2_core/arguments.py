"""Reads what the command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    """Makes a reader of comma-separated numbers for argparse.

    Args:
        count: How many numbers there have to be.

    Returns:
        A function from text to numbers.
    """

    def read(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(
                f"expected {count} numbers with commas between them, got '{text}'"
            )
        return values

    return read


def add_yaw_true(parser: argparse._ActionsContainer) -> None:
    """Add ``--yaw-true`` and ``--no-yaw-true``, for :func:`panosam2_core.build.load_model`.

    Args:
        parser: Gets ``yaw_true``: ``None`` unless one of the two is given.
    """
    parser.add_argument(
        "--yaw-true",
        action=argparse.BooleanOptionalAction,
        help="network that does not know the absolute yaw, for closed panoramas; nano is one",
    )
