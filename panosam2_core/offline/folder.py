"""The folder of a run: what is in it, and how far the run has come."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.errors import PanoSAM2Error, SnapshotError
from panosam2_core.offline.scores import Record, ScoreFile, read_records, to_record
from panosam2_core.results import FrameResult
from panosam2_core.tracker import PanoTracker

logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 30.0


class FolderError(PanoSAM2Error):
    """A folder that a run cannot use; the text says why and how to mend it."""


class RunFolder:
    """Label images, scores, video and the tracker's state of one run.

    A frame is finished when its label image is there, for that is written last. The state is only
    a short cut: without it, or when it is newer than the label images, all frames are tracked
    once more, to the same result.

    Attributes:
        video: the annotated video.
        video_part: the video while it is being written.
        records: scores of the finished frames.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or find out how far an earlier run has come.

        Args:
            path: of the folder.
            settings: what the results depend on, as JSON has it; a run that goes on must have
                the same.
            resume: go on with what is there.

        Raises:
            FolderError: when there are results already and ``resume`` is not set, or they belong
                to other settings.
        """
        self.video, self.video_part = path / "overlay.mp4", path / "overlay.part.mp4"
        self._labels, self._state = path / "labels", path / "resume.pt"
        whole = itertools.takewhile(
            lambda record: self._label_file(record["frame"]).is_file(),
            read_records(path / "scores.json"),
        )
        used = any(self._labels.glob("*.png"))
        if used and not resume:
            raise FolderError(
                f"{path} holds the results of an earlier run; go on with --resume, or choose "
                "another folder"
            )
        if used:
            _check_settings(path / "run.json", settings)
        self._labels.mkdir(parents=True, exist_ok=True)
        (path / "run.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        self.records = list(whole)
        self._scores = ScoreFile(path / "scores.json", self.records)
        self._saved_at = time.monotonic()

    def labels(self, index: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Read the label image of a finished frame.

        Args:
            index: of the frame.

        Returns:
            (H, W) uint8 or uint16, object ids, 0 = background.

        Raises:
            FolderError: when the file cannot be read.
        """
        file = self._label_file(index)
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise FolderError(f"{file} cannot be read; remove it and use --resume")
        labels: npt.NDArray[np.unsignedinteger[Any]] = image
        return labels

    def add(self, result: FrameResult, stamp_ns: int | None) -> None:
        """Write the next frame.

        Args:
            result: of the frame after the last finished one.
            stamp_ns: when it was taken, nanoseconds; ``None``: nobody knows.
        """
        narrow = max(result.objects, default=0) <= 255
        labels = result.label_image(np.uint8 if narrow else np.uint16)
        record: Record = to_record(result, stamp_ns)
        self._scores.add(record)
        file = self._label_file(result.frame_index)
        part = file.with_suffix(".part")
        part.write_bytes(cv2.imencode(".png", labels)[1].tobytes())
        part.replace(file)
        self.records.append(record)

    def save(self, tracker: PanoTracker, *, now: bool) -> None:
        """Write the tracker's state.

        Args:
            tracker: between two frames.
            now: otherwise only when the last time is a while ago.
        """
        if not now and time.monotonic() - self._saved_at < _SAVE_EVERY_S:
            return
        part = self._state.with_suffix(".part")
        part.write_bytes(tracker.snapshot())
        part.replace(self._state)
        self._saved_at = time.monotonic()

    def restore(self, tracker: PanoTracker) -> int:
        """Bring a new tracker to where the state was saved.

        Args:
            tracker: that has seen no frame.

        Returns:
            How many frames it has seen now; 0 when there is no state that can be used.
        """
        if not self._state.is_file():
            return 0
        try:
            seen = tracker.restore(self._state.read_bytes())
        except SnapshotError as error:
            logger.warning("%s, tracking all frames once more: %s", self._state, error)
            return 0
        if seen > len(self.records):
            tracker.reset()
            return 0
        return seen

    def publish_video(self) -> None:
        """Let the part take the video's place."""
        if self.video_part.is_file():
            self.video_part.replace(self.video)

    def _label_file(self, index: int) -> Path:
        return self._labels / f"{index:06d}.png"


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{file} cannot be read, choose another folder: {error}") from error
    for name in (*settings, *before):
        if before.get(name) != settings.get(name):
            raise FolderError(
                f"{file.parent} was made with {name} {before.get(name)!r}, now it is "
                f"{settings.get(name)!r}; choose another folder"
            )
