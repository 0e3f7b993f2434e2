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


def same_conv(conv: nn.Conv2d, x: Tensor, *, wrap: bool) -> Tensor:
    """Convolve with TensorFlow's "same" padding, which the ImageNet weights were trained with.

    At stride 2 an even side is padded by one more pixel at its end than at its start.

    Args:
        conv: odd square kernel, stride 1 or 2, unpadded.
        x: (B, C, H, W), even sides.
        wrap: circular columns; off, zeros.

    Returns:
        (B, C', H / stride, W / stride).
    """
    total = conv.kernel_size[0] - conv.stride[0]
    edges = total // 2, total - total // 2
    out: Tensor = conv(pad_edges(x, edges, edges, wrap=wrap))
    return out


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=not torch.is_grad_enabled())


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
        y = x if self.expand is None else _relu6(self.expand(x))
        y = _relu6(same_conv(self.depthwise, y, wrap=wrap))
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
        x = _relu6(same_conv(self.stem, images, wrap=wrap))
        outputs = []
        for index, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, wrap=wrap)
            if index in OUTPUT_STAGES:
                outputs.append(x)
        return outputs
