"""SAM2's image trunk: attention that profits from half precision on a CPU, and no seam.

Yaw-true means: rolling a closed panorama rolls every output, as exactly as sums in another order
allow. Its attention windows restrict this to steps of ``ModelConfig.yaw_step`` pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import (
    Hiera,
    MultiScaleAttention,
    MultiScaleBlock,
    do_pool,
)
from torch import Tensor

from panosam2_core.nn.attention import attend
from panosam2_core.nn.derived import Derived, arithmetic_type
from panosam2_core.nn.windows import attend_in_windows
from panosam2_core.nn.wrap import wrapped

PATCH_STRIDE = 4  # pixels per token of the first stage; its 7x7 kernel sees three more each side


class TrunkAttention(MultiScaleAttention):  # type: ignore[misc]
    """SAM2's attention in windows or over all. Parameter names are SAM2's."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Args:
            x: (B, H, W, C) tokens of windows.

        Returns:
            (B, H', W', C'), half the sides at a stage change.
        """
        half = arithmetic_type(x) != torch.float32
        if not half or x.device.type != "cpu" or torch.is_grad_enabled():
            fused: Tensor = super().forward(x)
            return fused
        batch, height, width, _ = x.shape
        parts = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = parts.unbind(2)
        if self.q_pool:
            q = do_pool(q.reshape(batch, height, width, -1), self.q_pool)
            height, width = q.shape[1:3]
            q = q.reshape(batch, height * width, self.num_heads, -1)
        q = q * (1 / math.sqrt(q.shape[-1]))
        q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))
        mean = attend(q, k, v)
        mean = mean.reshape(batch, self.num_heads, height * width, -1)
        projected: Tensor = self.proj(mean.transpose(1, 2).reshape(batch, height, width, -1))
        return projected


class TrunkBlock(MultiScaleBlock):  # type: ignore[misc]
    """SAM2's block of the trunk. Parameter names are SAM2's."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform every token.

        Args:
            x: (B, H, W, C) tokens of the map.

        Returns:
            (B, H', W', C'), half the sides at a stage change.
        """
        dtype = arithmetic_type(x)
        plain = torch.is_grad_enabled() or x.device.type != "cpu" or dtype == torch.float32
        if plain or not self.window_size or self.q_stride:
            out: Tensor = super().forward(x)
            return out
        attention = self.attn
        qkv = attention.qkv(self.norm1(x))
        filling = attention.qkv.parameters_for(x)[1]
        mean = attend_in_windows(qkv, filling, attention.num_heads, self.window_size)
        x = x + attention.proj(mean)
        transformed: Tensor = x + self.mlp(self.norm2(x))
        return transformed


class SteadyHiera(Hiera):  # type: ignore[misc]
    """SAM2's trunk, its position code enlarged once per size instead of once per frame.

    Attributes:
        yaw_true: the background position code is its mean over the columns. Paper silent; chosen
            because that is the nearest code to Meta's which does not know the yaw, and unlike one
            that repeats with the windows it has no jumps. The window code repeats as it is.
    """

    yaw_true: bool
    _code: Derived[Tensor]

    def forward(self, images: Tensor, *, wrap: bool = False) -> list[Tensor]:
        """Encode.

        Args:
            images: (B, 3, H, W).
            wrap: circular columns of the patches; off, zeros.

        Returns:
            (B, C_i, H / s, W / s) for s = 4, 8, 16, 32.
        """
        patch = self.patch_embed.proj
        cells = wrapped(patch, images, PATCH_STRIDE, PATCH_STRIDE) if wrap else patch(images)
        height, width = cells.shape[2:]
        # Token by token in memory, or every layer of the first stage copies it to be so.
        x = cells.permute(0, 2, 3, 1).contiguous() + self._get_pos_embed((height, width))
        levels = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                levels.append(x.permute(0, 3, 1, 2))
        return levels

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        make = self._level_pos_embed if self.yaw_true else super()._get_pos_embed
        sources = [self.pos_embed, self.pos_embed_window]
        return self._code(sources, lambda: make(hw).contiguous(), tuple(hw))

    def _level_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        height, width = hw
        rows = self.pos_embed.mean(dim=-1, keepdim=True)
        rows = F.interpolate(rows, (height, 1), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.tile(1, 1, height // side, width // side)
        code: Tensor = (rows + window).permute(0, 2, 3, 1)
        return code


def make_faster(trunk: Hiera, *, yaw_true: bool) -> None:
    """Give a trunk of SAM2 the forms of this module; names and weights stay.

    Args:
        trunk: changed in place.
        yaw_true: see :class:`SteadyHiera`.
    """
    trunk.__class__ = SteadyHiera
    trunk.yaw_true = yaw_true
    trunk._code = Derived()
    for module in trunk.modules():
        if type(module) is MultiScaleAttention:
            module.__class__ = TrunkAttention
        if type(module) is MultiScaleBlock:
            module.__class__ = TrunkBlock
