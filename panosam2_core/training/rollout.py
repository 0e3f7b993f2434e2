"""One clip through the model, as the tracker would run it, with losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.geometry.region import circular_interval
from panosam2_core.losses.criterion import FrameLoss, LossConfig, frame_loss
from panosam2_core.memory.bank import LongTermEntry, ObjectMemory
from panosam2_core.memory.sampling import draw_by_visibility
from panosam2_core.model import Decoded, ImageFeatures, PanoSAM2, PointPrompts
from panosam2_core.step import observe, prompt_masks, prompt_points, propagate
from panosam2_core.training.samples import Sample
from panosam2_core.training.sources import LOSS_STRIDE

PROMPT_KINDS = ("mask", "point", "box")


class Schedule(NamedTuple):
    """What a rollout is asked to do.

    Attributes:
        prompt: ``mask``, ``point`` or ``box`` on the first frame.
        truth_every: the true mask goes to memory on every n-th frame; 0: only predictions.
        long_frames: N_l, 0: LSMM off.
        bptt: frames per chunk; 0: the whole clip is one.
        pano: circular columns in the network.
    """

    prompt: str
    truth_every: int
    long_frames: int
    bptt: int = 0
    pano: bool = True


class Chunk(NamedTuple):
    """A stretch of frames that gradients flow through.

    Attributes:
        losses: of its frames; a mask prompt's own frame has none.
        logits: (B, 1, h, w) chosen masks of its last frame.
        frame: index of that frame.
    """

    losses: list[FrameLoss]
    logits: Tensor
    frame: int


def rollout(
    model: PanoSAM2,
    sample: Sample,
    schedule: Schedule,
    loss: LossConfig,
    generator: np.random.Generator,
) -> Iterator[Chunk]:
    """Run a batch of clips.

    Args:
        model: the network; gradients flow through its memories within a chunk.
        sample: K clips with B objects.
        schedule: prompt kind, memory source and length of a chunk.
        loss: weights of the criterion.
        generator: of prompts and long-term draws.

    Yields:
        Chunks in the order of time. The caller goes backward through one before it takes the
        next, whose memories no longer hold the graph.
    """
    frames = sample.images.shape[1]
    length = schedule.bptt or frames
    memories = [
        ObjectMemory(model.num_maskmem, model.max_obj_ptrs_in_encoder) for _ in sample.image_index
    ]
    for start in range(0, frames, length):
        stop = min(start + length, frames)
        yield _chunk(model, sample, schedule, loss, generator, memories, range(start, stop))
        for memory in memories:
            memory.detach()


def losses_in(sample: Sample, schedule: Schedule) -> int:
    """Count the frames of a batch that have a loss.

    Args:
        sample: K clips.
        schedule: gives the prompt.

    Returns:
        How many.
    """
    return sample.images.shape[1] - (schedule.prompt == "mask")


def _chunk(
    model: PanoSAM2,
    sample: Sample,
    schedule: Schedule,
    loss: LossConfig,
    generator: np.random.Generator,
    memories: Sequence[ObjectMemory],
    frames: range,
) -> Chunk:
    images = sample.images[:, frames.start : frames.stop].flatten(0, 1)
    pano = schedule.pano
    encoded = model.encode_image(model.normalize(images, pano=pano), pano=pano)
    losses = []
    for frame in frames:
        rows = sample.image_index * len(frames) + frame - frames.start
        features = encoded.select(rows)
        if frame == 0:
            decoded = _prompt(model, features, sample, schedule, generator)
        else:
            draws = _draws(memories, frame, schedule.long_frames, generator)
            decoded = propagate(model, features, memories, draws, frame, pano=pano)
        if frame or schedule.prompt != "mask":
            losses.append(_loss(decoded, sample, frame, loss, pano=pano))
        logits = decoded.logits.detach()
        if schedule.truth_every and frame % schedule.truth_every == 0:
            decoded = _with_truth(decoded, sample, frame)
        seen = observe(model, features, decoded, frame, prompted=frame == 0, pano=pano)
        for memory, observation in zip(memories, seen, strict=True):
            memory.observe(observation)
    return Chunk(losses, logits, frames.stop - 1)


def _prompt(
    model: PanoSAM2,
    features: ImageFeatures,
    sample: Sample,
    schedule: Schedule,
    generator: np.random.Generator,
) -> Decoded:
    masks, kind, pano = sample.masks[0], schedule.prompt, schedule.pano
    if kind == "mask":
        full = resize_wrap(masks[:, None], model.input_size, pano=pano)
        return prompt_masks(model, features, (full > 0.5).float(), pano=pano)
    make: Callable[..., Tensor] = (
        _random_point if kind == "point" else partial(_jittered_box, pano=sample.closed)
    )
    xy = torch.stack([make(mask.cpu() > 0.5, generator) for mask in masks]) * LOSS_STRIDE
    labels = [1] if kind == "point" else [2, 3]
    tensor = torch.tensor(labels, dtype=torch.int32, device=masks.device).expand(len(masks), -1)
    xy = xy.to(masks.device)
    return prompt_points(model, features, PointPrompts(xy, tensor), pano=pano)


def _random_point(mask: Tensor, generator: np.random.Generator) -> Tensor:
    """(1, 2) a click on the mask, more often inside than on the rim."""
    inner = -F.max_pool2d(-mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    rows, cols = torch.nonzero(inner if bool(inner.any()) else mask, as_tuple=True)
    pick = int(generator.integers(len(rows)))
    return torch.stack([cols[pick], rows[pick]])[None] + 0.5


def _jittered_box(mask: Tensor, generator: np.random.Generator, *, pano: bool) -> Tensor:
    """(2, 2) corners of the mask's box, moved by up to 10 % of its size, past the seam if so."""
    width = mask.shape[1]
    left, columns = circular_interval(mask.any(dim=0).numpy(), pano=pano)
    rows = torch.nonzero(mask.any(dim=1)).flatten()
    corners = torch.tensor(
        [[float(left), float(rows[0])], [float(left + columns), float(rows[-1]) + 1]]
    )
    jitter = torch.from_numpy(generator.uniform(-0.1, 0.1, (2, 2))).float()
    corners = corners + jitter * (corners[1] - corners[0])
    corners[:, 0] -= width * (corners[0, 0] >= width)
    corners[:, 1].clamp_(0, mask.shape[0])
    return corners


def _draws(
    memories: Sequence[ObjectMemory], frame: int, count: int, generator: np.random.Generator
) -> list[list[LongTermEntry]]:
    """Equally many long-term entries for every object, so that they stay one batch."""
    if not count:
        return [[] for _ in memories]
    candidates = [memory.long_candidates(frame) for memory in memories]
    count = min(count, *(len(c) for c in candidates))
    return [draw_by_visibility(c, count, generator) for c in candidates]


def _loss(
    decoded: Decoded, sample: Sample, frame: int, config: LossConfig, *, pano: bool
) -> FrameLoss:
    size = (sample.masks.shape[-2], sample.masks.shape[-1])
    weights = resize_wrap(sample.weights[frame][:, None], size, pano=sample.closed)[:, 0]
    seen = sample.visible[frame]
    return frame_loss(decoded, sample.masks[frame], weights, seen, config, pano=pano)


def _with_truth(decoded: Decoded, sample: Sample, frame: int) -> Decoded:
    size = (decoded.logits.shape[-2], decoded.logits.shape[-1])
    coarse = F.interpolate(sample.masks[frame][:, None], size, mode="area")
    visible = sample.visible[frame][:, None].to(coarse.dtype)
    return decoded._replace(logits=coarse * 20 - 10, object_logit=visible * 20 - 10)
