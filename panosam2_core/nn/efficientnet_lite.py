"""EfficientNet-Lite0 image trunk that is circular in yaw.

Architecture: Tan and Le 2019 in its "Lite" form (ReLU6, no squeeze-and-excitation). Batch norms
are folded into the convolutions when the ImageNet weights are converted, so there is no running
statistic that small training batches could spoil.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panosam2_core.nn.derived import arithmetic_type
from panosam2_core.nn.layers import CastOnceConv2d
from panosam2_core.nn.products import (
    CALLED,
    as_product,
    convolve_pixels,
    has_bfloat16_kernels,
)
from panosam2_core.nn.wrap import pad_edges


class Stage(NamedTuple):
    """One row of the architecture table."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
# The last stage before each halving is the finest description at its stride.
OUTPUT_STAGES = (1, 2, 4, 6)  # strides 4, 8, 16, 32


def _edges(conv: nn.Conv2d) -> tuple[int, int]:
    """Pixels before and after a side, as TensorFlow's "same" pads for the ImageNet weights.

    At stride 2 an even side is padded by one more pixel at its end than at its start.
    """
    total = conv.kernel_size[0] - conv.stride[0]
    return total // 2, total - total // 2


def same_conv_relu6(conv: nn.Conv2d, x: Tensor, *, wrapped: bool) -> Tensor:
    """Convolve with "same" padding, then ReLU6.

    Args:
        conv: odd square kernel, stride 1 or 2, unpadded.
        x: (B, C, H, W), even sides; the columns continued by :func:`_edges` if ``wrapped``.
        wrapped: so; off, zeros there too.

    Returns:
        (B, C', H / stride, W / stride).
    """
    stride = conv.stride[0]
    # Padding is the same on both sides: at stride 2 by two more than "same" has at the start, and
    # of the output the first line is cut off.
    start = _edges(conv)[0] + 2 * (stride - 1)
    out = _conv_relu6(conv, x, (start, 0 if wrapped else start))
    if stride == 2:
        out = out[:, :, 1:] if wrapped else out[:, :, 1:, 1:]
    return out


def _conv_relu6(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Convolution and ReLU6: one pass where a CPU computes in bfloat16.

    In float32 the two passes are as fast.
    """
    weight, bias = conv.weight, conv.bias
    if isinstance(conv, CastOnceConv2d):
        weight, bias = conv.parameters_for(x)
    if padding == (0, 0) and as_product(conv, x, weight.dtype):
        return convolve_pixels(x, weight, bias, "relu6")
    half_on_cpu = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu"
    if half_on_cpu and has_bfloat16_kernels() and not torch.is_grad_enabled():
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, conv.stride, [1, 1], conv.groups, *CALLED["relu6"]
        )
        return fused
    out = F.conv2d(x, weight, bias, conv.stride, padding, 1, conv.groups)
    return F.relu6(out, inplace=not torch.is_grad_enabled())


class InvertedResidual(nn.Module):
    """Expand 1x1, depth-wise k x k, project 1x1, with a residual where shapes allow.

    Args:
        channels_in: input channels.
        stage: kernel, expansion and output channels.
        stride: of the depth-wise convolution.
    """

    def __init__(self, channels_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = channels_in * stage.expand
        self.expand = nn.Conv2d(channels_in, hidden, 1) if stage.expand != 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, stage.kernel, stride=stride, groups=hidden)
        self.project = nn.Conv2d(hidden, stage.channels, 1)
        self.residual = stride == 1 and channels_in == stage.channels

    def forward(self, x: Tensor, *, wrap: bool) -> Tensor:
        """Run the block.

        Args:
            x: (B, C, H, W).
            wrap: circular columns.

        Returns:
            (B, C', H / stride, W / stride).
        """
        # Before there are six times as many channels to be copied.
        y = pad_edges(x, (0, 0), _edges(self.depthwise), wrap=True) if wrap else x
        y = y if self.expand is None else _conv_relu6(self.expand, y)
        y = same_conv_relu6(self.depthwise, y, wrapped=wrap)
        projected: Tensor = self.project(y)
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """Feature pyramid of EfficientNet-Lite0.

    Attributes:
        channel_list: channels from the coarsest to the finest output, as SAM2's neck expects.
    """

    channel_list = [STAGES[i].channels for i in reversed(OUTPUT_STAGES)]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2)
        stages = []
        channels = STEM_CHANNELS
        for stage in STAGES:
            blocks = nn.ModuleList()
            for repeat in range(stage.repeats):
                blocks.append(InvertedResidual(channels, stage, stage.stride if not repeat else 1))
                channels = stage.channels
            stages.append(blocks)
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor, *, wrap: bool) -> list[Tensor]:
        """Describe images at strides 4, 8, 16 and 32.

        Args:
            images: (B, 3, H, W), RGB scaled to about [-1, 1], sides multiples of 32.
            wrap: circular columns.

        Returns:
            Four maps, finest first: (B, 24, H/4, W/4), (B, 40, H/8, W/8), (B, 112, H/16, W/16),
            (B, 320, H/32, W/32).
        """
        images = images.to(arithmetic_type(images), memory_format=torch.channels_last)
        if wrap:
            images = pad_edges(images, (0, 0), _edges(self.stem), wrap=True)
        x = same_conv_relu6(self.stem, images, wrapped=wrap)
        outputs = []
        for index, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, wrap=wrap)
            if index in OUTPUT_STAGES:
                outputs.append(x)
        return outputs
