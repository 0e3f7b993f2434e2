"""Frames of a video file or of a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PanoSAM2Error

Pixels = npt.NDArray[np.uint8]
DEFAULT_FPS = 10.0
_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


class SourceError(PanoSAM2Error, ValueError):
    """A source that cannot be read; the text says why and how to mend it."""


class Frame(NamedTuple):
    """One picture.

    Attributes:
        rgb: (height, width, 3) uint8.
        stamp_ns: When it was taken, in nanoseconds: from the start of a video, of a bag what the
            image's header says; None in a folder, where nobody knows.
    """

    rgb: Pixels
    stamp_ns: int | None


@dataclass(frozen=True)
class FrameSource:
    """Frames, and what is known before they are read.

    Attributes:
        frames: In order, read as they are taken. What cannot be read raises `SourceError`.
        count: How many there are, in a video about so many; None if the file does not say.
        fps: Frames per second; `DEFAULT_FPS` where there is no time.
    """

    frames: Iterator[Frame]
    count: int | None
    fps: float


def open_frames(path: Path) -> FrameSource:
    """Opens a video file or a folder of images.

    Args:
        path: The file, or the folder; its images are taken in the order of their names.

    Returns:
        The frames.

    Raises:
        SourceError: If there is no such file, or nothing in it that can be read.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _IMAGES)
        if not files:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(_IMAGES))})")
        return FrameSource(_folder(files), len(files), DEFAULT_FPS)
    if not path.is_file():
        raise SourceError(f"video '{path}' does not exist; expected a video file or a folder")
    return _open_video(path)


def from_bgr(bgr: npt.NDArray[np.generic]) -> Pixels:
    """Turns OpenCV's order of colours into ours.

    Args:
        bgr: (height, width, 3) uint8.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _folder(files: list[Path]) -> Iterator[Frame]:
    for file in files:
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise SourceError(f"{file} cannot be read as an image; repair or remove it")
        yield Frame(from_bgr(bgr), None)


def _open_video(path: Path) -> FrameSource:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SourceError(f"{path} holds no video")
            stream = container.streams.video[0]
            rate = stream.average_rate
            fps = float(rate) if rate else DEFAULT_FPS
            seconds = (container.duration or 0) / av.time_base
            return FrameSource(_video(path), stream.frames or round(seconds * fps) or None, fps)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _video(path: Path) -> Iterator[Frame]:
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                stamp_ns = None if frame.time is None else round(1e9 * frame.time)
                yield Frame(frame.to_ndarray(format="rgb24"), stamp_ns)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path} cannot be read as a video: {error}")
