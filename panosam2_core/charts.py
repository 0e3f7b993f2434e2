"""What the network is shown: the whole frame, or a crop of the sphere about one object.

A chart turns a frame into the network's input and the network's masks back into the frame's. All
else of a step is the same for every chart.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.geometry.bfov import BFoV, crop, recrop, uncrop
from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.model import PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE, WHOLE_SPHERE
from panosam2_core.prompt_view import into_view

BARELY = 1e-6  # of a column: what rounding leaves
SURE = 0.625  # share of a decoded pixel that is still seen after it has been enlarged


class Chart(Protocol):
    """A piece of the sphere, or all of it, laid out in the plane."""

    @property
    def pano(self) -> bool:
        """Whether its left and right edges meet."""

    @property
    def fov(self) -> tuple[float, float]:
        """(width, height) in radians."""

    def images(self, model: PanoSAM2, frame: Tensor) -> Tensor:
        """Show a frame.

        Args:
            model: whose input it becomes.
            frame: (1, 3, H', W') uint8 RGB.

        Returns:
            (1, 3, H, W) float, normalised.
        """

    def on_frame(
        self, logits: Tensor, size_hw: tuple[int, int], above: float | None = None
    ) -> Tensor:
        """Bring masks back.

        Args:
            logits: (B, 1, h, w) decoded in this chart.
            size_hw: of the frame, or any other size of it.
            above: only values above it are wanted; others may be lower than they should.

        Returns:
            (B, 1, H', W') float; what the chart does not show is not the object.
        """

    def gather(self, share: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Show a mask of the frame.

        Args:
            share: (1, 1, H', W') float, 0 to 1.
            size_hw: of the result.

        Returns:
            (1, 1, H, W) float, 0 to 1.
        """

    def place(self, prompts: PointPrompts, size_hw: tuple[int, int]) -> PointPrompts | None:
        """Find clicks and boxes of the frame.

        Args:
            prompts: of one object, in pixels of the whole frame at the network's input size.
            size_hw: that size, also of the chart.

        Returns:
            In pixels of the chart; ``None`` when one lies outside of it.
        """


@dataclass(frozen=True)
class WholeFrame:
    """The frame, cut at any column.

    Attributes:
        pano: its left and right edges meet.
        edge: where it is cut, in widths from the frame's own left edge, in [0, 1); 0 for a frame
            that is not closed.
    """

    pano: bool
    edge: float = 0.0

    @property
    def fov(self) -> tuple[float, float]:
        """(width, height) in radians, of a closed panorama."""
        return WHOLE_SPHERE

    def images(self, model: PanoSAM2, frame: Tensor) -> Tensor:
        """See :class:`Chart`."""
        return model.normalize(self._cut(frame), pano=self.pano)

    def _cut(self, frame: Tensor) -> Tensor:
        columns = math.floor(self.edge * frame.shape[-1] + 0.5)
        return frame.roll(-columns, dims=-1) if columns else frame

    def on_frame(
        self, logits: Tensor, size_hw: tuple[int, int], above: float | None = None
    ) -> Tensor:
        """See :class:`Chart`."""
        whole = resize_wrap(logits, size_hw, pano=self.pano)
        columns = math.floor(self.edge * size_hw[1])
        between = self.edge * size_hw[1] - columns
        if columns:
            whole = whole.roll(columns, dims=-1)
        # On a coarse grid the edge lies between two columns; on the frame it does not.
        return whole.lerp(whole.roll(1, dims=-1), between) if between > BARELY else whole

    def show(self, chart: Chart, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Show masks of another chart in this one.

        Args:
            chart: they were decoded in.
            logits: (B, 1, h, w).
            size_hw: of the result.

        Returns:
            (B, 1, H, W) float; what the other chart does not show is not the object.
        """
        if not isinstance(chart, LocalView):
            return resize_wrap(logits, size_hw, pano=self.pano)
        lon = math.remainder(chart.region.lon - math.tau * self.edge, math.tau)
        return uncrop(logits.float(), replace(chart.region, lon=lon), size_hw, OUTSIDE)

    def gather(self, share: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See :class:`Chart`."""
        share = self._cut(share)
        if size_hw[0] <= share.shape[-2] and size_hw[1] <= share.shape[-1]:
            # Shares of area: a thing smaller than a pixel of the model keeps its largest share.
            return F.interpolate(share, size_hw, mode="area")
        return resize_wrap(share, size_hw, pano=self.pano)

    def place(self, prompts: PointPrompts, size_hw: tuple[int, int]) -> PointPrompts:
        """See :class:`Chart`."""
        if not self.edge:
            return prompts
        x, y = (prompts.xy - prompts.xy.new_tensor([self.edge * size_hw[1], 0.0])).unbind(-1)
        # All of them on the copy of the panorama that the first one lies on.
        return prompts._replace(
            xy=torch.stack([x - (x[:, :1] / size_hw[1]).floor() * size_hw[1], y], dim=-1)
        )


@dataclass(frozen=True)
class LocalView:
    """A crop of a closed panorama.

    Attributes:
        region: of the sphere.
    """

    region: BFoV

    @property
    def pano(self) -> bool:
        """Its edges do not meet."""
        return False

    @property
    def fov(self) -> tuple[float, float]:
        """(width, height) in radians."""
        return self.region.fov_h, self.region.fov_v

    def images(self, model: PanoSAM2, frame: Tensor) -> Tensor:
        """See :class:`Chart`."""
        size = (model.input_size[0], model.input_size[1])
        return model.normalize(crop(frame, self.region, size), pano=False)

    def on_frame(
        self, logits: Tensor, size_hw: tuple[int, int], above: float | None = None
    ) -> Tensor:
        """See :class:`Chart`."""
        above = None if above is None or above < OUTSIDE else above
        return uncrop(logits.float(), self.region, size_hw, OUTSIDE, above=above)

    def gather(self, share: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See :class:`Chart`."""
        return crop(share, self.region, size_hw)

    def place(self, prompts: PointPrompts, size_hw: tuple[int, int]) -> PointPrompts | None:
        """See :class:`Chart`."""
        return into_view(prompts, self.region, size_hw)

    def carry(self, region: Tensor, source: BFoV) -> Tensor:
        """Show a mask that was decoded in another local view.

        Args:
            region: (1, h, w) bool, of the other view.
            source: the other view.

        Returns:
            (1, 1, h, w) bool, up to two pixels larger.
        """
        size = (region.shape[-2], region.shape[-1])
        # Grown by a pixel, so that what is thinner than one is not lost between two samples.
        grown = F.max_pool2d(region[None].float(), 3, 1, 1)
        return recrop(grown, source, self.region, size, 0.0) > 0


def search_regions(start: BFoV, width: float) -> list[BFoV]:
    """Regions of local views that together cover the sphere, nearest first.

    Args:
        start: about whose centre to begin.
        width: of each view in radians; they are half as high and overlap by a third.

    Returns:
        The regions, of two that are equally near the one to the right first. On a rolled panorama
        they are rolled, in the same order.
    """
    step = width / 2 * (2 / 3)
    rows = math.ceil(math.pi / step)
    regions: list[tuple[float, BFoV]] = []
    for row in range(rows):
        lat = -math.pi / 2 + (row + 0.5) * math.pi / rows
        # The row's widest circle is what its views must go round.
        nearest = max(0.0, abs(lat) - width / 4)
        columns = max(1, math.ceil(math.tau * math.cos(nearest) / (width * 2 / 3)))
        for column in range(columns):
            beside = column * math.tau / columns
            cosine = math.sin(start.lat) * math.sin(lat)
            cosine += math.cos(start.lat) * math.cos(lat) * math.cos(beside)
            lon = math.remainder(start.lon + beside, math.tau)
            # Left and right of the start are equally near, whatever the rounding.
            regions.append((-round(cosine, 9), BFoV(lon, lat, width, width / 2)))
    return [region for _, region in sorted(regions, key=operator.itemgetter(0))]


def solid_angles(
    fov: tuple[float, float], size_hw: tuple[int, int], device: torch.device
) -> Tensor:
    """Solid angle of the cells of a chart in longitude and latitude.

    Args:
        fov: (width, height) in radians.
        size_hw: cells.
        device: of the result.

    Returns:
        (H, W) steradians.
    """
    height, width = size_hw
    step = fov[1] / height
    lat = fov[1] / 2 - (torch.arange(height, device=device) + 0.5) * step
    rows = lat.cos() * (2 * math.sin(step / 2) * fov[0] / width)
    return rows[:, None].expand(height, width)


def settle(share: Tensor, stride: int) -> Tensor:
    """Make a mask prompt of shares of area: 0 or 1, never empty.

    Args:
        share: (1, 1, H, W) float, 0 to 1, somewhere above 0.
        stride: pixels per pixel of the decoded masks.

    Returns:
        (1, 1, H, W) float. What is smaller than a decoded pixel takes the whole of it.
    """
    found = (share >= share.max().clamp(max=0.5)).float()
    if F.avg_pool2d(found, stride).max() < SURE:
        found = F.interpolate(F.max_pool2d(found, stride), scale_factor=stride)
    return found
