"""The tracker node as its users meet it: images and prompts in, results and answers out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from geometry_msgs.msg import Point
from harness import Scene, Tester, start_tracker
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from panosam2_ros.msg import Prompt, PromptResult, TrackedObject
from sensor_msgs.msg import Image

from panosam2_ros.images import to_image, to_labels


def click(scene: Scene, **rest) -> Prompt:
    return Prompt(points=[Point(x=scene.click[0], y=scene.click[1])], **rest)


def test_prompt_gives_masks_under_the_headers_of_the_images(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    answer = fresh.ask(click(scene, object_id=7, label="thing"))
    assert (answer.success, answer.code, answer.object_id) == (True, PromptResult.OK, 7)
    assert list(answer.object_ids) == [7]
    for rgb, truth in zip(scene.frames[1:], scene.masks[1:], strict=True):
        image = to_image(fresh.header(), rgb, "rgb8")
        stamp = fresh.send_image(image)
        labels, objects = fresh.heard.labels[stamp], fresh.heard.objects[stamp]
        assert labels.header == objects.header == image.header
        assert (labels.encoding, labels.height, labels.width) == ("mono8", *rgb.shape[:2])
        assert (objects.image_width, objects.image_height) == (256, 128)
        (found,) = objects.objects
        assert (found.id, found.label) == (7, "thing")
        mask = to_labels(labels) == 7
        assert found.area_px == mask.sum()
        iou = (mask & truth).sum() / (mask | truth).sum()
        assert iou > 0.4, f"IoU {iou:.2f}"
        assert found.state == TrackedObject.VISIBLE
        bearing = found.bearing
        assert math.hypot(bearing.x, bearing.y, bearing.z) == pytest.approx(1)
    fresh.until(lambda: stamp in fresh.heard.stats, "stats")
    stats = fresh.heard.stats[stamp]
    assert stats.header == image.header
    assert stats.objects == 1
    assert stats.inference_ms > 0
    assert stats.received >= stats.processed > 0


def test_the_answer_names_the_frame_that_was_used(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    image = to_image(fresh.header(), scene.frames[0], "rgb8")
    fresh.send_image(image)
    assert fresh.ask(click(scene)).header == image.header


def test_a_prompt_waits_for_the_frame_whose_stamp_it_carries(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    image = to_image(fresh.header(), scene.frames[0], "rgb8")
    request = fresh.publish(click(scene, header=image.header, object_id=3))
    fresh.send_image(image)
    answer = fresh.answer_to(request)
    assert answer.success
    assert answer.header == image.header


def test_who_listens_late_still_gets_the_answer(fresh: Tester, scene: Scene) -> None:
    """As a client does whose subscription the tracker comes to know only after its prompt."""
    fresh.send(scene.frames[0])
    answer = fresh.ask(click(scene, object_id=5))
    late = Tester("/shared/panosam2", "/unused")
    assert late.answer_to(answer.request_id) == answer
    late.close()


def test_a_prompt_for_an_old_frame_is_refused(fresh: Tester, scene: Scene) -> None:
    old = fresh.header()
    fresh.send(scene.frames[0])
    answer = fresh.ask(click(scene, header=old))
    assert answer.code == PromptResult.STALE_FRAME
    assert "stamp 0" in answer.message


def test_objects_can_be_added_prompted_again_and_removed_at_any_time(
    fresh: Tester, scene: Scene
) -> None:
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene)).object_id == 1
    fresh.send(scene.frames[1])
    assert fresh.ask(click(scene)).object_id == 2
    assert fresh.ask(click(scene, object_id=1)).success
    assert fresh.ask(click(scene, object_id=1, action=Prompt.REFINE)).success
    stamp = fresh.send(scene.frames[2])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [1, 2]
    gone = fresh.ask(Prompt(action=Prompt.REMOVE, object_id=1))
    assert gone.success
    assert list(gone.object_ids) == [2]
    stamp = fresh.send(scene.frames[3])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [2]
    assert list(fresh.ask(Prompt(action=Prompt.RESET)).object_ids) == []
    stamp = fresh.send(scene.frames[3])
    assert not fresh.heard.objects[stamp].objects
    assert not to_labels(fresh.heard.labels[stamp]).any()


def _points(*values: float) -> list[Point]:
    return [Point(x=x, y=y) for x, y in zip(values[::2], values[1::2], strict=True)]


BAD_PROMPTS = {
    "NaN": (Prompt(points=_points(math.nan, 5.0)), "BAD_COORDS", "finite"),
    "infinite": (Prompt(points=_points(5.0, math.inf)), "BAD_COORDS", "finite"),
    "outside": (Prompt(points=_points(300.0, 5.0)), "BAD_COORDS", "outside the 256x128 image"),
    "negative": (Prompt(points=_points(-1.0, 5.0)), "BAD_COORDS", "outside"),
    "nothing": (Prompt(), "BAD_COORDS", "neither"),
    "labels": (Prompt(points=_points(5.0, 5.0), point_labels=[1, 0]), "BAD_COORDS", "one label"),
    "box": (Prompt(box=[1.0, 2.0, 3.0]), "BAD_COORDS", "4 numbers"),
    "coordinates": (Prompt(points=_points(5.0, 5.0), coordinates=9), "BAD_COORDS", "0 to 3"),
    "action": (Prompt(points=_points(5.0, 5.0), action=9), "BAD_COORDS", "action"),
    "zero bearing": (
        Prompt(points=[Point()], coordinates=Prompt.BEARING), "BAD_COORDS", "zero vector",
    ),
    "unknown id": (Prompt(action=Prompt.REMOVE, object_id=9), "UNKNOWN_ID", "object 9"),
    "correction of an unknown id": (
        Prompt(points=_points(5.0, 5.0), action=Prompt.REFINE, object_id=9),
        "UNKNOWN_ID", "not tracked",
    ),
    "large id": (Prompt(points=_points(5.0, 5.0), object_id=255), "UNKNOWN_ID", "mono16"),
    "mask encoding": (
        Prompt(mask=Image(width=2, height=1, step=6, encoding="rgb8", data=[1] * 6)),
        "BAD_MASK", "rgb8",
    ),
    "empty mask": (
        Prompt(mask=Image(width=2, height=1, step=2, encoding="mono8", data=[0, 0])),
        "BAD_MASK", "empty",
    ),
    "cut mask": (
        Prompt(mask=Image(width=2, height=2, step=2, encoding="mono8", data=[1, 1])),
        "BAD_MASK", "needs 4 bytes, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_bad_prompt_is_answered_and_changes_nothing(
    fresh: Tester, scene: Scene, case: str
) -> None:
    prompt, code, text = BAD_PROMPTS[case]
    fresh.send(scene.frames[0])
    answer = fresh.ask(prompt)
    assert not answer.success
    assert answer.code == getattr(PromptResult, code), answer.message
    assert text in answer.message
    assert list(answer.object_ids) == []
    fresh.send(scene.frames[1])


BAD_IMAGES = {
    "encoding": (
        Image(width=4, height=2, step=16, encoding="32FC1", data=[0] * 32),
        "'32FC1' is not supported",
    ),
    "no pixels": (Image(encoding="rgb8"), "got 0x0"),
    "cut": (Image(width=4, height=2, step=12, encoding="rgb8", data=[0] * 20), "24 bytes, got 20"),
    "step": (Image(width=4, height=2, step=4, encoding="rgb8", data=[0] * 24), "row step 4"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_in_the_log_and_the_stream_goes_on(
    fresh: Tester, scene: Scene, case: str
) -> None:
    image, text = BAD_IMAGES[case]
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene)).success
    image.header = fresh.header()
    fresh.image.publish(image)
    fresh.until(lambda: any(text in line for line in fresh.heard.logs), f"'{text}' in the log")
    stamp = fresh.send(scene.frames[1])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [1]


def _encoded(rgb: np.ndarray, encoding: str) -> np.ndarray:
    if encoding.startswith("mono"):
        return rgb.mean(axis=2).astype(np.uint8)
    pixels = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
    alpha = np.zeros_like(pixels[..., :1])
    return np.concatenate([pixels, alpha], axis=2) if "a" in encoding else pixels


def _overlay(tester: Tester, image: Image) -> Image:
    """Sends an image until its overlay arrives: a viewer that has just come misses some."""
    for _ in range(30):
        image.header = tester.header()
        stamp = tester.send_image(image)
        for _ in range(20):
            if stamp in tester.heard.overlays:
                return tester.heard.overlays[stamp]
            tester.spin(0.05)
    raise AssertionError("no overlay")


def test_an_overlay_is_drawn_while_somebody_looks(fresh: Tester, scene: Scene) -> None:
    viewer = fresh.listen_to_overlay("/shared/panosam2")
    drawn = {}
    for encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8"):
        image = to_image(fresh.header(), _encoded(scene.frames[0], encoding), encoding)
        overlay = _overlay(fresh, image)
        assert overlay.header == image.header
        assert (overlay.encoding, overlay.width, overlay.height) == ("rgb8", 256, 128)
        drawn[encoding] = np.frombuffer(overlay.data, np.uint8)
    for encoding in ("bgr8", "rgba8", "bgra8"):
        np.testing.assert_array_equal(drawn[encoding], drawn["rgb8"])
    assert not np.array_equal(drawn["mono8"], drawn["rgb8"])
    fresh.node.destroy_subscription(viewer)


def test_rows_may_be_padded(fresh: Tester, scene: Scene) -> None:
    rgb = scene.frames[0]
    plain = fresh.send(rgb)
    fresh.ask(click(scene))
    expected = _mask_of_prompt(fresh, plain)
    image = to_image(fresh.header(), np.pad(rgb, ((0, 0), (0, 5), (0, 0))), "rgb8")
    image.width = rgb.shape[1]
    fresh.ask(Prompt(action=Prompt.RESET))
    stamp = fresh.send_image(image)
    fresh.ask(click(scene))
    np.testing.assert_array_equal(_mask_of_prompt(fresh, stamp), expected)


def _mask_of_prompt(tester: Tester, stamp: int) -> np.ndarray:
    """Waits for the label image that follows a prompt; the one before it is empty."""

    def labels() -> np.ndarray:
        return to_labels(tester.heard.labels[stamp])

    tester.until(lambda: labels().any(), "the mask of the prompt")
    return labels()


def test_time_that_jumps_back_is_told_and_objects_are_kept(fresh: Tester, scene: Scene) -> None:
    fresh.send(scene.frames[0])
    fresh.ask(click(scene))
    fresh.heard.logs.clear()
    stamp = fresh.send(scene.frames[1], step_ns=-50_000_000_000)
    fresh.until(lambda: any("jumped back" in line for line in fresh.heard.logs), "a warning")
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [1]
    fresh.send(scene.frames[2], step_ns=60_000_000_000)


def test_the_same_stream_twice_gives_the_same_masks(fresh: Tester, scene: Scene) -> None:
    runs = []
    for _ in range(2):
        fresh.ask(Prompt(action=Prompt.RESET))
        first = fresh.send(scene.frames[0])
        fresh.ask(click(scene))
        _mask_of_prompt(fresh, first)
        stamps = [first, *(fresh.send(rgb) for rgb in scene.frames[1:])]
        runs.append([bytes(fresh.heard.labels[stamp].data) for stamp in stamps])
        assert all(any(labels) for labels in runs[-1])
    assert runs[0] == runs[1]


def test_another_camera_and_the_lifecycle(env, tmp_path, scene: Scene) -> None:
    """A best-effort camera, prompts before time, and transitions that are not allowed."""
    with start_tracker(env, tmp_path / "log", "/other", "autostart:=false") as running:
        tester = Tester("/other/panosam2", "/other/image", reliable=False)
        change = tester.node.create_client(ChangeState, "/other/panosam2/change_state")

        def transition(transition_id: int) -> bool | None:
            request = ChangeState.Request(transition=Transition(id=transition_id))
            answer = change.call_async(request)
            # rclpy leaves a transition that is not allowed now without an answer.
            limit_s = 3.0 if transition_id == Transition.TRANSITION_CLEANUP else 60.0
            try:
                tester.until(answer.done, "the transition", limit_s)
            except AssertionError:
                return None
            return answer.result().success

        tester.until(change.service_is_ready, "the lifecycle service")
        tester.until(lambda: tester.prompt.get_subscription_count() > 0, "the prompt topic")
        assert tester.ask(click(scene)).code == PromptResult.NOT_ACTIVE
        assert transition(Transition.TRANSITION_CONFIGURE)
        assert transition(Transition.TRANSITION_ACTIVATE)
        tester.connect()
        assert tester.ask(click(scene)).code == PromptResult.NO_FRAME
        tester.until(lambda: _shown(tester, scene), "a result of a best-effort camera")
        assert tester.ask(click(scene)).success
        assert not transition(Transition.TRANSITION_CLEANUP)  # only when it is inactive
        assert running.poll() is None, (tmp_path / "log").read_text()
        assert transition(Transition.TRANSITION_DEACTIVATE)
        assert tester.ask(click(scene)).code == PromptResult.NOT_ACTIVE
        assert transition(Transition.TRANSITION_CLEANUP)
        tester.close()
    assert running.returncode == 0, (tmp_path / "log").read_text()


def _shown(tester: Tester, scene: Scene) -> bool:
    """Sends images until one that the best-effort way did not lose has a result."""
    tester.image.publish(to_image(tester.header(), scene.frames[0], "rgb8"))
    tester.spin(1.0)
    return bool(tester.heard.labels)


def test_weights_that_are_not_there_are_named(env, tmp_path) -> None:
    with start_tracker(env, tmp_path / "log", "/lost", "model.checkpoint:=/nowhere/weights.pt"):
        tester = Tester("/lost/panosam2", "/lost/image")
        told = "cannot configure: no weight file at /nowhere/weights.pt"
        tester.until(lambda: told in (tmp_path / "log").read_text(), "the error")
        tester.close()
