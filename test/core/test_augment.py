"""Augmentation keeps a panorama a panorama, and labels on their objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from panosam2_core.data import augment as module
from panosam2_core.data.augment import AugmentConfig, augment, tilt
from panosam2_core.geometry.erp import lonlat_grid, row_solid_angle

STILL = AugmentConfig(yaw=False, tilt_deg=0, flip=0, photometric=0)


def blob(
    lon: float, lat: float, radius: float, size: tuple[int, int] = (128, 256)
) -> torch.Tensor:
    """(H, W) a disk on the sphere; angles in degrees."""
    grid_lon, grid_lat = lonlat_grid(size)
    grid_lat = grid_lat[:, None]
    lon, lat = math.radians(lon), math.radians(lat)
    cosine = (
        grid_lat.sin() * math.sin(lat) + grid_lat.cos() * math.cos(lat) * (grid_lon - lon).cos()
    )
    return (cosine > math.cos(math.radians(radius))).long()


def clip_of(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames whose red channel is the mask."""
    images = torch.zeros(2, 3, *labels.shape, dtype=torch.uint8)
    images[:, 0] = labels.to(torch.uint8) * 200
    return images, labels[None].expand(2, -1, -1)


def test_switched_off_changes_nothing() -> None:
    images, labels = clip_of(blob(30, 20, 15))
    out = augment(images, labels, STILL, np.random.default_rng(0))
    assert torch.equal(out[0], images)
    assert torch.equal(out[1], labels)


def test_equal_seeds_give_equal_clips_and_others_do_not() -> None:
    images, labels = clip_of(blob(30, 20, 15))
    config = AugmentConfig()
    a, b, c = (augment(images, labels, config, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[1], c[1])
    assert a[0].shape == images.shape
    assert a[0].dtype == images.dtype
    assert a[1].shape == labels.shape
    assert a[1].dtype == labels.dtype


@pytest.mark.parametrize("seed", range(8))
def test_picture_and_labels_move_together_and_keep_their_solid_angle(seed: int) -> None:
    images, labels = clip_of(blob(170, 40, 20))
    config = AugmentConfig(tilt_deg=40, photometric=0)
    out_images, out_labels = augment(images, labels, config, np.random.default_rng(seed))
    drawn = out_images[0, 0] > 100
    assert (drawn == (out_labels[0] == 1)).float().mean() > 0.99
    solid = row_solid_angle(128, 256)[:, None]
    before, after = ((x[0] * solid).sum().item() for x in (labels, out_labels))
    assert after == pytest.approx(before, rel=0.03)


def test_a_yaw_roll_is_exact() -> None:
    images, labels = clip_of(blob(0, 0, 20))
    config = AugmentConfig(tilt_deg=0, flip=0, photometric=0)
    _, moved = augment(images, labels, config, np.random.default_rng(3))
    shifts = [s for s in range(256) if torch.equal(torch.roll(labels, s, -1), moved)]
    assert len(shifts) == 1


def test_pitch_brings_what_is_above_to_the_front() -> None:
    images, labels = clip_of(blob(0, 30, 10))
    _, moved = tilt(images, labels, math.radians(30), 0.0)
    rows, cols = torch.nonzero(moved[0], as_tuple=True)
    assert rows.float().mean().item() == pytest.approx(63.5, abs=1)
    assert cols.float().mean().item() == pytest.approx(127.5, abs=1)


def test_roll_brings_what_is_on_the_right_up() -> None:
    images, labels = clip_of(blob(90, 0, 10))
    _, moved = tilt(images, labels, 0.0, math.radians(40))
    rows, cols = torch.nonzero(moved[0], as_tuple=True)
    assert 90 - (rows.float().mean().item() + 0.5) * 180 / 128 == pytest.approx(40, abs=2)
    assert (cols.float().mean().item() + 0.5) * 360 / 256 - 180 == pytest.approx(90, abs=2)


def test_augmentation_tilts_in_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitch and roll are drawn apart from one another, up to the angle."""
    images, labels = clip_of(blob(0, 0, 20))
    seen = []
    monkeypatch.setattr(module, "tilt", lambda i, m, *angles: seen.append(angles) or (i, m))
    for seed in range(60):
        config = AugmentConfig(yaw=False, tilt_deg=10, flip=0, photometric=0)
        augment(images, labels, config, np.random.default_rng(seed))
    pitches, rolls = np.degrees(np.array(seen)).T
    for angles in (pitches, rolls):
        assert angles.min() < -5
        assert angles.max() > 5
        assert np.abs(angles).max() <= 10
    assert abs(np.corrcoef(pitches, rolls)[0, 1]) < 0.4


def test_colours_change_alike_on_all_frames_and_labels_do_not() -> None:
    images = torch.randint(0, 255, (1, 3, 16, 32), dtype=torch.uint8).expand(3, -1, -1, -1)
    labels = torch.ones(3, 16, 32, dtype=torch.int32)
    config = AugmentConfig(yaw=False, tilt_deg=0, flip=0, photometric=0.4)
    out, ids = augment(images, labels, config, np.random.default_rng(0))
    assert torch.equal(ids, labels)
    assert not torch.equal(out, images)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


def test_ranges_are_checked() -> None:
    for wrong in ({"flip": 1.5}, {"photometric": 1.0}, {"tilt_deg": -1}):
        with pytest.raises(ValueError, match="expected flip"):
            AugmentConfig(**wrong)
