"""Recorded clips: frames with the label images that belong to them, from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PanoSAM2Error

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


class DataError(PanoSAM2Error, ValueError):
    """A recording that cannot be used; the text names the file and says how to mend it."""


class ClipFrame(NamedTuple):
    """One frame of a clip.

    Attributes:
        rgb: (H, W, 3) uint8.
        labels: (H, W) int32 object ids, 0 = background; ``None`` where nobody labelled it.
        name: of the frame: its file's stem, or its stamp in seconds.
    """

    rgb: Pixels
    labels: Labels | None
    name: str


class Clip(Protocol):
    """A sequence of frames with random access. Can be sent to another process."""

    @property
    def name(self) -> str:
        """Of the clip, unique in its dataset."""

    @property
    def annotated(self) -> Sequence[int]:
        """Indices of the frames that have labels, ascending."""

    def __len__(self) -> int:
        """Frames, labelled or not."""

    def read(self, indices: Sequence[int]) -> Iterator[ClipFrame]:
        """Read some frames.

        Args:
            indices: ascending, each from 0 to ``len - 1``.

        Yields:
            The frames in that order.

        Raises:
            DataError: when a frame or its labels cannot be read or do not fit each other.
        """


def check_fit(rgb: Pixels, labels: Labels, where: str) -> None:
    """Check that labels belong to a frame of their size.

    Args:
        rgb: (H, W, 3) frame.
        labels: (H', W') ids.
        where: names both in the error.

    Raises:
        DataError: when the sizes differ.
    """
    if labels.shape != rgb.shape[:2]:
        mask, frame = (f"{s[1]}x{s[0]}" for s in (labels.shape, rgb.shape))
        raise DataError(f"{where}: labels of {mask} pixels for a frame of {frame}")
