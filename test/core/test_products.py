"""Products by oneDNN are torch's products, and come in only where nothing is differentiated."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import Recorded
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from panosam2_core.nn import products
from panosam2_core.nn.attention import attend_in_blocks
from panosam2_core.nn.layers import make_faster
from panosam2_core.nn.products import LARGE, as_product, convolve_pixels, linear

FOLLOWING = {"none": lambda x: x, "relu": F.relu, "relu6": F.relu6, "gelu": F.gelu}
SMALL, BIG = (2, 3, 8, 5), (3, 700, 128, 96)  # batch, rows, channels in, channels out


def given(size: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, channels, outputs = size
    random = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(batch, rows, channels, generator=random)
    weight, bias = (
        torch.randn(outputs, channels, generator=random),
        torch.randn(outputs, generator=random),
    )
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """As near to float64 as one rounding of the type, on sums of some hundred values."""
    assert found.dtype == dtype
    off = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.008}
    torch.testing.assert_close(found.double(), expected, **off)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("then", FOLLOWING)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_a_product(
    size: tuple[int, int, int, int], then: str, biased: bool, dtype: torch.dtype
) -> None:
    x, weight, bias = given(size, dtype)
    exact = F.linear(x.double(), weight.double(), bias.double() if biased else None)
    with torch.inference_mode():
        found = linear(x, weight, bias if biased else None, then)
        close(found, FOLLOWING[then](exact), dtype)
        x, weight, bias = (
            torch.stack((part, part + 1), dim=-1)[..., 0] for part in (x, weight, bias)
        )
        found = linear(x, weight, bias if biased else None, then)
        close(found, FOLLOWING[then](exact), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_where_it_pays(dtype: torch.dtype) -> None:
    fits = products.has_float32_kernels() if dtype == torch.float32 else False
    fits = fits or (dtype == torch.bfloat16 and products.has_bfloat16_kernels())
    assert BIG[0] * BIG[1] * BIG[2] * BIG[3] >= LARGE
    x, weight, bias = given(BIG, dtype)
    with torch.no_grad(), Recorded() as ran:
        linear(x, weight, bias, "gelu")
    assert any("_linear_pointwise" in name for name in ran.names) is fits
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), Recorded() as ran:
        linear(x, weight, bias, "gelu")
    assert not any("mkldnn" in name for name in ran.names), "the user has switched it off"
    with Recorded() as ran:  # what is differentiated, or exported
        linear(x, weight.requires_grad_(), bias).sum().backward()
    assert not any("mkldnn" in name for name in ran.names)
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand_as(weight), atol=0.5, rtol=0.02)


def test_types_are_those_of_torchs_product() -> None:
    for size in (SMALL, BIG):
        x, weight, bias = given(size, torch.float32)
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                assert linear(x, weight, bias).dtype == torch.bfloat16
            for other in (x.double(), x.bfloat16()):
                with pytest.raises(RuntimeError, match=r"dtype|type"):
                    linear(other, weight, bias)


@pytest.mark.parametrize("kernels", [True, False])
def test_nothing_hangs_on_the_kernels(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels:
        monkeypatch.setattr(products, "has_bfloat16_kernels", lambda: False)
        monkeypatch.setattr(products, "has_float32_kernels", lambda: False)
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias = given(BIG, dtype)
        with torch.inference_mode():
            exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
            close(linear(x, weight, bias, "gelu"), exact, dtype)


def test_pixels_are_convolved_as_they_are() -> None:
    x = torch.randn(2, 24, 6, 10).bfloat16().contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(24, 16, 1).bfloat16()
    with torch.inference_mode():
        found = convolve_pixels(x, conv.weight, conv.bias, "relu6")
        close(found, conv.double()(x.double()).clamp(0, 6), torch.bfloat16)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_only_a_plain_convolution_of_pixels_is_a_product() -> None:
    x = torch.randn(1, 8, 6, 10).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        plain = as_product(nn.Conv2d(8, 8, 1), x, torch.bfloat16)
        assert plain is products.has_bfloat16_kernels()
        for other in ({"stride": 2}, {"padding": 1}, {"groups": 2}):
            assert not as_product(nn.Conv2d(8, 8, 1, **other), x, torch.bfloat16)
        assert not as_product(nn.Conv2d(8, 8, 3), x, torch.bfloat16)
        assert not as_product(nn.Conv2d(8, 8, 1), x.contiguous(), torch.bfloat16)
        assert not as_product(nn.Conv2d(8, 8, 1), x, torch.float32)
    assert not as_product(nn.Conv2d(8, 8, 1), x, torch.bfloat16), "with gradients"


def test_an_mlp_of_another_activation_is_left_as_it_is() -> None:
    theirs = MLP(8, 16, 4, 2, activation=nn.SiLU)
    ours = copy.deepcopy(theirs)
    make_faster(ours)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_an_mlp_equals_sam2s(activation: type[nn.Module], sigmoid: bool) -> None:
    theirs = MLP(96, 200, 64, 3, activation=activation, sigmoid_output=sigmoid)
    ours = copy.deepcopy(theirs)
    make_faster(ours)
    x = torch.randn(2, 500, 96)
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(x), theirs(x), atol=0.02, rtol=0.02)


def test_attention_by_large_products_is_attention() -> None:
    q, k, v = torch.randn(1, 300, 128), torch.randn(1, 2000, 128), torch.randn(1, 2000, 40)
    q = q * 0.1
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    with torch.inference_mode():
        for pairs in ([(q, k)], [(q, k[:, :1500]), (q, k[:, 1500:])]):
            torch.testing.assert_close(attend_in_blocks(pairs, v), expected, atol=1e-5, rtol=1e-5)
