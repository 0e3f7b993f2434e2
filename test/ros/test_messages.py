from __future__ import annotations

import math

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from panosam2_ros.msg import Prompt as PromptMsg
from std_msgs.msg import Header

from panosam2_core import FrameResult, ObjectResult, ObjectState, Prompt, PromptError
from panosam2_core.field_of_view import FieldOfView
from panosam2_ros.images import to_image
from panosam2_ros.messages import LastSeen, free_ids, to_object_array, to_prompts

SIZE_HW = (100, 200)


def read(msg: PromptMsg, *, pano: bool = True) -> list[Prompt]:
    fov = FieldOfView() if pano else None
    return to_prompts(msg, SIZE_HW, fov=fov, free_ids=free_ids([1, 2, 4], 254))


def pixel(coordinates: int, x: float, y: float, z: float = 0.0) -> tuple[float, float]:
    (prompt,) = read(PromptMsg(coordinates=coordinates, points=[Point(x=x, y=y, z=z)]))
    return prompt.points[0]


@pytest.mark.parametrize(
    ("lon_deg", "lat_deg", "expected"),
    [
        (0, 0, (100, 50)),  # straight ahead is the middle
        (90, 0, (50, 50)),  # left of the robot is left in the picture
        (-90, 45, (150, 25)),
        (450, 0, (50, 50)),  # once around and on
        (180, 0, (0, 50)),  # behind is the seam
    ],
)
def test_all_coordinates_name_the_same_pixel(lon_deg, lat_deg, expected) -> None:
    u, v = expected
    lon, lat = math.radians(lon_deg), math.radians(lat_deg)
    bearing = (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat))
    assert pixel(PromptMsg.PIXEL, u, v) == (u, v)
    assert pixel(PromptMsg.NORMALIZED, u / 200, v / 100) == pytest.approx((u, v))
    for found in (
        pixel(PromptMsg.LONLAT_DEG, lon_deg, lat_deg),
        pixel(PromptMsg.BEARING, *bearing),
        pixel(PromptMsg.BEARING, *(3 * b for b in bearing)),
    ):
        assert (found[0] - u + 100) % 200 - 100 == pytest.approx(0, abs=1e-6)
        assert found[1] == pytest.approx(v)


def test_the_last_edges_are_still_inside() -> None:
    u, v = pixel(PromptMsg.NORMALIZED, 1.0, 1.0)
    assert 199 < u < 200
    assert 99 < v < 100
    assert 99 < pixel(PromptMsg.LONLAT_DEG, 0, -90)[1] < 100


def test_angles_need_a_panorama() -> None:
    msg = PromptMsg(coordinates=PromptMsg.BEARING, points=[Point(x=1.0)])
    with pytest.raises(PromptError, match="equirectangular"):
        read(msg, pano=False)


def test_an_object_without_id_gets_the_first_free_one() -> None:
    assert read(PromptMsg(points=[Point()]))[0].object_id == 3
    assert read(PromptMsg(points=[Point()], object_id=9))[0].object_id == 9


def test_no_free_id() -> None:
    with pytest.raises(PromptError, match="in use") as caught:
        next(free_ids([1, 2], 2))
    assert caught.value.code == "TOO_MANY_OBJECTS"


def test_a_box_may_cross_the_seam() -> None:
    assert read(PromptMsg(box=[180.0, 10.0, 20.0, 30.0]))[0].box == (180, 10, 20, 30)
    box = read(PromptMsg(box=[-144.0, 72.0, 144.0, 36.0], coordinates=PromptMsg.LONLAT_DEG))[0].box
    assert box == pytest.approx((180, 10, 20, 30))


def test_a_mask_of_another_size_is_fitted() -> None:
    small = np.zeros((10, 20), np.uint8)
    small[2:4, 5:8] = 255
    (prompt,) = read(PromptMsg(mask=to_image(Header(), small, "mono8")))
    assert prompt.mask.shape == SIZE_HW
    assert prompt.mask.sum() == 100 * 6


def test_a_label_image_adds_every_object_in_it() -> None:
    labels = np.zeros(SIZE_HW, np.int32)
    labels[0, 0], labels[1, 1:3] = 5, 8
    prompts = read(PromptMsg(mask=to_image(Header(), labels, "32SC1"), label="car"))
    assert [(p.object_id, p.label, int(p.mask.sum())) for p in prompts] == [
        (5, "car", 1),
        (8, "car", 2),
    ]


def _found(state: ObjectState, object_id: int = 1) -> ObjectResult:
    return ObjectResult(
        object_id=object_id, label="cup", state=state, mask=np.zeros(SIZE_HW, bool),
        logits=np.zeros((1, 1), np.float32), visibility=0.9, visibility_logit=2.0, mask_score=0.8,
        area_px=12, solid_angle_sr=0.1, crosses_seam=True, box=(190.0, 1.0, 20.0, 3.0), lon=0.1,
        lat=0.2, bearing=np.array([1.0, 0.0, 0.0]), angular_width=0.3, angular_height=0.4, age=5,
        frames_since_seen=0,
    )  # fmt: skip


def _frame(state: ObjectState) -> FrameResult:
    labels = np.zeros(SIZE_HW, np.uint16)
    return FrameResult(0, SIZE_HW, {1: _found(state)}, labels, {})


def test_a_hidden_object_is_lost_after_a_while() -> None:
    seen = LastSeen()
    assert seen.update(_frame(ObjectState.VISIBLE), Time(sec=10), 2.0)[1] == ObjectState.VISIBLE
    assert seen.update(_frame(ObjectState.OCCLUDED), Time(sec=12), 2.0)[1] == ObjectState.OCCLUDED
    late = Time(sec=12, nanosec=1)
    assert seen.update(_frame(ObjectState.OCCLUDED), late, 2.0)[1] == ObjectState.LOST
    assert seen.stamp(1) == Time(sec=10)


def test_an_object_message_holds_what_was_found() -> None:
    header, seen = Header(frame_id="cam"), LastSeen()
    result = _frame(ObjectState.VISIBLE)
    states = seen.update(result, Time(sec=3), 2.0)
    msg = to_object_array(
        header, result, size_hw=SIZE_HW, states=states, last_seen=seen, with_masks=True
    )
    assert msg.header == header
    assert (msg.image_height, msg.image_width, msg.label_height, msg.label_width) == (
        *SIZE_HW,
    ) * 2
    (found,) = msg.objects
    assert (found.id, found.label, found.state, found.crosses_seam) == (1, "cup", 0, True)
    assert list(found.box) == [190, 1, 20, 3]
    assert found.last_seen == Time(sec=3)
    assert (found.mask.encoding, found.mask.width, found.mask.height) == ("mono8", 200, 100)
