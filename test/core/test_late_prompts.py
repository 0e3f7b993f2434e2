"""A prompt that comes late gives what it would have given in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core import PanoTracker, Prompt, PromptError, TrackerConfig
from panosam2_core.model import PanoSAM2

Frames = list[npt.NDArray[np.uint8]]
OTHER = Prompt(2, box=(120.0, 10.0, 140.0, 40.0))
MASK = np.zeros((64, 128), bool)
MASK[20:40, 60:80] = True
LATE = (Prompt(1, points=[(40.0, 30.0)]), Prompt(1, mask=MASK), Prompt(1, box=(100, 5, 140, 60)))


def objects(tracker: PanoTracker, frame: Any, *prompts: Prompt) -> dict[int, Any]:
    return dict(tracker.step(frame, prompts).objects)


@settings(max_examples=6, deadline=None)
@given(
    asked=st.integers(0, 9),
    late=st.integers(1, 8),
    company=st.booleans(),
    prompt=st.sampled_from(LATE),
)
def test_late_equals_in_time(
    small_nano: PanoSAM2,
    noise_frames: Frames,
    asked: int,
    late: int,
    company: bool,
    prompt: Prompt,
) -> None:
    """Also when the object is the first, and when the frames go back beyond all others."""
    config = TrackerConfig(seed=3)
    timely, tardy = PanoTracker(small_nano, config), PanoTracker(small_nano, config)
    answered = asked + late
    for t, frame in enumerate(noise_frames[: answered + 4]):
        others = [OTHER] if company and t == 4 else []
        expected = objects(timely, frame, *others, *([prompt] if t == asked else []))
        if t == answered:
            side = tardy.behind(late)
            for i, old in enumerate(noise_frames[asked:answered]):
                side.step(old, [] if i else [prompt])
            tardy.take_over(side)
        found = objects(tardy, frame, *others)
        if t >= answered:
            assert sorted(found) == sorted(expected)
            for i in expected:
                assert np.allclose(found[i].logits, expected[i].logits, atol=2e-4), (t, i)
                assert found[i].age == expected[i].age
                assert found[i].frames_since_seen == expected[i].frames_since_seen


def test_what_has_not_caught_up_is_refused(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    tracker = PanoTracker(small_nano, TrackerConfig(max_objects=1))
    objects(tracker, noise_frames[0], OTHER)
    objects(tracker, noise_frames[1])
    before = tracker.snapshot()
    side = tracker.behind(2)
    side.step(noise_frames[0], [LATE[0]])
    with pytest.raises(ValueError, match="at frame 2, got one at 1"):
        tracker.take_over(side)
    side.step(noise_frames[1])
    with pytest.raises(PromptError, match="2 objects exceed max_objects=1"):
        tracker.take_over(side)
    assert tracker.snapshot() == before
    again = tracker.behind(1)
    again.step(noise_frames[1], [Prompt(2, points=[(5.0, 5.0)])])
    tracker.take_over(again)  # the same object, prompted afresh
    assert tracker.object_ids == (2,)
