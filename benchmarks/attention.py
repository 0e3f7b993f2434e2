"""Memory attention at 1024x1024 by what it is made of, and beside two other ways to compute it.

    OMP_NUM_THREADS=1 python benchmarks/attention.py [--rounds 4]

One head in bfloat16: 4096 queries look at the 28,736 tokens of a full memory, with
absorbed values of 64 channels. Seconds are those of the processor; all take turns.

in blocks   `panosam2_core.nn.attention.attend_in_blocks`, what runs: keys laid out once
by torch    the same by torch's products, and below it what that is made of
online      a softmax that is put together from blocks of keys that stay in the cache
fused       torch's scaled_dot_product_attention, which wants as many channels of values as of keys
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from panosam2_core.allocator import keep_freed_memory
from panosam2_core.nn.attention import QUERY_BLOCK, _attend_by_torch, attend_in_blocks

QUERIES, KEYS, CHANNELS, VALUES = 4096, 28_736, 256, 64
KEY_BLOCKS = (1024, 2048, 4096)


@torch.inference_mode()
def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(n, c).to(torch.bfloat16)
        for n, c in ((QUERIES, CHANNELS), (KEYS, CHANNELS), (KEYS, VALUES))
    )
    q *= 0.1
    scores, out = q.new_empty(QUERY_BLOCK, KEYS), q.new_empty(QUERY_BLOCK, VALUES)
    mean = q.new_empty(QUERIES, VALUES)
    wide = v.repeat(1, CHANNELS // VALUES)[None, None]
    ways: dict[str, Callable[[], object]] = {
        "in blocks": lambda: attend_in_blocks([(q[None], k[None])], v[None]),
        "by torch": lambda: _attend_by_torch([(q, k)], v, mean),
        "  scores": lambda: [torch.mm(x, k.T, out=scores) for x in q.split(QUERY_BLOCK)],
        "  softmax": lambda: [torch.softmax(scores, -1, out=scores) for _ in q.split(QUERY_BLOCK)],
        "  values": lambda: [torch.mm(scores, v, out=out) for _ in q.split(QUERY_BLOCK)],
        **{f"online {n}": lambda n=n: online(q, k, v, n) for n in KEY_BLOCKS},
        "fused": lambda: scaled_dot_product_attention(
            q[None, None], k[None, None], wide, scale=1.0
        ),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            spent[name].append(1e3 * (time.process_time() - begin))
    took = {name: statistics.median(each[1:]) for name, each in spent.items()}
    flop = {
        "  scores": 2e-6 * QUERIES * KEYS * CHANNELS,
        "  values": 2e-6 * QUERIES * KEYS * VALUES,
    }
    for name, ms in took.items():
        rate = f", {flop[name] / ms:.0f} GFLOP/s" if name in flop else ""
        print(f"{name:12s} {ms:6.0f} ms, {ms / took['in blocks']:.2f} of in blocks{rate}")


def online(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    """Softmax attention a block of keys at a time."""
    found = []
    for queries in q.split(QUERY_BLOCK):
        most = queries.new_full((len(queries), 1), -torch.inf)
        total = most.new_zeros(most.shape, dtype=torch.float32)
        mean = total.new_zeros(len(queries), v.shape[1])
        for keys, values in zip(k.split(block), v.split(block), strict=True):
            scores = torch.mm(queries, keys.T)
            before, most = most, torch.maximum(most, scores.amax(-1, keepdim=True))
            shrink = (before.float() - most.float()).exp_()
            scores.sub_(most).exp_()
            total = total * shrink + scores.sum(-1, keepdim=True, dtype=torch.float32)
            mean = mean * shrink + torch.mm(scores, values)
        found.append((mean / total).to(q.dtype))
    return torch.cat(found)


if __name__ == "__main__":
    main()
