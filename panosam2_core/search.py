"""Where lost objects are looked for: likely places, the last one, every direction, the panorama.

A frame has so many looks for all lost objects together, which share them in turn; an object goes
through its kinds of looks one after the other. Half of them are at places that have its colours,
every other one of these at the likeliest, where it fills as much of the view as it did when it
was last seen. What a look finds is a lead: the object's next look is a closer one at it, and only
that can bring the object back.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from panosam2_core.charts import search_regions
from panosam2_core.geometry.bfov import BFoV
from panosam2_core.pursuit import Pursuit

WIDE = math.radians(120.0)  # least width of a view of a place that is not known well
PLACES = 4  # likely ones that are looked at


class Look(enum.Enum):
    """One encoding's worth of a search."""

    LIKELY = enum.auto()
    LAST_PLACE = enum.auto()
    DIRECTION = enum.auto()
    PANORAMA = enum.auto()


CYCLE = (
    Look.LIKELY,
    Look.LAST_PLACE,
    Look.LIKELY,
    Look.DIRECTION,
    Look.LIKELY,
    Look.PANORAMA,
)


@dataclass(frozen=True)
class Search:
    """How far the search for one object has come.

    Attributes:
        looks: of :data:`CYCLE`, one cycle after the other, that have been taken.
        lead: to what one of them has found.
    """

    looks: int = 0
    lead: Pursuit | None = None


def shares(now: int, lost: int, looks: int) -> list[int]:
    """Share the looks of a frame among lost objects, in turn.

    Args:
        now: index of the frame in the stream.
        lost: number of lost objects.
        looks: on the frame.

    Returns:
        How many each of them has; together ``looks``.
    """
    return [len(range((i - now * looks) % lost, looks, lost)) for i in range(lost)]


def where(number: int, last: BFoV, places: Sequence[tuple[float, float]]) -> BFoV | None:
    """Say where a look of a search goes.

    Args:
        number: of looks at the object before it.
        last: the view in which it was seen last.
        places: (longitude, latitude) in radians, likely ones; may be empty.

    Returns:
        The region; ``None``: the panorama.
    """
    kind = CYCLE[number % len(CYCLE)]
    if kind is Look.PANORAMA:
        return None
    width = min(math.pi, max(WIDE, last.fov_h))
    if kind is Look.LAST_PLACE:
        return BFoV(last.lon, last.lat, width, width / 2)
    if kind is Look.LIKELY and places:
        lon, lat = places[_rank(_before(number, {kind}), len(places))]
        width = min(math.pi, last.fov_h)
        return BFoV(lon, lat, width, width / 2)
    directions = search_regions(last, width)
    turn = _before(number, {Look.DIRECTION} if places else {Look.DIRECTION, Look.LIKELY})
    return directions[turn % len(directions)]


def _rank(turn: int, places: int) -> int:
    """Every other look at likely places is at the likeliest, those between at the rest in turn."""
    return 0 if turn % 2 == 0 or places == 1 else 1 + turn // 2 % (places - 1)


def _before(number: int, kinds: Set[Look]) -> int:
    """How many of the looks before this one were of some kinds."""
    turns, rest = divmod(number, len(CYCLE))
    return turns * sum(k in kinds for k in CYCLE) + sum(k in kinds for k in CYCLE[:rest])
