"""The axes that directions are given in: of the image, turned, or those of a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Axes:
    """Where the image's forward direction lies in the frame that users want.

    Attributes:
        yaw: Direction of the image's centre in radians, to the left of the frame's x axis.
        optical: The frame has x right, y down, z forward instead of x forward, y left, z up.
            Longitude and latitude mean the same in either.
    """

    yaw: float = 0.0
    optical: bool = False

    def lon_out(self, lon: float) -> float:
        """Turns a longitude of the image.

        Args:
            lon: Radians, left positive.

        Returns:
            In the frame, in [-pi, pi).
        """
        if not self.yaw:
            return lon
        return (lon + self.yaw + math.pi) % math.tau - math.pi

    def lon_in(self, lon: float) -> float:
        """Undoes `lon_out`.

        Args:
            lon: Radians in the frame.

        Returns:
            In the image.
        """
        return lon if not self.yaw else (lon - self.yaw + math.pi) % math.tau - math.pi

    def vector_out(self, vector: Vector) -> Vector:
        """Turns a direction of the image.

        Args:
            vector: x forward, y left, z up.

        Returns:
            In the frame.
        """
        x, y, z = _turned(vector, self.yaw)
        return (-y, -z, x) if self.optical else (x, y, z)

    def vector_in(self, vector: Vector) -> Vector:
        """Undoes `vector_out`.

        Args:
            vector: In the frame.

        Returns:
            x forward, y left, z up of the image.
        """
        x, y, z = vector
        return _turned((z, -x, -y) if self.optical else (x, y, z), -self.yaw)


def _turned(vector: Vector, yaw: float) -> Vector:
    if not yaw:
        return vector
    x, y, z = vector
    c, s = math.cos(yaw), math.sin(yaw)
    return c * x - s * y, s * x + c * y, z
