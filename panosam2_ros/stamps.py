"""Stamps of headers as numbers."""

from __future__ import annotations

from builtin_interfaces.msg import Time


def stamp_ns(stamp: Time) -> int:
    """Turns a stamp into nanoseconds.

    Args:
        stamp: The stamp of a header.

    Returns:
        Nanoseconds since the clock's zero.
    """
    return stamp.sec * 1_000_000_000 + stamp.nanosec
