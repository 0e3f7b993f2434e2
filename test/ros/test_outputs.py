"""What goes out of the node beside masks: pictures, markers, and a view that follows."""

from __future__ import annotations

import io
import math
import time

import numpy as np
import PIL.Image
import pytest
from geometry_msgs.msg import Point, TransformStamped
from harness import PATIENCE_S, Scene, Tester
from hypothesis import given, settings
from hypothesis import strategies as st
from panosam2_ros.msg import Prompt, TrackedObjectArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from test_inputs import TRACKER, click, set_parameter
from visualization_msgs.msg import Marker, MarkerArray

from panosam2_core import ObjectState, TrackerConfig
from panosam2_core.field_of_view import FieldOfView
from panosam2_core.geometry.region import measure
from panosam2_core.results import FrameResult, ObjectResult
from panosam2_ros import outputs
from panosam2_ros.axes import Axes
from panosam2_ros.follow import Follower, _quaternion
from panosam2_ros.images import to_rgb
from panosam2_ros.markers import to_markers
from panosam2_ros.parameters import SETTINGS
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns, to_stamp
from panosam2_ros.stream import Outcome

ANGLES = st.floats(-math.pi, math.pi)
NAMES = st.sampled_from([Axes(), Axes(0.7), Axes(-3.0, True), Axes(0.0, True)])


def unit(lon: float, lat: float) -> tuple[float, float, float]:
    """x forward, y left, z up."""
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


@given(lon=ANGLES, lat=st.floats(-1.5, 1.5), axes=NAMES)
def test_axes_there_and_back(lon: float, lat: float, axes: Axes) -> None:
    vector = unit(lon, lat)
    assert axes.vector_in(axes.vector_out(vector)) == pytest.approx(vector, abs=1e-9)
    assert math.remainder(axes.lon_in(axes.lon_out(lon)) - lon, math.tau) == pytest.approx(0)
    x, y, z = axes.vector_out(vector)
    if axes.optical:  # x right, y down, z forward
        x, y, z = z, -x, -y
    assert math.remainder(math.atan2(y, x) - axes.lon_out(lon), math.tau) == pytest.approx(
        0, abs=1e-6
    )
    assert z == pytest.approx(math.sin(lat))


@given(stamp=st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_there_and_back(stamp: int) -> None:
    assert stamp_ns(to_stamp(stamp)) == stamp


def result_of(mask: np.ndarray, object_id: int = 3, state=ObjectState.VISIBLE) -> FrameResult:
    region = measure(mask, pano=True)
    found = ObjectResult(
        object_id=object_id,
        label="cup",
        state=state,
        mask=mask,
        logits=np.zeros((4, 8), np.float32),
        visibility=0.9,
        visibility_logit=2.0,
        mask_score=0.8,
        age=1,
        frames_since_seen=0,
        **{name: getattr(region, name) for name in region.__dataclass_fields__},
    )
    return FrameResult(0, mask.shape, {object_id: found}, mask.astype(np.uint16), {})


def spot(column: int, row: int, size: int = 6) -> np.ndarray:
    """A square thing, 128x256, may go on across the seam."""
    mask = np.zeros((128, 256), bool)
    columns = np.arange(column - size, column + size) % 256
    mask[row - size : row + size, columns] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(column=st.integers(0, 255), row=st.integers(20, 108), axes=NAMES)
def test_markers_lie_where_the_object_is(column: int, row: int, axes: Axes) -> None:
    header = Header(frame_id="camera")
    result = result_of(spot(column, row))
    states = {3: ObjectState.VISIBLE}
    msg = to_markers(header, result, states, fov=FieldOfView(), axes=axes, frame_id="")
    kinds = {marker.ns: marker for marker in msg.markers}
    assert set(kinds) == {"bearing", "label", "outline"}
    assert kinds["label"].text == "cup"
    lon, lat = (128 - column) * math.tau / 256, (64 - row) * math.pi / 128
    expected = np.array(axes.vector_out(unit(lon, lat)))
    tip = kinds["bearing"].points[1]
    assert np.array([tip.x, tip.y, tip.z]) @ expected > 0.95 * math.cos(0.05)
    for point in kinds["outline"].points:
        where = np.array([point.x, point.y, point.z])
        assert np.linalg.norm(where) == pytest.approx(1)
        assert where @ expected > math.cos(0.35)
    ends = [np.array([p.x, p.y, p.z]) for p in kinds["outline"].points]
    lengths = [np.linalg.norm(a - b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    assert max(lengths) < 0.5, "no line through the sphere"


def test_what_is_hidden_has_no_marker() -> None:
    result = result_of(spot(40, 60), state=ObjectState.OCCLUDED)
    states = {3: ObjectState.OCCLUDED}
    msg = to_markers(Header(), result, states, fov=FieldOfView(), axes=Axes(), frame_id="map")
    assert not msg.markers
    shown = to_markers(
        Header(), result, {3: ObjectState.VISIBLE}, fov=FieldOfView(), axes=Axes(), frame_id="map"
    )
    assert {marker.header.frame_id for marker in shown.markers} == {"map"}


IMAGE_AXES = Axes()


def view_of(column: int, row: int, axes: Axes = IMAGE_AXES, **rest):
    mask = spot(column, row)
    rgb = np.zeros((128, 256, 3), np.uint8)
    rgb[mask] = (255, 30, 30)
    follower = Follower()
    follower.aim(result_of(mask), 0)
    settings = {"hfov": 1.2, "size_hw": (90, 120), "axes": axes, "frame_id": "", **rest}
    return follower.look(Header(frame_id="head"), rgb, **settings)


@settings(max_examples=30, deadline=None)
@given(column=st.integers(0, 255), row=st.integers(14, 113))
def test_the_object_is_in_the_middle_of_the_view(column: int, row: int) -> None:
    view = view_of(column, row)
    red = to_rgb(view.image)[..., 0] > 128
    rows, columns = np.nonzero(red)
    assert len(rows) > 20
    assert abs(columns.mean() - 59.5) < 6
    assert abs(rows.mean() - 44.5) < 8


def rotated(transform: TransformStamped, vector: np.ndarray) -> np.ndarray:
    """By the quaternion of the transform, written out."""
    q = transform.transform.rotation
    u, s = np.array([q.x, q.y, q.z]), q.w
    return 2 * (u @ vector) * u + (s * s - u @ u) * vector + 2 * s * np.cross(u, vector)


@settings(max_examples=30, deadline=None)
@given(column=st.integers(0, 255), row=st.integers(14, 113), axes=NAMES)
def test_camera_matrix_and_transform_lead_back_to_the_panorama(
    column: int, row: int, axes: Axes
) -> None:
    """A corner of the view: pixel -> ray by K -> bearing frame by the transform -> panorama."""
    view = view_of(column, row, axes)
    k = view.info.k
    assert (view.info.width, view.info.height) == (120, 90)
    assert (k[2], k[5]) == (59.5, 44.5)
    assert 2 * math.atan(60 / k[0]) == pytest.approx(1.2)
    # Forward is where the object is, and a step to the right is to the right of it, level.
    lon, lat = (128 - column) * math.tau / 256, (64 - row) * math.pi / 128
    ahead = rotated(view.transform, np.array([0.0, 0.0, 1.0]))
    assert ahead @ np.array(axes.vector_out(unit(lon, lat))) > math.cos(0.06)
    right = rotated(view.transform, np.array([1.0, 0.0, 0.0]))
    x, y, z = axes.vector_in(tuple(right))
    assert z == pytest.approx(0, abs=1e-6)
    level = np.array(unit(lon - math.pi / 2, 0.0))
    assert np.array([x, y, z]) @ level > 0.9
    assert view.transform.header.frame_id == "head"
    assert view.transform.child_frame_id == view.info.header.frame_id == "head_follow"


@given(
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: math.hypot(*v) > 0.1),
    angle=st.floats(-math.pi, math.pi),
)
def test_quaternions_are_those_of_the_matrix(axis: tuple, angle: float) -> None:
    n = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    q = np.array(_quaternion(matrix))
    expected = np.array([*(n * math.sin(angle / 2)), math.cos(angle / 2)])
    assert min(np.abs(q - expected).max(), np.abs(q + expected).max()) < 1e-6


def test_the_view_stays_while_the_object_is_hidden_and_goes_with_it() -> None:
    follower, rgb = Follower(), np.zeros((128, 256, 3), np.uint8)
    look = {"hfov": 1.0, "size_hw": (9, 16), "axes": Axes(), "frame_id": ""}
    assert follower.look(Header(), rgb, **look) is None
    follower.aim(result_of(spot(40, 60)), 0)
    first = follower.look(Header(), rgb, **look)
    follower.aim(result_of(spot(200, 60), state=ObjectState.OCCLUDED), 0)
    assert follower.look(Header(), rgb, **look).transform == first.transform
    follower.aim(result_of(spot(200, 60), object_id=8), 0)
    assert follower.look(Header(), rgb, **look).transform != first.transform
    follower.aim(result_of(spot(200, 60)), 77)
    assert follower.look(Header(), rgb, **look) is None
    follower.aim(None, 0)
    assert follower.look(Header(), rgb, **look) is None


def test_pictures_and_markers_go_out_while_somebody_listens(fresh: Tester, scene: Scene) -> None:
    heard: dict[str, object] = {}
    kinds = {
        "overlay/compressed": CompressedImage,
        "follow/image_raw": Image,
        "follow/camera_info": CameraInfo,
        "follow/transform": TransformStamped,
        "markers": MarkerArray,
    }
    subscriptions = [
        fresh.node.create_subscription(
            kind,
            f"{TRACKER}/{name}",
            lambda msg, name=name: heard.update({name: msg}),
            profile(2, reliable=False),
        )
        for name, kind in kinds.items()
    ]
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=2, label="ball")).success
    assert set_parameter(fresh, "follow.width", 200).successful
    assert set_parameter(fresh, "follow.height", 100).successful

    def all_heard() -> bool:
        fresh.send(scene.frames[0])
        fresh.spin(0.1)
        of_one_frame = {stamp_ns(m.header.stamp) for k, m in heard.items() if "follow" in k}
        return (
            set(heard) == set(kinds) and bool(heard["markers"].markers) and len(of_one_frame) == 1
        )

    fresh.until(all_heard, "all outputs")
    overlay = PIL.Image.open(io.BytesIO(bytes(heard["overlay/compressed"].data)))
    assert (overlay.format, overlay.size) == ("JPEG", (256, 128))
    image = heard["follow/image_raw"]
    assert (image.width, image.height, image.encoding) == (200, 100, "rgb8")
    info, transform = heard["follow/camera_info"], heard["follow/transform"]
    focal = 100 / math.tan(math.radians(30))  # follow.hfov_deg is 60
    assert list(info.k) == pytest.approx([focal, 0, 99.5, 0, focal, 49.5, 0, 0, 1])
    assert list(info.p) == pytest.approx([focal, 0, 99.5, 0, 0, focal, 49.5, 0, 0, 0, 1, 0])
    assert list(info.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (info.width, info.height, list(info.d)) == (200, 100, [0] * 5)
    assert info.header == image.header
    assert transform.header.frame_id == "head/camera 360"
    assert transform.child_frame_id == image.header.frame_id == "head/camera 360_follow"
    at = fresh.heard.objects[stamp_ns(image.header.stamp)].objects[0].bearing
    ahead = rotated(transform, np.array([0.0, 0.0, 1.0]))
    assert ahead == pytest.approx([at.x, at.y, at.z], abs=1e-3)
    assert {m.ns for m in heard["markers"].markers} == {"bearing", "label", "outline"}
    assert {m.type for m in heard["markers"].markers} >= {Marker.ARROW, Marker.LINE_LIST}
    # The middle of the view shows what is at the click.
    column, row = (int(value) for value in scene.click)
    middle = to_rgb(image)[40:60, 90:110].reshape(-1, 3).mean(axis=0)
    there = scene.frames[0][row - 3 : row + 3, column - 3 : column + 3].reshape(-1, 3).mean(axis=0)
    assert np.abs(middle - there).max() < 60
    for subscription in subscriptions:
        fresh.node.destroy_subscription(subscription)
    assert set_parameter(fresh, "publish.markers", False).successful
    assert set_parameter(fresh, "publish.markers", True).successful


def test_bearings_in_and_out_agree(fresh: Tester, scene: Scene) -> None:
    """What the node says of an object names the same object when it is asked for."""
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=2)).success
    for convention, yaw in (("body", 0.0), ("optical", 35.0)):
        assert set_parameter(fresh, "frame_convention", convention).successful
        assert set_parameter(fresh, "yaw_offset_deg", yaw).successful
        assert set_parameter(fresh, "bearing_frame", "base_link").successful
        stamp = fresh.send(scene.frames[0])
        said = fresh.heard.objects[stamp]
        assert said.bearing_frame == "base_link"
        assert said.header.frame_id == "head/camera 360"
        found = next(o for o in said.objects if o.id == 2)
        at = found.bearing
        by_vector = Prompt(
            object_id=5,
            coordinates=Prompt.BEARING,
            action=Prompt.REPLACE,
            points=[Point(x=at.x, y=at.y, z=at.z)],
        )
        by_angle = Prompt(
            object_id=6,
            coordinates=Prompt.LONLAT_DEG,
            action=Prompt.REPLACE,
            points=[Point(x=math.degrees(found.lon), y=math.degrees(found.lat))],
        )
        assert fresh.ask(by_vector).success
        assert fresh.ask(by_angle).success
        stamp = fresh.send(scene.frames[0])
        objects = {o.id: o for o in fresh.heard.objects[stamp].objects}
        for other in (5, 6):
            a, b = objects[2].bearing, objects[other].bearing
            assert a.x * b.x + a.y * b.y + a.z * b.z > math.cos(math.radians(12))
    for name, value in (("frame_convention", "body"), ("yaw_offset_deg", 0.0)):
        assert set_parameter(fresh, name, value).successful
    assert set_parameter(fresh, "bearing_frame", "").successful


def test_pictures_are_not_made_while_nobody_looks(env, monkeypatch) -> None:
    """With the node's own publishers; what draws and renders is counted."""
    made: list[str] = []

    def count(module: object, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, **rest: made.append(name) or real(*args, **rest)
        )

    count(outputs, "draw")
    count(outputs, "to_jpeg")
    count(outputs, "to_markers")
    count(Follower, "look")
    node, viewer = Node("lazy"), Node("viewer")
    lazy = outputs.Outputs(node)
    mask = spot(100, 60)
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    states = {3: ObjectState.VISIBLE}
    outcome = Outcome(rgb, result_of(mask), states, [], is_result=True)
    values = {setting.name: setting.default for setting in SETTINGS}
    header = Header(frame_id="head")

    def show() -> list[str]:
        made.clear()
        lazy.publish_pictures(header, outcome, TrackedObjectArray(), TrackerConfig(), values)
        return list(made)

    assert show() == []
    for name, kind, expected in (
        ("overlay", Image, ["draw"]),
        ("overlay/compressed", CompressedImage, ["draw", "to_jpeg"]),
        ("markers", MarkerArray, ["to_markers"]),
        ("follow/camera_info", CameraInfo, ["look"]),
    ):
        looked_at = viewer.create_subscription(
            kind, f"/lazy/{name}", print, profile(1, reliable=False)
        )
        deadline = time.monotonic() + PATIENCE_S
        while show() != expected:
            assert time.monotonic() < deadline, made
            time.sleep(0.05)
        viewer.destroy_subscription(looked_at)
        while show():
            assert time.monotonic() < deadline, made
            time.sleep(0.05)
    node.destroy_node()
    viewer.destroy_node()
