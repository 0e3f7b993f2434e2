"""What is kept of weights is never older than they are, and layers that keep it change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import Recorded, randomize
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

from panosam2_core.nn import attention, efficientnet_lite, hiera, products
from panosam2_core.nn.attention import attend, attend_in_blocks
from panosam2_core.nn.derived import Derived
from panosam2_core.nn.efficientnet_lite import InvertedResidual, Stage
from panosam2_core.nn.layers import FoldedSkip, make_faster
from panosam2_core.nn.pc_block import MaskFusion, PCBlock


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer_step(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1).step()


def write(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


def replace_data(weight: nn.Parameter) -> None:
    weight.data = weight.data.flip(0)


def load(weight: nn.Parameter) -> None:
    holder = nn.Module()
    holder.register_parameter("weight", weight)
    holder.load_state_dict({"weight": noise(*weight.shape, seed=9)})


@pytest.mark.parametrize("change", [optimizer_step, write, replace_data, load])
def test_what_is_kept_follows_every_change_of_the_weights(
    change: Callable[[nn.Parameter], None],
) -> None:
    weight, kept = nn.Parameter(noise(3, 4)), Derived()
    with torch.inference_mode():
        assert torch.equal(kept([weight], lambda: weight * 3), weight * 3)
    for _ in range(3):
        change(weight)
        with torch.inference_mode():
            assert torch.equal(kept([weight], lambda: weight * 3), weight * 3)


def test_it_is_computed_once_per_choice_and_not_kept_where_gradients_are_wanted() -> None:
    weight, kept, calls = nn.Parameter(noise(3)), Derived(), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return weight.exp()

    with torch.inference_mode():
        first = kept([weight], compute, "a")
        assert kept([weight], compute, "a") is first
        assert len(calls) == 1
        kept([weight], compute, "b")
        assert len(calls) == 2
    kept([weight], compute, "b").sum().backward()
    assert torch.equal(weight.grad, weight.detach().exp())
    assert copy.deepcopy(kept)._kept is None


def test_a_kept_tensor_may_be_used_for_training_later() -> None:
    weight, other, kept = nn.Parameter(noise(3)), nn.Parameter(noise(3, seed=1)), Derived()
    with torch.inference_mode():
        code = kept([weight], weight.exp)
    (code * other).sum().backward()
    assert torch.equal(other.grad, code)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 8), (2, 5, 6)),
        (nn.Conv2d(6, 8, 3, 2, 1), (2, 6, 8, 8)),
        (nn.ConvTranspose2d(6, 8, 2, 2), (2, 6, 8, 8)),
    ],
)
def test_layers_that_cast_once_compute_what_torch_computes(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    ours, x = copy.deepcopy(layer), noise(*shape)
    make_faster(ours)
    assert type(ours) is not type(layer)
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(ours(x), layer(x))
            with torch.autocast("cpu", torch.bfloat16):
                assert ours(x).dtype == torch.bfloat16
                assert torch.equal(ours(x), layer(x))
            for module in (ours, layer):
                module.weight.add_(0.5)


@pytest.mark.parametrize("channels", [4, 24])
def test_norm_of_channels_equals_sam2s(channels: int) -> None:
    theirs, x = LayerNorm2d(channels), noise(2, channels, 4, 5)
    randomize(theirs, seed=1)
    ours = copy.deepcopy(theirs)
    make_faster(ours)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        torch.testing.assert_close(ours(given), theirs(given), atol=1e-6, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(ours(given), theirs(given), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kernels", [True, False])
def test_nanos_trunk_runs_where_onednn_has_no_bfloat16(
    kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CPUs without AVX512, where its own operator raises."""
    if kernels and not efficientnet_lite.has_bfloat16_kernels():
        pytest.skip("this CPU has none")
    for module in (efficientnet_lite, products):
        monkeypatch.setattr(module, "has_bfloat16_kernels", lambda: kernels)
    block = InvertedResidual(6, Stage(3, 1, 6, 8, 1), 1).requires_grad_(False)
    make_faster(block)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Recorded() as ran:
        x = noise(1, 6, 8, 12).bfloat16().contiguous(memory_format=torch.channels_last)
        block(x, wrap=True)
    for private in ("_convolution_pointwise", "_linear_pointwise"):
        assert any(private in name for name in ran.names) is kernels


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("wrap", [True, False])
def test_a_block_of_nanos_trunk_is_its_three_convolutions(
    kernel: int, stride: int, wrap: bool
) -> None:
    block = InvertedResidual(6, Stage(kernel, stride, 6, 8, 1), stride).requires_grad_(False)
    randomize(block, seed=1)
    make_faster(block)
    # Large enough for both ends of ReLU6.
    x = 40 * noise(2, 6, 8, 12).contiguous(memory_format=torch.channels_last)
    start = (kernel - stride) // 2
    rows, cols = (
        torch.arange(8 + kernel - stride) - start,
        torch.arange(12 + kernel - stride) - start,
    )

    def reference(x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, block.expand.weight, block.expand.bias).clamp(0, 6)
        wide = y[..., rows.clamp(0, 7), :][..., cols % 12]
        wide = wide * ((rows >= 0) & (rows < 8))[:, None]
        wide = wide if wrap else wide * ((cols >= 0) & (cols < 12))
        middle = block.depthwise
        y = F.conv2d(wide, middle.weight, middle.bias, stride, groups=36).clamp(0, 6)
        return F.conv2d(y, block.project.weight, block.project.bias)

    torch.testing.assert_close(block(x, wrap=wrap), reference(x), atol=1e-4, rtol=1e-4)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        half = x.bfloat16()
        found, expected = block(half, wrap=wrap), reference(half)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_folded_skip_equals_its_two_convolutions() -> None:
    first, second, x = nn.Conv2d(5, 7, 1), nn.Conv2d(7, 3, 1), noise(2, 5, 4, 6)
    fold = FoldedSkip()
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(fold(x, first, second), second(first(x)))
        with torch.no_grad():
            second.weight.mul_(-1)


@pytest.mark.parametrize("wrap", [True, False])
def test_fusion_after_a_pc_block_equals_the_two(wrap: bool) -> None:
    block, fusion, x, mask = PCBlock(6), MaskFusion(6), noise(2, 6, 5, 12), noise(2, 6, 5, 12)
    for seed in (1, 2):
        randomize(block, seed=seed)
        randomize(fusion, seed=seed + 10)
        with torch.inference_mode():
            expected = fusion(block(x, wrap=wrap), mask)
            found = fusion.after(block, x, mask, wrap=wrap)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [7, 256, 300, 513])
def test_attention_in_blocks_is_attention(count: int) -> None:
    q, k, v = noise(2, count, 16), noise(2, 90, 16, seed=1), noise(2, 90, 4, seed=2)
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    with torch.inference_mode():
        parts = [(q, k[:, :70]), (q, k[:, 70:])]
        torch.testing.assert_close(attend_in_blocks(parts, v), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attend(q, k, v), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("large", [True, False])
def test_large_keys_are_laid_out_once(
    dtype: torch.dtype, kernels: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = kernels and large and getattr(products, f"has_{str(dtype)[6:]}_kernels")()
    if not kernels:
        monkeypatch.setattr(products, "has_float32_kernels", lambda: False)
        monkeypatch.setattr(products, "has_bfloat16_kernels", lambda: False)
    rows = attention.PACKED_FROM // 64 + 70 - (not large)
    q, other = 0.1 * noise(2, 300, 64), 0.4 * noise(2, 300, 64, seed=3)  # a fifth of the weight
    k, v = noise(2, rows, 64, seed=1), noise(2, rows, 4, seed=2)
    exact = torch.cat([q @ k[:, :-70].mT, other @ k[:, -70:].mT], dim=-1).softmax(-1) @ v
    parts = [(q, k[:, :-70]), (other, k[:, -70:])]
    parts = [(queries.to(dtype), keys.to(dtype)) for queries, keys in parts]
    with torch.inference_mode(), Recorded() as ran:
        found = attend_in_blocks(parts, v.to(dtype))
    assert found.dtype == dtype
    # Of both items, keys and values: not for each of their two blocks of queries.
    assert ran.times("_reorder_linear_weight") == 4 * has
    off = (found.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert off <= (1e-5 if dtype == torch.float32 else 0.03), "1 without the other pair"


def test_weights_laid_out_for_half_precision_follow_them() -> None:
    layer, x = nn.Linear(48, 20), noise(5, 48)
    make_faster(holder := nn.Sequential(layer))
    for scale in (1, 2):
        with torch.no_grad():
            layer.weight.mul_(scale)
        exact = F.linear(x, layer.weight, layer.bias)
        for enabled in (True, False, True):
            with (
                torch.inference_mode(),
                torch.backends.mkldnn.flags(enabled=enabled),
                torch.autocast("cpu", torch.bfloat16),
            ):
                lays_out = products.has_bfloat16_kernels()
                for first in (True, False):
                    with Recorded() as ran:
                        found = holder(x)
                    assert found.dtype == torch.bfloat16
                    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.02)
                    assert ran.times("_reorder_linear_weight") == (lays_out and first)
                    assert ran.times("_linear_pointwise") == lays_out


@pytest.mark.parametrize("queries", [8, 400])
def test_attention_of_the_decoder_equals_sam2s(queries: int) -> None:
    theirs = Attention(32, num_heads=4, downsample_rate=2)
    ours = copy.deepcopy(theirs)
    make_faster(ours)
    given = noise(2, queries, 32), noise(2, 9, 32, seed=1), noise(2, 9, 32, seed=2)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*given), theirs(*given), atol=1e-6, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(*given), theirs(*given), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2, 2)])
@pytest.mark.parametrize("side", [8, 24])
def test_trunk_attention_in_half_precision_equals_sam2s(pool: nn.Module | None, side: int) -> None:
    theirs = MultiScaleAttention(32, 64, num_heads=2, q_pool=pool)
    ours = copy.deepcopy(theirs)
    ours.__class__ = hiera.TrunkAttention
    x = noise(3, side, side, 32)
    with torch.inference_mode():
        exact = theirs(x)
        assert torch.equal(ours(x), exact)
        with torch.autocast("cpu", torch.bfloat16):
            found, reference = ours(x), theirs(x)
    assert found.dtype == torch.bfloat16

    def deviation(y: torch.Tensor) -> float:
        return float((y.float() - exact).square().mean().sqrt())

    assert 0 < deviation(found) <= 1.5 * deviation(reference)
