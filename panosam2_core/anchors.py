"""Frames worth keeping for long: those on which something else looks like the object.

Recent frames teach memory attention what the object looks like now; they do not teach it what the
object is not. DAM4SAM (arXiv 2411.17576, section 3.2) keeps frames on which the decoder's
candidates contradict one another while the tracker is sure of its choice: a distractor is in
sight, and the mask says which of the two is meant. Such an anchor is read like a prompted frame,
whatever its age. Written from the paper's description; the measures of agreement are ours.
"""

from __future__ import annotations

from torch import Tensor

from panosam2_core.model import Decoded
from panosam2_core.tracks import Track

AGREEMENT = 0.7  # IoU of a candidate with the mask, under which it shows something else
SURE = 0.95  # share of what is usual that the predicted IoU of an anchor must have
STEADY_SIZE = 0.2  # relative change of the solid angle beyond which a mask may be wrong


def agreement(decoded: Decoded) -> Tensor:
    """Say how far the decoder's candidates show the same as the mask.

    Args:
        decoded: masks of B objects, and all candidates.

    Returns:
        (B,) in 0..1: IoU of the mask with the candidate that is least like it; 1 if all are
        empty.
    """
    mask, candidates = decoded.logits > 0, decoded.candidates > 0
    shared = (mask & candidates).flatten(2).sum(dim=2)
    together = (mask | candidates).flatten(2).sum(dim=2)
    return ((shared + (together == 0)) / together.clamp(min=1)).amin(dim=1)


def is_contested(track: Track, agreeing: float, score: float, size: float) -> bool:
    """Tell whether a frame on which an object was seen shows what it is not, beyond doubt.

    Args:
        track: of the object, as it was before the frame.
        agreeing: from :func:`agreement`.
        score: predicted IoU of the mask.
        size: its solid angle in steradians.

    Returns:
        Whether the frame is worth keeping.
    """
    usual = track.usual_size
    return (
        agreeing < AGREEMENT
        and score >= SURE * track.usual_score
        and abs(size - usual) <= STEADY_SIZE * usual
    )
