"""Prompts resolved in a view of their own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panosam2_core import ConfigError, PanoTracker, Prompt, TrackerConfig
from panosam2_core import prompt_view as module
from panosam2_core.geometry import erp
from panosam2_core.geometry.bfov import uncrop
from panosam2_core.model import Decoded, PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE
from panosam2_core.prompt_view import look

Frames = list[npt.NDArray[np.uint8]]
SIZE = (64, 128)


def disc(lon: float, lat: float, radius: float, size_hw: tuple[int, int]) -> np.ndarray:
    centre = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64))
    return (erp.rays(size_hw, dtype=torch.float64) @ centre > math.cos(radius)).numpy()


def painted(mask: np.ndarray) -> torch.Tensor:
    """A picture in which the object is white and all else black."""
    return torch.from_numpy(np.repeat(mask[None, None], 3, axis=1)).to(torch.uint8) * 255


@pytest.fixture
def seeing(small_nano: PanoSAM2, monkeypatch: pytest.MonkeyPatch) -> PanoSAM2:
    """A network that takes what is white for the object; only the geometry is under test."""

    def white(model: PanoSAM2, images: torch.Tensor, points: PointPrompts, *, pano: bool):
        assert not pano, "a view has no seam"
        grey = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
        asked.append(points)
        return decoded._replace(logits=grey * 10)

    asked: list[PointPrompts] = []
    features = small_nano.encode_image(torch.zeros(1, 3, *SIZE), pano=True)
    decoded = module.prompt_points(
        small_nano,
        features,
        PointPrompts(torch.tensor([[[3.0, 3.0]]]), torch.ones(1, 1, dtype=torch.int32)),
        pano=True,
    )
    monkeypatch.setattr(PanoSAM2, "encode_image", lambda self, images, pano: images)
    monkeypatch.setattr(module, "prompt_points", white)
    monkeypatch.setattr(small_nano, "asked", asked, raising=False)
    return small_nano


@pytest.mark.parametrize(
    ("kind", "lat"),
    # No boxes near the poles: in pixels they say little about a thing there.
    [("click", 0.0), ("click", 0.6), ("click", 1.2), ("click", -1.45), ("box", 0.0), ("box", 0.6)],
)
@pytest.mark.parametrize("lon", [0.3, 3.04])
def test_a_small_object_comes_back_at_its_place(
    seeing: PanoSAM2, lon: float, lat: float, kind: str
) -> None:
    """Anywhere on the sphere, the seam and the poles included."""
    large = (512, 1024)
    mask = disc(lon, lat, math.radians(8), large)
    u, v = erp.ray_to_pixel(erp.lonlat_to_ray(*torch.tensor((lon, lat))), SIZE).tolist()
    if kind == "click":
        points = PointPrompts(torch.tensor([[[u, v]]]), torch.ones(1, 1, dtype=torch.int32))
    else:
        half_h, half_w = 64 * 8 / 180, 64 * 8 / 180 / math.cos(lat)
        box = [[[u - half_w, v - half_h], [u + half_w, v + half_h]]]
        points = PointPrompts(torch.tensor(box), torch.tensor([[2, 3]], dtype=torch.int32))
    found = look(seeing, painted(mask), points)
    assert found is not None
    decoded, view = found
    fine = (64, 128)
    got = uncrop(decoded.logits, view, fine, OUTSIDE)[0, 0].numpy() > 0
    rays = erp.rays(fine, dtype=torch.float64).numpy()
    weight = np.cos(erp.lonlat_grid(fine)[1].numpy())[:, None] * got
    mean = (rays * weight[..., None]).sum((0, 1))
    centre = erp.lonlat_to_ray(*torch.tensor((lon, lat), dtype=torch.float64)).numpy()
    assert got.any()
    assert mean @ centre / np.linalg.norm(mean) > math.cos(math.radians(3))
    assert (got & ~disc(lon, lat, math.radians(16), fine)).sum() == 0


def test_a_large_object_is_left_to_the_panorama(seeing: PanoSAM2) -> None:
    click = PointPrompts(torch.tensor([[[64.0, 32.0]]]), torch.ones(1, 1, dtype=torch.int32))
    large = painted(disc(0.0, 0.0, math.radians(25), (256, 512)))
    assert look(seeing, large, click) is None
    box = torch.tensor([[[50.0, 20.0], [80.0, 40.0]]])  # 84 degrees wide
    assert look(seeing, large, PointPrompts(box, torch.tensor([[2, 3]]))) is None


def test_clicks_far_apart_are_left_to_the_panorama(seeing: PanoSAM2) -> None:
    xy = torch.tensor([[[10.0, 32.0], [60.0, 32.0]]])
    small = painted(disc(0.0, 0.0, math.radians(5), (256, 512)))
    assert look(seeing, small, PointPrompts(xy, torch.tensor([[1, 0]]))) is None
    assert not seeing.asked


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network finds large things or nothing; take what it finds all the same."""
    real = module.prompt_points

    def more(*args: object, **kwargs: object) -> Decoded:
        decoded = real(*args, **kwargs)
        return decoded._replace(logits=decoded.logits - decoded.logits.mean())

    monkeypatch.setattr(module, "SMALL", 10.0)
    monkeypatch.setattr(module, "prompt_points", more)


@pytest.mark.usefixtures("always")
def test_rolling_the_panorama_rolls_what_the_view_finds(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def first(shift: int) -> npt.NDArray[np.float32]:
        tracker = PanoTracker(small_nano, TrackerConfig(prompt_view="auto", motion_gate_deg=0.0))
        prompt = Prompt(1, box=((120 + shift) % 128, 30.0, (125 + shift) % 128, 34.0))
        frame = np.roll(noise_frames[0], shift, axis=1)
        return tracker.step(frame, [prompt]).objects[1].logits

    still = first(0)
    assert (still == OUTSIDE).any(), "the view was not used"
    np.testing.assert_allclose(np.roll(first(32), -8, axis=1), still, atol=1e-2, rtol=0)


@pytest.mark.usefixtures("always")
def test_the_view_can_be_switched_off_and_leaves_others_alone(
    small_nano: PanoSAM2, noise_frames: Frames
) -> None:
    def second(view: str) -> tuple[np.ndarray, np.ndarray]:
        tracker = PanoTracker(small_nano, TrackerConfig(prompt_view=view, motion_gate_deg=0.0))
        mask = np.zeros((64, 128), bool)
        mask[20:40, 60:80] = True
        tracker.step(noise_frames[0], [Prompt(1, mask=mask)])
        result = tracker.step(noise_frames[1], [Prompt(2, box=(60.0, 30.0, 65.0, 34.0))])
        return result.objects[1].logits, result.objects[2].logits

    assert TrackerConfig().prompt_view == "auto"
    plain, close = second("sphere"), second("auto")
    assert np.array_equal(plain[0], close[0])
    assert not np.array_equal(plain[1], close[1])


def test_an_unknown_view_is_named() -> None:
    with pytest.raises(ConfigError, match="sphere.*auto.*got 'near'"):
        TrackerConfig(prompt_view="near")


def test_clicks_keep_their_sides_in_the_view(seeing: PanoSAM2) -> None:
    """Up stays up and right stays right, near the horizon and across the seam."""
    large = (512, 1024)
    for lon in (0.4, math.pi):
        middle = erp.ray_to_pixel(erp.lonlat_to_ray(torch.tensor(lon), torch.tensor(0.1)), SIZE)
        u, v = (middle % torch.tensor([128.0, 64.0])).tolist()
        around = [[u, v], [u + 1.5, v], [u, v - 1.0]]
        labels = torch.tensor([[1, 0, 0]], dtype=torch.int32)
        mask = disc(lon, 0.1, math.radians(8), large)
        seeing.asked.clear()
        clicks = PointPrompts(torch.tensor([around]), labels)
        assert look(seeing, painted(mask), clicks) is not None
        (asked,) = seeing.asked
        (x, y), (right_x, right_y), (top_x, top_y) = asked.xy[0].tolist()
        assert asked.labels.tolist() == [[1, 0, 0]]
        assert right_x - x > 2
        assert abs(right_y - y) < 0.3 * (right_x - x)
        assert y - top_y > 2
        assert abs(top_x - x) < 0.3 * (y - top_y)
