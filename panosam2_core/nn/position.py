"""Position codes for token grids that are not square, and for ones that are circular."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from panosam2_core.errors import ConfigError


class LatitudeSine(nn.Module):
    """SAM2's sine code with its column half set to zero: it knows the latitude, not the yaw.

    Args:
        num_pos_feats: channels of the code.
    """

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.sine = PositionEmbeddingSine(num_pos_feats, warmup_cache=False)

    def forward(self, x: Tensor) -> Tensor:
        """Code for the grid of ``x``.

        Args:
            x: (B, C, h, w).

        Returns:
            (B, num_pos_feats, h, w), equal in all columns.
        """
        code: Tensor = self.sine(x).clone()
        code[:, code.shape[1] // 2 :] = 0
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
        maps, rest = divmod(k.shape[1] - num_k_exclude_rope, tokens)
        if q.shape[1] != tokens or rest:
            raise ConfigError(
                f"attention was built for {self.grid_hw} tokens; got {q.shape[1]} queries and "
                f"{k.shape[1] - num_k_exclude_rope} placed keys; call set_input_size first"
            )
        q, k, v = (
            self._separate_heads(x, self.num_heads)
            for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        table = self.freqs_cis = self.freqs_cis.to(q.device)
        placed, free = k[:, :, : maps * tokens], k[:, :, maps * tokens :]
        placed, turned = _rotate(placed, table.repeat(maps, 1)), _rotate(q, table)
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


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * table).flatten(3).to(x.dtype)
