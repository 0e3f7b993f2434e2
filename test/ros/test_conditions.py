"""What a robot does to its tracker: cameras change, clocks jump, images get lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from harness import Scene, Tester, start_tracker
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from panosam2_ros.msg import PromptResult
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from test_faults import tell
from test_inputs import call, click, diagnosis, set_parameter, values

from panosam2_core import PanoTracker, TrackerConfig, load_model
from panosam2_core import Prompt as CorePrompt
from panosam2_core.model import PanoSAM2
from panosam2_ros.images import to_image, to_labels
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns, to_stamp

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "node.py"
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def test_quality_of_service_follows_the_camera(fresh: Tester, scene: Scene) -> None:
    """Reliable, best effort, and reliable again; an object is kept all the while."""
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=9)).success
    for reliable in (False, True):
        fresh.node.destroy_publisher(fresh.image)
        fresh.image = fresh.node.create_publisher(
            Image, "/shared/image", profile(2, reliable=reliable)
        )
        name = "reliable" if reliable else "best_effort"
        report = diagnosis(fresh, "input", wanted=lambda s, n=name: values(s)["reliability"] == n)
        assert values(report)["offered_reliability"] == name
        fresh.until(lambda: fresh.image.get_subscription_count() > 0, "a match")
        fresh.heard.labels.clear()
        fresh.greet(scene.frames[1])
        stamp = fresh.send(scene.frames[1])
        assert [o.id for o in fresh.heard.objects[stamp].objects] == [9]


def test_two_cameras_that_offer_different_things_are_both_heard(
    fresh: Tester, scene: Scene
) -> None:
    """A best-effort one joins a reliable one: only a best-effort subscription gets both."""
    other = fresh.node.create_publisher(Image, "/shared/image", profile(2, reliable=False))
    offered = "best_effort, reliable"
    report = diagnosis(
        fresh, "input", wanted=lambda s: values(s)["offered_reliability"] == offered
    )
    assert values(report)["publishers"] == "2"
    diagnosis(fresh, "input", wanted=lambda s: values(s)["reliability"] == "best_effort")
    for camera in (fresh.image, other):
        fresh.until(lambda c=camera: c.get_subscription_count() > 0, "a match")

        def shown(camera=camera) -> bool:
            image = to_image(fresh.header(), scene.frames[0], "rgb8")
            camera.publish(image)
            fresh.spin(0.3)
            return stamp_ns(image.header.stamp) in fresh.heard.labels

        fresh.until(shown, "a result")
    fresh.node.destroy_publisher(other)
    diagnosis(fresh, "input", wanted=lambda s: values(s)["reliability"] == "reliable")
    fresh.until(lambda: fresh.image.get_subscription_count() > 0, "a match")
    fresh.heard.labels.clear()
    fresh.greet(scene.frames[0])


def test_a_reliable_subscription_to_a_best_effort_camera_is_explained(env, tmp_path) -> None:
    with start_tracker(env, tmp_path / "log", "/strict", "qos.reliability:=reliable"):
        tester = Tester("/strict/panosam2", "/strict/image", reliable=False)

        def wanted(status) -> bool:
            return "set qos.reliability:=auto" in status.message

        report = diagnosis(tester, "input", wanted=wanted, tracker="/strict/panosam2")
        assert "no image arrived" in report.message
        assert values(report)["hint"] in report.message
        assert int(values(report)["incompatible_qos_count"]) >= 1
        tester.close()


def test_large_images_that_get_lost_are_told_within_five_seconds(env, tmp_path) -> None:
    """3840x1920 at 15 Hz, best effort, over Fast DDS as it comes, without our profile."""
    plain = {name: value for name, value in env.items() if name not in PROFILES}
    told: dict[str, float] = {}
    with start_tracker(plain, tmp_path / "log", "/large"):
        tester = Tester("/large/panosam2", "/large/image")
        tester.node.destroy_publisher(tester.image)  # the camera is a process of its own

        def look(msg: DiagnosticArray) -> None:
            for status in msg.status:
                if status.name == "large/panosam2: input":
                    told["active"] = told.get("active", time.monotonic())
                    if "images arrived" in status.message:
                        assert "fastdds_large_images.xml" in status.message
                        assert values(status)["hint"] in status.message
                        assert int(values(status)["lost"]) > 20
                        told["lost"] = told.get("lost", time.monotonic())

        tester.node.create_subscription(DiagnosticArray, "/diagnostics", look, profile(10))
        tester.until(lambda: "active" in told, "an active tracker")
        camera = subprocess.Popen(
            [sys.executable, str(BENCHMARK), "camera", "--reliability", "best_effort",
             "--topic", "/large/image", "--seconds", "8"],
            env=plain, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        tester.until(lambda: camera.poll() is not None, "the end of the camera")
        sent, _, begin = camera.communicate()[0].split()
        tell(f"told {told.get('lost', np.inf) - float(begin):.1f} s after the first of {sent}")
        log = (tmp_path / "log").read_text()
        assert log.count("images arrived in") == 1, "in the log once"
        assert "published by /large_camera" in log
        assert told["lost"] - float(begin) < 5.0
        tester.close()


def test_sim_time_is_the_clock_of_stamps_and_not_of_the_watch(env, tmp_path, scene: Scene) -> None:
    """The player starts late, its clock stands still at times, and ages are in its seconds."""
    settings = ("use_sim_time:=true", "max_frame_age_ms:=400")
    with start_tracker(env, tmp_path / "log", "/sim", *settings):
        tester = Tester("/sim/panosam2", "/sim/image")
        clock = tester.node.create_publisher(Clock, "/clock", profile(1))
        name = "/sim/panosam2"
        tester.connect()  # without a clock
        tester.until(lambda: clock.get_subscription_count() > 0, "somebody who asks for the time")
        now_ns = 5_000_000_000_000

        def show(age_ms: int) -> int:
            """An image that was taken so long before what the clock says."""
            nonlocal now_ns
            now_ns += 500_000_000
            clock.publish(Clock(clock=to_stamp(now_ns)))
            tester.spin(0.3)
            image = to_image(tester.header(), scene.frames[0], "rgb8")
            image.header.stamp = to_stamp(now_ns - age_ms * 1_000_000)
            tester.image.publish(image)
            tester.spin(0.3)
            return stamp_ns(image.header.stamp)

        stats = tester.heard.stats
        tester.until(lambda: show(100) in stats, "a result")
        taken = show(250)
        tester.until(lambda: taken in stats, "a result")
        assert abs(stats[taken].latency_ms - 250) < 1e-3, "the clock stands"
        late = show(450)
        tester.spin(1.0)
        assert late not in stats
        report = diagnosis(tester, "input", wanted=lambda s: True, tracker=name)
        assert abs(float(values(report)["stamp_skew_ms"]) - 450) < 1e-3
        assert tester.ask(click(scene)).success
        tester.close()


def test_a_bag_that_loops(fresh: Tester, scene: Scene) -> None:
    """Objects stay, what depends on the order of frames goes, and the ring begins anew."""
    begin = fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=3)).success
    for rgb in scene.frames[1:]:
        fresh.send(rgb)
    end = fresh.clock_ns
    for heard in (fresh.heard.logs, fresh.heard.labels, fresh.heard.objects):
        heard.clear()  # the same stamps come again
    again = [fresh.send(scene.frames[0], step_ns=begin - end)]
    fresh.until(lambda: any("jumped back" in line for line in fresh.heard.logs), "a warning")
    again += [fresh.send(rgb) for rgb in scene.frames[1:3]]
    found = [to_labels(fresh.heard.labels[stamp]) == 3 for stamp in again]
    # A prompt for a frame of this round finds it in the ring, though the last round had it too.
    header = Image().header
    header.stamp = to_stamp(again[1])
    answer = fresh.ask(click(scene, object_id=4, header=header))
    assert (answer.code, stamp_ns(answer.header.stamp)) == (PromptResult.OK, again[1])
    # One of the last round that has not come again yet is waited for, not taken from that round.
    header.stamp = to_stamp(end)
    request = fresh.publish(click(scene, object_id=5, header=header))
    fresh.spin(0.5)
    assert request not in fresh.heard.answers
    fresh.send(scene.frames[3], step_ns=end - fresh.clock_ns)
    assert fresh.answer_to(request).success
    model = load_model("nano", device="cpu")
    expected, untouched = (_looped(model, scene, forget=forget) for forget in (True, False))
    for mask, same, other in zip(found, expected, untouched, strict=True):
        assert mask.any()
        assert (mask != same).mean() < 1e-3
        assert (mask != same).sum() <= (mask != other).sum()
    assert any((a != b).any() for a, b in zip(expected, untouched, strict=True))


def _looped(model: PanoSAM2, scene: Scene, *, forget: bool) -> list[np.ndarray]:
    """Masks of the same frames twice, the second time until the third, in this process."""
    config = TrackerConfig(max_objects=8)
    tracker = PanoTracker(model, config)
    tracker.step(scene.frames[0])
    tracker.step(scene.frames[0], [CorePrompt(3, points=[scene.click])])
    for rgb in scene.frames[1:]:
        tracker.step(rgb)
    if forget:
        tracker.forget_short_term()
    return [tracker.step(rgb).labels == 3 for rgb in scene.frames[:3]]


def test_the_model_is_released_on_deactivating_if_so_wanted(env, tmp_path, scene: Scene) -> None:
    name = "/release/panosam2"
    with start_tracker(env, tmp_path / "log", "/release", "warmup_frames:=0"):
        tester = Tester(name, "/release/image")

        def change(transition: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition))
            return call(tester, ChangeState, f"{name}/change_state", request).success

        def device(state: str) -> str:
            diagnosis(
                tester, "tracker", wanted=lambda s: values(s)["state"] == state, tracker=name
            )
            return values(diagnosis(tester, "gpu", tracker=name))["device"]

        tester.connect()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene)).success
        for release in (False, True):
            assert set_parameter(tester, "release_gpu_on_deactivate", release, name).successful
            assert change(Transition.TRANSITION_DEACTIVATE)
            assert device("not active") == ("none" if release else "cpu")
            if release:  # nothing is configured, so what is fixed otherwise can be set
                assert set_parameter(tester, "max_objects", 1, name).successful
            assert change(Transition.TRANSITION_ACTIVATE)
            assert device("active") == "cpu"
            tester.connect()
            tester.heard.labels.clear()
            tester.greet(scene.frames[0])
            answer = tester.ask(click(scene, object_id=2))
            assert (answer.success, list(answer.object_ids)) == (True, [2])
        assert tester.ask(click(scene, object_id=3)).code == PromptResult.TOO_MANY_OBJECTS
        tester.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_active_node_holds_the_memory_that_is_to_be_reserved(env, tmp_path) -> None:
    """Once, however often it is activated."""
    name, held = "/reserve/panosam2", {}
    for reserve in (0, 256):
        settings = "warmup_frames:=0", f"memory_reserve_mb:={reserve}"
        with start_tracker(env, tmp_path / f"log{reserve}", "/reserve", *settings) as running:
            tester = Tester(name, "/reserve/image")
            first = settled_mb(tester, running.pid)
            for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
                request = ChangeState.Request(transition=Transition(id=transition))
                assert call(tester, ChangeState, f"{name}/change_state", request).success
            held[reserve] = first, settled_mb(tester, running.pid)
            tester.close()
    for plain, reserved in zip(held[0], held[256], strict=True):
        assert 200 < reserved - plain < 320


def settled_mb(tester: Tester, pid: int) -> float:
    """Resident memory of a node some time after it has become active."""
    tester.connect()
    time.sleep(1.0)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_prompt_for_an_image_that_never_comes_is_answered(fresh: Tester, scene: Scene) -> None:
    """The camera stops while the prompt waits: the answer comes all the same."""
    fresh.send(scene.frames[0])
    assert set_parameter(fresh, "prompt.max_wait_ms", 500).successful
    ahead = fresh.header(step_ns=900_000_000)
    fresh.clock_ns -= 900_000_000
    begin = time.monotonic()
    answer = fresh.ask(click(scene, header=ahead))
    took = time.monotonic() - begin
    assert set_parameter(fresh, "prompt.max_wait_ms", 3000).successful
    assert answer.code == PromptResult.STALE_FRAME
    assert "within 0.5 s" in answer.message
    assert took > 0.45
    assert not list(answer.object_ids)
