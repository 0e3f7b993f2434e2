"""Prompts as the network takes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.charts import Chart, settle
from panosam2_core.model import MASK_STRIDE, PanoSAM2, PointPrompts
from panosam2_core.prompts import Prompt, box_span


def mask_input(model: PanoSAM2, mask: npt.NDArray[np.generic], chart: Chart) -> Tensor:
    """Show a mask of the frame in a chart.

    Args:
        model: gives size and device.
        mask: (H', W') of the frame, not 0 on the object, with a part of it in the chart.
        chart: to show it in.

    Returns:
        (1, 1, H, W) float at the network's input size, 0 or 1, never empty.
    """
    device = model.pixel_mean.device
    full = torch.from_numpy(np.ascontiguousarray(mask != 0)).to(device)[None, None].float()
    size = (model.input_size[0], model.input_size[1])
    share = chart.gather(full, size)
    while not bool(share.any()):  # narrower than a sample of the chart: grow until one sees it
        full = F.max_pool2d(full, 3, 1, 1)
        share = chart.gather(full, size)
    return settle(share, MASK_STRIDE)


def point_input(
    model: PanoSAM2, prompt: Prompt, size_hw: tuple[int, int], *, wraps: bool
) -> PointPrompts:
    """Clicks and corners in pixels of the network's input.

    Args:
        model: gives size and device.
        prompt: with points or a box, in pixels of the frame.
        size_hw: of the frame.
        wraps: its left and right edges meet; what crosses them goes on past the edge.

    Returns:
        One row.
    """
    width = size_hw[1]
    xy: list[tuple[float, float]] = []
    labels: list[int] = []
    if prompt.box is not None:
        left, right = box_span(prompt.box, width)
        xy += [(left, prompt.box[1]), (right, prompt.box[3])]
        labels += [2, 3]
    points = [(float(u), float(v)) for u, v in prompt.points]
    labels += [int(i) for i in prompt.labels] or [1] * len(points)
    if wraps and points:
        # Each click on the copy of the panorama that is nearest to the box or first click.
        anchor = (xy[0][0] + xy[1][0]) / 2 if xy else points[0][0]
        points = [(anchor + (u - anchor + width / 2) % width - width / 2, v) for u, v in points]
    xy += points
    device = model.pixel_mean.device
    scale = torch.tensor([model.input_size[1] / width, model.input_size[0] / size_hw[0]])
    return PointPrompts(
        (torch.tensor(xy) * scale)[None].to(device),
        torch.tensor([labels], dtype=torch.int32, device=device),
    )
