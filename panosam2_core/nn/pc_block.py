"""The panoramic convolution (PC) block and previous-mask fusion of the PA decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    def forward(self, x: Tensor, *, wrap: bool) -> Tensor:
        """Mix neighbours across the seam.

        Args:
            x: (B, C, H, W).
            wrap: circular columns.

        Returns:
            (B, C, H, W).
        """
        return wrap_conv(x, *self.folded(), wrap=wrap)

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
