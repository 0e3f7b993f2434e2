"""One encoding per frame, one batch per history, and nobody's mask hangs on the company."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from panosam2_core import PanoTracker, Prompt, TrackerConfig
from panosam2_core.build import VARIANTS, build_model
from panosam2_core.model import PanoSAM2

Frames = list[npt.NDArray[np.uint8]]
MASK = np.zeros((64, 128), bool)
MASK[20:40, 60:80] = True
PROMPTS = [
    Prompt(1, points=[(40.0, 30.0)]),
    Prompt(2, box=(120.0, 10.0, 140.0, 40.0)),  # across the seam
    Prompt(3, mask=MASK),
    Prompt(4, points=[(90.0, 50.0), (60.0, 50.0)], labels=[1, 0]),
]
SAME = 1e-5  # a batch of another size rounds in another order


@pytest.fixture(scope="module")
def hiera() -> PanoSAM2:
    """Hiera-T at 64x128 with random weights and the panoramic parts on; objects are visible."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(VARIANTS["hiera_t"], input_size=(64, 128)))
    nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["nano", "hiera_t"])
def network(request: pytest.FixtureRequest, small_nano: PanoSAM2) -> PanoSAM2:
    if request.param == "nano":
        return small_nano
    hiera: PanoSAM2 = request.getfixturevalue("hiera")
    return hiera


def follow(
    network: PanoSAM2, frames: Frames, prompts: dict[int, list[Prompt]]
) -> list[dict[int, Any]]:
    tracker = PanoTracker(network, TrackerConfig(seed=2, motion_gate_deg=0.0))
    return [
        {i: thing.logits for i, thing in tracker.step(frame, prompts.get(t, ())).objects.items()}
        for t, frame in enumerate(frames)
    ]


def test_batched_equals_single(network: PanoSAM2, noise_frames: Frames) -> None:
    frames = noise_frames[:22]
    together = follow(network, frames, {0: PROMPTS})
    for prompt in PROMPTS:
        alone = follow(network, frames, {0: [prompt]})
        for t in range(len(frames)):
            i = prompt.object_id
            scale = max(1.0, float(np.abs(alone[t][i]).max()))
            difference = np.abs(together[t][i] - alone[t][i]).max()
            assert difference <= SAME * scale, (i, t)


def test_what_is_done_to_one_object_leaves_the_others_alone(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    """Adding, correcting, prompting afresh and removing, in the frame itself and ever after."""
    first, *others = PROMPTS
    alone = follow(small_nano, noise_frames[:16], {0: [first]})
    busy = {
        0: [first],
        3: others[:2],
        6: [Prompt(2, points=[(5.0, 20.0)], labels=[0], refine=True)],
        9: [Prompt(3, points=[(70.0, 30.0)]), others[2]],
    }
    tracker = PanoTracker(small_nano, TrackerConfig(seed=2, motion_gate_deg=0.0))
    for t, frame in enumerate(noise_frames[:16]):
        if t == 12:
            tracker.remove(2)
        logits = tracker.step(frame, busy.get(t, ())).objects[1].logits
        scale = max(1.0, float(np.abs(logits).max()))
        assert np.abs(logits - alone[t][1]).max() <= SAME * scale, t


def test_a_frame_is_encoded_once_and_equal_histories_run_as_one_batch(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []

    def count(name: str) -> None:
        real = getattr(PanoSAM2, name)

        def counted(self: PanoSAM2, first: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append((name, len(first if isinstance(first, torch.Tensor) else first.top)))
            return real(self, first, *args, **kwargs)

        monkeypatch.setattr(PanoSAM2, name, counted)

    count("encode_image")
    count("condition")
    count("encode_memory")
    tracker = PanoTracker(small_nano, TrackerConfig(view="sphere", remember_hidden=True))
    tracker.step(noise_frames[0], PROMPTS[:3])
    calls.clear()
    tracker.step(noise_frames[1])
    assert calls == [("encode_image", 1), ("condition", 3), ("encode_memory", 3)]
    tracker.step(noise_frames[2], PROMPTS[3:])
    calls.clear()
    tracker.step(noise_frames[3])
    # The fourth has fewer memories than the others, until those are as many as there can be.
    assert sorted(calls) == [
        ("condition", 1), ("condition", 3), ("encode_image", 1),
        ("encode_memory", 1), ("encode_memory", 3),
    ]  # fmt: skip
    for frame in noise_frames[4:30]:
        tracker.step(frame)
    calls.clear()
    tracker.step(noise_frames[30])
    assert calls == [("encode_image", 1), ("condition", 4), ("encode_memory", 4)]
