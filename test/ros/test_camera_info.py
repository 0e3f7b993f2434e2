"""What a camera says of its images: which part of a panorama they are, and of what size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from harness import Scene, Tester, start_tracker
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from panosam2_ros.msg import Prompt
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from test_inputs import call, diagnosis, values

from panosam2_core.geometry.region import measure
from panosam2_core.prompting import pixel_of_bearing
from panosam2_ros.camera_info import Crop, crop_of, fault
from panosam2_ros.images import to_image, to_labels
from panosam2_ros.parameters import SETTINGS, axes, in_crop, tracker_config
from panosam2_ros.qos import profile

HEIGHT, WIDTH = 128, 256
ROWS, COLUMNS = slice(16, 96), slice(40, 200)


def info(roi: tuple[int, int, int, int] | None = None, **fields: int) -> CameraInfo:
    """Of a 256x128 panorama; roi is (x, y, width, height)."""
    x, y, width, height = roi or (0, 0, 0, 0)
    window = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    return CameraInfo(**({"width": WIDTH, "height": HEIGHT} | fields), roi=window)


def sides(size: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size - 2), st.integers(2, size)).map(
        lambda pair: (pair[0], max(1, min(pair[1], size - pair[0])))
    )


@given(
    columns=sides(WIDTH),
    rows=sides(HEIGHT),
    at=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
    yaw=st.floats(-180, 180),
)
def test_a_pixel_of_a_crop_looks_where_it_does_in_the_panorama(columns, rows, at, yaw) -> None:
    (x, width), (y, height) = columns, rows
    u, v = at[0] * width, at[1] * height
    given_ = {s.name: s.default for s in SETTINGS} | {"yaw_offset_deg": yaw}
    lon, lat = (0.5 - (x + u) / WIDTH) * math.tau, (0.5 - (y + v) / HEIGHT) * math.pi
    flat = math.cos(lat)
    ahead = (flat * math.cos(lon), flat * math.sin(lon), math.sin(lat))
    bearing = axes(given_).vector_out(ahead)  # of the whole panorama's pixel
    cropped = in_crop(given_, crop_of(info((x, y, width, height))))
    found = pixel_of_bearing(
        axes(cropped).vector_in(bearing), (height, width), tracker_config(cropped).fov
    )
    assert found == pytest.approx((u, v), abs=1e-5)


def test_a_roi_that_is_not_set_or_is_everything_is_no_crop() -> None:
    assert crop_of(info()) is None
    assert crop_of(info((0, 0, WIDTH, HEIGHT))) is None
    assert crop_of(info((0, 0, 10, 10), width=0)) is None
    assert crop_of(info((0, 0, WIDTH, HEIGHT // 2))) == Crop(360.0, 90.0, 0.0, 45.0)


def test_the_roi_of_an_ordinary_camera_is_no_part_of_a_panorama() -> None:
    flat = {s.name: s.default for s in SETTINGS} | {"projection": "perspective"}
    cropped = in_crop(flat, crop_of(info((0, 0, 10, 10))))
    assert axes(cropped) == axes(flat)
    assert tracker_config(cropped) == tracker_config(flat)


@pytest.mark.parametrize(
    ("said", "size_hw", "reason"),
    [
        (info(), (HEIGHT, WIDTH), ""),
        (info(), None, ""),
        (info(width=0, height=0), (7, 7), ""),
        (info((8, 8, 100, 50)), (50, 100), ""),
        (info((8, 8, 100, 50), binning_x=2, binning_y=2), (25, 50), ""),
        (info((8, 8, 100, 50)), (HEIGHT, WIDTH), "it is of 100x50 images, but they are 256x128"),
        (info(), (64, 128), "it is of 256x128 images, but they are 128x64"),
        (info((200, 8, 100, 50)), (50, 100), "its roi 100x50+200+8 is not within 256x128"),
        (info((0, 100, 100, 50)), None, "its roi 100x50+0+100 is not within 256x128"),
    ],
)
def test_an_info_that_cannot_be_of_the_images_says_why(said, size_hw, reason) -> None:
    assert fault(said, size_hw) == reason


def directions(tester: Tester, stamp: int) -> tuple[list[float], np.ndarray]:
    """(bearing that is published, mask that is published) of the only object."""
    (found,) = tester.heard.objects[stamp].objects
    bearing = [found.bearing.x, found.bearing.y, found.bearing.z]
    return bearing, to_labels(tester.heard.labels[stamp]) > 0


def in_panorama(mask: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The bearing of a crop's mask, put back into the whole panorama."""
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[rows, columns] = mask
    return measure(whole, pano=True).bearing


def ask_for(tester: Tester, mask: np.ndarray) -> None:
    picture = to_image(tester.header(), mask.astype(np.uint8) * 255, "mono8")
    assert tester.ask(Prompt(object_id=1, mask=picture)).success


def test_the_roi_of_a_camera_gives_the_bearings_and_another_size_is_told(
    env, tmp_path, scene: Scene
) -> None:
    """It comes late, and later another camera's comes; the tracking goes on all the while."""
    name, log = "/crop/panosam2", tmp_path / "log"
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:60, 60:100] = True
    with start_tracker(env, log, "/crop", "warmup_frames:=0"):
        tester = Tester(name, "/crop/image")
        tester.greet(cut := np.ascontiguousarray(scene.frames[0][ROWS, COLUMNS]))
        ask_for(tester, mask[ROWS, COLUMNS])
        before, seen = directions(tester, tester.send(cut))
        assert seen.any()
        assert np.abs(before - in_panorama(seen, ROWS, COLUMNS)).max() > 0.05
        latched = profile(1, transient_local=True)
        camera = tester.node.create_publisher(CameraInfo, "/crop/camera_info", latched)
        camera.publish(info((40, 16, 160, 80)))  # once, before anybody listens
        said = "256x128 roi 160x80+40+16"
        diagnosis(tester, "input", wanted=lambda s: values(s)["camera_info"] == said, tracker=name)
        found, seen = directions(tester, tester.send(cut))
        np.testing.assert_allclose(found, in_panorama(seen, ROWS, COLUMNS), atol=1e-5)
        tester.node.destroy_publisher(camera)
        other = tester.node.create_publisher(
            CameraInfo, "/crop/camera_info", profile(1, reliable=False)
        )
        tester.until(lambda: other.get_subscription_count() > 0, "the other quality of service")
        other.publish(info(width=640, height=480))
        wrong = "it is of 640x480 images, but they are 160x80"
        report = diagnosis(tester, "input", wanted=lambda s: wrong in s.message, tracker=name)
        assert report.level == DiagnosticStatus.WARN
        for _ in range(3):
            found, seen = directions(tester, tester.send(cut))
        assert seen.any()
        assert np.abs(found - in_panorama(seen, ROWS, COLUMNS)).max() > 0.05
        ignored = f"/crop/camera_info is ignored: {wrong}"
        assert log.read_text().count(ignored) == 1
        for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=step))
            assert call(tester, ChangeState, f"{name}/change_state", request).success

        def told_again() -> bool:
            other.publish(info(width=640, height=480))
            tester.image.publish(to_image(tester.header(), cut, "rgb8"))
            tester.spin(0.5)
            return log.read_text().count(ignored) == 2

        tester.until(told_again, "a new start to tell of it again")
        tester.close()
    assert log.read_text().count(ignored) == 2


def test_a_panorama_that_does_not_reach_the_poles(env, tmp_path, scene: Scene) -> None:
    rows = slice(32, 96)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:60, 60:100] = True
    with start_tracker(env, tmp_path / "log", "/strip", "warmup_frames:=0", "vfov_deg:=90.0"):
        tester = Tester("/strip/panosam2", "/strip/image")
        tester.greet(strip := np.ascontiguousarray(scene.frames[0][rows]))
        stamp = tester.send(strip)
        ask_for(tester, mask[rows])
        tester.until(lambda: bool(tester.heard.objects[stamp].objects), "the object")
        tester.until(lambda: bool(to_labels(tester.heard.labels[stamp]).any()), "its mask")
        found, seen = directions(tester, stamp)
        tester.close()
    assert seen.any()
    np.testing.assert_allclose(found, in_panorama(seen, rows, slice(None)), atol=1e-5)
