"""The verbs of the network as graphs of named tensors, for runtimes other than torch.

Every graph is a verb of :class:`~panosam2_core.model.PanoSAM2` as it is, for one object. An input
that has the name of another graph's output is that output; the rest comes from the caller, who
keeps between frames the maps and pointers that :class:`Recalled` lists.

Symbols in shapes: (H, W) the input size, (h, w) = (H / 16, W / 16), C ``config.width``, D
``config.memory_dim``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panosam2_core.memory.tokens import Recalled, assemble
from panosam2_core.model import STRIDE, Decoded, ImageFeatures, PanoSAM2, PointPrompts

# What the tensors are, with their units and ranges.
MEANING = {
    "image": "RGB, 0..255, resized to the input size with anti-aliasing, circular on a panorama",
    "top": "feature at stride 16",
    "skip_8": "feature at stride 8",
    "skip_4": "feature at stride 4",
    "conditioned": "feature at stride 16, fused with what is remembered of the object",
    "point": "the only click, as points",
    "label": "1 on the object, 0 off it",
    "points": "x, y in pixels of the input, 0, 0 is the upper left corner of the picture; x goes "
    "on beyond the edges where an object crosses the seam",
    "labels": "1 on the object, 0 off it, 2 and 3 upper left and lower right of a box, -1 padding",
    "centers": "token column, 0 .. W / 16 - 1, that position codes take for the middle. Yaw-true "
    "networks: of the circular mean of the points, of the mask given, or of the mask last seen; "
    "others: W / 32, but for a box across the seam",
    "mask": "0 or 1, the object as the user drew it",
    "prompted_maps": "memory_map of the frames that the user prompted",
    "recent_maps": "memory_map of the last tracked frames, at most {maps}, oldest first",
    "recent_ages": "frames since those, 1 .. {maps}",
    "recent_pointers": "pointer of those frames",
    "long_pointers": "pointer of the long-term frames drawn; none while there are no recent_maps",
    "pointers": "pointer of the prompted frames, of the long-term ones, and of the last tracked "
    "frames, at most {pointers}, newest first",
    "pointer_ages": "frames since those; of long-term ones at most {pointers}",
    "previous_mask": "mask_feature of the last frame",
    "logits": "chosen mask at stride 4, above 0 on the object; not gated by visibility",
    "candidates": "all masks that were eligible, likewise",
    "candidate_ious": "predicted IoU of each, 0..1",
    "score": "predicted IoU of the chosen mask, 0..1",
    "pointer": "object pointer",
    "object_logit": "above 0 when the object can be seen",
    "memory_map": "what is remembered of the frame",
    "mask_feature": "the mask as the next frame's decoder takes it",
}
# Inputs whose second dimension can be of any length, and what it counts.
COUNTS = {
    "points": "points",
    "labels": "points",
    "prompted_maps": "prompted",
    "recent_maps": "recent",
    "recent_ages": "recent",
    "recent_pointers": "recent",
    "long_pointers": "drawn",
    "pointers": "pointers",
    "pointer_ages": "pointers",
}
_OF_LONG_MEMORY = ("recent_pointers", "long_pointers")


@dataclass(frozen=True)
class Remembered:
    """How much is remembered of an object.

    Attributes:
        prompted: frames that the user prompted.
        recent: maps of tracked frames.
        pointers: of tracked frames.
        drawn: long-term frames.
    """

    prompted: int
    recent: int
    pointers: int
    drawn: int


def full_memory(model: PanoSAM2, *, prompted: int, long_frames: int) -> Remembered:
    """Say how much is remembered of an object that was tracked for a while.

    Args:
        model: gives the bounds.
        prompted: frames that the user prompted.
        long_frames: N_l of the long-short memory module.

    Returns:
        What fills it.
    """
    drawn = long_frames if model.config.long_memory else 0
    return Remembered(prompted, model.num_maskmem - 1, model.max_obj_ptrs_in_encoder - 1, drawn)


@dataclass(frozen=True)
class Signature:
    """Names of what goes into a graph and comes out of it, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph(nn.Module):
    """A verb between named tensors.

    Args:
        model: whose verb it is.
        pano: circular columns.
    """

    signature: Signature

    def __init__(self, model: PanoSAM2, *, pano: bool) -> None:
        super().__init__()
        self.model, self.pano = model, pano

    def features(self, top: Tensor, skip_8: Tensor, skip_4: Tensor) -> ImageFeatures:
        """Put one frame's features together again."""
        encoding = self.model.image_encoder.neck.position_encoding
        return ImageFeatures(top, self.model._code(encoding, top), (skip_8, skip_4))


FEATURES = ("top", "skip_8", "skip_4")
FOUND = ("logits", "candidates", "candidate_ious", "score", "pointer", "object_logit")


class EncodeImage(Graph):
    """``normalize`` and ``encode_image``; once per frame for all objects."""

    signature = Signature(("image",), FEATURES)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode."""
        normalized = self.model.normalize(image, pano=self.pano)
        found = self.model.encode_image(normalized, pano=self.pano)
        return found.top, *found.skips


class ConditionNew(Graph):
    """``condition`` of an object of which nothing is remembered."""

    signature = Signature(("top",), ("conditioned",))

    def forward(self, top: Tensor) -> Tensor:
        """Condition."""
        features = ImageFeatures(top, top, (top, top))  # reads the top alone
        return self.model.condition(features, None, None, pano=self.pano)


class Condition(Graph):
    """Tokens of what is remembered, and ``condition``: memory attention and mask fusion.

    Without a long-term memory, of the network or by ``long_frames`` 0, it has no inputs for one.
    """

    def __init__(self, model: PanoSAM2, *, pano: bool, long_frames: int) -> None:
        super().__init__(model, pano=pano)
        self.long = model.config.long_memory and long_frames > 0
        fields = [f for f in Recalled._fields if self.long or f not in _OF_LONG_MEMORY]
        guide = ("previous_mask",) if model.config.previous_mask else ()
        self.signature = Signature(("top", *fields, *guide), ("conditioned",))

    def forward(self, top: Tensor, *remembered: Tensor) -> Tensor:
        """Condition."""
        given = dict(zip(self.signature.inputs[1:], remembered, strict=True))
        guide = given.pop("previous_mask", None)
        if not self.long:
            given |= dict.fromkeys(_OF_LONG_MEMORY, given["pointers"][:, :0])
        tokens = assemble(self.model, Recalled(**given))
        features = self.features(top, top, top)
        return self.model.condition(features, tokens, guide, pano=self.pano)


class DecodePoints(Graph):
    """``decode`` with several clicks or the corners of a box: one candidate."""

    signature = Signature(("conditioned", *FEATURES[1:], "points", "labels", "centers"), FOUND)

    def forward(
        self,
        conditioned: Tensor,
        skip_8: Tensor,
        skip_4: Tensor,
        points: Tensor,
        labels: Tensor,
        centers: Tensor,
    ) -> tuple[Tensor, ...]:
        """Decode."""
        features = self.features(conditioned, skip_8, skip_4)
        prompts = PointPrompts(points, labels)
        return _outputs(self.model.decode(conditioned, features, prompts, centers))


class DecodePoint(DecodePoints):
    """``decode`` with one click, which may mean several things: three candidates."""

    signature = Signature(("conditioned", *FEATURES[1:], "point", "label", "centers"), FOUND)


class Decode(Graph):
    """``decode`` of a tracked frame, without a prompt."""

    signature = Signature(("conditioned", *FEATURES[1:], "centers"), FOUND)

    def forward(
        self, conditioned: Tensor, skip_8: Tensor, skip_4: Tensor, centers: Tensor
    ) -> tuple[Tensor, ...]:
        """Decode."""
        features = self.features(conditioned, skip_8, skip_4)
        return _outputs(self.model.decode(conditioned, features, None, centers))


class DecodeMask(Graph):
    """``decode_mask_prompt``: a mask that the user drew is the answer."""

    signature = Signature((*FEATURES, "mask", "centers"), ("logits", "pointer", "object_logit"))

    def forward(
        self, top: Tensor, skip_8: Tensor, skip_4: Tensor, mask: Tensor, centers: Tensor
    ) -> tuple[Tensor, ...]:
        """Take the mask."""
        features = self.features(top, skip_8, skip_4)
        found = self.model.decode_mask_prompt(features, mask, centers, pano=self.pano)
        return found.logits, found.pointer, found.object_logit


class EncodeMemory(Graph):
    """``gate``, ``encode_mask`` and ``encode_memory``."""

    signature = Signature(("top", "logits", "object_logit"), ("memory_map", "mask_feature"))

    def forward(self, top: Tensor, logits: Tensor, object_logit: Tensor) -> tuple[Tensor, ...]:
        """Remember."""
        model, pano = self.model, self.pano
        mask = model.encode_mask(model.gate(logits, object_logit), pano=pano)
        features = self.features(top, top, top)
        return model.encode_memory(features, mask, object_logit, pano=pano), mask


def _outputs(found: Decoded) -> tuple[Tensor, ...]:
    return tuple(getattr(found, name) for name in FOUND)


def graphs(model: PanoSAM2, *, pano: bool, long_frames: int) -> dict[str, Graph]:
    """List the graphs of a network.

    Args:
        model: in evaluation mode.
        pano: circular columns.
        long_frames: N_l of the long-short memory module; 0: without.

    Returns:
        By name, in an order in which each has its inputs from those before it.
    """
    return {
        "encode_image": EncodeImage(model, pano=pano),
        "condition_new": ConditionNew(model, pano=pano),
        "decode_mask": DecodeMask(model, pano=pano),
        "decode_point": DecodePoint(model, pano=pano),
        "decode_points": DecodePoints(model, pano=pano),
        "encode_memory": EncodeMemory(model, pano=pano),
        "condition": Condition(model, pano=pano, long_frames=long_frames),
        "decode": Decode(model, pano=pano),
    }


def meaning(name: str, model: PanoSAM2) -> str:
    """Say what a tensor is, with its unit and range."""
    bounds = {"maps": model.num_maskmem - 1, "pointers": model.max_obj_ptrs_in_encoder - 1}
    return MEANING[name].format(**bounds)


def sample_frame(model: PanoSAM2) -> dict[str, Tensor]:
    """Draw all that comes from the caller on a first frame: a picture, and prompts.

    Args:
        model: gives the sizes.

    Returns:
        By name.
    """
    draw = torch.Generator().manual_seed(0)
    height, width = model.input_size
    coarse = torch.randint(0, 256, (1, 3, height // 8, width // 8), generator=draw)
    mask = torch.zeros(1, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 4 : width // 2] = 1
    points = torch.tensor([[[0.3 * width, 0.4 * height], [0.6 * width, 0.7 * height]]])
    labels = torch.tensor([[1, 0]], dtype=torch.int32)
    return {
        "image": coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8),
        "point": points[:, :1],
        "label": labels[:, :1],
        "points": points,
        "labels": labels,
        "mask": mask,
        "centers": torch.tensor([width // STRIDE // 3]),
    }


def sample_memory(
    model: PanoSAM2, frame: Mapping[str, Tensor], filled: Remembered
) -> dict[str, Tensor]:
    """Make a memory out of one frame, by noise.

    Args:
        model: gives the sizes.
        frame: with its ``memory_map``, ``mask_feature`` and ``pointer``.
        filled: how much of it.

    Returns:
        The fields of :class:`Recalled`, and ``previous_mask``.
    """
    draw = torch.Generator().manual_seed(1)

    def several(like: Tensor, count: int) -> Tensor:
        noise = torch.randn((1, count, *like.shape[1:]), generator=draw)
        return like[:, None] + noise * like.std() / 3

    first = filled.prompted + filled.drawn  # pointers before those of tracked frames
    pointers = several(frame["pointer"], first + filled.pointers)
    reach = model.max_obj_ptrs_in_encoder - 1
    ages = [*[filled.pointers + 1] * filled.prompted, *[reach] * filled.drawn]
    recalled = Recalled(
        prompted_maps=several(frame["memory_map"], filled.prompted),
        recent_maps=several(frame["memory_map"], filled.recent),
        recent_ages=torch.arange(filled.recent, 0, -1)[None],
        recent_pointers=pointers[:, first : first + filled.recent].flip(1),
        long_pointers=pointers[:, filled.prompted : first],
        pointers=pointers,
        pointer_ages=torch.tensor([[*ages, *range(1, filled.pointers + 1)]]),
    )
    return recalled._asdict() | {"previous_mask": frame["mask_feature"]}


def run(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Run a graph in torch, as it runs in a stream: without gradients.

    Args:
        graph: of a model in evaluation mode.
        inputs: in the order of its signature.

    Returns:
        Outputs by name.
    """
    with torch.inference_mode():
        out = graph(*inputs)
    names = graph.signature.outputs
    return dict(zip(names, (out,) if isinstance(out, Tensor) else out, strict=True))
