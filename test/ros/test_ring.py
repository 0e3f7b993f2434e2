"""The ring of recent frames, and prompts for frames that it keeps smaller."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panosam2_core import Prompt
from panosam2_core.prompting import resized
from panosam2_ros.images import to_image, to_jpeg
from panosam2_ros.ring import FrameRing
from panosam2_ros.stamps import to_stamp


def image(stamp: int, width: int = 8, value: int = 0) -> Image:
    pixels = np.full((width // 2, width, 3), value, np.uint8)
    return to_image(Header(stamp=to_stamp(stamp)), pixels, "rgb8")


def test_a_frame_and_the_tracked_ones_since() -> None:
    ring = FrameRing(4)
    for stamp in range(10, 17):
        ring.put(image(stamp))
        if stamp % 2:
            ring.mark_tracked(stamp)
    assert [kept.stamp for kept in ring.since(14)] == [14, 15]
    assert [kept.stamp for kept in ring.since(13)] == [13, 15]
    assert ring.since(12) == []  # only four are kept
    assert ring.since(99) == []
    assert ring.nearest(0) == 13
    assert ring.nearest(100) == 16
    ring.put(image(3))  # time jumped back
    assert [kept.stamp for kept in ring.since(3)] == [3]
    assert ring.since(16) == []
    ring.clear()
    assert ring.nearest(3) is None


def test_wide_frames_are_kept_smaller_and_others_as_they_are() -> None:
    ring = FrameRing(3, max_width=16)
    narrow, wide = image(1, 16), image(2, 64, value=77)
    ring.put(narrow)
    ring.put(wide)
    (kept,) = ring.since(2)
    assert kept.size_hw == (32, 64)
    assert kept.read().shape == (8, 16, 3)
    assert (kept.read() == 77).all()
    first = ring.since(1)[0]
    assert np.shares_memory(first.read(), np.frombuffer(narrow.data, np.uint8))


def test_compressed_frames_stay_compressed() -> None:
    ring = FrameRing(3, max_width=16)
    msg = to_jpeg(Header(stamp=to_stamp(5)), np.full((32, 64, 3), 90, np.uint8), 90)
    assert isinstance(msg, CompressedImage)
    ring.put(msg)
    (kept,) = ring.since(5)
    assert kept.size_hw is None
    assert kept.read().shape == (32, 64, 3)


@settings(max_examples=40, deadline=None)
@given(
    factor=st.sampled_from([2, 3, 5]),
    column=st.integers(0, 29),
    row=st.integers(0, 19),
    size=st.integers(1, 8),
)
def test_a_prompt_for_a_smaller_picture_means_the_same_place(
    factor: int, column: int, row: int, size: int
) -> None:
    old, new = (20 * factor, 30 * factor), (20, 30)
    mask = np.zeros(old, bool)
    top, left = row * factor, column * factor
    mask[top : top + size, left : left + size] = True
    small = resized(Prompt(1, mask=mask), old, new).mask
    assert small.shape == new
    assert small.any()
    rows, columns = np.nonzero(small)
    assert row <= rows.min() <= rows.max() <= row + size // factor + 1
    assert column <= columns.min() <= columns.max() <= column + size // factor + 1
    box = (left, top, left - 3.0, top + 1.0)  # across the seam
    moved = resized(Prompt(1, points=[(left + 0.5, top + 0.5)], box=box), old, new)
    assert moved.points[0] == pytest.approx(((left + 0.5) / factor, (top + 0.5) / factor))
    assert moved.box == pytest.approx(tuple(value / factor for value in box))


def test_the_same_size_changes_nothing() -> None:
    prompt = Prompt(1, points=[(3.0, 4.0)])
    assert resized(prompt, (20, 30), (20, 30)) is prompt


def test_frames_shrink_by_area_not_by_picking() -> None:
    pattern = np.zeros((32, 64, 3), np.uint8)
    pattern[:, ::2] = 200
    ring = FrameRing(1, max_width=16)
    ring.put(to_image(Header(stamp=to_stamp(1)), pattern, "rgb8"))
    kept = ring.since(1)[0].read()
    assert np.abs(kept.astype(int) - cv2.blur(pattern, (4, 4)).mean()).max() < 5
