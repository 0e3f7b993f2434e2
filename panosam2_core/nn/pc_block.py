"""The panoramic convolution (PC) block and previous-mask fusion of the PA decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panosam2_core.nn.derived import Derived, arithmetic_type
from panosam2_core.nn.wrap import wrap_conv


class PCBlock(nn.Module):
    """Residual sum of three wrap-padded convolutions (paper 3.1, Eq. 1).

    ``PC(F) = F + C1(F) + C3(F) + C5(F)``. The paper gives three kernel sizes with wrap padding 1
    and 2 for two of them; it is silent on their composition. Parallel and zero-initialised was
    chosen because an untrained block is then the identity and SAM2's weights keep their meaning.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3)
        self.conv5 = nn.Conv2d(channels, channels, 5)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self._folded: Derived[tuple[Tensor, Tensor]] = Derived()

    def forward(self, x: Tensor, *, wrap: bool) -> Tensor:
        """Mix neighbours across the seam.

        Args:
            x: (B, C, H, W).
            wrap: circular columns.

        Returns:
            (B, C, H, W).
        """
        dtype = arithmetic_type(x)

        def fold() -> tuple[Tensor, Tensor]:
            weight, bias = self.folded()
            return as_kernel(weight, dtype), bias.to(dtype)

        kernel = self._folded(list(self.parameters()), fold, dtype)
        return wrap_conv(x.to(dtype), *kernel, wrap=wrap)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The block as one convolution: without a nonlinearity inside, sum and identity fold.

        Returns:
            (C, C, 5, 5) weight and (C,) bias.
        """
        one, three, five = self.conv1, self.conv3, self.conv5
        identity = torch.eye(len(one.weight), dtype=one.weight.dtype, device=one.weight.device)
        center = one.weight + identity[..., None, None]
        weight = five.weight + F.pad(three.weight, (1, 1, 1, 1)) + F.pad(center, (2, 2, 2, 2))
        # Added one by one: the gradients of stack and sum would be three views of one memory, and
        # whatever changes gradients in place (accumulation, clipping) would do it three times.
        bias = one.bias + three.bias + five.bias  # type: ignore[operator]
        return weight, bias


class MaskFusion(nn.Module):
    """Joins the memory-conditioned feature and the previous mask's feature (paper 3.1).

    A 1x1 convolution 2C -> C that starts as "pass the first half, ignore the second".

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(2 * channels, channels, 1)
        with torch.no_grad():
            self.proj.weight.zero_()
            self.proj.weight[:, :channels, 0, 0] = torch.eye(channels)
            nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]
        self._joined: Derived[tuple[Tensor, Tensor, Tensor]] = Derived()

    def forward(self, feature: Tensor, mask_feature: Tensor) -> Tensor:
        """Fuse.

        Args:
            feature: (B, C, h, w).
            mask_feature: (B, C, h, w).

        Returns:
            (B, C, h, w).
        """
        fused: Tensor = self.proj(torch.cat([feature, mask_feature], dim=1))
        return fused

    def after(self, block: PCBlock, x: Tensor, mask_feature: Tensor, *, wrap: bool) -> Tensor:
        """Fuse what a PC block makes of ``x``: its kernel and ours are one.

        Args:
            block: of the same channels.
            x: (B, C, h, w).
            mask_feature: (B, C, h, w).
            wrap: circular columns.

        Returns:
            (B, C, h, w), equal to ``self(block(x, wrap=wrap), mask_feature)``.
        """
        dtype = arithmetic_type(x)

        def fold() -> tuple[Tensor, Tensor, Tensor]:
            weight, bias = block.folded()
            own, other = self.proj.weight[:, :, 0, 0].chunk(2, dim=1)
            joined = torch.einsum("oc,cikl->oikl", own, weight)
            offset = own @ bias + self.proj.bias  # type: ignore[operator]
            return as_kernel(joined, dtype), offset.to(dtype), other[..., None, None].to(dtype)

        sources = [*block.parameters(), *self.proj.parameters()]
        weight, bias, other = self._joined(sources, fold, dtype)
        mask_part = F.conv2d(mask_feature.to(dtype), other)
        return wrap_conv(x.to(dtype), weight, bias, wrap=wrap) + mask_part


def as_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Prepare a kernel for features in ``torch.channels_last``.

    Args:
        weight: (C', C, k, k).
        dtype: of the features.

    Returns:
        The same numbers.
    """
    return weight.to(dtype, memory_format=torch.channels_last)
