"""SAM2's memory attention, without work that is the same for all objects of an image."""

from __future__ import annotations

from sam2.modeling.memory_attention import MemoryAttention
from torch import Tensor


class SharedMemoryAttention(MemoryAttention):  # type: ignore[misc]
    """SAM2's memory attention, for one image and any number of its objects.

    Until the first look into memory all objects of an image are the same: their first layer of
    self-attention is computed once. Parameter names are SAM2's.
    """

    def forward(
        self, top: Tensor, position: Tensor, memory: Tensor, codes: Tensor, num_free: int
    ) -> Tensor:
        """Attend to memory.

        Args:
            top: (B, C, h, w) features; a batch that is one image expanded is computed once.
            position: (1, C, h, w) their code.
            memory: (N, B, D) tokens.
            codes: (N, B, D) their codes.
            num_free: tokens at the end of ``memory`` without a place on the grid.

        Returns:
            (B, C, h, w), in ``torch.channels_last``.
        """
        images = top[:1] if top.stride(0) == 0 else top
        x = images.flatten(2).transpose(1, 2) + 0.1 * position.flatten(2).transpose(1, 2)
        memory, codes = memory.transpose(0, 1), codes.transpose(0, 1)
        for index, layer in enumerate(self.layers):
            x = layer._forward_sa(x, None)
            if index == 0:
                x = x.expand(len(top), -1, -1)
            x = layer._forward_ca(x, memory, None, codes, num_free)
            hidden = layer.dropout(layer.activation(layer.linear1(layer.norm3(x))))
            x = x + layer.dropout3(layer.linear2(hidden))
        normed: Tensor = self.norm(x)
        return normed.transpose(1, 2).reshape(len(top), -1, *top.shape[-2:])
