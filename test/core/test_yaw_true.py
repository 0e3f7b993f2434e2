"""Rolling a closed panorama rolls what a yaw-true network finds, Hiera with SAM2's weights too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import randomize
from omegaconf import OmegaConf
from sam2.modeling.position_encoding import PositionEmbeddingSine
from upstream import build_predictor, save_checkpoint

from panosam2_core import ConfigError, PanoTracker, Prompt, TrackerConfig, evaluate, load_model
from panosam2_core.build import VARIANTS
from panosam2_core.model import PanoSAM2
from panosam2_core.nn import hiera
from panosam2_core.nn.derived import Derived
from panosam2_core.nn.position import GridRoPEAttention, LatitudeSine

SMALL, STEP = (224, 448), 224
FRAMES = 10  # the long-term memory takes part from the eighth
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in Meta's file format."""
    return save_checkpoint(build_predictor("hiera_t"), tmp_path_factory.mktemp("weights"))


@pytest.fixture
def make(checkpoint: Path) -> Callable[..., PanoSAM2]:
    def made(*, yaw_true: bool | None) -> PanoSAM2:
        model = load_model(
            "hiera_t",
            checkpoint=checkpoint,
            device="cpu",
            precision="float32",
            input_size=SMALL,
            yaw_true=yaw_true,
        )
        randomize(model, seed=1)  # position codes and panoramic parts start at zero
        with torch.no_grad():  # objects count as visible, masks as good
            model.sam_mask_decoder.iou_prediction_head.layers[-1].bias.fill_(4.0)
            model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(4.0)
        return model

    return made


def noise_image(size_hw: tuple[int, int]) -> torch.Tensor:
    return torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(2))


def errors(model: PanoSAM2, *shifts: int) -> tuple[list[bool], float]:
    """Which of both skips and the top feature are equal; largest relative error of all."""
    image = noise_image(model.input_size)
    equal, worst = [True] * 3, 0.0

    def outputs(shift: int) -> list[torch.Tensor]:
        with torch.no_grad():
            found = model.encode_image(image.roll(shift, -1), pano=True)
        return [*found.skips, found.top]

    whole = outputs(0)
    for shift in shifts:
        for i, (before, rolled) in enumerate(zip(whole, outputs(shift), strict=True)):
            want = before.roll(shift * before.shape[-1] // image.shape[-1], -1)
            equal[i] &= torch.equal(rolled, want)
            worst = max(worst, float((rolled - want).abs().max() / want.abs().max()))
    return equal, worst


@pytest.mark.parametrize(("size_hw", "shifts"), [(SMALL, [STEP]), ((448, 896), [STEP, 2 * STEP])])
def test_rolling_the_panorama_rolls_hieras_features(
    make: Callable[..., PanoSAM2], size_hw: tuple[int, int], shifts: list[int]
) -> None:
    model = make(yaw_true=True)
    model.set_input_size(size_hw)
    equal, worst = errors(model, *shifts)
    # Skips come of windows alone. Before the top feature some blocks attend to the whole image,
    # whose keys come in another order.
    assert equal == [True, True, False]
    assert worst < ROUNDING


def without_the_wrap(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hiera, "wrapped", lambda run, x, *_: run(x))


def with_metas_background(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    model.image_encoder.trunk.yaw_true = False
    model.image_encoder.trunk._code = Derived()


def with_sams_rope(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    for module in model.modules():
        if isinstance(module, GridRoPEAttention):
            module.set_grid(model.grid_hw, harmonic=False)


def with_the_sine_of_the_image(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    model.image_encoder.neck.position_encoding = PositionEmbeddingSine(256)


def with_the_sine_of_memory(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    model.memory_encoder.position_encoding = PositionEmbeddingSine(64)


def with_a_decoder_code_that_stays(model: PanoSAM2, patch: pytest.MonkeyPatch) -> None:
    model.config = dataclasses.replace(model.config, yaw_true=False)


@pytest.mark.parametrize("fault", [without_the_wrap, with_metas_background])
def test_features_roll_for_no_less(
    make: Callable[..., PanoSAM2],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[PanoSAM2, pytest.MonkeyPatch], None],
) -> None:
    model = make(yaw_true=True)
    fault(model, monkeypatch)
    assert errors(model, STEP)[1] > 100 * ROUNDING


def clip(frames: int) -> list[npt.NDArray[np.uint8]]:
    """An orange thing that moves on noise; twice as large as the network's input."""
    generator = np.random.default_rng(4)
    height, width = SMALL
    coarse = generator.integers(0, 64, (frames, height // 16, width // 16, 3), dtype=np.uint8)
    fine = generator.integers(0, 64, (frames, 2 * height, 2 * width, 3), dtype=np.uint8)
    pictures = list(fine + coarse.repeat(32, axis=1).repeat(32, axis=2))
    for t, picture in enumerate(pictures):
        picture[150:330, 40 + 4 * t : 200 + 4 * t] = (255, 140, 0)
    return pictures


def follow(model: PanoSAM2, shift: int, frames: int, config: TrackerConfig) -> list[Any]:
    """Objects by id per frame; the clip, its prompts and the results rolled by ``shift`` px."""
    width = 2 * SMALL[1]
    mask = np.zeros((2 * SMALL[0], width), bool)
    mask[150:330, 40:200] = True

    def at(u: float) -> float:
        return (u + 2 * shift) % width

    prompts = [
        Prompt(1, points=[(at(300.0), 200.0), (at(330.0), 260.0)], labels=[1, 0]),
        Prompt(2, box=(at(800.0), 120.0, at(100.0), 330.0)),  # across the seam, or not when rolled
        Prompt(3, mask=np.roll(mask, 2 * shift, axis=1)),
    ]
    tracker = PanoTracker(model, config)
    return [
        tracker.step(np.roll(frame, 2 * shift, axis=1), prompts if t == 0 else []).objects
        for t, frame in enumerate(clip(frames))
    ]


def law(
    model: PanoSAM2, frames: int, config: TrackerConfig, step: int = STEP
) -> tuple[float, float]:
    """Largest relative error of logits and least IoU of masks after rolling back.

    IoU at the threshold, and at the median logit: random weights see their objects nearly
    everywhere. It is 0 where neither clip has a pixel, which would show nothing.
    """
    worst, least = 0.0, 1.0
    plain, rolled = (follow(model, shift, frames, config) for shift in (0, step))
    for before, after in zip(plain, rolled, strict=True):
        for name, found in before.items():
            got = np.roll(after[name].logits, -step // 4, axis=-1)
            worst = max(worst, float(np.abs(got - found.logits).max() / np.abs(got).max()))
            back, middle = np.roll(after[name].mask, -2 * step, axis=1), np.median(found.logits)
            for one, other in ((found.mask, back), (found.logits > middle, got > middle)):
                least = min(least, float((one & other).sum() / max(1, (one | other).sum())))
    return worst, least


def test_rolling_the_clip_rolls_hieras_masks(make: Callable[..., PanoSAM2]) -> None:
    """With memory, long-term memory and the motion gate, prompts by points, box and mask.

    Maps in single precision: rounding to half turns differences of 1e-7 into ones of 1e-3.
    """
    config = TrackerConfig(view="sphere", least_likeness=0.0, half_maps=False)
    worst, least = law(make(yaw_true=True), FRAMES, config)
    assert worst < 1e-4
    assert least > 0.999


def test_rolling_the_clip_rolls_hieras_masks_as_shipped(make: Callable[..., PanoSAM2]) -> None:
    assert (
        law(make(yaw_true=True), FRAMES, TrackerConfig(view="sphere", least_likeness=0.0))[1]
        > 0.98
    )


def test_with_the_switch_off_masks_do_not_roll(make: Callable[..., PanoSAM2]) -> None:
    config = TrackerConfig(view="sphere", least_likeness=0.0, half_maps=False)
    worst, least = law(make(yaw_true=False), 3, config)
    assert worst > 1e-2
    assert least < 0.9


@pytest.mark.parametrize(
    "fault",
    [
        with_sams_rope,
        with_the_sine_of_the_image,
        with_the_sine_of_memory,
        with_a_decoder_code_that_stays,
    ],
)
def test_masks_roll_for_no_less(
    make: Callable[..., PanoSAM2],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[PanoSAM2, pytest.MonkeyPatch], None],
) -> None:
    model = make(yaw_true=True)
    fault(model, monkeypatch)
    worst, _ = law(model, 3, TrackerConfig(view="sphere", least_likeness=0.0, half_maps=False))
    assert worst > 1e-3


def test_off_is_the_default_of_metas_files_and_changes_no_part(
    make: Callable[..., PanoSAM2],
) -> None:
    plain, off = make(yaw_true=None), make(yaw_true=False)
    assert plain.config == off.config
    assert not plain.config.yaw_true
    assert not any(isinstance(module, LatitudeSine) for module in plain.modules())
    image = noise_image(SMALL)
    with torch.no_grad():
        code = torch.nn.functional.interpolate(
            plain.image_encoder.trunk.pos_embed, size=(56, 112), mode="bicubic"
        )
        code = code + plain.image_encoder.trunk.pos_embed_window.tile(1, 1, 7, 14)
        got = plain.image_encoder.trunk._get_pos_embed((56, 112))
        assert torch.equal(got, code.permute(0, 2, 3, 1))
        wrapped, flat = (plain.encode_image(image, pano=pano).top for pano in (True, False))
    assert torch.equal(wrapped, flat), "SAM2's trunk does not know of panoramas"


def test_nano_is_yaw_true_as_it_comes() -> None:
    """Its weights were trained so: asking for it changes nothing."""
    shipped, asked = (
        load_model("nano", device="cpu", precision="float32", yaw_true=yaw_true)
        for yaw_true in (None, True)
    )
    assert shipped.config == asked.config
    assert shipped.config.yaw_true
    image = noise_image(shipped.input_size)
    for shift in (32, -96, 256):
        with torch.no_grad():
            whole = shipped.encode_image(image, pano=True)
            rolled = asked.encode_image(image.roll(shift, -1), pano=True)
        for a, b in zip((whole.top, *whole.skips), (rolled.top, *rolled.skips), strict=True):
            want = a.roll(shift * a.shape[-1] // image.shape[-1], -1)
            assert (b - want).abs().max() < ROUNDING * want.abs().max()
        assert torch.equal(whole.position, whole.position.roll(1, -1))


@pytest.mark.parametrize("yaw_true", [True, False])
def test_rolling_the_clip_rolls_nanos_masks(yaw_true: bool) -> None:
    """By any multiple of its stride, an odd one here."""
    model = load_model(
        "nano", device="cpu", precision="float32", input_size=SMALL, yaw_true=yaw_true
    )
    config = TrackerConfig(view="sphere", least_likeness=0.0, half_maps=False)
    assert (law(model, FRAMES, config, 96)[0] < 1e-3) == yaw_true


def test_the_width_is_whole_windows(checkpoint: Path) -> None:
    model = load_model("hiera_t", checkpoint=checkpoint, device="cpu", yaw_true=True)
    assert model.input_size == (672, 1344), "2:1, and no more pixels than 1024x1024"
    with pytest.raises(ConfigError, match="multiple of 224, got 1024; nearest is 1120"):
        load_model(
            "hiera_t", checkpoint=checkpoint, device="cpu", yaw_true=True, input_size=(512, 1024)
        )
    for variant, config in VARIANTS.items():
        if variant == "nano":
            continue
        file = resources.files("sam2") / "configs" / "sam2.1" / f"sam2.1_{variant}.yaml"
        trunk = OmegaConf.create(file.read_text()).model.image_encoder.trunk
        spec = trunk.get("window_spec", (8, 4, 14, 7))
        assert config.yaw_step == max(4 * 2**i * side for i, side in enumerate(spec))
        assert all(config.yaw_step % (4 * 2**i * side) == 0 for i, side in enumerate(spec))


def test_the_command_line_asks_for_it(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hiera_t = ["--model", "hiera_t", "--checkpoint", str(checkpoint), "--input-size", "256x256"]
    assert evaluate.main([*hiera_t, "--yaw-true"]) == 1
    assert "needs a width that is a multiple of 224" in capsys.readouterr().err
    assert evaluate.main([*hiera_t, "--yaw-true", "--tracker", "sam2"]) == 1
    assert "--yaw-true is for our own tracker" in capsys.readouterr().err
