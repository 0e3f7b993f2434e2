"""Anchors: frames kept for long because something else could have been taken for the object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from panosam2_core import PanoTracker, Prompt, TrackerConfig, anchors
from panosam2_core.anchors import agreement, is_contested
from panosam2_core.memory.bank import ANCHOR_SPACING, FrameMemory, ObjectMemory
from panosam2_core.model import Decoded, PanoSAM2
from panosam2_core.tracks import Track

Frames = list[npt.NDArray[np.uint8]]
POINT = Prompt(1, points=[(40.0, 30.0)])
N, WINDOW = 2, 6  # anchors; frames that are recent


@settings(max_examples=50, deadline=None)
@given(contested=st.lists(st.booleans(), min_size=1, max_size=60), most=st.integers(0, 3))
def test_contested_frames_stay_when_they_are_no_longer_recent(
    contested: list[bool], most: int
) -> None:
    memory = ObjectMemory(max_anchors=most)
    for index, flag in enumerate(contested):
        memory.remember_tracked(FrameMemory(index, torch.zeros(2, 1, 2), torch.zeros(4), flag))
    expected: list[int] = []
    for index, flag in enumerate(contested[: max(0, len(contested) - WINDOW)]):
        if flag and (not expected or index - expected[-1] >= ANCHOR_SPACING):
            expected.append(index)
    kept = [m.frame for m in memory.anchors]
    assert kept == (expected[-most:] if most else [])
    assert not set(kept) & {m.frame for m in memory.recent}


def decoded(mask: Tensor, candidates: Tensor) -> Decoded:
    nothing = torch.zeros(len(mask), 1)
    ious = torch.zeros(candidates.shape[:2])
    return Decoded(mask, candidates, ious, nothing[:, 0], nothing, nothing, None)


def test_agreement_is_the_least_iou_with_a_candidate() -> None:
    mask = torch.full((3, 1, 4, 8), -1.0)
    mask[:2, 0, :2, :4] = 1  # 8 pixels
    candidates = mask.repeat(1, 3, 1, 1)
    candidates[0, 1, 2, :4] = 1  # 12
    candidates[0, 2, 0, 0] = -1  # 7
    candidates[1, 0] = -1  # none
    assert torch.allclose(agreement(decoded(mask, candidates)), torch.tensor([8 / 12, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("agreeing", "score", "size", "expected"),
    [
        (0.5, 0.9, 0.10, True),
        (0.8, 0.9, 0.10, False),  # nothing else is in sight
        (0.5, 0.7, 0.10, False),  # the network is less sure than it is used to be
        (0.5, 0.9, 0.13, False),  # suddenly larger
        (0.5, 0.9, 0.07, False),
    ],
)
def test_only_what_is_sure_and_steady_becomes_an_anchor(
    agreeing: float, score: float, size: float, expected: bool
) -> None:
    track = Track(1, "", 0, 0, ObjectMemory(), 0, 0, usual_score=0.9, usual_size=0.1)
    assert is_contested(track, agreeing, score, size) is expected


@pytest.fixture
def every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the object is seen on counts as contested: random weights are never sure."""
    for name, value in {"AGREEMENT": 2.0, "SURE": 0.0, "STEADY_SIZE": np.inf}.items():
        monkeypatch.setattr(anchors, name, value)


def follow(tracker: PanoTracker, frames: Frames, first: bool = True) -> list[Any]:
    return [
        tracker.step(frame, [POINT] if first and t == 0 else []).objects[1]
        for t, frame in enumerate(frames)
    ]


def kept(tracker: PanoTracker) -> list[int]:
    return [m.frame for m in tracker._tracks[1].memory.anchors]


def test_anchors_that_do_not_come_up_change_no_bit(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "AGREEMENT", -1.0)
    runs = [
        follow(PanoTracker(small_nano, TrackerConfig(view="sphere", anchors=n)), noise_frames[:16])
        for n in (0, N)
    ]
    for plain, anchored in zip(*runs, strict=True):
        assert np.array_equal(plain.logits, anchored.logits)
        assert np.array_equal(plain.mask, anchored.mask)


@pytest.mark.usefixtures("every_frame")
def test_anchors_are_few_and_tell_from_when_they_are_no_longer_recent(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    plain, anchored = (
        PanoTracker(small_nano, TrackerConfig(view="sphere", anchors=n)) for n in (0, N)
    )
    before = follow(plain, noise_frames[:24])
    after, sizes = [], []
    for t, frame in enumerate(noise_frames[:24]):
        after.append(anchored.step(frame, [] if t else [POINT]).objects[1])
        sizes.append(anchored.state_bytes())
    # Frame 1 leaves the window with frame 7, and is read on frame 8.
    same = [np.array_equal(b.logits, a.logits) for b, a in zip(before, after, strict=True)]
    assert same[:8] == [True] * 8
    assert not any(same[8:])
    assert kept(anchored) == [11, 16]
    pointer = 4 * small_nano.config.width  # of an anchor may be one of the recent ones, too
    assert max(sizes[16:]) - min(sizes[16:]) <= N * pointer, "the state has its final size"


@pytest.mark.usefixtures("every_frame")
def test_what_is_not_seen_is_no_anchor(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    head = small_nano.sam_mask_decoder.pred_obj_score_head.layers[-1]
    bias = head.bias.detach().clone()
    tracker = PanoTracker(
        small_nano, TrackerConfig(view="sphere", anchors=N, remember_hidden=True)
    )
    try:
        follow(tracker, noise_frames[:2])
        nn.init.constant_(head.bias, -100.0)
        follow(tracker, noise_frames[2:14], first=False)
    finally:
        head.bias.copy_(bias)
    assert kept(tracker) == [1]


@pytest.mark.usefixtures("every_frame")
def test_anchors_are_saved(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    config = TrackerConfig(view="sphere", anchors=N)
    tracker, other = PanoTracker(small_nano, config), PanoTracker(small_nano, config)
    follow(tracker, noise_frames[:12])
    other.restore(tracker.snapshot())
    assert kept(other) == kept(tracker) == [1]
    ahead, again = (follow(each, noise_frames[12:20], first=False) for each in (tracker, other))
    for one, two in zip(ahead, again, strict=True):
        assert np.array_equal(one.logits, two.logits)


@pytest.mark.usefixtures("every_frame")
def test_a_late_prompt_finds_the_same_anchors(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    config = TrackerConfig(anchors=N, seed=3)
    timely, tardy = PanoTracker(small_nano, config), PanoTracker(small_nano, config)
    expected = follow(timely, noise_frames[:20])
    for frame in noise_frames[:16]:
        tardy.step(frame)
    side = tardy.behind(16)
    follow(side, noise_frames[:16])
    tardy.take_over(side)
    found = follow(tardy, noise_frames[16:20], first=False)
    assert kept(tardy) == kept(timely)
    for one, two in zip(found, expected[16:], strict=True):
        assert np.allclose(one.logits, two.logits, atol=2e-4)
