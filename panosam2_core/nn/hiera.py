"""SAM2's image trunk with attention that profits from half precision on a CPU."""

from __future__ import annotations

import math

import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleAttention, do_pool
from torch import Tensor

from panosam2_core.nn.attention import attend
from panosam2_core.nn.derived import Derived, arithmetic_type


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


class SteadyHiera(Hiera):  # type: ignore[misc]
    """SAM2's trunk, its position code enlarged once per size instead of once per frame."""

    _code: Derived[Tensor]

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        make = super()._get_pos_embed
        sources = [self.pos_embed, self.pos_embed_window]
        return self._code(sources, lambda: make(hw).contiguous(), tuple(hw))


def make_faster(trunk: Hiera) -> None:
    """Give a trunk of SAM2 the forms of this module; names and weights stay.

    Args:
        trunk: changed in place.
    """
    trunk.__class__ = SteadyHiera
    trunk._code = Derived()
    for module in trunk.modules():
        if type(module) is MultiScaleAttention:
            module.__class__ = TrunkAttention
