"""Packs the memories of several objects into one batch of memory-attention tokens.

Token order (SAM2's, with the long-term parts in between): maps of prompted frames and of anchors,
pseudo long-term maps, recent maps oldest first; then the pointers of the prompted frames and
anchors, of the long-term and of the recent frames, the latter newest first. Maps must come first,
because attention rotates whole maps and leaves a given number of tokens at the end alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

from panosam2_core.memory.bank import LongTermEntry, ObjectMemory
from panosam2_core.model import MemoryTokens, PanoSAM2

Layout = tuple[int, int, int, int, bool]
LongDraws = Sequence[Sequence[LongTermEntry]]
Frames = int | Sequence[int]


def each(frame: Frames, count: int) -> Sequence[int]:
    """Give every object its frame.

    Args:
        frame: index of all or of each.
        count: of objects.

    Returns:
        An index per object.
    """
    return [frame] * count if isinstance(frame, int) else frame


def layout(memory: ObjectMemory, long_draw: Sequence[LongTermEntry]) -> Layout:
    """Numbers of entries of each kind; objects of equal layout can share a batch.

    Args:
        memory: of one object.
        long_draw: the long-term entries drawn for it.

    Returns:
        Prompted maps and anchors, recent maps, recent pointers, long-term entries, previous mask
        known.
    """
    return (
        len(memory.lasting),
        len(memory.recent),
        len(memory.recent_pointers),
        len(long_draw),
        memory.previous_mask is not None,
    )


class Recalled(NamedTuple):
    """What is remembered of B objects of equal layout, as tensors.

    Attributes:
        prompted_maps: (B, M_p, D, h, w), at least one; anchors count as prompted.
        recent_maps: (B, M_r, D, h, w) of tracked frames, oldest first; M_r may be 0.
        recent_ages: (B, M_r) long, frames since then, 1 .. ``num_maskmem - 1``.
        recent_pointers: (B, M_r, C) of the same frames.
        long_pointers: (B, N_l, C) of the long-term frames drawn; N_l may be 0.
        pointers: (B, P, C) of the prompted, long-term and recent frames, the latter newest first.
        pointer_ages: (B, P) long, frames since then.
    """

    prompted_maps: Tensor
    recent_maps: Tensor
    recent_ages: Tensor
    recent_pointers: Tensor
    long_pointers: Tensor
    pointers: Tensor
    pointer_ages: Tensor


def pack(
    model: PanoSAM2, memories: Sequence[ObjectMemory], long_draws: LongDraws, frame: Frames
) -> MemoryTokens:
    """Build the tokens for B objects of equal layout.

    Args:
        model: gives the time codes and the long-short memory module.
        memories: B objects, each with at least one prompted frame.
        long_draws: B lists of equal length, empty where the long-term memory is off.
        frame: index of the current frame, of all objects or of each.

    Returns:
        Tokens for memory attention.
    """
    return assemble(model, recall(model, memories, long_draws, frame))


def recall(
    model: PanoSAM2, memories: Sequence[ObjectMemory], long_draws: LongDraws, frame: Frames
) -> Recalled:
    """Stack what B objects of equal layout remember; arguments as for :func:`pack`.

    Returns:
        Maps in single precision, and pointers, with their ages.
    """
    prompted = _stack([[m.memory_map for m in memory.lasting] for memory in memories])
    reach = model.max_obj_ptrs_in_encoder - 1
    pointers, ages = [], []
    frames = each(frame, len(memories))
    for memory, draw, now in zip(memories, long_draws, frames, strict=True):
        entries = [(now - m.frame, m.pointer) for m in memory.prompted]
        # Older than training ever saw: the code saturates instead of extrapolating.
        entries += [(min(now - m.frame, reach), m.pointer) for m in memory.anchors]
        entries += [(min(now - e.frame, reach), e.pointer) for e in draw]
        entries += [(now - f, pointer) for f, pointer in reversed(memory.recent_pointers)]
        pointers.append(torch.stack([pointer for _, pointer in entries]))
        ages.append([age for age, _ in entries])
    stacked = torch.stack(pointers)
    first, drawn = prompted.shape[1], len(long_draws[0])
    recent_maps = prompted[:, :0]
    recent_pointers = stacked[:, :0].float()
    if memories[0].recent:
        recent_maps = _stack([[m.memory_map for m in memory.recent] for memory in memories])
        recent_pointers = _stack([[m.pointer for m in memory.recent] for memory in memories])
    recent_ages = [
        [now - m.frame for m in memory.recent]
        for memory, now in zip(memories, frames, strict=True)
    ]
    return Recalled(
        prompted_maps=prompted,
        recent_maps=recent_maps,
        recent_ages=torch.tensor(recent_ages, dtype=torch.long, device=stacked.device),
        recent_pointers=recent_pointers,
        # Contiguous, so that products with it round as they would of a tensor of its own.
        long_pointers=stacked[:, first : first + drawn].contiguous(),
        pointers=stacked,
        pointer_ages=torch.tensor(ages, device=stacked.device),
    )


def assemble(model: PanoSAM2, recalled: Recalled) -> MemoryTokens:
    """Turn maps and pointers into tokens; a function of tensors alone.

    Args:
        model: gives the time codes and the long-short memory module.
        recalled: of B objects.

    Returns:
        Tokens for memory attention.
    """
    maps, map_codes = _map_tokens(model, recalled)
    pointers, pointer_codes = _pointer_tokens(model, recalled)
    return MemoryTokens(
        tokens=torch.cat([maps, pointers]),
        positions=torch.cat([map_codes, pointer_codes]),
        num_pointer_tokens=pointers.shape[0],
    )


def _map_tokens(model: PanoSAM2, recalled: Recalled) -> tuple[Tensor, Tensor]:
    """(M h w, B, D) map tokens and their place-and-time codes."""
    prompted, recent = recalled.prompted_maps, recalled.recent_maps
    oldest = model.num_maskmem - 1  # slot of the prompted maps
    parts = [prompted]
    times = [_time_codes(model, oldest).expand(*prompted.shape[:2], -1)]
    if recent.shape[1]:
        if recalled.long_pointers.shape[1]:
            parts.append(model.lsmm(recalled.long_pointers, recalled.recent_pointers, recent))
            times.append(model.lsmm.time_embed.expand(*parts[-1].shape[:2], -1))
        parts.append(recent)
        times.append(_time_codes(model, recalled.recent_ages - 1))
    maps, time = torch.cat(parts, dim=1), torch.cat(times, dim=1)
    place = model.memory_position(maps[:, 0])
    codes = place[:, None] + time[..., None, None]
    return _as_tokens(maps), _as_tokens(codes)


def _pointer_tokens(model: PanoSAM2, recalled: Recalled) -> tuple[Tensor, Tensor]:
    """(P C / D, B, D) pointer tokens and their time codes."""
    batch, count, width = recalled.pointers.shape
    pieces = width // model.mem_dim
    tokens = recalled.pointers.reshape(batch, count * pieces, model.mem_dim).transpose(0, 1)
    if not model.add_tpos_enc_to_obj_ptrs:  # SAM 2.0
        return tokens, torch.zeros_like(tokens)
    age = recalled.pointer_ages / (model.max_obj_ptrs_in_encoder - 1)
    codes = model.obj_ptr_tpos_proj(get_1d_sine_pe(age, dim=width).to(tokens.dtype))
    return tokens, codes.repeat_interleave(pieces, dim=1).transpose(0, 1)


def _stack(nested: list[list[Tensor]]) -> Tensor:
    """Lists of equal length to (B, n, ...), in single precision (maps are stored in half)."""
    return torch.stack([torch.stack(row) for row in nested]).float()


def _time_codes(model: PanoSAM2, slots: Tensor | int) -> Tensor:
    """(..., D) codes of SAM2's slots: 0 = last frame, ..., num_maskmem - 1 = prompted."""
    codes: Tensor = model.maskmem_tpos_enc[slots, 0, 0]
    return codes


def _as_tokens(maps: Tensor) -> Tensor:
    """(B, M, D, h, w) to (M h w, B, D)."""
    return maps.permute(1, 3, 4, 0, 2).flatten(0, 2)
