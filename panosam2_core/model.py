"""PanoSAM2: SAM2's network with panoramic parts, as four stateless verbs.

``encode_image`` once per frame, then per group of objects ``condition``, ``decode`` (or
``decode_mask_prompt``) and ``encode_memory``. The module holds weights only; whatever a stream
remembers lives in :mod:`panosam2_core.memory` and is owned by the tracker.

Symbols in shapes: B objects (or images), C = ``config.width``, D = ``config.memory_dim``,
(H, W) the input size, (h, w) = (H / 16, W / 16).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from panosam2_core.config import ModelConfig, check_input_size
from panosam2_core.errors import ConfigError
from panosam2_core.geometry.erp import resize_wrap, wrap_pad
from panosam2_core.nn.decoder import PanoMaskDecoder
from panosam2_core.nn.derived import Derived
from panosam2_core.nn.layers import FoldedSkip, make_faster
from panosam2_core.nn.lsmm import LongShortMemory
from panosam2_core.nn.pc_block import MaskFusion, PCBlock
from panosam2_core.nn.position import GridRoPEAttention
from panosam2_core.nn.wrap import wrapped

STRIDE = 16  # pixels per token
MASK_STRIDE = 4  # pixels per logit of a decoded mask
PREVIOUS_LIMIT = 32.0  # SAM2 clamps the logits of a mask that is corrected
FUSER_REACH = 6  # tokens: the memory encoder's two 7x7 convolutions see three each
DOWNSAMPLER_REACH = 1  # tokens: its four stride-2 convolutions see 15 pixels


class ImageFeatures(NamedTuple):
    """One frame, encoded once for all its objects.

    Attributes:
        top: (B, C, h, w) feature for memory attention and the memory encoder.
        position: (1, C, h, w) position code of ``top``.
        skips: (B, C/4, 2h, 2w) and (B, C/8, 4h, 4w) for the decoder's upscaling.
    """

    top: Tensor
    position: Tensor
    skips: tuple[Tensor, Tensor]

    def select(self, index: Tensor) -> ImageFeatures:
        """Repeat or pick images, so that each object has its image's features.

        Args:
            index: (B',) long, the image of each object.

        Returns:
            Features of batch size B'.
        """
        top, (s1, s0) = self.top, self.skips
        if len(top) == 1:  # no copies, and the model sees that the objects share it
            top, s1, s0 = (x.expand(len(index), -1, -1, -1) for x in (top, s1, s0))
        else:
            top, s1, s0 = top[index], s1[index], s0[index]
        return ImageFeatures(top, self.position, (s1, s0))


class MemoryTokens(NamedTuple):
    """What memory attention attends to: whole maps first, then pointer tokens.

    Attributes:
        tokens: (N, B, D).
        positions: (N, B, D).
        num_pointer_tokens: tokens at the end that have no place on the grid.
    """

    tokens: Tensor
    positions: Tensor
    num_pointer_tokens: int


class PointPrompts(NamedTuple):
    """Clicks and box corners for B objects.

    Attributes:
        xy: (B, P, 2) float, pixels of the network's input, corner convention.
        labels: (B, P) int32: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding.
    """

    xy: Tensor
    labels: Tensor


class Decoded(NamedTuple):
    """A decoded frame for B objects.

    Attributes:
        logits: (B, 1, 4h, 4w) chosen mask, not gated by visibility.
        candidates: (B, M, 4h, 4w) all masks that were eligible, not gated; M is 1 or 3.
        candidate_ious: (B, M) predicted IoU of each.
        score: (B,) predicted IoU of the chosen mask.
        pointer: (B, C) object pointer of the chosen mask; "no object" when not visible.
        object_logit: (B, 1) visibility.
        centers: (B,) long, token columns that the position code was centred on; ``None``: middle.
    """

    logits: Tensor
    candidates: Tensor
    candidate_ious: Tensor
    score: Tensor
    pointer: Tensor
    object_logit: Tensor
    centers: Tensor | None


class PanoSAM2(SAM2Base):  # type: ignore[misc]
    """SAM2 with a pano-aware decoder and long-short memory.

    Args:
        config: sizes and switches.
        pixel_mean: (R, G, B) in 0..1 subtracted from frames.
        pixel_std: (R, G, B) that they are then divided by.
        parts: arguments of ``sam2``'s ``SAM2Base``.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
        **parts: Any,
    ) -> None:
        self.config = config
        self.precision = torch.float32
        super().__init__(image_size=config.input_size, **parts)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], False)
        width = config.width
        self.pano_decoder = nn.ModuleDict()
        if config.pc_blocks:
            for name, channels in {"top": width, "skip1": width // 4, "skip0": width // 8}.items():
                self.pano_decoder[name] = PCBlock(channels)
        if config.previous_mask:
            self.pano_decoder["fusion"] = MaskFusion(width)
        if config.long_memory:
            short = config.pseudo_frames == "short"
            self.lsmm = LongShortMemory(width, config.memory_dim, per_short_frame=short)
            self.reset_time_embed()
        make_faster(self)
        self._skips = [FoldedSkip(), FoldedSkip()]
        self._codes: dict[str, Derived[Tensor]] = {
            name: Derived() for name in ("image", "memory", "dense")
        }
        self.set_input_size(config.input_size)

    def _build_sam_heads(self) -> None:
        config = self.config
        width, (height_px, width_px) = config.width, config.input_size
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=width,
            image_embedding_size=(height_px // STRIDE, width_px // STRIDE),
            input_image_size=config.input_size,
            mask_in_chans=16,
        )
        if config.yaw_true:  # whole turns per panorama: the code has no seam of its own
            matrix = self.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
            matrix[0] = (2 * matrix[0]).round() / 2
        self.sam_mask_decoder = PanoMaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=config.decoder_mlp, num_heads=8
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=self.iou_prediction_use_sigmoid,
            pred_obj_scores=True,
            pred_obj_scores_mlp=self.pred_obj_scores_mlp,
            use_multimask_token_for_obj_ptr=True,
        )
        self.obj_ptr_proj = self._pointer_projection()
        self.obj_ptr_tpos_proj = (
            nn.Linear(width, self.mem_dim) if self.proj_tpos_enc_in_obj_ptrs else nn.Identity()
        )

    def _pointer_projection(self) -> nn.Module:
        width = self.config.width
        projection: nn.Module = MLP(width, width, width, 3)
        return projection

    def set_input_size(self, size_hw: tuple[int, int]) -> None:
        """Choose the size that frames are resized to. Weights do not depend on it.

        Args:
            size_hw: (height, width), multiples of 32.

        Raises:
            ConfigError: when a side is not a multiple of 32, or the width of a yaw-true network
                none of ``config.yaw_step``.
        """
        check_input_size(size_hw)
        step = self.config.yaw_step
        if self.config.yaw_true and size_hw[1] % step:
            raise ConfigError(
                f"a yaw-true {self.config.variant} needs a width that is a multiple of {step}, "
                f"got {size_hw[1]}; nearest is {max(1, round(size_hw[1] / step)) * step}"
            )
        self.input_size = size_hw
        self.grid_hw = grid = (size_hw[0] // STRIDE, size_hw[1] // STRIDE)
        encoder = self.sam_prompt_encoder
        encoder.input_image_size, encoder.image_embedding_size = size_hw, grid
        encoder.mask_input_size = (4 * grid[0], 4 * grid[1])
        for module in self.modules():
            if isinstance(module, GridRoPEAttention):
                module.set_grid(grid, harmonic=self.config.yaw_true)

    def switch_off(self, *parts: str) -> None:
        """Run without some of the panoramic parts, their weights left alone.

        Args:
            parts: of ``pc_blocks`` and ``previous_mask``.
        """
        off: dict[str, Any] = dict.fromkeys(parts, False)
        self.config = dataclasses.replace(self.config, **off)

    def reset_time_embed(self) -> None:
        """Start the pseudo maps' time code at that of SAM2's oldest slot."""
        with torch.no_grad():
            self.lsmm.time_embed.copy_(self.maskmem_tpos_enc[self.num_maskmem - 2, 0, 0])

    def autocast(self) -> torch.autocast:
        """Return the context in which frames are to be run, after ``self.precision``."""
        reduced = self.precision is not torch.float32
        device = self.pixel_mean.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=reduced)

    def normalize(self, frames: Tensor, *, pano: bool) -> Tensor:
        """Resize and scale raw frames on their device.

        Args:
            frames: (B, 3, H', W') uint8 RGB of any size.
            pano: circular columns.

        Returns:
            (B, 3, H, W) float.
        """
        dtype = self.pixel_mean.dtype
        images = frames
        if tuple(frames.shape[-2:]) != tuple(self.input_size):
            # In whole levels a CPU is three times as fast, and half precision sees no finer ones.
            coarse = self.precision is not torch.float32 and frames.device.type == "cpu"
            images = _shrink(frames if coarse else frames.to(dtype), self.input_size, pano=pano)
        images = images.to(dtype) / 255
        normalized: Tensor = (images - self.pixel_mean) / self.pixel_std
        return normalized

    def encode_image(self, images: Tensor, *, pano: bool) -> ImageFeatures:
        """Encode frames. Independent of the objects.

        Args:
            images: (B, 3, H, W) from :meth:`normalize`.
            pano: circular columns.

        Returns:
            Features at strides 16, 8 and 4.
        """
        trunk, neck = self.image_encoder.trunk, self.image_encoder.neck
        # SAM2's own trunk has learned its zeros at the edge; ours has none.
        wrap = pano and (self.config.variant == "nano" or self.config.yaw_true)
        levels = trunk(images, wrap=wrap)
        decoder = self.sam_mask_decoder
        s0 = self._skips[0](levels[0], neck.convs[-1].conv, decoder.conv_s0)
        s1 = self._skips[1](levels[1], neck.convs[-2].conv, decoder.conv_s1)
        if self.config.pc_blocks:
            s1 = self.pano_decoder["skip1"](s1, wrap=pano)
            s0 = self.pano_decoder["skip0"](s0, wrap=pano)
        coarse = neck.convs[0](levels[3]).float()
        top = neck.convs[1](levels[2]) + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return ImageFeatures(top, self._code(neck.position_encoding, top), (s1, s0))

    def _code(self, encoding: nn.Module, grid: Tensor) -> Tensor:
        """(1, C, h, w) position code of a grid, made once."""
        name = "image" if encoding is self.image_encoder.neck.position_encoding else "memory"
        code: Tensor = self._codes[name](
            [self.pixel_mean], lambda: encoding(grid[:1]), grid.shape[-2:]
        )
        return code

    def condition(
        self,
        features: ImageFeatures,
        memory: MemoryTokens | None,
        previous_mask: Tensor | None,
        *,
        pano: bool,
    ) -> Tensor:
        """Fuse the frame with what is remembered of each object (paper 3.1, 3.2).

        Args:
            features: of B objects.
            memory: ``None`` on a frame where an object is new.
            previous_mask: (B, C, h, w) the last frame's mask from :meth:`encode_mask`; ``None``
                on a prompted frame (paper 3.1: the first frame needs no guidance).
            pano: circular columns.

        Returns:
            (B, C, h, w).
        """
        top = features.top
        if memory is None:
            conditioned = top + self.no_mem_embed.reshape(1, -1, 1, 1)
        else:
            conditioned = self.memory_attention(top, features.position, *memory)
        fused: Tensor = conditioned
        guide = previous_mask if self.config.previous_mask else None
        if self.config.pc_blocks and guide is not None:
            fusion: Any = self.pano_decoder["fusion"]
            fused = fusion.after(self.pano_decoder["top"], fused, guide, wrap=pano)
        elif self.config.pc_blocks:
            fused = self.pano_decoder["top"](fused, wrap=pano)
        elif guide is not None:
            fused = self.pano_decoder["fusion"](fused, guide)
        return fused

    def encode_mask(self, logits: Tensor, *, pano: bool) -> Tensor:
        """Describe a mask with SAM2's mask downsampler.

        Serves twice: the memory encoder takes it now, the PA decoder on the next frame.

        Args:
            logits: (B, 1, 4h, 4w) mask logits, gated by visibility.
            pano: circular columns.

        Returns:
            (B, C, h, w).
        """
        probability = resize_wrap(logits, self.input_size, pano=pano).sigmoid()
        mask = probability * self.sigmoid_scale_for_mem_enc + self.sigmoid_bias_for_mem_enc
        run = self.memory_encoder.mask_downsampler
        if not pano:
            feature: Tensor = run(mask)
            return feature
        return wrapped(run, mask, DOWNSAMPLER_REACH * STRIDE, STRIDE)

    def decode(
        self,
        conditioned: Tensor,
        features: ImageFeatures,
        prompts: PointPrompts | None = None,
        centers: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Decoded:
        """Predict masks.

        Args:
            conditioned: (B, C, h, w) from :meth:`condition`.
            features: of the same B objects.
            prompts: clicks or box corners, ``None`` while tracking.
            centers: (B,) long, token column that the position code takes for the middle of the
                panorama; ``None``: the middle. A box across the seam needs one away from it.
            mask: (B, 1, 4h, 4w) logits of a mask that the prompts correct.

        Returns:
            The chosen mask, and all that were eligible.
        """
        batch = len(conditioned)
        shift = self._shift_tokens(centers, batch, conditioned.device)
        sparse = self._embed_points(prompts, shift, batch)
        if mask is None:
            dense = self.sam_prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:  # its convolutions do not overlap, so there is no seam to wrap
            limited = mask.clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT)
            dense = self.sam_prompt_encoder.mask_downscaling(limited)
        found = self.sam_mask_decoder.candidates(
            conditioned + dense, self._position(shift), sparse, features.skips
        )
        num_points = 0 if prompts is None else prompts.labels.shape[1]
        low, high = self.multimask_min_pt_num, self.multimask_max_pt_num
        eligible = slice(1, 4) if low <= num_points <= high else slice(0, 1)
        masks, ious = found.masks[:, eligible].float(), found.ious[:, eligible]
        rows, best = torch.arange(batch, device=masks.device), ious.argmax(dim=1)
        return Decoded(
            logits=masks[rows, best].unsqueeze(1),
            candidates=masks,
            candidate_ious=ious,
            score=ious[rows, best],
            pointer=self._pointer(found.tokens[:, eligible][rows, best], found.object_logit > 0),
            object_logit=found.object_logit,
            centers=centers,
        )

    def decode_mask_prompt(
        self,
        features: ImageFeatures,
        masks: Tensor,
        centers: Tensor | None = None,
        *,
        pano: bool,
    ) -> Decoded:
        """Take given masks as the answer; the decoder only makes the pointer (SAM2's rule).

        Args:
            features: of B objects.
            masks: (B, 1, H, W) float, 0 or 1.
            centers: as for :meth:`decode`.
            pano: circular columns.

        Returns:
            Logits of +-10, score 1, visibility +-10 by whether the mask has any pixel.
        """
        logits = _shrink(masks * 20 - 10, self.sam_prompt_encoder.mask_input_size, pano=pano)
        dense = self.sam_prompt_encoder.mask_downscaling(self.mask_downsample(masks))
        shift = self._shift_tokens(centers, len(masks), masks.device)
        sparse = self._embed_points(None, shift, len(masks))
        found = self.sam_mask_decoder.candidates(
            features.top + dense, self._position(shift), sparse, features.skips
        )
        present = masks.flatten(1).any(dim=1, keepdim=True)
        # SAM2 asks the decoder too: a pointer is "no object" if either of the two says absent.
        pointer = self._pointer(found.tokens[:, 0], found.object_logit > 0)
        present_f = present.to(pointer.dtype)
        pointer = present_f * pointer + (1 - present_f) * self.no_obj_ptr
        ones = torch.ones_like(present_f)
        return Decoded(logits, logits, ones, ones[:, 0], pointer, present_f * 20 - 10, centers)

    def encode_memory(
        self, features: ImageFeatures, mask_feature: Tensor, object_logit: Tensor, *, pano: bool
    ) -> Tensor:
        """Turn a frame and its mask into a memory map.

        Args:
            features: of B objects.
            mask_feature: (B, C, h, w) from :meth:`encode_mask`.
            object_logit: (B, 1) visibility.
            pano: circular columns.

        Returns:
            (B, D, h, w).
        """
        encoder = self.memory_encoder
        joint = encoder.pix_feat_proj(features.top) + mask_feature
        fused = wrapped(encoder.fuser, joint, FUSER_REACH, 1) if pano else encoder.fuser(joint)
        encoded: Tensor = encoder.out_proj(fused)
        if self.no_obj_embed_spatial is not None:
            absent = (object_logit <= 0).to(encoded.dtype)[..., None, None]
            encoded = encoded + absent * self.no_obj_embed_spatial[..., None, None]
        return encoded

    def memory_position(self, memory_map: Tensor) -> Tensor:
        """Position code of a memory map.

        Args:
            memory_map: (B, D, h, w).

        Returns:
            (1, D, h, w).
        """
        return self._code(self.memory_encoder.position_encoding, memory_map)

    @staticmethod
    def gate(logits: Tensor, object_logit: Tensor) -> Tensor:
        """Replace the masks of absent objects by SAM2's "no object" logit of -1024.

        Args:
            logits: (B, 1, ...) mask logits.
            object_logit: (B, 1).

        Returns:
            Like ``logits``.
        """
        return torch.where(object_logit[..., None, None] > 0, logits, NO_OBJ_SCORE)

    def _pointer(self, tokens: Tensor, visible: Tensor) -> Tensor:
        seen = visible.to(tokens.dtype)
        pointer: Tensor = seen * self.obj_ptr_proj(tokens) + (1 - seen) * self.no_obj_ptr
        return pointer

    def _shift_tokens(
        self, centers: Tensor | None, batch: int, device: torch.device
    ) -> Tensor | None:
        """Token columns that the position code moves to the right, per object."""
        if centers is None:
            return None
        return centers.to(device) - self.grid_hw[1] // 2

    def _position(self, shift: Tensor | None) -> Tensor:
        """Dense position code, (B or 1, C, h, w), its middle column moved by ``shift``."""
        encoder = self.sam_prompt_encoder
        matrix = encoder.pe_layer.positional_encoding_gaussian_matrix

        def make() -> Tensor:  # laid out like the features that it is added to
            code: Tensor = encoder.get_dense_pe()
            return code.contiguous(memory_format=torch.channels_last)

        code = self._codes["dense"]([matrix], make, encoder.image_embedding_size)
        if shift is None:
            return code
        columns = torch.arange(code.shape[-1], device=code.device)
        source = (columns[None] - shift[:, None]) % code.shape[-1]  # (B, w)
        return code[0].permute(1, 2, 0)[:, source].permute(1, 3, 0, 2)

    def _embed_points(self, prompts: PointPrompts | None, shift: Tensor | None, n: int) -> Tensor:
        encoder = self.sam_prompt_encoder
        if prompts is None:  # two times "no point", as SAM2 has it
            nothing: Tensor = encoder.not_a_point_embed.weight
            return nothing.expand(n, 2, -1)
        xy = prompts.xy
        if shift is not None:
            width = self.input_size[1]
            left = (xy[:, :1, 0] - shift[:, None] * STRIDE) % width
            # Later points keep their distance to the first, so a box stays in one piece.
            x = left + (xy[..., 0] - xy[:, :1, 0])
            xy = torch.stack([x, xy[..., 1]], dim=-1)
        xy = xy - 0.5  # SAM2 takes pixel-centre coordinates and adds the half pixel back
        embedded: Tensor = encoder._embed_points(xy, prompts.labels, pad=True)
        return embedded


def _shrink(x: Tensor, size_hw: tuple[int, int], *, pano: bool) -> Tensor:
    """Resize with anti-aliasing as SAM2 does, circularly on a panorama."""
    height, width = size_hw
    margin = 0
    if pano:
        # The least number of columns that is whole before and after, times enough for the filter.
        unit = width // math.gcd(width, x.shape[-1])
        margin = min(width, -(-4 // unit) * unit)
        x = wrap_pad(x, margin * x.shape[-1] // width)
    resized = F.interpolate(
        x, (height, width + 2 * margin), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[..., margin : margin + width]
