"""Quality of service: subscribe to an image with what its publisher offers."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

_RELIABILITY = {
    "reliable": ReliabilityPolicy.RELIABLE,
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
}


def profile(depth: int, *, reliable: bool = True, transient_local: bool = False) -> QoSProfile:
    """Builds a keep-last profile.

    Args:
        depth: How many messages are kept.
        reliable: Whether lost messages are sent again.
        transient_local: Whether late subscribers get the last messages.

    Returns:
        The profile.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=_RELIABILITY["reliable" if reliable else "best_effort"],
        durability=(
            DurabilityPolicy.TRANSIENT_LOCAL if transient_local else DurabilityPolicy.VOLATILE
        ),
    )


def matching(offered: Iterable[QoSProfile], wanted: str, depth: int) -> QoSProfile:
    """Chooses the profile for a subscription so that every publisher is compatible with it.

    Args:
        offered: The profiles of the publishers that are there now.
        wanted: "reliable", "best_effort", or "auto" for reliable where all publishers are.
        depth: How many messages are kept.

    Returns:
        The profile to subscribe with.
    """
    reliable = wanted == "reliable"
    if wanted == "auto":
        reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in offered)
    return profile(depth, reliable=reliable)


def reliability_name(qos: QoSProfile) -> str:
    """Names the reliability of a profile.

    Args:
        qos: The profile.

    Returns:
        "reliable" or "best_effort".
    """
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    return "reliable" if reliable else "best_effort"
