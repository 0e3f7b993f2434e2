"""Which part of the sphere a panorama shows, and which angle a pixel of it spans."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldOfView:
    """The part of the sphere that an equirectangular panorama shows.

    Attributes:
        hfov: Radians that the columns span, in (0, 2 pi].
        vfov: Radians that the rows span, in (0, pi]. None: pi where the columns go all the way
            round, whatever the size; else the rows are as far apart as the columns.
        middle_lat: Latitude in radians, up-positive, of the middle between the first and the
            last row.
    """

    hfov: float = math.tau
    vfov: float | None = None
    middle_lat: float = 0.0

    @property
    def wraps(self) -> bool:
        """Whether the left and right edges meet."""
        return self.hfov == math.tau

    @property
    def is_whole(self) -> bool:
        """Whether the whole sphere is shown, from pole to pole."""
        return self.wraps and self.vfov in (None, math.pi)

    def pitch(self, size_hw: tuple[int, int]) -> tuple[float, float]:
        """Angles that one pixel spans.

        Args:
            size_hw: Size ``(H, W)`` of the panorama.

        Returns:
            Radians per column and per row.
        """
        height, width = size_hw
        per_column = self.hfov / width
        if self.vfov is not None:
            return per_column, self.vfov / height
        return per_column, math.pi / height if self.wraps else per_column


WHOLE_PANORAMA = FieldOfView()
