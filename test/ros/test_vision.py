"""`~/label_info` and `~/detections`, where vision_msgs is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import Scene, Tester, start_tracker
from panosam2_ros.msg import Prompt, TrackedObject, TrackedObjectArray

from panosam2_ros import vision
from panosam2_ros.images import to_image
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns

needs_vision = pytest.mark.skipif(
    not vision.AVAILABLE, reason="vision_msgs is not installed, and there is no wheel of it"
)


def boxed(object_id: int, box: tuple[float, ...], **fields: Any) -> TrackedObject:
    return TrackedObject(id=object_id, box=list(box), **fields)


@needs_vision
@pytest.mark.parametrize(("x", "centre"), [(10.0, 25.0), (246.0, 5.0), (236.0, 251.0)])
def test_one_box_per_object_that_is_seen(x: float, centre: float) -> None:
    hidden = boxed(2, (0.0, 0.0, 0.0, 0.0), state=TrackedObject.OCCLUDED)
    seen = boxed(7, (x, 20.0, 30.0, 10.0), visibility=0.75)
    objects = TrackedObjectArray(image_width=256, image_height=128, objects=[hidden, seen])
    (found,) = vision.to_detections(objects).detections
    where = found.bbox.center.position
    assert (where.x, where.y) == (centre, 25.0)
    assert (found.bbox.size_x, found.bbox.size_y) == (30.0, 10.0)
    (result,) = found.results
    assert (found.id, result.hypothesis.class_id, result.hypothesis.score) == ("7", "7", 0.75)


@needs_vision
def test_detections_and_names_come_out_of_the_node(env, tmp_path, scene: Scene) -> None:
    from vision_msgs.msg import Detection2DArray, LabelInfo

    name = "/vision/panosam2"
    detections: dict[int, Detection2DArray] = {}
    names: list[dict[int, str]] = []
    mask = np.zeros(scene.frames[0].shape[:2], np.uint8)
    mask[40:80, :20] = mask[40:80, -12:] = 255
    with start_tracker(env, tmp_path / "log", "/vision", "warmup_frames:=0"):
        tester = Tester(name, "/vision/image")
        tester.node.create_subscription(
            Detection2DArray,
            f"{name}/detections",
            lambda m: detections.update({stamp_ns(m.header.stamp): m}),
            profile(5),
        )

        def heard() -> bool:
            tester.image.publish(to_image(tester.header(), scene.frames[0], "rgb8"))
            tester.spin(0.3)
            return bool(detections)

        tester.connect()
        tester.greet(scene.frames[0])
        tester.until(heard, "detections, also when there are none")
        stamp = tester.send(scene.frames[0])
        picture = to_image(tester.header(0), mask, "mono8")
        assert tester.ask(Prompt(object_id=6, mask=picture, label="door")).success
        tester.until(lambda: bool(tester.heard.objects[stamp].objects), "the object")
        tester.until(lambda: bool(detections[stamp].detections), "its detection")
        # Latched: whoever comes later hears the names that hold.
        tester.node.create_subscription(
            LabelInfo,
            f"{name}/label_info",
            lambda m: names.append({c.class_id: c.class_name for c in m.class_map}),
            profile(1, transient_local=True),
        )
        tester.until(lambda: bool(names), "the names")
        assert tester.ask(Prompt(action=Prompt.RESET)).success
        tester.send(scene.frames[1])
        tester.until(lambda: len(names) == 2, "the names after that")
        tester.close()
    assert names == [{0: "background", 6: "door"}, {0: "background"}]
    (found,) = detections[stamp].detections
    (seen,) = tester.heard.objects[stamp].objects
    assert seen.crosses_seam
    assert detections[stamp].header == tester.heard.objects[stamp].header == found.header
    x, y, width, height = seen.box
    where = found.bbox.center.position
    assert where.x == pytest.approx((x + width / 2) % 256)
    assert where.y == pytest.approx(y + height / 2)
    assert (found.bbox.size_x, found.bbox.size_y, found.id) == (width, height, "6")
