"""The other peer: a tracker in a search region about the object's last mask.

"SAM2 + BFoV" of the 360VOTS framework and of the paper's appendix: on every frame the panorama is
cropped to the object's bounding field of view, enlarged; the tracker sees the crop as if it were
an ordinary video, and its mask goes back to the panorama. While the object is lost the region
stays for four frames, then doubles with every frame for four more, then it is the whole panorama.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from panosam2_core.data.clips import ClipFrame
from panosam2_core.evaluation.predictors import Mask, Prediction, Predictor
from panosam2_core.geometry.bfov import BFoV, crop, enlarge, fit_bfov, uncrop

CROP_HW = (512, 1024)
RATIO = 2.0
WHOLE = BFoV(0.0, 0.0, math.tau, math.pi)
MIN_FOV = (math.radians(120), math.radians(60))  # 360VOTS' framework
KEEP, GROW = 4, 8  # frames without the object until the region grows, and until it is everything
TRIM = 0.005  # of a predicted mask's solid angle, so that one false pixel moves nothing


class SearchRegionPredictor:
    """Follows each object in a crop of its own.

    Args:
        make: a tracker of ordinary videos, one per object.
    """

    def __init__(self, make: Callable[[], Predictor]) -> None:
        self.make, self.seconds, self.clip = make, 0.0, ""
        self._objects: dict[int, tuple[Predictor, BFoV]] = {}
        self._lost: dict[int, int] = {}

    def start(self, clip: str) -> None:
        """Begin a clip, see :class:`Predictor`.

        Args:
            clip: its name.
        """
        self.clip, self._objects, self._lost = clip, {}, {}

    def step(self, frame: ClipFrame, new: Mapping[int, Mask]) -> Mapping[int, Prediction]:
        """Take the next frame, see :class:`Predictor`.

        Args:
            frame: of the clip.
            new: to be prompted.

        Returns:
            Predictions.
        """
        started = time.perf_counter()
        for object_id, mask in new.items():
            follower = self.make()
            follower.start(f"{self.clip}/{object_id}")
            self._objects[object_id] = (follower, _region(mask, trim=0.0) or WHOLE)
        image = torch.from_numpy(np.ascontiguousarray(frame.rgb)).permute(2, 0, 1)[None]
        found = {i: self._follow(i, frame, image, new.get(i)) for i in self._objects}
        self.seconds += time.perf_counter() - started
        return found

    def _follow(
        self, object_id: int, frame: ClipFrame, image: torch.Tensor, new: Mask | None
    ) -> Prediction:
        follower, region = self._objects[object_id]
        view = crop(image, region, CROP_HW)[0].round().clamp(0, 255).to(torch.uint8)
        prompts = {}
        if new is not None:
            share = crop(torch.from_numpy(new)[None, None], region, CROP_HW)[0, 0].numpy()
            prompts[object_id] = share > min(0.5, float(share.max()) * 0.999)
        answer = follower.step(ClipFrame(view.permute(1, 2, 0).numpy(), None, frame.name), prompts)
        local = answer[object_id]
        logits = torch.from_numpy(local.mask).float()[None, None]
        size = (frame.rgb.shape[0], frame.rgb.shape[1])
        mask = (uncrop(logits, region, size, 0.0)[0, 0] > 0.5).numpy()
        found = _region(mask, TRIM) if local.visible else None
        lost = 0 if found else self._lost.get(object_id, 0) + 1
        self._lost[object_id] = lost
        self._objects[object_id] = (follower, found or _wider(region, lost))
        return Prediction(mask, local.visible)


def _wider(region: BFoV, lost: int) -> BFoV:
    """Where to search for what has been lost for so many frames."""
    if lost <= KEEP:
        return region
    return enlarge(region, 2.0) if lost <= GROW else WHOLE


def _region(mask: Mask, trim: float) -> BFoV | None:
    """Where to search for what has this mask."""
    bfov = fit_bfov(torch.from_numpy(mask), trim=trim)
    return None if bfov is None else enlarge(bfov, RATIO, *MIN_FOV)
