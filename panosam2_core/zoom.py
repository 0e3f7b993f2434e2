"""Decides after a frame how each object is looked for on the next: in a local view, or not.

    panorama --seen, small enough--> local view --out of sight--> wider --still--> search
        ^  ^                              |  ^                                       |
        |  +------- grown too large ------+  +----- found, and seen closely too -----+
        +------------------- found, too large for a local view ----------------------+

    search: likely places, the last one, all directions, the whole panorama, in turn

While an object is followed in a local view, the panorama need not be encoded; a few pictures are
kept, from which its memory learns what has happened when it is needed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from panosam2_core.charts import LocalView
from panosam2_core.frame_step import FrameStep
from panosam2_core.geometry.region import measure
from panosam2_core.memory.bank import ObjectMemory, Observation
from panosam2_core.prompt_input import mask_input
from panosam2_core.prompts import Prompt
from panosam2_core.pursuit import WIDENED, Pursuit, begin, missed, seen
from panosam2_core.results import ObjectResult, ObjectState
from panosam2_core.search import Search
from panosam2_core.step import prompt_masks
from panosam2_core.tracks import Close, Outlook, Picture, Prediction

SMALL_FOR = 10  # frames; what passes in front of a large object makes it small for a few
PICTURE_EVERY = 10  # frames between two pictures of the album
PICTURES = 3  # kept; with the prompted frame they fill a good part of a memory


def outlook(
    step: FrameStep,
    prediction: Prediction,
    found: ObjectResult,
    prompt: Prompt | None,
    empty: Callable[[], ObjectMemory],
    *,
    room: bool,
) -> Outlook:
    """Decide how an object is looked for next.

    Args:
        step: the frame.
        prediction: of the object.
        found: what was reported of it.
        prompt: of the object on this frame, if any.
        empty: makes a memory, for an object that gets its first local view.
        room: another object may get a local view.

    Returns:
        The outlook.
    """
    close = prediction.sight.track.close
    if not step.config.zooms:
        return _told(step, prediction, None, close.album if close else ())
    visible = found.state is ObjectState.VISIBLE
    if close and close.search and not visible and prompt is None:
        return Outlook(dataclasses.replace(close, search=prediction.search))
    if prediction.sight.local and close:
        prompted = prompt is not None
        return _in_view(step, prediction, found, close, prompted=prompted, room=room)
    # The user's own mask is finer than what the panorama's masks can show of it, if anything.
    said = prompt.mask if prompt else None
    if room and (visible or said is not None):
        exact = found.mask if said is None else said != 0
        region = measure(exact, pano=True)
        pursuit = begin(region) if region else None
        small = prediction.sight.track.small + 1 if pursuit else 0
        if pursuit and (prompt is not None or small > SMALL_FOR):
            return _zoomed(step, prediction, exact, prompt, empty, pursuit)
        if pursuit:
            return Outlook(close, small=small)
    if close is None:
        return Outlook(None)
    album, close = close.album, dataclasses.replace(close, pursuit=None, search=None, album=())
    return _told(step, prediction, close, album)


def _zoomed(
    step: FrameStep,
    prediction: Prediction,
    mask: npt.NDArray[np.bool_],
    prompt: Prompt | None,
    empty: Callable[[], ObjectMemory],
    pursuit: Pursuit,
) -> Outlook:
    """From the panorama to a local view: what was seen on the one is told to the other."""
    close = prediction.sight.track.close
    view = step.local_view(pursuit.view())
    features = step.encode([view])[1]
    with step.clock.stage("decode"):
        masks = mask_input(step.model, mask, view)
        decoded = prompt_masks(step.model, features, masks, pano=False)
        decoded = step.leave_out(decoded, [view])
    clock = close.clock if close else step.now
    # Only the user's word is kept for good; the network's own masks go by.
    said = prompt is not None or close is None
    zoomed = step.observe(features, decoded, clock, prompted=said, whole=False)[0]
    album = close.album if close else ()
    memory = close.memory if close else empty()
    closer = Close(memory, clock + 1, view.region, step.now, pursuit)
    return dataclasses.replace(_told(step, prediction, closer, album), zoomed=zoomed)


def _told(
    step: FrameStep, prediction: Prediction, close: Close | None, album: tuple[Picture, ...]
) -> Outlook:
    """The panorama's memory is told of pictures that it has not seen."""
    if not album:
        return Outlook(close)
    told = _recalled(step, prediction, album, prompted=False)
    return Outlook(close, told=told, placed=album[-1].frame)


def _in_view(
    step: FrameStep,
    prediction: Prediction,
    found: ObjectResult,
    close: Close,
    *,
    prompted: bool,
    room: bool,
) -> Outlook:
    visible = found.state is ObjectState.VISIBLE
    if prediction.observation is not None:
        close = dataclasses.replace(close, clock=close.clock + 1)
        if isinstance(prediction.chart, LocalView) and prediction.observation.region is not None:
            close = dataclasses.replace(close, region=prediction.chart.region, placed=step.now)
    if not visible:
        return _out_of_sight(step, prediction, close)
    close = _with_picture(step, prediction, close)
    pursuit = seen(close.pursuit, found) if close.pursuit else begin(found)
    pursuit = pursuit if room else None
    told: tuple[Observation, ...] = ()
    if pursuit is None or prompted:
        told = _recalled(step, prediction, (*close.album, _picture(step, prediction)), prompted)
        close = dataclasses.replace(close, album=())
    close = dataclasses.replace(close, pursuit=pursuit, search=None)
    return Outlook(close, told=told, placed=step.now)


def _out_of_sight(step: FrameStep, prediction: Prediction, close: Close) -> Outlook:
    pursuit = missed(close.pursuit) if close.pursuit else None
    if pursuit or step.config.view == "local":
        kept = pursuit or (close.pursuit and dataclasses.replace(close.pursuit, unseen=WIDENED))
        return Outlook(dataclasses.replace(close, pursuit=kept))
    lost = dataclasses.replace(close, pursuit=None, search=Search(), album=())
    return _told(step, prediction, lost, close.album)


def _with_picture(step: FrameStep, prediction: Prediction, close: Close) -> Close:
    if step.now % PICTURE_EVERY:
        return close
    pictures = (*close.album, _picture(step, prediction))
    return dataclasses.replace(close, album=pictures[-PICTURES:])


def _picture(step: FrameStep, prediction: Prediction) -> Picture:
    logits = step.on_panorama(prediction.chart, prediction.logits[None])
    images = step.whole.images(step.model, step.frame)
    return Picture(images.to(torch.bfloat16), logits.to(torch.bfloat16), step.now)


def _recalled(
    step: FrameStep, prediction: Prediction, album: tuple[Picture, ...], prompted: bool
) -> tuple[Observation, ...]:
    """Observations of the panorama's memory for pictures; the last one may have been prompted."""
    # Of the frame itself there is an observation already if the panorama was looked at.
    looked = prediction.observation is not None and not prediction.sight.local
    clock, observations = prediction.sight.track.clock + looked, []
    for number, picture in enumerate(album):
        with step.clock.stage("encode"):
            images = picture.images.to(step.model.pixel_mean.dtype)
            features = step.model.encode_image(images, pano=step.whole.pano)
        decoded = step.told(picture.logits.float(), features)
        observations += step.observe(
            features,
            decoded,
            clock + number,
            prompted=prompted and picture.frame == step.now,
            whole=True,
        )
    return tuple(observations)
