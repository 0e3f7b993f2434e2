"""The peer: SAM2's own video predictor, untouched, in the same harness."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from sam2.utils.misc import _load_img_as_tensor

from panosam2_core.build import resolve_device, stored_config
from panosam2_core.data.clips import ClipFrame
from panosam2_core.errors import CheckpointError, ConfigError
from panosam2_core.evaluation.predictors import Mask, Prediction, make_prompt
from panosam2_core.weight_file import read_weights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_upstream(
    variant: str,
    checkpoint: Path,
    device: str = "auto",
    image_size: int | None = None,
    *,
    compiled: bool = False,
) -> SAM2VideoPredictor:
    """Build SAM2's predictor as its own documentation does.

    Args:
        variant: ``hiera_t``, ``hiera_s``, ``hiera_b+`` or ``hiera_l``.
        checkpoint: Meta's ``.pt``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        image_size: side of the square that frames are squeezed into; ``None``: SAM2's 1024.
        compiled: as SAM2's ``vos_optimized``.

    Returns:
        The predictor.

    Raises:
        CheckpointError: when the file is unreadable, of another variant or not of SAM2.
        ConfigError: for an unknown device.
    """
    state, metadata = read_weights(checkpoint)
    config = stored_config(state, metadata, source=str(checkpoint))
    if config.variant != variant or variant == "nano":
        raise CheckpointError(
            f"{checkpoint} holds {config.variant!r}; sam2's predictor needs Meta's file of "
            "hiera_t, hiera_s, hiera_b+ or hiera_l, and --model says which"
        )
    family = "sam2" if config.release == "2.0" else "sam2.1"
    size = [f"++model.image_size={image_size}"] if image_size else []
    predictor: SAM2VideoPredictor = build_sam2_video_predictor(
        f"configs/{family}/{family}_{variant}.yaml",
        device=str(resolve_device(device)),
        hydra_overrides_extra=size,
        vos_optimized=compiled,
    )
    missing, unexpected = predictor.load_state_dict(dict(state), strict=False)
    if missing or unexpected:
        odd = (*missing, *unexpected)
        raise CheckpointError(f"{checkpoint} is no file of Meta's: {len(odd)} keys, e.g. {odd[0]}")
    return predictor


class UpstreamPredictor:
    """SAM2's predictor, frame by frame. Frames are squeezed into its square, as it does.

    Args:
        network: from :func:`build_upstream`; may serve several of these.
        kind: of the prompts: ``point``, ``box`` or ``mask``.
        pano: prompts are measured across the seam. A box that crosses it is refused: SAM2's
            predictor has none.
    """

    def __init__(self, network: SAM2VideoPredictor, kind: str, *, pano: bool = True) -> None:
        self.network, self.kind, self.pano, self.seconds = network, kind, pano, 0.0
        self._state: dict[str, Any] | None = None
        self._index = -1

    def start(self, clip: str) -> None:
        """Begin a clip, see :class:`Predictor`.

        Args:
            clip: its name.
        """
        self._state, self._index = None, -1

    def step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        """Take the next frame, see :class:`Predictor`.

        Args:
            frame: of the clip.
            new: to be prompted.

        Returns:
            Predictions; an object is visible when its mask is not empty, as SAM2 has it.

        Raises:
            ConfigError: for a box across the seam.
        """
        started = time.perf_counter()
        # The predictor draws a progress bar per call.
        with contextlib.redirect_stderr(io.StringIO()):
            found = self._step(frame, new)
        self.seconds += time.perf_counter() - started
        return found

    def _step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        state, t = self._add(frame), self._index
        for object_id, mask in new.items():
            self._prompt(state, t, object_id, mask)
        if not state["obj_ids"]:
            return {}
        steps = self.network.propagate_in_video(state, start_frame_idx=t, max_frame_num_to_track=0)
        _, ids, logits = next(iter(steps))
        best = logits.argmax(dim=0, keepdim=True)  # every pixel belongs to one object at most
        index = torch.arange(len(ids), device=logits.device)[:, None, None, None]
        masks = ((logits > 0) & (best == index))[:, 0].cpu().numpy()
        return {i: Prediction(mask, bool(mask.any())) for i, mask in zip(ids, masks, strict=True)}

    def _prompt(self, state: dict[str, Any], t: int, object_id: int, mask: Mask) -> None:
        prompt = make_prompt(mask, self.kind, object_id, pano=self.pano)
        if prompt.mask is not None:
            self.network.add_new_mask(state, t, object_id, prompt.mask)
            return
        if prompt.box is not None and prompt.box[0] >= prompt.box[2]:
            raise ConfigError("sam2's predictor has no box across the seam; use --prompt mask")
        # SAM2 takes pixel centres for whole numbers.
        if prompt.box is not None:
            what = {"box": np.asarray(prompt.box, np.float32) - 0.5}
        else:
            points = np.asarray(prompt.points, np.float32) - 0.5
            what = {"points": points, "labels": np.ones(len(points), np.int32)}
        self.network.add_new_points_or_box(state, t, object_id, **what)

    def _add(self, frame: ClipFrame) -> dict[str, Any]:
        """Append a frame to the video that the predictor believes it has."""
        file = io.BytesIO()
        Image.fromarray(frame.rgb).save(file, "bmp")
        image, height, width = _load_img_as_tensor(file, self.network.image_size)
        mean, std = (torch.tensor(v)[:, None, None] for v in (_MEAN, _STD))
        image = ((image.float() - mean) / std).to(self.network.device)
        if self._state is None:
            self._state = _empty_state(self.network, image, (height, width))
        else:
            self._state["images"].append(image)
            # Only the newest is read again.
            self._state["images"][-2] = None
        self._index += 1
        return self._state


def _empty_state(
    network: SAM2VideoPredictor, image: torch.Tensor, size: tuple[int, int]
) -> dict[str, Any]:
    """State of a video whose end is not known, made by the predictor itself from one picture."""
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (8, 8)).save(Path(folder, "0.jpg"))
        state: dict[str, Any] = network.init_state(folder)
    state["images"], state["cached_features"] = [image], {}
    state["video_height"], state["video_width"] = size
    state["num_frames"] = 2**31
    return state
