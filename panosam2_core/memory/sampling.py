"""Which long-term frames a step looks at (paper 3.2, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panosam2_core.memory.bank import LongTermEntry

LOGIT_RANGE = 10.0  # e^10 : 1 already decides every draw; clipping keeps exp() finite


def draw_by_visibility(
    entries: Sequence[LongTermEntry], count: int, generator: np.random.Generator
) -> list[LongTermEntry]:
    """Draw without replacement with weights exp(object logit): Algorithm 1 in one pass.

    Sequential weighted draws without replacement have the same distribution as taking the
    largest ``logit + Gumbel noise`` (Plackett-Luce), which needs no loop.

    Args:
        entries: candidates.
        count: N_l; fewer candidates are all taken.
        generator: source of the noise.

    Returns:
        Up to ``count`` entries, oldest first.
    """
    logits = np.array([entry.object_logit for entry in entries], dtype=np.float64)
    noisy = logits.clip(-LOGIT_RANGE, LOGIT_RANGE) + generator.gumbel(size=len(entries))
    return [entries[i] for i in sorted(np.argsort(-noisy)[:count].tolist())]


def best_spaced(entries: Sequence[LongTermEntry], count: int, spacing: int) -> list[LongTermEntry]:
    """Take the most visible entries that lie at least ``spacing`` frames apart.

    Paper silent; chosen because a robot's output should not depend on a random draw.

    Args:
        entries: candidates, oldest first.
        count: N_l.
        spacing: frames.

    Returns:
        Up to ``count`` entries, oldest first. Of equal logits (SAM2's often saturate) the newer
        goes first, so that the draw moves on.
    """
    chosen: list[LongTermEntry] = []
    for entry in sorted(entries, key=lambda e: (-min(e.object_logit, LOGIT_RANGE), -e.frame)):
        if all(abs(entry.frame - other.frame) >= spacing for other in chosen):
            chosen.append(entry)
        if len(chosen) == count:
            break
    return sorted(chosen, key=lambda e: e.frame)
