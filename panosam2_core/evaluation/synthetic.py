"""Runs a tracker over clips of the synthetic world."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld
from panosam2_core.evaluation.scores import ObjectScore, summarize
from panosam2_core.geometry.region import measure
from panosam2_core.prompts import Prompt
from panosam2_core.results import ObjectState
from panosam2_core.tracker import PanoTracker

PROMPTS = ("point", "box", "mask")
SUBSETS = ("seam", "polar", "occlusion", "lookalike", "tiny", "large")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClipScore:
    """Scores of the target of one clip.

    Attributes:
        index: of the clip.
        subsets: those of :data:`SUBSETS` that the target belongs to.
        score: frame by frame.
        seconds: spent in the tracker.
    """

    index: int
    subsets: frozenset[str]
    score: ObjectScore
    seconds: float


def make_prompt(mask: Mask, kind: str, object_id: int) -> Prompt:
    """Prompt an object as a careful user would.

    Args:
        mask: (H, W) truth on the prompted frame.
        kind: ``point`` (the pixel farthest from the mask's edge), ``box`` or ``mask``.
        object_id: id to give.

    Returns:
        The prompt.

    Raises:
        ValueError: for another kind or an empty mask.
    """
    region = measure(mask, pano=True)
    if kind not in PROMPTS or region is None:
        raise ValueError(f"expected a non-empty mask and one of {PROMPTS}, got {kind!r}")
    if kind == "mask":
        return Prompt(object_id, mask=mask)
    if kind == "box":
        x, y, width, height = region.box
        right = x + width if x + width <= mask.shape[1] else x + width - mask.shape[1]
        return Prompt(object_id, box=(x, y, right, y + height))
    # The mask is rolled to the middle first, so that the distance does not end at the seam.
    shift = mask.shape[1] // 2 - (region.box[0] + region.box[2] // 2)
    depth = distance_transform_edt(np.pad(np.roll(mask, shift, axis=1), 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Prompt(object_id, points=[((column - shift) % mask.shape[1] + 0.5, row + 0.5)])


def score_clip(tracker: PanoTracker, clip: SyntheticClip, kind: str) -> tuple[ObjectScore, float]:
    """Track the target of a clip from its first frame on.

    Args:
        tracker: is reset first.
        clip: the clip.
        kind: of the prompt.

    Returns:
        Scores of all frames but the first, and seconds spent in the tracker.
    """
    tracker.reset()
    score, seconds = ObjectScore(), 0.0
    for t, frame in enumerate(clip):
        truth = (frame.labels == clip.target_id).cpu().numpy()
        prompts = [make_prompt(truth, kind, 1)] if t == 0 else []
        image = frame.image.permute(1, 2, 0).cpu().numpy()
        started = time.perf_counter()
        result = tracker.step(image, prompts).objects[1]
        seconds += time.perf_counter() - started
        if t:
            score.add(result.mask, truth, visible=result.state is ObjectState.VISIBLE)
    return score, seconds


def evaluate(
    tracker: PanoTracker,
    world: SyntheticWorld,
    clips: int,
    kind: str,
    report: Callable[[ClipScore], None],
) -> dict[str, Any]:
    """Score the targets of the first clips of a split.

    Args:
        tracker: to be measured.
        world: gives the clips.
        clips: how many.
        kind: of the prompt.
        report: called after every clip.

    Returns:
        Means over all clips under their own names, over each of :data:`SUBSETS` under the
        subset's (the target crosses the seam, comes near a pole, is fully occluded once, has a
        look-alike, is under 12 degrees, is 20 degrees or more), and ``fps`` of the tracker alone.
    """
    rows = []
    for index in range(clips):
        plan = world.plan(index)
        score, seconds = score_clip(tracker, world.clip(index), kind)
        planned = {name for name in ("seam", "occlusion", "lookalike") if getattr(plan, name)}
        rows.append(ClipScore(index, score.groups | planned, score, seconds))
        report(rows[-1])
    frames = sum(len(row.score.visible_hits) + len(row.score.absent_hits) + 1 for row in rows)
    return {
        "clips": clips,
        "prompt": kind,
        **summarize([row.score for row in rows]),
        **{
            name: summarize([row.score for row in rows if name in row.subsets]) for name in SUBSETS
        },
        "fps": frames / sum(row.seconds for row in rows),
    }
