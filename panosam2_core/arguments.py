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
