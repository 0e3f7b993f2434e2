"""Writes pictures to an H.264 video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class VideoWriter:
    """An .mp4 that grows picture by picture; the file is there from the first picture on.

    Use it in a ``with`` statement: the file can be played once it is closed.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Writes nothing yet.

        Args:
            path: An .mp4 file; replaced if it exists.
            fps: Pictures per second.
        """
        self._path, self._rate = path, Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._size_hw = (0, 0)
        self.written = 0

    def write(self, rgb: Pixels) -> None:
        """Appends a picture.

        Args:
            rgb: (height, width, 3) uint8, as large as the first one. Where a side is odd its
                last row or column is left out, for H.264 needs even ones.

        Raises:
            ValueError: If it has another size than the first one.
        """
        size_hw = (rgb.shape[0], rgb.shape[1])
        if self._container is None:
            self._open(size_hw)
        if size_hw != self._size_hw:
            raise ValueError(f"expected a picture of {self._size_hw} (h, w), got {size_hw}")
        even = np.ascontiguousarray(rgb[: self._stream.height, : self._stream.width])
        picture = av.VideoFrame.from_ndarray(even, format="rgb24")
        self._container.mux(self._stream.encode(picture))
        self.written += 1

    def close(self) -> None:
        """Finishes the file; harmless when nothing was written or it is closed already."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None

    def _open(self, size_hw: tuple[int, int]) -> None:
        self._container = av.open(str(self._path), "w", format="mp4")
        self._stream = self._container.add_stream("h264", rate=self._rate)
        height, width = (side - side % 2 for side in size_hw)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"crf": "23", "preset": "veryfast"}
        self._size_hw = size_hw

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
