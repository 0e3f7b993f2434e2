"""A random source whose stream never changes between library versions.

The fixed test split stores seeds, not pixels, so the numbers drawn from a seed must stay the
same for years. NumPy promises that for the raw stream of a bit generator only, not for
``Generator`` methods; hence every distribution here is derived from the raw stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Floats = NDArray[np.float64]


class StableRng:
    """Deterministic random numbers from a textual key.

    Args:
        *key: Parts whose string forms, joined by ``/``, name the stream. Equal keys give equal
            streams on every machine.
    """

    def __init__(self, *key: object) -> None:
        self.key = "/".join(str(part) for part in key)
        digest = hashlib.sha256(self.key.encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))

    def child(self, name: object) -> StableRng:
        """Return an independent stream; draws from it do not advance this one."""
        return StableRng(self.key, name)

    def uniforms(self, count: int, low: float = 0.0, high: float = 1.0) -> Floats:
        """Draw ``count`` float64 numbers uniform in [low, high)."""
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw one number uniform in [low, high)."""
        return float(self.uniforms(1, low, high)[0])

    def log_uniform(self, low: float, high: float) -> float:
        """Draw one number whose logarithm is uniform; needs 0 < low <= high."""
        return float(np.exp(self.uniform(np.log(low), np.log(high))))

    def integer(self, low: int, high: int) -> int:
        """Draw one integer in [low, high], both ends included."""
        return low + min(int(self.uniform() * (high - low + 1)), high - low)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability in [0, 1]."""
        return self.uniform() < probability

    def sign(self) -> float:
        """Return -1.0 or 1.0."""
        return 1.0 if self.chance(0.5) else -1.0

    def choice(self, items: Sequence[T]) -> T:
        """Return one element of a non-empty sequence."""
        return items[self.integer(0, len(items) - 1)]

    def normals(self, count: int) -> Floats:
        """Draw ``count`` standard normal numbers (Box-Muller)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniforms(count)))
        return np.asarray(radius * np.cos(2 * np.pi * self.uniforms(count)))
