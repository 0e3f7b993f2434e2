"""Attention in windows without the tokens that fill the last ones up."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend_in_windows(qkv: Tensor, filling: Tensor, heads: int, side: int) -> Tensor:
    """Attend in square windows; without gradients.

    Where a map is no whole number of windows, SAM2 fills it up with tokens of zeros. Those are no
    queries anybody asks for, and as keys they are all the same: one with the weight of all.

    Args:
        qkv: (B, H, W, 3 C) queries, keys and values of all heads.
        filling: (3 C,) what a token of zeros gives.
        heads: their number; divides C.
        side: of a window, in tokens.

    Returns:
        (B, H, W, C).
    """
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    filling = filling.view(3, heads, -1)
    for rows in _pieces(qkv.shape[1], side):
        for columns in _pieces(qkv.shape[2], side):
            # (B, down, rows, across, columns, heads, channels) of windows that are equally large.
            into = torch.unflatten(_windows(out[:, rows, columns], side), -1, (heads, -1))
            of = torch.unflatten(_windows(qkv[:, rows, columns], side), -1, (3, heads, -1))
            size = of.shape[2] * of.shape[4]
            # A copy also where a view would do, for it is written to.
            parts = of.permute(5, 0, 1, 3, 6, 2, 4, 7).clone(memory_format=torch.contiguous_format)
            parts = parts.view(3, -1, size, of.shape[-1])
            mean = _attend(parts, filling, side * side - size)
            lying = into.permute(0, 1, 3, 5, 2, 4, 6)
            lying.copy_(mean.view(lying.shape))
    return out


def _pieces(length: int, side: int) -> list[slice]:
    """What whole windows cover, and the rest."""
    whole = length // side * side
    return [piece for piece in (slice(0, whole), slice(whole, length)) if piece.start < piece.stop]


def _windows(piece: Tensor, side: int) -> Tensor:
    """(B, H, W, C) as (B, down, rows, across, columns, C); a rest is one window."""
    rows, columns = (min(side, length) for length in piece.shape[1:3])
    return torch.unflatten(torch.unflatten(piece, 2, (-1, columns)), 1, (-1, rows))


def _attend(parts: Tensor, filling: Tensor, missing: int) -> Tensor:
    """(N heads, M, C) means of values, of (3, N heads, M, C)."""
    queries, keys, values = parts.unbind(0)
    queries = queries.mul_(1 / math.sqrt(queries.shape[-1]))
    if missing:
        more = filling[1:, None, :, None].expand(-1, len(keys) // filling.shape[1], -1, -1, -1)
        more = more.reshape(2, len(keys), 1, -1)
        keys, values = torch.cat((keys, more[0]), 1), torch.cat((values, more[1]), 1)
    scores = torch.bmm(queries, keys.mT)
    if missing:
        scores[..., -1] += math.log(missing)
    return torch.bmm(scores.softmax(dim=-1), values)
