"""What trackers are measured on: clips with the truth, of the synthetic world or recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from panosam2_core.data.clips import Clip, ClipFrame
from panosam2_core.data.synthetic import SyntheticWorld


@dataclass(frozen=True)
class Episode:
    """A clip to be tracked from its first frame to its last.

    Attributes:
        name: of the clip.
        frames: opens it; may be called again.
        ids: objects that are measured; ``None``: all.
        known: subsets that the clip is known to belong to; ``None``: to be told from the truth.
    """

    name: str
    frames: Callable[[], Iterator[ClipFrame]]
    ids: frozenset[int] | None = None
    known: frozenset[str] | None = None


def synthetic_episode(world: SyntheticWorld, index: int) -> Episode:
    """The target of a clip of the synthetic world.

    Args:
        world: gives the clip.
        index: of the clip.

    Returns:
        The episode; it is known whether the target was planned to cross the seam, to be occluded
        and to have a look-alike.
    """
    plan = world.plan(index)

    def frames() -> Iterator[ClipFrame]:
        for t, frame in enumerate(world.clip(index)):
            rgb = frame.image.permute(1, 2, 0).cpu().numpy()
            yield ClipFrame(rgb, frame.labels.cpu().numpy().astype(np.int32), f"{t:05d}")

    known = {name for name in ("seam", "occlusion", "lookalike") if getattr(plan, name)}
    target = frozenset([world.clip(index).target_id])
    return Episode(f"{world.split}-{index:03d}", frames, target, frozenset(known))


def recorded_episode(clip: Clip) -> Episode:
    """All objects of a recorded clip.

    Args:
        clip: with labels on its first frame at least.

    Returns:
        The episode.
    """
    return Episode(clip.name, lambda: clip.read(range(len(clip))))
