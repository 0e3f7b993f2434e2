"""PanoTracker: follow objects through one stream of frames."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.config import TrackerConfig
from panosam2_core.errors import FrameError, PromptError, SnapshotError, UnknownObjectError
from panosam2_core.geometry.erp import resize_wrap
from panosam2_core.geometry.region import RegionMeasure, measure
from panosam2_core.ignored import IgnoredRegion
from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory, Observation
from panosam2_core.memory.sampling import best_spaced, draw_by_visibility
from panosam2_core.memory.tokens import LongDraws, layout
from panosam2_core.model import MASK_STRIDE, Decoded, ImageFeatures, PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE, PROMPT_MARGIN, prompt_region, spread
from panosam2_core.prompt_view import look
from panosam2_core.prompts import Prompt, box_span, check_prompt
from panosam2_core.results import FrameResult, ObjectResult, ObjectState
from panosam2_core.step import (
    correct,
    leave_out,
    observe,
    prompt_masks,
    prompt_points,
    propagate,
    stay_near,
)


@dataclass
class _Track:
    """One object of the stream."""

    object_id: int
    label: str
    memory: ObjectMemory
    added: int
    last_seen: int


_SNAPSHOT_VERSION = 2
_SNAPSHOT_TYPES: list[Any] = [_Track, ObjectMemory, FrameMemory, LongTermEntry]


@dataclass
class _Prediction:
    """One object on the current frame, still on the device."""

    track: _Track
    label: str
    logits: Tensor  # (1, 4h, 4w)
    score: Tensor
    observation: Observation
    drawn: Sequence[LongTermEntry]


@dataclass
class _Clock:
    """Milliseconds per stage of one frame."""

    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[name] += 1e3 * (time.perf_counter() - start)


class PanoTracker:
    """Follows any number of objects through one stream, in constant memory.

    Several trackers may share one model. A tracker is not thread-safe: one thread steps it.

    Args:
        model: from :func:`panosam2_core.load_model`.
        config: how the stream is followed. May be replaced between two steps.
        ignored: (H, W) bool of any size: where nothing is ever part of an object, such as the
            robot's own body. It never enters masks or memory.

    Raises:
        ConfigError: for an ``ignored`` of another shape, or one that leaves nothing.
    """

    def __init__(
        self,
        model: PanoSAM2,
        config: TrackerConfig | None = None,
        ignored: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.model = model
        self.config = config or TrackerConfig()
        self._ignored = (
            None if ignored is None else IgnoredRegion(ignored, model.pixel_mean.device)
        )
        self.reset()

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids being tracked, in the order they were added."""
        return tuple(self._tracks)

    def reset(self) -> None:
        """Forget all objects and start counting frames at 0."""
        self._tracks: dict[int, _Track] = {}
        self._now = 0  # index of the frame that comes next

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

    def forget_short_term(self) -> None:
        """Keep the objects but drop what depends on the order of frames (time ran backwards)."""
        for track in self._tracks.values():
            track.memory.forget_short_term()

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
        other._now = self._now - frames
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
        for object_id, track in other._tracks.items():
            if object_id in self._tracks and not track.label:
                track.label = self._tracks[object_id].label
        together = {**self._tracks, **other._tracks}
        if len(together) > self.config.max_objects:
            raise PromptError(
                "TOO_MANY_OBJECTS",
                f"{len(together)} objects exceed max_objects={self.config.max_objects}; "
                "remove some first",
            )
        self._tracks = together

    def state_bytes(self) -> int:
        """Bytes of tensors held for the stream."""
        held = (t for track in self._tracks.values() for t in track.memory.tensors())
        return sum(t.numel() * t.element_size() for t in held)

    def snapshot(self) -> bytes:
        """Save the state of the stream between two frames.

        Returns:
            What :meth:`restore` takes; the model is not in it.
        """
        file = io.BytesIO()
        state = {"kind": self._kind(), "next_frame": self._now, "tracks": self._tracks}
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
        except Exception as error:  # torch names no exceptions for what damaged files do to it
            raise SnapshotError(f"the saved state cannot be read: {error}") from error
        if kind != self._kind():
            raise SnapshotError(f"the saved state is of {kind}; this tracker is {self._kind()}")
        whole = isinstance(now, int) and isinstance(tracks, dict)
        if not whole or not all(isinstance(track, _Track) for track in tracks.values()):
            raise SnapshotError("the saved state does not hold what it should")
        self._now, self._tracks = now, tracks
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
            "maps": self.model.num_maskmem,
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
        size_hw = _check_frame(frame)
        self.check_prompts(prompts, size_hw)
        prompts = [dataclasses.replace(p, object_id=int(p.object_id)) for p in prompts]
        clock = _Clock()
        with clock.stage("preprocess"):
            upload = torch.from_numpy(np.require(frame, requirements=["C", "W"])).to(
                self.model.pixel_mean.device
            )
            frames = upload.permute(2, 0, 1)[None]
            images = self.model.normalize(frames, pano=self.config.wraps)
        with self.model.autocast():
            with clock.stage("encode"):
                features = self.model.encode_image(images, pano=self.config.wraps)
            prompted = [self._apply(prompt, frames, features, clock) for prompt in prompts]
            fresh = {prediction.track.object_id for prediction in prompted}
            tracked = self._propagate([i for i in self._tracks if i not in fresh], features, clock)
        predictions = {p.track.object_id: p for p in (*prompted, *tracked)}
        order = dict.fromkeys((*self._tracks, *predictions))
        with clock.stage("postprocess"):
            result = self._report([predictions[i] for i in order], size_hw, clock)
        self._commit(predictions, result)
        return result

    def _commit(self, predictions: Mapping[int, _Prediction], result: FrameResult) -> None:
        """The only place where a step changes the state, after all that can fail."""
        for object_id, found in result.objects.items():
            prediction = predictions[object_id]
            track = prediction.track
            track.memory.observe(prediction.observation)
            track.last_seen = self._now - found.frames_since_seen
            track.label = found.label
            self._tracks[object_id] = track
        self._now += 1

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

    def _apply(
        self, prompt: Prompt, frame: Tensor, features: ImageFeatures, clock: _Clock
    ) -> _Prediction:
        """Segment a prompted object, new or known."""
        known = None if prompt.replace else self._tracks.get(prompt.object_id)
        track = known or self._new_track(prompt)
        draw = self._draw(track) if prompt.refine else ()
        with clock.stage("decode"):
            decoded = self._decode_prompt(prompt, track, draw, frame, features)
        prediction = self._observe([track], [draw], features, decoded, clock, prompted=True)[0]
        return dataclasses.replace(prediction, label=prompt.label or track.label)

    def _decode_prompt(
        self,
        prompt: Prompt,
        track: _Track,
        draw: Sequence[LongTermEntry],
        frame: Tensor,
        features: ImageFeatures,
    ) -> Decoded:
        pano = self.config.wraps
        if prompt.mask is not None:
            masks = self._mask_input(prompt.mask)
            return self._leave_out(prompt_masks(self.model, features, masks, pano=pano))
        points = self._point_input(prompt, (frame.shape[-2], frame.shape[-1]))
        if prompt.refine:
            now = self._now
            decoded = correct(self.model, features, [track.memory], [draw], now, points, pano=pano)
        else:
            decoded = self._segment(points, frame, features)
        if not (self.config.motion_gate_deg and pano):
            return self._leave_out(decoded)
        said = prompt_region(points, (decoded.logits.shape[-2], decoded.logits.shape[-1]))
        near = spread(said, [PROMPT_MARGIN])
        if prompt.refine:
            near = near | self._reachable([track], decoded.logits)
        elif prompt.box is not None:
            decoded = decoded._replace(logits=decoded.logits.where(near, OUTSIDE))
        return self._leave_out(stay_near(self.model, decoded, near))

    def _segment(self, points: PointPrompts, frame: Tensor, features: ImageFeatures) -> Decoded:
        """Find what was clicked: in a view about it, or on the panorama."""
        pano = self.config.wraps
        seen = None
        if pano and self.config.prompt_view == "auto":
            seen = look(self.model, frame, points)
        if seen is None:
            return prompt_points(self.model, features, points, pano=pano)
        mask = F.interpolate((seen.logits > 0).float(), scale_factor=MASK_STRIDE)
        taken = prompt_masks(self.model, features, mask, pano=pano)
        return taken._replace(logits=seen.logits, score=seen.score, object_logit=seen.object_logit)

    def _new_track(self, prompt: Prompt) -> _Track:
        memory = ObjectMemory(
            num_maps=self.model.num_maskmem,
            num_pointers=self.model.max_obj_ptrs_in_encoder,
            max_prompted=self.config.max_prompted,
            long_capacity=self.config.long_capacity,
            long_pool=torch.zeros(
                self.config.long_capacity,
                self.model.config.width,
                device=self.model.pixel_mean.device,
            ),
        )
        now = self._now
        return _Track(prompt.object_id, prompt.label, memory, now, now)

    def _mask_input(self, mask: npt.NDArray[np.generic]) -> Tensor:
        """(1, 1, H, W) mask at the model's size, 0 or 1, never empty."""
        device = self.model.pixel_mean.device
        full = torch.from_numpy(np.ascontiguousarray(mask != 0)).to(device)[None, None].float()
        height, width = self.model.input_size
        if height <= full.shape[-2] and width <= full.shape[-1]:
            # Shares of area: a thing smaller than a pixel of the model keeps its largest share.
            resized = F.interpolate(full, (height, width), mode="area")
        else:
            resized = resize_wrap(full, (height, width), pano=self.config.wraps)
        found = (resized >= resized.max().clamp(max=0.5)).float()
        if F.avg_pool2d(found, MASK_STRIDE).max() <= 0.5:
            # Smaller than a pixel of the decoded masks: take the whole of that pixel.
            found = F.interpolate(F.max_pool2d(found, MASK_STRIDE), scale_factor=MASK_STRIDE)
        return found

    def _point_input(self, prompt: Prompt, size_hw: tuple[int, int]) -> PointPrompts:
        """Clicks and corners in pixels of the model's input, continued past the seam."""
        width = size_hw[1]
        xy: list[tuple[float, float]] = []
        labels: list[int] = []
        if prompt.box is not None:
            left, right = box_span(prompt.box, width)
            xy += [(left, prompt.box[1]), (right, prompt.box[3])]
            labels += [2, 3]
        points = [(float(u), float(v)) for u, v in prompt.points]
        labels += [int(i) for i in prompt.labels] or [1] * len(points)
        if self.config.wraps and points:
            # Each click on the copy of the panorama that is nearest to the box or first click.
            anchor = (xy[0][0] + xy[1][0]) / 2 if xy else points[0][0]
            points = [
                (anchor + (u - anchor + width / 2) % width - width / 2, v) for u, v in points
            ]
        xy += points
        device = self.model.pixel_mean.device
        scale = torch.tensor(
            [self.model.input_size[1] / width, self.model.input_size[0] / size_hw[0]]
        )
        return PointPrompts(
            (torch.tensor(xy) * scale)[None].to(device),
            torch.tensor([labels], dtype=torch.int32, device=device),
        )

    def _propagate(
        self, object_ids: Sequence[int], features: ImageFeatures, clock: _Clock
    ) -> list[_Prediction]:
        """Track objects; those with equal memory layout run as one batch."""
        groups: dict[object, list[tuple[_Track, Sequence[LongTermEntry]]]] = defaultdict(list)
        for object_id in object_ids:
            track = self._tracks[object_id]
            draw = self._draw(track)
            groups[layout(track.memory, draw)].append((track, draw))
        predictions: list[_Prediction] = []
        for group in groups.values():
            tracks, draws = [track for track, _ in group], [draw for _, draw in group]
            index = torch.zeros(len(group), dtype=torch.long, device=features.top.device)
            shared = features.select(index)
            with clock.stage("track"):
                decoded = propagate(
                    self.model,
                    shared,
                    [track.memory for track in tracks],
                    draws,
                    self._now,
                    pano=self.config.wraps,
                )
            if self.config.motion_gate_deg and self.config.wraps:
                decoded = stay_near(self.model, decoded, self._reachable(tracks, decoded.logits))
            decoded = self._leave_out(decoded)
            predictions += self._observe(tracks, draws, shared, decoded, clock, prompted=False)
        return predictions

    def _leave_out(self, decoded: Decoded) -> Decoded:
        if self._ignored is None:
            return decoded
        size = (decoded.logits.shape[-2], decoded.logits.shape[-1])
        return leave_out(self.model, decoded, self._ignored.at(size)[None, None])

    def _reachable(self, tracks: Sequence[_Track], masks: Tensor) -> Tensor:
        """(B, 1, 4h, 4w) bool, where objects may be after the frames since they were seen."""
        per_frame = math.radians(self.config.motion_gate_deg)
        everywhere = torch.ones_like(masks[0], dtype=torch.bool)
        memories = [track.memory for track in tracks]
        regions = [everywhere if m.region is None else m.region for m in memories]
        angles = [min(math.pi, per_frame * (self._now - m.seen)) for m in memories]
        return spread(torch.stack(regions), angles)

    def _draw(self, track: _Track) -> Sequence[LongTermEntry]:
        memory, now = track.memory, self._now
        if not (self.config.long_frames and self.model.config.long_memory and memory.recent):
            return ()
        candidates = memory.long_candidates(now)
        if self.config.seed is None:
            return best_spaced(candidates, self.config.long_frames, self.config.long_spacing)
        # Of its own per object and frame: what is drawn for one does not hang on the others.
        generator = np.random.default_rng((self.config.seed, track.object_id, now % 2**32))
        return draw_by_visibility(candidates, self.config.long_frames, generator)

    def _observe(
        self,
        tracks: Sequence[_Track],
        draws: LongDraws,
        features: ImageFeatures,
        decoded: Decoded,
        clock: _Clock,
        *,
        prompted: bool,
    ) -> list[_Prediction]:
        with clock.stage("remember"):
            observations = observe(
                self.model,
                features,
                decoded,
                self._now,
                prompted=prompted,
                pano=self.config.wraps,
                map_dtype=torch.bfloat16 if self.config.half_maps else torch.float32,
            )
        return [
            _Prediction(
                track,
                track.label,
                decoded.logits[i],
                decoded.score[i],
                observations[i],
                draws[i],
            )
            for i, track in enumerate(tracks)
        ]

    def _report(
        self, predictions: Sequence[_Prediction], size_hw: tuple[int, int], clock: _Clock
    ) -> FrameResult:
        labels = np.zeros(size_hw, np.uint16)
        highest = torch.full(size_hw, -torch.inf, device=self.model.pixel_mean.device)
        objects: dict[int, ObjectResult] = {}
        for prediction in predictions:
            full = resize_wrap(prediction.logits[None], size_hw, pano=self.config.wraps)[0, 0]
            if self._ignored is not None:
                full = full.masked_fill(self._ignored.at(size_hw), -torch.inf)
            result = self._object_result(prediction, full)
            objects[result.object_id] = result
            if result.state is ObjectState.VISIBLE:
                wins = (full > highest).cpu().numpy() & result.mask
                labels[wins] = result.object_id
                highest = torch.maximum(highest, full)
        return FrameResult(self._now, size_hw, objects, labels, clock.stages)

    def _object_result(self, prediction: _Prediction, full: Tensor) -> ObjectResult:
        track, config = prediction.track, self.config
        logit = float(prediction.observation.object_logit)
        visibility = 1 / (1 + float(np.exp(-logit)))
        mask = (full > config.mask_threshold).cpu().numpy()
        region = (
            measure(mask, config.pano, config.hfov)
            if visibility >= config.occluded_below
            else None
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
            logits=prediction.logits[0].float().cpu().numpy(),
            visibility=visibility,
            visibility_logit=logit,
            mask_score=float(prediction.score),
            age=self._now - track.added,
            frames_since_seen=unseen,
            long_term_frames=tuple(entry.frame for entry in prediction.drawn),
            **(_NOWHERE if region is None else dict(_fields(region))),
        )


def _fields(region: RegionMeasure) -> Iterator[tuple[str, Any]]:
    """A region's measures under the names that :class:`ObjectResult` shares with it."""
    return ((name.name, getattr(region, name.name)) for name in dataclasses.fields(region))


_NOWHERE: dict[str, Any] = dict(
    _fields(RegionMeasure(0, 0.0, False, (0, 0, 0, 0), np.zeros(3), 0.0, 0.0, 0.0, 0.0))
)


def _check_frame(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame must be a NumPy array (H, W, 3), got {type(frame).__name__}")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise FrameError(
            f"frame must be (H, W, 3) uint8 RGB with H, W > 0, got {frame.shape} {frame.dtype}"
        )
    return frame.shape[0], frame.shape[1]
