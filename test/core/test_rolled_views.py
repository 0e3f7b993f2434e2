"""Local views do not know where the panorama is cut: rolled by any column, they see the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from panosam2_core import PanoTracker, Prompt, TrackerConfig, load_model
from panosam2_core.data.synthetic import SyntheticWorld, WorldConfig
from panosam2_core.geometry.bfov import BFoV, _ahead, crop, crop_grid, recrop, snap, uncrop
from panosam2_core.geometry.erp import sample_erp
from panosam2_core.model import PanoSAM2

# No power of two: sizes of real cameras are not, and rounding shows.
SIZE = (90, 180)
RATIO = math.tau / SIZE[1]
PICTURE = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, *SIZE), np.uint8))
regions = st.builds(
    lambda lon, lat, width: BFoV(lon, lat, width, width / 2),
    st.floats(-math.pi, math.pi),
    st.floats(-math.pi / 2, math.pi / 2),
    st.floats(0.2, math.tau),
)
rolls = st.integers(-SIZE[1], SIZE[1])


def rolled(region: BFoV, columns: int) -> BFoV:
    """The region as a tracker finds it there: by another sum, so with another rounding."""
    lon = math.remainder(region.lon + columns * RATIO + 1e-9, math.tau)
    return replace(region, lon=lon)


@settings(deadline=None)
@given(regions, rolls)
def test_crops_of_rolled_panoramas_are_equal_to_the_last_bit(region: BFoV, columns: int) -> None:
    one, other = snap(region, SIZE), snap(rolled(region, columns), SIZE)
    assume(abs(math.remainder(other.lon - one.lon - columns * RATIO, math.tau)) < 1e-9)
    (start, ahead), (end, also) = (_ahead(view, SIZE[1]) for view in (one, other))
    assert ahead == also, "a rounding that shows in one crop of many"
    assert (end - start - columns) % SIZE[1] == 0
    there = PICTURE.roll(columns, dims=-1)
    assert torch.equal(crop(PICTURE, one, (24, 48)), crop(there, other, (24, 48)))
    patch = torch.randn(1, 1, 24, 48)
    back, again = (uncrop(patch, view, SIZE, -10.0) for view in (one, other))
    assert torch.equal(back.roll(columns, dims=-1), again)


@settings(deadline=None)
@given(regions, regions, rolls)
def test_so_is_what_one_view_shows_of_another(one: BFoV, other: BFoV, columns: int) -> None:
    patch = torch.randn(1, 1, 12, 24)
    here, there = (
        [snap(moved(region), SIZE) for region in (one, other)]
        for moved in (lambda region: region, lambda region: rolled(region, columns))
    )
    shifts = [
        math.remainder(b.lon - a.lon - columns * RATIO, math.tau)
        for a, b in zip(here, there, strict=True)
    ]
    assume(max(map(abs, shifts)) < 1e-9)
    assert torch.equal(recrop(patch, *here, (12, 24), 0.0), recrop(patch, *there, (12, 24), 0.0))


@pytest.mark.parametrize("rest", [-0.43, 0.0, 0.5, 0.56])
@pytest.mark.parametrize("lat", [0.0, 1.2])
def test_what_lies_between_two_columns_is_sampled_over_the_seam(rest: float, lat: float) -> None:
    """Regions that nobody has snapped leave up to 9/16 of a pixel."""
    region = BFoV((7 + rest) * RATIO, lat, math.tau, math.pi)
    found = crop(PICTURE, region, (360, 720), antialias=False)
    want = sample_erp(PICTURE, crop_grid(region, (360, 720), SIZE, dtype=torch.float64).float())
    seam = torch.tensor([*range(4), *range(716, 720)])  # the poles' rows hang on rounding
    rows = slice(40, 320)
    torch.testing.assert_close(
        found[..., rows, :][..., seam], want[..., rows, :][..., seam], atol=0.1, rtol=0
    )


@given(regions)
@example(BFoV(math.pi, 0.0, 1.0, 0.5))
@example(BFoV(-math.pi, 0.7, 1.0, 0.5))
def test_a_snapped_region_is_a_sixteenth_of_a_pixel_away_at_most(region: BFoV) -> None:
    found = snap(region, SIZE)
    assert abs(math.remainder(found.lon - region.lon, math.tau)) <= RATIO / 16 + 1e-12
    assert abs(found.lat - region.lat) <= RATIO / 16 + 1e-12
    assert (found.fov_h, found.fov_v) == (region.fov_h, region.fov_v)
    again = snap(found, SIZE)
    assert abs(math.remainder(again.lon - found.lon, math.tau)) < 1e-12
    assert abs(again.lat - found.lat) < 1e-12


@settings(deadline=None)
@given(regions)
def test_a_window_is_sampled_as_the_whole_panorama_is(region: BFoV) -> None:
    fine = (96, 192)
    found = crop(PICTURE, region, fine, antialias=False)
    want = sample_erp(PICTURE, crop_grid(region, fine, SIZE))
    # Neighbours differ by up to 255, and coordinates by rounding.
    torch.testing.assert_close(found, want, atol=0.1, rtol=0)


@pytest.fixture(scope="module")
def nano() -> PanoSAM2:
    return load_model("nano", device="cpu", precision="bfloat16")


def followed(
    model: PanoSAM2, frames: npt.NDArray[np.uint8], prompt: Prompt
) -> list[tuple[npt.NDArray[np.bool_], bool]]:
    tracker = PanoTracker(model, TrackerConfig())
    found = []
    for t, frame in enumerate(frames):
        result = tracker.step(frame, [prompt] if t == 0 else []).objects[1]
        found.append((result.mask, result.view is not None))
    return found


@settings(max_examples=3, deadline=None)
@given(columns=st.integers(1, 359))
def test_a_small_object_has_the_same_masks_in_a_rolled_clip(nano: PanoSAM2, columns: int) -> None:
    world = WorldConfig(
        size_hw=(180, 360), frames=8, angular_size_deg=(10, 13), p_occlusion=0.0, assets="builtin"
    )
    clip = SyntheticWorld(world, "val").clip(0)
    pairs = [clip.frame(t) for t in range(clip.num_frames)]
    frames = np.stack([p.image.permute(1, 2, 0).numpy() for p in pairs])
    mask = (pairs[0].labels == clip.target_id).numpy()
    plain = followed(nano, frames, Prompt(1, mask=mask))
    assert all(local for _, local in plain[1:]), "it is to be followed in local views"
    moved = Prompt(1, mask=np.roll(mask, columns, axis=1))
    turned = followed(nano, np.roll(frames, columns, axis=2), moved)
    # What is reported of the prompted frame is the panorama's, and that is its network's grid.
    for (one, _), (other, _) in zip(plain[1:], turned[1:], strict=True):
        assert np.array_equal(np.roll(one, columns, axis=1), other)
