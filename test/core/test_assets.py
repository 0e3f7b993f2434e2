"""Assets: the splits share nothing, the cache says what is wrong with it, shapes are sound."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from panosam2_core.data import assets, panoramas, procedural
from panosam2_core.data.assets import SPLITS, AssetLibrary, Split, cache_dir, open_cache, split_of
from panosam2_core.data.rng import StableRng
from panosam2_core.data.scene import WorldConfig, draw_plan
from panosam2_core.data.synthetic import SyntheticWorld, fixed_test_split
from panosam2_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CACHED_SPLITS: tuple[Split, ...] = ("train", "train", "train", "val", "test")


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fetch_assets", ROOT / "scripts" / "fetch_assets.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small asset cache: row i is filled with the value 40 * i."""
    value = 40 * np.arange(len(CACHED_SPLITS), dtype=np.uint8)
    sprites = np.zeros((len(value), 32, 32, 4), dtype=np.uint8)
    sprites[:, 4:28, 8:24] = value[:, None, None, None]
    sprites[:, 4:28, 8:24, 3] = 255
    backgrounds = np.zeros((len(value), 32, 64, 3), dtype=np.uint8) + value[:, None, None, None]
    np.save(tmp_path / "sprites.npy", sprites)
    np.save(tmp_path / "backgrounds.npy", backgrounds)
    rows = [{"name": f"n{i}", "split": split} for i, split in enumerate(CACHED_SPLITS)]
    index = {"version": assets.CACHE_VERSION, "sprites": rows, "backgrounds": rows}
    (tmp_path / "index.json").write_text(json.dumps(index), encoding="utf-8")
    monkeypatch.setenv("PANOSAM2_ASSETS", str(tmp_path))
    return tmp_path


def draws(library: AssetLibrary, count: int = 400) -> tuple[set[str], set[str]]:
    """Return many drawn sprite and background references."""
    rng = StableRng("draws", library.split)
    sprites = {library.draw_sprite(rng, cover=i % 5 == 0) for i in range(count)}
    return sprites, {library.draw_background(rng) for _ in range(count)}


# Splits


def test_built_in_references_name_their_split() -> None:
    for split in SPLITS:
        sprites, backgrounds = draws(AssetLibrary("builtin", split))
        assert len(sprites) > 50
        assert len(backgrounds) == assets.PROCEDURAL_PANORAMAS[split]
        for reference in sprites | backgrounds:
            assert reference.startswith(f"proc:{split}/")


def test_built_in_pixels_of_the_splits_differ() -> None:
    sprites = {procedural.make_sprite(f"{s}/{i}").tobytes() for s in SPLITS for i in range(12)}
    assert len(sprites) == 12 * len(SPLITS)
    small = (32, 64)
    scenes = {panoramas.make_panorama(f"{s}/{i}", small).tobytes() for s in SPLITS for i in (0, 1)}
    assert len(scenes) == 2 * len(SPLITS)


def test_random_streams_of_the_splits_differ() -> None:
    config = WorldConfig()
    keys = {s: {draw_plan(config, s, i).key for i in range(50)} for s in SPLITS}
    keys["test"] |= {clip["key"] for clip in fixed_test_split()["clips"]}
    keys["demo"].add(SyntheticWorld(split="demo").plan(0).key)
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not keys[one] & keys[other]
    firsts = {StableRng("world", key).uniform() for split in SPLITS for key in keys[split]}
    assert len(firsts) == sum(len(keys[split]) for split in SPLITS)


def test_every_asset_of_the_fixed_test_split_is_held_out() -> None:
    source = SyntheticWorld(split="test")
    for index in range(0, 48, 6):
        scene = source.clip(index, size_hw=(32, 64)).scene
        assert scene.background.startswith("proc:test/")
        assert all(item.sprite.startswith("proc:test/") for item in scene.objects)


def test_fetched_rows_are_drawn_by_their_own_split_only(cache: Path) -> None:
    for split in ("train", "val", "test"):
        library = AssetLibrary("cached", split, sprite_share=0.5, background_share=0.5)
        own = {f"file:{i}" for i, s in enumerate(CACHED_SPLITS) if s == split}
        for drawn in draws(library):
            fetched = {reference for reference in drawn if reference.startswith("file:")}
            assert fetched == own
            assert all(r.startswith(f"proc:{split}/") for r in drawn - fetched)
    for drawn in draws(AssetLibrary("cached", "demo", 1.0, 1.0)):
        assert all(reference.startswith("proc:demo/") for reference in drawn)


def test_covers_are_never_fetched(cache: Path) -> None:
    library = AssetLibrary("cached", "train", sprite_share=1.0)
    rng = StableRng("covers")
    assert library.draw_sprite(rng).startswith("file:")
    assert all(library.draw_sprite(rng, cover=True).startswith("proc:") for _ in range(20))


def test_a_cache_does_not_shift_the_built_in_draws(cache: Path) -> None:
    plain, cached = AssetLibrary("builtin", "train"), AssetLibrary("cached", "train", 0.0, 0.0)
    one, two = StableRng("shift"), StableRng("shift")
    for _ in range(20):
        assert plain.draw_sprite(one) == cached.draw_sprite(two)
        assert plain.draw_background(one) == cached.draw_background(two)


def test_variants_of_a_drawing_stay_in_one_split(fetch: ModuleType) -> None:
    plain, toned, joined = "1f44b", "1f44b-1f3fd", "1f44b-200d-2640-fe0f"
    assert {fetch.group_of(stem) for stem in (plain, toned, joined)} == {plain}
    assert fetch.group_of("1f600") != fetch.group_of(plain)
    assert fetch.group_of("1f3fb") == "1f3fb"  # a tone alone is a drawing of its own


def test_the_hash_split_is_stable_and_keeps_its_shares() -> None:
    found = [split_of(f"group{i}") for i in range(4000)]
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert found.count(split) / 4000 == pytest.approx(share, abs=0.025)
    assert [split_of(group) for group in ("1f600", "1f44b", "1f697")] == ["train", "val", "train"]


# The cache


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANOSAM2_ASSETS", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("PANOSAM2_ASSETS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "panosam2" / "assets"


def test_a_missing_or_old_cache_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANOSAM2_ASSETS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"fetch_assets\.py"):
        AssetLibrary("cached", "train")
    (tmp_path / "index.json").write_text('{"version": 0}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"version.*fetch_assets\.py"):
        open_cache(tmp_path)


def test_a_wrong_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="bulitin"):
        AssetLibrary("bulitin", "train")


def test_fetched_assets_are_loaded_by_row(cache: Path) -> None:
    library = AssetLibrary("cached", "train")
    assert int(library.sprite("file:2")[16, 16, 0]) == 80
    assert int(library.panorama("file:4", 512)[0, 0, 0]) == 160
    with pytest.raises(ConfigError, match="cached"):
        AssetLibrary("builtin", "train").sprite("file:2")


def test_the_cached_world_shows_fetched_backgrounds(cache: Path) -> None:
    config = WorldConfig(
        size_hw=(64, 128),
        frames=2,
        assets="cached",
        p_cached_background=1.0,
        noise=0.0,
        p_motion_blur=0.0,
    )
    clip = SyntheticWorld(config, "val").clip(0)
    assert clip.scene.background == "file:3"
    frame = clip.frame(0)
    shown = frame.image[:, frame.labels == 0].float().median(dim=1).values
    expected = torch.from_numpy(clip.scene.gain[0]).float() * 120.0
    assert float((shown - expected).abs().max()) < 1.5
    none = SyntheticWorld(replace(config, p_cached_background=0.0), "val").clip(0).scene
    assert none.background.startswith("proc:val/")


# Procedural shapes


@pytest.mark.parametrize("shape", sorted(procedural.SHAPES))
def test_each_shape_fills_its_canvas_and_stays_inside(shape: str) -> None:
    for number in range(4):
        rgba = procedural.make_sprite(f"val/{number}", shape)
        assert rgba.shape == (procedural.SPRITE_SIZE, procedural.SPRITE_SIZE, 4)
        inside = rgba[..., 3] > 127
        assert 0.08 < inside.mean() < 0.95
        rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert not rim.any()
        assert float(rgba[inside][:, :3].std(axis=0).max()) > 2.0  # textured, not flat


def test_covers_have_no_holes() -> None:
    library = AssetLibrary("builtin", "val")
    rng = StableRng("covers")
    for _ in range(12):
        reference = library.draw_sprite(rng, cover=True)
        assert reference.rsplit("#", 1)[1] in assets.COVER_SHAPES
        inside = library.sprite(reference)[..., 3] > 127
        for lines in (inside, inside.T):  # convex along both axes: one run per line
            flips = np.abs(np.diff(lines.astype(np.int8), axis=1)).sum(axis=1)
            assert set(flips.tolist()) <= {0, 2}


def test_panoramas_have_no_seam() -> None:
    # A wall's edge may lie on the seam by chance, a seam would be there every time.
    ratios = []
    for number in range(12):
        image = panoramas.make_panorama(f"any/{number}", (64, 128)).astype(np.float32)
        assert float(image.std()) > 5.0
        steps = np.abs(image - np.roll(image, 1, axis=1)).mean(axis=(0, 2))
        ratios.append(float(steps[0] / np.median(steps)))
    assert float(np.median(ratios)) < 1.5


# The fetch script


def test_sprites_are_fitted_to_their_canvas(fetch: ModuleType) -> None:
    raw = np.zeros((100, 200, 4), dtype=np.uint8)
    raw[30:60, 40:140] = (200, 100, 50, 255)
    raw[10:30, 40:140] = (255, 255, 255, 60)  # a glow is no part of the object
    sprite = fetch.fit_sprite(raw, 64)
    assert sprite is not None
    inside = sprite[..., 3] > 127
    columns, rows = np.nonzero(inside.any(0))[0], np.nonzero(inside.any(1))[0]
    assert (columns[0], columns[-1]) == (2, 61)
    assert len(rows) == pytest.approx(60 * 0.3, abs=1)
    assert abs((rows[0] + rows[-1]) / 2.0 - 31.5) <= 1.0
    assert np.abs(sprite[inside][:, :3].astype(int) - (200, 100, 50)).max() <= 2


def test_empty_and_thin_drawings_are_left_out(fetch: ModuleType) -> None:
    raw = np.zeros((100, 100, 4), dtype=np.uint8)
    assert fetch.fit_sprite(raw, 64) is None
    raw[50:53] = 255
    assert fetch.fit_sprite(raw, 64) is None


def test_tone_mapping_keeps_order_and_exposes_the_median(fetch: ModuleType) -> None:
    ramp = np.geomspace(1e-3, 1e3, 101, dtype=np.float32)
    grey = np.repeat(ramp[None, :, None], 3, axis=2)
    shown = fetch.tone_map(grey)
    assert shown.dtype == np.uint8
    assert np.all(np.diff(shown[0, :, 0].astype(int)) >= 0)
    assert (int(shown.min()), int(shown.max())) == (pytest.approx(10, abs=10), 255)
    assert 100 < int(shown[0, 50, 0]) < 170
    assert np.array_equal(shown, fetch.tone_map(grey * 50.0))  # the exposure is automatic
