"""Position codes for token grids that are not square, and for ones that are circular."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from panosam2_core.errors import ConfigError
from panosam2_core.nn.attention import attend_in_blocks
from panosam2_core.nn.derived import Derived
from panosam2_core.nn.products import linear


class LatitudeSine(nn.Module):
    """SAM2's sine code with a constant column half: it knows the latitude, not the yaw.

    Args:
        num_pos_feats: channels of the code.
        mean: the column half is its own mean over the columns, the constant that is nearest to
            the code that SAM2's weights were trained with (half of its cosines are near 1
            everywhere). Off: zero. Paper silent.
    """

    def __init__(self, num_pos_feats: int, *, mean: bool = False) -> None:
        super().__init__()
        self.sine = PositionEmbeddingSine(num_pos_feats, warmup_cache=False)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """Code for the grid of ``x``.

        Args:
            x: (B, C, h, w).

        Returns:
            (B, num_pos_feats, h, w), equal in all columns.
        """
        code: Tensor = self.sine(x).clone()
        columns = code[:, code.shape[1] // 2 :]
        columns[:] = columns.mean(dim=-1, keepdim=True) if self.mean else 0
        return code


def rope_table(dim: int, grid_hw: tuple[int, int], *, theta: float, harmonic: bool) -> Tensor:
    """Rotary phases of a token grid, rows first.

    Args:
        dim: channels per head, a multiple of 4.
        grid_hw: (rows, columns) of tokens.
        theta: base of the frequencies, as in SAM2.
        harmonic: round the column frequencies to whole turns per panorama, so that the relative
            phase of two tokens does not change when both are rolled. Paper silent; chosen because
            SAM2's own frequencies jump at the seam.

    Returns:
        (rows * columns, dim / 2) complex64; the first half turns with the column, the second
        with the row. Equal to SAM2's table for a square grid with ``harmonic`` off.
    """
    rows, cols = grid_hw
    index = torch.arange(0, dim, 4)[: dim // 4].float()
    freqs = 1.0 / theta ** (index / dim)
    freqs_x = freqs
    if harmonic:
        freqs_x = (freqs * cols / (2 * math.pi)).round() * (2 * math.pi / cols)
    t = torch.arange(rows * cols, dtype=torch.float32)
    phase_x = torch.outer(t % cols, freqs_x)
    phase_y = torch.outer(torch.div(t, cols, rounding_mode="floor"), freqs)
    phase = torch.cat([phase_x, phase_y], dim=-1)
    return torch.polar(torch.ones_like(phase), phase)


class GridRoPEAttention(RoPEAttention):  # type: ignore[misc]
    """SAM2's rotary attention with an explicit (rows, columns) grid.

    SAM2 derives the grid as sqrt(tokens) and is silently wrong for some panoramas; this one is
    told its grid and refuses any other number of tokens. With harmonic phases it is exactly
    equivariant to rolls by whole tokens, keys without a place included.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._values: Derived[tuple[Tensor, Tensor]] = Derived()

    def set_grid(self, grid_hw: tuple[int, int], *, harmonic: bool) -> None:
        """Choose the token grid.

        Args:
            grid_hw: (rows, columns).
            harmonic: see :func:`rope_table`.
        """
        dim = self.internal_dim // self.num_heads
        self.grid_hw = grid_hw
        self.harmonic = harmonic
        self.freqs_cis = rope_table(dim, grid_hw, theta=10000.0, harmonic=harmonic)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Attend.

        Args:
            q: (B, rows * columns, C) queries.
            k: (B, M * rows * columns + num_k_exclude_rope, C') keys: whole maps, then tokens
                without a place.
            v: (B, like k, C') values.
            num_k_exclude_rope: keys at the end that are not rotated.

        Returns:
            (B, rows * columns, C).

        Raises:
            ConfigError: when the queries or keys are not whole maps of the grid.
        """
        tokens = self.grid_hw[0] * self.grid_hw[1]
        num_placed = k.shape[1] - num_k_exclude_rope
        if q.shape[1] != tokens or num_placed % tokens:
            raise ConfigError(
                f"attention was built for {self.grid_hw} tokens; got {q.shape[1]} queries and "
                f"{num_placed} placed keys; call set_input_size first"
            )
        table = self.freqs_cis = self.freqs_cis.to(q.device)
        # Blocks pay on a CPU only, and for gradients all their scores would have to be kept.
        if q.device.type == "cpu" and self.num_heads == 1 and not torch.is_grad_enabled():
            return self._forward_in_blocks(q, k, v, num_placed)
        q, k, v = (
            self._separate_heads(x, self.num_heads)
            for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        placed, free = k[:, :, :num_placed], k[:, :, num_placed:]
        placed, turned = rotate(placed, table), rotate(q, table)
        if self.harmonic and num_k_exclude_rope:
            # A turned query against a key without a place would depend on the absolute yaw.
            scores = torch.cat([turned @ placed.mT, q @ free.mT], dim=-1)
            out = (scores / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
        else:
            dropout = self.dropout_p if self.training else 0.0
            keys = torch.cat([placed, free], dim=2)
            out = F.scaled_dot_product_attention(turned, keys, v, dropout_p=dropout)
        projected: Tensor = self.out_proj(self._recombine_heads(out))
        return projected

    def _forward_in_blocks(self, q: Tensor, k: Tensor, v: Tensor, num_placed: int) -> Tensor:
        """The same for one head, over the values as they come.

        Values are projected linearly before and after the mean that attention takes of them, so
        one projection of the mean does: over a memory map that has a quarter of the channels.
        """
        scale = 1 / math.sqrt(self.internal_dim)
        queries, keys = self.q_proj(q), self.k_proj(k)
        dtype = keys.dtype
        turned = rotate(queries, self.freqs_cis * scale)
        placed, free = keys[:, :num_placed], keys[:, num_placed:]
        for one_map in placed.split(len(self.freqs_cis), dim=1):  # so the cache holds its float32
            one_map.copy_(rotate(one_map, self.freqs_cis))
        if self.harmonic and free.shape[1]:
            pairs = [(turned, placed), (queries * scale, free)]
        else:
            pairs = [(turned, keys)]
        mean = attend_in_blocks(pairs, v.to(dtype))
        first, last = self.v_proj, self.out_proj
        weight, bias = self._values(
            [first.weight, first.bias, last.weight, last.bias],
            lambda: (
                (last.weight @ first.weight).to(dtype),
                (last.weight @ first.bias + last.bias).to(dtype),
            ),
            dtype,
        )
        return linear(mean, weight, bias)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn pairs of channels by the phases of their places.

    Args:
        x: (..., M * rows * columns, C) of whole maps.
        table: (rows * columns, C / 2) complex.

    Returns:
        Like ``x``.
    """
    maps = x.float().reshape(*x.shape[:-2], -1, *table.shape, 2)
    turned = torch.view_as_real(torch.view_as_complex(maps) * table)
    return turned.reshape(x.shape).to(x.dtype)
