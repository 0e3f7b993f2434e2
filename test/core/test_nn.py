"""Laws of the layers that SAM2 does not have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam.transformer import RoPEAttention
from torch import nn

from panosam2_core import ConfigError
from panosam2_core.model import ImageFeatures, PanoSAM2
from panosam2_core.nn.efficientnet_lite import EfficientNetLite0
from panosam2_core.nn.lsmm import LongShortMemory
from panosam2_core.nn.pc_block import MaskFusion, PCBlock
from panosam2_core.nn.position import GridRoPEAttention, LatitudeSine, rope_table
from panosam2_core.nn.wrap import wrapped

GRID = (4, 8)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_pc_block(channels: int = 6) -> PCBlock:
    block = PCBlock(channels)
    randomize(block, seed=2)
    return block.eval().requires_grad_(False)


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(-20, 20))
def test_rolling_the_input_rolls_the_pc_block_output_exactly(shift: int) -> None:
    block, x = random_pc_block(), noise(2, 6, 5, 12)
    rolled = block(torch.roll(x, shift, -1), wrap=True)
    assert torch.equal(rolled, torch.roll(block(x, wrap=True), shift, -1))


def test_pc_block_without_wrap_knows_where_the_edge_is() -> None:
    block, x = random_pc_block(), noise(1, 6, 5, 12)
    rolled = block(torch.roll(x, 3, -1), wrap=False)
    assert not torch.allclose(rolled, torch.roll(block(x, wrap=False), 3, -1), atol=1e-3)


def test_untrained_pc_block_and_fusion_change_nothing() -> None:
    x, other = noise(2, 6, 5, 12), noise(2, 6, 5, 12, seed=1)
    for wrap in (True, False):
        assert torch.equal(PCBlock(6)(x, wrap=wrap), x)
    assert torch.equal(MaskFusion(6)(x, other), x)


def test_folded_pc_block_equals_the_sum_of_its_three_convolutions() -> None:
    block, x = random_pc_block(), noise(1, 6, 5, 12)
    expected = x.clone()
    for conv in (block.conv1, block.conv3, block.conv5):
        reach = conv.kernel_size[0] // 2
        columns = torch.arange(-reach, 12 + reach) % 12
        padded = F.pad(x[..., columns], (0, 0, reach, reach))
        expected += F.conv2d(padded, conv.weight, conv.bias)
    torch.testing.assert_close(block(x, wrap=True), expected, atol=1e-5, rtol=1e-5)


def test_wrapped_network_does_not_see_the_seam() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU(), nn.Conv2d(4, 5, 3, 2, 1))
    x = noise(1, 3, 16, 32)
    out = wrapped(net, x, margin=8, stride=4)
    rolled = wrapped(net, torch.roll(x, 12, -1), margin=8, stride=4)
    assert out.shape == net(x).shape
    assert torch.equal(rolled, torch.roll(out, 3, -1))
    assert torch.allclose(out[..., 1:-1], net(x)[..., 1:-1], atol=1e-6)
    assert not torch.allclose(out, net(x), atol=1e-3)


@pytest.mark.parametrize("shift", [32, 96, -32])
def test_rolling_the_image_rolls_the_trunk_at_every_stride(shift: int) -> None:
    trunk = EfficientNetLite0().eval().requires_grad_(False)
    x = noise(1, 3, 64, 128)
    plain, rolled = trunk(x, wrap=True), trunk(torch.roll(x, shift, -1), wrap=True)
    for before, after, stride in zip(plain, rolled, (4, 8, 16, 32), strict=True):
        assert before.shape[-2:] == (64 // stride, 128 // stride)
        torch.testing.assert_close(after, torch.roll(before, shift // stride, -1))


def attention(*, harmonic: bool, grid: tuple[int, int] = GRID) -> GridRoPEAttention:
    torch.manual_seed(0)
    made = GridRoPEAttention(
        embedding_dim=32, num_heads=1, feat_sizes=grid[::-1], rope_k_repeat=True, kv_in_dim=16
    )
    made.set_grid(grid, harmonic=harmonic)
    return made.eval().requires_grad_(False)


def test_square_grid_equals_upstream_rotary_attention() -> None:
    ours = attention(harmonic=False, grid=(6, 6))
    theirs = RoPEAttention(
        embedding_dim=32, num_heads=1, feat_sizes=(6, 6), rope_k_repeat=True, kv_in_dim=16
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    q, kv = noise(2, 36, 32), noise(2, 3 * 36 + 5, 16, seed=1)
    expected = theirs(q, kv, kv, num_k_exclude_rope=5)
    torch.testing.assert_close(ours(q, kv, kv, num_k_exclude_rope=5), expected)


def test_attention_refuses_a_grid_it_was_not_built_for() -> None:
    q = noise(1, 32, 32)
    with pytest.raises(ConfigError, match="32 queries"):
        attention(harmonic=False, grid=(2, 8))(q, noise(1, 32, 16), noise(1, 32, 16))
    with pytest.raises(ConfigError, match="40 placed keys"):
        attention(harmonic=False)(q, noise(1, 40, 16), noise(1, 40, 16))


@pytest.mark.parametrize("shift", [1, 3, -2])
@pytest.mark.parametrize("harmonic", [True, False])
def test_harmonic_rotary_attention_is_yaw_equivariant_and_sam2s_is_not(
    shift: int, harmonic: bool
) -> None:
    layer = attention(harmonic=harmonic)

    def roll(tokens: torch.Tensor) -> torch.Tensor:
        batch, count, channels = tokens.shape
        grids = tokens.reshape(batch, count // 32, *GRID, channels)
        return torch.roll(grids, shift, dims=3).reshape(tokens.shape)

    q, placed, free = 3 * noise(1, 32, 32), 3 * noise(1, 64, 16, seed=1), 3 * noise(1, 5, 16)
    plain = layer(q, *[torch.cat([placed, free], dim=1)] * 2, num_k_exclude_rope=5)
    rolled = layer(roll(q), *[torch.cat([roll(placed), free], dim=1)] * 2, num_k_exclude_rope=5)
    difference = (rolled - roll(plain)).abs().max()
    assert bool(difference < 1e-5) == harmonic


def test_rope_table_turns_whole_circles_per_panorama_when_harmonic() -> None:
    table = rope_table(16, (2, 8), theta=10000.0, harmonic=True)
    step = table[1, :4] / table[0, :4]
    torch.testing.assert_close(step**8, torch.ones(4, dtype=torch.complex64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mean", [False, True])
def test_latitude_sine_is_the_same_in_all_columns_and_differs_between_rows(mean: bool) -> None:
    made = LatitudeSine(16, mean=mean)
    grid = torch.zeros(1, 16, 4, 8)
    code, sams = made(grid), made.sine(grid)
    assert torch.equal(code, code[..., :1].expand_as(code))
    assert (code[..., 0, 0] - code[..., 1, 0]).abs().max() > 0.1
    assert torch.equal(code[:, :8], sams[:, :8])
    torch.testing.assert_close(code[:, 8:].mean(-1), sams[:, 8:].mean(-1) * mean)


def test_untrained_lsmm_is_the_attention_mean_of_the_short_maps() -> None:
    torch.manual_seed(0)
    module = LongShortMemory(8, 4)
    long, short, maps = noise(2, 3, 8), noise(2, 5, 8, seed=1), noise(2, 5, 4, 3, 6, seed=2)
    weights = (module.query(long) @ module.key(short).transpose(1, 2) / 8**0.5).softmax(-1)
    expected = (weights[..., None, None, None] * maps[:, None]).sum(2)
    torch.testing.assert_close(module(long, short, maps), expected)
    # A mean lies within the extremes of what it averages.
    assert bool((module(long, short, maps) <= maps.amax(1, keepdim=True) + 1e-6).all())


def test_lsmm_per_short_frame_shares_the_maps_out_by_mean_attention() -> None:
    torch.manual_seed(0)
    module = LongShortMemory(8, 4, per_short_frame=True)
    long, short, maps = noise(2, 3, 8), noise(2, 5, 8, seed=1), noise(2, 5, 4, 3, 6, seed=2)
    pseudo = module(long, short, maps)
    assert pseudo.shape == maps.shape
    # The sum over frames is what the other form gives on average: both are at one map's scale.
    other = LongShortMemory(8, 4)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(pseudo.mean(1), other(long, short, maps).mean(1))


def test_lsmm_modulates_each_channel_by_its_pointer() -> None:
    torch.manual_seed(0)
    module = LongShortMemory(8, 4)
    with torch.no_grad():
        module.modulation[-1].bias.copy_(torch.tensor([2.0, 1, 1, 1, 0, 0, 0, 5]))
    long, short, maps = noise(1, 1, 8), noise(1, 2, 8, seed=1), noise(1, 2, 4, 3, 6, seed=2)
    plain = LongShortMemory(8, 4)
    plain.load_state_dict({**module.state_dict(), **_identity(plain)})
    expected = plain(long, short, maps).clone()
    expected[:, :, 0] *= 2
    expected[:, :, 3] += 5
    torch.testing.assert_close(module(long, short, maps), expected)


def _identity(module: LongShortMemory) -> dict[str, torch.Tensor]:
    return {k: v for k, v in module.state_dict().items() if k.startswith("modulation.2")}


def test_memories_and_mask_features_of_a_rolled_frame_are_rolled(small_nano: PanoSAM2) -> None:
    """To the last digits: a margin that is one token too narrow shows at the seam only."""
    generator = torch.Generator().manual_seed(3)
    h, w = small_nano.grid_hw
    top = torch.randn(1, small_nano.config.width, h, w, generator=generator)
    logits = torch.randn(1, 1, 4 * h, 4 * w, generator=generator) * 4
    position = torch.zeros_like(top)
    seen = torch.ones(1, 1)

    def memory(shift: int) -> torch.Tensor:
        features = ImageFeatures(top.roll(shift, -1), position, (top, top))
        mask = small_nano.encode_mask(logits.roll(4 * shift, -1), pano=True)
        return small_nano.encode_memory(features, mask, seen, pano=True).roll(-shift, -1)

    whole = memory(0)
    for shift in range(1, w):
        assert (memory(shift) - whole).abs().max() < 2e-5 * whole.abs().max(), shift
