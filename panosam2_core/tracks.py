"""What a tracker knows of one object between two frames, and what it finds on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from panosam2_core.charts import Chart
from panosam2_core.geometry.bfov import BFoV
from panosam2_core.memory.bank import LongTermEntry, ObjectMemory, Observation
from panosam2_core.pursuit import Pursuit
from panosam2_core.search import Search


@dataclass(frozen=True)
class Picture:
    """A panorama on which an object was seen in a local view.

    Attributes:
        images: (1, 3, H, W) bfloat16, the network's input.
        logits: (1, 1, 4h, 4w) bfloat16, its mask.
        frame: index in the stream.
    """

    images: Tensor
    logits: Tensor
    frame: int

    def turned(self, part: float) -> Picture:
        """The same picture, cut elsewhere.

        Args:
            part: of the width, by which the cut lies farther to the right; whole columns.

        Returns:
            A new picture.
        """

        def roll(held: Tensor) -> Tensor:
            return held.roll(-round(part * held.shape[-1]), dims=-1)

        return Picture(roll(self.images), roll(self.logits), self.frame)


@dataclass(frozen=True)
class Close:
    """One object's local views.

    Attributes:
        memory: of local views; the panorama has another memory.
        clock: its time: frames that it has taken in, counted on from the stream's at the start.
        region: the view that ``memory.region`` is a part of.
        placed: index in the stream of the frame that it is of.
        pursuit: where to look next; ``None`` while the panorama is looked at.
        search: for the object, which has been out of sight for long; ``None``: it is not lost.
        album: the panorama is not encoded while a local view is; these are for its memory when
            it is needed again. Oldest first.
    """

    memory: ObjectMemory
    clock: int
    region: BFoV
    placed: int
    pursuit: Pursuit | None
    search: Search | None = None
    album: tuple[Picture, ...] = ()


@dataclass
class Track:
    """One object of the stream.

    Attributes:
        object_id: given with the prompt.
        label: likewise.
        added: index in the stream of its first frame.
        last_seen: index in the stream.
        memory: of the panorama.
        clock: its time, see :class:`Close`.
        placed: index in the stream of the frame that ``memory.region`` is of.
        usual_score: moving average of the IoU that the network predicts for its masks; 0: unknown.
        usual_size: moving average of its solid angle in steradians; 0: unknown.
        small: frames in a row on which the panorama showed it small enough for a local view.
        columns: (first, number), in widths of the frame: where it was last seen.
        close: its local views, once there has been one.
        portraits: (4, 216) how it looked (:mod:`panosam2_core.likeness`); ``None``: never seen.
    """

    object_id: int
    label: str
    added: int
    last_seen: int
    memory: ObjectMemory
    clock: int
    placed: int
    usual_score: float = 0.0
    usual_size: float = 0.0
    small: int = 0
    columns: tuple[float, float] | None = None
    close: Close | None = None
    portraits: Tensor | None = None

    def turned(self, columns: int) -> Track:
        """The same object on panoramas that are cut elsewhere.

        Args:
            columns: tokens by which the cut lies farther to the right.

        Returns:
            A new track.
        """
        tokens = self.memory.prompted[0].memory_map.shape[-1]
        close = self.close
        if close and close.album:
            album = tuple(picture.turned(columns / tokens) for picture in close.album)
            close = replace(close, album=album)
        return replace(self, memory=self.memory.turned(columns), close=close)

    @property
    def pursued(self) -> bool:
        """Whether it is followed in a local view."""
        return self.close is not None and self.close.pursuit is not None

    @property
    def lost(self) -> bool:
        """Whether it was followed in a local view and is searched for now."""
        return self.close is not None and self.close.search is not None

    def tensors(self) -> list[Tensor]:
        """Every tensor held, for counting bytes; one that is held twice is listed once."""
        held = list(self.memory.tensors())
        if self.portraits is not None:
            held.append(self.portraits)
        if self.close:
            held += self.close.memory.tensors()
            for picture in self.close.album:
                held += [picture.images, picture.logits]
        return list({id(t): t for t in held}.values())


@dataclass(frozen=True)
class Sight:
    """Where one object is looked for on one frame, and with which memory.

    Attributes:
        track: the object.
        chart: shown to the network.
        local: ``memory`` is that of local views.
        memory: to look with.
        clock: its time.
        drawn: long-term entries.
        closer: it is a closer look at what a search has found.
    """

    track: Track
    chart: Chart
    local: bool
    memory: ObjectMemory
    clock: int
    drawn: Sequence[LongTermEntry] = ()
    closer: bool = False


@dataclass(frozen=True)
class Prediction:
    """One object on the current frame, still on the device.

    Attributes:
        sight: how it was looked at.
        chart: of the mask.
        label: of the object.
        logits: (1, 4h, 4w) in that chart.
        score: () predicted IoU.
        object_logit: () visibility.
        observation: for the sight's memory; ``None`` when there is nothing to remember.
        agreement: () of the decoder's candidates; ``None`` if nobody wants to know.
        portrait: (9, 216) how the object looks; ``None``: unseen, or nobody wants to know.
        search: for it after the frame, if it is still lost.
    """

    sight: Sight
    chart: Chart
    label: str
    logits: Tensor
    score: Tensor
    object_logit: Tensor
    observation: Observation | None
    agreement: Tensor | None = None
    portrait: Tensor | None = None
    search: Search | None = None

    @property
    def visible(self) -> bool:
        """Whether the network sees the object."""
        return bool(self.object_logit > 0) and bool((self.logits > 0).any())


@dataclass(frozen=True)
class Outlook:
    """How one object is looked for after a frame.

    Attributes:
        close: its local views.
        zoomed: observation for their memory.
        told: observations for the panorama's memory.
        placed: index in the stream of the frame of the last of them.
        small: see :class:`Track`.
    """

    close: Close | None
    zoomed: Observation | None = None
    told: tuple[Observation, ...] = ()
    placed: int = 0
    small: int = 0
