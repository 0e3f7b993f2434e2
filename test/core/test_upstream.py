"""With the pano switches off and SAM2's weights, our stream is SAM2's video predictor.

The weights are random but stored in Meta's file format, so this also proves that a real SAM2.1
checkpoint loads with every tensor in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor
from upstream import (
    FRAMES,
    SIZE,
    TOLERANCE,
    Frames,
    ask,
    build_predictor,
    logits_in,
    make_video,
    our_logits,
    save_checkpoint,
    track_to,
    upstream_logits,
)

from panosam2_core import CheckpointError, PanoTracker, Prompt, TrackerConfig, load_model
from panosam2_core.model import PanoSAM2
from panosam2_core.official import official_file


@pytest.fixture(scope="module")
def predictor() -> SAM2VideoPredictor:
    return build_predictor("hiera_t")


@pytest.fixture(scope="module")
def checkpoint(predictor: SAM2VideoPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(predictor, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Frames]:
    """A folder of JPEG files as the predictor reads them, and the same frames decoded."""
    folder = tmp_path_factory.mktemp("video")
    return folder, make_video(folder)


def check_equal(actual: list[Any], expected: list[Any]) -> None:
    spread = [float(logits.std(axis=(1, 2)).min()) for logits in expected]
    assert min(spread) > 1e-3, "the logits are constant; equality would mean nothing"
    difference = [float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True)]
    assert max(difference) <= TOLERANCE, difference


# SAM2 counts pixel centres as whole numbers, we count pixel corners: half a pixel apart.
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"points": [[120, 100], [30, 40]], "labels": [1, 0]},
            Prompt(1, points=[(120.5, 100.5), (30.5, 40.5)], labels=[1, 0]),
        ),
        ({"points": [[120, 100]], "labels": [1]}, Prompt(1, points=[(120.5, 100.5)])),
        ({"box": [60, 50, 180, 170]}, Prompt(1, box=(60.5, 50.5, 180.5, 170.5))),
    ],
    ids=["two points", "one point", "box"],
)
def test_stream_equals_the_video_predictor(
    predictor: SAM2VideoPredictor,
    checkpoint: Path,
    video: tuple[Path, Frames],
    theirs: dict[str, Any],
    ours: Prompt,
) -> None:
    folder, frames = video
    expected = upstream_logits(predictor, folder, theirs)
    check_equal(our_logits(checkpoint, frames, ours), expected)


@pytest.mark.slow
def test_objects_of_every_kind_equal_the_video_predictor(
    predictor: SAM2VideoPredictor, checkpoint: Path, video: tuple[Path, Frames]
) -> None:
    """Upstream runs them one after the other, we run them as one batch."""
    folder, frames = video
    mask = np.zeros((SIZE, SIZE), bool)
    mask[30:120, 140:230] = True
    expected = upstream_logits(
        predictor,
        folder,
        {"points": [[120, 100]], "labels": [1]},
        {"box": [20, 150, 90, 240], "points": [[40, 200]], "labels": [0]},
        {"mask": mask},
    )
    ours = (
        Prompt(1, points=[(120.5, 100.5)]),
        Prompt(2, points=[(40.5, 200.5)], labels=[0], box=(20.5, 150.5, 90.5, 240.5)),
        Prompt(3, mask=mask),
    )
    check_equal(our_logits(checkpoint, frames, *ours), expected)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        apart = min(float(np.abs(logits[first] - logits[second]).max()) for logits in expected)
        assert apart > 100 * TOLERANCE, "two of the objects are the same"


def test_a_prompt_on_a_later_frame_equals_the_video_predictor(
    predictor: SAM2VideoPredictor, checkpoint: Path, video: tuple[Path, Frames]
) -> None:
    """A known object is prompted on a frame that it was not tracked to."""
    folder, frames = video
    again = 9
    state = predictor.init_state(str(folder))
    ask(predictor, state, 0, obj_id=1, points=[[120, 100]], labels=[1])
    track_to(predictor, state, 0, again - 1)
    ask(predictor, state, again, obj_id=1, box=[60, 50, 180, 170])
    track_to(predictor, state, again, FRAMES - 1)
    later = {again: Prompt(1, box=(60.5, 50.5, 180.5, 170.5))}
    ours = our_logits(checkpoint, frames, Prompt(1, points=[(120.5, 100.5)]), later=later)
    check_equal(ours, logits_in(state, FRAMES))


@pytest.mark.parametrize(
    ("points", "labels"),
    [([[40, 190]], [1]), ([[120, 100], [200, 60]], [0, 1])],
    ids=["one click", "two clicks"],
)
def test_a_correction_equals_the_video_predictor(
    predictor: SAM2VideoPredictor,
    checkpoint: Path,
    video: tuple[Path, Frames],
    monkeypatch: pytest.MonkeyPatch,
    points: list[list[float]],
    labels: list[int],
) -> None:
    """Clicks on a tracked frame; both keep that frame as one that the user spoke about."""
    folder, frames = video
    at = 8
    monkeypatch.setattr(predictor, "add_all_frames_to_correct_as_cond", True)
    state = predictor.init_state(str(folder))
    ask(predictor, state, 0, obj_id=1, points=[[120, 100]], labels=[1])
    track_to(predictor, state, 0, at)
    before = logits_in(state, at + 1)[at]
    ask(predictor, state, at, obj_id=1, points=points, labels=labels)
    track_to(predictor, state, at, FRAMES - 1)
    expected = logits_in(state, FRAMES)
    assert np.abs(expected[at] - before).max() > 100 * TOLERANCE, "the clicks changed nothing"
    clicks = [(u + 0.5, v + 0.5) for u, v in points]
    later = {at: Prompt(1, points=clicks, labels=labels, refine=True)}
    ours = our_logits(checkpoint, frames, Prompt(1, points=[(120.5, 100.5)]), later=later)
    check_equal(ours, expected)


@pytest.mark.slow
def test_an_object_that_comes_and_goes_equals_the_video_predictor(
    checkpoint: Path, video: tuple[Path, Frames], tmp_path: Path
) -> None:
    folder, frames = video

    def follow() -> dict[str, Any]:
        state = predictor.init_state(str(folder))
        ask(predictor, state, 0, obj_id=1, points=[[120, 100]], labels=[1])
        track_to(predictor, state, 0, FRAMES - 1)
        return state

    predictor = build_predictor("hiera_t")
    last = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1]
    low = np.quantile(object_scores(follow())[1:], 0.02)
    with torch.no_grad():  # random scores differ little: spread them, about zero
        last.bias.copy_((last.bias - low) * 1000)
        last.weight.mul_(1000)
    state = follow()
    hidden = [score <= 0 for score in object_scores(state)]
    assert 3 <= sum(hidden) <= FRAMES - 3, "the object is always or never there"
    assert hidden.index(True) < FRAMES - hidden[::-1].index(False), "it never comes back"
    path = tmp_path / "comes_and_goes.pt"
    torch.save({"model": predictor.state_dict()}, path)
    model = load_model(
        "hiera_t",
        checkpoint=path,
        device="cpu",
        input_size=(SIZE, SIZE),
        precision="float32",
    )
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0, remember_hidden=True))
    for t, (frame, theirs) in enumerate(zip(frames, logits_in(state, FRAMES), strict=True)):
        prompts = [Prompt(1, points=[(120.5, 100.5)])] if t == 0 else ()
        ours = tracker.step(frame, prompts).objects[1]
        assert (ours.visibility_logit <= 0) == hidden[t]
        if hidden[t]:  # upstream's logits are all -1024 then; ours are what the decoder saw
            assert (theirs == -1024).all()
            assert not ours.mask.any()
        else:
            assert np.abs(ours.logits - theirs[0]).max() <= TOLERANCE


def object_scores(state: dict[str, Any]) -> list[float]:
    outputs = state["output_dict_per_obj"][0]
    merged = outputs["non_cond_frame_outputs"] | outputs["cond_frame_outputs"]
    return [float(merged[t]["object_score_logits"]) for t in sorted(merged)]


def test_bfloat16_deviates_no_more_than_upstream_does(
    predictor: SAM2VideoPredictor,
    checkpoint: Path,
    video: tuple[Path, Frames],
    expected: list[Any],
) -> None:
    folder, frames = video
    with torch.autocast("cpu", torch.bfloat16):
        theirs = upstream_logits(predictor, folder, {"points": [[120, 100]], "labels": [1]})
    click = Prompt(1, points=[(120.5, 100.5)])
    ours = our_logits(checkpoint, frames, click, precision="bfloat16")

    def deviation(logits: list[Any]) -> float:
        # Of all pixels and frames: a maximum is decided by one pixel, and differs between runs
        # of the same arithmetic in another order.
        return float(np.sqrt(np.mean((np.stack(logits) - np.stack(expected)) ** 2)))

    assert deviation(theirs) > 100 * TOLERANCE, "that was not bfloat16"
    assert deviation(ours) <= 1.2 * deviation(theirs)


@pytest.mark.slow
def test_sam_2_0_equals_the_video_predictor(video: tuple[Path, Frames], tmp_path: Path) -> None:
    """The file alone says that its pointers have no time codes."""
    folder, frames = video
    older = build_predictor("hiera_t", "sam2")
    path = tmp_path / "sam2_hiera_tiny.pt"
    torch.save({"model": older.state_dict()}, path)
    expected = upstream_logits(older, folder, {"points": [[120, 100]], "labels": [1]})
    check_equal(our_logits(path, frames, Prompt(1, points=[(120.5, 100.5)])), expected)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hiera_s", "hiera_b+", "hiera_l"])
def test_the_larger_variants_equal_the_video_predictor(
    variant: str, video: tuple[Path, Frames], tmp_path: Path
) -> None:
    """Every kind of prompt at once, and a second one for one of the three on a later frame."""
    folder, frames = video
    again = 9
    larger = build_predictor(variant)
    path = tmp_path / "weights.pt"
    torch.save({"model": larger.state_dict()}, path)
    assert sum(p.numel() for p in larger.parameters()) == official_file(variant).parameters
    mask = np.zeros((SIZE, SIZE), bool)
    mask[30:120, 140:230] = True
    state = larger.init_state(str(folder))
    ask(larger, state, 0, obj_id=1, points=[[120, 100]], labels=[1])
    ask(larger, state, 0, obj_id=2, box=[20, 150, 90, 240], points=[[40, 200]], labels=[0])
    ask(larger, state, 0, obj_id=3, mask=mask)
    track_to(larger, state, 0, again - 1)
    ask(larger, state, again, obj_id=1, box=[60, 50, 180, 170])
    track_to(larger, state, again, FRAMES - 1)
    ours = (
        Prompt(1, points=[(120.5, 100.5)]),
        Prompt(2, points=[(40.5, 200.5)], labels=[0], box=(20.5, 150.5, 90.5, 240.5)),
        Prompt(3, mask=mask),
    )
    later = {again: Prompt(1, box=(60.5, 50.5, 180.5, 170.5))}
    got = our_logits(path, frames, *ours, later=later, variant=variant)
    check_equal(got, logits_in(state, FRAMES))
    with pytest.raises(CheckpointError, match=re.escape(f"holds {variant!r}, expected 'hiera_t'")):
        load_model("hiera_t", checkpoint=path, device="cpu", input_size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def expected(predictor: SAM2VideoPredictor, video: tuple[Path, Frames]) -> list[Any]:
    """Upstream's logits after one click."""
    return upstream_logits(predictor, video[0], {"points": [[120, 100]], "labels": [1]})


def fewer_memories(model: PanoSAM2) -> None:
    model.num_maskmem = 6  # of which one is the prompted frame's


def fewer_pointers(model: PanoSAM2) -> None:
    model.max_obj_ptrs_in_encoder = 14


def reversed_time(model: PanoSAM2) -> None:
    model.maskmem_tpos_enc.data = model.maskmem_tpos_enc.flip(0)


@pytest.mark.parametrize("fault", [fewer_memories, fewer_pointers, reversed_time])
def test_the_comparison_notices_a_fault(
    expected: list[Any],
    checkpoint: Path,
    video: tuple[Path, Frames],
    fault: Callable[[PanoSAM2], None],
) -> None:
    frames = video[1]
    model = load_model(
        "hiera_t",
        checkpoint=checkpoint,
        device="cpu",
        input_size=(SIZE, SIZE),
        precision="float32",
    )
    fault(model)
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0, remember_hidden=True))
    prompt = Prompt(1, points=[(120.5, 100.5)])
    difference = 0.0
    for t, frame in enumerate(frames):
        logits = tracker.step(frame, [prompt] if t == 0 else ()).objects[1].logits
        difference = max(difference, float(np.abs(logits - expected[t][0]).max()))
        if difference > TOLERANCE:
            return
    pytest.fail("the fault changed nothing: the comparison is blind")


def test_a_checkpoint_with_a_missing_tensor_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    del state["no_mem_embed"]
    broken = tmp_path / "broken.pt"
    torch.save({"model": state}, broken)
    with pytest.raises(CheckpointError, match="no_mem_embed"):
        load_model("hiera_t", checkpoint=broken, device="cpu", input_size=(SIZE, SIZE))
