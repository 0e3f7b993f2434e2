"""Curves and pictures of a run, for TensorBoard: ``tensorboard --logdir OUT/board``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.media.overlay import tint
from panosam2_core.training.samples import Sample


class Board:
    """Writes to a folder that TensorBoard reads.

    Args:
        folder: of the run.
        step: that the run goes on from; what an interrupted run wrote beyond it is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = SummaryWriter(str(folder), purge_step=step, flush_secs=10)

    def scalars(self, metrics: Mapping[str, float | str | None], step: int) -> None:
        """Add to the curves.

        Args:
            metrics: numbers; anything else is left out.
            step: of the run.
        """
        for key, value in metrics.items():
            if isinstance(value, int | float) and key != "step":
                self._writer.add_scalar(f"train/{key}", value, step)

    def masks(self, sample: Sample, logits: Tensor, frame: int, step: int) -> None:
        """Add a picture: the first clip's frame with the true masks above the predicted ones.

        Args:
            sample: that was trained on.
            logits: (B, 1, h, w) masks of one of its frames.
            frame: index of that frame.
            step: of the run.
        """
        image = sample.images[0, frame].permute(1, 2, 0).cpu().numpy()
        size = (image.shape[0], image.shape[1])
        rows = (sample.image_index == 0).nonzero()[:, 0]
        truth = resize_wrap(sample.masks[frame][rows][:, None], size, pano=True)[:, 0] > 0.5
        found = resize_wrap(logits[rows].float(), size, pano=True)[:, 0] > 0
        picture = np.vstack([tint(image, _labels(masks), 0.5) for masks in (truth, found)])
        self._writer.add_image("masks/true_above_predicted", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _labels(masks: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    ids = torch.arange(1, len(masks) + 1, device=masks.device)[:, None, None]
    return (masks * ids).amax(dim=0).cpu().numpy()
