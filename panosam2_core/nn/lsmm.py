"""The long-short memory module (LSMM, paper 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LongShortMemory(nn.Module):
    """Turns long-term object pointers into pseudo memory maps (paper Eq. 2).

    Long-term frames are too many to keep as maps, so only their pointers are kept. Each long-term
    pointer attends to the short-term pointers, the short-term maps are averaged by that
    attention, and the pointer then modulates the average channel by channel.

    Args:
        pointer_dim: C of the object pointers.
        map_dim: D of the memory maps.
        per_short_frame: give one pseudo map per short-term frame instead of one per long-term
            frame (``pseudo_frames="short"``).
    """

    def __init__(self, pointer_dim: int, map_dim: int, *, per_short_frame: bool = False) -> None:
        super().__init__()
        self.per_short_frame = per_short_frame
        self.query = nn.Linear(pointer_dim, pointer_dim, bias=False)
        self.key = nn.Linear(pointer_dim, pointer_dim, bias=False)
        self.modulation = nn.Sequential(
            nn.Linear(pointer_dim, pointer_dim),
            nn.GELU(),
            nn.Linear(pointer_dim, 2 * map_dim),
        )
        # Time code of the pseudo maps; starts as that of SAM2's oldest slot (model.py).
        self.time_embed = nn.Parameter(torch.zeros(map_dim))
        last = self.modulation[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        with torch.no_grad():  # gamma = 1, beta = 0: at the start a plain attention mean
            last.bias.copy_(torch.cat([torch.ones(map_dim), torch.zeros(map_dim)]))  # type: ignore

    def forward(self, long_pointers: Tensor, short_pointers: Tensor, short_maps: Tensor) -> Tensor:
        """Build the pseudo maps.

        Args:
            long_pointers: (B, N_l, C).
            short_pointers: (B, N_s, C) of the frames whose maps are given.
            short_maps: (B, N_s, D, h, w).

        Returns:
            (B, N_l, D, h, w), or (B, N_s, D, h, w) per short-term frame: there each map is
            weighted by N_s times the attention it gets on average, and modulated by the mean
            pointer, so that both forms are at the scale of one map.
        """
        query, key = self.query(long_pointers), self.key(short_pointers)
        affinity = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        attention = affinity.softmax(dim=-1)
        if self.per_short_frame:
            share = attention.mean(dim=1) * short_maps.shape[1]
            mean = share[..., None, None, None] * short_maps
            long_pointers = long_pointers.mean(dim=1, keepdim=True)
        else:
            mean = torch.einsum("bls,bsdhw->bldhw", attention, short_maps)
        gamma, beta = self.modulation(long_pointers)[..., None, None].chunk(2, dim=2)
        pseudo: Tensor = gamma * mean + beta
        return pseudo
