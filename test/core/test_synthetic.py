"""The synthetic world: exact, deterministic, split-disjoint; the test split is what it was."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core.data.demo import build_demo_scene, demo_config
from panosam2_core.data.limits import MotionBounds, measure_motion, stated_bounds
from panosam2_core.data.render import Canvas, ball_window
from panosam2_core.data.rng import StableRng
from panosam2_core.data.scene import (
    WORLD_VERSION,
    ClipPlan,
    Scene,
    WorldConfig,
    build_scene,
    draw_plan,
)
from panosam2_core.data.synthetic import (
    SyntheticClip,
    SyntheticWorld,
    fixed_test_config,
    fixed_test_split,
    verify_test_clip,
)
from panosam2_core.errors import ConfigError
from panosam2_core.geometry import erp
from panosam2_core.geometry.region import RegionMeasure, measure

SMALL = WorldConfig(size_hw=(64, 128), frames=12)
CROWD = WorldConfig(
    size_hw=(96, 192),
    frames=12,
    objects=(6, 6),
    angular_size_deg=(30.0, 70.0),
    p_occlusion=1.0,
    p_motion_blur=0.0,
)
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def world(config: WorldConfig, split: str = "train") -> SyntheticWorld:
    return SyntheticWorld(config, split)  # type: ignore[arg-type]


def clip_of(scene: Scene, source: SyntheticWorld, size_hw: tuple[int, int]) -> SyntheticClip:
    return SyntheticClip(scene, source.library, Canvas(size_hw, torch.device("cpu")))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def directions(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


# Determinism


def test_the_random_stream_is_the_one_of_version_1() -> None:
    rng = StableRng("panosam2", 1)
    # By hand: SHA-256 of the key, its first 16 bytes little-endian as seed, top 53 bits of PCG64.
    seed = int.from_bytes(hashlib.sha256(b"panosam2/1").digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(3)
    assert rng.uniforms(3).tolist() == [int(r) // 2**11 / 2**53 for r in raw]
    assert StableRng("panosam2", 1).uniform() == 0.34544346766147394


def test_same_seed_gives_the_same_pixels_in_any_order() -> None:
    forward = [world(SMALL).clip(3).frame(t) for t in (0, 7)]
    fresh = SyntheticWorld(SMALL, "train").clip(3)
    backward = [fresh.frame(t) for t in (7, 0)][::-1]
    for first, again in zip(forward, backward, strict=True):
        assert torch.equal(first.image, again.image)
        assert torch.equal(first.labels, again.labels)
        assert first.visibility == again.visibility
    assert not torch.equal(forward[0].image, forward[1].image)


def test_clips_differ_from_each_other() -> None:
    scenes = [world(SMALL).clip(i).scene for i in range(12)]
    assert len({scene.objects[0].centre.tobytes() for scene in scenes}) == 12


# Shapes, resolution


def test_frame_has_the_promised_types() -> None:
    clip = world(SMALL, "val").clip(0)
    frame = clip.frame(0)
    assert frame.image.shape == (3, 64, 128)
    assert frame.image.dtype == torch.uint8
    assert frame.labels.shape == (64, 128)
    assert frame.labels.dtype == torch.uint8
    assert set(frame.visibility) == set(clip.object_ids)
    assert set(np.unique(frame.labels)) <= {0, *clip.object_ids}
    assert sum(1 for _ in clip) == len(clip) == clip.num_frames == 12


def test_masks_and_truth_are_those_of_the_frame() -> None:
    clip = world(CROWD).clip(0)
    frame, (labels, visibility), masks = clip.frame(4), clip.truth(4), clip.masks(4)
    assert torch.equal(labels, frame.labels)
    assert visibility == frame.visibility
    assert masks.dtype == torch.bool
    assert masks.shape == (6, 96, 192)
    rebuilt = sum(int(i) * m.int() for i, m in zip(clip.object_ids, masks, strict=True))
    assert torch.equal(rebuilt, frame.labels.int())


@pytest.mark.parametrize("index", [1, 4])
def test_the_scene_does_not_depend_on_resolution(index: int) -> None:
    source = world(replace(SMALL, angular_size_deg=(25.0, 60.0), p_motion_blur=0.0, noise=0.0))
    low, high = (source.clip(index, size_hw=size) for size in ((64, 128), (192, 384)))
    centre = high.truth(5)[0][1::3, 1::3]  # a low pixel's centre is the one of its middle third
    assert int((centre > 0).sum()) > 100
    assert float((low.truth(5)[0] != centre).float().mean()) < 0.01
    assert low.truth(5)[1] == pytest.approx(high.truth(5)[1], abs=0.06)
    assert low.events == high.events
    averaged = torch.nn.functional.avg_pool2d(high.frame(5).image.float(), 3)
    assert float((averaged - low.frame(5).image).abs().mean()) < 8.0


# Light


def test_noise_has_the_promised_strength_and_leaves_the_labels() -> None:
    source = world(replace(SMALL, p_motion_blur=0.0))
    scene = source.clip(2).scene
    clean, noisy = (
        clip_of(replace(scene, noise=noise), source, (64, 128)).frame(3) for noise in (0.0, 0.02)
    )
    inner = (clean.image > 40) & (clean.image < 215)
    gap = (noisy.image.float() - clean.image.float())[inner]
    assert float(gap.std()) == pytest.approx(0.02 * 255.0, rel=0.1)
    assert abs(float(gap.mean())) < 0.3
    assert torch.equal(noisy.labels, clean.labels)


def test_motion_blur_softens_the_image_and_leaves_the_labels() -> None:
    source = world(replace(SMALL, yaw_speed_deg=8.0, noise=0.0))
    scene = replace(source.clip(2).scene, blur=0.0)
    scene = replace(scene, angles=np.arange(12)[:, None] * np.array([math.radians(6.0), 0.0, 0.0]))
    sharp, soft = (
        clip_of(replace(scene, blur=blur), source, (64, 128)).frame(5) for blur in (0.0, 0.7)
    )
    edges = [float(f.image.float().diff(dim=-1).abs().mean()) for f in (sharp, soft)]
    assert edges[1] < 0.85 * edges[0]
    assert torch.equal(sharp.labels, soft.labels)


def test_exposure_scales_the_image() -> None:
    source = world(replace(SMALL, noise=0.0))
    scene = source.clip(2).scene
    half = clip_of(replace(scene, gain=scene.gain / 2.0), source, (64, 128)).frame(5).image
    whole = source.clip(2).frame(5).image.float()
    fits = whole < 250  # not clipped
    assert float((half.float() - whole / 2.0).abs()[fits].max()) <= 1.0


# Depth and visibility


@pytest.mark.parametrize("index", range(3))
def test_the_nearest_object_wins_and_areas_are_those_of_the_pixels(index: int) -> None:
    clip = world(CROWD).clip(index)
    scene, row_sr = clip.scene, erp.row_solid_angle(96, 192)[:, None]
    overlaps = 0
    for t in (0, 5, 11):
        labels, visibility = clip.truth(t)
        alone, far = [], []
        for item in scene.objects:
            one = clip_of(replace(scene, objects=(item,)), world(CROWD), (96, 192))
            alone.append(one.truth(t)[0] > 0)
            far.append(float(np.linalg.norm(item.centre[t] - scene.position[t])))
        expected = torch.zeros_like(labels)
        for number in sorted(range(6), key=lambda n: -far[n]):
            expected[alone[number]] = scene.objects[number].object_id
        assert torch.equal(labels, expected)
        overlaps += int((torch.stack(alone).sum(0) > 1).sum())
        for item, whole in zip(scene.objects, alone, strict=True):
            seen = float(((labels == item.object_id) * row_sr).sum())
            area = float((whole * row_sr).sum())
            share = seen / area if area else 0.0
            assert visibility[item.object_id] == pytest.approx(share, abs=1e-5)
    assert overlaps > 50


@settings(max_examples=12, deadline=None)
@given(index=st.integers(0, 10**6), t=st.integers(0, 11))
def test_visibility_is_a_share(index: int, t: int) -> None:
    config = replace(SMALL, size_hw=(32, 64))
    labels, visibility = world(config).clip(index).truth(t)
    assert all(0.0 <= share <= 1.0 for share in visibility.values())
    for number, share in visibility.items():
        assert bool((labels == number).any()) == (share > 0.0)


def test_the_planned_occlusion_hides_the_target() -> None:
    source = world(replace(SMALL, frames=40, p_occlusion=1.0, size_hw=(96, 192)), "val")
    for index in range(4):
        clip = source.clip(index)
        hidden = clip.events.full_occlusion
        assert hidden is not None
        assert 5 <= hidden[1] - hidden[0] + 1 <= 20
        for t in (hidden[0], hidden[1]):
            assert clip.truth(t)[1][clip.target_id] < 0.02
        assert clip.truth(0)[1][clip.target_id] > 0.5
        assert max(clip.truth(t)[1][clip.target_id] for t in range(hidden[1] + 1, 40)) > 0.2


# Geometry


@given(
    lon=st.floats(-math.pi, math.pi),
    lat=st.floats(-1.5, 1.5),
    radius=st.floats(0.02, 1.4),
)
@settings(max_examples=60, deadline=None)
def test_a_window_holds_every_pixel_that_sees_its_ball(
    lon: float, lat: float, radius: float
) -> None:
    size = (48, 96)
    centre = 3.0 * np.array(
        [math.cos(lat) * math.sin(lon), -math.sin(lat), math.cos(lat) * math.cos(lon)]
    )
    top, bottom, spans = ball_window(centre, 3.0 * math.sin(radius), size)
    window = np.zeros(size, dtype=bool)
    for left, right in spans:
        window[top:bottom, left:right] = True
    rays = erp.rays(size, dtype=torch.float64).numpy()
    sees = rays @ (centre / 3.0) > math.cos(radius) + 1e-9
    assert not (sees & ~window).any()


def turned(scene: Scene, angle: float) -> Scene:
    angles = scene.angles.copy()
    angles[:, 0] += angle
    return replace(scene, angles=angles)


@pytest.mark.parametrize("columns", [1, 48, 100])
def test_turning_the_camera_rolls_the_frame(columns: int) -> None:
    # A level camera without noise: yaw by k columns moves what column i showed to column i - k.
    source = world(replace(CROWD, tilt_deg=0.0, noise=0.0))
    scene = source.clip(1).scene
    still = clip_of(scene, source, (96, 192)).frame(6)
    moved = clip_of(turned(scene, 2 * math.pi * columns / 192), source, (96, 192)).frame(6)
    labels = erp.roll_yaw(still.labels, -columns)
    assert int((labels > 0).sum()) > 500
    assert float((moved.labels != labels).float().mean()) < 2e-3
    gap = (moved.image.int() - erp.roll_yaw(still.image, -columns).int()).abs().float()
    assert float((gap > 2).float().mean()) < 5e-3
    # Not because all is alike: the unrolled frame differs a lot.
    unrolled = (moved.image.int() - still.image.int()).abs().float()
    assert float(unrolled.mean()) > 10 * float(gap.mean())


@pytest.mark.parametrize("columns", [1, 60])
def test_the_background_has_no_seam_of_its_own(columns: int) -> None:
    source = world(replace(CROWD, tilt_deg=0.0, translation_m=0.0, noise=0.0))
    scene = replace(source.clip(1).scene, objects=())
    turn = scene.background_turn + 2 * math.pi * columns / 192
    still = clip_of(scene, source, (96, 192)).frame(6).image
    moved = clip_of(replace(scene, background_turn=turn), source, (96, 192)).frame(6).image
    gap = (moved.int() - erp.roll_yaw(still, -columns).int()).abs()
    assert int(gap.max()) <= 2
    assert float((moved.int() - still.int()).abs().float().mean()) > 2.0


def test_seam_is_crossed_only_when_planned() -> None:
    for chance in (0.0, 1.0):
        source = world(replace(SMALL, p_seam=chance, frames=30))
        clips = [source.clip(i) for i in range(6)]
        crossed = [bool(clip.events.seam_crossings) for clip in clips]
        assert np.mean(crossed) == 0.0 if chance == 0.0 else np.mean(crossed) > 0.8
        if chance == 0.0:
            for clip in clips:
                mask = clip.masks(15)[0]
                assert not bool((mask[:, 0] | mask[:, -1]).any())


def test_targets_and_free_objects_keep_the_bounds_of_the_config() -> None:
    config = replace(SMALL, frames=40, object_speed_deg=4.0, max_latitude_deg=50.0)
    fastest = 0.0
    for index in range(12):
        scene = build_scene(config, draw_plan(config, "val", index), world(config, "val").library)
        for item in scene.objects:
            if item.role in ("target", "other"):
                way = directions(item.centre)
                turn = np.arccos(np.clip((way[1:] * way[:-1]).sum(-1), -1.0, 1.0))
                fastest = max(fastest, float(np.degrees(turn).max()))
                assert np.degrees(np.abs(np.arcsin(way[:, 1]))).max() <= 50.0 + 1e-6
    assert 2.0 < fastest <= 4.0 + 1e-6


# The fixed test split


@pytest.mark.parametrize("index", range(0, 48, 12))
def test_the_fixed_split_is_unchanged(index: int) -> None:
    assert verify_test_clip(index) <= 0.02


def test_a_changed_world_does_not_pass_for_the_fixed_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = fixed_test_split()
    swapped = [{**body["clips"][1], "key": body["clips"][2]["key"]}]
    monkeypatch.setattr(
        "panosam2_core.data.synthetic.fixed_test_split", lambda: {**body, "clips": swapped}
    )
    assert verify_test_clip(0) > 0.02


def test_the_fixed_split_keeps_its_quotas() -> None:
    body = fixed_test_split()
    clips, config = body["clips"], body["config"]
    assert (body["version"], body["world_version"]) == (2, WORLD_VERSION)
    assert config == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(WorldConfig()).items()
    }
    assert (config["frames"], config["size_hw"]) == (60, [512, 1024])
    assert (config["objects"], config["angular_size_deg"]) == ([2, 6], [8.0, 70.0])
    assert (config["object_speed_deg"], config["yaw_speed_deg"]) == (6.0, 8.0)
    assert config["max_latitude_deg"] == 75.0
    assert len({clip["key"] for clip in clips}) == len(clips)
    crossing = [clip for clip in clips if clip["seam_crossings"]]
    hidden = [clip for clip in clips if clip["hidden_frames"]]
    assert crossing == [clip for clip in clips if clip["seam"]]
    assert hidden == [clip for clip in clips if clip["occlusion"]]
    assert all(clip["hidden_runs"] == 1 and 5 <= clip["hidden_frames"] <= 20 for clip in hidden)
    assert (len(clips), len(crossing), len(hidden)) == (48, 24, 16)
    assert sum(clip["lookalike"] for clip in clips) == 16
    assert all(2 <= clip["objects"] <= 6 and clip["first"] > 0.95 for clip in clips)


def orbit(lat: float, step: float, frames: int = 5, distance: float = 3.0) -> np.ndarray:
    """Return a path (T, 3) along a parallel; degrees."""
    lon = np.radians(step) * np.arange(frames)
    level, up = math.cos(math.radians(lat)), math.sin(math.radians(lat))
    return distance * np.stack([level * np.sin(lon), np.full(frames, -up), level * np.cos(lon)], 1)


def test_motion_is_measured_as_defined() -> None:
    scene = world(replace(SMALL, objects=(3, 3))).clip(0).scene
    slow, fast, high = (
        replace(item, centre=centre)
        for item, centre in zip(
            scene.objects, (orbit(0, 1), orbit(0, -7), orbit(-80, 10)), strict=True
        )
    )
    fast.centre[3:] *= 1.4  # what comes nearer or goes away does not turn
    yaw = np.radians([170.0, 175.0, 182.0, 173.0, 170.0])  # unwrapped, as in a scene
    angles = np.stack([yaw, np.radians([0.0, 30.0, 0.0, 30.0, 0.0]), np.zeros(5)], 1)
    path = np.random.default_rng(0).normal(size=(5, 3))  # the camera's path does not count
    turning = replace(scene, frames=5, angles=angles, position=path, objects=(slow, fast, high))
    # On the parallel of 80 degrees, 10 degrees of longitude are a much smaller angle.
    found = measure_motion(turning)
    assert found.yaw_deg_per_frame == pytest.approx(9.0)
    assert found.object_deg_per_frame == pytest.approx(7.0)
    assert found.latitude_deg == pytest.approx(80.0)
    small = 2 * math.asin(math.cos(math.radians(80.0)) * math.sin(math.radians(5.0)))
    assert measure_motion(replace(turning, objects=(high,))).object_deg_per_frame == (
        pytest.approx(math.degrees(small))
    )
    empty = measure_motion(replace(turning, angles=angles[:1], objects=()))
    assert empty == MotionBounds(0.0, 0.0, 0.0)


def test_bounds_bind_each_value() -> None:
    bounds = stated_bounds(replace(SMALL, yaw_speed_deg=3.0, object_speed_deg=2.0))
    assert bounds == MotionBounds(3.0, 2.0, 75.0)
    assert bounds.within(bounds)
    for name, value in asdict(bounds).items():
        for over in (value + 1e-9, math.nan):
            assert not replace(bounds, **{name: over}).within(bounds)


@pytest.mark.parametrize("index", range(48))
def test_every_clip_of_the_fixed_split_keeps_the_bounds(index: int) -> None:
    source = SyntheticWorld(split="test")
    found = measure_motion(build_scene(source.config, source.plan(index), source.library))
    assert fixed_test_split()["limits"] == asdict(stated_bounds(source.config))
    assert found.within(MotionBounds(**fixed_test_split()["limits"])), found


@pytest.mark.parametrize(
    ("plan", "over"),
    [
        (ClipPlan("test-v1/16", False, False, False), "yaw_deg_per_frame"),
        (ClipPlan("test-v1/59", True, True, False), "object_deg_per_frame"),
        (ClipPlan("test-v1/67", True, False, True), "latitude_deg"),
    ],
)
def test_clips_that_were_replaced_broke_a_bound(plan: ClipPlan, over: str) -> None:
    # Version 1 of the split held them; the measure must keep telling.
    config = fixed_test_config()
    scene = build_scene(config, plan, SyntheticWorld(split="test").library)
    bounds = asdict(stated_bounds(config))
    assert asdict(measure_motion(scene))[over] > bounds[over] + 1.0
    assert plan.key not in {clip["key"] for clip in fixed_test_split()["clips"]}


@pytest.mark.parametrize("index", [0, 13, 31, 45])
def test_the_stored_facts_of_a_clip_are_what_is_drawn(index: int) -> None:
    maker = script("make_test_split")
    entry = fixed_test_split()["clips"][index]
    clip = SyntheticWorld(split="test").clip(index, size_hw=maker.MEASURE_SIZE)
    found = maker.measure(clip)
    assert maker.fits(
        ClipPlan(entry["key"], entry["seam"], entry["occlusion"], entry["lookalike"]), found
    )
    assert found["seam_crossings"] == entry["seam_crossings"]
    assert abs(found["hidden_frames"] - entry["hidden_frames"]) <= 1
    assert len(clip.object_ids) == entry["objects"]
    twins = [item for item in clip.scene.objects[1:] if item.role == "lookalike"]
    assert len(twins) == int(entry["lookalike"])
    assert all(item.sprite == clip.scene.objects[0].sprite for item in twins)


# The demo


@functools.cache
def demo() -> tuple[SyntheticClip, list[float], list[RegionMeasure | None]]:
    """Return the demo clip at a low resolution: visibility and measures of the target."""
    clip = SyntheticWorld(split="demo").clip(0, size_hw=(128, 256))
    shares, found = [], []
    for t in range(clip.num_frames):
        labels, visibility = clip.truth(t)
        shares.append(visibility[clip.target_id])
        found.append(measure((labels == clip.target_id).numpy(), True))
    return clip, shares, found


def test_the_demo_crosses_the_seam_and_is_long_enough() -> None:
    clip, _, found = demo()
    assert clip.num_frames >= 220
    assert clip.target_id == 1
    crossings = clip.events.seam_crossings
    assert len(crossings) >= 2
    for t in crossings:
        region = found[t]
        assert region is not None
        assert region.crosses_seam


def test_the_demo_hides_its_target_once() -> None:
    clip, shares, _ = demo()
    hidden = np.nonzero(np.array(shares) < 0.005)[0]
    assert 8 <= len(hidden) <= 15
    assert np.all(np.diff(hidden) == 1)
    planned = clip.events.full_occlusion
    assert planned is not None
    assert abs(planned[0] - hidden[0]) <= 1
    assert abs(planned[1] - hidden[-1]) <= 1
    assert shares[hidden[0] - 25] > 0.95
    assert shares[hidden[-1] + 30] > 0.95
    scene = clip.scene
    for t in hidden:
        far = [float(np.linalg.norm(o.centre[t] - scene.position[t])) for o in scene.objects]
        assert far[1] < 0.6 * far[0]
    # Nothing but the board comes near to hiding it.
    outside = [s for t, s in enumerate(shares) if abs(t - hidden.mean()) > 45]
    assert min(outside) > 0.7


def test_the_demo_target_is_of_the_promised_size_and_starts_in_the_middle() -> None:
    _, shares, found = demo()
    whole = [r for r, share in zip(found, shares, strict=True) if r is not None and share > 0.99]
    assert len(whole) > 120
    longer = [math.degrees(max(r.angular_width, r.angular_height)) for r in whole]
    assert 25.0 <= min(longer) <= max(longer) <= 45.0
    assert max(abs(math.degrees(r.lat)) for r in whole) < 30.0
    first = found[0]
    assert first is not None
    assert shares[0] == 1.0
    assert abs(math.degrees(first.lon)) < 15.0


def test_the_demo_moves_smoothly() -> None:
    clip, _, _ = demo()
    yaw = np.degrees(clip.scene.angles[:, 0])
    assert np.abs(np.diff(yaw)).max() <= 4.0
    assert np.abs(np.diff(yaw, 2)).max() <= 0.3
    for item in clip.scene.objects:
        way = directions(item.centre)
        turn = np.degrees(np.arccos(np.clip((way[1:] * way[:-1]).sum(-1), -1.0, 1.0)))
        assert turn.max() <= 6.0


def test_the_demo_is_held_out_and_its_target_stands_out() -> None:
    clip, _, _ = demo()
    scene = clip.scene
    sprites = [item.sprite for item in scene.objects]
    assert 3 <= len(set(sprites)) == len(sprites) <= 5
    for reference in (*sprites, scene.background):
        assert reference.startswith("proc:demo/")
    target = scene.objects[0].object_id
    means = {}
    frame = clip.frame(0)
    for number in (0, *clip.object_ids):
        means[number] = frame.image[:, frame.labels == number].float().mean(dim=1)
    for number, mean in means.items():
        assert number == target or float((mean - means[target]).norm()) > 60.0


def test_the_demo_is_the_same_each_time() -> None:
    one, two = (SyntheticWorld(split="demo").clip(0, size_hw=(64, 128)) for _ in range(2))
    for t in (0, 135, 239):
        assert torch.equal(one.frame(t).image, two.frame(t).image)
    library = SyntheticWorld(split="demo").library
    assert build_demo_scene(library).angles.tobytes() == one.scene.angles.tobytes()


def test_further_demo_clips_are_drawn_from_held_out_assets() -> None:
    source = SyntheticWorld(demo_config((64, 128)), "demo")
    scenes = [source.clip(i).scene for i in (1, 2)]
    assert scenes[0].objects[0].centre.tobytes() != scenes[1].objects[0].centre.tobytes()
    for scene in scenes:
        assert scene.frames >= 220
        assert all(item.sprite.startswith("proc:demo/") for item in scene.objects)


# Errors


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="size_hw"):
        WorldConfig(size_hw=(100, 100))
    with pytest.raises(ConfigError, match="frames"):
        WorldConfig(frames=0)
    with pytest.raises(ConfigError, match="objects"):
        WorldConfig(objects=(3, 2))
    with pytest.raises(ConfigError, match="degrees"):
        WorldConfig(angular_size_deg=(0.0, 10.0))
    with pytest.raises(ConfigError, match="split"):
        SyntheticWorld(SMALL, "tset")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="demo"):
        SyntheticWorld(SMALL, "demo")


def test_indices_outside_are_named() -> None:
    with pytest.raises(IndexError, match="frame"):
        world(SMALL, "val").clip(0).frame(12)
    with pytest.raises(IndexError, match="frame"):
        world(SMALL, "val").clip(0).truth(-1)
    with pytest.raises(IndexError, match="clip index"):
        SyntheticWorld(split="test").clip(48)
    with pytest.raises(IndexError, match="clip index"):
        world(SMALL).clip(-1)
