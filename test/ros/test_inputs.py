"""What arrives at the node: late prompts, clicks, compressed and odd images, settings."""

from __future__ import annotations

import math
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from harness import Scene, Tester, start_tracker
from panosam2_ros.msg import Prompt, PromptResult
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import SetBool, Trigger

from panosam2_ros.images import to_image, to_labels
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns

TRACKER = "/shared/panosam2"


def click(scene: Scene, **rest) -> Prompt:
    return Prompt(points=[Point(x=scene.click[0], y=scene.click[1])], **rest)


def call(tester: Tester, kind: type, name: str, request: object) -> object:
    client = tester.node.create_client(kind, name)
    tester.until(client.service_is_ready, f"the service {name}")
    answer = client.call_async(request)
    tester.until(answer.done, f"an answer of {name}")
    tester.node.destroy_client(client)
    return answer.result()


def set_parameter(tester: Tester, name: str, value: object, tracker: str = TRACKER) -> object:
    kinds = {
        bool: ("bool_value", ParameterType.PARAMETER_BOOL),
        int: ("integer_value", ParameterType.PARAMETER_INTEGER),
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
        str: ("string_value", ParameterType.PARAMETER_STRING),
    }
    field, kind = kinds[type(value)]
    change = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
    request = SetParameters.Request(parameters=[change])
    return call(tester, SetParameters, f"{tracker}/set_parameters", request).results[0]


def diagnosis(tester: Tester, name: str, *, wanted=lambda status: True, tracker: str = TRACKER):
    """The next report of a tracker on one subject for which something holds."""
    found = []

    def look(msg: DiagnosticArray) -> None:
        found.extend(s for s in msg.status if s.name == f"{tracker[1:]}: {name}" and wanted(s))

    heard = tester.node.create_subscription(DiagnosticArray, "/diagnostics", look, profile(10))
    tester.until(lambda: bool(found), f"a report on {name}")
    tester.node.destroy_subscription(heard)
    return found[0]


def values(status) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def test_a_late_prompt_gives_what_it_would_have_given_in_time(fresh: Tester, scene: Scene) -> None:
    masks = {}
    for late in (False, True):
        assert fresh.ask(Prompt(action=Prompt.RESET)).success
        fresh.send(scene.frames[0])
        asked = to_image(fresh.header(), scene.frames[1], "rgb8")
        stamp = fresh.send_image(asked)
        if not late:
            answer = fresh.ask(click(scene, object_id=4, header=asked.header))
        fresh.send(scene.frames[2])
        if late:
            answer = fresh.ask(click(scene, object_id=4, header=asked.header))
        assert (answer.success, answer.object_id) == (True, 4), answer.message
        assert answer.header == asked.header
        stamp = fresh.send(scene.frames[3])
        masks[late] = to_labels(fresh.heard.labels[stamp])
        (found,) = fresh.heard.objects[stamp].objects
        assert found.age == 2
    assert masks[False].any()
    # In time, the prompted frame is worked on twice by other objects only; so both are equal.
    assert (masks[False] != masks[True]).mean() < 1e-3


def test_a_late_correction_and_a_prompt_that_is_too_late_say_why(
    fresh: Tester, scene: Scene
) -> None:
    first = to_image(fresh.header(), scene.frames[0], "rgb8")
    fresh.send_image(first)
    assert fresh.ask(click(scene, object_id=1)).success
    fresh.send(scene.frames[1])
    answer = fresh.ask(click(scene, object_id=1, action=Prompt.REFINE, header=first.header))
    assert answer.code == PromptResult.STALE_FRAME
    assert "newest frame" in answer.message
    fresh.send(scene.frames[2], step_ns=2_000_000_000)
    answer = fresh.ask(click(scene, header=first.header))
    assert answer.code == PromptResult.STALE_FRAME
    assert list(answer.object_ids) == [1]


def test_a_bad_late_prompt_changes_nothing(fresh: Tester, scene: Scene) -> None:
    first = to_image(fresh.header(), scene.frames[0], "rgb8")
    fresh.send_image(first)
    fresh.send(scene.frames[1])
    outside = Prompt(points=[Point(x=999.0, y=3.0)], header=first.header)
    answer = fresh.ask(outside)
    assert answer.code == PromptResult.BAD_COORDS
    assert answer.header == first.header
    assert list(answer.object_ids) == []


def test_a_click_is_a_new_object_on_the_frame_nearest_to_it(fresh: Tester, scene: Scene) -> None:
    clicks = fresh.node.create_publisher(PointStamped, f"{TRACKER}/click", profile(10))
    fresh.until(lambda: clicks.get_subscription_count() > 0, "the click subscription")
    image = to_image(fresh.header(), scene.frames[0], "rgb8")
    fresh.send_image(image)
    for stamped in (True, False):
        msg = PointStamped(point=Point(x=scene.click[0], y=scene.click[1], z=0.0))
        if stamped:  # a moment after the image, as a viewer has it
            msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(
                stamp_ns(image.header.stamp) + 7_000_000, 1_000_000_000
            )
        before = len(fresh.heard.answers)
        fresh.heard.answers.pop(0, None)
        clicks.publish(msg)
        fresh.until(lambda: 0 in fresh.heard.answers, "the answer to a click")
        answer = fresh.heard.answers[0]
        assert answer.success, answer.message
        assert answer.header == image.header
        assert len(answer.object_ids) == 2 - stamped, before
    fresh.node.destroy_publisher(clicks)


def test_reset_and_pause_by_services(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene)).success
    assert call(fresh, Trigger, f"{TRACKER}/reset", Trigger.Request()).success
    stamp = fresh.send(scene.frames[1])
    assert not fresh.heard.objects[stamp].objects
    assert fresh.ask(click(scene, object_id=9)).success
    assert call(fresh, SetBool, f"{TRACKER}/enable", SetBool.Request(data=False)).success
    image = to_image(fresh.header(), scene.frames[2], "rgb8")
    fresh.image.publish(image)
    refused = fresh.ask(click(scene))
    assert refused.code == PromptResult.NOT_ACTIVE
    assert "~/enable" in refused.message
    fresh.spin(0.5)
    assert stamp_ns(image.header.stamp) not in fresh.heard.labels
    assert call(fresh, SetBool, f"{TRACKER}/enable", SetBool.Request(data=True)).success
    stamp = fresh.send(scene.frames[3])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [9]


def test_settings_take_effect_between_frames_and_bad_ones_are_refused(
    fresh: Tester, scene: Scene
) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=3)).success
    areas = {}
    for threshold in (0.0, 4.0):
        assert set_parameter(fresh, "mask_threshold", threshold).successful
        stamp = fresh.send(scene.frames[0])
        areas[threshold] = fresh.heard.objects[stamp].objects[0].area_px
    assert 0 < areas[4.0] < areas[0.0]
    assert set_parameter(fresh, "mask_threshold", 0.0).successful
    for name, value, reason in (
        ("mask_threshold", math.nan, "range"),
        ("mask_threshold", 99.0, "range"),
        ("publish.label_resolution", "huge", "expected one of input, model"),
        ("max_objects", 3, "fixed while the node is configured"),
        ("overlay.alpha", 1, "type"),
    ):
        verdict = set_parameter(fresh, name, value)
        assert not verdict.successful, name
        assert reason in verdict.reason.lower(), verdict.reason
    assert set_parameter(fresh, "yaw_offset_deg", 90.0).successful
    before = fresh.heard.objects[stamp].objects[0]
    stamp = fresh.send(scene.frames[0])
    found = fresh.heard.objects[stamp].objects[0]
    assert math.remainder(found.lon - before.lon - math.pi / 2, math.tau) == pytest.approx(
        0, abs=0.05
    )
    assert math.atan2(found.bearing.y, found.bearing.x) == pytest.approx(found.lon, abs=0.05)
    assert set_parameter(fresh, "yaw_offset_deg", 0.0).successful


def test_label_images_at_the_networks_size(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=3)).success
    full = to_labels(fresh.heard.labels[fresh.send(scene.frames[0])])
    assert set_parameter(fresh, "publish.label_resolution", "model").successful
    stamp = fresh.send(scene.frames[0])
    small, about = to_labels(fresh.heard.labels[stamp]), fresh.heard.objects[stamp]
    assert set_parameter(fresh, "publish.label_resolution", "input").successful
    assert small.shape == (64, 128) == (about.label_height, about.label_width)
    assert (about.image_height, about.image_width) == (128, 256)
    assert (small != full[::2, ::2]).mean() < 0.03


def test_every_nth_image_and_old_images(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    fresh.until(lambda: bool(fresh.heard.stats), "stats")
    assert set_parameter(fresh, "every_nth_frame", 3).successful
    sent = []
    for _ in range(9):
        image = to_image(fresh.header(), scene.frames[0], "rgb8")
        sent.append(stamp_ns(image.header.stamp))
        fresh.image.publish(image)
        fresh.spin(0.3)
    assert set_parameter(fresh, "every_nth_frame", 1).successful
    shown = [i for i, stamp in enumerate(sent) if stamp in fresh.heard.labels]
    assert len(shown) == 3
    assert np.diff(shown).tolist() == [3, 3]
    # The tester's clock is years behind, so every image is too old.
    assert set_parameter(fresh, "max_frame_age_ms", 5000).successful
    image = to_image(fresh.header(), scene.frames[0], "rgb8")
    fresh.image.publish(image)
    fresh.spin(0.7)
    assert stamp_ns(image.header.stamp) not in fresh.heard.labels
    assert set_parameter(fresh, "max_frame_age_ms", 0).successful
    stamp = fresh.send(scene.frames[0])
    fresh.until(lambda: stamp in fresh.heard.stats, "stats")
    stats = fresh.heard.stats[stamp]
    assert stats.received == stats.processed + stats.dropped
    assert stats.dropped >= 7


def test_images_that_change_in_mid_stream_are_told_and_objects_kept(
    fresh: Tester, scene: Scene
) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=6)).success
    larger = cv2.resize(scene.frames[1], (384, 192))
    fresh.heard.logs.clear()
    stamp = fresh.send(larger)
    labels, about = fresh.heard.labels[stamp], fresh.heard.objects[stamp]
    assert (labels.height, labels.width) == (192, 384) == (about.image_height, about.image_width)
    assert [o.id for o in about.objects] == [6]
    assert to_labels(labels).any()
    told = "size (height, width) (128, 256) -> (192, 384)"
    fresh.until(lambda: any(told in line for line in fresh.heard.logs), "a warning")
    image = to_image(fresh.header(), scene.frames[2], "rgb8")
    image.header.frame_id = "another"
    fresh.send_image(image)
    told = "frame_id head/camera 360 -> another"
    fresh.until(lambda: any(told in line for line in fresh.heard.logs), "a warning")


def test_the_condition_of_node_and_input_is_reported(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=8)).success
    fresh.send(scene.frames[1])
    seen = {name: values(diagnosis(fresh, name)) for name in ("tracker", "input", "model", "gpu")}
    assert {
        "state", "objects", "fps", "latency_ms_p50", "latency_ms_p95", "processed", "dropped",
        "drop_ratio", "last_frame_age_ms",
    } <= set(seen["tracker"])  # fmt: skip
    assert seen["input"]["topic"] == "/shared/image"
    assert seen["input"]["encoding"] == "rgb8"
    assert seen["input"]["size"] == "256x128"
    assert seen["input"]["offered_reliability"] == seen["input"]["reliability"] == "reliable"
    assert len(seen["model"]["sha256"]) == 64
    assert float(seen["model"]["load_s"]) > 0
    assert seen["gpu"]["device"] == "cpu"
    found = diagnosis(fresh, "objects", wanted=lambda s: "8" in values(s))
    assert values(found)["8"].startswith(("visible 0.", "visible 1."))


def test_images_of_a_wrong_shape_are_told(fresh: Tester, scene: Scene) -> None:
    fresh.heard.logs.clear()
    fresh.send(scene.frames[0][:, :160])
    told = "a whole equirectangular panorama is twice as wide as high"
    fresh.until(lambda: any(told in line for line in fresh.heard.logs), "a warning")
    report = diagnosis(fresh, "input", wanted=lambda s: told in s.message)
    assert told in values(report)["hint"]
    fresh.send(scene.frames[0])
    assert not values(diagnosis(fresh, "input", wanted=lambda s: told not in s.message))["hint"]


def test_prompts_are_bounded(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    many = Prompt(points=[Point(x=5.0, y=5.0)] * 300)
    answer = fresh.ask(many)
    assert answer.code == PromptResult.BAD_COORDS
    assert "256" in answer.message
    ahead = fresh.header(step_ns=500_000_000)
    fresh.clock_ns -= 500_000_000
    requests = []
    for _ in range(70):  # slowly enough for DDS, which keeps the last ten
        requests.append(fresh.publish(click(scene, object_id=1, header=ahead)))
        fresh.spin(0.03)
    fresh.until(lambda: sum(r in fresh.heard.answers for r in requests) >= 6, "refusals")
    refused = [fresh.heard.answers[r] for r in requests if r in fresh.heard.answers]
    assert {answer.code for answer in refused} == {PromptResult.BUSY}
    assert fresh.ask(Prompt(action=Prompt.RESET)).success
    fresh.until(lambda: all(r in fresh.heard.answers for r in requests), "all answers")


def test_compressed_images(env, tmp_path, scene: Scene) -> None:
    settings = ("image_transport:=compressed", "max_image_megapixels:=0.05", "max_objects:=2")
    with start_tracker(env, tmp_path / "log", "/jpeg", *settings) as running:
        tester = Tester("/jpeg/panosam2", "/jpeg/image")
        camera = tester.node.create_publisher(
            CompressedImage, "/jpeg/image/compressed", profile(2, reliable=False)
        )
        tester.until(lambda: camera.get_subscription_count() > 0, "the subscription")
        bgr = cv2.cvtColor(scene.frames[0], cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

        def send(data: bytes) -> int:
            msg = CompressedImage(header=tester.header(), format="jpeg")
            msg.data.frombytes(data)
            camera.publish(msg)
            tester.spin(0.3)
            return stamp_ns(msg.header.stamp)

        labels = tester.heard.labels

        def shown() -> list[np.ndarray]:
            send(jpeg)
            return [to_labels(image) for image in labels.values()]

        tester.until(shown, "a result")
        answer = tester.ask(click(scene))
        assert answer.success, answer.message
        tester.until(lambda: any(found.any() for found in shown()), "a mask")
        huge = cv2.imencode(".png", np.zeros((300, 600, 3), np.uint8))[1].tobytes()
        for broken, told in (
            (b"", "0 bytes"),
            (jpeg[:40], "cannot be read"),
            (huge, "600x300 pixels are more than the 50000 allowed"),
        ):
            tester.heard.logs.clear()
            stamp = send(broken)
            tester.until(lambda t=told: any(t in s for s in tester.heard.logs), f"'{told}'")
            assert stamp not in labels
        labels.clear()
        tester.until(shown, "a result after broken images")
        assert running.poll() is None
        tester.close()


def test_what_the_body_covers_is_never_part_of_an_object(env, tmp_path, scene: Scene) -> None:
    body = np.zeros((128, 256), np.uint8)
    column = int(scene.click[0])
    body[:, max(0, column - 3) : column + 4] = 255
    cv2.imwrite(str(tmp_path / "body.png"), body)
    setting = f"ignore_mask:={tmp_path / 'body.png'}"
    with start_tracker(env, tmp_path / "log", "/body", setting):
        tester = Tester("/body/panosam2", "/body/image")
        tester.connect()
        tester.greet(scene.frames[0])
        answer = tester.ask(click(scene))
        assert answer.code == PromptResult.BAD_COORDS
        assert "ignored" in answer.message
        assert tester.ask(
            Prompt(
                object_id=1,
                mask=to_image(tester.header(), scene.masks[0].astype(np.uint8), "mono8"),
            )
        ).success
        labels = to_labels(tester.heard.labels[tester.send(scene.frames[1])])
        assert labels.any()
        assert not labels[body > 0].any()
        tester.close()
    with start_tracker(env, tmp_path / "log2", "/nobody", "ignore_mask:=/nowhere.png"):
        tester = Tester("/nobody/panosam2", "/nobody/image")
        told = "cannot configure: parameter ignore_mask"
        tester.until(lambda: told in (tmp_path / "log2").read_text(), "the error")
        tester.close()


def test_a_value_that_cannot_be_is_named_at_the_start(env, tmp_path) -> None:
    begin = time.monotonic()
    with start_tracker(env, tmp_path / "log", "/odd", "projection:=cubemap"):
        tester = Tester("/odd/panosam2", "/odd/image")
        told = "parameter projection: expected one of equirectangular, perspective"
        tester.until(lambda: told in (tmp_path / "log").read_text(), "the error")
        status = diagnosis(
            tester, "tracker", wanted=lambda s: told in s.message, tracker="/odd/panosam2"
        )
        assert status.level == b"\x02"
        assert time.monotonic() - begin < 60
        tester.close()
