"""The bounded memory of one object.

The bound is exact, not approximate: memory attention looks at the prompted maps, the last six
maps and the last fifteen pointers, so nothing older is kept but a few anchors, and one pointer per
confident frame for the long-term draws, capped. State size does not depend on the length of the
stream.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

ANCHOR_SPACING = 5  # frames; neighbours show the same


@dataclass(frozen=True)
class FrameMemory:
    """One frame as it is remembered.

    Attributes:
        frame: index in the stream.
        memory_map: (D, h, w).
        pointer: (C,).
        contested: something else could have been taken for the object, and was not
            (:mod:`panosam2_core.anchors`).
    """

    frame: int
    memory_map: Tensor
    pointer: Tensor
    contested: bool = False


@dataclass(frozen=True)
class LongTermEntry:
    """A frame of which only the object pointer is kept (paper 3.2).

    Attributes:
        frame: index in the stream.
        pointer: (C,).
        object_logit: visibility logit, above 0.
    """

    frame: int
    pointer: Tensor
    object_logit: float


@dataclass(frozen=True)
class Observation:
    """What one object leaves behind on one frame.

    Attributes:
        memory: of the frame.
        object_logit: visibility logit.
        prompted: the user said on this frame what the object is.
        previous_mask: (C, h, w) the mask as the next frame's decoder takes it.
        center: () long, token column of the object's centre.
        region: (1, 4h, 4w) bool, its mask; ``None`` when it was not seen.
    """

    memory: FrameMemory
    object_logit: Tensor
    prompted: bool
    previous_mask: Tensor
    center: Tensor
    region: Tensor | None


@dataclass
class ObjectMemory:
    """All that is remembered of one object. Tensors live on the model's device.

    Attributes:
        num_maps: maps that memory attention sees, the prompted one included (SAM2: 7).
        num_pointers: pointers that memory attention sees (SAM2: 16).
        max_prompted: prompted frames kept; the first one and the newest ones stay.
        long_capacity: long-term entries kept; the least visible one goes first.
        max_anchors: anchors kept; the oldest one goes first.
        prompted: frames on which the user said what the object is.
        recent: the last ``num_maps - 1`` tracked frames.
        anchors: contested frames that are no longer recent, oldest first.
        recent_pointers: (frame, pointer) of the last ``num_pointers - 1`` tracked frames.
        long_term: pointers of frames on which the object was seen, oldest first.
        long_pool: (long_capacity, C) rows that long-term pointers are copied into, so that the
            state has its final size at once; ``None`` in training, where gradients must pass.
        previous_mask: (C, h, w) the last frame's mask as the decoder takes it; ``None`` before
            the first frame and after time ran backwards.
        center: () long, token column of the object's centre when it was last seen.
        region: (1, 4h, 4w) bool, its mask when it was last seen; ``None`` before that.
        seen: index of that frame.
    """

    num_maps: int = 7
    num_pointers: int = 16
    max_prompted: int = 4
    long_capacity: int = 512
    max_anchors: int = 0
    prompted: list[FrameMemory] = field(default_factory=list)
    recent: deque[FrameMemory] = field(default_factory=deque)
    anchors: list[FrameMemory] = field(default_factory=list)
    recent_pointers: deque[tuple[int, Tensor]] = field(default_factory=deque)
    long_term: list[LongTermEntry] = field(default_factory=list)
    long_pool: Tensor | None = None
    _rows: list[int] = field(default_factory=list)
    previous_mask: Tensor | None = None
    center: Tensor | None = None
    region: Tensor | None = None
    seen: int = -1

    # torch's safe way of loading knows lists, but not deques.
    def __getstate__(self) -> dict[str, Any]:
        recent = {"recent": list(self.recent), "recent_pointers": list(self.recent_pointers)}
        return vars(self) | recent

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.recent, self.recent_pointers = deque(self.recent), deque(self.recent_pointers)

    def observe(self, observation: Observation) -> None:
        """Keep what a frame showed.

        Args:
            observation: newer than all before it.
        """
        memory = observation.memory
        (self.remember_prompted if observation.prompted else self.remember_tracked)(memory)
        logit = observation.object_logit.detach().item()
        self.remember_long(LongTermEntry(memory.frame, memory.pointer, logit))
        self.previous_mask, self.center = observation.previous_mask, observation.center
        if observation.region is not None:
            self.region, self.seen = observation.region, memory.frame

    def remember_prompted(self, memory: FrameMemory) -> None:
        """Keep a prompted frame.

        Args:
            memory: the frame. Replaces a prompted frame with the same index.
        """
        self.prompted = [m for m in self.prompted if m.frame != memory.frame] + [memory]
        if len(self.prompted) > self.max_prompted:
            del self.prompted[1 if self.max_prompted > 1 else 0]
        self._forget_old(memory.frame)

    def remember_tracked(self, memory: FrameMemory) -> None:
        """Keep a tracked frame and forget what attention no longer sees.

        Args:
            memory: the frame, newer than all before it.
        """
        self.recent.append(memory)
        self.recent_pointers.append((memory.frame, memory.pointer))
        self._forget_old(memory.frame)

    def _forget_old(self, now: int) -> None:
        """Drop what the frame after ``now`` will no longer look at."""
        while self.recent and now - self.recent[0].frame >= self.num_maps - 1:
            self._remember_anchor(self.recent.popleft())
        while self.recent_pointers and now - self.recent_pointers[0][0] >= self.num_pointers - 1:
            self.recent_pointers.popleft()

    def _remember_anchor(self, memory: FrameMemory) -> None:
        """Keep a contested frame that is no longer recent, if it is not too near the last one."""
        near = self.anchors and memory.frame - self.anchors[-1].frame < ANCHOR_SPACING
        if self.max_anchors and memory.contested and not near:
            self.anchors = [*self.anchors, memory][-self.max_anchors :]

    def remember_long(self, entry: LongTermEntry) -> None:
        """Keep a pointer for the long-term draws if the object was seen.

        Args:
            entry: ignored when its logit is not above 0.
        """
        if entry.object_logit <= 0:
            return
        row = len(self.long_term)
        if row == self.long_capacity:
            # Ties (a saturated logit) drop the oldest, so the bank keeps moving.
            weakest = min(range(row), key=lambda i: self.long_term[i].object_logit)
            if entry.object_logit < self.long_term[weakest].object_logit:
                return
            del self.long_term[weakest]
            row = self._rows.pop(weakest)
        if self.long_pool is not None:
            self.long_pool[row] = entry.pointer
            entry = replace(entry, pointer=self.long_pool[row])
        self.long_term.append(entry)
        self._rows.append(row)

    @property
    def lasting(self) -> list[FrameMemory]:
        """Frames that memory attention sees whatever their age: prompted ones, then anchors."""
        return [*self.prompted, *self.anchors]

    def long_candidates(self, frame: int) -> list[LongTermEntry]:
        """Entries older than the short window as seen from ``frame``.

        Paper silent on the prompted frame; left out because its map and pointer are attended to
        as such already, and its visibility, which the user vouches for, would win every draw.

        Args:
            frame: index of the current frame.

        Returns:
            Entries, oldest first.
        """
        known = {memory.frame for memory in self.lasting}
        return [
            entry
            for entry in self.long_term
            if frame - entry.frame >= self.num_maps and entry.frame not in known
        ]

    def forget_short_term(self) -> None:
        """Drop everything that depends on the order of time; prompted frames stay."""
        self.recent.clear()
        self.anchors.clear()
        self.recent_pointers.clear()
        self.long_term.clear()
        self._rows.clear()
        self.previous_mask = self.region = None

    def turned(self, columns: int) -> ObjectMemory:
        """The same memory of panoramas that were cut elsewhere.

        Args:
            columns: tokens by which the cut lies farther to the right.

        Returns:
            A new memory. It shares what a turn does not change.
        """

        def roll(part: Tensor, tokens: int) -> Tensor:
            return part.roll(-columns * (part.shape[-1] // tokens), dims=-1)

        def turn(memory: FrameMemory) -> FrameMemory:
            return replace(memory, memory_map=roll(memory.memory_map, tokens))

        tokens = self.prompted[0].memory_map.shape[-1]
        return replace(
            self,
            prompted=[turn(memory) for memory in self.prompted],
            recent=deque(turn(memory) for memory in self.recent),
            anchors=[turn(memory) for memory in self.anchors],
            recent_pointers=self.recent_pointers.copy(),
            long_term=self.long_term.copy(),
            _rows=self._rows.copy(),
            previous_mask=None if self.previous_mask is None else roll(self.previous_mask, tokens),
            center=None if self.center is None else (self.center - columns) % tokens,
            region=None if self.region is None else roll(self.region, tokens),
        )

    def detach(self) -> None:
        """Cut the graph: gradients of later frames end here (truncated back-propagation)."""

        def cut(memory: FrameMemory) -> FrameMemory:
            return replace(
                memory,
                memory_map=memory.memory_map.detach(),
                pointer=memory.pointer.detach(),
            )

        self.prompted = [cut(memory) for memory in self.prompted]
        self.recent = deque(cut(memory) for memory in self.recent)
        self.anchors = [cut(memory) for memory in self.anchors]
        self.recent_pointers = deque((t, pointer.detach()) for t, pointer in self.recent_pointers)
        self.long_term = [replace(e, pointer=e.pointer.detach()) for e in self.long_term]
        if self.previous_mask is not None:
            self.previous_mask = self.previous_mask.detach()

    def tensors(self) -> list[Tensor]:
        """Every tensor held, for counting bytes.

        Returns:
            Tensors; a pointer that stands in several places is listed once.
        """
        held = [t for m in (*self.lasting, *self.recent) for t in (m.memory_map, m.pointer)]
        held += [pointer for _, pointer in self.recent_pointers]
        if self.long_pool is None:
            held += [entry.pointer for entry in self.long_term]
        single = (self.long_pool, self.previous_mask, self.center, self.region)
        held += [tensor for tensor in single if tensor is not None]
        return list({id(t): t for t in held}.values())
