"""Attention as plain matrix products, which CPUs compute faster than torch's fused kernel.

That kernel gains nothing from half precision there, matrix products do; and it wants values of as
many channels as keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

QUERY_BLOCK = 256  # less starves the matrix products, more leaves the cache


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
    block = min(QUERY_BLOCK, count)
    # One buffer for all: the pages of a fresh one cost more than the products.
    buffer = values.new_empty(block, values.shape[1])
    for i in range(batch):
        for start in range(0, count, block):
            end, left = min(start + block, count), 0
            scores = buffer[: end - start]
            for queries, keys in pairs:
                right = left + keys.shape[1]
                torch.mm(queries[i, start:end], keys[i].T, out=scores[:, left:right])
                left = right
            torch.softmax(scores, dim=-1, out=scores)
            torch.mm(scores, values[i], out=out[i, start:end])
    return out


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
