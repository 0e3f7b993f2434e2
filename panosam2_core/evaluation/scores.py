"""Scores of one tracked object over one clip, and their means.

The conventions are those of video object segmentation: the prompted frame does not count, a score
is averaged over an object's frames first, then over objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from panosam2_core.evaluation.metrics import MaskScore, score_mask
from panosam2_core.geometry.region import measure

TINY_DEG, LARGE_DEG = 12.0, 20.0  # mean angular size below, and from which on
POLAR_DEG = 50.0  # latitude beyond which the centre comes at least once
BANDS = {"0-30": (0.0, 30.0), "30-60": (30.0, 60.0), "60-90": (60.0, 90.1)}  # mean latitude
MIN_VISIBLE_PX = 16  # fewer pixels of a 512x1024 frame do not show an object to anybody


@dataclass
class ObjectScore:
    """Frame by frame scores of one object; feed it with :meth:`add`.

    Attributes:
        iou: IoU on frames where the object can be seen.
        visible_hits: reported visible, on frames where it can be seen.
        absent_hits: reported not visible, on frames where it cannot.
        sizes: angular size in degrees, the geometric mean of width and height, on visible frames.
        latitudes: of the true centre in degrees, on visible frames.
        in_sight: whether the object can be seen, on all frames.
        seam: whether its true mask crosses the seam, on visible frames.
        agreement: with the truth, on all frames; a mask of an absent object costs full points.
    """

    iou: list[float] = field(default_factory=list)
    visible_hits: list[bool] = field(default_factory=list)
    absent_hits: list[bool] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    latitudes: list[float] = field(default_factory=list)
    in_sight: list[bool] = field(default_factory=list)
    seam: list[bool] = field(default_factory=list)
    agreement: list[MaskScore] = field(default_factory=list)

    def add(
        self, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], *, visible: bool
    ) -> None:
        """Score one frame.

        Args:
            predicted: (H, W) mask, empty when the tracker says the object is out of sight.
            truth: (H, W) mask.
            visible: what the tracker says.
        """
        self.agreement.append(score_mask(predicted, truth))
        region = measure(truth, pano=True)
        self.in_sight.append(region is not None and region.area_px >= MIN_VISIBLE_PX)
        if region is None or not self.in_sight[-1]:
            self.absent_hits.append(not visible)
            return
        self.iou.append(float((predicted & truth).sum() / (predicted | truth).sum()))
        self.visible_hits.append(visible)
        size = math.sqrt(region.angular_width * region.angular_height)
        self.sizes.append(math.degrees(size))
        self.seam.append(region.crosses_seam)
        self.latitudes.append(math.degrees(region.lat))

    @property
    def groups(self) -> frozenset[str]:
        """Of ``tiny``, ``large`` and ``polar``, those that the object belongs to."""
        if not self.sizes:
            return frozenset()
        size = float(np.mean(self.sizes))
        belongs = {
            "tiny": size < TINY_DEG,
            "large": size >= LARGE_DEG,
            "polar": max(map(abs, self.latitudes)) > POLAR_DEG,
        }
        return frozenset(name for name, yes in belongs.items() if yes)

    @property
    def events(self) -> frozenset[str]:
        """Of ``seam`` and ``occlusion`` (out of sight and back again), those that happened."""
        returned = "01" in "".join("01"[seen] for seen in self.in_sight)
        happened = {"seam": any(self.seam), "occlusion": returned}
        return frozenset(name for name, yes in happened.items() if yes)

    @property
    def band(self) -> str | None:
        """Of :data:`BANDS`, that of the mean latitude; ``None`` if the object is never seen."""
        if not self.latitudes:
            return None
        latitude = float(np.mean(np.abs(self.latitudes)))
        return next(name for name, (low, high) in BANDS.items() if low <= latitude < high)


def mean(values: Iterable[float]) -> float | None:
    """Mean, or ``None`` of nothing.

    Args:
        values: numbers.

    Returns:
        Their mean; ``None`` (null in JSON) when there are none.
    """
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def summarize(scores: Sequence[ObjectScore]) -> dict[str, float | int | None]:
    """Average over objects.

    Args:
        scores: of all objects.

    Returns:
        ``objects``, ``mean_iou``, ``visible_recall``, ``absent_recall``, and the mean IoU of the
        third of the objects that is smallest and largest on average. ``j``, ``f`` (see
        :class:`MaskScore`), their mean ``j_and_f``, and ``f_wrap``, ``j_sphere``, ``f_sphere``
        take in the frames on which the object is absent.
    """
    seen = sorted((s for s in scores if s.iou), key=lambda s: float(np.mean(s.sizes)))
    third = max(1, len(seen) // 3)
    scored = [s for s in scores if s.agreement]
    parts = {
        name: mean(float(np.mean([getattr(a, name) for a in s.agreement])) for s in scored)
        for name in MaskScore._fields
    }
    j, f = parts["j"], parts["f"]
    return {
        "objects": len(scores),
        "j_and_f": None if j is None or f is None else (j + f) / 2,
        **parts,
        "mean_iou": mean(float(np.mean(s.iou)) for s in seen),
        "mean_iou_small": mean(float(np.mean(s.iou)) for s in seen[:third]),
        "mean_iou_large": mean(float(np.mean(s.iou)) for s in seen[-third:]),
        "visible_recall": mean(float(np.mean(s.visible_hits)) for s in seen),
        "absent_recall": mean(float(np.mean(s.absent_hits)) for s in scores if s.absent_hits),
    }
