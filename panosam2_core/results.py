"""What a tracker returns for a frame."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class ObjectState(enum.IntEnum):
    """Whether an object is seen now. Values equal the constants of ``TrackedObject.msg``."""

    VISIBLE = 0
    OCCLUDED = 1
    LOST = 2


class View(NamedTuple):
    """A rectangle in longitude and latitude about a direction. Angles in radians.

    Attributes:
        lon: of the centre, left of the image centre is positive.
        lat: of the centre, up is positive.
        width: in local longitude.
        height: in local latitude.
    """

    lon: float
    lat: float
    width: float
    height: float


@dataclass(frozen=True)
class ObjectResult:
    """One object on one frame. Angles in radians, pixels of the original frame.

    Attributes:
        object_id: the id it was prompted with.
        label: the prompt's text.
        state: visible, occluded (not seen for a short while) or lost (for longer).
        mask: (H, W) bool, empty unless visible.
        logits: (h, w) float32 mask logits at a quarter of the model's input size, not gated by
            visibility; ``sigmoid`` gives a probability per pixel.
        visibility: 0..1, the model's probability that the object can be seen.
        visibility_logit: its logit.
        mask_score: 0..1, the IoU that the model predicts for the mask.
        area_px: pixels set.
        solid_angle_sr: steradians covered, each row weighted by its true size on the sphere.
        crosses_seam: whether ``box`` runs across the left and right edge.
        box: ``(x, y, width, height)``, ``x`` in [0, W); ``x + width`` may exceed W.
        lon: left of the image centre is positive (REP-103 body axes).
        lat: up is positive.
        bearing: (3,) float64 unit vector, x forward, y left, z up; zeros when not visible.
        angular_width: extent about ``bearing`` in local longitude, as if it were looked at.
        angular_height: likewise in local latitude.
        age: frames since the object was added (0 on that frame).
        frames_since_seen: 0 when visible.
        long_term_frames: the long-term frames that this mask was made with, oldest first (paper
            3.2), as the memory counts: by the stream's index until frames are left out of it (the
            object was hidden, or looked for in another view). Empty on a prompted frame and where
            there are none yet.
        view: the part of the panorama that it was looked for in; ``None``: the whole frame.
    """

    object_id: int
    label: str
    state: ObjectState
    mask: npt.NDArray[np.bool_] = field(repr=False)
    logits: npt.NDArray[np.float32] = field(repr=False)
    visibility: float
    visibility_logit: float
    mask_score: float
    area_px: int
    solid_angle_sr: float
    crosses_seam: bool
    box: tuple[int, int, int, int]
    lon: float
    lat: float
    bearing: npt.NDArray[np.float64]
    angular_width: float
    angular_height: float
    age: int
    frames_since_seen: int
    long_term_frames: tuple[int, ...] = ()
    view: View | None = None


@dataclass(frozen=True)
class FrameResult:
    """Every object on one frame, lost ones included until they are removed.

    Attributes:
        frame_index: 0 for the first frame after a start or a reset.
        size_hw: (height, width) of the frame.
        objects: by object id.
        labels: (H, W) uint16, the id of the object with the highest logit at each pixel,
            0 = background. The per-object masks may overlap, this image cannot.
        stage_ms: milliseconds spent per stage of this frame; their sum is that of the whole step.
    """

    frame_index: int
    size_hw: tuple[int, int]
    objects: Mapping[int, ObjectResult]
    labels: npt.NDArray[np.uint16] = field(repr=False)
    stage_ms: Mapping[str, float]

    def label_image(
        self, dtype: type[np.uint8] | type[np.uint16] = np.uint8
    ) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """Return the label image in the narrowest type a consumer needs.

        Args:
            dtype: ``np.uint8`` or ``np.uint16``.

        Returns:
            (H, W) array of object ids, 0 = background.

        Raises:
            ValueError: when an id does not fit ``dtype``.
        """
        limit = 255 if dtype is np.uint8 else 65535
        too_large = [object_id for object_id in self.objects if object_id > limit]
        if too_large:
            raise ValueError(f"object ids {too_large} exceed {limit}; use np.uint16")
        return self.labels.astype(np.uint8) if limit == 255 else self.labels
