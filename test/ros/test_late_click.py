"""A click on a frame that is half a second old, while the object moves fast."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from panosam2_ros.msg import Prompt, PromptResult
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panosam2_core import PanoTracker, TrackerConfig, load_model
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_core.model import PanoSAM2
from panosam2_ros.images import to_image
from panosam2_ros.ring import FrameRing
from panosam2_ros.stamps import to_stamp
from panosam2_ros.stream import Outcome, Rules, Stream

PERIOD_NS, LATE = 100_000_000, 5


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    """The demo's object, which the turning camera moves by several times its width."""
    world = SyntheticWorld(split="demo").clip(0, size_hw=(256, 512))
    drawn = [world.frame(t) for t in range(0, 48, 4)]
    return [
        (
            np.ascontiguousarray(f.image.permute(1, 2, 0).numpy()),
            f.labels.numpy() == world.target_id,
        )
        for f in drawn
    ]


def iou_now(clip: list, frames: int, *, stamped: bool) -> tuple[int, float]:
    """Code of the answer, and how well the object is followed on the newest frame."""
    # Every fourth frame: the object moves farther at a time than a local view reaches.
    config = TrackerConfig(motion_gate_deg=60.0, view="sphere")
    tracker = PanoTracker(load_model("nano", device="cpu"), config)
    stream = Stream(tracker, Rules(), FrameRing(frames))
    asked = 1
    rows, columns = np.nonzero(clip[asked][1])
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    prompt = Prompt(points=[Point(x=columns[middle] + 0.5, y=rows[middle] + 0.5)])
    if stamped:
        prompt.header.stamp = to_stamp(10**9 + asked * PERIOD_NS)
    code = -1
    for t, (rgb, _) in enumerate(clip[: asked + LATE + 3]):
        image = to_image(Header(stamp=to_stamp(10**9 + t * PERIOD_NS)), rgb, "rgb8")
        stream.ring.put(image)
        orders = [prompt] if t == asked + LATE else []
        outcome = stream.turn(image, orders, is_new=True)
        code = outcome.answers[0].code if outcome.answers else code
    truth = clip[asked + LATE + 2][1]
    if outcome.result is None:
        return code, 0.0
    found = outcome.result.labels > 0
    return code, float((found & truth).sum() / (found | truth).sum())


def test_the_object_that_was_clicked_is_followed_not_what_is_there_now(clip: list) -> None:
    here, there = (np.argwhere(clip[t][1]).mean(axis=0) for t in (1, 1 + LATE))
    width = np.ptp(np.nonzero(clip[1][1])[1])
    assert abs(there[1] - here[1]) > width, "the object has left the place of the click"
    code, iou = iou_now(clip, 8, stamped=True)
    assert code == PromptResult.OK
    assert iou > 0.4
    code, without = iou_now(clip, 1, stamped=True)
    assert code == PromptResult.STALE_FRAME
    assert without == 0
    _, blind = iou_now(clip, 8, stamped=False)
    assert blind < 0.2, "the same click on the newest frame means something else"


@pytest.fixture(scope="module")
def network() -> PanoSAM2:
    return load_model("nano", device="cpu", input_size=(64, 128))


def frame(t: int, value: int | None = None) -> Image:
    generator = np.random.default_rng(t if value is None else value)
    pixels = generator.integers(128, 170, (64, 128, 3), dtype=np.uint8)
    return to_image(Header(stamp=to_stamp(10**9 + t * PERIOD_NS)), pixels, "rgb8")


def asked(object_id: int, t: int | None, u: float = 40.0, **rest) -> Prompt:
    prompt = Prompt(object_id=object_id, points=[Point(x=u, y=30.0)], **rest)
    if t is not None:
        prompt.header.stamp = to_stamp(10**9 + t * PERIOD_NS)
    return prompt


def play(stream: Stream, orders: dict[int, list[Prompt]], frames: int = 6) -> list[Outcome]:
    outcomes = []
    for t in range(frames):
        stream.ring.put(frame(t))
        outcomes.append(stream.turn(frame(t), orders.get(t, []), is_new=True))
    return outcomes


def new_stream(network: PanoSAM2) -> Stream:
    config = TrackerConfig(occluded_below=0.0)
    return Stream(PanoTracker(network, config), Rules(), FrameRing(8))


def test_clicks_for_one_late_frame_belong_together(network: PanoSAM2) -> None:
    """As they do in time: joined where they are for one object, and followed in one go."""
    both = [asked(1, 1, label="cup"), asked(1, 1, 60.0), asked(2, 1, 90.0)]
    steps = []
    late = new_stream(network)
    behind = late.tracker.behind

    def counted(frames: int) -> PanoTracker:
        steps.append(frames)
        return behind(frames)

    late.tracker.behind = counted
    found = play(late, {4: both})
    timely = play(new_stream(network), {1: both})
    assert steps == [3], "one follower for all of them"
    assert [a.success for a in found[4].answers] == [True] * 3
    for i in (1, 2):
        one, other = found[-1].result.objects[i], timely[-1].result.objects[i]
        assert np.allclose(one.logits, other.logits, atol=1e-3)
        assert (one.age, one.label) == (other.age, other.label)
    assert found[-1].result.objects[1].label == "cup"


def test_a_late_prompt_keeps_the_name_and_does_not_outdo_a_newer_one(network: PanoSAM2) -> None:
    stream = new_stream(network)
    found = play(
        stream,
        {1: [asked(1, None, label="cup")], 4: [asked(1, None, 90.0, label="new"), asked(1, 2)]},
    )
    assert all(answer.success for answer in found[4].answers)
    assert found[-1].result.objects[1].label == "new"
    again = new_stream(network)
    found = play(again, {1: [asked(1, None, label="cup")], 4: [asked(1, 2)]})
    assert found[-1].result.objects[1].label == "cup"


@pytest.mark.parametrize("is_new", [True, False])
def test_max_frames_counts_the_frame_of_the_prompt(network: PanoSAM2, is_new: bool) -> None:
    stream = new_stream(network)
    play(stream, {}, frames=2)
    if is_new:
        stream.ring.put(frame(2))
    outcome = stream.turn(frame(2 if is_new else 1), [asked(1, None, max_frames=1)], is_new=is_new)
    assert set(outcome.result.objects) == {1}
    outcome = stream.turn(frame(3), [], is_new=True)
    assert outcome.result is None or not outcome.result.objects


def test_a_late_prompt_on_a_standing_picture_is_shown_at_once(network: PanoSAM2) -> None:
    stream = new_stream(network)
    play(stream, {}, frames=5)
    outcome = stream.turn(frame(4), [asked(3, 2)], is_new=False)
    assert outcome.is_result
    assert set(outcome.result.objects) == {3}
    assert outcome.answers[0].header.stamp == frame(2).header.stamp


def test_a_label_image_with_too_many_objects_is_refused_before_masks_are_made(
    network: PanoSAM2,
) -> None:
    stream = new_stream(network)
    labels = np.arange(1, 2501, dtype=np.int32).reshape(50, 50)
    prompt = Prompt(mask=to_image(Header(), labels, "32SC1"))
    tracemalloc.start()
    outcome = stream.turn(frame(0), [prompt], is_new=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.answers[0].code == PromptResult.TOO_MANY_OBJECTS
    assert peak < 5e6, "2500 masks of 64x128 would be 20 MB"


def test_replacing_on_a_frame_that_fails_keeps_the_object(network: PanoSAM2) -> None:
    stream = new_stream(network)
    play(stream, {0: [asked(1, None, label="cup")]}, frames=3)
    before = stream.tracker.snapshot()
    encode, network.encode_memory = network.encode_memory, None
    try:
        again = asked(1, None, action=Prompt.REPLACE)
        outcome = stream.turn(frame(3), [again], is_new=True)
    finally:
        network.encode_memory = encode
    assert outcome.answers[0].code == PromptResult.INTERNAL
    assert stream.tracker.snapshot() == before
    outcome = stream.turn(frame(3), [again], is_new=True)
    assert (outcome.result.objects[1].age, outcome.result.objects[1].label) == (0, "")


def test_to_forget_needs_no_picture(network: PanoSAM2) -> None:
    stream = new_stream(network)
    play(stream, {0: [asked(1, None)]}, frames=2)
    broken = CompressedImage(header=frame(3).header, format="jpeg", data=[1, 2, 3])
    outcome = stream.turn(broken, [asked(5, None), Prompt(action=Prompt.RESET)], is_new=True)
    assert [a.code for a in outcome.answers] == [PromptResult.NO_FRAME, PromptResult.OK]
    assert outcome.failure is not None
    assert stream.tracker.object_ids == ()


def test_the_ring_decodes_no_picture_that_is_too_large(network: PanoSAM2) -> None:
    stream = new_stream(network)
    stream.rules = Rules(max_pixels=10_000)
    jpeg = cv2.imencode(".png", np.zeros((200, 400, 3), np.uint8))[1]
    huge = CompressedImage(header=frame(0).header, format="png", data=jpeg.reshape(-1).tolist())
    stream.ring.put(huge, 10_000)
    stream.ring.put(frame(1))
    outcome = stream.turn(frame(1), [asked(1, 0)], is_new=True)
    assert outcome.answers[0].code == PromptResult.STALE_FRAME
    assert "cannot be read" in outcome.answers[0].message
    assert outcome.failure is None


def test_a_removed_object_leaves_no_stamp_to_the_next_of_its_name(network: PanoSAM2) -> None:
    stream = new_stream(network)
    play(stream, {0: [asked(1, None)]}, frames=2)
    assert stream.last_seen.stamp(1) != Time()
    stream.turn(frame(2), [Prompt(action=Prompt.REMOVE, object_id=1)], is_new=True)
    assert stream.last_seen.stamp(1) == Time()
