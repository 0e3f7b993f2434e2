"""With the pano switches off and SAM2's weights, our stream is SAM2's video predictor.

The weights are random but stored in Meta's file format, so this also proves that a real SAM2.1
checkpoint loads with every tensor in its place.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import nn

from panosam2_core import CheckpointError, PanoTracker, Prompt, TrackerConfig, load_model

SIZE = 256
FRAMES = 22  # more than the 7 maps and 16 pointers that SAM2 looks back on, so both are evicted
TOLERANCE = 1e-5
Frames = list[npt.NDArray[np.uint8]]


def build_predictor(variant: str) -> SAM2VideoPredictor:
    torch.manual_seed(3)
    name = f"configs/sam2.1/sam2.1_{variant}.yaml"
    with resources.as_file(resources.files("sam2") / name) as path:
        config = OmegaConf.load(path).model
    config._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    config.image_size = SIZE
    model = instantiate(config)
    # Random heads call every object absent, which would make all masks -1024 and equal.
    nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)
    return model.eval()


@pytest.fixture(scope="module")
def predictor() -> SAM2VideoPredictor:
    return build_predictor("hiera_t")


@pytest.fixture(scope="module")
def checkpoint(predictor: SAM2VideoPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": predictor.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Frames]:
    """A folder of JPEG files as the predictor reads them, and the same frames decoded."""
    folder = tmp_path_factory.mktemp("video")
    generator = np.random.default_rng(5)
    image = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    frames = []
    for t in range(FRAMES):
        large = Image.fromarray(np.roll(image, t, axis=1)).resize((SIZE, SIZE))
        large.save(folder / f"{t:05d}.jpg", quality=95)
        frames.append(np.array(Image.open(folder / f"{t:05d}.jpg").convert("RGB")))
    return folder, frames


def upstream_logits(
    predictor: SAM2VideoPredictor, folder: Path, count: int = FRAMES, **prompt: Any
) -> list[Any]:
    state = predictor.init_state(str(folder))
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, **prompt)
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=count - 1):
        pass
    outputs = state["output_dict_per_obj"][0]
    merged = outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"]
    return [merged[t]["pred_masks"][0, 0].numpy() for t in range(count)]


def our_logits(
    checkpoint: Path, frames: Frames, prompt: Prompt, variant: str = "hiera_t"
) -> list[Any]:
    model = load_model(variant, checkpoint=checkpoint, device="cpu", input_size=(SIZE, SIZE))
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0))
    return [
        tracker.step(frame, [prompt] if t == 0 else ()).objects[1].logits
        for t, frame in enumerate(frames)
    ]


# SAM2 counts pixel centres as whole numbers, we count pixel corners: half a pixel apart.
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"points": [[120, 100], [30, 40]], "labels": [1, 0]},
            Prompt(1, points=[(120.5, 100.5), (30.5, 40.5)], labels=[1, 0]),
        ),
        ({"points": [[120, 100]], "labels": [1]}, Prompt(1, points=[(120.5, 100.5)])),
        ({"box": [60, 50, 180, 170]}, Prompt(1, box=(60.5, 50.5, 180.5, 170.5))),
    ],
    ids=["two points", "one point", "box"],
)
def test_stream_equals_the_video_predictor(
    predictor: SAM2VideoPredictor,
    checkpoint: Path,
    video: tuple[Path, Frames],
    theirs: dict[str, Any],
    ours: Prompt,
) -> None:
    folder, frames = video
    expected = upstream_logits(predictor, folder, **theirs)
    actual = our_logits(checkpoint, frames, ours)
    difference = [float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True)]
    spread = [float(np.std(logits)) for logits in expected]
    assert min(spread) > 1e-3, "the logits are constant; equality would mean nothing"
    assert max(difference) <= TOLERANCE, difference


@pytest.mark.parametrize("variant", ["hiera_s", "hiera_b+", "hiera_l"])
def test_the_larger_variants_equal_the_video_predictor(
    variant: str, video: tuple[Path, Frames], tmp_path: Path
) -> None:
    """They differ from Hiera-T in the trunk only, so a few frames with memory tell."""
    folder, frames = video
    few = 4  # of the whole video: SAM2 scales the age of pointers by the length of a short one
    larger = build_predictor(variant)
    path = tmp_path / "weights.pt"
    torch.save({"model": larger.state_dict()}, path)
    expected = upstream_logits(larger, folder, few, points=[[120, 100]], labels=[1])
    actual = our_logits(path, frames[:few], Prompt(1, points=[(120.5, 100.5)]), variant)
    difference = [float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True)]
    assert min(float(np.std(logits)) for logits in expected) > 1e-3
    assert max(difference) <= TOLERANCE, difference
    with pytest.raises(CheckpointError, match=re.escape(f"it looks like {variant}")):
        load_model("hiera_t", checkpoint=path, device="cpu", input_size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def expected(predictor: SAM2VideoPredictor, video: tuple[Path, Frames]) -> list[Any]:
    """Upstream's logits after one click."""
    return upstream_logits(predictor, video[0], points=[[120, 100]], labels=[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_maskmem", 6), ("max_obj_ptrs_in_encoder", 14)],
)
def test_the_comparison_notices_a_shorter_memory(
    expected: list[Any], checkpoint: Path, video: tuple[Path, Frames], field: str, value: int
) -> None:
    frames = video[1]
    model = load_model("hiera_t", checkpoint=checkpoint, device="cpu", input_size=(SIZE, SIZE))
    setattr(model, field, value)
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0))
    prompt = Prompt(1, points=[(120.5, 100.5)])
    difference = 0.0
    for t, frame in enumerate(frames):
        logits = tracker.step(frame, [prompt] if t == 0 else ()).objects[1].logits
        difference = max(difference, float(np.abs(logits - expected[t]).max()))
        if difference > TOLERANCE:
            return
    pytest.fail(f"{field}={value} changed nothing: the comparison is blind")


def test_a_checkpoint_with_a_missing_tensor_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    del state["no_mem_embed"]
    broken = tmp_path / "broken.pt"
    torch.save({"model": state}, broken)
    with pytest.raises(CheckpointError, match="no_mem_embed"):
        load_model("hiera_t", checkpoint=broken, device="cpu", input_size=(SIZE, SIZE))
