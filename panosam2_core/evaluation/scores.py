"""Scores of one tracked object over one clip, and their means.

The conventions are those of video object segmentation: the prompted frame does not count, a score
is averaged over an object's frames first, then over objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MIN_VISIBLE_PX = 16  # fewer pixels of a 512x1024 frame do not show an object to anybody


@dataclass
class ObjectScore:
    """Frame by frame scores of one object; feed it with :meth:`add`.

    Attributes:
        iou: IoU on frames where the object can be seen.
        visible_hits: reported visible, on frames where it can be seen.
        absent_hits: reported not visible, on frames where it cannot.
        sizes: square root of the true area over that of the frame, on visible frames.
    """

    iou: list[float] = field(default_factory=list)
    visible_hits: list[bool] = field(default_factory=list)
    absent_hits: list[bool] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def add(
        self, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], *, visible: bool
    ) -> None:
        """Score one frame.

        Args:
            predicted: (H, W) mask, empty when the tracker says the object is out of sight.
            truth: (H, W) mask.
            visible: what the tracker says.
        """
        area = int(truth.sum())
        if area < MIN_VISIBLE_PX:
            self.absent_hits.append(not visible)
            return
        self.iou.append(float((predicted & truth).sum() / (predicted | truth).sum()))
        self.visible_hits.append(visible)
        self.sizes.append(float(np.sqrt(area / truth.size)))


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
        third of the objects that is smallest and largest on average.
    """
    seen = sorted((s for s in scores if s.iou), key=lambda s: float(np.mean(s.sizes)))
    third = max(1, len(seen) // 3)
    return {
        "objects": len(scores),
        "mean_iou": mean(float(np.mean(s.iou)) for s in seen),
        "mean_iou_small": mean(float(np.mean(s.iou)) for s in seen[:third]),
        "mean_iou_large": mean(float(np.mean(s.iou)) for s in seen[-third:]),
        "visible_recall": mean(float(np.mean(s.visible_hits)) for s in seen),
        "absent_recall": mean(float(np.mean(s.absent_hits)) for s in scores if s.absent_hits),
    }
