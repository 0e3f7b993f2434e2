"""The stream without a model: which prompts are taken, which are answered how."""

from __future__ import annotations

import time

import numpy as np
import pytest
from geometry_msgs.msg import Point
from panosam2_ros.msg import Prompt as PromptMsg
from panosam2_ros.msg import PromptResult
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_core import FrameResult, Prompt, PromptError, TrackerConfig
from panosam2_ros.images import to_image
from panosam2_ros.stream import Outcome, Rules, Stream


class Tracker:
    """Keeps ids and finds nothing."""

    def __init__(self) -> None:
        self.object_ids: tuple[int, ...] = ()
        self.config = TrackerConfig(max_objects=8)

    def check_prompt(self, prompt: Prompt, size_hw: tuple[int, int]) -> None:
        pass

    def step(self, rgb: np.ndarray, prompts: list[Prompt]) -> FrameResult:
        added = {p.object_id for p in prompts} - set(self.object_ids)
        self.object_ids = (*self.object_ids, *sorted(added))
        size_hw = rgb.shape[:2]
        labels = np.zeros(size_hw, np.uint16)
        return FrameResult(0, size_hw=size_hw, objects={}, labels=labels, stage_ms={})

    def remove(self, object_id: int) -> None:
        if object_id not in self.object_ids:
            raise PromptError("UNKNOWN_ID", f"no object {object_id}")
        self.object_ids = tuple(i for i in self.object_ids if i != object_id)

    def reset(self) -> None:
        self.object_ids = ()


@pytest.fixture
def stream() -> Stream:
    return Stream(Tracker(), Rules())


def header(sec: int = 100, nanosec: int = 0) -> Header:
    made = Header()
    made.stamp.sec, made.stamp.nanosec = sec, nanosec
    return made


def turn(stream: Stream, *orders: PromptMsg, sec: int = 100) -> Outcome:
    return stream.turn(to_image(header(sec), np.zeros((4, 8, 3), np.uint8), "rgb8"), orders,
                       is_new=True)  # fmt: skip


def click(object_id: int, **rest) -> PromptMsg:
    return PromptMsg(object_id=object_id, points=[Point(x=1.0, y=1.0)], **rest)


def two_labels(**rest) -> PromptMsg:
    data = np.array([[1, 2]], np.int32)
    mask = Image(height=1, width=2, step=8, encoding="32SC1", data=data.tobytes())
    return PromptMsg(mask=mask, **rest)


def codes(outcome: Outcome) -> dict[int, int]:
    return {answer.object_id: answer.code for answer in outcome.answers}


def test_max_frames_of_a_label_image_holds_for_all_its_objects(stream: Stream) -> None:
    turn(stream, two_labels(max_frames=2))
    assert stream.tracker.object_ids == (1, 2)
    turn(stream)
    assert stream.tracker.object_ids == ()


def test_a_refused_label_image_changes_nothing(stream: Stream) -> None:
    outcome = turn(stream, click(2), two_labels())
    assert [answer.code for answer in outcome.answers] == [
        PromptResult.OK, PromptResult.BAD_COORDS,
    ]  # fmt: skip
    assert stream.tracker.object_ids == (2,)


def test_a_correction_on_the_frame_that_adds_its_object_joins_that_prompt(stream: Stream) -> None:
    given: list[Prompt] = []
    step = stream.tracker.step
    stream.tracker.step = lambda rgb, prompts: given.extend(prompts) or step(rgb, prompts)
    correction = click(2, action=PromptMsg.REFINE)
    turn(stream, click(2), correction)
    turn(stream, correction)
    assert [(len(p.points), p.refine) for p in given] == [(2, False), (1, True)]


def test_a_correction_waits_for_its_frame_like_any_prompt(stream: Stream) -> None:
    later = click(3, action=PromptMsg.REFINE, header=header(100, 500_000_000))
    assert not turn(stream, later).answers
    assert stream.reset() == [later]


def test_reset_and_remove_answer_the_prompts_that_wait(stream: Stream) -> None:
    later = header(100, 500_000_000)
    assert not turn(stream, click(3, header=later), click(4, header=later)).answers
    outcome = turn(stream, PromptMsg(action=PromptMsg.REMOVE, object_id=3))
    assert [(a.object_id, a.code) for a in outcome.answers] == [
        (3, PromptResult.OK), (3, PromptResult.NOT_ACTIVE),
    ]  # fmt: skip
    outcome = turn(stream, click(5), PromptMsg(action=PromptMsg.RESET))
    assert codes(outcome)[4] == PromptResult.NOT_ACTIVE
    assert codes(outcome)[0] == PromptResult.OK
    assert stream.tracker.object_ids == ()
    assert not stream.reset()


def test_the_stream_hands_back_waiting_prompts_when_it_ends(stream: Stream) -> None:
    waiting = click(3, header=header(100, 500_000_000))
    turn(stream, waiting)
    assert stream.reset() == [waiting]
    assert not turn(stream, sec=101).answers


def test_a_prompt_whose_frame_does_not_come_is_answered_in_time(stream: Stream) -> None:
    """The last picture is looked at again: by then the prompt has waited for too long."""
    stream.rules = Rules(prompt_max_wait_s=0.2)
    assert not turn(stream, click(3, header=header(100, 500_000_000))).answers
    assert stream.is_waited_on
    standing = to_image(header(), np.zeros((4, 8, 3), np.uint8), "rgb8")
    early = stream.turn(standing, [], is_new=False)
    assert not early.answers
    time.sleep(0.25)
    late = stream.turn(standing, [], is_new=False)
    assert codes(late) == {3: PromptResult.STALE_FRAME}
    assert "stamp 0" in late.answers[0].message
    assert not late.is_result
    assert not stream.is_waited_on
    assert stream.tracker.object_ids == ()


def test_a_frame_that_comes_at_the_last_moment_still_gets_its_prompt(stream: Stream) -> None:
    stream.rules = Rules(prompt_max_wait_s=0.1)
    assert not turn(stream, click(3, header=header(101))).answers
    time.sleep(0.15)
    assert codes(turn(stream, sec=101)) == {3: PromptResult.OK}


def test_prompts_that_wait_are_given_up_also_when_the_picture_cannot_be_read(
    stream: Stream,
) -> None:
    stream.rules = Rules(prompt_max_wait_s=0.05)
    assert not turn(stream, click(3, header=header(100, 500_000_000))).answers
    time.sleep(0.1)
    outcome = stream.turn(Image(header=header(), encoding="odd"), [], is_new=True)
    assert codes(outcome) == {3: PromptResult.STALE_FRAME}
