"""Presence: a filter over frames that says whether an object is in sight."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from panosam2_core import ObjectState, PanoTracker, Prompt, TrackerConfig, presence
from panosam2_core.model import Decoded, PanoSAM2
from panosam2_core.presence import MOST, believe

Frames = list[npt.NDArray[np.uint8]]
POINT = Prompt(1, points=[(40.0, 30.0)])
CONFIG = TrackerConfig(view="sphere", presence=True)


def weigh(before: float, logit: float, score: float, agreement: float) -> float:
    empty = torch.zeros(1, 1, 2, 4)
    decoded = Decoded(
        empty, empty, empty[..., 0, 0], torch.tensor([score]), empty, torch.tensor([[logit]]), None
    )
    return float(believe(torch.tensor([before]), decoded, torch.tensor([agreement])))


beliefs = st.floats(-MOST, MOST)
logits = st.floats(-50, 50)
shares = st.floats(0, 1)


@given(beliefs, logits, shares, shares, st.floats(0, 5), st.floats(0, 1))
def test_more_evidence_is_never_less_belief_and_beliefs_are_bounded(
    before: float, logit: float, score: float, agreement: float, more: float, rise: float
) -> None:
    belief = weigh(before, logit, score, agreement)
    assert -MOST <= belief <= MOST
    tolerance = 1e-5
    assert weigh(min(MOST, before + more), logit, score, agreement) >= belief - tolerance
    assert weigh(before, logit + more, score, agreement) >= belief - tolerance
    assert weigh(before, logit, score + rise, agreement) >= belief - tolerance
    assert weigh(before, logit, score, agreement + rise) >= belief - tolerance


def test_a_poor_frame_is_outlived_but_not_many_and_a_good_one_brings_it_back() -> None:
    poor, good = (0.8, 0.45, 0.6), (4.0, 0.7, 0.9)  # logit, score, agreement
    belief, history = MOST, []
    for frame in [poor] * 4 + [good] * 4:
        belief = weigh(belief, *frame)
        history.append(belief > 0)
    assert history[0]
    assert not history[3]
    assert history[-1]


@pytest.fixture
def doubtful(small_nano: PanoSAM2) -> Iterator[Tensor]:
    """Bias of small_nano's occlusion logit, put back afterwards."""
    head = small_nano.sam_mask_decoder.pred_obj_score_head.layers[-1]
    bias = head.bias.detach().clone()
    yield head.bias
    head.bias.copy_(bias)


def test_what_is_not_believed_is_hidden_and_not_remembered_until_it_is_prompted(
    small_nano: PanoSAM2,
    noise_frames: Frames,
    doubtful: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "PER_AGREEMENT", 0.0)  # random weights agree in nothing
    monkeypatch.setattr(presence, "PER_SCORE", 0.0)
    monkeypatch.setattr(presence, "BIAS", -1.0)
    tracker = PanoTracker(small_nano, CONFIG)
    nn.init.constant_(doubtful, 4.0)
    for t in range(3):
        found = tracker.step(noise_frames[t], [] if t else [POINT]).objects[1]
        assert found.state is ObjectState.VISIBLE
    doubtful.add_(-3.9)  # a little above 0: SAM2 still sees it
    for t in range(3, 9):
        found = tracker.step(noise_frames[t]).objects[1]
    track = tracker._tracks[1]
    assert found.state is ObjectState.OCCLUDED
    assert not found.mask.any()
    assert track.presence < 0
    assert track.memory.recent[-1].frame < 8
    other = PanoTracker(small_nano, CONFIG)
    other.restore(tracker.snapshot())
    assert other._tracks[1].presence == track.presence
    tracker.step(noise_frames[9], [POINT])
    assert tracker._tracks[1].presence == MOST


def test_a_presence_that_is_never_in_doubt_changes_no_bit(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BIAS", 100.0)
    trackers = [PanoTracker(small_nano, c) for c in (CONFIG, TrackerConfig(view="sphere"))]
    for t, frame in enumerate(noise_frames[:12]):
        one, two = (each.step(frame, [] if t else [POINT]).objects[1] for each in trackers)
        assert np.array_equal(one.logits, two.logits)
        assert one.visibility_logit == two.visibility_logit
