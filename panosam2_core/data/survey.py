"""What a dataset holds, in numbers and in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.data.clips import Clip, ClipFrame
from panosam2_core.geometry.region import measure
from panosam2_core.media.overlay import tint

POLAR_DEG = 50.0  # latitude beyond which a centre counts as near a pole
_SHEET_COLUMNS, _SHEET_WIDTH, _SHEET_CLIPS = 4, 480, 12


@dataclass
class ClipSurvey:
    """One clip.

    Attributes:
        name: of the clip.
        frames: labelled or not.
        annotated: labelled frames.
        size: (height, width) of the frames.
        objects: ids seen.
        masks: how many objects on how many frames.
        seam: of these, across the seam.
        polar: of these, centred within 40 degrees of a pole.
        sizes: angular size of each, degrees, the geometric mean of width and height.
        pictures: some frames with their labels drawn on, RGB.
    """

    name: str
    frames: int
    annotated: int
    size: tuple[int, int] = (0, 0)
    objects: set[int] = field(default_factory=set)
    masks: int = 0
    seam: int = 0
    polar: int = 0
    sizes: list[float] = field(default_factory=list)
    pictures: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def add(self, frame: ClipFrame) -> None:
        """Count the objects of a labelled frame.

        Args:
            frame: with labels; one without is not counted.
        """
        self.size = (frame.rgb.shape[0], frame.rgb.shape[1])
        if frame.labels is None:
            return
        for object_id in np.unique(frame.labels[frame.labels > 0]).tolist():
            region = measure(frame.labels == object_id, pano=True)
            if region is None:
                continue
            self.objects.add(object_id)
            self.masks += 1
            self.seam += region.crosses_seam
            self.polar += abs(math.degrees(region.lat)) > POLAR_DEG
            self.sizes.append(
                math.degrees(math.sqrt(region.angular_width * region.angular_height))
            )


def survey(
    clips: Sequence[Clip], every: int, report: Callable[[ClipSurvey], None]
) -> list[ClipSurvey]:
    """Go through a dataset.

    Args:
        clips: of it.
        every: takes every n-th labelled frame.
        report: called after each clip.

    Returns:
        A survey per clip; the first twelve have pictures.

    Raises:
        DataError: when something cannot be read.
    """
    rows: list[ClipSurvey] = []
    for clip in clips:
        row = ClipSurvey(clip.name, len(clip), len(clip.annotated))
        taken = list(clip.annotated[::every]) or [0]
        shown = {
            taken[i * (len(taken) - 1) // (_SHEET_COLUMNS - 1)] for i in range(_SHEET_COLUMNS)
        }
        for index, frame in zip(taken, clip.read(taken), strict=True):
            row.add(frame)
            if index in shown and len(rows) < _SHEET_CLIPS:
                row.pictures.append(_picture(frame, f"{clip.name} {frame.name}"))
        rows.append(row)
        report(row)
    return rows


def contact_sheet(rows: Sequence[ClipSurvey]) -> npt.NDArray[np.uint8]:
    """Put the pictures of a survey on one sheet.

    Args:
        rows: of `survey`; those without pictures are left out.

    Returns:
        (H, W, 3) uint8 RGB, a row per clip.

    Raises:
        ValueError: when there is no picture at all.
    """
    lines = []
    for pictures in (row.pictures for row in rows if row.pictures):
        blank = np.full_like(pictures[0], 24)
        lines.append(np.hstack([*pictures, *[blank] * (_SHEET_COLUMNS - len(pictures))]))
    if not lines:
        raise ValueError("expected a survey with pictures, got none")
    return np.vstack(lines)


def _picture(frame: ClipFrame, text: str) -> npt.NDArray[np.uint8]:
    height = round(_SHEET_WIDTH * frame.rgb.shape[0] / frame.rgb.shape[1])
    small = np.asarray(
        cv2.resize(frame.rgb, (_SHEET_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8
    )
    labels = np.zeros(small.shape[:2], np.int32) if frame.labels is None else frame.labels
    labels = cv2.resize(
        labels.astype(np.float32), (_SHEET_WIDTH, height), interpolation=cv2.INTER_NEAREST
    ).astype(np.int32)
    picture = tint(small, labels, 0.5)
    cv2.putText(picture, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(
        picture, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
    )
    return picture
