"""What is ignored is in no mask and in no memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panosam2_core import ConfigError, ObjectState, PanoTracker, Prompt, PromptError, TrackerConfig
from panosam2_core.model import PanoSAM2

Frames = list[npt.NDArray[np.uint8]]
BODY = np.zeros((96, 192), bool)  # of another size than the frames
BODY[60:] = True
INSIDE = np.zeros((64, 128), bool)
INSIDE[45:60, 20:50] = True
BOTH = np.zeros((64, 128), bool)
BOTH[20:60, 20:50] = True
PROMPTS = [
    Prompt(1, points=[(40.0, 30.0)]),
    Prompt(2, box=(100.0, 10.0, 140.0, 60.0)),
    Prompt(3, mask=BOTH),
]


@pytest.mark.parametrize("gate", [0.0, 12.0])
def test_no_mask_reaches_into_the_region(
    small_nano: PanoSAM2, noise_frames: Frames, gate: float
) -> None:
    config = TrackerConfig(motion_gate_deg=gate)
    plain, guarded = PanoTracker(small_nano, config), PanoTracker(small_nano, config, BODY)
    body = np.asarray([[BODY[int(r * 1.5), 0]] * 128 for r in range(64)])
    reached = 0
    for t, frame in enumerate(noise_frames[:6]):
        prompts = PROMPTS if t == 0 else []
        free = plain.step(frame, prompts)
        found = guarded.step(frame, prompts)
        for i, thing in found.objects.items():
            assert not (thing.mask & body).any(), (t, i)
            reached += int((free.objects[i].mask & body).any())
        assert not (found.labels.astype(bool) & body).any()
    assert reached > 3, "the region was never reached, so nothing was shown"
    memory = guarded._tracks[3].memory
    assert memory.region is None or not memory.region[0, 11:].any()


def test_an_object_that_is_nowhere_else_is_hidden(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, ignored=np.arange(64)[:, None].repeat(128, 1) > 1)
    found = tracker.step(noise_frames[0], [Prompt(1, box=(10.0, 0.0, 40.0, 60.0))]).objects[1]
    if not found.mask.any():
        assert found.state is not ObjectState.VISIBLE
    for frame in noise_frames[1:5]:
        found = tracker.step(frame).objects[1]
        assert (found.state is ObjectState.VISIBLE) == bool(found.mask.any())


def test_prompts_for_what_is_ignored_are_refused(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, ignored=BODY)
    tracker.step(noise_frames[0], [PROMPTS[0]])
    before = tracker.snapshot()
    with pytest.raises(PromptError, match="is in the region that is ignored") as refused:
        tracker.step(noise_frames[1], [Prompt(5, points=[(10.0, 63.5)])])
    assert refused.value.code == "BAD_COORDS"
    with pytest.raises(PromptError, match="whole mask") as refused:
        tracker.step(noise_frames[1], [Prompt(5, mask=INSIDE)])
    assert refused.value.code == "BAD_MASK"
    assert tracker.snapshot() == before
    beside = Prompt(5, points=[(10.0, 10.0), (10.0, 63.5)], labels=[1, 0])
    assert 5 in tracker.step(noise_frames[1], [beside]).objects


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((4, 8), bool), "nothing is left"),
        (np.zeros((4, 8), np.uint8), "must be"),
        (np.zeros((4, 8, 3), bool), "must be"),
    ],
)
def test_a_region_that_cannot_be_meant_is_refused(
    small_nano: PanoSAM2, mask: npt.NDArray[np.bool_], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        PanoTracker(small_nano, ignored=mask)


def test_no_region_is_the_same_as_an_empty_one(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    plain = PanoTracker(small_nano)
    empty = PanoTracker(small_nano, ignored=np.zeros((64, 128), bool))
    for t, frame in enumerate(noise_frames[:4]):
        one, other = (x.step(frame, PROMPTS if t == 0 else []) for x in (plain, empty))
        for i in one.objects:
            assert torch.equal(
                torch.from_numpy(one.objects[i].logits), torch.from_numpy(other.objects[i].logits)
            )
