"""A click on a frame that is half a second old, while the object moves fast."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import Point
from panosam2_ros.msg import Prompt, PromptResult
from std_msgs.msg import Header

from panosam2_core import PanoTracker, TrackerConfig, load_model
from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_ros.images import to_image
from panosam2_ros.ring import FrameRing
from panosam2_ros.stamps import to_stamp
from panosam2_ros.stream import Rules, Stream

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
    tracker = PanoTracker(load_model("nano", device="cpu"), TrackerConfig(motion_gate_deg=60.0))
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
