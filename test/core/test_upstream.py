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
from panosam2_core.official import official_file

SIZE = 256
FRAMES = 22  # more than the 7 maps and 16 pointers that SAM2 looks back on, so both are evicted
TOLERANCE = 1e-5
Frames = list[npt.NDArray[np.uint8]]


def build_predictor(variant: str, family: str = "sam2.1") -> SAM2VideoPredictor:
    torch.manual_seed(3)
    name = f"configs/{family}/{family}_{variant}.yaml"
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
    predictor: SAM2VideoPredictor, folder: Path, *prompts: dict[str, Any], count: int = FRAMES
) -> list[Any]:
    """For each frame (objects, H / 4, W / 4); the prompts are of objects 1, 2, ... on frame 0."""
    state = predictor.init_state(str(folder))
    for i, prompt in enumerate(prompts):
        predictor.add_new_points_or_box(state, frame_idx=0, obj_id=i + 1, **prompt)
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=count - 1):
        pass
    outputs = [state["output_dict_per_obj"][i] for i in range(len(prompts))]
    merged = [o["cond_frame_outputs"] | o["non_cond_frame_outputs"] for o in outputs]
    return [np.stack([m[t]["pred_masks"][0, 0].numpy() for m in merged]) for t in range(count)]


def our_logits(
    checkpoint: Path, frames: Frames, *prompts: Prompt, variant: str = "hiera_t"
) -> list[Any]:
    model = load_model(variant, checkpoint=checkpoint, device="cpu", input_size=(SIZE, SIZE))
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0))
    logits = []
    for t, frame in enumerate(frames):
        objects = tracker.step(frame, prompts if t == 0 else ()).objects
        logits.append(np.stack([objects[prompt.object_id].logits for prompt in prompts]))
    return logits


def check_equal(actual: list[Any], expected: list[Any]) -> None:
    spread = [float(logits.std(axis=(1, 2)).min()) for logits in expected]
    assert min(spread) > 1e-3, "the logits are constant; equality would mean nothing"
    difference = [float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True)]
    assert max(difference) <= TOLERANCE, difference


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
    expected = upstream_logits(predictor, folder, theirs)
    check_equal(our_logits(checkpoint, frames, ours), expected)


def test_two_objects_equal_the_video_predictor(
    predictor: SAM2VideoPredictor, checkpoint: Path, video: tuple[Path, Frames]
) -> None:
    """Upstream runs them one after the other, we run them as one batch."""
    folder, frames = video
    few = 9  # the last one no longer sees the map of frame 1
    click, box = {"points": [[120, 100]], "labels": [1]}, {"box": [20, 150, 90, 240]}
    expected = upstream_logits(predictor, folder, click, box, count=few)
    ours = (Prompt(1, points=[(120.5, 100.5)]), Prompt(2, box=(20.5, 150.5, 90.5, 240.5)))
    check_equal(our_logits(checkpoint, frames[:few], *ours), expected)
    apart = min(float(np.abs(logits[0] - logits[1]).max()) for logits in expected)
    assert apart > 100 * TOLERANCE, "the two objects are the same"


def test_sam_2_0_equals_the_video_predictor(video: tuple[Path, Frames], tmp_path: Path) -> None:
    """The file alone says that its pointers have no time codes."""
    folder, frames = video
    older = build_predictor("hiera_t", "sam2")
    path = tmp_path / "sam2_hiera_tiny.pt"
    torch.save({"model": older.state_dict()}, path)
    expected = upstream_logits(older, folder, {"points": [[120, 100]], "labels": [1]})
    check_equal(our_logits(path, frames, Prompt(1, points=[(120.5, 100.5)])), expected)


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
    assert sum(p.numel() for p in larger.parameters()) == official_file(variant).parameters
    click = {"points": [[120, 100]], "labels": [1]}
    expected = upstream_logits(larger, folder, click, count=few)
    ours = Prompt(1, points=[(120.5, 100.5)])
    check_equal(our_logits(path, frames[:few], ours, variant=variant), expected)
    with pytest.raises(CheckpointError, match=re.escape(f"holds {variant!r}, expected 'hiera_t'")):
        load_model("hiera_t", checkpoint=path, device="cpu", input_size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def expected(predictor: SAM2VideoPredictor, video: tuple[Path, Frames]) -> list[Any]:
    """Upstream's logits after one click."""
    return upstream_logits(predictor, video[0], {"points": [[120, 100]], "labels": [1]})


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
        difference = max(difference, float(np.abs(logits - expected[t][0]).max()))
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
