"""Windows without the tokens that fill them up give what SAM2's windows with them give."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from torch import Tensor

from panosam2_core.nn import hiera
from panosam2_core.nn.layers import make_faster
from panosam2_core.nn.windows import attend_in_windows

HEADS, WIDTH = 4, 32
MAPS = [(4, (8, 12)), (4, (9, 14)), (7, (16, 32)), (14, (6, 9)), (5, (5, 4)), (3, (1, 7))]


def filled_up(qkv: Tensor, filling: Tensor, side: int) -> Tensor:
    """The same by windows that are filled up."""
    filled = F.pad(qkv - filling, (0, 0, 0, -qkv.shape[2] % side, 0, -qkv.shape[1] % side))
    windows, size = window_partition(filled + filling, side)
    parts = windows.reshape(len(windows), side * side, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    mean = F.scaled_dot_product_attention(*parts).transpose(1, 2)
    return window_unpartition(
        mean.reshape(len(windows), side, side, -1), side, size, qkv.shape[1:3]
    )


@pytest.mark.parametrize(("side", "size"), MAPS)
def test_filling_counts_as_often_as_it_is_there(side: int, size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, *size, 3 * WIDTH, generator=random, dtype=torch.float64)
    filling = torch.randn(3 * WIDTH, generator=random, dtype=torch.float64)
    before = qkv.clone()
    found = attend_in_windows(qkv, filling, HEADS, side)
    torch.testing.assert_close(found, filled_up(qkv, filling, side))
    assert torch.equal(qkv, before), "what is given stays as it is"
    if any(length % side for length in size):
        without = attend_in_windows(qkv, 50 * filling, HEADS, side)
        assert not torch.allclose(found, without), "or filling does not matter"


def test_one_head_in_one_window_leaves_what_is_given_as_it_is() -> None:
    qkv = torch.randn(1, 4, 4, 3 * WIDTH, generator=torch.Generator().manual_seed(0))
    before = qkv.clone()
    attend_in_windows(qkv, qkv.new_zeros(3 * WIDTH), 1, 4)
    assert torch.equal(qkv, before), "where a view of it would do as a window"


@pytest.mark.parametrize(("side", "size"), MAPS)
def test_a_block_of_the_trunk_is_as_exact_as_sam2s(side: int, size: tuple[int, int]) -> None:
    theirs = MultiScaleBlock(WIDTH, WIDTH, HEADS, window_size=side).requires_grad_(False)
    randomize(theirs, seed=1)
    ours = copy.deepcopy(theirs)
    make_faster(ours)
    ours.attn.__class__, ours.__class__ = hiera.TrunkAttention, hiera.TrunkBlock
    x = torch.randn(2, *size, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = theirs(x)
        torch.testing.assert_close(ours(x), exact, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            off = [float((block(x) - exact).square().mean().sqrt()) for block in (ours, theirs)]
    assert off[0] <= 1.2 * off[1]
    torch.testing.assert_close(ours(x.requires_grad_()), exact, atol=1e-5, rtol=1e-5)
