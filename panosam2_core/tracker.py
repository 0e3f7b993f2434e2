"""PanoTracker: follow objects through one stream of frames."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panosam2_core.anchors import is_contested
from panosam2_core.centring import columns_of, dark_edge, free_edge, least_step, move
from panosam2_core.charts import Chart, LocalView
from panosam2_core.config import TrackerConfig
from panosam2_core.errors import (
    ConfigError,
    FrameError,
    PromptError,
    SnapshotError,
    UnknownObjectError,
)
from panosam2_core.frame_step import Clock, FrameStep
from panosam2_core.geometry.bfov import BFoV
from panosam2_core.geometry.region import RegionMeasure, measure
from panosam2_core.ignored import IgnoredRegion
from panosam2_core.likeness import FAMILIAR, PORTRAIT_EVERY, SETTLING, likeness, with_newest
from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory
from panosam2_core.model import MASK_STRIDE, PanoSAM2
from panosam2_core.prompts import Prompt, check_prompt
from panosam2_core.pursuit import Pursuit
from panosam2_core.results import FrameResult, ObjectResult, ObjectState, View
from panosam2_core.search import Search
from panosam2_core.tracks import Close, Outlook, Picture, Prediction, Track
from panosam2_core.zoom import outlook as outlook_after

SCORE_RATE, SIZE_RATE = 0.1, 0.3  # weight of a frame in what is usual for an object
_SNAPSHOT_VERSION = 6
_SNAPSHOT_TYPES: list[Any] = [
    Track,
    Close,
    Picture,
    Pursuit,
    Search,
    BFoV,
    ObjectMemory,
    FrameMemory,
    LongTermEntry,
]


class PanoTracker:
    """Follows any number of objects through one stream, in constant memory.

    Several trackers may share one model. A tracker is not thread-safe: one thread steps it.

    Args:
        model: from :func:`panosam2_core.load_model`.
        config: how the stream is followed. May be replaced between two steps.
        ignored: (H, W) bool of any size: where nothing is ever part of an object, such as the
            robot's own body. It never enters masks or memory.

    Raises:
        ConfigError: for an ``ignored`` of another shape, or one that leaves nothing, or for more
            ``short_frames`` than the network knows.
    """

    def __init__(
        self,
        model: PanoSAM2,
        config: TrackerConfig | None = None,
        ignored: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.model = model
        self.config = config or TrackerConfig()
        most = model.num_maskmem - 1
        if (self.config.short_frames or 1) > most:
            raise ConfigError(
                f"short_frames must be in [1, {most}], got {self.config.short_frames}: the "
                f"network has time codes for {most} recent frames"
            )
        self._ignored = (
            None if ignored is None else IgnoredRegion(ignored, model.pixel_mean.device)
        )
        self.reset()

    @property
    def _num_maps(self) -> int:
        return 1 + (self.config.short_frames or self.model.num_maskmem - 1)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids being tracked, in the order they were added."""
        return tuple(self._tracks)

    def reset(self) -> None:
        """Forget all objects and start counting frames at 0."""
        self._tracks: dict[int, Track] = {}
        self._now = 0  # index of the frame that comes next
        # Where panoramas are cut, and all that is remembered of them; None: to be chosen.
        self._edge: float | None = None

    def remove(self, object_id: int) -> None:
        """Stop tracking one object; the others are not affected.

        Args:
            object_id: of a tracked object.

        Raises:
            UnknownObjectError: when it is not tracked.
        """
        if object_id not in self._tracks:
            raise UnknownObjectError(object_id, self.object_ids)
        del self._tracks[object_id]
        if not self._tracks and not self.config.zooms:
            self._edge = None

    def forget_short_term(self) -> None:
        """Keep the objects but drop what depends on the order of frames (time ran backwards)."""
        for track in self._tracks.values():
            track.memory.forget_short_term()
            if track.close:
                track.close.memory.forget_short_term()
                pursuit = track.close.pursuit
                still = pursuit and dataclasses.replace(pursuit, velocity=(0.0, 0.0, 0.0))
                search = track.close.search
                search = search and dataclasses.replace(search, lead=None)
                track.close = dataclasses.replace(
                    track.close, pursuit=still, search=search, album=()
                )

    def behind(self, frames: int) -> PanoTracker:
        """Make an empty tracker for frames that have gone by.

        A prompt that comes late is given to it with the frame it is about. It is then stepped
        through the frames that this tracker has seen since, and :meth:`take_over` brings its
        objects here, as if the prompt had come in time.

        Args:
            frames: how many of them it will be stepped through.

        Returns:
            A tracker with the same model and settings.
        """
        other = PanoTracker(self.model, self.config)
        other._ignored = self._ignored
        other._now, other._edge = self._now - frames, self._edge
        return other

    def take_over(self, other: PanoTracker) -> None:
        """Go on with the objects of a tracker from :meth:`behind`.

        Args:
            other: that has caught up. Its objects go before those of the same id here.

        Raises:
            ValueError: when it has not caught up; nothing has changed then.
            PromptError: ``TOO_MANY_OBJECTS``; nothing has changed then.
        """
        if other._now != self._now:
            raise ValueError(f"expected a tracker at frame {self._now}, got one at {other._now}")
        together = {**self._tracks, **other._tracks}
        if len(together) > self.config.max_objects:
            raise PromptError(
                "TOO_MANY_OBJECTS",
                f"{len(together)} objects exceed max_objects={self.config.max_objects}; "
                "remove some first",
            )
        if not self._tracks:
            self._edge = other._edge
        tokens = self.model.grid_hw[1]
        columns = round(((self._edge or 0.0) - (other._edge or 0.0)) * tokens) % tokens
        for object_id, track in other._tracks.items():
            together[object_id] = track.turned(columns) if columns else track
            if object_id in self._tracks and not track.label:
                together[object_id].label = self._tracks[object_id].label
        self._tracks = together

    def state_bytes(self) -> int:
        """Bytes of tensors held for the stream."""
        held = {id(t): t for track in self._tracks.values() for t in track.tensors()}
        return sum(t.numel() * t.element_size() for t in held.values())

    def snapshot(self) -> bytes:
        """Save the state of the stream between two frames.

        Returns:
            What :meth:`restore` takes; the model is not in it.
        """
        file = io.BytesIO()
        state = {
            "kind": self._kind(),
            "next_frame": self._now,
            "edge": self._edge,
            "tracks": self._tracks,
        }
        torch.save(state, file)
        return file.getvalue()

    def restore(self, snapshot: bytes) -> int:
        """Go on where another tracker with the same model and config was.

        Args:
            snapshot: from :meth:`snapshot`. Loading it runs no code that it may contain.

        Returns:
            How many frames that tracker had seen.

        Raises:
            SnapshotError: when it is damaged, of another version, or of another network, input
                size or configuration of the memory.
        """
        try:
            with torch.serialization.safe_globals(_SNAPSHOT_TYPES):
                state = torch.load(
                    io.BytesIO(snapshot),
                    map_location=self.model.pixel_mean.device,
                    weights_only=True,
                )
            kind, tracks = state["kind"], state["tracks"]
            now: int = state["next_frame"]
            edge: float | None = state["edge"]
        except Exception as error:  # torch names no exceptions for what damaged files do to it
            raise SnapshotError(f"the saved state cannot be read: {error}") from error
        if kind != self._kind():
            raise SnapshotError(f"the saved state is of {kind}; this tracker is {self._kind()}")
        whole = isinstance(now, int) and isinstance(tracks, dict)
        whole = whole and isinstance(edge, float | None)
        if not whole or not all(isinstance(track, Track) for track in tracks.values()):
            raise SnapshotError("the saved state does not hold what it should")
        self._now, self._edge, self._tracks = now, edge, tracks
        return now

    def _kind(self) -> dict[str, Any]:
        """What a saved state fits to."""
        model = self.model.config
        return {
            "version": _SNAPSHOT_VERSION,
            "variant": model.variant,
            "input_size": list(self.model.input_size),
            "width": model.width,
            "memory_dim": model.memory_dim,
            "maps": self._num_maps,
            "pointers": self.model.max_obj_ptrs_in_encoder,
            "long_capacity": self.config.long_capacity,
        }

    def check_prompt(self, prompt: Prompt, size_hw: tuple[int, int]) -> None:
        """Check a prompt without changing anything.

        Args:
            prompt: to be checked.
            size_hw: (height, width) of the frame it is for.

        Raises:
            PromptError: as :func:`panosam2_core.prompts.check_prompt`, and
                ``TOO_MANY_OBJECTS`` when a new id exceeds ``config.max_objects``,
                ``UNKNOWN_ID`` for a correction of an object that is not tracked,
                ``BAD_COORDS`` for a click in the ignored region.
        """
        check_prompt(prompt, size_hw, pano=self.config.wraps)
        if self._ignored is not None:
            self._ignored.check(prompt, size_hw)
        new = prompt.object_id not in self._tracks
        if new and prompt.refine:
            raise PromptError(
                "UNKNOWN_ID",
                f"object {prompt.object_id} cannot be corrected (refine): it is not tracked; "
                f"tracked are {list(self._tracks)}",
            )
        if new and len(self._tracks) >= self.config.max_objects:
            raise PromptError(
                "TOO_MANY_OBJECTS",
                f"already tracking {len(self._tracks)} objects (max_objects); remove one first",
            )

    @torch.inference_mode()
    def step(self, frame: npt.NDArray[np.uint8], prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Process the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            prompts: applied on this frame; other objects are tracked as usual.

        Returns:
            Every object's mask and measures.

        Raises:
            FrameError: for a frame of another type or shape.
            PromptError: for a prompt that cannot be applied.

        Whatever a prompt, a frame or the network raises, out of memory included: nothing has
        changed then.
        """
        clock = Clock()
        size_hw = _check_frame(frame)
        self.check_prompts(prompts, size_hw)
        given = {
            int(p.object_id): dataclasses.replace(p, object_id=int(p.object_id)) for p in prompts
        }
        with clock.stage("preprocess"):
            upload = torch.from_numpy(_torchs(frame)).to(self.model.pixel_mean.device)
        frames = upload.permute(2, 0, 1)[None]
        edge, tracks = self._turned(list(given.values()), frames)
        step = FrameStep(
            self.model, self.config, self._ignored, self._now, edge or 0.0, frames, clock
        )
        with self.model.autocast():
            prompted = [step.prompt(p, self._prompted_track(p, tracks)) for p in given.values()]
            tracked = step.follow([t for i, t in tracks.items() if i not in given])
            predictions = {p.sight.track.object_id: p for p in (*prompted, *tracked)}
            order = dict.fromkeys((*tracks, *predictions))
            with clock.stage("postprocess"):
                result = self._report([predictions[i] for i in order], size_hw, clock)
            for i, found in result.objects.items():
                if i not in given:
                    predictions[i] = self._admitted(predictions[i], found)
            outlooks = self._outlooks(step, predictions, result, given)
            portraits = {
                i: self._portraits(predictions[i], result.objects[i], prompted=i in given)
                for i in predictions
            }
        self._commit(step, edge, predictions, outlooks, portraits, result, given)
        clock.finish()
        return result

    def _chosen_edge(self, prompts: Sequence[Prompt], frame: Tensor) -> float | None:
        """Where to cut panoramas as long as nothing is remembered of any; ``None``: no matter."""
        if not (self.config.zooms or self.config.turns):
            return None
        width = frame.shape[-1]
        column = dark_edge(frame) if self.config.zooms else None
        spans = [span for prompt in prompts for span in columns_of(prompt, width)]
        if column is None and spans:
            column = free_edge(spans, width)[0]
        # Half a cell on, so that what is as small as a cell of the masks lies in one of them.
        half = width // (2 * self._grid[1])
        return None if column is None else (column + half) % width / width

    def _turned(
        self, prompts: Sequence[Prompt], frame: Tensor
    ) -> tuple[float | None, Mapping[int, Track]]:
        """Where to cut this frame, and the objects as they are remembered of frames cut so."""
        edge, tokens, width = self._edge, self.model.grid_hw[1], frame.shape[-1]
        cuts = self.config.zooms or self.config.turns
        if edge is None or not (self._tracks or cuts):
            return self._chosen_edge(prompts, frame), self._tracks
        if edge and not self.config.wraps:  # since the last frame; only what is closed is turned
            back = -round(edge * tokens) % tokens
            return 0.0, {i: track.turned(back) for i, track in self._tracks.items()}
        if not self.config.turns:
            return edge, self._tracks
        spans = [span for prompt in prompts for span in columns_of(prompt, width)]
        spans += [
            (math.floor(first * width + 0.5) % width, max(1, math.floor(count * width + 0.5)))
            for first, count in (t.columns for t in self._tracks.values() if t.columns)
        ]
        step = least_step(width, self.model.input_size[1], tokens)
        columns = move(math.floor(edge * width + 0.5) % width, spans, width, step)
        if not columns:
            return edge, self._tracks
        moved = columns * tokens // width
        turned = {i: track.turned(moved) for i, track in self._tracks.items()}
        return (edge + moved / tokens) % 1, turned

    def _prompted_track(self, prompt: Prompt, tracks: Mapping[int, Track]) -> Track:
        known = None if prompt.replace else tracks.get(prompt.object_id)
        now = self._now
        return known or Track(
            prompt.object_id, prompt.label, now, now, self._empty_memory(), now, now
        )

    def _empty_memory(self) -> ObjectMemory:
        return ObjectMemory(
            num_maps=self._num_maps,
            num_pointers=self.model.max_obj_ptrs_in_encoder,
            max_prompted=self.config.max_prompted,
            long_capacity=self.config.long_capacity,
            max_anchors=self.config.anchors,
            long_pool=torch.zeros(
                self.config.long_capacity,
                self.model.config.width,
                device=self.model.pixel_mean.device,
            ),
        )

    def _outlooks(
        self,
        step: FrameStep,
        predictions: Mapping[int, Prediction],
        result: FrameResult,
        prompts: Mapping[int, Prompt],
    ) -> dict[int, Outlook]:
        """How every object is looked for next; those that have local views keep them first."""
        outlooks: dict[int, Outlook] = {}
        used = 0
        for object_id in sorted(predictions, key=lambda i: not predictions[i].sight.track.pursued):
            outlook = outlook_after(
                step,
                predictions[object_id],
                result.objects[object_id],
                prompts.get(object_id),
                self._empty_memory,
                room=used < self.config.max_local_views,
            )
            used += outlook.close is not None and outlook.close.pursuit is not None
            outlooks[object_id] = outlook
        return outlooks

    def _admitted(self, prediction: Prediction, found: ObjectResult) -> Prediction:
        """A prediction whose frame is remembered as it should be, if at all."""
        # Of a search nothing is remembered but what was found.
        kept = self.config.remember_hidden and not prediction.sight.track.lost
        if found.state is not ObjectState.VISIBLE and not kept:
            return dataclasses.replace(prediction, observation=None)
        agreeing, seen = prediction.agreement, prediction.observation
        if agreeing is None or seen is None or found.state is not ObjectState.VISIBLE:
            return prediction
        track, score, size = prediction.sight.track, found.mask_score, found.solid_angle_sr
        contested = is_contested(track, float(agreeing), score, size)
        memory = dataclasses.replace(seen.memory, contested=contested)
        return dataclasses.replace(
            prediction, observation=dataclasses.replace(seen, memory=memory)
        )

    def _portraits(
        self, prediction: Prediction, found: ObjectResult, *, prompted: bool
    ) -> Tensor | None:
        """Portraits of an object after a frame: a new one now and then, of what it can be."""
        here, known = prediction.portrait, prediction.sight.track.portraits
        if not self.config.portrays:
            return None  # it would not be known any more when they are asked for again
        if here is None or found.state is not ObjectState.VISIBLE:
            return known
        age = self._now - prediction.sight.track.added
        if known is None or prompted or age <= SETTLING:
            return with_newest(known, here)
        due = age % PORTRAIT_EVERY == 0 and likeness(here, known) >= FAMILIAR
        return with_newest(known, here) if due else known

    def _commit(
        self,
        step: FrameStep,
        edge: float | None,
        predictions: Mapping[int, Prediction],
        outlooks: Mapping[int, Outlook],
        portraits: Mapping[int, Tensor | None],
        result: FrameResult,
        prompts: Mapping[int, Prompt],
    ) -> None:
        """The only place where a step changes the state, after all that can fail."""
        # Without objects nothing is remembered, and the next prompt may choose again.
        kept = edge if self.config.zooms else None
        self._edge = step.whole.edge if predictions else kept
        for object_id, found in result.objects.items():
            prediction, outlook = predictions[object_id], outlooks[object_id]
            track = prediction.sight.track
            told = outlook.told
            if prediction.observation is not None:
                if prediction.sight.local:
                    prediction.sight.memory.observe(prediction.observation)
                else:
                    told = (prediction.observation, *told)
            for observation in told:
                track.memory.observe(observation)
                track.clock = observation.memory.frame + 1
                if observation.region is not None:
                    track.placed = outlook.placed if outlook.told else self._now
            if outlook.close and outlook.zoomed:
                outlook.close.memory.observe(outlook.zoomed)
            track.close, track.small = outlook.close, outlook.small
            track.portraits = portraits[object_id]
            if found.state is ObjectState.VISIBLE:
                self._learn_usual(track, found, prompts.get(object_id))
                width = step.size_hw[1]
                track.columns = found.box[0] / width, found.box[2] / width
            track.last_seen = self._now - found.frames_since_seen
            track.label = found.label
            self._tracks[object_id] = track
        self._now += 1

    def _learn_usual(self, track: Track, found: ObjectResult, prompt: Prompt | None) -> None:
        """Follow what is usual for an object; a prompt's score is none of the network's own."""
        if prompt is None:
            score, usual = found.mask_score, track.usual_score or found.mask_score
            track.usual_score = usual + SCORE_RATE * (score - usual)
            track.usual_size += SIZE_RATE * (found.solid_angle_sr - track.usual_size)
            return
        # Of a small object's mask the panorama shows next to nothing: the user's own counts.
        said = prompt.mask
        region = None if said is None else measure(said != 0, self.config.pano, self.config.fov)
        track.usual_size = region.solid_angle_sr if region else found.solid_angle_sr

    def check_prompts(self, prompts: Sequence[Prompt], size_hw: tuple[int, int]) -> None:
        """Check the prompts of one frame without changing anything.

        Args:
            prompts: to be checked, one per object.
            size_hw: (height, width) of the frame they are for.

        Raises:
            PromptError: as :meth:`check_prompt`, for the first that cannot be applied, and for
                several that cannot be applied together.
        """
        ids = [prompt.object_id for prompt in prompts]
        if len(set(ids)) != len(ids):
            raise PromptError("BAD_COORDS", f"one prompt per object and frame, got ids {ids}")
        for prompt in prompts:
            self.check_prompt(prompt, size_hw)
        new = sum(object_id not in self._tracks for object_id in ids)
        if len(self._tracks) + new > self.config.max_objects:
            raise PromptError(
                "TOO_MANY_OBJECTS",
                f"{len(self._tracks)} objects and {new} new ones exceed "
                f"max_objects={self.config.max_objects}; remove some first",
            )

    @property
    def _grid(self) -> tuple[int, int]:
        height, width = self.model.input_size
        return height // MASK_STRIDE, width // MASK_STRIDE

    def _report(
        self, predictions: Sequence[Prediction], size_hw: tuple[int, int], clock: Clock
    ) -> FrameResult:
        labels = np.zeros(size_hw, np.uint16)
        highest: Tensor | None = None
        objects: dict[int, ObjectResult] = {}
        for prediction in predictions:
            above = self.config.mask_threshold
            full = prediction.chart.on_frame(prediction.logits[None], size_hw, above)[0, 0]
            if self._ignored is not None:
                full = full.masked_fill(self._ignored.at(size_hw), -torch.inf)
            result = self._object_result(prediction, full)
            objects[result.object_id] = result
            if result.state is ObjectState.VISIBLE:
                wins = result.mask
                if highest is not None:
                    wins = (full > highest).cpu().numpy() & wins
                labels[wins] = result.object_id
                highest = full if highest is None else torch.maximum(highest, full)
        return FrameResult(self._now, size_hw, objects, labels, clock.stages)

    def _object_result(self, prediction: Prediction, full: Tensor) -> ObjectResult:
        track, config = prediction.sight.track, self.config
        logit = float(prediction.object_logit)
        visibility = 1 / (1 + float(np.exp(-logit)))
        mask = (full > config.mask_threshold).cpu().numpy()
        region = (
            measure(mask, config.pano, config.fov) if visibility >= config.occluded_below else None
        )
        if region is None:
            mask = np.zeros(mask.shape, np.bool_)
        unseen = self._now - track.last_seen if region is None else 0
        lost = unseen > config.lost_after_frames
        hidden = ObjectState.LOST if lost else ObjectState.OCCLUDED
        return ObjectResult(
            object_id=track.object_id,
            label=prediction.label,
            state=hidden if region is None else ObjectState.VISIBLE,
            mask=mask,
            logits=prediction.chart.on_frame(prediction.logits[None], self._grid)[0, 0]
            .float()
            .cpu()
            .numpy(),
            visibility=visibility,
            visibility_logit=logit,
            mask_score=float(prediction.score),
            age=self._now - track.added,
            frames_since_seen=unseen,
            long_term_frames=tuple(entry.frame for entry in prediction.sight.drawn),
            view=_view(prediction.chart),
            **(_NOWHERE if region is None else dict(_fields(region))),
        )


def _fields(region: RegionMeasure) -> Iterator[tuple[str, Any]]:
    """A region's measures under the names that :class:`ObjectResult` shares with it."""
    return ((name.name, getattr(region, name.name)) for name in dataclasses.fields(region))


_NOWHERE: dict[str, Any] = dict(
    _fields(RegionMeasure(0, 0.0, False, (0, 0, 0, 0), np.zeros(3), 0.0, 0.0, 0.0, 0.0))
)


def _view(chart: Chart) -> View | None:
    if not isinstance(chart, LocalView):
        return None
    region = chart.region
    return View(-region.lon, region.lat, region.fov_h, region.fov_v)


def _torchs(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The frame, copied if torch could not take it as it lies in memory."""
    fits = frame.flags.writeable and min(frame.strides) > 0
    return frame if fits else np.require(frame, requirements=["C", "W"])


def _check_frame(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame must be a NumPy array (H, W, 3), got {type(frame).__name__}")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise FrameError(
            f"frame must be (H, W, 3) uint8 RGB with H, W > 0, got {frame.shape} {frame.dtype}"
        )
    return frame.shape[0], frame.shape[1]
