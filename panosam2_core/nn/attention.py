"""Attention as plain matrix products, which CPUs compute faster than torch's fused kernel.

That kernel gains nothing from half precision there, matrix products do; and it wants values of as
many channels as keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import Attention
from torch import Tensor

from panosam2_core.nn.products import has_kernels, linear, packed

QUERY_BLOCK = 256  # less starves the matrix products, more leaves the cache
PACKED_FROM = 2**21  # numbers in the keys of the first pair; fewer stay in the cache as they are


def attend_in_blocks(pairs: Sequence[tuple[Tensor, Tensor]], values: Tensor) -> Tensor:
    """Softmax attention of one head, a block of queries at a time; without gradients.

    Args:
        pairs: queries (B, N, C), scaled, and the keys (B, M_i, C) that they are compared with.
            Each pair is for the next ``M_i`` of the values.
        values: (B, sum of M_i, C').

    Returns:
        (B, N, C') mean of the values for every query.
    """
    batch, count, _ = pairs[0][0].shape
    out = values.new_empty(batch, count, values.shape[-1])
    pack = pairs[0][1][0].numel() >= PACKED_FROM
    by_onednn = has_kernels(values.dtype) and (pack or values.dtype == torch.float32)
    attend_one = partial(_attend_by_onednn, pack=pack) if by_onednn else _attend_by_torch
    for i in range(batch):
        attend_one([(queries[i], keys[i]) for queries, keys in pairs], values[i], out[i])
    return out


def _attend_by_torch(pairs: Sequence[tuple[Tensor, Tensor]], values: Tensor, out: Tensor) -> None:
    """Into ``out`` (N, C')."""
    # One buffer for all: the pages of a fresh one cost more than the products.
    buffer = values.new_empty(min(QUERY_BLOCK, len(out)), len(values))
    for start in range(0, len(out), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        scores = buffer[: len(out[rows])]
        _compare(pairs, rows, scores)
        torch.softmax(scores, dim=-1, out=scores)
        torch.mm(scores, values, out=out[rows])


def _attend_by_onednn(
    pairs: Sequence[tuple[Tensor, Tensor]], values: Tensor, out: Tensor, *, pack: bool
) -> None:
    """The same by products that cannot write into a buffer, but are faster.

    Where freed memory is not kept (:mod:`panosam2_core.allocator`), fresh pages cost what is won.
    """
    (queries, keys), *others = pairs
    if others:  # Room for their scores, which would else have to be joined to these.
        keys = F.pad(keys, (0, 0, 0, len(values) - len(keys)))
    values = values.T.contiguous()
    if pack:
        keys, values = packed(keys), packed(values)
    for start in range(0, len(out), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        scores = linear(queries[rows], keys)
        if others:
            _compare(others, rows, scores[:, -sum(len(keys) for _, keys in others) :])
        torch.softmax(scores, dim=-1, out=scores)
        out[rows] = linear(scores, values)


def _compare(pairs: Sequence[tuple[Tensor, Tensor]], rows: slice, scores: Tensor) -> None:
    """Write scores (rows, sum of M_i)."""
    left = 0
    for queries, keys in pairs:
        right = left + len(keys)
        torch.mm(queries[rows], keys.T, out=scores[:, left:right])
        left = right


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of many small windows, or of few large ones; without gradients.

    Args:
        queries: (B, N, C), scaled.
        keys: (B, M, C).
        values: (B, M, C').

    Returns:
        (B, N, C').
    """
    if queries.shape[1] > QUERY_BLOCK:
        return attend_in_blocks([(queries, keys)], values)
    return torch.bmm(torch.bmm(queries, keys.mT).softmax(dim=-1), values)


QUERIES_PER_KEY = 16  # from so many on scores are laid out the other way round


class DecoderAttention(Attention):  # type: ignore[misc]
    """SAM2's attention between tokens and image. Parameter names are SAM2's.

    The image looks at a handful of tokens. torch's fused kernel takes its rows of scores one by
    one, and these have eight entries; as columns they are computed side by side.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: (B, N, C) queries.
            k: (B, M, C) keys.
            v: (B, M, C) values.

        Returns:
            (B, N, C).
        """
        # What is exported runs with gradients, and must not be asked for numbers that are free.
        fast = not torch.is_grad_enabled() and q.device.type == "cpu"
        if not fast or q.shape[1] < QUERIES_PER_KEY * k.shape[1]:
            fused: Tensor = super().forward(q, k, v)
            return fused
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        batch, count, width = q.shape
        q = q * (1 / math.sqrt(width // self.num_heads))
        q, k, v = (self._separate_heads(x, self.num_heads).flatten(0, 1) for x in (q, k, v))
        weights = torch.bmm(k, q.mT).softmax(dim=1)  # (B heads, M, N)
        mean = torch.bmm(v.mT, weights).reshape(batch, -1, count)  # (B, C, N)
        projected: Tensor = self.out_proj(mean.mT)
        return projected
