"""Tells whether a mask can be that of its object; if it cannot, the object is hidden.

A network that is asked for an object gives what comes nearest to it, also when the object is
covered or gone. What it gives then scores lower, is larger, or has other colours.
"""

from __future__ import annotations

from torch import Tensor

from panosam2_core.charts import solid_angles
from panosam2_core.config import TrackerConfig
from panosam2_core.likeness import SETTLING, likeness
from panosam2_core.tracks import Sight, Track

GROWTH_UNSEEN = 1.03  # factor per frame out of sight by which an object may have grown
SLACK_CELLS = 8  # of a decoded mask


def is_believed(
    config: TrackerConfig,
    now: int,
    sight: Sight,
    logits: Tensor,
    score: Tensor,
    portrait: Tensor | None,
    *,
    searched: bool,
) -> bool:
    """Test a mask.

    Args:
        config: with the bounds.
        now: index of the frame in the stream.
        sight: how the object was looked for.
        logits: (1, 4h, 4w) of the mask.
        score: () predicted IoU.
        portrait: (9, 216) of what is in the mask; ``None``: nothing, or nobody compares.
        searched: the object is lost. A search asks for more than any single mask can show, and
            compares colours when it is done.

    Returns:
        Whether it can be the object.
    """
    track = sight.track
    # On the panorama a mask is coarse, and so are its score and size.
    if sight.local and float(score) < config.least_score * track.usual_score:
        return False
    if sight.local and not _has_grown_little(config, now, sight, logits):
        return False
    settling = now - track.added <= SETTLING
    return searched or settling or _looks_familiar(config, track, portrait)


def _has_grown_little(config: TrackerConfig, now: int, sight: Sight, logits: Tensor) -> bool:
    track = sight.track
    if not config.most_growth or not track.usual_size:
        return True
    cells = solid_angles(sight.chart.fov, (logits.shape[-2], logits.shape[-1]), logits.device)
    size = float(((logits[0] > 0) * cells).sum())
    hidden = now - track.last_seen - 1
    most = track.usual_size * config.most_growth * GROWTH_UNSEEN**hidden
    # A few cells more or less are no growth.
    return size <= most + SLACK_CELLS * float(cells.max())


def _looks_familiar(config: TrackerConfig, track: Track, portrait: Tensor | None) -> bool:
    if portrait is None or track.portraits is None:
        return True
    # In any light: a cloud or a bridge is no reason to doubt.
    return likeness(portrait, track.portraits) >= config.least_likeness
