"""A region of every frame where no object can be: the robot's own body, a tripod, a seam line."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panosam2_core.errors import ConfigError, PromptError
from panosam2_core.prompts import Prompt


class IgnoredRegion:
    """The region at any size.

    Args:
        mask: (H, W) bool, true where nothing counts.
        device: of the tensors that are given out.

    Raises:
        ConfigError: for another shape or type, or a mask that leaves nothing.
    """

    def __init__(self, mask: npt.NDArray[np.bool_], device: torch.device) -> None:
        if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
            raise ConfigError(
                f"the ignored region must be (H, W) bool, got {mask.shape} {mask.dtype}"
            )
        if mask.all():
            raise ConfigError(
                "the ignored region is the whole picture; true means ignored, so nothing is left"
            )
        self.share = torch.from_numpy(mask.astype(np.float32))[None, None].to(device)
        self._made: dict[tuple[tuple[int, int], float], Tensor] = {}

    def at(self, size_hw: tuple[int, int], edge: float = 0.0) -> Tensor:
        """The region at a size.

        Args:
            size_hw: (height, width) in pixels.
            edge: where the frame is cut, in widths from its own left edge.

        Returns:
            (height, width) bool: pixels of which half or more is ignored.
        """
        if (size_hw, edge) not in self._made:
            if len(self._made) > 4:  # a stream has a frame's size and the network's
                self._made.clear()
            share = self.share.roll(-round(edge * self.share.shape[-1]), dims=-1)
            share = torch.nn.functional.interpolate(share, size_hw, mode="area")[0, 0]
            self._made[size_hw, edge] = share >= 0.5
        return self._made[size_hw, edge]

    def check(self, prompt: Prompt, size_hw: tuple[int, int]) -> None:
        """Refuse a prompt for what is ignored.

        Args:
            prompt: that fits the frame.
            size_hw: (height, width) of the frame.

        Raises:
            PromptError: ``BAD_COORDS`` for a click on the object in the region, ``BAD_MASK`` for
                a mask that lies in it as a whole.
        """
        labels = list(prompt.labels) or [1] * len(prompt.points)
        clicks = [p for p, label in zip(prompt.points, labels, strict=True) if label == 1]
        if not clicks and prompt.mask is None:
            return
        region = self.at(size_hw)
        for u, v in clicks:
            if region[int(v), int(u)]:
                raise PromptError(
                    "BAD_COORDS", f"point ({u:.1f}, {v:.1f}) is in the region that is ignored"
                )
        if (
            prompt.mask is not None
            and not ((np.asarray(prompt.mask) != 0) & ~region.cpu().numpy()).any()
        ):
            raise PromptError("BAD_MASK", "the whole mask is in the region that is ignored")
