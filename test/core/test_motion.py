"""Objects do not jump: regions grow by angles, masks keep what hangs together with them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from panosam2_core import ObjectState, PanoTracker, Prompt, TrackerConfig
from panosam2_core.geometry import erp
from panosam2_core.model import Decoded, PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE, connected, keep_near, prompt_region, spread
from panosam2_core.step import stay_near

SIZE = (16, 32)
quick = settings(max_examples=30, deadline=None, derandomize=True)
shares = st.floats(0.01, 0.6)
seeds = st.integers(0, 10_000)
Frames = list[npt.NDArray[np.uint8]]
Bits = npt.NDArray[np.bool_]


def noise(seed: int, share: float) -> Bits:
    return np.random.default_rng(seed).random(SIZE) < share


def batch(*masks: Bits) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks))[:, None]


def components_with(mask: Bits, seed: Bits) -> Bits:
    """The same by labelling three panoramas side by side until the copies agree."""
    kept = mask & seed
    while True:
        labels, _ = ndimage.label(np.tile(mask, 3), np.ones((3, 3)))
        wanted = np.unique(labels[np.tile(kept, 3)])
        found = np.isin(labels, wanted[wanted > 0]).reshape(SIZE[0], 3, SIZE[1]).any(axis=1)
        if np.array_equal(found, kept):
            return found
        kept = found


@quick
@given(seeds, shares, st.floats(0.01, 0.2))
def test_connected_parts_are_those_of_a_labelling(seed: int, share: float, few: float) -> None:
    masks = [noise(seed, share), noise(seed + 1, share)]
    starts = [noise(seed + 2, few), noise(seed + 3, few)]
    got = connected(batch(*masks), batch(*starts))[:, 0].numpy()
    for found, mask, start in zip(got, masks, starts, strict=True):
        assert np.array_equal(found, components_with(mask, start))


def test_no_masks_have_no_parts() -> None:
    none = torch.zeros(0, 1, *SIZE, dtype=torch.bool)
    assert torch.equal(connected(none, none), none)


def test_a_long_winding_part_is_kept_whole() -> None:
    snake = np.zeros(SIZE, bool)
    snake[::2] = True
    snake[:, -2] = False  # rows are open, and joined one after the other at alternate ends
    for row in range(1, SIZE[0], 2):
        snake[row, (row // 2 % 2) * (SIZE[1] - 4)] = True
    snake[:, -1] = False
    start = np.zeros(SIZE, bool)
    start[0, 0] = True
    assert ndimage.label(snake, np.ones((3, 3)))[1] == 1
    assert np.array_equal(connected(batch(snake), batch(start))[0, 0].numpy(), snake)


def test_a_part_that_winds_round_and_round_is_kept_whole() -> None:
    """Every turn of the spiral is a part of its own until the edges meet."""
    rows, columns = np.indices(SIZE)
    spiral = (rows - 4 * columns // SIZE[1]) % 4 == 0  # four rows down in a turn
    start = np.zeros(SIZE, bool)
    start[0, 0] = True
    assert ndimage.label(spiral, np.ones((3, 3)))[1] >= SIZE[0] // 4
    assert np.array_equal(connected(batch(spiral), batch(start))[0, 0].numpy(), spiral)


@quick
@given(seeds, st.floats(0, math.pi))
def test_a_region_grows_by_at_least_the_angle(seed: int, angle: float) -> None:
    region = noise(seed, 0.01)
    grown = spread(batch(region), [angle])[0, 0].numpy()
    rays = erp.rays(SIZE, dtype=torch.float64).reshape(-1, 3)
    cosine = (rays @ rays[region.ravel()].T).clamp(-1, 1)
    # Along columns and rows, not along great circles: those may be longer ways near the poles.
    near = (cosine.acos() <= angle / 2).any(dim=1).reshape(SIZE).numpy()
    assert not (near & ~grown).any()
    assert (grown >= region).all()
    shift = seed % SIZE[1]
    rolled = spread(batch(np.roll(region, shift, 1)), [angle])[0, 0].numpy()
    assert np.array_equal(rolled, np.roll(grown, shift, 1))


def test_regions_grow_in_degrees_not_in_pixels() -> None:
    region = np.zeros(SIZE, bool)
    region[8, 0] = region[0, 0] = True
    grown = spread(batch(region), [math.radians(22.5)])[0, 0].numpy()
    # Just off the equator two pixels are a little less than 22.5 degrees: three to either side.
    assert np.argwhere(grown[8]).ravel().tolist() == [0, 1, 2, 3, 29, 30, 31]
    assert grown[0].all()  # next to the pole that is more than half a turn
    assert not grown[11].any()
    assert spread(batch(region), [math.pi]).all()
    assert not spread(batch(np.zeros(SIZE, bool)), [math.pi]).any()


@quick
@given(seeds, shares)
def test_what_is_kept_keeps_its_logits(seed: int, share: float) -> None:
    logits = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    near = batch(noise(seed, share))
    kept = keep_near(logits, near)
    assert torch.equal(kept[kept != OUTSIDE], logits[kept != OUTSIDE])
    assert torch.equal(kept > 0, connected(logits > 0, near))


def test_prompts_say_where() -> None:
    xy = torch.tensor([[[500.0, 40.0], [520.0, 80.0]], [[17.0, 9.0], [100.0, 9.0]]])
    labels = torch.tensor([[2, 3], [1, 0]], dtype=torch.int32)
    box, click = prompt_region(PointPrompts(xy, labels), (64, 128))[:, 0].numpy()
    assert np.argwhere(box.any(axis=0)).ravel().tolist() == [0, 1, 2, 125, 126, 127]
    assert np.argwhere(box.any(axis=1)).ravel().tolist() == list(range(10, 21))
    assert np.argwhere(click).tolist() == [[2, 4]]


def test_masks_hang_together_with_where_the_object_was(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def follow(gate: float) -> list[tuple[Bits, bool]]:
        # A local view's mask is finer than what this panorama shows of it.
        config = TrackerConfig(motion_gate_deg=gate, view="sphere")
        tracker = PanoTracker(small_nano, config)
        prompts = [Prompt(1, box=(120.0, 20.0, 136.0, 40.0))]
        results = [tracker.step(f, prompts if t == 0 else ()) for t, f in enumerate(noise_frames)]
        found = [result.objects[1] for result in results]
        return [(one.logits > 0, one.state is ObjectState.VISIBLE) for one in found]

    def strays(masks: list[tuple[Bits, bool]], gate: float) -> int:
        """Pixels that no way in the mask joins to where it was last seen, grown by the angle."""
        count, last, angle = 0, masks[0][0], 0.0
        for mask, seen in masks[1:]:
            angle += math.radians(gate)
            near = spread(torch.from_numpy(last)[None, None], [angle])
            joined = connected(torch.from_numpy(mask)[None, None], near)[0, 0].numpy()
            count += int((mask & ~joined).sum())
            if seen:
                last, angle = mask, 0.0
        return count

    assert strays(follow(0.0), 12.0) > 0, "nothing strays; the gate would have nothing to do"
    assert strays(follow(12.0), 12.0) == 0


def test_an_object_that_is_only_seen_elsewhere_is_hidden_and_found_there_later(
    small_nano: PanoSAM2,
    noise_frames: list[npt.NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network is made to answer with a square on the other side of the panorama."""
    decode = PanoSAM2.decode
    square = torch.full((1, 1, *SIZE), -5.0)
    square[..., 6:10, 2:6] = 5.0

    def elsewhere(self: PanoSAM2, *args: object, **kwargs: object) -> object:
        return decode(self, *args, **kwargs)._replace(logits=square.clone())

    tracker = PanoTracker(small_nano, TrackerConfig(motion_gate_deg=12.0, view="sphere"))
    mask = np.zeros((64, 128), bool)
    mask[20:40, 70:90] = True
    tracker.step(noise_frames[0], [Prompt(1, mask=mask)])
    monkeypatch.setattr(PanoSAM2, "decode", elsewhere)
    states = [tracker.step(frame).objects[1] for frame in noise_frames[1:20]]
    # From column 17 to 5 of 32 there are 12 columns, 11 times 12 degrees in the squares' rows.
    hidden = [thing.state is not ObjectState.VISIBLE for thing in states]
    assert hidden == [True] * 10 + [False] * 9
    assert all(thing.visibility < 0.5 for thing in states[:10])


def test_what_the_gate_hides_is_absent_in_every_respect(small_nano: PanoSAM2) -> None:
    """Its pointer, too, must say "no object", or memory goes on with something else."""
    logits = torch.full((2, 1, 16, 32), -5.0)
    logits[:, 0, 4:8, 4:8] = 5.0
    pointer = torch.randn(2, small_nano.config.width)
    shown = torch.full((2, 1), 3.0)
    answer = Decoded(logits, logits, shown, shown[:, 0], pointer, shown, None)
    near = torch.zeros(2, 1, 16, 32, dtype=torch.bool)
    near[0, 0, 5, 5] = True
    found = stay_near(small_nano, answer, near)
    assert torch.equal(found.pointer[0], pointer[0])
    assert torch.equal(found.pointer[1], small_nano.no_obj_ptr[0])
    assert found.object_logit[:, 0].tolist() == [3.0, -3.0]
