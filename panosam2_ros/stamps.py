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


def to_stamp(nanoseconds: int) -> Time:
    """Undoes `stamp_ns`.

    Args:
        nanoseconds: Since the clock's zero, not negative.

    Returns:
        The stamp.
    """
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)
