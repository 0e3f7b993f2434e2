"""Upstream's video predictor and our tracker on the same random weights and frames."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import nn

from panosam2_core import PanoTracker, Prompt, TrackerConfig, load_model

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


def save_checkpoint(predictor: SAM2VideoPredictor, folder: Path) -> Path:
    """Write the weights as Meta publishes them."""
    path = folder / "sam2.1_hiera_tiny.pt"
    torch.save({"model": predictor.state_dict()}, path)
    return path


def make_video(folder: Path, count: int = FRAMES) -> Frames:
    """Write JPEG files as the predictor reads them, and return what is in them."""
    generator = np.random.default_rng(5)
    image = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    frames = []
    for t in range(count):
        large = Image.fromarray(np.roll(image, t, axis=1)).resize((SIZE, SIZE))
        large.save(folder / f"{t:05d}.jpg", quality=95)
        frames.append(np.array(Image.open(folder / f"{t:05d}.jpg").convert("RGB")))
    return frames


def ask(predictor: SAM2VideoPredictor, state: dict[str, Any], frame: int, **prompt: Any) -> None:
    """One prompt, as the predictor takes it."""
    add = predictor.add_new_mask if "mask" in prompt else predictor.add_new_points_or_box
    add(state, frame_idx=frame, **prompt)


def upstream_logits(
    predictor: SAM2VideoPredictor, folder: Path, *prompts: dict[str, Any]
) -> list[Any]:
    """For each frame (objects, H / 4, W / 4); the prompts are of objects 1, 2, ... on frame 0."""
    state = predictor.init_state(str(folder))
    for i, prompt in enumerate(prompts):
        ask(predictor, state, 0, obj_id=i + 1, **prompt)
    count = state["num_frames"]
    track_to(predictor, state, 0, count - 1)
    return logits_in(state, count)


def track_to(predictor: SAM2VideoPredictor, state: dict[str, Any], first: int, last: int) -> None:
    for _ in predictor.propagate_in_video(
        state, start_frame_idx=first, max_frame_num_to_track=last - first
    ):
        pass


def logits_in(state: dict[str, Any], count: int) -> list[Any]:
    outputs = state["output_dict_per_obj"].values()
    merged = [o["non_cond_frame_outputs"] | o["cond_frame_outputs"] for o in outputs]
    return [np.stack([m[t]["pred_masks"][0, 0].numpy() for m in merged]) for t in range(count)]


def our_logits(
    checkpoint: Path,
    frames: Frames,
    *prompts: Prompt,
    later: dict[int, Prompt] | None = None,
    variant: str = "hiera_t",
    precision: str = "float32",
) -> list[Any]:
    """The same of ours; ``later`` has the prompts of other frames than the first."""
    model = load_model(
        variant, checkpoint=checkpoint, device="cpu", input_size=(SIZE, SIZE), precision=precision
    )
    tracker = PanoTracker(model, TrackerConfig(pano=False, long_frames=0, remember_hidden=True))
    logits = []
    for t, frame in enumerate(frames):
        now = prompts if t == 0 else [later[t]] if later and t in later else ()
        objects = tracker.step(frame, now).objects
        logits.append(np.stack([thing.logits for thing in objects.values()]))
    return logits
