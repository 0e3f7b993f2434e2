"""One frame for a group of objects: what the tracker runs and what training differentiates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from panosam2_core.memory.bank import FrameMemory, ObjectMemory, Observation
from panosam2_core.memory.tokens import Frames, LongDraws, each, pack
from panosam2_core.model import Decoded, ImageFeatures, PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE, keep_near


def prompt_points(
    model: PanoSAM2, features: ImageFeatures, prompts: PointPrompts, *, pano: bool
) -> Decoded:
    """Segment B new objects from clicks or boxes.

    Args:
        model: the network.
        features: of B objects.
        prompts: one row per object, columns continued past the seam where an object crosses it.
        pano: circular columns.

    Returns:
        The decoded masks.
    """
    conditioned = model.condition(features, None, None, pano=pano)
    return model.decode(conditioned, features, prompts, _prompt_centers(model, prompts, pano=pano))


def prompt_masks(
    model: PanoSAM2, features: ImageFeatures, masks: Tensor, *, pano: bool
) -> Decoded:
    """Take masks of B new objects as given.

    Args:
        model: the network.
        features: of B objects.
        masks: (B, 1, H, W) float, 0 or 1.
        pano: circular columns.

    Returns:
        The masks as logits, with object pointers.
    """
    centers = None
    if model.config.yaw_true and pano:
        middle = torch.full((len(masks),), model.grid_hw[1] // 2, device=masks.device)
        centers = center_columns(masks - 0.5, model.grid_hw[1], middle)
    return model.decode_mask_prompt(features, masks, centers, pano=pano)


def propagate(
    model: PanoSAM2,
    features: ImageFeatures,
    memories: Sequence[ObjectMemory],
    long_draws: LongDraws,
    frame: Frames,
    *,
    pano: bool,
) -> Decoded:
    """Find B known objects of equal memory layout on a new frame.

    Args:
        model: the network.
        features: of B objects.
        memories: of the same objects.
        long_draws: long-term entries per object, lists of equal length.
        frame: index of the frame, of all objects or of each.
        pano: circular columns.

    Returns:
        The decoded masks.
    """
    conditioned, centers = _track(model, features, memories, long_draws, frame, pano=pano)
    return model.decode(conditioned, features, None, centers)


def correct(
    model: PanoSAM2,
    features: ImageFeatures,
    memories: Sequence[ObjectMemory],
    long_draws: LongDraws,
    frame: Frames,
    prompts: PointPrompts,
    *,
    pano: bool,
) -> Decoded:
    """Find B known objects on a new frame, with the user's clicks on what was found.

    SAM2's interactive correction: the decoder gets the clicks, the memory and its own first
    answer as a mask.

    Args:
        model: the network.
        features: of B objects.
        memories: of the same objects, of equal layout.
        long_draws: long-term entries per object, lists of equal length.
        frame: index of the frame, of all objects or of each.
        prompts: one row per object.
        pano: circular columns.

    Returns:
        The corrected masks.
    """
    conditioned, centers = _track(model, features, memories, long_draws, frame, pano=pano)
    if centers is None:
        centers = _prompt_centers(model, prompts, pano=pano)
    found = model.decode(conditioned, features, None, centers)
    mask = model.gate(found.logits, found.object_logit)
    return model.decode(conditioned, features, prompts, centers, mask)


def _track(
    model: PanoSAM2,
    features: ImageFeatures,
    memories: Sequence[ObjectMemory],
    long_draws: LongDraws,
    frame: Frames,
    *,
    pano: bool,
) -> tuple[Tensor, Tensor | None]:
    """Memory-conditioned features, and the columns that the position code is centred on."""
    tokens = pack(model, memories, long_draws, frame)
    previous = [memory.previous_mask for memory in memories if memory.previous_mask is not None]
    conditioned = model.condition(
        features, tokens, torch.stack(previous) if previous else None, pano=pano
    )
    centers = None
    if model.config.yaw_true and pano:
        centers = torch.stack([m.center for m in memories if m.center is not None])
    return conditioned, centers


def stay_near(model: PanoSAM2, decoded: Decoded, near: Tensor, *, pano: bool = True) -> Decoded:
    """Leave what hangs together with where the objects may be; if nothing does, they are hidden.

    Args:
        model: the network.
        decoded: masks of B objects.
        near: (B, 1, 4h, 4w) bool.
        pano: circular columns.

    Returns:
        The masks; an object that lost all of its mask is absent in every respect.
    """
    return _with_mask(model, decoded, keep_near(decoded.logits, near, wraps=pano))


def doubt(model: PanoSAM2, decoded: Decoded, believed: Tensor) -> Decoded:
    """Take objects for hidden whose masks are not believed.

    Args:
        model: the network.
        decoded: masks of B objects.
        believed: (B,) bool.

    Returns:
        The masks; an object that is not believed is absent in every respect.
    """
    kept = believed[:, None, None, None]
    hidden = _with_mask(model, decoded, decoded.logits.where(kept, OUTSIDE))
    # The others are what they were, whatever their company.
    return hidden._replace(
        object_logit=torch.where(believed[:, None], decoded.object_logit, hidden.object_logit),
        pointer=torch.where(believed[:, None], decoded.pointer, hidden.pointer),
    )


def leave_out(model: PanoSAM2, decoded: Decoded, ignored: Tensor) -> Decoded:
    """Take a region out of every mask; an object that is nowhere else is hidden.

    Args:
        model: the network.
        decoded: masks of B objects.
        ignored: (1, 1, 4h, 4w) bool.

    Returns:
        The masks; an object that lost all of its mask is absent in every respect.
    """
    return _with_mask(model, decoded, decoded.logits.masked_fill(ignored, OUTSIDE))


def _with_mask(model: PanoSAM2, decoded: Decoded, logits: Tensor) -> Decoded:
    """Put other masks in; one that was there and is empty now means an absent object."""
    seen = (logits > 0).flatten(1).any(1, keepdim=True) | (decoded.object_logit <= 0)
    return decoded._replace(
        logits=logits,
        object_logit=torch.where(seen, decoded.object_logit, -decoded.object_logit),
        pointer=torch.where(seen, decoded.pointer, model.no_obj_ptr.to(decoded.pointer.dtype)),
    )


def observe(
    model: PanoSAM2,
    features: ImageFeatures,
    decoded: Decoded,
    frame: Frames,
    *,
    prompted: bool,
    pano: bool,
    map_dtype: torch.dtype = torch.float32,
) -> list[Observation]:
    """Make memories of a decoded frame; :meth:`ObjectMemory.observe` stores them.

    Args:
        model: the network.
        features: of B objects.
        decoded: masks of the same objects.
        frame: index of the frame, of all objects or of each.
        prompted: whether the user prompted it.
        pano: circular columns.
        map_dtype: of the stored maps (SAM2 stores bfloat16).

    Returns:
        One per object.
    """
    gated = model.gate(decoded.logits, decoded.object_logit)
    mask = model.encode_mask(gated, pano=pano)
    encoded = model.encode_memory(features, mask, decoded.object_logit, pano=pano).to(map_dtype)
    width = model.grid_hw[1]
    last = decoded.centers
    if last is None:
        last = torch.full((len(gated),), width // 2, device=gated.device)
    centers = center_columns(gated, width, last)
    regions, frames = gated > 0, each(frame, len(gated))

    def own(part: Tensor) -> Tensor:
        # A view would keep alive what belongs to other objects, or to nobody.
        if torch.is_grad_enabled() or part.untyped_storage().nbytes() == part.nbytes:
            return part
        return part.clone()

    return [
        Observation(
            memory=FrameMemory(frames[i], own(encoded[i]), own(decoded.pointer[i])),
            object_logit=own(decoded.object_logit[i, 0]),
            prompted=prompted,
            previous_mask=own(mask[i]),
            center=own(centers[i]),
            region=own(regions[i]) if bool(regions[i].any()) else None,
        )
        for i in range(len(gated))
    ]


def center_columns(logits: Tensor, columns: int, fallback: Tensor) -> Tensor:
    """Token column of the circular mean of each mask.

    Args:
        logits: (B, 1, H, W), above 0 inside the mask.
        columns: of the token grid.
        fallback: (B,) long, used where a mask is empty or goes all the way round.

    Returns:
        (B,) long in [0, columns).
    """
    width = logits.shape[-1]
    occupied = (logits[:, 0] > 0).sum(dim=1).to(torch.float64)  # (B, W)
    angle = (torch.arange(width, device=logits.device, dtype=torch.float64) + 0.5) * (
        2 * math.pi / width
    )
    east, north = occupied @ angle.cos(), occupied @ angle.sin()
    turn = torch.atan2(north, east) / (2 * math.pi) % 1
    column = (turn * columns).long().clamp(max=columns - 1)
    # A ring around the viewer has no centre; what rounding leaves of its mean is no direction.
    length = torch.hypot(east, north)
    return torch.where(length > 1e-3 * occupied.sum(dim=1), column, fallback)


def _prompt_centers(model: PanoSAM2, prompts: PointPrompts, *, pano: bool) -> Tensor | None:
    """Columns that the position code is centred on: every prompt's, or a box across the seam."""
    if not pano:
        return None
    x, width = prompts.xy[..., 0], model.input_size[1]
    wanted = prompts.labels > 0
    middle = (x * wanted).sum(dim=1) / wanted.sum(dim=1).clamp(min=1)
    column = (middle / width * model.grid_hw[1]).floor().long() % model.grid_hw[1]
    if model.config.yaw_true:
        return column
    crosses = ((x < 0) | (x > width)).any(dim=1)
    return torch.where(crosses, column, model.grid_hw[1] // 2)
