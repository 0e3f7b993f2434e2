"""What a recorded run was worth: numbers, a contact sheet and a video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.media.overlay import draw
from panosam2_core.media.video_writer import VideoWriter
from panosam2_ros.msg import TrackedObject

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# Less than this share of its usual size is neither clearly there nor clearly gone: such frames
# count neither as visible nor as absent.
_SLIVER = 0.05
_TILE = (480, 240)
_COLUMNS, _ROWS = 4, 5
_VIDEO_FPS = 15
_WHITE = (255, 255, 255)


@dataclass
class Recorded:
    """One frame with what is known of it. Pictures are kept compressed.

    Attributes:
        jpeg: The image.
        labels_png: The tracker's label image, None if the frame was dropped.
        truth_png: The true label image, None where nobody knows.
        objects: The tracked objects.
    """

    jpeg: Pixels | None = None
    labels_png: Pixels | None = None
    truth_png: Pixels | None = None
    objects: list[TrackedObject] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether image and result are both there."""
        return self.jpeg is not None and self.labels_png is not None

    @property
    def rgb(self) -> Pixels:
        """(height, width, 3) uint8."""
        return cv2.cvtColor(cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    @property
    def labels(self) -> npt.NDArray[np.unsignedinteger]:
        """(height, width) tracked ids."""
        return cv2.imdecode(self.labels_png, cv2.IMREAD_UNCHANGED)

    @property
    def truth(self) -> Pixels | None:
        """(height, width) true ids, or None."""
        if self.truth_png is None:
            return None
        return cv2.imdecode(self.truth_png, cv2.IMREAD_UNCHANGED)


@dataclass(frozen=True)
class Moment:
    """How one object fared in one frame.

    Attributes:
        index: Which frame.
        reported: Whether the tracker says that it is visible.
        iou: Overlap of its mask with the truth, None without truth.
        true_share: Size of the true mask over its usual size, None without truth.
        longitude: Of the truth, or else of the mask, in radians; None if there is no pixel.
    """

    index: int
    reported: bool
    iou: float | None
    true_share: float | None
    longitude: float | None

    @property
    def visible(self) -> bool:
        """Whether it really can be seen; without truth, whether the tracker says so."""
        return self.reported if self.true_share is None else self.true_share >= _SLIVER

    @property
    def absent(self) -> bool:
        """Whether it really is out of sight; without truth, whether the tracker says so."""
        return not self.reported if self.true_share is None else self.true_share == 0.0


def moments(frames: Sequence[Recorded], object_id: int, truth_id: int) -> list[Moment]:
    """Compares one object with the truth, from the first frame in which it is tracked.

    Args:
        frames: The run; incomplete frames are passed over.
        object_id: The tracked object.
        truth_id: Its id in the true label images.

    Returns:
        One moment per frame.
    """
    found = []
    for index, frame in enumerate(frames):
        tracked = next((o for o in frame.objects if o.id == object_id), None)
        if not frame.complete or tracked is None:
            continue
        truth = frame.truth
        mask = frame.labels == object_id
        true_mask = None if truth is None else truth == truth_id
        found.append((index, tracked, mask, true_mask))
    sizes = [t.sum() for *_, t in found if t is not None and t.any()]
    usual = float(np.median(sizes)) if sizes else 1.0
    return [_moment(*one, usual) for one in found]


def _moment(
    index: int, tracked: TrackedObject, mask: Mask, true_mask: Mask | None, usual: float
) -> Moment:
    shape = mask if true_mask is None else true_mask
    return Moment(
        index=index,
        reported=tracked.state == TrackedObject.VISIBLE,
        iou=None if true_mask is None else _iou(mask, true_mask),
        true_share=None if true_mask is None else float(true_mask.sum()) / usual,
        longitude=_longitude(shape),
    )


def _iou(mask: Mask, truth: Mask) -> float:
    union = int((mask | truth).sum())
    return float((mask & truth).sum()) / union if union else 1.0


def _longitude(mask: Mask) -> float | None:
    columns = mask.sum(axis=0)
    if not columns.any():
        return None
    angles = (np.arange(len(columns)) + 0.5) / len(columns) * 2 * math.pi - math.pi
    return math.atan2(float(columns @ np.sin(angles)), float(columns @ np.cos(angles)))


def seam_crossings(course: Sequence[Moment]) -> list[int]:
    """Finds the frames in which an object's centre has moved across the left or right edge.

    Args:
        course: The object's moments.

    Returns:
        Indices of the first frames after a crossing.
    """
    seen = [m for m in course if m.longitude is not None]
    return [
        now.index
        for before, now in zip(seen, seen[1:], strict=False)
        if abs(now.longitude - before.longitude) > math.pi
    ]


def score(course: Sequence[Moment], object_id: int) -> dict[str, Any]:
    """Sums up one object.

    Args:
        course: The object's moments.
        object_id: Its id.

    Returns:
        The entry of summary.json. Without truth only the id; a share of nothing is None.
    """
    if not course or course[0].true_share is None:
        return {"id": object_id}
    visible = [m for m in course if m.visible]
    absent = [m for m in course if m.absent]
    return {
        "id": object_id,
        "mean_iou": _mean([m.iou for m in visible if m.iou is not None]),
        "visible_recall": _mean([float(m.reported) for m in visible]),
        "absent_recall": _mean([float(not m.reported) for m in absent]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def write_video(frames: Sequence[Recorded], truth_id: int, path: Path) -> None:
    """Writes the run as a video with the masks drawn in, and the truth as a white line.

    Args:
        frames: The run; incomplete frames are passed over.
        truth_id: The object's id in the true label images.
        path: An .mp4 file.

    Raises:
        ValueError: If no frame is complete.
    """
    with VideoWriter(path, _VIDEO_FPS) as video:
        for frame in frames:
            if frame.complete:
                video.write(picture(frame, truth_id))
    if not video.written:
        raise ValueError("expected at least one frame with a result, got none; see the logs")


def picture(frame: Recorded, truth_id: int) -> Pixels:
    """Draws one frame.

    Args:
        frame: A complete frame.
        truth_id: The object's id in the true label image.

    Returns:
        (h, w, 3) uint8 RGB, at most 1280 wide.
    """
    objects = {found.id: found for found in frame.objects}
    drawn = draw(frame.rgb, frame.labels, objects, alpha=0.45, max_width=1280)
    truth = frame.truth
    if truth is not None:
        mask = (truth == truth_id).astype(np.uint8)
        mask = cv2.resize(mask, drawn.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, contours, -1, _WHITE, 1, cv2.LINE_AA)
    return drawn


def contact_sheet(
    frames: Sequence[Recorded],
    course: Sequence[Moment],
    *,
    title: str,
    mark: tuple[float, float] | None,
    truth_id: int,
) -> Pixels:
    """Draws the telling frames of a run on one sheet.

    Args:
        frames: The run.
        course: The moments of the object that it is about.
        title: Goes on top.
        mark: (u, v) of the click on the first frame, in pixels.
        truth_id: The object's id in the true label images.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    crossings = set(seam_crossings(course))
    tiles = []
    for moment in telling(course, _COLUMNS * _ROWS):
        frame = frames[moment.index]
        drawn = picture(frame, truth_id)
        if moment is course[0] and mark is not None:
            scale = drawn.shape[1] / frame.labels.shape[1]
            at = (round(mark[0] * scale), round(mark[1] * scale))
            cv2.drawMarker(drawn, at, (0, 255, 0), cv2.MARKER_CROSS, 40, 4)
        tile = cv2.resize(drawn, _TILE, interpolation=cv2.INTER_AREA)
        caption = _caption(moment, moment is course[0], moment.index in crossings)
        tiles.append(np.vstack([_banner(caption, _TILE[0], 26, 0.5), tile]))
    blank = np.full_like(tiles[0], 40)
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    return np.vstack([_banner(title, _TILE[0] * _COLUMNS, 44, 0.8), *rows])


def telling(course: Sequence[Moment], count: int) -> list[Moment]:
    """Chooses the moments that tell most: the prompt, seam crossings, hiding and coming back.

    Args:
        course: The moments of one object.
        count: How many to choose at most.

    Returns:
        The chosen ones in order of time, filled up with evenly spaced ones.
    """
    if not course:
        return []
    crossings = set(seam_crossings(course))
    chosen = {0, len(course) - 1}
    for i, moment in enumerate(course):
        changed = i > 0 and moment.visible != course[i - 1].visible
        if moment.index in crossings or changed:
            chosen |= {max(i - 1, 0), i}
    for begin, end in _hidden_spans(course):
        chosen |= {(begin + end) // 2, min(end + 5, len(course) - 1)}
    ordered = sorted(chosen)
    if len(ordered) > count:
        ordered = [ordered[round(k)] for k in np.linspace(0, len(ordered) - 1, count)]
    for i in np.linspace(0, len(course) - 1, count).round().astype(int):
        if len(ordered) >= min(count, len(course)):
            break
        if int(i) not in ordered:
            ordered.append(int(i))
    return [course[i] for i in sorted(ordered)]


def _hidden_spans(course: Sequence[Moment]) -> list[tuple[int, int]]:
    hidden = np.array([False, *(not m.visible for m in course), False])
    edges = np.flatnonzero(np.diff(hidden.astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _caption(moment: Moment, is_prompt: bool, is_crossing: bool) -> str:
    words = [f"#{moment.index}"]
    words += ["PROMPT"] * is_prompt + ["SEAM CROSSED"] * is_crossing
    if moment.true_share is not None and not moment.visible:
        words.append(
            "truly hidden, " + ("REPORTED VISIBLE" if moment.reported else "reported hidden")
        )
    elif not moment.reported:
        words.append("reported hidden")
    elif moment.iou is not None:
        words.append(f"IoU {moment.iou:.2f}")
    return "  ".join(words)


def _banner(text: str, width: int, height: int, size: float) -> Pixels:
    banner = np.full((height, width, 3), 24, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(banner, text, (8, height - 9), font, size, _WHITE, 1, cv2.LINE_AA)
    return banner
