"""The frames of the last moments, for prompts that name one of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import cv2
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panosam2_ros.images import Pixels, pixels_of
from panosam2_ros.stamps import stamp_ns

AnyImage = Image | CompressedImage


@dataclass
class Kept:
    """A frame of the ring.

    Attributes:
        header: Of its image.
        read: Gives its pixels, which may be fewer than the image had.
        size_hw: (height, width) of the image; None where that takes decoding it, and `read` gives
            all of it.
        tracked: Whether the tracker has been given it.
    """

    header: Header
    read: Callable[[], Pixels]
    size_hw: tuple[int, int] | None
    tracked: bool = False

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return stamp_ns(self.header.stamp)


class FrameRing:
    """Keeps the newest frames. Any thread may use it.

    Args:
        frames: How many.
        max_width: Wider ones are kept smaller, at most this wide, so that the ring stays small: a
            frame of 3840x1920 has 22 MB. Narrower ones are the messages themselves.
    """

    def __init__(self, frames: int, max_width: int = 2048) -> None:
        self._max_width = max_width
        self._kept: deque[Kept] = deque(maxlen=frames)
        self._lock = threading.Lock()

    def put(self, image: AnyImage, max_pixels: int | None = None) -> None:
        """Takes a frame in; time that jumps back empties the ring.

        Args:
            image: That can be read.
            max_pixels: Refuse to decode a compressed one that is larger.
        """
        raw = isinstance(image, Image)
        size_hw = (image.height, image.width) if raw else None
        kept = Kept(image.header, self._reader(image, max_pixels), size_hw)
        with self._lock:
            if self._kept and kept.stamp <= self._kept[-1].stamp:
                self._kept.clear()
            self._kept.append(kept)

    def mark_tracked(self, stamp: int) -> None:
        """Remembers that the tracker has been given a frame.

        Args:
            stamp: Of the frame, nanoseconds.
        """
        with self._lock:
            for kept in self._kept:
                kept.tracked |= kept.stamp == stamp

    def since(self, stamp: int) -> list[Kept]:
        """Looks a frame up.

        Args:
            stamp: Of the frame, nanoseconds.

        Returns:
            It and the later ones that have been tracked, in order; empty if it is not there.
        """
        with self._lock:
            found = [kept for kept in self._kept if kept.stamp >= stamp]
        if not found or found[0].stamp != stamp:
            return []
        return [found[0], *(kept for kept in found[1:] if kept.tracked)]

    def nearest(self, stamp: int) -> int | None:
        """Looks for the frame that somebody saw at a time.

        Args:
            stamp: Nanoseconds.

        Returns:
            The stamp of the frame nearest in time; None if the ring is empty.
        """
        with self._lock:
            return min((k.stamp for k in self._kept), key=lambda s: abs(s - stamp), default=None)

    def clear(self) -> None:
        """Forgets all frames."""
        with self._lock:
            self._kept.clear()

    def _reader(self, image: AnyImage, max_pixels: int | None) -> Callable[[], Pixels]:
        if isinstance(image, CompressedImage) or image.width <= self._max_width:
            return lambda: pixels_of(image, max_pixels)
        # By a whole number: nine times as fast at 3840 as to exactly 2048, on the thread that
        # must be done with an image before the next one comes.
        factor = -(-image.width // self._max_width)
        size = (image.width // factor, max(1, image.height // factor))
        small = cv2.resize(pixels_of(image), size, interpolation=cv2.INTER_AREA)
        return lambda: small
