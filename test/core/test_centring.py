"""The panorama is turned so that its objects are off its edges, and nobody can tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core import PanoTracker, Prompt, TrackerConfig
from panosam2_core.centring import NEAR, Span, clearance, dark_edge, free_edge, least_step, move
from panosam2_core.charts import WholeFrame
from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.model import PanoSAM2, PointPrompts

FRAMES = np.random.default_rng(3).integers(128, 170, (12, 16, 32, 3), dtype=np.uint8)
NOISE = [np.kron(frame, np.ones((8, 8, 1), np.uint8)) for frame in FRAMES]
WIDTH = NOISE[0].shape[1]

spans = st.integers(4, 90).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(
            st.tuples(st.integers(0, width - 1), st.integers(1, width)), min_size=1, max_size=4
        ),
    )
)


def occupied(taken: list[Span], width: int) -> npt.NDArray[np.bool_]:
    columns = np.zeros(width, bool)
    for start, count in taken:
        columns[np.arange(start, start + count) % width] = True
    return columns


def distance(edge: int, taken: list[Span], width: int) -> int:
    """Columns to the left and right of an edge that are free, counted one by one."""
    columns = np.roll(occupied(taken, width), -edge)
    if columns[0] and columns[-1]:
        return 0
    return min(int(columns.argmax()), int(columns[::-1].argmax()))


@given(spans)
def test_no_edge_is_farther_from_all_objects(case: tuple[int, list[Span]]) -> None:
    width, taken = case
    edge, room = free_edge(taken, width)
    best = max(distance(e, taken, width) for e in range(width))
    assert room == best
    assert distance(edge, taken, width) == room


@given(spans, st.integers(0, 89))
def test_clearance_counts_free_columns(case: tuple[int, list[Span]], edge: int) -> None:
    width, taken = case
    assert clearance(edge % width, taken, width) == distance(edge % width, taken, width)


@given(spans, st.integers(0, 89), st.integers(0, 89), st.sampled_from([1, 2, 5]))
def test_a_turn_does_not_depend_on_where_the_columns_begin(
    case: tuple[int, list[Span]], edge: int, roll: int, step: int
) -> None:
    width, taken = case
    width, step = width * step, step
    rolled = [((start + roll) % width, count) for start, count in taken]
    one = move(edge % width, taken, width, step)
    assert one == move((edge + roll) % width, rolled, width, step)
    assert one % step == 0
    (here, room), (there, _) = free_edge(taken, width), free_edge(rolled, width)
    assert not room or (there - here - roll) % width == 0


@given(spans, st.integers(0, 89), st.sampled_from([1, 3, 10]))
def test_it_turns_only_when_an_object_is_near_and_then_stays(
    case: tuple[int, list[Span]], edge: int, step: int
) -> None:
    width, taken = case
    width *= step
    edge %= width
    moved = move(edge, taken, width, step)
    if distance(edge, taken, width) >= NEAR * width:
        assert moved == 0
    there = (edge + moved) % width
    assert distance(there, taken, width) >= distance(edge, taken, width)
    assert move(there, taken, width, step) == 0, "no second turn for the same objects"


@pytest.mark.parametrize("width", [512, 1000, 1001, 1280, 1920, 3840])
def test_a_step_is_whole_in_columns_tokens_and_strides(width: int) -> None:
    step = least_step(width, 512, 32)
    assert 0 < step <= width
    assert width % step == 0
    assert step * 32 % width == 0, "whole tokens"
    assert step * 512 % (32 * width) == 0, "whole strides of 32 pixels"


def test_a_cut_frame_is_rolled_and_masks_come_back(small_nano: PanoSAM2) -> None:
    whole, cut = WholeFrame(True), WholeFrame(True, 37 / WIDTH)
    frame = torch.from_numpy(NOISE[0]).permute(2, 0, 1)[None]
    rolled = torch.from_numpy(np.roll(NOISE[0], -37, axis=1)).permute(2, 0, 1)[None]
    assert torch.equal(cut.images(small_nano, frame), whole.images(small_nano, rolled))
    logits = torch.randn(1, 1, 16, 32)
    size = (128, WIDTH)
    expected = resize_wrap(logits, size, pano=True).roll(37, -1)
    torch.testing.assert_close(cut.on_frame(logits, size), expected)
    share = (torch.rand(1, 1, 128, WIDTH) > 0.5).float()
    torch.testing.assert_close(
        cut.gather(share, (64, 128)), whole.gather(share.roll(-37, -1), (64, 128))
    )


def test_clicks_and_boxes_are_placed_in_a_cut_frame() -> None:
    cut = WholeFrame(True, 0.25)
    box_and_click = PointPrompts(
        torch.tensor([[[90.0, 10.0], [140.0, 30.0], [100.0, 20.0]], [[10.0, 5.0]] * 3]),
        torch.tensor([[2, 3, 1], [1, 1, 1]], dtype=torch.int32),
    )
    placed = cut.place(box_and_click, (64, 128))
    assert placed.xy[0].tolist() == [[58, 10], [108, 30], [68, 20]]
    assert placed.xy[1, 0].tolist() == [106, 5], "from the left of the cut to its right"


def blob(column: int, row: int = 50, size: int = 24) -> npt.NDArray[np.bool_]:
    mask = np.zeros((128, WIDTH), bool)
    mask[row : row + size, np.arange(column, column + size) % WIDTH] = True
    return mask


@pytest.fixture
def free() -> TrackerConfig:
    """Random weights see things anywhere; no gate is to hide what they do."""
    return TrackerConfig(view="centred", motion_gate_deg=0.0, half_maps=False)


def run(
    model: PanoSAM2, config: TrackerConfig, roll: int, prompts: list[Prompt], frames: int = 6
) -> list[dict[int, npt.NDArray[np.bool_]]]:
    tracker = PanoTracker(model, config)
    out = []
    for t, frame in enumerate(NOISE[:frames]):
        result = tracker.step(np.roll(frame, roll, axis=1), prompts if t == 0 else [])
        masks = {i: np.roll(o.mask, -roll, axis=1) for i, o in result.objects.items()}
        out.append(masks)
    return out


@settings(max_examples=4, deadline=None)
@given(roll=st.integers(1, WIDTH - 1))
@pytest.mark.parametrize("view", ["centred", "auto"])
@pytest.mark.parametrize("kind", ["mask", "box", "click"])
def test_a_roll_by_any_column_rolls_the_masks_exactly(
    small_nano: PanoSAM2, kind: str, view: str, roll: int
) -> None:
    """Also by columns that are no multiple of the network's stride, which ``sphere`` cannot do."""
    config = TrackerConfig(view=view, motion_gate_deg=0.0, half_maps=False)

    def prompts(by: int) -> list[Prompt]:
        if kind == "mask":
            return [Prompt(1, mask=np.roll(blob(100), by, axis=1))]
        if kind == "box":
            left = (100 + by) % WIDTH
            return [Prompt(1, box=(left, 40, left + 60, 100))]
        return [Prompt(1, points=[((110.5 + by) % WIDTH, 60.5)])]

    here = run(small_nano, config, 0, prompts(0))
    there = run(small_nano, config, roll, prompts(roll))
    assert any(masks[1].any() for masks in here)
    for one, other in zip(here, there, strict=True):
        differing = (one[1] ^ other[1]).sum()
        # Coordinates of clicks are rounded to single precision where they stand.
        assert differing <= (0 if kind == "mask" else 0.002 * one[1].size)


@given(st.integers(1, WIDTH), st.integers(0, 11))
def test_the_darkest_direction_rolls_with_the_frame(roll: int, index: int) -> None:
    frame = torch.from_numpy(NOISE[index]).permute(2, 0, 1)[None]
    here = dark_edge(frame)
    assert here is not None
    assert dark_edge(frame.roll(roll, dims=-1)) == (here + roll) % WIDTH


@pytest.mark.parametrize("width", [1, 2, 5, 256, 3840])
def test_the_darkest_direction_is_opposite_to_a_lamp(width: int) -> None:
    frame = torch.full((1, 3, 4, width), 7, dtype=torch.uint8)
    for lamp in {0, width // 3, width - 1}:
        lit = frame.clone()
        lit[..., lamp] = 255
        found = dark_edge(lit)
        assert found is not None
        assert abs(found - (lamp + width / 2) % width) < 1


@pytest.mark.parametrize("width", [2, 6, 256, 1000])
def test_no_direction_is_darkest_where_all_are_alike(width: int) -> None:
    """What rounding leaves is no direction: it would not roll with the frame."""
    frame = torch.zeros(1, 3, 4, width, dtype=torch.uint8)
    assert dark_edge(frame) is None
    assert dark_edge(frame + 200) is None
    half = torch.randint(0, 255, (1, 3, 4, width // 2), dtype=torch.uint8)
    assert dark_edge(torch.cat((half, half), dim=-1)) is None, "the same on both sides"


@pytest.mark.parametrize("roll", [37, 101])
def test_a_dark_first_frame_breaks_no_law(small_nano: PanoSAM2, roll: int) -> None:
    config = TrackerConfig(view="auto", motion_gate_deg=0.0, half_maps=False)
    black, prompt = np.zeros_like(NOISE[0]), [Prompt(1, mask=blob(100))]
    rolled = [Prompt(1, mask=np.roll(blob(100), roll, axis=1))]
    for first in ([black, *NOISE[:3]], [*NOISE[:1], *NOISE[:3]]):
        for start in (0, 1):  # prompted on the dark frame, or on the one after it
            masks: list[npt.NDArray[np.bool_]] = []
            for by, prompts in ((0, prompt), (roll, rolled)):
                tracker = PanoTracker(small_nano, config)
                for t, frame in enumerate(first):
                    found = tracker.step(np.roll(frame, by, axis=1), prompts if t == start else [])
                masks.append(np.roll(found.objects[1].mask, -by, axis=1))
            assert np.array_equal(*masks)


def test_sphere_is_as_the_camera_gives_it_whatever_was_before(small_nano: PanoSAM2) -> None:
    """And ``auto`` chooses although something else was watched before: the view is live."""
    tracker, fresh = PanoTracker(small_nano), PanoTracker(small_nano, TrackerConfig(view="sphere"))
    tracker.step(NOISE[0], [Prompt(1, mask=blob(100))])
    tracker.remove(1)
    tracker.config = fresh.config
    for one in (tracker, fresh):
        found = one.step(NOISE[1], [Prompt(2, mask=blob(50))]).objects[2]
    assert np.array_equal(
        tracker.step(NOISE[2]).objects[2].mask, fresh.step(NOISE[2]).objects[2].mask
    )
    assert found.mask.any()
    for one in (tracker, fresh):
        one.remove(2)
        one.config = TrackerConfig()
        one.step(NOISE[3], [Prompt(3, mask=blob(80))])
    assert fresh._edge


def test_auto_is_cut_once_whatever_its_objects(small_nano: PanoSAM2) -> None:
    tracker = PanoTracker(small_nano, TrackerConfig(view="auto"))
    tracker.step(NOISE[0])
    edge = tracker._edge
    assert edge
    tracker.step(NOISE[1], [Prompt(1, mask=blob(round(edge * WIDTH) % WIDTH))])
    tracker.remove(1)
    tracker.step(NOISE[2], [Prompt(2, mask=blob(10))])
    assert tracker._edge == edge
    tracker.reset()
    tracker.step(NOISE[3])
    assert tracker._edge not in (None, edge), "another stream, another cut"


def test_the_law_is_not_empty(small_nano: PanoSAM2, free: TrackerConfig) -> None:
    """A camera's own edge is seen by the network if the panorama is not turned."""
    sphere = dataclasses.replace(free, view="sphere")
    here = run(small_nano, sphere, 0, [Prompt(1, mask=blob(100))])
    there = run(small_nano, sphere, 5, [Prompt(1, mask=np.roll(blob(100), 5, axis=1))])
    assert any((one[1] ^ other[1]).any() for one, other in zip(here, there, strict=True))


def test_a_turn_between_two_frames_changes_no_mask_of_a_yaw_true_network(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    """Memory, previous mask and region are turned with the panorama: whole strides are exact."""
    trackers = [PanoTracker(small_nano, free) for _ in range(2)]
    turning, still = trackers
    for t, frame in enumerate(NOISE):
        prompts = [Prompt(1, mask=blob(100))] if t == 0 else []
        if t in (3, 7):
            turn(turning, 32 * WIDTH // small_nano.input_size[1])
            assert turning._edge != still._edge
        results = [tracker.step(frame, prompts).objects[1] for tracker in trackers]
        np.testing.assert_allclose(results[0].logits, results[1].logits, atol=2e-4)


def turn(tracker: PanoTracker, columns: int) -> None:
    tokens = columns * tracker.model.grid_hw[1] // WIDTH
    assert tracker._edge is not None
    tracker._edge = (tracker._edge + columns / WIDTH) % 1
    tracker._tracks = {i: track.turned(tokens) for i, track in tracker._tracks.items()}


def test_an_object_that_comes_to_the_edge_turns_the_panorama_once(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    tracker = PanoTracker(small_nano, free)
    tracker.step(NOISE[0], [Prompt(1, mask=blob(100))])
    first = tracker._edge
    assert first is not None
    assert round(first * WIDTH) == (100 + 12 + 4 + WIDTH // 2) % WIDTH, "half a cell on"
    edges = []
    for t in range(1, 12):  # prompted on its way, so that it is where it is said to be
        mask = blob((100 + 14 * t) % WIDTH)
        tracker.step(NOISE[t], [Prompt(1, mask=mask)])
        start = (100 + 14 * t) % WIDTH
        edges.append(tracker._edge)
        assert tracker._edge is not None
        assert clearance(round(tracker._edge * WIDTH), [(start, 24)], WIDTH) > 0
    assert first in edges
    assert len(set(edges)) == 2, "one turn in eleven frames"


def test_a_panorama_that_is_not_closed_or_not_to_be_turned_is_left_alone(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    for change in ({"view": "sphere"}, {"hfov_deg": 180.0}, {"pano": False}):
        tracker = PanoTracker(small_nano, dataclasses.replace(free, **change))
        tracker.step(NOISE[0], [Prompt(1, mask=blob(100))])
        assert tracker._edge == 0


def test_frames_that_turn_out_not_to_be_closed_are_no_longer_turned(
    small_nano: PanoSAM2,
) -> None:
    """A camera may tell late which part of the sphere its images are; memories turn back then."""
    tracker = PanoTracker(small_nano, TrackerConfig(view="centred"))
    tracker.step(NOISE[0], [Prompt(1, box=(170.0, 40.0, 210.0, 80.0))])
    edge = tracker._edge or 0.0
    tokens = small_nano.grid_hw[1]
    turned = tracker._tracks[1].memory.prompted[0].memory_map.clone()
    assert 0 < round(edge * tokens) < tokens
    tracker.config = TrackerConfig(view="centred", hfov_deg=180.0)
    tracker.step(NOISE[1])
    assert tracker._edge == 0
    (back,) = tracker._tracks[1].memory.prompted
    assert torch.equal(back.memory_map, turned.roll(round(edge * tokens), dims=-1))


def test_the_last_object_takes_its_turn_with_it(small_nano: PanoSAM2, free: TrackerConfig) -> None:
    tracker = PanoTracker(small_nano, free)
    tracker.step(NOISE[0], [Prompt(1, mask=blob(100))])
    tracker.remove(1)
    tracker.step(NOISE[1], [Prompt(2, mask=blob(10))])
    assert tracker._edge is not None
    assert round(tracker._edge * WIDTH) == 10 + 12 + 4 + WIDTH // 2


def test_a_late_prompt_is_caught_up_with_under_the_same_turn(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    on_time, late = PanoTracker(small_nano, free), PanoTracker(small_nano, free)
    for tracker in (on_time, late):
        tracker.step(NOISE[0], [Prompt(1, mask=blob(100))])
    prompt = [Prompt(2, mask=blob(200))]
    on_time.step(NOISE[1], prompt)
    late.step(NOISE[1])
    for frame in NOISE[2:5]:
        on_time.step(frame)
        late.step(frame)
    behind = late.behind(4)
    behind.step(NOISE[1], prompt)
    for frame in NOISE[2:5]:
        behind.step(frame)
    late.take_over(behind)
    one, other = on_time.step(NOISE[5]).objects, late.step(NOISE[5]).objects
    np.testing.assert_allclose(one[2].logits, other[2].logits, atol=2e-3)
    np.testing.assert_allclose(one[1].logits, other[1].logits, atol=2e-3)
