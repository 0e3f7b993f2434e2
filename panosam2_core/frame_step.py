"""What is computed of one frame. Nothing here changes what a tracker remembers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panosam2_core.anchors import agreement
from panosam2_core.belief import is_believed
from panosam2_core.charts import Chart, LocalView, WholeFrame
from panosam2_core.config import TrackerConfig
from panosam2_core.geometry.bfov import BFoV, snap
from panosam2_core.geometry.region import measure
from panosam2_core.ignored import IgnoredRegion
from panosam2_core.likely import likely_places
from panosam2_core.likeness import ALIKE, likeness, portrait
from panosam2_core.memory.bank import LongTermEntry, ObjectMemory, Observation
from panosam2_core.memory.sampling import best_spaced, draw_by_visibility
from panosam2_core.memory.tokens import Frames, layout
from panosam2_core.model import MASK_STRIDE, Decoded, ImageFeatures, PanoSAM2, PointPrompts
from panosam2_core.motion import OUTSIDE, PROMPT_MARGIN, prompt_region, spread
from panosam2_core.prompt_input import mask_input, point_input
from panosam2_core.prompt_view import look
from panosam2_core.prompts import Prompt
from panosam2_core.pursuit import Pursuit, begin
from panosam2_core.search import PLACES, Search, shares, where
from panosam2_core.step import (
    correct,
    doubt,
    leave_out,
    observe,
    prompt_masks,
    prompt_points,
    propagate,
    stay_near,
)
from panosam2_core.tracks import Close, Prediction, Sight, Track


@dataclass
class Clock:
    """Milliseconds per stage of one frame."""

    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: float = field(init=False)

    def __post_init__(self) -> None:
        """Start."""
        self.started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage.

        Args:
            name: of the stage.
        """
        start = time.perf_counter()
        yield
        self.stages[name] += 1e3 * (time.perf_counter() - start)

    def finish(self) -> None:
        """Count what belongs to no stage as one of its own, so that together they are the step."""
        total = 1e3 * (time.perf_counter() - self.started)
        self.stages["other"] = total - sum(self.stages.values())


class FrameStep:
    """One frame and the objects on it.

    Args:
        model: the network.
        config: of the tracker.
        ignored: where nothing is part of an object.
        now: index of the frame in the stream.
        edge: where panoramas are cut, see :class:`panosam2_core.charts.WholeFrame`.
        frame: (1, 3, H, W) uint8 RGB, on the model's device.
        clock: gets the times.
    """

    def __init__(
        self,
        model: PanoSAM2,
        config: TrackerConfig,
        ignored: IgnoredRegion | None,
        now: int,
        edge: float,
        frame: Tensor,
        clock: Clock,
    ) -> None:
        self.model, self.config, self.ignored, self.now = model, config, ignored, now
        self.frame, self.clock = frame, clock
        self.whole = WholeFrame(config.wraps, edge)
        self._panorama: tuple[Tensor, ImageFeatures] | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) of the frame."""
        return self.frame.shape[-2], self.frame.shape[-1]

    @property
    def gated(self) -> bool:
        """Whether objects are held to where they can have moved."""
        return self.config.motion_gate_deg > 0 and self.config.is_whole

    def local_view(self, region: BFoV) -> LocalView:
        """Look at a region, snapped to the frame's pixels.

        Args:
            region: of the sphere.

        Returns:
            The view.
        """
        return LocalView(snap(region, self.size_hw))

    def panorama(self) -> tuple[Tensor, ImageFeatures]:
        """Encode the whole frame, once.

        Returns:
            The network's input (1, 3, H, W), and its features.
        """
        if self._panorama is None:
            self._panorama = self.encode([self.whole])
        return self._panorama

    def encode(self, charts: Sequence[Chart]) -> tuple[Tensor, ImageFeatures]:
        """Encode charts as one batch.

        Args:
            charts: of one kind.

        Returns:
            The network's input (B, 3, H, W), and its features.
        """
        with self.clock.stage("preprocess"):
            images = torch.cat([chart.images(self.model, self.frame) for chart in charts])
        with self.clock.stage("encode"):
            return images, self.model.encode_image(images, pano=charts[0].pano)

    def prompt(self, prompt: Prompt, track: Track) -> Prediction:
        """Segment a prompted object, new or known.

        Args:
            prompt: that fits the frame.
            track: of the object.

        Returns:
            The prediction.
        """
        if prompt.refine:
            return self._correct(prompt, track)
        sight = Sight(track, self.whole, False, track.memory, track.clock)
        features = self.panorama()[1]
        chart: Chart = self.whole
        with self.clock.stage("decode"):
            if prompt.mask is not None:
                masks = mask_input(self.model, prompt.mask, chart)
                found = prompt_masks(self.model, features, masks, pano=chart.pano)
                found = self.leave_out(found, [chart])
            else:
                points = self._points(prompt)
                chart, found = self._segment(points, features)
                found = self._held_to(points, found, chart, boxed=prompt.box is not None)
            decoded = found if chart is self.whole else self.taken(chart, found, features)
        prediction = self._observed([sight], features, decoded, prompt)[0]
        prediction = dataclasses.replace(prediction, chart=chart, logits=found.logits[0])
        return self._portrayed(prediction, prompt)

    def _segment(self, points: PointPrompts, features: ImageFeatures) -> tuple[Chart, Decoded]:
        """Find what was clicked: in a view about it, or on the panorama."""
        if self.config.is_whole and self.config.prompt_view == "auto":
            seen = look(self.model, self.frame, points)
            if seen is not None:
                return LocalView(seen[1]), seen[0]
        placed = self.whole.place(points, self._input_hw)
        return self.whole, prompt_points(self.model, features, placed, pano=self.whole.pano)

    def taken(self, chart: Chart, found: Decoded, features: ImageFeatures) -> Decoded:
        """Take what was found in a local view as the panorama's own.

        Args:
            chart: the local view.
            found: in it, one object.
            features: of the panorama.

        Returns:
            Decoded on the panorama.
        """
        return self.told(self.on_panorama(chart, found.logits), features)._replace(
            score=found.score, object_logit=found.object_logit
        )

    def on_panorama(self, chart: Chart, logits: Tensor) -> Tensor:
        """Bring a mask to the grid of the panorama's masks.

        Args:
            chart: of the mask.
            logits: (1, 1, 4h, 4w) in that chart.

        Returns:
            (1, 1, 4h, 4w), means over cells; of an object that is smaller than a cell, the
            largest values, so that it is still somewhere.
        """
        fine = self.whole.show(chart, logits, self._input_hw)
        mean = F.avg_pool2d(fine, MASK_STRIDE)
        return mean if bool((mean > 0).any()) else F.max_pool2d(fine, MASK_STRIDE)

    def told(self, logits: Tensor, features: ImageFeatures) -> Decoded:
        """Take logits as the answer.

        Args:
            logits: (1, 1, 4h, 4w) on the panorama.
            features: of the panorama.

        Returns:
            Decoded with these logits.
        """
        masks = F.interpolate((logits > 0).float(), scale_factor=MASK_STRIDE)
        taken = prompt_masks(self.model, features, masks, pano=self.whole.pano)
        return taken._replace(logits=logits)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(4h, 4w), the size of decoded masks."""
        height, width = self.model.input_size
        return height // MASK_STRIDE, width // MASK_STRIDE

    def _correct(self, prompt: Prompt, track: Track) -> Prediction:
        """Read clicks with memory, in the object's local view if they lie in it."""
        points = self._points(prompt)
        sight = self._sight(track)
        placed = sight.chart.place(points, self._input_hw)
        if placed is None or self.searches(track):
            sight, placed = self._on_panorama(track), self.whole.place(points, self._input_hw)
        features = self._shown([sight])[1]
        with self.clock.stage("decode"):
            decoded = correct(
                self.model,
                features,
                [sight.memory],
                [sight.drawn],
                sight.clock,
                placed,
                pano=sight.chart.pano,
            )
            decoded = self._held_to(points, decoded, sight.chart, known=sight)
        found = self._observed([sight], features, decoded, prompt)[0]
        return self._portrayed(found, prompt)

    @property
    def _input_hw(self) -> tuple[int, int]:
        return self.model.input_size[0], self.model.input_size[1]

    def _points(self, prompt: Prompt) -> PointPrompts:
        return point_input(self.model, prompt, self.size_hw, wraps=self.whole.pano)

    def _held_to(
        self,
        points: PointPrompts,
        decoded: Decoded,
        chart: Chart,
        *,
        boxed: bool = False,
        known: Sight | None = None,
    ) -> Decoded:
        """Leave what hangs together with the prompt, or with where a known object may be."""
        placed = chart.place(points, self._input_hw)
        if self.gated and placed is not None:
            said = prompt_region(placed, self.grid_hw)
            near = spread(said, [PROMPT_MARGIN], chart.fov, wraps=chart.pano)
            if known:
                near = near | self._reachable(known)
            elif boxed:
                decoded = decoded._replace(logits=decoded.logits.where(near, OUTSIDE))
            decoded = stay_near(self.model, decoded, near, pano=chart.pano)
        return self.leave_out(decoded, [chart])

    def follow(self, tracks: Sequence[Track]) -> list[Prediction]:
        """Find known objects; those that can share a batch do.

        Args:
            tracks: of the objects.

        Returns:
            One prediction per object, in any order.
        """
        lost = [track for track in tracks if self.searches(track)]
        counts = shares(self.now, len(lost), self.config.search_looks)
        steady = [self._sight(track) for track in tracks if not self.searches(track)]
        searching = [
            sight
            for track, count in zip(lost, counts, strict=True)
            for sight in self._search(track, count)
        ]
        looks: dict[int, list[Prediction]] = defaultdict(list)
        for prediction in self._look([*steady, *searching]):
            looks[prediction.sight.track.object_id].append(prediction)
        return [
            *(looks[sight.track.object_id][0] for sight in steady),
            *(
                self._searched(track, count, looks[track.object_id])
                for track, count in zip(lost, counts, strict=True)
            ),
        ]

    def searches(self, track: Track) -> bool:
        """Tell whether an object is searched for everywhere.

        Args:
            track: of the object.

        Returns:
            Whether it is.
        """
        return track.lost and self.config.is_whole and self.config.view == "auto"

    def _look(self, sights: Sequence[Sight]) -> list[Prediction]:
        groups: dict[object, list[Sight]] = defaultdict(list)
        for sight in sights:
            whole = sight.chart is self.whole
            groups[(whole, layout(sight.memory, sight.drawn))].append(sight)
        predictions: list[Prediction] = []
        for group in groups.values():
            images, features = self._shown(group)
            pano = group[0].chart.pano
            with self.clock.stage("track"):
                decoded = propagate(
                    self.model,
                    features,
                    [sight.memory for sight in group],
                    [sight.drawn for sight in group],
                    [sight.clock for sight in group],
                    pano=pano,
                )
            agreeing = agreement(decoded) if self.config.anchors else None
            if self.gated:
                near = torch.cat([self._reachable(sight) for sight in group])
                decoded = stay_near(self.model, decoded, near, pano=pano)
            decoded = self.leave_out(decoded, [sight.chart for sight in group])
            portraits = [
                self._portrait(images[i], decoded.logits[i, 0], decoded.object_logit[i, 0])
                for i in range(len(group))
            ]
            decoded = self._doubted(group, decoded, portraits)
            seen = self._observed(group, features, decoded, agreeing=agreeing)
            predictions += [
                dataclasses.replace(prediction, portrait=portrait)
                for prediction, portrait in zip(seen, portraits, strict=True)
            ]
        return predictions

    def _doubted(
        self, sights: Sequence[Sight], decoded: Decoded, portraits: Sequence[Tensor | None]
    ) -> Decoded:
        """Masks that can be those of their objects; the other objects as hidden."""
        believed = [
            is_believed(
                self.config,
                self.now,
                sight,
                decoded.logits[i],
                decoded.score[i],
                portraits[i],
                searched=self.searches(sight.track),
            )
            for i, sight in enumerate(sights)
        ]
        if all(believed):
            return decoded
        return doubt(self.model, decoded, torch.tensor(believed).to(decoded.logits.device))

    def _shown(self, sights: Sequence[Sight]) -> tuple[Tensor, ImageFeatures]:
        """What the network sees of every sight's chart, in their order, and its features.

        All charts are whole frames, of which there is one picture, or all are local.
        """
        if sights[0].chart is not self.whole:
            return self.encode([sight.chart for sight in sights])
        images, features = self.panorama()
        one = torch.zeros(len(sights), dtype=torch.long).to(features.top.device)
        return images.expand(len(sights), -1, -1, -1), features.select(one)

    def _portrait(self, images: Tensor, logits: Tensor, object_logit: Tensor) -> Tensor | None:
        """(9, 216) how an object looks; ``None`` where it is not seen, or nobody compares.

        (3, H, W) as the network sees it, (4h, 4w) and ().
        """
        if not self.config.portrays or not bool(object_logit > 0):
            return None
        mask = logits > 0
        for axis in (0, 1):
            mask = mask.repeat_interleave(MASK_STRIDE, axis)
        std, mean = self.model.pixel_std[:, 0], self.model.pixel_mean[:, 0]
        return portrait(images[:, mask] * std + mean)

    def _portrayed(self, found: Prediction, prompt: Prompt) -> Prediction:
        """A prompted object, with how it looks on the frame itself, where it may be tiny."""
        if not self.config.portrays or not bool(found.object_logit > 0):
            return found
        if prompt.mask is None:
            mask = found.chart.on_frame(found.logits[None], self.size_hw)[0, 0] > 0
        else:
            mask = torch.from_numpy(prompt.mask != 0).to(self.frame.device)
        if self.ignored is not None:
            mask = mask & ~self.ignored.at(self.size_hw)
        pixels = self.frame[0][:, mask] / 255
        return dataclasses.replace(found, portrait=portrait(pixels))

    def _searched(self, track: Track, count: int, looks: Sequence[Prediction]) -> Prediction:
        """A lost object after so many looks, of which two at one place are one prediction."""
        if not looks:
            return self._not_looked_for(track)
        closer = [found for found in looks if found.sight.closer]
        # What is found and yet not visible, as the user sets visibility, is searched for further.
        search = Search(_search_of(track).looks + count - len(closer))
        for found in closer:
            if self._alike(found) >= ALIKE:
                return dataclasses.replace(found, search=search)
        others = [found for found in looks if not found.sight.closer]
        best = max(others, key=self._alike, default=None)
        lead = self._lead(best) if best else None
        # What is back too large for a local view was seen as closely as can be.
        if best and not lead and not best.sight.local and self._alike(best) >= ALIKE:
            return dataclasses.replace(best, search=search)
        search = dataclasses.replace(search, lead=lead)
        return dataclasses.replace(_hidden(best or looks[0]), search=search)

    def _lead(self, found: Prediction) -> Pursuit | None:
        """To what a search has found; ``None`` where there is nothing to look at closely."""
        if not found.visible:
            return None
        mask = found.chart.on_frame(found.logits[None], self.size_hw)[0, 0] > 0
        region = measure(mask.cpu().numpy(), pano=True)
        return begin(region) if region else None

    @staticmethod
    def _alike(prediction: Prediction) -> float:
        """How much what a search has found looks like the object, 0..1; -1: nothing is found."""
        here, known = prediction.portrait, prediction.sight.track.portraits
        if not prediction.visible:
            return -1.0
        return 1.0 if here is None or known is None else likeness(here[:1], known)

    def _sight(self, track: Track) -> Sight:
        """Where to look for a known object."""
        close = track.close
        if close is None or close.pursuit is None or not self.config.zooms:
            return self._on_panorama(track)
        return self._in_view(track, close.pursuit)

    def _search(self, track: Track, count: int) -> list[Sight]:
        """Where to look for a lost object: at what was found, then where the cycle goes on."""
        if track.close is None:
            raise RuntimeError("expected an object with local views")
        search, close, sights = _search_of(track), track.close, []
        if search.lead and count:
            sights.append(dataclasses.replace(self._in_view(track, search.lead), closer=True))
        numbers = range(search.looks, search.looks + count - len(sights))
        places = self._likely_places(track, close) if numbers else []
        regions = dict.fromkeys(where(number, close.region, places) for number in numbers)
        return sights + [
            self._with_close(track, close, self.local_view(region))
            if region
            else self._on_panorama(track)
            for region in regions
        ]

    def _likely_places(self, track: Track, close: Close) -> list[tuple[float, float]]:
        if track.portraits is None or not self.config.portrays:
            return []
        first, size = close.region.lon, track.usual_size
        return likely_places(self.frame[0], track.portraits, size, first, PLACES)

    def _not_looked_for(self, track: Track) -> Prediction:
        """A lost object on a frame that has no look for it."""
        logits = torch.full((1, *self.grid_hw), OUTSIDE, device=self.frame.device)
        return Prediction(
            sight=dataclasses.replace(self._on_panorama(track), drawn=()),
            chart=self.whole,
            label=track.label,
            logits=logits,
            score=logits.new_zeros(()),
            object_logit=logits.new_tensor(OUTSIDE),
            observation=None,
            search=_search_of(track),
        )

    def _in_view(self, track: Track, pursuit: Pursuit) -> Sight:
        if track.close is None:
            raise RuntimeError("expected an object with local views")
        return self._with_close(track, track.close, self.local_view(pursuit.view()))

    def _with_close(self, track: Track, close: Close, chart: Chart) -> Sight:
        drawn = self._draw(track, close.memory, close.clock)
        return Sight(track, chart, True, close.memory, close.clock, drawn)

    def _on_panorama(self, track: Track) -> Sight:
        drawn = self._draw(track, track.memory, track.clock)
        return Sight(track, self.whole, False, track.memory, track.clock, drawn)

    def _draw(self, track: Track, memory: ObjectMemory, now: int) -> Sequence[LongTermEntry]:
        if not (self.config.long_frames and self.model.config.long_memory and memory.recent):
            return ()
        candidates = memory.long_candidates(now)
        if self.config.seed is None:
            return best_spaced(candidates, self.config.long_frames, self.config.long_spacing)
        # Of its own per object and frame: what is drawn for one does not hang on the others.
        generator = np.random.default_rng((self.config.seed, track.object_id, now % 2**32))
        return draw_by_visibility(candidates, self.config.long_frames, generator)

    def _reachable(self, sight: Sight) -> Tensor:
        """(1, 1, 4h, 4w) bool of a chart, where an object may be since it was last placed."""
        region, track, chart = sight.memory.region, sight.track, sight.chart
        if region is None or self.searches(track):
            device = self.frame.device
            return torch.ones(1, 1, *self.grid_hw, dtype=torch.bool, device=device)
        region, placed = region[None], track.placed
        if isinstance(chart, LocalView) and track.close:
            region, placed = chart.carry(region[0], track.close.region), track.close.placed
        angle = math.radians(self.config.motion_gate_deg) * (self.now - placed)
        return spread(region, [min(math.pi, angle)], chart.fov, wraps=chart.pano)

    def leave_out(self, decoded: Decoded, charts: Sequence[Chart]) -> Decoded:
        """Take the ignored region out of masks.

        Args:
            decoded: masks of B objects.
            charts: of these masks.

        Returns:
            The masks.
        """
        if self.ignored is None:
            return decoded
        regions = [self._ignored_in(self.ignored, chart) for chart in charts]
        return leave_out(self.model, decoded, torch.cat(regions))

    def _ignored_in(self, ignored: IgnoredRegion, chart: Chart) -> Tensor:
        if chart is self.whole:
            return ignored.at(self.grid_hw, self.whole.edge)[None, None]
        return chart.gather(ignored.share, self.grid_hw) >= 0.5

    def _observed(
        self,
        sights: Sequence[Sight],
        features: ImageFeatures,
        decoded: Decoded,
        prompt: Prompt | None = None,
        agreeing: Tensor | None = None,
    ) -> list[Prediction]:
        whole = not sights[0].local
        with self.clock.stage("remember"):
            clocks = [sight.clock for sight in sights]
            seen = self.observe(
                features, decoded, clocks, prompted=prompt is not None, whole=whole
            )
        return [
            Prediction(
                sight=sight,
                chart=sight.chart,
                label=(prompt.label if prompt else "") or sight.track.label,
                logits=decoded.logits[i],
                score=decoded.score[i],
                object_logit=decoded.object_logit[i, 0],
                observation=seen[i],
                agreement=None if agreeing is None else agreeing[i],
            )
            for i, sight in enumerate(sights)
        ]

    def observe(
        self,
        features: ImageFeatures,
        decoded: Decoded,
        clock: Frames,
        *,
        prompted: bool,
        whole: bool,
    ) -> list[Observation]:
        """Make memories.

        Args:
            features: of B objects.
            decoded: of the same objects.
            clock: time of the memories that they are for, of all or of each.
            prompted: the user said what the objects are.
            whole: decoded on the whole frame, not in local views.

        Returns:
            One per object.
        """
        return observe(
            self.model,
            features,
            decoded,
            clock,
            prompted=prompted,
            pano=whole and self.whole.pano,
            map_dtype=torch.bfloat16 if self.config.half_maps else torch.float32,
        )


def _search_of(track: Track) -> Search:
    if track.close is None or track.close.search is None:
        raise RuntimeError("expected a lost object")
    return track.close.search


def _hidden(prediction: Prediction) -> Prediction:
    """The same object, out of sight; nothing of it is remembered."""
    return dataclasses.replace(
        prediction,
        logits=torch.full_like(prediction.logits, OUTSIDE),
        object_logit=-prediction.object_logit.abs(),
        observation=None,
    )
