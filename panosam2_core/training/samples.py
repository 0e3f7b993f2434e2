"""Batches for training, made of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from panosam2_core.data.clips import DataError
from panosam2_core.losses.distortion import DistortionConfig, distortion_weights
from panosam2_core.training.sources import LOSS_STRIDE, Drawn, Source

WEIGHT_STRIDE = 4  # weights are smooth; a quarter of the resolution is enough
MIN_VISIBLE = 8  # pixels at the loss's resolution below which an object counts as absent


class Sample(NamedTuple):
    """A batch of clips; objects of all clips in one list.

    Attributes:
        images: (K, T, 3, H, W) uint8.
        masks: (T, B, H/2, W/2) float 0..1.
        weights: (T, B, H/4, W/4) float, distortion-guided.
        visible: (T, B) bool.
        image_index: (B,) long, the clip each object belongs to.
        name: of the clips, for error messages.
        skipped: what was broken and passed over.
        closed: whether the frames are panoramas whose left and right edges meet.
    """

    images: Tensor
    masks: Tensor
    weights: Tensor
    visible: Tensor
    image_index: Tensor
    name: str
    skipped: tuple[str, ...] = ()
    closed: bool = True

    def to(self, device: torch.device) -> Sample:
        """Move the tensors.

        Args:
            device: target.

        Returns:
            The sample there.
        """
        images, masks, weights, visible, index = (t.to(device) for t in self[:5])
        return Sample(images, masks, weights, visible, index, *self[5:])


class Batches(IterableDataset[Sample]):
    """Endless numbered batches of a source; batch ``n`` has its clips ``nK .. nK + K - 1``.

    Args:
        source: of the clips.
        clips: K per batch.
        start: number of the first batch.
        stride: to the number of the next one, when several processes share the batches.
        distortion: settings of the pixel weights.
    """

    def __init__(
        self,
        source: Source,
        *,
        clips: int,
        start: int = 0,
        stride: int = 1,
        distortion: DistortionConfig | None = None,
    ) -> None:
        self.source, self.clips, self.start, self.stride = source, clips, start, stride
        self.distortion = distortion or DistortionConfig(crop_hw=(64, 128))

    def __iter__(self) -> Iterator[Sample]:
        """Yield batches for ever."""
        worker = get_worker_info()
        if worker:  # leave the processor to the training itself
            torch.set_num_threads(1)
        workers, this = (worker.num_workers, worker.id) if worker else (1, 0)
        number = self.start + self.stride * this
        while True:
            yield self.batch(number)
            number += self.stride * workers

    def batch(self, number: int) -> Sample:
        """Make a batch.

        Args:
            number: of the batch.

        Returns:
            The batch.

        Raises:
            DataError: when a clip cannot be read.
        """
        first = number * self.clips
        drawn = [self.source.draw(index) for index in range(first, first + self.clips)]
        closed = drawn[0].closed
        if any(clip.closed is not closed for clip in drawn):
            raise DataError(f"batch {number} mixes panoramas and local views; give it one source")
        masks = torch.cat([_masks(clip) for clip in drawn], dim=1)
        rows = [torch.full((len(clip.ids),), row) for row, clip in enumerate(drawn)]
        return Sample(
            images=torch.stack([clip.images for clip in drawn]),
            masks=masks,
            weights=_weights(masks, self.distortion if closed else None),
            visible=(masks > 0.5).flatten(2).sum(dim=2) >= MIN_VISIBLE,
            image_index=torch.cat(rows),
            name=", ".join(clip.name for clip in drawn),
            skipped=tuple(text for clip in drawn for text in clip.skipped),
            closed=closed,
        )


def _masks(clip: Drawn) -> Tensor:
    full: Sequence[Tensor] = [clip.labels == i for i in clip.ids]
    return F.avg_pool2d(torch.stack(list(full), dim=1).float(), LOSS_STRIDE)


def _weights(masks: Tensor, config: DistortionConfig | None) -> Tensor:
    """Distortion-guided weights; equal ones without a config, where nothing is distorted."""
    coarse = F.avg_pool2d(masks, WEIGHT_STRIDE // LOSS_STRIDE) > 0.5
    if config is None:
        return torch.ones_like(coarse, dtype=masks.dtype)
    flat = coarse.flatten(0, 1)
    return torch.stack([distortion_weights(m, config) for m in flat]).reshape(coarse.shape)
