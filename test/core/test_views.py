"""The tracker's local views: small things are followed in crops, and found again when lost.

The laws are tested with a network that takes what is white for the object (only the mechanism is
under test then) and with random weights (all arithmetic takes part).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from panosam2_core import ConfigError, ObjectState, PanoTracker, Prompt, TrackerConfig
from panosam2_core import frame_step as step_module
from panosam2_core.geometry import erp
from panosam2_core.geometry.region import measure
from panosam2_core.model import Decoded, ImageFeatures, PanoSAM2
from panosam2_core.pursuit import LADDER
from panosam2_core.results import ObjectResult

SIZE = (256, 512)
WHOLE = 2 * math.pi


def disc(lon: float, lat: float, radius: float) -> npt.NDArray[np.bool_]:
    """Mask of a disc; ``lon`` to the left, degrees."""
    angles = torch.tensor((-lon, lat), dtype=torch.float64).deg2rad()
    rays = erp.rays(SIZE, dtype=torch.float64)
    inside: npt.NDArray[np.bool_] = (
        rays @ erp.lonlat_to_ray(*angles) > math.cos(math.radians(radius))
    ).numpy()
    return inside


def picture(*masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """White where a mask is, black elsewhere."""
    white = np.any(masks, axis=0) if masks else np.zeros(SIZE, bool)
    return np.repeat(white[..., None], 3, axis=2).astype(np.uint8) * 255


@pytest.fixture
def seeing(small_nano: PanoSAM2, monkeypatch: pytest.MonkeyPatch) -> PanoSAM2:
    """small_nano, but its masks are what is white in the picture that it is shown."""
    grid = small_nano.grid_hw

    def features_of(self: PanoSAM2, images: torch.Tensor, *, pano: bool) -> ImageFeatures:
        real = encode(self, images, pano=pano)
        low = self.pixel_mean.neg() / self.pixel_std
        white = F.adaptive_avg_pool2d(
            (images - low).mean(1, keepdim=True), (4 * grid[0], 4 * grid[1])
        )
        s1, s0 = real.skips
        return ImageFeatures(real.top, real.position, (s1, s0 * 0 + white))

    def white_is_it(*args: Any, **kwargs: Any) -> Decoded:
        decoded = propagate(*args, **kwargs)
        white = args[1].skips[1][:, :1]
        seen = (white > 1).flatten(1).any(1, keepdim=True).float()
        return decoded._replace(logits=(white - 1) * 10, object_logit=seen * 10 - 5)

    encode, propagate = PanoSAM2.encode_image, step_module.propagate
    monkeypatch.setattr(PanoSAM2, "encode_image", features_of)
    monkeypatch.setattr(step_module, "propagate", white_is_it)
    return small_nano


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """From now on: (charts in the batch, whether they are panoramas) of every encoding."""
    calls: list[tuple[int, bool]] = []
    real = PanoSAM2.encode_image

    def counted(self: PanoSAM2, images: torch.Tensor, *, pano: bool) -> ImageFeatures:
        calls.append((len(images), pano))
        return real(self, images, pano=pano)

    monkeypatch.setattr(PanoSAM2, "encode_image", counted)
    return calls


def lose(tracker: PanoTracker, here: npt.NDArray[np.bool_]) -> None:
    """Prompt object 1, show it for three frames, and then nothing until it is searched for."""
    for t in range(3):
        tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else [])
    for _ in range(10):
        tracker.step(picture())
    assert tracker._tracks[1].lost


def overlap(found: ObjectResult, truth: npt.NDArray[np.bool_]) -> float:
    return float((found.mask & truth).sum() / max(1, (found.mask | truth).sum()))


def centre_error_deg(found: ObjectResult, lon: float, lat: float) -> float:
    truth = np.radians([lon, lat])
    level = math.cos(truth[1])
    ray = (level * math.cos(truth[0]), level * math.sin(truth[0]), math.sin(truth[1]))
    return math.degrees(math.acos(min(1.0, float(found.bearing @ ray))))


@pytest.mark.parametrize("lat", [0.0, 40.0, 70.0])
def test_a_small_thing_is_followed_in_a_view_over_the_seam_and_past_a_pole(
    seeing: PanoSAM2, lat: float
) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(long_frames=0))
    for t in range(20):
        lon = 150.0 + 5 * t
        truth = disc(lon, lat, 6)
        prompts = [Prompt(1, mask=truth)] if t == 0 else []
        found = tracker.step(picture(truth), prompts).objects[1]
        assert found.state is ObjectState.VISIBLE
        if t == 0:
            continue
        assert found.view is not None
        assert found.view.width in LADDER
        assert centre_error_deg(found, lon, lat) < 1.5
        assert overlap(found, truth) > 0.6, "a pixel of this little network has a degree"
        assert math.remainder(found.view.lon - math.radians(lon), WHOLE) * math.cos(
            math.radians(lat)
        ) == pytest.approx(0.0, abs=math.radians(8))


def test_a_large_thing_is_left_to_the_panorama(seeing: PanoSAM2) -> None:
    tracker = PanoTracker(seeing)
    for t in range(3):
        truth = disc(10.0 * t, 0, 40)
        found = tracker.step(picture(truth), [Prompt(1, mask=truth)] if t == 0 else []).objects[1]
        assert found.view is None
        assert overlap(found, truth) > 0.8


def test_what_grows_goes_back_to_the_panorama_and_what_shrinks_comes_again(
    seeing: PanoSAM2,
) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(most_growth=0.0))  # these cells are coarse
    growing = [5, 6, 7, 8, 9, 11, 13, 15, 18, 21, 25, 30, 35]
    radii = [*growing, 35, 24, 14, *[7] * 13]
    views = []
    for t, radius in enumerate(radii):
        truth = disc(28.1, 16.9, radius)
        found = tracker.step(picture(truth), [Prompt(1, mask=truth)] if t == 0 else []).objects[1]
        if t and (found.view or radius > 10):
            assert overlap(found, truth) > 0.6, t
        views.append(found.view.width if found.view else WHOLE)
    assert views[1] in LADDER
    assert views[len(growing)] == WHOLE
    assert views[-1] < WHOLE
    rising = views[1 : len(growing) + 1]
    assert rising == sorted(rising), "one rung after the other"


@pytest.mark.parametrize(("growth", "hidden"), [(2.0, True), (0.0, False)])
def test_what_grows_at_once_is_something_else_and_is_not_remembered(
    seeing: PanoSAM2, growth: float, hidden: bool
) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(most_growth=growth, motion_gate_deg=0.0))
    here, cover = disc(40, 0, 5), disc(40, 0, 14)
    for t in range(4):
        tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else [])
    held = [m.frame for m in tracker._tracks[1].close.memory.recent]
    found = tracker.step(picture(cover)).objects[1]
    assert (found.state is ObjectState.OCCLUDED) is hidden
    assert ([m.frame for m in tracker._tracks[1].close.memory.recent] == held) is hidden
    if hidden:
        found = tracker.step(picture(here)).objects[1]
        assert found.state is ObjectState.VISIBLE, "when that is gone the object is there again"


@pytest.mark.parametrize(("share", "hidden"), [(0.5, True), (0.0, False)])
def test_a_mask_with_a_score_far_under_the_usual_is_not_believed(
    seeing: PanoSAM2, monkeypatch: pytest.MonkeyPatch, share: float, hidden: bool
) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(least_score=share))
    here = disc(40, 0, 6)
    for t in range(4):
        tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else [])
    real = step_module.propagate

    def doubtful(*args: Any, **kwargs: Any) -> Decoded:
        decoded = real(*args, **kwargs)
        return decoded._replace(score=decoded.score * 0.4)

    monkeypatch.setattr(step_module, "propagate", doubtful)
    found = tracker.step(picture(here)).objects[1]
    assert (found.state is ObjectState.OCCLUDED) is hidden


@pytest.mark.parametrize("view", ["auto", "local"])
def test_lost_and_found(seeing: PanoSAM2, view: str) -> None:
    """Gone for 30 frames and back elsewhere: auto finds it, local keeps looking where it was."""
    tracker = PanoTracker(seeing, TrackerConfig(view=view))
    here, there = disc(40, 0, 6), disc(-120, 30, 6)
    for t in range(8):
        tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else [])
    for _ in range(30):
        found = tracker.step(picture()).objects[1]
        assert found.state is not ObjectState.VISIBLE
        assert not found.mask.any()
    needed = None
    for t in range(60):
        found = tracker.step(picture(there)).objects[1]
        if found.state is ObjectState.VISIBLE:
            assert overlap(found, there) > 0.5
            needed = t if needed is None else needed
    if view == "auto":
        assert needed is not None
        assert needed <= 2, "what is white is seen on the panorama at once, and then closely"
        assert found.view is not None
        assert found.view.width in LADDER
    else:
        assert needed is None


@pytest.mark.parametrize(("objects", "looks"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_lost_objects_share_the_looks_of_a_frame(
    seeing: PanoSAM2, monkeypatch: pytest.MonkeyPatch, objects: int, looks: int
) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(search_looks=looks))
    spots = [disc(100.0 * i, 0, 6) for i in range(objects)]
    for t in range(3):
        prompts = [Prompt(i + 1, mask=spot) for i, spot in enumerate(spots)]
        tracker.step(picture(*spots), prompts if t == 0 else [])
    for _ in range(9):
        tracker.step(picture())
    assert all(track.lost for track in tracker._tracks.values())
    encoded = count_encodings(monkeypatch)
    frames = 6 * objects
    seen: dict[int, set[tuple[float, float] | None]] = {i + 1: set() for i in range(objects)}
    for t in range(frames):
        found = tracker.step(picture()).objects
        assert sum(count for count, _ in encoded) <= looks * (t + 1), "two may share a panorama"
        for i, result in found.items():
            assert result.state is not ObjectState.VISIBLE
            seen[i].add((result.view.lon, result.view.lat) if result.view else None)
    assert sum(track.close.search.looks for track in tracker._tracks.values()) >= frames * looks
    if looks == 1:  # else a result says only one of them
        assert all(None in places and len(places) >= 3 for places in seen.values())


def test_how_large_a_small_thing_is_the_users_mask_says(small_nano: PanoSAM2) -> None:
    """The panorama's masks show next to nothing of it, and all that is true would have grown."""
    tracker, tiny = PanoTracker(small_nano), disc(40, 10, 2)
    found = tracker.step(picture(tiny), [Prompt(1, mask=tiny)]).objects[1]
    truth = measure(tiny, pano=True)
    assert truth is not None
    assert tracker._tracks[1].usual_size == pytest.approx(truth.solid_angle_sr)
    assert not 0.5 < found.solid_angle_sr / truth.solid_angle_sr < 2, "or it does not matter"


def test_what_is_found_but_not_visible_enough_is_searched_for_further(
    seeing: PanoSAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user decides from what visibility on an object counts as visible."""
    sure, real = [5.0], step_module.propagate

    def said(*args: Any, **kwargs: Any) -> Decoded:
        decoded = real(*args, **kwargs)
        logit = decoded.object_logit
        return decoded._replace(object_logit=logit.where(logit < 0, sure[0]))

    monkeypatch.setattr(step_module, "propagate", said)
    tracker = PanoTracker(seeing, TrackerConfig(occluded_below=0.7))
    lose(tracker, disc(40, 0, 6))
    back = disc(-120, 20, 6)
    sure[0] = 0.4  # a visibility of 0.6
    for _ in range(14):
        assert tracker.step(picture(back)).objects[1].state is not ObjectState.VISIBLE
        assert tracker._tracks[1].lost
    sure[0] = 5.0
    states = [tracker.step(picture(back)).objects[1].state for _ in range(8)]
    assert states[-1] is ObjectState.VISIBLE


@pytest.mark.parametrize("lon", [-150.0, 179.0, 100.0])
@pytest.mark.parametrize("lat", [-60.0, 0.0, 35.0])
def test_a_search_finds_what_has_the_colours_at_once(
    seeing: PanoSAM2, lon: float, lat: float
) -> None:
    """Wherever it comes back; without colours it takes a turn through all directions."""
    needed = {}
    for least in (0.5, 0.0):
        tracker = PanoTracker(seeing, TrackerConfig(least_likeness=least))
        here, there = disc(10, 0, 6), disc(lon, lat, 6)
        lose(tracker, here)
        for t in range(60):
            found = tracker.step(picture(there)).objects[1]
            if found.state is ObjectState.VISIBLE:
                needed[least] = t
                assert overlap(found, there) > 0.6
                break
    assert needed[0.5] < 6
    assert needed.get(0.0, 60) >= needed[0.5]


@pytest.mark.parametrize(("least", "hidden"), [(0.5, True), (0.0, False)])
@pytest.mark.parametrize("radius", [6.0, 40.0])
def test_what_has_other_colours_is_something_else_and_is_not_remembered(
    seeing: PanoSAM2, least: float, hidden: bool, radius: float
) -> None:
    """In a local view and on the panorama."""
    tracker = PanoTracker(seeing, TrackerConfig(least_likeness=least))
    here = disc(40, 0, radius)
    for t in range(14):
        tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else [])
    portraits = tracker._tracks[1].portraits
    other = picture(here)
    other[here] = (255, 255, 128)  # as light as needed to be seen
    for _ in range(8):
        found = tracker.step(other).objects[1]
        assert (found.state is not ObjectState.VISIBLE) is hidden
    if hidden:
        assert tracker._tracks[1].last_seen == 13
        assert torch.equal(tracker._tracks[1].portraits, portraits)
    found = tracker.step(picture(here)).objects[1]
    assert found.state is ObjectState.VISIBLE or tracker._tracks[1].lost


@pytest.mark.parametrize("slowly", [True, False])
def test_a_change_of_colours_is_learned_if_it_is_slow(seeing: PanoSAM2, slowly: bool) -> None:
    """Some of it on every frame; or more at once than may become a portrait, and then the rest."""
    tracker = PanoTracker(seeing)
    here = disc(40, 0, 20)
    pixels = np.argwhere(here)
    pixels = pixels[np.argsort(pixels[:, 1], kind="stable")]  # mixed ones would blend
    states = []
    for t in range(80):
        image = picture(here)
        done = min(1.0, t / 60) if slowly else (0.0 if t < 16 else 0.6 if t < 25 else 1.0)
        changed = pixels[: round(done * len(pixels))]
        image[changed[:, 0], changed[:, 1]] = (255, 255, 128)
        prompts = [Prompt(1, mask=here)] if t == 0 else []
        states.append(tracker.step(image, prompts).objects[1].state)
    seen = [state is ObjectState.VISIBLE for state in states]
    assert all(seen) if slowly else all(seen[:25]) and not any(seen[25:])
    if not slowly:  # until the user says that it is the object all the same
        again = tracker.step(image, [Prompt(1, mask=here, replace=False)]).objects[1]
        assert again.state is ObjectState.VISIBLE
        for _ in range(12):
            assert tracker.step(image).objects[1].state is ObjectState.VISIBLE


@pytest.mark.parametrize("gain", [0.8, 1.25, 1.4])
@pytest.mark.parametrize("radius", [6.0, 40.0])
def test_another_light_hides_nothing(seeing: PanoSAM2, gain: float, radius: float) -> None:
    """At once, and for good: the new light is learned, and then there may be the next."""
    tracker = PanoTracker(seeing, TrackerConfig(most_growth=0.0))
    here = disc(40, 0, radius)
    shades = picture(here).astype(float)
    shades[here] = np.random.default_rng(0).normal((170, 160, 150), 12, (here.sum(), 3))
    for t in range(40):
        light = (1.0, gain)[t >= 15]
        image = (shades * light).clip(0, 255).astype(np.uint8)
        prompts = [Prompt(1, mask=here)] if t == 0 else []
        found = tracker.step(image, prompts).objects[1]
        assert found.state is ObjectState.VISIBLE, t


def test_of_two_finds_the_likelier_one_is_looked_at_closely(seeing: PanoSAM2) -> None:
    """Both are seen on the same frame; one has some other colours. It is seen on the next."""
    tracker = PanoTracker(seeing, TrackerConfig(search_looks=6))
    here, back, decoy = disc(40, 0, 6), disc(-120, 20, 6), disc(150, 0, 6)
    lose(tracker, here)
    image = picture(back, decoy)
    spots = np.argwhere(decoy)
    spots = spots[np.random.default_rng(0).permutation(len(spots))[: len(spots) // 4]]
    image[spots[:, 0], spots[:, 1]] = (255, 255, 128)
    assert tracker.step(image).objects[1].state is not ObjectState.VISIBLE
    found = tracker.step(image).objects[1]
    assert overlap(found, back) > 0.6


def test_a_search_view_alone_confirms_nothing(seeing: PanoSAM2) -> None:
    """What is back and too large for a closer look is believed on the panorama only."""
    tracker = PanoTracker(seeing, TrackerConfig(most_growth=0.0))
    here, back = disc(40, 0, 6), disc(-120, 0, 45)
    lose(tracker, here)
    for _ in range(12):
        found = tracker.step(picture(back)).objects[1]
        if found.state is ObjectState.VISIBLE:
            assert found.view is None
            assert overlap(found, back) > 0.8
            return
    raise AssertionError("it was never found")


def test_what_a_click_shows_first_may_be_a_part_that_looks_otherwise(seeing: PanoSAM2) -> None:
    """The network finds the rest on the next frames, and that is what is known from then on."""
    tracker = PanoTracker(seeing, TrackerConfig(most_growth=0.0, view="sphere"))
    part, rest = disc(40, 0, 8), disc(40, 0, 25) & ~disc(40, 0, 8)
    both = picture(rest)
    both[part] = (255, 255, 128)
    for t in range(30):
        prompts = [Prompt(1, mask=part)] if t == 0 else []
        found = tracker.step(picture(part) // 2 if t == 0 else both, prompts).objects[1]
        assert found.state is ObjectState.VISIBLE, t
    assert overlap(found, part | rest) > 0.8


def test_doubt_changes_only_what_is_doubted(small_nano: PanoSAM2) -> None:
    """Even of an object that is said to be there and has no mask."""
    random = torch.Generator().manual_seed(0)
    decoded = Decoded(
        logits=torch.randn(3, 1, 8, 16, generator=random),
        candidates=torch.randn(3, 3, 8, 16, generator=random),
        candidate_ious=torch.rand(3, 3, generator=random),
        score=torch.rand(3, generator=random),
        pointer=torch.randn(3, small_nano.hidden_dim, generator=random),
        object_logit=torch.full((3, 1), 2.0),
        centers=None,
    )
    decoded.logits[0] = -1.0
    kept = step_module.doubt(small_nano, decoded, torch.tensor([True, False, True]))
    for before, after in zip(decoded, kept, strict=True):
        if before is not None:
            assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not (kept.logits[1] > 0).any()
    assert kept.object_logit[1] < 0


def test_a_search_does_not_take_what_a_closer_look_does_not_show(
    seeing: PanoSAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = PanoTracker(seeing)
    here = disc(40, 0, 6)
    lose(tracker, here)
    before = tracker.snapshot()
    monkeypatch.setattr(step_module, "ALIKE", 1.1)  # nothing is alike enough
    leads = 0
    for _ in range(4):
        found = tracker.step(picture(disc(-120, 30, 6))).objects[1]
        assert found.state is not ObjectState.VISIBLE
        assert not found.mask.any()
        leads += tracker._tracks[1].close.search.lead is not None
    assert leads, "though there was something to look at closely"
    memory = tracker._tracks[1].close.memory
    tracker.restore(before)
    untouched = tracker._tracks[1].close.memory
    assert len(memory.recent) == len(untouched.recent)
    for one, other in zip(memory.recent, untouched.recent, strict=True):
        assert torch.equal(one.memory_map, other.memory_map), "and learns nothing from it"


def test_only_so_many_objects_have_views_of_their_own(seeing: PanoSAM2) -> None:
    spots = [disc(60.0 * i, 10.0 * i, 6) for i in range(4)]
    tracker = PanoTracker(seeing, TrackerConfig(max_local_views=2))
    prompts = [Prompt(i + 1, mask=spot) for i, spot in enumerate(spots)]
    tracker.step(picture(*spots), prompts)
    found = tracker.step(picture(*spots)).objects
    assert [found[i].view is not None for i in (1, 2, 3, 4)] == [True, True, False, False]
    tracker.remove(1)
    for _ in range(12):
        found = tracker.step(picture(*spots)).objects
    assert sum(found[i].view is not None for i in (2, 3, 4)) == 2, "what is free is taken"


def test_objects_in_views_run_as_one_batch_and_no_panorama_is_encoded(
    seeing: PanoSAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    spots = [disc(100.0 * i, 0, 6) for i in range(3)]
    tracker = PanoTracker(seeing)
    tracker.step(picture(*spots), [Prompt(i + 1, mask=s) for i, s in enumerate(spots)])
    calls = count_encodings(monkeypatch)
    for _ in range(3):
        tracker.step(picture(*spots))
    assert calls == [(3, False)] * 3


def test_a_correction_in_the_view_and_one_beside_it(seeing: PanoSAM2) -> None:
    tracker = PanoTracker(seeing, TrackerConfig(motion_gate_deg=0.0))
    here = disc(0, 0, 6)
    tracker.step(picture(here), [Prompt(1, mask=here)])
    tracker.step(picture(here))
    inside = Prompt(1, points=[(256.0, 128.0)], refine=True)
    found = tracker.step(picture(here), [inside]).objects[1]
    assert found.view is not None
    tracker.step(picture(here))
    outside = Prompt(1, points=[(20.0, 128.0)], refine=True)
    assert tracker.step(picture(here), [outside]).objects[1].view is None


FRAMES = np.random.default_rng(5).integers(128, 170, (30, 16, 32, 3), dtype=np.uint8)
NOISE = [np.kron(frame, np.ones((8, 8, 1), np.uint8)) for frame in FRAMES]
SPOT = np.zeros((128, 256), bool)
SPOT[60:68, 100:110] = True
OTHER = np.roll(SPOT, 90, axis=1)


def logits_of(tracker: PanoTracker, frames: list[npt.NDArray[np.uint8]]) -> list[Any]:
    return [
        {i: found.logits for i, found in tracker.step(frame).objects.items()} for frame in frames
    ]


@pytest.fixture
def free() -> TrackerConfig:
    """Random weights see everything everywhere; what they see is believed, wherever it is."""
    return TrackerConfig(motion_gate_deg=0.0, least_score=0.0, least_likeness=0.0, half_maps=False)


def pursued(tracker: PanoTracker) -> bool:
    return any(track.pursued for track in tracker._tracks.values())


def test_a_restored_tracker_goes_on_in_its_views(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    tracker = PanoTracker(small_nano, free)
    tracker.step(NOISE[0], [Prompt(1, mask=SPOT), Prompt(2, mask=OTHER)])
    assert pursued(tracker)
    logits_of(tracker, NOISE[1:12])
    saved = tracker.snapshot()
    expected = logits_of(tracker, NOISE[12:])
    other = PanoTracker(small_nano, free)
    assert other.restore(saved) == 12
    for want, got in zip(expected, logits_of(other, NOISE[12:]), strict=True):
        assert want.keys() == got.keys()
        for i in want:
            np.testing.assert_array_equal(want[i], got[i])


def test_a_step_that_fails_in_a_view_changes_nothing(
    small_nano: PanoSAM2, free: TrackerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = PanoTracker(small_nano, free)
    tracker.step(NOISE[0], [Prompt(1, mask=SPOT), Prompt(2, mask=OTHER)])
    assert pursued(tracker)
    for t in range(1, 12):
        before = tracker.snapshot()
        with monkeypatch.context() as patch:
            patch.setattr(PanoSAM2, "encode_memory", _no_more)
            with pytest.raises(MemoryError, match="no more"):
                tracker.step(NOISE[t])
        assert tracker.snapshot() == before, t
        tracker.step(NOISE[t])


def _no_more(*_: object, **__: object) -> None:
    raise MemoryError("no more")


def test_state_in_views_is_bounded(seeing: PanoSAM2) -> None:
    """Seen, hidden, lost and found again and again: it grows to its bound and no further."""
    tracker = PanoTracker(seeing, TrackerConfig(search_looks=2))
    spots = [disc(40, 0, 6), disc(-100, 20, 7)]
    tracker.step(picture(*spots), [Prompt(i + 1, mask=s) for i, s in enumerate(spots)])
    sizes = []
    for t in range(1, 480):
        shown = spots if t % 20 < 11 else []
        tracker.step(picture(*shown))
        sizes.append(tracker.state_bytes())
    assert max(sizes[400:]) == max(sizes[320:400])


def test_switching_views_off_in_mid_stream_goes_back_to_the_panorama(seeing: PanoSAM2) -> None:
    tracker = PanoTracker(seeing)
    here = disc(40, 0, 7)
    for t in range(4):
        found = tracker.step(picture(here), [Prompt(1, mask=here)] if t == 0 else []).objects[1]
    assert found.view is not None
    tracker.config = dataclasses.replace(tracker.config, view="sphere")
    for _ in range(3):
        found = tracker.step(picture(here)).objects[1]
        assert found.view is None
        assert centre_error_deg(found, 40, 0) < 9, "a cell of the panorama's masks has 11"
    tracker.config = dataclasses.replace(tracker.config, view="auto")
    for _ in range(12):
        tracker.step(picture(here))
    assert tracker.step(picture(here)).objects[1].view is not None


def test_a_roll_of_the_video_rolls_the_masks_in_views(
    small_nano: PanoSAM2, free: TrackerConfig
) -> None:
    """Whole pixels of the frame; views follow continuously, the network's grid plays no part."""
    shift = 37

    def masks(roll: int) -> list[npt.NDArray[np.bool_]]:
        tracker = PanoTracker(small_nano, free)
        out = []
        for t, frame in enumerate(NOISE[:2]):
            prompts = [Prompt(1, mask=np.roll(SPOT, roll, axis=1))] if t == 0 else []
            found = tracker.step(np.roll(frame, roll, axis=1), prompts).objects[1]
            if t == 1:
                assert found.view is not None
            out.append(np.roll(found.mask, -roll, axis=1))
        return out

    here, there = masks(0)[1], masks(shift)[1]
    assert (here & there).sum() / (here | there).sum() > 0.98


@pytest.mark.parametrize("wrong", [{"view": "near"}, {"max_local_views": 0}, {"least_score": 2.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrackerConfig(**wrong)
