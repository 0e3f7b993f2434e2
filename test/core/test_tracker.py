"""Laws of the stream: repeatable, bounded, unhurt by bad input, objects independent."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panosam2_core import (
    ConfigError,
    FrameError,
    ObjectState,
    PanoTracker,
    Prompt,
    PromptError,
    TrackerConfig,
    UnknownObjectError,
)
from panosam2_core import frame_step as step_module
from panosam2_core import tracker as tracker_module
from panosam2_core.build import VARIANTS, build_model
from panosam2_core.config import PROMPT_VIEWS
from panosam2_core.errors import SnapshotError
from panosam2_core.model import PanoSAM2

Frames = list[npt.NDArray[np.uint8]]
POINT = Prompt(1, points=[(40.0, 30.0)], label="thing")
BOX = Prompt(2, box=(120.0, 10.0, 140.0, 40.0))  # across the seam
MASK = np.zeros((64, 128), bool)
MASK[20:40, 60:80] = True


def run(
    tracker: PanoTracker, frames: Frames, prompts: dict[int, list[Prompt]]
) -> list[dict[int, Any]]:
    return [
        dict(tracker.step(frame, prompts.get(t, [])).objects) for t, frame in enumerate(frames)
    ]


def logits_of(results: list[dict[int, Any]], object_id: int) -> npt.NDArray[np.float32]:
    return np.stack([objects[object_id].logits for objects in results if object_id in objects])


def panorama(**changes: Any) -> TrackerConfig:
    """The whole frame always, and SAM2's rule that every frame is believed and remembered."""
    rules: dict[str, Any] = {"view": "sphere", "least_score": 0.0, "most_growth": 0.0}
    rules["remember_hidden"] = True
    return TrackerConfig(**rules, **changes)


def test_the_same_clip_streamed_twice_gives_the_same_masks(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    prompts = {0: [POINT, BOX], 3: [Prompt(7, mask=MASK)]}
    tracker = PanoTracker(small_nano)
    first = run(tracker, noise_frames[:14], prompts)
    tracker.reset()
    again = run(tracker, noise_frames[:14], prompts)
    for object_id in (1, 2, 7):
        assert np.array_equal(logits_of(first, object_id), logits_of(again, object_id))


def test_seeded_draws_repeat_and_other_seeds_differ(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def logits(seed: int) -> npt.NDArray[np.float32]:
        tracker = PanoTracker(small_nano, panorama(seed=seed))
        return logits_of(run(tracker, noise_frames[:20], {0: [POINT]}), 1)

    assert np.array_equal(logits(3), logits(3))
    assert not np.array_equal(logits(3), logits(4))


def test_draws_of_one_object_do_not_hang_on_the_others(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def drawn(*first: Prompt) -> list[tuple[int, ...]]:
        tracker = PanoTracker(small_nano, panorama(seed=3))
        results = run(tracker, noise_frames[:20], {0: [*first, POINT]})
        return [objects[1].long_term_frames for objects in results]

    alone = drawn()
    assert alone == drawn(BOX)
    assert not any(alone[:7])
    for now, frames in enumerate(alone[9:], start=9):
        assert len(frames) == 2
        assert sorted(set(frames)) == list(frames)
        assert frames[-1] <= now - 7, "drawn frames lie outside the short window"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_as_many_long_term_frames_are_drawn_as_asked_for(
    small_nano: PanoSAM2, noise_frames: Frames, count: int
) -> None:
    config = panorama(long_frames=count, long_spacing=2)
    last = run(PanoTracker(small_nano, config), noise_frames[:20], {0: [POINT]})[-1]
    assert len(last[1].long_term_frames) == count


def test_long_memory_changes_the_stream_only_after_the_short_window(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    on = logits_of(run(PanoTracker(small_nano, panorama()), noise_frames[:12], {0: [POINT]}), 1)
    off_tracker = PanoTracker(small_nano, panorama(long_frames=0))
    off = logits_of(run(off_tracker, noise_frames[:12], {0: [POINT]}), 1)
    # Frame 0 is remembered as prompted; frame 1 is the first that can be a long-term one.
    assert np.array_equal(on[:8], off[:8])
    assert not np.array_equal(on[8], off[8])


@pytest.mark.parametrize("kept", [1, 3])
def test_fewer_recent_frames_count_from_when_more_would_be_there(
    small_nano: PanoSAM2, noise_frames: Frames, kept: int
) -> None:
    few_tracker = PanoTracker(small_nano, panorama(short_frames=kept, long_frames=0))
    few = logits_of(run(few_tracker, noise_frames[:9], {0: [POINT]}), 1)
    six_tracker = PanoTracker(small_nano, panorama(long_frames=0))
    six = logits_of(run(six_tracker, noise_frames[:9], {0: [POINT]}), 1)
    # Frame 0 is remembered as prompted; frame n sees the n - 1 frames in between.
    assert np.array_equal(few[: kept + 2], six[: kept + 2])
    assert not np.array_equal(few[kept + 2], six[kept + 2])
    assert few_tracker.state_bytes() < six_tracker.state_bytes()


def test_more_recent_frames_than_the_network_knows_are_refused(small_nano: PanoSAM2) -> None:
    with pytest.raises(ConfigError, match=r"short_frames must be in \[1, 6\], got 7"):
        PanoTracker(small_nano, TrackerConfig(short_frames=7))


def test_clicks_on_both_sides_of_the_seam_belong_together(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    """Rolled to where there is no seam, the same clicks give the same mask."""
    shift = 64
    for view in PROMPT_VIEWS:
        config = TrackerConfig(prompt_view=view)
        clicks = [(3.0, 30.0), (125.0, 34.0)]
        here = PanoTracker(small_nano, config).step(noise_frames[0], [Prompt(1, points=clicks)])
        moved = [((u + shift) % 128, v) for u, v in clicks]
        there = PanoTracker(small_nano, config).step(
            np.roll(noise_frames[0], shift, axis=1), [Prompt(1, points=moved)]
        )
        expected = np.roll(here.objects[1].logits, shift // 4, axis=-1)
        actual = there.objects[1].logits
        assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max(), view


def test_prompts_across_the_seam_also_work_with_absolute_codes(noise_frames: Frames) -> None:
    """Those of SAM2's own weights: the code is centred on what lies across the seam."""
    torch.manual_seed(0)
    config = dataclasses.replace(VARIANTS["nano"], input_size=(64, 128), yaw_true=False)
    model = build_model(config).eval().requires_grad_(False)
    settings = TrackerConfig(prompt_view="sphere", motion_gate_deg=0.0)
    shift = 64
    rolled = np.roll(noise_frames[0], shift, axis=1)
    for across, inside in (
        (Prompt(1, box=(120, 10, 140, 40)), Prompt(1, box=(56, 10, 76, 40))),
        (Prompt(1, points=[(125, 20), (6, 22)]), Prompt(1, points=[(61, 20), (70, 22)])),
    ):
        here = PanoTracker(model, settings).step(noise_frames[0], [across]).objects[1].logits
        there = PanoTracker(model, settings).step(rolled, [inside]).objects[1].logits
        expected = np.roll(there, -shift // 4, axis=-1)
        assert np.abs(here - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_stages_of_a_step_add_up_to_it(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checks of its input until it is remembered; what is in no stage is told, too."""
    ticks = itertools.count()
    monkeypatch.setattr(step_module.time, "perf_counter", lambda: next(ticks))
    tracker = PanoTracker(small_nano, TrackerConfig())
    for owner, name in ((tracker_module, "_check_frame"), (tracker, "_commit")):
        held = getattr(owner, name)

        def long(*args: Any, held: Any = held) -> Any:  # a hundred seconds more
            for _ in range(100):
                next(ticks)
            return held(*args)

        monkeypatch.setattr(owner, name, long)
    for prompts in ([POINT, BOX], [], []):
        begin = next(ticks) + 1
        stages = tracker.step(noise_frames[0], prompts).stage_ms
        assert min(stages.values()) >= 0
        assert 200e3 <= stages["other"] < 250e3
        assert sum(stages.values()) == 1e3 * (next(ticks) - 1 - begin)


def test_the_last_mask_guides_the_next_frame(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    tracker = PanoTracker(small_nano, panorama())
    tracker.step(noise_frames[0], [Prompt(1, mask=MASK)])
    state = tracker.snapshot()
    guided = tracker.step(noise_frames[1]).objects[1].logits
    tracker.restore(state)
    small_nano.switch_off("previous_mask")
    try:
        alone = tracker.step(noise_frames[1]).objects[1].logits
    finally:
        small_nano.config = dataclasses.replace(small_nano.config, previous_mask=True)
    assert not np.allclose(guided, alone, atol=1e-3)


def test_both_forms_of_pseudo_frames_track(noise_frames: Frames) -> None:
    logits = {}
    for form in ("long", "short"):
        torch.manual_seed(0)
        config = dataclasses.replace(VARIANTS["nano"], input_size=(64, 128), pseudo_frames=form)
        model = build_model(config).eval().requires_grad_(False)
        torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)
        found = run(PanoTracker(model, panorama()), noise_frames[:12], {0: [POINT]})
        assert found[-1][1].long_term_frames
        logits[form] = logits_of(found, 1)
    assert np.array_equal(logits["long"][:8], logits["short"][:8])
    assert not np.allclose(logits["long"][8:], logits["short"][8:])


def test_rolling_the_video_rolls_the_masks(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    """End to end: nano cannot tell where the seam is.

    Maps are kept in single precision here; rounding them to half turns differences of 1e-7 into
    ones of 1e-3, which says nothing about the seam.
    """
    shift = 64
    config = TrackerConfig(half_maps=False)
    prompts = {0: [Prompt(1, points=[(40.0, 30.0)]), Prompt(7, mask=MASK)]}
    prompts[0].append(Prompt(3, box=(100.0, 10.0, 120.0, 40.0)))
    rolled_prompts = {
        0: [
            Prompt(1, points=[(40.0 + shift, 30.0)]),
            Prompt(7, mask=np.roll(MASK, shift, 1)),
            Prompt(3, box=(36.0, 10.0, 56.0, 40.0)),
        ]
    }

    def enlarge(prompt: Prompt) -> Prompt:
        """The same prompt on frames twice as large: they are shrunk before the network."""
        box = tuple(2 * v for v in prompt.box) if prompt.box else None
        mask = None if prompt.mask is None else np.kron(prompt.mask, np.ones((2, 2), bool))
        points = [(2 * u, 2 * v) for u, v in prompt.points]
        return Prompt(prompt.object_id, points=points, box=box, mask=mask)

    generator = np.random.default_rng(7)
    frames = [
        generator.integers(0, 255, (128, 256, 3), dtype=np.uint8) // 2
        + np.kron(frame // 2, np.ones((2, 2, 1), np.uint8))
        for frame in noise_frames[:12]
    ]
    prompts = {0: [enlarge(p) for p in prompts[0]]}
    rolled_prompts = {0: [enlarge(p) for p in rolled_prompts[0]]}
    plain = run(PanoTracker(small_nano, config), frames, prompts)
    rolled_frames = [np.roll(frame, 2 * shift, axis=1) for frame in frames]
    rolled = run(PanoTracker(small_nano, config), rolled_frames, rolled_prompts)
    for object_id in (1, 3, 7):
        expected = np.roll(logits_of(plain, object_id), shift // 4, axis=-1)
        actual = logits_of(rolled, object_id)
        assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_state_is_flat_from_frame_20_to_frame_500(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, panorama())
    tracker.step(noise_frames[0], [POINT, Prompt(7, mask=MASK)])
    sizes = []
    for t in range(1, 500):
        tracker.step(noise_frames[t % 40])
        sizes.append(tracker.state_bytes())
    assert sizes[5] < sizes[19], "the bank must fill first, else flat means nothing"
    assert len(set(sizes[19:])) == 1


def test_an_object_can_be_prompted_on_several_frames_in_a_row(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, panorama())
    for t in range(20):
        prompted = t == 0 or 8 <= t < 16
        result = tracker.step(noise_frames[t], [POINT] if prompted else [])
        ages = [t - m.frame for m in tracker._tracks[1].memory.recent]
        assert all(age < small_nano.num_maskmem - 1 for age in ages)
    assert np.isfinite(result.objects[1].logits).all()


def test_the_smallest_mask_stays_small(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    large = np.repeat(np.repeat(noise_frames[0], 8, axis=0), 8, axis=1)
    tiny = np.zeros(large.shape[:2], bool)
    tiny[100:103, 200:203] = True
    result = PanoTracker(small_nano).step(large, [Prompt(1, mask=tiny)]).objects[1]
    assert 0 < result.area_px < 4000, "a cell of the decoded mask is 32x32 pixels here"
    rows, columns = result.mask.nonzero()
    far = max(abs(rows.mean() - 101), abs(columns.mean() - 201))
    assert far <= 16, "the middle of the cell that holds the mask, wherever cells begin"


def test_a_failure_inside_a_step_leaves_no_half_made_object(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [BOX])

    def fail(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(type(small_nano), "encode_memory", fail)
        with pytest.raises(MemoryError):
            tracker.step(noise_frames[1], [POINT])
    assert set(tracker.step(noise_frames[2]).objects) == {2}


def test_objects_do_not_influence_one_another(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    alone = run(PanoTracker(small_nano), noise_frames[:10], {0: [POINT]})
    prompts = {0: [POINT, BOX], 4: [Prompt(7, mask=MASK)], 6: [Prompt(2, mask=MASK)]}
    tracker = PanoTracker(small_nano)
    together = run(tracker, noise_frames[:10], prompts)
    np.testing.assert_allclose(logits_of(together, 1), logits_of(alone, 1), atol=1e-3, rtol=0)
    late = run(PanoTracker(small_nano), noise_frames[:10], {4: [Prompt(7, mask=MASK)]})
    np.testing.assert_allclose(logits_of(together, 7), logits_of(late, 7), atol=1e-3, rtol=0)


def test_add_remove_and_reset_at_any_time(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    tracker = PanoTracker(small_nano)
    assert tracker.step(noise_frames[0]).objects == {}
    tracker.step(noise_frames[1], [POINT])
    result = tracker.step(noise_frames[2], [BOX])
    assert tracker.object_ids == (1, 2)
    assert (result.objects[1].age, result.objects[2].age) == (1, 0)
    assert result.objects[1].label == "thing"
    tracker.remove(1)
    assert set(tracker.step(noise_frames[3]).objects) == {2}
    with pytest.raises(UnknownObjectError, match="object 1 is not tracked .tracked ids: 2"):
        tracker.remove(1)
    tracker.reset()
    assert tracker.object_ids == ()
    assert tracker.state_bytes() == 0
    assert tracker.step(noise_frames[4]).frame_index == 0


def test_a_correction_reads_memory_and_mask_and_leaves_the_others_alone(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    clicks = {"points": [(60.0, 30.0), (90.0, 40.0)], "labels": [1, 0]}

    def fifth(prompt: Prompt | None) -> tuple[dict[int, Any], ...]:
        tracker = PanoTracker(small_nano, panorama())
        prompts = {0: [POINT, BOX], 5: [prompt] if prompt else []}
        return tuple(run(tracker, noise_frames[:9], prompts)[i] for i in (5, 8))

    untouched, afresh = fifth(None), fifth(Prompt(1, **clicks))
    corrected = fifth(Prompt(1, **clicks, refine=True))
    for other in (untouched, afresh):
        change = np.abs(corrected[0][1].logits - other[0][1].logits).max()
        assert change > 0.1
        assert not np.array_equal(corrected[1][1].logits, other[1][1].logits)
        np.testing.assert_allclose(corrected[0][2].logits, other[0][2].logits, atol=1e-3, rtol=0)
    assert corrected[0][1].age == 5


def test_a_correction_may_only_say_what_does_not_belong(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [POINT])
    off = Prompt(1, points=[(30.0, 30.0)], labels=[0], refine=True)
    assert set(tracker.step(noise_frames[1], [off]).objects) == {1}


def test_a_correction_across_the_seam_rolls_with_the_video(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def last(shift: int) -> npt.NDArray[np.float32]:
        def click(u: float, **rest: object) -> Prompt:
            return Prompt(1, points=[((u + shift) % 128, 30.0)], **rest)

        frames = [np.roll(frame, shift, axis=1) for frame in noise_frames[:4]]
        prompts = {0: [click(40.0)], 3: [click(50.0, refine=True)]}
        return run(PanoTracker(small_nano), frames, prompts)[3][1].logits

    rolled = np.roll(last(80), -20, axis=1)  # 80 pixels are 20 logits
    np.testing.assert_allclose(rolled, last(0), atol=1e-2, rtol=0)


def test_partial_panoramas_have_directions_and_edges(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    prompt = Prompt(1, mask=MASK)
    whole = PanoTracker(small_nano).step(noise_frames[0], [prompt]).objects[1]
    part = PanoTracker(small_nano, TrackerConfig(hfov_deg=180.0))
    found = part.step(noise_frames[0], [prompt]).objects[1]
    assert found.lon == pytest.approx(whole.lon / 2, abs=0.05)
    assert np.linalg.norm(found.bearing) == pytest.approx(1.0)
    with pytest.raises(PromptError, match="box must have"):
        part.step(noise_frames[1], [Prompt(2, box=(120.0, 9.0, 140.0, 19.0))])


def test_panoramas_that_do_not_reach_the_poles(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    """Their edges meet; what needs the whole sphere (crops, the motion gate) is left out."""
    prompt = Prompt(1, mask=MASK)
    whole = PanoTracker(small_nano, TrackerConfig(view="sphere", prompt_view="sphere"))
    strip = PanoTracker(small_nano, TrackerConfig(vfov_deg=90.0))
    for index, frame in enumerate(noise_frames[:3]):
        prompts = [] if index else [prompt]
        want = whole.step(frame, prompts).objects[1]
        found = strip.step(frame, prompts).objects[1]
        assert found.view is None
        if not index:
            assert found.lon == pytest.approx(want.lon, abs=0.05)
            assert found.lat == pytest.approx(want.lat / 2, abs=0.05)
    strip.step(noise_frames[3], [Prompt(2, box=(120.0, 9.0, 140.0, 19.0))])  # over the seam


@pytest.mark.parametrize("wrong", [{"vfov_deg": 181.0}, {"vfov_deg": 0.0}, {"middle_lat_deg": 91}])
def test_rows_beyond_a_pole_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="vfov_deg"):
        TrackerConfig(**wrong)
    with pytest.raises(ConfigError, match="beyond a pole"):
        TrackerConfig(vfov_deg=100.0, middle_lat_deg=41.0)


def test_bfloat16_stays_near_float32(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    config = panorama(motion_gate_deg=0.0)  # a gate may tip over by a rounding
    exact = logits_of(run(PanoTracker(small_nano, config), noise_frames[:8], {0: [POINT]}), 1)
    small_nano.precision = torch.bfloat16
    try:
        tracker = PanoTracker(small_nano, config)
        rough = logits_of(run(tracker, noise_frames[:8], {0: [POINT]}), 1)
    finally:
        small_nano.precision = torch.float32
    difference = np.abs(rough - exact).max()
    assert 0 < difference < 0.5 * np.abs(exact).max()


def test_half_precision_shrinks_pictures_in_whole_levels(small_nano: PanoSAM2) -> None:
    picture = torch.randint(0, 256, (1, 3, 160, 320), dtype=torch.uint8)
    exact = small_nano.normalize(picture, pano=True)
    small_nano.precision = torch.bfloat16
    try:
        rough = small_nano.normalize(picture, pano=True)
    finally:
        small_nano.precision = torch.float32
    levels = (rough - exact).abs() * small_nano.pixel_std * 255
    assert 0 < levels.max() < 1.5
    whole = (rough * small_nano.pixel_std + small_nano.pixel_mean) * 255
    torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)


BAD_PROMPTS = [
    (Prompt(1, points=[(3.0, 3.0)], refine=True), "UNKNOWN_ID", "not tracked"),
    (Prompt(1, mask=MASK, refine=True), "BAD_COORDS", "refine"),
    (Prompt(1, points=[(float("nan"), 3.0)]), "BAD_COORDS", "not finite"),
    (Prompt(1, points=[(128.0, 3.0)]), "BAD_COORDS", r"outside the 128x64 image"),
    (Prompt(1, points=[(3.0, -1.0)]), "BAD_COORDS", "outside"),
    (Prompt(1, points=[(3.0, 3.0)], labels=[1, 0]), "BAD_COORDS", "one label per point"),
    (Prompt(1, points=[(3.0, 3.0)], labels=[0]), "BAD_COORDS", "at least one point"),
    (Prompt(1, points=[(3.0, 3.0)], labels=[2]), "BAD_COORDS", "labels must be 0 or 1"),
    (Prompt(1), "BAD_COORDS", "neither"),
    (Prompt(1, points=[(3.0, 3.0)], mask=MASK), "BAD_COORDS", "both"),
    (Prompt(1, box=(3.0, 9.0, 20.0, 9.0)), "BAD_COORDS", "positive width|0 <= y0 < y1"),
    (Prompt(1, box=(3.0, 9.0, 200.0, 19.0)), "BAD_COORDS", "box must have"),
    (Prompt(1, mask=MASK[:-1]), "BAD_MASK", r"\(64, 128\)"),
    (Prompt(1, mask=np.zeros_like(MASK)), "BAD_MASK", "empty"),
    (Prompt(0, points=[(3.0, 3.0)]), "UNKNOWN_ID", "1..65535"),
    (Prompt(65536, points=[(3.0, 3.0)]), "UNKNOWN_ID", "1..65535"),
]


@pytest.mark.parametrize(("prompt", "code", "text"), BAD_PROMPTS)
def test_a_bad_prompt_is_named_and_changes_nothing(
    small_nano: PanoSAM2, noise_frames: Frames, prompt: Prompt, code: str, text: str
) -> None:
    tracker, twin = PanoTracker(small_nano), PanoTracker(small_nano)
    for each in (tracker, twin):
        each.step(noise_frames[0], [BOX])
    with pytest.raises(PromptError, match=text) as caught:
        tracker.step(noise_frames[1], [POINT, prompt] if prompt.object_id != 1 else [prompt])
    assert caught.value.code == code
    ours, theirs = tracker.step(noise_frames[1]), twin.step(noise_frames[1])
    assert set(ours.objects) == {2}
    assert ours.frame_index == theirs.frame_index
    assert np.array_equal(ours.objects[2].logits, theirs.objects[2].logits)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((64, 128), np.uint8),
        np.zeros((64, 128, 4), np.uint8),
        np.zeros((64, 128, 3), np.float32),
        np.zeros((0, 128, 3), np.uint8),
        [[1, 2, 3]],
    ],
    ids=["grey", "rgba", "float", "empty", "list"],
)
def test_a_bad_frame_is_named_and_changes_nothing(
    small_nano: PanoSAM2, noise_frames: Frames, frame: Any
) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [POINT])
    with pytest.raises(FrameError, match="frame must be"):
        tracker.step(frame)
    assert tracker.step(noise_frames[1]).frame_index == 1


def test_too_many_objects_are_refused_before_any_is_added(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, TrackerConfig(max_objects=2))
    prompts = [Prompt(i, points=[(10.0 * i, 30.0)]) for i in (1, 2, 3)]
    with pytest.raises(PromptError) as caught:
        tracker.step(noise_frames[0], prompts)
    assert caught.value.code == "TOO_MANY_OBJECTS"
    assert tracker.object_ids == ()


def test_an_absent_object_is_occluded_then_lost_and_reports_no_place(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano, TrackerConfig(lost_after_frames=3))
    tracker.step(noise_frames[0], [Prompt(7, mask=MASK)])
    head = small_nano.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    try:
        head -= 100
        states = [tracker.step(f).objects[7].state for f in noise_frames[1:6]]
        gone = tracker.step(noise_frames[6])
    finally:
        head += 100
    assert states == [ObjectState.OCCLUDED] * 3 + [ObjectState.LOST] * 2
    result = gone.objects[7]
    assert result.area_px == 0
    assert result.frames_since_seen == 6
    assert not result.mask.any()
    assert not result.bearing.any()
    assert not gone.labels.any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("pano", [False, True])
def test_frames_without_the_object_are_remembered_only_if_asked_for(
    small_nano: PanoSAM2, noise_frames: Frames, pano: bool, keep: bool
) -> None:
    config = TrackerConfig(pano=pano, view="sphere", remember_hidden=keep)
    tracker = PanoTracker(small_nano, config)
    run(tracker, noise_frames[:3], {0: [POINT]})
    memory = tracker._tracks[1].memory
    before, guide = [m.frame for m in memory.recent], memory.previous_mask
    head = small_nano.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    try:
        head -= 100
        hidden = run(tracker, noise_frames[3:8], {})
    finally:
        head += 100
    assert all(objects[1].state is ObjectState.OCCLUDED for objects in hidden)
    after = [m.frame for m in memory.recent]
    assert before == [1, 2]
    assert after == ([2, 3, 4, 5, 6, 7] if keep else before)
    assert (memory.previous_mask is guide) is not keep
    run(tracker, noise_frames[8:9], {})
    # What is not remembered takes no time: ages are those of frames that were taken in.
    assert memory.recent[-1].frame == (8 if keep else 3)


def test_a_mask_prompt_comes_back_as_given_with_its_measures(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    result = PanoTracker(small_nano).step(noise_frames[0], [Prompt(7, mask=MASK)]).objects[7]
    overlap = (result.mask & MASK).sum() / (result.mask | MASK).sum()
    assert overlap > 0.95
    assert result.state is ObjectState.VISIBLE
    assert result.mask_score == 1.0
    assert result.area_px == result.mask.sum()
    # The mask's centre, column 70 of 128, lies right of the middle: negative azimuth.
    assert result.lon == pytest.approx(-(70 / 128 - 0.5) * 2 * np.pi, abs=0.05)
    assert result.lat == pytest.approx((0.5 - 30 / 64) * np.pi, abs=0.05)


def test_label_image_gives_each_pixel_to_the_higher_logit(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano)
    other = np.roll(MASK, 10, axis=1)
    result = tracker.step(noise_frames[0], [Prompt(7, mask=MASK), Prompt(300, mask=other)])
    assert set(np.unique(result.labels)) == {0, 7, 300}
    union = result.objects[7].mask | result.objects[300].mask
    assert np.array_equal(result.labels > 0, union)
    assert result.label_image(np.uint16).dtype == np.uint16
    with pytest.raises(ValueError, match="300"):
        result.label_image(np.uint8)


def test_ordinary_frames_work_without_wrap(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    tracker = PanoTracker(small_nano, TrackerConfig(pano=False))
    with pytest.raises(PromptError):
        tracker.step(noise_frames[0], [BOX])
    result = tracker.step(noise_frames[0], [POINT])
    assert result.objects[1].mask.shape == (64, 128)


def test_any_frame_size_is_resized_and_given_back(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    large = np.repeat(np.repeat(noise_frames[0], 3, axis=0), 3, axis=1)
    result = PanoTracker(small_nano).step(large, [Prompt(1, points=[(300.0, 100.0)])])
    assert result.objects[1].mask.shape == (192, 384)
    assert result.objects[1].logits.shape == (16, 32)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_objects", 0), ("occluded_below", 1.5), ("long_frames", 9), ("short_frames", 0)],
)
def test_config_values_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(TrackerConfig(), **{field: value})


@pytest.mark.parametrize(
    "values", [{"seed": -1}, {"mask_threshold": float("nan")}, {"mask_threshold": float("inf")}]
)
def test_settings_that_fail_later_are_refused_now(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        TrackerConfig(**values)


def test_no_gradient_or_autograd_state_is_kept(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [POINT])
    tracker.step(noise_frames[1])
    tensors = [t for track in tracker._tracks.values() for t in track.memory.tensors()]
    assert tensors
    assert not any(t.requires_grad for t in tensors)
    assert torch.is_grad_enabled()


def test_a_restored_tracker_goes_on_as_if_nothing_had_been(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    config = TrackerConfig(seed=3)  # draws are part of the state
    tracker, other = PanoTracker(small_nano, config), PanoTracker(small_nano, config)
    run(tracker, noise_frames[:12], {0: [POINT], 2: [BOX]})
    assert other.restore(tracker.snapshot()) == 12
    assert other.object_ids == tracker.object_ids == (1, 2)
    assert other.state_bytes() == tracker.state_bytes()
    ahead, again = (run(each, noise_frames[12:24], {}) for each in (tracker, other))
    for object_id in (1, 2):
        assert np.array_equal(logits_of(ahead, object_id), logits_of(again, object_id))
    assert again[-1][1].age == 23


ODD_PROMPTS = {
    "box far to the left": (Prompt(1, box=(100, 5, -10_000, 60)), "BAD_COORDS"),
    "box to the left": (Prompt(1, box=(100, 5, -50, 60)), "BAD_COORDS"),
    "half an id": (Prompt(1.5, points=[(4.0, 4.0)]), "UNKNOWN_ID"),
    "no id": (Prompt(True, points=[(4.0, 4.0)]), "UNKNOWN_ID"),
    "a word": (Prompt(1, points=[("a", 4.0)]), "BAD_COORDS"),
    "no labels": (Prompt(1, points=[(4.0, 4.0)], labels=None), "BAD_COORDS"),
    "bare numbers": (Prompt(1, points=[4.0, 4.0]), "BAD_COORDS"),
    "a mask of NaN": (Prompt(1, mask=np.full((64, 128), np.nan)), "BAD_MASK"),
}


@pytest.mark.parametrize("case", ODD_PROMPTS)
def test_what_is_no_prompt_is_refused(
    small_nano: PanoSAM2, noise_frames: Frames, case: str
) -> None:
    prompt, code = ODD_PROMPTS[case]
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [BOX])
    before = tracker.snapshot()
    with pytest.raises(PromptError) as refused:
        tracker.step(noise_frames[1], [prompt])
    assert refused.value.code == code
    assert tracker.snapshot() == before


def test_a_box_may_end_at_the_seam(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    """x1 = 0 and x1 = width are the same place."""
    found = [
        PanoTracker(small_nano).step(noise_frames[0], [Prompt(1, box=(100, 5, x1, 60))])
        for x1 in (0, 128)
    ]
    assert np.array_equal(found[0].objects[1].logits, found[1].objects[1].logits)


def test_ids_of_numpy_are_plain_numbers_afterwards(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [dataclasses.replace(POINT, object_id=np.uint16(3))])
    assert [type(i) for i in tracker.object_ids] == [int]
    PanoTracker(small_nano).restore(tracker.snapshot())


def test_what_is_counted_is_what_is_held(small_nano: PanoSAM2, noise_frames: Frames) -> None:
    """No object keeps alive what was another's."""
    tracker = PanoTracker(small_nano)
    many = [dataclasses.replace(POINT, object_id=i) for i in range(1, 7)]
    for t, frame in enumerate(noise_frames[:4]):
        tracker.step(frame, many if t == 0 else [])
    for i in range(2, 7):
        tracker.remove(i)
    tensors = tracker._tracks[1].tensors()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) == tracker.state_bytes()


@pytest.mark.parametrize("held", [{}, {"tracks": "x"}, {"tracks": {1: 2}}, {"next_frame": "7"}])
def test_a_state_of_another_kind_is_refused(
    small_nano: PanoSAM2, noise_frames: Frames, held: dict[str, Any]
) -> None:
    tracker = PanoTracker(small_nano)
    tracker.step(noise_frames[0], [POINT])
    good = torch.load(io.BytesIO(tracker.snapshot()), weights_only=False)
    before = tracker.snapshot()
    bad = {**good, **held} if held else {"next_frame": 0, "tracks": {}}
    file = io.BytesIO()
    torch.save(bad, file)
    with pytest.raises(SnapshotError):
        tracker.restore(file.getvalue())
    for other in (TrackerConfig(long_capacity=7),):
        with pytest.raises(SnapshotError, match="the saved state is of"):
            PanoTracker(small_nano, other).restore(before)
    small_nano.set_input_size((96, 192))
    try:
        with pytest.raises(SnapshotError, match="the saved state is of"):
            tracker.restore(before)
    finally:
        small_nano.set_input_size((64, 128))
    assert tracker.snapshot() == before


def test_a_snapshot_that_is_none_changes_nothing(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    tracker, code = PanoTracker(small_nano), io.BytesIO()
    run(tracker, noise_frames[:2], {0: [POINT]})
    torch.save((0, os.system, {}), code)
    for damaged in (b"", tracker.snapshot()[:1000], code.getvalue()):
        with pytest.raises(SnapshotError, match="cannot be read"):
            tracker.restore(damaged)
    assert tracker.object_ids == (1,)
    assert tracker.step(noise_frames[2]).frame_index == 2


@pytest.mark.parametrize(
    "broken", ["observe", "propagate", "prompt_points", "measure", "outlook_after"]
)
def test_a_step_that_fails_half_way_changes_nothing(
    small_nano: PanoSAM2, noise_frames: Frames, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Out of memory on the last of three objects: the next frame goes on as if it never was."""

    def prompts(t: int) -> list[Prompt]:
        return [Prompt(t + 1, points=[(40.0 * t + 20, 30.0)])] if t < 3 else []

    def run(fail: bool) -> list[npt.NDArray[np.float32]]:
        tracker = PanoTracker(small_nano, TrackerConfig(long_capacity=4))  # rows are reused
        logits = []
        for t, frame in enumerate(noise_frames[:12]):
            if fail and (t == 2 or t > 9):
                before = tracker.snapshot()
                with monkeypatch.context() as patch:
                    where = tracker_module if hasattr(tracker_module, broken) else step_module
                    patch.setattr(where, broken, failing(where, broken))
                    with pytest.raises(MemoryError, match="no more"):
                        tracker.step(frame, [*prompts(t), Prompt(9, points=[(100.0, 20.0)])])
                assert tracker.snapshot() == before
            result = tracker.step(frame, prompts(t))
            logits += [found.logits for found in result.objects.values()]
        return logits

    def failing(where: ModuleType, name: str):
        real, calls = getattr(where, name), []

        def fails_the_second_time(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) == least[name]:
                raise MemoryError("no more")
            return real(*args, **kwargs)

        return fails_the_second_time

    least = {"observe": 2, "propagate": 1, "prompt_points": 1, "measure": 2, "outlook_after": 2}
    for wanted, got in zip(run(fail=False), run(fail=True), strict=True):
        np.testing.assert_array_equal(got, wanted)
