"""Tracks one object through a recording into a folder, from the start or from where it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from panosam2_core.media.frames import Frame, FrameSource, SourceError
from panosam2_core.media.overlay import draw
from panosam2_core.media.video_writer import VideoWriter
from panosam2_core.offline.folder import RunFolder
from panosam2_core.offline.scores import to_shown
from panosam2_core.prompts import Prompt
from panosam2_core.tracker import PanoTracker

_ALPHA, _MAX_WIDTH = 0.45, 1920


def checked(
    source: FrameSource, tracker: PanoTracker, prompts: Sequence[Prompt]
) -> Iterator[Frame]:
    """Check the prompts on the first frame, before anything is written.

    Args:
        source: of the frames; its iterator is used up.
        tracker: that will be prompted.
        prompts: for the first frame.

    Returns:
        All frames. One of another size than the first raises ``SourceError``.

    Raises:
        SourceError: when there is no frame, or the first cannot be read.
        PromptError: when a prompt cannot be applied to the first frame.
    """
    first = next(source.frames, None)
    if first is None:
        raise SourceError("the source has no frames")
    tracker.check_prompts(prompts, (first.rgb.shape[0], first.rgb.shape[1]))
    return _equal_sizes(itertools.chain([first], source.frames))


def follow(
    tracker: PanoTracker,
    frames: Iterator[Frame],
    prompts: Sequence[Prompt],
    folder: RunFolder,
    *,
    fps: float,
    stopped: Callable[[], bool],
    progress: Callable[[int], None],
) -> None:
    """Track, and write label images, scores and the video.

    Finished frames are not written again; the video is made anew from what is in the folder. It
    takes the earlier video's place when it is at least as long.

    Args:
        tracker: that has seen no frame.
        frames: from :func:`checked`.
        prompts: applied on the first frame.
        folder: of the run.
        fps: of the video.
        stopped: asked before every frame; a true answer ends the run as the last frame would.
        progress: told after every frame how many there are now.

    Raises:
        SourceError: when a frame cannot be read. What is finished stays.
        FolderError: when a label image of an earlier run cannot be read.
    """
    finished = len(folder.records)
    seen = folder.restore(tracker)
    video = VideoWriter(folder.video_part, fps)
    try:
        with closing(video):
            for index, frame in enumerate(frames):
                if stopped():
                    break
                if index >= seen:
                    result = tracker.step(frame.rgb, prompts if index == 0 else ())
                    if index >= finished:
                        folder.add(result, frame.stamp_ns)
                    folder.save(tracker, now=False)
                _show(video, frame, index, folder)
                progress(index + 1)
        folder.save(tracker, now=True)
    finally:
        if video.written >= max(finished, 1):
            folder.publish_video()


def _show(video: VideoWriter, frame: Frame, index: int, folder: RunFolder) -> None:
    """Draw from what is in the folder, so that a resumed run draws what it did not track."""
    video.write(
        draw(
            frame.rgb,
            folder.labels(index),
            to_shown(folder.records[index]),
            alpha=_ALPHA,
            max_width=_MAX_WIDTH,
        )
    )


def _equal_sizes(frames: Iterator[Frame]) -> Iterator[Frame]:
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        size = size or frame.rgb.shape
        if frame.rgb.shape != size:
            raise SourceError(
                f"frame {index} is {frame.rgb.shape[1]}x{frame.rgb.shape[0]}, the first is "
                f"{size[1]}x{size[0]}; make them equal"
            )
        yield frame
