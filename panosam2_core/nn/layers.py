"""SAM2's and torch's layers, computed faster: same names, same weights, same results."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from torch import Tensor, nn

from panosam2_core.nn.attention import DecoderAttention
from panosam2_core.nn.derived import Derived, arithmetic_type
from panosam2_core.nn.products import (
    as_product,
    convolve_pixels,
    has_bfloat16_kernels,
    linear,
    packed,
)

FEW_CHANNELS = 8


class _CastOnce(nn.Module):
    """Mixed into layers: autocast casts frozen weights on every call, this does it once."""

    _cast: Derived[tuple[Tensor, Tensor | None]]

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type that ``x`` is computed in, laid out for that."""
        dtype = arithmetic_type(x)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        if weight is None or dtype == weight.dtype or torch.is_grad_enabled():
            return self.weight, bias  # type: ignore[return-value]

        def cast() -> tuple[Tensor, Tensor | None]:
            laid_out = self._lay_out(weight.to(dtype))
            return laid_out, None if bias is None else bias.to(dtype)

        sources = [weight] if bias is None else [weight, bias]
        return self._cast(sources, cast, dtype, has_bfloat16_kernels())

    def _lay_out(self, weight: Tensor) -> Tensor:
        return weight


class CastOnceLinear(_CastOnce, nn.Linear):
    """``nn.Linear`` that keeps its weights in autocast's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute as ``nn.Linear`` does."""
        return self.then(x, "none")

    def then(self, x: Tensor, activation: str) -> Tensor:
        """Compute what follows in the same pass, see :func:`panosam2_core.nn.products.linear`.

        Args:
            x: (..., C).
            activation: its name.

        Returns:
            (..., C').
        """
        return linear(x, *self.parameters_for(x), activation)

    def _lay_out(self, weight: Tensor) -> Tensor:
        half = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
        return packed(weight) if half and has_bfloat16_kernels() else weight


_NAMES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.GELU: "gelu"}


class FusedMLP(MLP):  # type: ignore[misc]
    """SAM2's ``MLP``, its activations in the pass of the products before them."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute as ``MLP`` does."""
        then = _NAMES.get(type(self.act))
        if then is None or torch.is_grad_enabled():
            plain: Tensor = super().forward(x)
            return plain
        *hidden, last = self.layers
        for layer in hidden:
            x = layer.then(x, then)
        out: Tensor = last(x)
        return F.sigmoid(out) if self.sigmoid_output else out


class CastOnceConv2d(_CastOnce, nn.Conv2d):
    """``nn.Conv2d`` that keeps its weights in autocast's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute as ``nn.Conv2d`` does."""
        weight, bias = self.parameters_for(x)
        if as_product(self, x, weight.dtype):
            return convolve_pixels(x, weight, bias)
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class CastOnceConvTranspose2d(_CastOnce, nn.ConvTranspose2d):
    """Unpadded ``nn.ConvTranspose2d`` that keeps its weights in autocast's type."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Compute as ``nn.ConvTranspose2d`` does."""
        weight, bias = self.parameters_for(x)
        return F.conv_transpose2d(x, weight, bias, self.stride)


class FoldedSkip:
    """Two 1x1 convolutions in a row as one: there is no nonlinearity between them."""

    def __init__(self) -> None:
        self._folded: Derived[tuple[Tensor, Tensor]] = Derived()

    def __call__(self, x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
        """Compute ``second(first(x))``.

        Args:
            x: (B, C, H, W).
            first: C to C'.
            second: C' to C''.

        Returns:
            (B, C'', H, W).
        """
        dtype = arithmetic_type(x)

        def fold() -> tuple[Tensor, Tensor]:
            matrix = second.weight[:, :, 0, 0]
            weight = matrix @ first.weight[:, :, 0, 0]
            bias = matrix @ first.bias + second.bias  # type: ignore[operator]
            return weight[..., None, None].to(dtype), bias.to(dtype)

        sources = [*first.parameters(), *second.parameters()]
        return F.conv2d(x.to(dtype), *self._folded(sources, fold, dtype))


class NormOfChannels(LayerNorm2d):  # type: ignore[misc]
    """SAM2's ``LayerNorm2d`` as one kernel instead of nine."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize every pixel over its channels.

        Args:
            x: (B, C, H, W), best in ``torch.channels_last``.

        Returns:
            Like ``x``, in ``torch.channels_last``.
        """
        if x.shape[1] <= FEW_CHANNELS and x.device.type == "cpu" and not torch.is_grad_enabled():
            return self._few(x)
        pixels = x.permute(0, 2, 3, 1)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        normalized = F.layer_norm(pixels, pixels.shape[-1:], weight, bias, self.eps)
        return normalized.permute(0, 3, 1, 2)

    def _few(self, x: Tensor) -> Tensor:
        """The same by whole planes: the kernel takes as long for 4 channels as for 32."""
        exact = x.float()
        centred = exact - exact.mean(dim=1, keepdim=True)
        scale = centred.square().mean(dim=1, keepdim=True).add_(self.eps).rsqrt_()
        planes = (1, -1, 1, 1)
        out = centred.mul_(scale).mul_(self.weight.view(planes)).add_(self.bias.view(planes))
        return out.to(x.dtype, memory_format=torch.channels_last)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: CastOnceLinear,
    nn.Conv2d: CastOnceConv2d,
    nn.ConvTranspose2d: CastOnceConvTranspose2d,
    LayerNorm2d: NormOfChannels,
    MLP: FusedMLP,
    Attention: DecoderAttention,
}


def make_faster(network: nn.Module) -> None:
    """Give the layers of a network the forms of this module; names and weights stay.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        chosen = _FASTER.get(type(module))
        if chosen is not None:
            module.__class__ = chosen
            if isinstance(module, _CastOnce):
                module._cast = Derived()
