"""Where the frames of the camera node come from: the synthetic world, a video, a folder."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from panosam2_core.media.frames import Pixels, SourceError, open_frames

__all__ = ["Prefetch", "SourceError", "SourceFrame", "open_source"]


class SourceFrame(NamedTuple):
    """One picture.

    Attributes:
        rgb: (height, width, 3) uint8.
        truth: (height, width) uint8 object ids, or None where nobody knows.
    """

    rgb: Pixels
    truth: Pixels | None


def open_source(video: str, clip: int) -> Iterator[SourceFrame]:
    """Opens a source.

    Args:
        video: A video file or a folder of images; empty for the synthetic world.
        clip: Which clip of the synthetic world's demo split.

    Returns:
        The frames, in order.

    Raises:
        SourceError: If there is no such file, or nothing in it that can be read.
    """
    if not video:
        return _synthetic(clip)
    source = open_frames(Path(video).expanduser())
    return (SourceFrame(frame.rgb, None) for frame in source.frames)


class Prefetch:
    """Reads frames in another thread, some ahead of when they are needed.

    What the source raises is raised to the reader.
    """

    def __init__(self, frames: Iterator[SourceFrame], depth: int = 4) -> None:
        """Starts to read at once.

        Args:
            frames: The source.
            depth: How many frames to hold.
        """
        self._frames = frames
        self._held: queue.Queue[SourceFrame | Exception | None] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="source")
        self._thread.start()

    def __iter__(self) -> Iterator[SourceFrame]:
        while (item := self._held.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        """Ends the thread; frames that were not taken are lost."""
        self._closing.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._held.get(timeout=0.05)

    def _fill(self) -> None:
        try:
            for frame in self._frames:
                self._held.put(frame)
                if self._closing.is_set():
                    return
            self._held.put(None)
        except Exception as error:  # for the reader, whose business it is
            self._held.put(error)


def _synthetic(clip: int) -> Iterator[SourceFrame]:
    # Only the synthetic world needs torch, which takes seconds to import.
    import torch

    from panosam2_core.data.synthetic import SyntheticWorld

    torch.set_num_threads(1)  # the tracker needs the other cores
    for frame in SyntheticWorld(split="demo").clip(clip):
        rgb = np.ascontiguousarray(frame.image.permute(1, 2, 0).numpy())
        yield SourceFrame(rgb, frame.labels.numpy())
