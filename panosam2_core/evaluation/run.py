"""Runs what is measured over episodes, and averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panosam2_core.data.clips import ClipFrame, DataError
from panosam2_core.evaluation.episodes import Episode
from panosam2_core.evaluation.predictors import Prediction, Predictor, ResultWriter
from panosam2_core.evaluation.scores import BANDS, ObjectScore, mean, summarize
from panosam2_core.media.overlay import tint

SUBSETS = ("seam", "polar", "occlusion", "lookalike", "tiny", "large")
Groups = Mapping[str, frozenset[str]]
_PICTURES, _PICTURE_WIDTH = 4, 480


@dataclass
class EpisodeScore:
    """Scores of one clip.

    Attributes:
        name: of the clip.
        scores: by object id, all frames but the one it was prompted on.
        known: see :class:`Episode`.
        frames: of the clip.
        pictures: some frames, the truth above what was predicted; (h, w, 3) RGB, JPEG files.
    """

    name: str
    scores: dict[int, ObjectScore] = field(default_factory=dict)
    known: frozenset[str] | None = None
    frames: int = 0
    pictures: list[bytes] = field(default_factory=list)

    def subsets(self, object_id: int) -> frozenset[str]:
        """Which of :data:`SUBSETS` an object belongs to.

        Args:
            object_id: of the clip.

        Returns:
            Their names.
        """
        score = self.scores[object_id]
        return score.groups | (score.events if self.known is None else self.known)

    @property
    def j_and_f(self) -> float | None:
        """Mean over the clip's objects."""
        value = summarize(list(self.scores.values()))["j_and_f"]
        return None if value is None else float(value)


def run_episode(
    predictor: Predictor, episode: Episode, writer: ResultWriter | None = None
) -> EpisodeScore:
    """Follow the objects of a clip, each from the first frame on which it is labelled.

    Args:
        predictor: to be measured.
        episode: the clip.
        writer: gets the predictions.

    Returns:
        Scores of the frames that are labelled.

    Raises:
        DataError: when no frame is labelled.
    """
    row = EpisodeScore(episode.name, known=episode.known)
    predictor.start(episode.name)
    kept: list[bytes] = []
    for frame in episode.frames():
        new = _new_objects(frame, episode, row.scores)
        found = predictor.step(frame, new)
        row.frames += 1
        if writer:
            writer.add(episode.name, frame, found)
        if frame.labels is None:
            continue
        for object_id, score in row.scores.items():
            truth = frame.labels == object_id
            guess = found.get(object_id, Prediction(np.zeros_like(truth), visible=False))
            score.add(guess.mask & guess.visible, truth, visible=guess.visible)
        row.scores.update((object_id, ObjectScore()) for object_id in new)
        kept.append(_picture(frame, found, frozenset(row.scores)))
    if not row.scores:
        raise DataError(f"{episode.name}: no frame has a label, so there is nothing to measure")
    steps = np.linspace(0, len(kept) - 1, min(_PICTURES, len(kept))).round().astype(int)
    row.pictures = [kept[i] for i in steps]
    return row


def evaluate(
    predictor: Predictor,
    episodes: Iterable[Episode],
    report: Callable[[EpisodeScore], None],
    writer: ResultWriter | None = None,
    groups: Groups | None = None,
    broken: Callable[[str, DataError], None] | None = None,
) -> tuple[dict[str, Any], list[EpisodeScore]]:
    """Score a dataset.

    Args:
        predictor: to be measured.
        episodes: of the dataset.
        report: called after every clip.
        writer: gets the predictions.
        groups: further subsets: name -> ``CLIP`` or ``CLIP/ID`` of their objects.
        broken: called with the name of a clip that cannot be read, and why; the others are
            measured all the same. ``None``: the error is raised.

    Returns:
        Means over all objects under their own names, over each of :data:`SUBSETS` and of the
        groups under the subset's, over bands of latitude under ``latitude``, ``clips``, ``fps`` of
        the predictor alone (``None`` when it took no time); and the scores behind them. With
        groups ``seen`` and ``unseen`` also ``overall``: the mean of their J and F, as PanoVOS and
        YouTube-VOS have it.
    """
    rows = []
    for episode in episodes:
        try:
            rows.append(run_episode(predictor, episode, writer))
        except DataError as error:
            if broken is None:
                raise
            broken(episode.name, error)
            continue
        report(rows[-1])
    frames = sum(row.frames for row in rows)
    result: dict[str, Any] = {
        "clips": len(rows),
        **summarize([score for row in rows for score in row.scores.values()]),
        **{name: _mean_of(rows, lambda row, i: row.subsets(i), name) for name in SUBSETS},
        "latitude": {
            band: _mean_of(rows, lambda row, i: {row.scores[i].band}, band) for band in BANDS
        },
        "fps": frames / predictor.seconds if predictor.seconds else None,
    }
    further = groups or {}
    for name in further:
        result[name] = _mean_of(rows, lambda row, i: _groups_of(further, row.name, i), name)
    if groups and {"seen", "unseen"} <= set(groups):
        four = [result[name][key] for name in ("seen", "unseen") for key in ("j", "f")]
        result["overall"] = None if None in four else mean(four)
    return result, rows


def _mean_of(
    rows: Sequence[EpisodeScore],
    groups_of: Callable[[EpisodeScore, int], Collection[str | None]],
    name: str,
) -> dict[str, Any]:
    """Mean over the objects that belong to a group."""
    return summarize(
        [row.scores[i] for row in rows for i in row.scores if name in groups_of(row, i)]
    )


def _groups_of(groups: Groups, clip: str, object_id: int) -> set[str | None]:
    members = {clip, f"{clip}/{object_id}"}
    return {name for name, listed in groups.items() if members & listed}


def _new_objects(
    frame: ClipFrame, episode: Episode, known: Mapping[int, ObjectScore]
) -> dict[int, npt.NDArray[np.bool_]]:
    if frame.labels is None:
        return {}
    ids = [i for i in np.unique(frame.labels).tolist() if i > 0 and i not in known]
    if episode.ids is not None:
        ids = [i for i in ids if i in episode.ids]
    return {i: frame.labels == i for i in ids}


def _picture(frame: ClipFrame, found: Mapping[int, Prediction], ids: frozenset[int]) -> bytes:
    """The truth above the prediction, small, as a JPEG file."""
    height = round(_PICTURE_WIDTH * frame.rgb.shape[0] / frame.rgb.shape[1])
    size = (_PICTURE_WIDTH, height)
    small = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    truth = np.zeros(frame.rgb.shape[:2], np.float32)
    guess = truth.copy()
    for object_id in sorted(ids):
        truth[frame.labels == object_id] = object_id
        if object_id in found and found[object_id].visible:
            guess[found[object_id].mask] = object_id
    both = [
        tint(small, cv2.resize(x, size, interpolation=cv2.INTER_NEAREST).astype(np.int32), 0.5)
        for x in (truth, guess)
    ]
    bgr = cv2.cvtColor(np.vstack(both), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
