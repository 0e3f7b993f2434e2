"""One camera's stream: prompts and frames in, answers and results out. Knows no topics."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from std_msgs.msg import Header

from panosam2_core import FrameResult, ObjectState, PanoTracker, Prompt, PromptError
from panosam2_core.prompting import resized
from panosam2_ros.axes import Axes
from panosam2_ros.images import ImageError, Pixels, pixels_of
from panosam2_ros.messages import LastSeen, free_ids, to_prompts
from panosam2_ros.msg import Prompt as PromptMsg
from panosam2_ros.msg import PromptResult
from panosam2_ros.ring import AnyImage, FrameRing, Kept
from panosam2_ros.stamps import stamp_ns

_log = logging.getLogger(__name__)

MAX_LABEL = 200  # characters; it is copied into every message about the object


@dataclass(frozen=True)
class Rules:
    """What a stream needs to know beside the tracker's own settings.

    Attributes:
        max_id: The largest object id that the label image can hold.
        lost_after_s: Seconds out of sight after which an object counts as lost.
        prompt_max_ahead_s: How far a prompt's stamp may be ahead of the newest frame.
        prompt_max_age_s: How far it may be behind it.
        max_points: Most clicks in a prompt.
        max_waiting: Most prompts that wait for their frame.
        prompt_max_wait_s: Seconds on the wall after which they are answered without it.
        max_pixels: Of a frame.
        axes: That directions in prompts are given in.
    """

    max_id: int = 254
    lost_after_s: float = 2.0
    prompt_max_ahead_s: float = 1.0
    prompt_max_age_s: float = 1.0
    max_points: int = 256
    max_waiting: int = 64
    prompt_max_wait_s: float = 3.0
    max_pixels: int = 64_000_000
    axes: Axes = field(default_factory=Axes)


@dataclass(frozen=True)
class Outcome:
    """What one turn of the stream gave.

    Attributes:
        rgb: (height, width, 3) uint8, the frame.
        result: What the tracker found, None if it tracks nothing.
        states: The state per object id.
        answers: One per prompt that was dealt with.
        is_new: Whether this frame had not been worked on before.
        is_result: Whether there is something to publish besides the answers.
        failure: What went wrong inside the tracker, if anything did.
    """

    rgb: Pixels | None
    result: FrameResult | None
    states: Mapping[int, ObjectState]
    answers: list[PromptResult]
    is_new: bool = True
    is_result: bool = False
    failure: Exception | None = None


@dataclass
class _Batch:
    """Prompts of one turn that passed all checks, and the answers so far.

    Attributes:
        answers: To all prompts that were dealt with.
        prompts: For the tracker, at most one per object.
        accepted: Those of the answers that the tracker's failure would turn into refusals.
        max_frames: Per prompted object id; 0 is no limit.
        late: Prompts for frames that have gone by, by stamp, with their frames since then.
        used: Headers of the frames that answers are about, where those are not the newest.
        caught_up: Whether a late prompt was carried out.
        failure: What went wrong inside the tracker on a frame that was caught up with.
    """

    answers: list[PromptResult] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    accepted: list[PromptResult] = field(default_factory=list)
    max_frames: dict[int, int] = field(default_factory=dict)
    late: dict[int, tuple[list[PromptMsg], list[Kept]]] = field(default_factory=dict)
    used: dict[int, Header] = field(default_factory=dict)
    caught_up: bool = False
    failure: Exception | None = None


@dataclass(frozen=True)
class _Waiting:
    """A prompt for a frame that is still to come, and since when (monotonic seconds) it waits."""

    order: PromptMsg
    since: float


class Stream:
    """Applies prompts to the frames they are meant for and steps the tracker."""

    def __init__(self, tracker: PanoTracker, rules: Rules, ring: FrameRing | None = None) -> None:
        """Starts an empty stream.

        Args:
            tracker: Holds the state of the objects.
            rules: See `Rules`; may be replaced between two turns.
            ring: Of the frames that have arrived; whoever receives them puts them in.
        """
        self.tracker = tracker
        self.rules = rules
        self.ring = ring or FrameRing(1)
        self.last_seen = LastSeen()
        self._waiting: list[_Waiting] = []
        self._frames_left: dict[int, int] = {}

    def reset(self) -> list[PromptMsg]:
        """Forgets all objects and prompts.

        Returns:
            The prompts that still waited for their frame; nobody has answered them.
        """
        self.tracker.reset()
        self.ring.clear()
        self.last_seen = LastSeen()
        self._frames_left.clear()
        waiting, self._waiting = self._waiting, []
        return [one.order for one in waiting]

    @property
    def is_waited_on(self) -> bool:
        """Whether a prompt waits for its frame, so that a turn is due also when no frame comes."""
        return bool(self._waiting)

    def turn(
        self, image: AnyImage | None, orders: Sequence[PromptMsg], *, is_new: bool
    ) -> Outcome:
        """Works on one frame.

        Args:
            image: The newest frame, None if none has come yet.
            orders: Prompts in the order in which they came.
            is_new: False if the tracker has already been given this frame.

        Returns:
            Answers and results.
        """
        batch = _Batch()
        if image is None:
            return Outcome(None, None, {}, self._without_frame(orders, _NO_FRAME, batch))
        try:
            rgb = pixels_of(image, self.rules.max_pixels)
        except ImageError as error:
            text = f"the newest image cannot be read: {error}"
            self._give_up(batch)
            answers = self._without_frame(orders, text, batch)
            return Outcome(None, None, {}, answers, is_new, failure=error)
        for order in self._due(orders, image, batch):
            if order.action not in _PROMPTING:  # what came before it is carried out before it
                self._catch_up(batch, is_new=is_new)
            self._take(order, rgb.shape[:2], batch)
        self._catch_up(batch, is_new=is_new)
        self._give_up(batch)
        is_result = is_new or bool(batch.prompts) or batch.caught_up
        result, failure = self._step(rgb, batch) if is_result else (None, None)
        if is_new:
            self.ring.mark_tracked(stamp_ns(image.header.stamp))
        for answer in batch.answers:
            answer.header = batch.used.get(id(answer), image.header)
            answer.object_ids = list(self.tracker.object_ids)
        states: Mapping[int, ObjectState] = {}
        if result is not None:
            states = self.last_seen.update(result, image.header.stamp, self.rules.lost_after_s)
            self._count_down(set(self._frames_left) if is_new else set(batch.max_frames))
        return Outcome(
            rgb,
            result,
            states,
            batch.answers,
            is_new,
            is_result and not failure,
            failure or batch.failure,
        )

    def _due(
        self, orders: Sequence[PromptMsg], image: AnyImage, batch: _Batch
    ) -> Iterator[PromptMsg]:
        """Yields the prompts for this frame; keeps those for a frame that is still to come.

        Those for a frame that has gone by are put into the batch for `_catch_up`.
        """
        arrived = time.monotonic()
        waiting, self._waiting = self._waiting, []
        now = stamp_ns(image.header.stamp)
        for one in (*waiting, *(_Waiting(order, arrived) for order in orders)):
            order = one.order
            wanted = stamp_ns(order.header.stamp)
            ahead_s = (wanted - now) * 1e-9
            if wanted == 0 or wanted == now or order.action not in _PROMPTING:
                yield order
            elif 0 < ahead_s <= self.rules.prompt_max_ahead_s:
                self._wait(one, batch)
            elif -self.rules.prompt_max_age_s <= ahead_s < 0 and (past := self.ring.since(wanted)):
                batch.late.setdefault(wanted, ([], past))[0].append(order)
            else:
                text = (
                    f"the prompt is for a frame {abs(ahead_s):.3f} s "
                    f"{'after' if ahead_s > 0 else 'before'} the newest one, which is no longer "
                    "or not yet at hand; click on a newer frame, or send stamp 0 for the newest"
                )
                batch.answers.append(_answer(order, "STALE_FRAME", text))

    def _wait(self, one: _Waiting, batch: _Batch) -> None:
        if len(self._waiting) < self.rules.max_waiting:
            self._waiting.append(one)
            return
        text = f"{self.rules.max_waiting} prompts wait for frames that are still to come already"
        batch.answers.append(_answer(one.order, "BUSY", text))

    def _give_up(self, batch: _Batch) -> None:
        """Answers prompts whose frame did not come in time: it was skipped, or none comes more."""
        limit_s = self.rules.prompt_max_wait_s
        since = time.monotonic() - limit_s
        text = (
            f"no image with the prompt's stamp was worked on within {limit_s:.1f} s; is the "
            "camera running? Click on a newer frame, or send stamp 0 for the newest"
        )
        overdue = [one.order for one in self._waiting if one.since < since]
        batch.answers += [_answer(order, "STALE_FRAME", text) for order in overdue]
        self._waiting = [one for one in self._waiting if one.since >= since]

    def _without_frame(
        self, orders: Sequence[PromptMsg], text: str, batch: _Batch
    ) -> list[PromptResult]:
        """Answers orders while there is no picture; what needs none is carried out."""
        for order in orders:
            if order.action in (PromptMsg.RESET, PromptMsg.REMOVE):
                self._take(order, (0, 0), batch)
            else:
                batch.answers.append(_answer(order, "NO_FRAME", text))
        for answer in batch.answers:
            answer.object_ids = list(self.tracker.object_ids)
        return batch.answers

    def _catch_up(self, batch: _Batch, *, is_new: bool) -> None:
        """Carries out the late prompts: those for one frame together, as if they came in time."""
        late, batch.late = batch.late, {}
        for _, (orders, past) in sorted(late.items()):
            # A picture that stands is worked on once more, now with the new objects.
            self._add_late(orders, past if is_new or len(past) == 1 else past[:-1], batch)

    def _add_late(self, orders: Sequence[PromptMsg], past: Sequence[Kept], batch: _Batch) -> None:
        """Prompts objects on a frame that has gone by, and follows them until now.

        Args:
            orders: Prompts for that frame.
            past: The frame, and those that the tracker has been given since.
            batch: Gets the answers.
        """
        then = _Batch()
        try:
            rgb = past[0].read()
        except ImageError as error:
            text = f"the image of that stamp cannot be read: {error}"
            batch.answers += [_answer(order, "STALE_FRAME", text) for order in orders]
            return
        for order in orders:
            try:
                self._join_late(order, past[0].size_hw or rgb.shape[:2], rgb, then, batch)
            except PromptError as error:
                then.answers.append(_answer(order, error.code, str(error)))
        batch.answers += then.answers
        batch.used |= {id(answer): past[0].header for answer in then.answers}
        if not then.prompts:
            return
        try:
            follower = self.tracker.behind(len(past))
            for index, kept in enumerate(past):
                follower.step(kept.read(), [] if index else then.prompts)
            self.tracker.take_over(follower)
        except Exception as error:
            batch.failure = error
            _refuse(then.accepted, f"the tracker failed on an earlier frame: {error}")
            return
        batch.caught_up = True
        for object_id, most in then.max_frames.items():
            self._frames_left.pop(object_id, None)
            if most:
                self._frames_left[object_id] = max(1, most - len(past))

    def _join_late(
        self,
        order: PromptMsg,
        size_hw: tuple[int, int],
        rgb: Pixels,
        then: _Batch,
        batch: _Batch,
    ) -> None:
        """Checks a late prompt and puts it to the others for its frame.

        Raises:
            PromptError: If it cannot be carried out.
        """
        if order.action == PromptMsg.REFINE:
            raise PromptError(
                "STALE_FRAME",
                "a correction is for the newest frame; send it with stamp 0, or prompt afresh",
            )
        # Of the ring's picture, which may be smaller than the image was.
        there = (rgb.shape[0], rgb.shape[1])
        asked = (*batch.prompts, *then.prompts)
        taken = [*self.tracker.object_ids, *(p.object_id for p in asked)]
        prompts = [resized(p, size_hw, there) for p in self._read(order, size_hw, taken)]
        self._admit(order, prompts, there, taken, then)

    def _take(self, order: PromptMsg, size_hw: tuple[int, int], batch: _Batch) -> None:
        """Carries out an order to forget; checks one to add and puts it into the batch."""
        dropped = self._dropped_by(order)
        try:
            if order.action == PromptMsg.RESET:
                self._forget([*self.tracker.object_ids, *batch.max_frames], batch)
                self.tracker.reset()
            elif order.action == PromptMsg.REMOVE:
                self._remove(order.object_id, batch, missing_ok=bool(dropped))
            elif order.action in _PROMPTING:
                self._add(order, size_hw, batch)
                return
            else:
                raise PromptError("BAD_COORDS", f"action must be 0 to 4, got {order.action}")
        except PromptError as error:
            batch.answers.append(_answer(order, error.code, str(error)))
        else:
            # First the one that was just sent: its sender takes the first answer for its own.
            batch.answers.append(_answer(order, "OK", "done"))
            self._drop_waiting(dropped, batch)

    def _dropped_by(self, order: PromptMsg) -> list[PromptMsg]:
        """Which prompts need not wait for their frame any more once this order is done."""
        if order.action == PromptMsg.RESET:
            return [one.order for one in self._waiting]
        if order.action == PromptMsg.REMOVE and order.object_id:
            waiting = (one.order for one in self._waiting)
            return [o for o in waiting if o.object_id == order.object_id]
        return []

    def _remove(self, object_id: int, batch: _Batch, *, missing_ok: bool = False) -> None:
        pending = missing_ok or object_id in batch.max_frames
        if object_id in self.tracker.object_ids or not pending:
            self.tracker.remove(object_id)  # raises if nobody knows it
        self._forget((object_id,), batch)

    def _drop_waiting(self, orders: Sequence[PromptMsg], batch: _Batch) -> None:
        """Answers prompts that waited for a frame, and forgets them."""
        text = "its object was removed before the frame that the prompt waited for came"
        batch.answers += [_answer(order, "NOT_ACTIVE", text) for order in orders]
        self._waiting = [one for one in self._waiting if one.order not in orders]

    def _forget(self, object_ids: Sequence[int], batch: _Batch) -> None:
        batch.prompts = [p for p in batch.prompts if p.object_id not in object_ids]
        for object_id in object_ids:
            self._frames_left.pop(object_id, None)
            batch.max_frames.pop(object_id, None)
            self.last_seen.forget(object_id)

    def _add(self, order: PromptMsg, size_hw: tuple[int, int], batch: _Batch) -> None:
        taken = [*self.tracker.object_ids, *(p.object_id for p in batch.prompts)]
        prompts = self._read(order, size_hw, taken)
        # An object that is new on this very frame was not seen yet: the clicks join its prompt.
        prompts = [replace(p, refine=False) if _earlier(p, batch) else p for p in prompts]
        self._admit(order, prompts, size_hw, taken, batch)

    def _admit(
        self,
        order: PromptMsg,
        prompts: Sequence[Prompt],
        size_hw: tuple[int, int],
        taken: Sequence[int],
        batch: _Batch,
    ) -> None:
        """Checks an order's prompts and puts them into the batch of their frame, or none of them.

        Args:
            order: Gets the answer.
            prompts: Read from it.
            size_hw: (height, width) of the picture that they are for.
            taken: Ids that are in use.
            batch: Of that picture.

        Raises:
            PromptError: If one of them cannot be.
        """
        for prompt in prompts:
            self._check(prompt, size_hw)
            if order.action != PromptMsg.REPLACE:
                _check_joins(prompt, batch)
        self._check_count([*taken, *(prompt.object_id for prompt in prompts)])
        for prompt in prompts:
            if order.action == PromptMsg.REPLACE:
                self._forget((prompt.object_id,), batch)
            _put(prompt, batch)
            batch.max_frames[prompt.object_id] = order.max_frames
        answer = _answer(order, "OK", "tracking")
        answer.object_id = prompts[0].object_id
        batch.answers.append(answer)
        batch.accepted.append(answer)

    def _read(
        self, order: PromptMsg, size_hw: tuple[int, int], taken: Sequence[int]
    ) -> list[Prompt]:
        """Reads a prompt message.

        Args:
            order: The message.
            size_hw: (height, width) of the image it is about.
            taken: Ids that are in use.

        Returns:
            One prompt per object.

        Raises:
            PromptError: If it cannot be read.
        """
        if len(order.points) > self.rules.max_points:
            raise PromptError(
                "BAD_COORDS",
                f"{len(order.points)} points are more than the {self.rules.max_points} allowed",
            )
        most = self.rules.max_pixels
        if order.mask.width * order.mask.height > most or len(order.mask.data) > 4 * most:
            raise PromptError("BAD_MASK", f"the mask has more than the {most} pixels allowed")
        if len(order.label) > MAX_LABEL:
            raise PromptError(
                "BAD_COORDS", f"the label has {len(order.label)} characters, over {MAX_LABEL}"
            )
        return to_prompts(
            order,
            size_hw,
            fov=self.tracker.config.fov if self.tracker.config.pano else None,
            free_ids=free_ids(taken, self.rules.max_id),
            axes=self.rules.axes,
            max_objects=self.tracker.config.max_objects,
        )

    def _check(self, prompt: Prompt, size_hw: tuple[int, int]) -> None:
        if prompt.object_id > self.rules.max_id:
            raise PromptError(
                "UNKNOWN_ID",
                f"object_id must be 1 to {self.rules.max_id}, got {prompt.object_id}; "
                "publish.label_encoding:=mono16 allows more",
            )
        self.tracker.check_prompt(prompt, size_hw)

    def _check_count(self, object_ids: Sequence[int]) -> None:
        limit = self.tracker.config.max_objects
        if len(set(object_ids)) > limit:
            raise PromptError(
                "TOO_MANY_OBJECTS", f"max_objects is {limit}; remove some objects first"
            )

    def _step(self, rgb: Pixels, batch: _Batch) -> tuple[FrameResult | None, Exception | None]:
        if not batch.prompts and not self.tracker.object_ids:
            return None, None
        try:
            result = self.tracker.step(rgb, prompts=batch.prompts)
        except Exception as error:
            _refuse(batch.accepted, f"the tracker failed on this frame: {error}")
            return None, error
        for object_id, max_frames in batch.max_frames.items():
            self._frames_left.pop(object_id, None)
            if max_frames:
                self._frames_left[object_id] = max_frames
        return result, None

    def _count_down(self, shown: Collection[int]) -> None:
        """Counts a frame for the objects that were shown on it for the first time."""
        for object_id in list(self._frames_left):
            self._frames_left[object_id] -= object_id in shown
            if self._frames_left[object_id] <= 0 and object_id in self.tracker.object_ids:
                _log.info("object %d reached its max_frames and is removed", object_id)
                self.tracker.remove(object_id)
                del self._frames_left[object_id]


def _earlier(prompt: Prompt, batch: _Batch) -> Prompt | None:
    return next((p for p in batch.prompts if p.object_id == prompt.object_id), None)


def _check_joins(prompt: Prompt, batch: _Batch) -> None:
    """Refuses what cannot be added to an earlier prompt for the same object and frame."""
    earlier = _earlier(prompt, batch)
    if earlier is None:
        return
    if earlier.mask is not None or prompt.mask is not None or prompt.box is not None:
        raise PromptError(
            "BAD_COORDS",
            f"object {prompt.object_id} already got a prompt on this frame; only points can be "
            "added to it. Send this one again with the next frame",
        )


def _put(prompt: Prompt, batch: _Batch) -> None:
    """Adds a prompt; more clicks on the same object and frame join the ones before."""
    earlier = _earlier(prompt, batch)
    if earlier is None:
        batch.prompts.append(prompt)
        return
    batch.prompts[batch.prompts.index(earlier)] = replace(
        earlier,
        points=[*earlier.points, *prompt.points],
        labels=[*_labels(earlier), *_labels(prompt)],
    )


def _refuse(accepted: Sequence[PromptResult], text: str) -> None:
    """Turns answers into refusals: a prompt is answered also when the tracker breaks."""
    for answer in accepted:
        answer.success = False
        answer.code = PromptResult.INTERNAL
        answer.message = text


def _labels(prompt: Prompt) -> list[int]:
    return list(prompt.labels) or [1] * len(prompt.points)


_PROMPTING = (PromptMsg.ADD, PromptMsg.REPLACE, PromptMsg.REFINE)
_NO_FRAME = (
    "no image has arrived yet; is the camera running, and on the topic the node listens to?"
)


def _answer(order: PromptMsg, code: str, message: str) -> PromptResult:
    return PromptResult(
        object_id=order.object_id,
        request_id=order.request_id,
        success=code == "OK",
        code=getattr(PromptResult, code),
        message=message,
    )


def refusal(order: PromptMsg, code: str, message: str) -> PromptResult:
    """Answers a prompt that cannot be looked at at all.

    Args:
        order: The prompt.
        code: The name of a constant of PromptResult.
        message: What was expected, what came, how to mend it.

    Returns:
        The answer.
    """
    return _answer(order, code, message)
