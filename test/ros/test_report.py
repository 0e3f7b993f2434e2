from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from panosam2_ros.msg import TrackedObject

from panosam2_ros.report import (
    Recorded,
    contact_sheet,
    moments,
    score,
    seam_crossings,
    telling,
    write_video,
)

SIZE_HW = (40, 80)


def _png(pixels: np.ndarray) -> np.ndarray:
    return cv2.imencode(".png", pixels)[1]


def _box(left: int, width: int) -> np.ndarray:
    labels = np.zeros(SIZE_HW, np.uint8)
    labels[10:20, np.arange(left, left + width) % SIZE_HW[1]] = 3
    return labels


def _frame(truth: np.ndarray, mask: np.ndarray, *, visible: bool) -> Recorded:
    state = TrackedObject.VISIBLE if visible else TrackedObject.OCCLUDED
    return Recorded(
        jpeg=cv2.imencode(".jpg", np.zeros((*SIZE_HW, 3), np.uint8))[1],
        labels_png=_png((mask > 0).astype(np.uint16)),
        truth_png=_png(truth),
        objects=[TrackedObject(id=1, state=state)],
    )


@pytest.fixture
def run() -> list[Recorded]:
    """Moves left across the seam, is hidden for two frames, and comes back."""
    none = _box(0, 0)
    frames = [Recorded(jpeg=_png(none))]  # before the prompt
    frames += [_frame(_box(u, 10), _box(u, 10), visible=True) for u in (5, 0, -4, -10)]
    frames += [_frame(none, none, visible=False), _frame(none, none, visible=True)]
    frames += [_frame(_box(-20, 10), _box(-20, 5), visible=True)]
    frames += [_frame(_box(-25, 10), none, visible=False)]
    return frames


def test_score(run: list[Recorded]) -> None:
    course = moments(run, object_id=1, truth_id=3)
    assert [m.index for m in course] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert seam_crossings(course) == [4]
    assert score(course, 1) == {
        "id": 1,
        "mean_iou": pytest.approx((4 * 1 + 0.5 + 0) / 6, abs=1e-4),
        "visible_recall": pytest.approx(5 / 6, abs=1e-4),
        "absent_recall": 0.5,
    }


def test_a_sliver_counts_as_neither() -> None:
    whole, sliver = _box(10, 40), _box(10, 1)
    frames = [_frame(t, t, visible=False) for t in (whole, whole, sliver)]
    course = moments(frames, 1, 3)
    assert [(m.visible, m.absent) for m in course] == [(True, False)] * 2 + [(False, False)]


def test_without_truth_there_is_no_score_but_there_are_crossings(run: list[Recorded]) -> None:
    for frame in run:
        frame.truth_png = None
    course = moments(run, 1, 3)
    assert score(course, 1) == {"id": 1}
    assert seam_crossings(course) == [4]


def test_the_telling_moments_are_on_the_sheet(run: list[Recorded]) -> None:
    course = moments(run, 1, 3)
    chosen = [m.index for m in telling(course, 6)]
    assert len(chosen) == 6
    assert chosen == sorted(chosen)
    assert {1, 8} <= set(chosen)
    assert [m.index for m in telling(course, 20)] == [m.index for m in course]
    sheet = contact_sheet(run, course, title="title", mark=(10.0, 15.0), truth_id=3)
    assert sheet.shape[1] == 4 * 480
    assert sheet.dtype == np.uint8


def test_the_video_has_every_processed_frame(run: list[Recorded], tmp_path) -> None:
    write_video(run, 3, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 8


def test_a_run_without_results_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_video([Recorded()], 3, tmp_path / "out.mp4")
