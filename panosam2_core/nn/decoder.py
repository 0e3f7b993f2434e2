"""SAM2's mask decoder with a position code of its own per object and every candidate returned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor


class Candidates(NamedTuple):
    """All that the decoder predicts for B objects, before any choice is made.

    Attributes:
        masks: (B, 4, 4h, 4w) logits; candidate 0 is for unambiguous prompts, 1-3 for the rest.
        ious: (B, 4) predicted IoU of each candidate, 0..1.
        tokens: (B, 4, C) mask tokens, from which object pointers are made.
        object_logit: (B, 1), above 0 when the object can be seen.
    """

    masks: Tensor
    ious: Tensor
    tokens: Tensor
    object_logit: Tensor


class PanoMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """Decodes masks from features that already went through the PC block and mask fusion.

    Parameter names are SAM2's, so its checkpoints load unchanged. Choosing among the candidates
    is left to the model, since training supervises more of them than inference uses.
    """

    def candidates(
        self, feature: Tensor, position: Tensor, sparse: Tensor, skips: tuple[Tensor, Tensor]
    ) -> Candidates:
        """Decode.

        Args:
            feature: (B, C, h, w) conditioned feature with the dense prompt added.
            position: (B, C, h, w) position code of the tokens.
            sparse: (B, P, C) prompt tokens.
            skips: (B, C/4, 2h, 2w) and (B, C/8, 4h, 4w).

        Returns:
            The four candidates.
        """
        own = [self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight]
        own_tokens = torch.cat(own).unsqueeze(0).expand(len(feature), -1, -1)
        tokens, context = self.transformer(
            feature, position, torch.cat([own_tokens, sparse], dim=1)
        )
        mask_tokens = tokens[:, 2 : 2 + self.num_mask_tokens]
        upscaled = self._upscale(context.transpose(1, 2).reshape(feature.shape), skips)
        kernels = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = torch.einsum("bmc,bchw->bmhw", kernels, upscaled)
        return Candidates(
            masks=masks,
            ious=self.iou_prediction_head(tokens[:, 1]),
            tokens=mask_tokens,
            object_logit=self.pred_obj_score_head(tokens[:, 0]),
        )

    def _upscale(self, context: Tensor, skips: tuple[Tensor, Tensor]) -> Tensor:
        up1, norm, act1, up2, act2 = self.output_upscaling
        half = act1(norm(up1(context) + skips[0]))
        quarter: Tensor = act2(up2(half) + skips[1])
        return quarter
