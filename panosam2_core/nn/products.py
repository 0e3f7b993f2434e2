"""Matrix products by oneDNN on x86 CPUs, with the bias and what follows in the same pass.

torch's own product copies the bias to where the result goes and adds to it, and in float32 takes
MKL, which on AMD's CPUs takes up to 1.2 times as long (``benchmarks/products.py``). The operator
is torch's private one; torch is pinned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
}
# oneDNN's names, numbers and forms; of GELU the exact one.
CALLED: dict[str, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "gelu": ("gelu", [], "none"),
}
LARGE = 2**24  # multiplications from which on oneDNN is the faster one in float32, too


@cache
def _on_x86() -> bool:
    # Elsewhere other libraries are behind both, and nothing was measured.
    return torch._C._has_mkldnn and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@cache
def _knows_bfloat16() -> bool:
    return _on_x86() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bfloat16_kernels() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU; its operators refuse where it does not."""
    return bool(torch.backends.mkldnn.enabled) and _knows_bfloat16()


def has_float32_kernels() -> bool:
    """Whether oneDNN computes in float32 on this CPU, and was measured on such."""
    return bool(torch.backends.mkldnn.enabled) and _on_x86()


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this type on this CPU; see the two above."""
    half = dtype == torch.bfloat16 and has_bfloat16_kernels()
    return half or (dtype == torch.float32 and has_float32_kernels())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """Compute ``then(x @ weight.T + bias)``.

    Args:
        x: (..., C).
        weight: (C', C), or what :func:`packed` made of it.
        bias: (C',).
        then: ``none``, ``relu``, ``relu6`` or ``gelu``.

    Returns:
        (..., C') in the type of ``weight``, or of autocast.
    """
    plain = torch.is_grad_enabled() or x.device.type != "cpu"
    if weight.is_mkldnn or (not plain and _pays(x, weight)):
        # The operator takes the numbers of the bias as they lie, whatever its stride.
        bias = None if bias is None else bias.contiguous()
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(weight.dtype), weight, bias, *CALLED[then]
        )
        return fused
    out = F.linear(x, weight, bias)
    return out if then == "none" else _ACTIVATIONS[then](out)


def packed(weight: Tensor) -> Tensor:
    """Lay a weight out as oneDNN multiplies by it, which it else does for every product anew.

    Args:
        weight: (C', C), of a type that oneDNN has kernels for.

    Returns:
        (C', C) of the same numbers, opaque: for :func:`linear` without gradients only.
    """
    # The operator asks for the number of rows, but the layout has not been seen to depend on it;
    # where it did, oneDNN would lay it out again with every product.
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return laid_out


def convolve_pixels(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """Convolve 1x1 as a product, which on small maps has less to prepare.

    Args:
        x: (B, C, H, W), in ``torch.channels_last``.
        weight: (C', C, 1, 1).
        bias: (C',).
        then: as in :func:`linear`.

    Returns:
        (B, C', H, W), in ``torch.channels_last``.
    """
    return linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias, then).permute(0, 3, 1, 2)


def as_product(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether a convolution should be a product.

    Args:
        conv: of any kind.
        x: (B, C, H, W).
        dtype: of its arithmetic.

    Returns:
        Whether :func:`convolve_pixels` does the same and pays.
    """
    single = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
    single = single and conv.padding == (0, 0)
    lies_so = x.is_contiguous(memory_format=torch.channels_last)
    pays = dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled()
    return single and lies_so and pays and has_bfloat16_kernels()


def _pays(x: Tensor, weight: Tensor) -> bool:
    cast = torch.is_autocast_enabled("cpu")
    if weight.dtype == torch.bfloat16:
        return (cast or x.dtype == torch.bfloat16) and has_bfloat16_kernels()
    exact = x.dtype == weight.dtype == torch.float32 and not cast
    return exact and x.numel() * weight.shape[0] >= LARGE and has_float32_kernels()
