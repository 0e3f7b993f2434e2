"""Training samples drawn from the synthetic world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld, WorldConfig
from panosam2_core.losses.distortion import DistortionConfig, distortion_weights

LOSS_STRIDE = 2  # the loss is taken at half the frame's resolution
WEIGHT_STRIDE = 4  # weights are smooth; a quarter of the resolution is enough
MIN_PIXELS = 24  # at the loss's resolution; less is no fair prompt


class Sample(NamedTuple):
    """A batch of clips; objects of all clips in one list.

    Attributes:
        images: (K, T, 3, H, W) uint8.
        masks: (T, B, H/2, W/2) float 0..1.
        weights: (T, B, H/4, W/4) float, distortion-guided.
        visible: (T, B) bool.
        image_index: (B,) long, the clip each object belongs to.
        name: of the clips, for error messages.
    """

    images: Tensor
    masks: Tensor
    weights: Tensor
    visible: Tensor
    image_index: Tensor
    name: str

    def to(self, device: torch.device) -> Sample:
        """Move the tensors.

        Args:
            device: target.

        Returns:
            The sample there.
        """
        images, masks, weights, visible, index = (t.to(device) for t in self[:5])
        return Sample(images, masks, weights, visible, index, self.name)


class SyntheticSamples(IterableDataset[Sample]):
    """Endless batches from a split of the synthetic world, deterministic per start.

    Args:
        config: of the world; its ``size_hw`` and ``frames`` are those of the samples.
        split: of the world.
        clips: K per batch.
        objects: most objects per clip.
        start: first clip index; worker ``i`` of ``n`` takes every n-th batch.
    """

    def __init__(
        self, config: WorldConfig, split: str, *, clips: int, objects: int, start: int = 0
    ) -> None:
        self.config, self.split = config, split
        self.clips, self.objects, self.start = clips, objects, start

    def __iter__(self) -> Iterator[Sample]:
        """Yield batches for ever."""
        torch.set_num_threads(1)
        worker = get_worker_info()
        step, number = (worker.num_workers, worker.id) if worker else (1, 0)
        world = SyntheticWorld(self.config, self.split)  # type: ignore[arg-type]
        while True:
            first = self.start + number * self.clips
            indices = range(first, first + self.clips)
            parts = [self._clip(world.clip(index), row) for row, index in enumerate(indices)]
            parts = [part for part in parts if len(part.image_index)]
            if parts:
                yield _join(parts, f"{self.split} clips {first}..{first + self.clips - 1}")
            number += step

    def _clip(self, clip: SyntheticClip, row: int) -> Sample:
        frames = list(clip)
        labels = torch.stack([frame.labels for frame in frames])
        ids = _prompted_ids(labels[0], clip.object_ids, clip.target_id)[: self.objects]
        full = torch.stack([labels == i for i in ids], dim=1) if ids else labels[:, None][:, :0]
        masks = F.avg_pool2d(full.float(), LOSS_STRIDE) if ids else full.float()
        visible = (masks > 0.5).flatten(2).sum(dim=2) >= MIN_PIXELS // 3
        return Sample(
            images=torch.stack([frame.image for frame in frames])[None],
            masks=masks,
            weights=_weights(masks) if ids else masks,
            visible=visible,
            image_index=torch.full((len(ids),), row),
            name="",
        )


def _prompted_ids(labels: Tensor, ids: Sequence[int], target: int) -> list[int]:
    """Objects large enough on the first frame to be prompted, the target first."""
    least = MIN_PIXELS * LOSS_STRIDE**2
    ordered = sorted(ids, key=lambda i: i != target)
    return [i for i in ordered if int((labels == i).sum()) >= least]


def _weights(masks: Tensor) -> Tensor:
    factor = WEIGHT_STRIDE // LOSS_STRIDE
    coarse = F.avg_pool2d(masks, factor) > 0.5
    config = DistortionConfig(crop_hw=(64, 128))
    flat = coarse.flatten(0, 1)
    return torch.stack([distortion_weights(m, config) for m in flat]).reshape(coarse.shape)


def _join(parts: Sequence[Sample], name: str) -> Sample:
    rows = [torch.full_like(part.image_index, row) for row, part in enumerate(parts)]
    return Sample(
        images=torch.cat([part.images for part in parts]),
        masks=torch.cat([part.masks for part in parts], dim=1),
        weights=torch.cat([part.weights for part in parts], dim=1),
        visible=torch.cat([part.visible for part in parts], dim=1),
        image_index=torch.cat(rows),
        name=name,
    )
