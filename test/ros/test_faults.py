"""What happens to a robot: processes die, memory ends, and nonsense arrives.

Every test prints the figure it is about; `pytest -s` shows it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import Point, PointStamped
from harness import Scene, Tester, process, start_tracker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from panosam2_ros.msg import Prompt, PromptResult, TrackedObjectArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from test_inputs import TRACKER, call, click, diagnosis, set_parameter, values

from panosam2_core.build import shipped_weights
from panosam2_ros.images import to_image, to_labels
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns

FAILING = Path(__file__).with_name("failing_tracker.py")


def tell(text: str) -> None:
    """A figure for whoever runs the test by hand."""
    sys.stderr.write(f"{text}\n")


def test_a_camera_that_is_killed_and_comes_back(env, tmp_path) -> None:
    with start_tracker(env, tmp_path / "log", "/cam"):
        tester = Tester("/cam/panosam2", "/cam/unused")
        arguments = ("--ros-args", "-r", "__ns:=/cam", "-r", "image_raw:=image")
        objects = tester.heard.objects

        def stream() -> set[int]:
            before = set(objects)
            tester.until(lambda: len(set(objects) - before) > 3, "results")
            return set(objects)

        with process(env, tmp_path / "camera1", "camera_360", *arguments) as camera:
            stream()
            assert tester.ask(Prompt(object_id=1, points=[Point(x=500.0, y=250.0)])).success
            stream()
            camera.send_signal(signal.SIGKILL)
            camera.wait()
        begin = time.monotonic()
        with process(env, tmp_path / "camera2", "camera_360", *arguments):
            newest = max(stream())
            took = time.monotonic() - begin
            tester.until(lambda: any(s > newest for s in objects), "newer results")
            assert [o.id for o in objects[max(objects)].objects] == [1], "objects are kept"
        tell(f"the stream went on {took:.1f} s after the camera was started again")
        tester.close()


def test_a_tracker_that_is_killed_and_comes_back(env, tmp_path, scene: Scene) -> None:
    tester = Tester("/phoenix/panosam2", "/phoenix/image")
    with start_tracker(env, tmp_path / "log1", "/phoenix") as running:
        tester.connect()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene, object_id=5)).success
        running.send_signal(signal.SIGKILL)
        running.wait()
    tester.until(lambda: tester.image.get_subscription_count() == 0, "the end of the tracker")
    begin = time.monotonic()
    with start_tracker(env, tmp_path / "log2", "/phoenix") as running:
        tester.connect()
        tester.heard.labels.clear()
        tester.until(
            lambda: (
                tester.image.publish(to_image(tester.header(), scene.frames[0], "rgb8"))
                or tester.spin(0.2)
                or bool(tester.heard.labels)
            ),
            "results",
        )
        answer = tester.ask(click(scene, object_id=5))
        assert answer.success
        assert list(answer.object_ids) == [5]
        stamp = tester.send(scene.frames[1])
        assert to_labels(tester.heard.labels[stamp]).any()
        tell(f"tracking again {time.monotonic() - begin:.1f} s after the start")
    tester.close()


SIZES = st.integers(0, 9) | st.sampled_from([2**16, 2**31, 2**32 - 1])
ENCODINGS = st.sampled_from(
    ["rgb8", "mono8", "32SC1", "bayer_rggb8", "yuyv", "rgb16", "", "🙂", "32FC1"]
)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-10, 300)
STAMPS = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1))


@st.composite
def headers(draw: st.DrawFn) -> Header:
    header = Header(frame_id=draw(st.sampled_from(["", "head", "a/b c", "ü"])))
    header.stamp.sec, header.stamp.nanosec = draw(STAMPS | st.just((0, 0)))
    return header


@st.composite
def images(draw: st.DrawFn) -> Image:
    return Image(
        header=draw(headers()),
        width=draw(SIZES),
        height=draw(SIZES),
        step=draw(SIZES),
        encoding=draw(ENCODINGS),
        is_bigendian=draw(st.integers(0, 255)),
        data=draw(st.binary(max_size=120)),
    )


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    points = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=4))
    huge = draw(st.sampled_from([1] * 19 + [20_000]))  # times as many points, labels, letters
    return Prompt(
        header=draw(headers()),
        action=draw(st.integers(0, 255) | st.integers(0, 4)),
        object_id=draw(st.integers(0, 65535) | st.integers(0, 3)),
        label=draw(st.text(max_size=8).filter(lambda t: "\0" not in t)) * huge,
        coordinates=draw(st.integers(0, 255) | st.integers(0, 3)),
        points=[Point(x=x, y=y, z=z) for x, y, z in points] * huge,
        point_labels=draw(
            st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 1), max_size=4)
        )
        * huge,
        box=draw(st.lists(NUMBERS, max_size=5)) * huge,
        mask=draw(images() | st.just(Image())),
        max_frames=draw(st.integers(0, 2**32 - 1)),
    )


HUGE = 1000  # points


class Nonsense:
    """Sends what is drawn, and keeps count of it."""

    def __init__(self, tester: Tester, mine: int) -> None:
        self._tester = tester
        self._mine = mine
        self.clicks = tester.node.create_publisher(PointStamped, f"{TRACKER}/click", profile(10))
        self.requests: list[int] = []
        self.sent = {"prompts": 0, "images": 0, "clicks": 0}

    def send(self, message: Prompt | Image | tuple) -> None:
        tester = self._tester
        if isinstance(message, Prompt):
            if message.object_id == self._mine:
                message.object_id = 7
            if message.action == Prompt.RESET:
                message.action = Prompt.ADD
            if message.mask.encoding == "32SC1" and not message.object_id:
                message.object_id = 7  # a label image may name any object
            request = tester.publish(message)
            self.requests.append(request)
            self.sent["prompts"] += 1
            if len(message.points) > HUGE:  # or else what comes behind it is lost on its way
                answers = tester.heard.answers
                tester.until(lambda: request in answers, "an answer to a huge prompt")
        elif isinstance(message, Image):
            tester.image.publish(message)
            self.sent["images"] += 1
        else:
            x, y, header = message
            self.clicks.publish(PointStamped(header=header, point=Point(x=x, y=y)))
            self.sent["clicks"] += 1
        tester.spin(0.002)


def test_prompts_behind_huge_ones_are_answered(fresh: Tester, scene: Scene) -> None:
    """The node takes in nothing while huge prompts are made Python objects."""
    fresh.send(scene.frames[0])
    huge = Prompt(object_id=7, points=[Point(x=1.0, y=1.0)] * 80_000)
    requests = [fresh.publish(huge) for _ in range(4)]
    for _ in range(180):
        requests.append(fresh.publish(click(scene, object_id=8)))
        fresh.spin(0.002)
    answers = fresh.heard.answers
    fresh.until(lambda: all(r in answers for r in requests), "an answer to each prompt", 30.0)


def test_a_thousand_messages_of_nonsense(fresh: Tester, scene: Scene) -> None:
    """No crash, no silence; no mask under an id that is not tracked; my object is still mine."""
    seen: Counter[int] = Counter()
    heard_twice = fresh.node.create_subscription(
        TrackedObjectArray,
        f"{TRACKER}/objects",
        lambda msg: seen.update([stamp_ns(msg.header.stamp)]),
        profile(20),
    )
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=200, label="mine")).success
    before = received(fresh)
    nonsense = Nonsense(fresh, 200)

    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(message=prompts() | images() | st.tuples(NUMBERS, NUMBERS, headers()))
    def throw(message: Prompt | Image | tuple) -> None:
        nonsense.send(message)

    throw()
    sent, answers = nonsense.sent, fresh.heard.answers
    assert sum(sent.values()) >= 1000
    fresh.until(lambda: all(r in answers for r in nonsense.requests), "an answer to each prompt")
    fresh.clock_ns += 10**12  # past all the stamps that were taken
    ids = list(fresh.ask(Prompt(action=Prompt.REMOVE, object_id=65000)).object_ids)
    fresh.send(scene.frames[0])
    arrived = received(fresh) - before
    heard = fresh.heard
    for stamp, times in seen.items():
        if times == 1 and stamp in heard.labels:  # else it is not known which belongs to which
            named = {found.id for found in heard.objects[stamp].objects}
            assert set(np.unique(to_labels(heard.labels[stamp]))) <= named | {0}
    for other in set(ids) - {200}:
        fresh.ask(Prompt(action=Prompt.REMOVE, object_id=other))
    stamp = fresh.send(scene.frames[0])
    (mine,) = heard.objects[stamp].objects
    assert (mine.id, mine.label) == (200, "mine")
    assert fresh.ask(click(scene, object_id=200)).success
    labels = to_labels(heard.labels[fresh.send(scene.frames[0])])
    assert set(np.unique(labels)) == {0, 200}
    mask, truth = labels == 200, scene.masks[0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.4
    tell(f"sent {sent}, {arrived} images arrived; tracked meanwhile: {len(ids)}")
    # Of two images that wait for the node the middleware may keep the newer one only.
    assert arrived > sent["images"] / 2
    fresh.node.destroy_publisher(nonsense.clicks)
    fresh.node.destroy_subscription(heard_twice)


def received(tester: Tester) -> int:
    """Images that reached the node, by its own count; the last one is known to have."""
    stats = tester.heard.stats
    tester.until(lambda: max(tester.heard.labels) in stats, "stats")
    return max(one.received for one in stats.values())


def test_prompts_at_200_hz(fresh: Tester, scene: Scene) -> None:
    """Each one is answered: carried out, or refused because too many wait."""
    fresh.send(scene.frames[0])
    requests, begin = [], time.monotonic()
    for number in range(600):
        while (early_s := begin + number / 200 - time.monotonic()) > 0:
            rclpy.spin_once(fresh.node, timeout_sec=early_s)
        for _ in range(4):  # late: what is not taken from the middleware in time is lost
            rclpy.spin_once(fresh.node, timeout_sec=0)
        requests.append(fresh.publish(click(scene, object_id=1)))
        if number % 20 == 0:
            fresh.image.publish(to_image(fresh.header(), scene.frames[1], "rgb8"))
    rate = (len(requests) - 1) / (time.monotonic() - begin)
    answers = fresh.heard.answers
    fresh.until(lambda: all(r in answers for r in requests), "all answers")
    codes = [answers[r].code for r in requests]
    found = {"carried out": codes.count(PromptResult.OK), "busy": codes.count(PromptResult.BUSY)}
    tell(f"{rate:.0f} prompts/s, of {len(codes)} {found}")
    assert rate > 190
    assert sum(found.values()) == 600
    assert found["carried out"] > 60
    assert fresh.ask(click(scene, object_id=1)).success
    stamp = fresh.send(scene.frames[2])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [1]


def test_64_objects(env, tmp_path, scene: Scene) -> None:
    with start_tracker(env, tmp_path / "log", "/crowd", "max_objects:=64"):
        tester = Tester("/crowd/panosam2", "/crowd/image")
        tester.connect()
        tester.greet(scene.frames[0])
        labels = np.arange(64, dtype=np.int32).reshape(8, 8).repeat(16, 0).repeat(32, 1) + 1
        answer = tester.ask(Prompt(mask=to_image(tester.header(), labels, "32SC1")))
        assert answer.success, answer.message
        assert len(answer.object_ids) == 64
        begin = time.monotonic()
        stamp = tester.send(scene.frames[1])
        tell(f"a frame with 64 objects took {time.monotonic() - begin:.1f} s")
        assert len(tester.heard.objects[stamp].objects) == 64
        more = tester.ask(click(scene, object_id=100))
        assert more.code == PromptResult.TOO_MANY_OBJECTS
        tester.close()


def test_a_storm_of_parameters(fresh: Tester, scene: Scene) -> None:
    """What can be is taken over with the next frame, what cannot be is refused."""
    fresh.send(scene.frames[0])
    assert fresh.ask(click(scene, object_id=2)).success
    generator = random.Random(4)
    begin, width = time.monotonic(), 256
    for count in range(150):
        name, value, possible = generator.choice(
            [
                ("mask_threshold", x := generator.uniform(-12, 12), abs(x) <= 10),
                ("overlay.alpha", x := generator.uniform(-1, 2), 0 <= x <= 1),
                ("visibility.occluded_below", generator.random(), True),
                ("motion_gate_deg", x := generator.uniform(-5, 200), 0 <= x <= 180),
                (
                    "publish.label_resolution",
                    x := generator.choice(["input", "model", "x"]),
                    x != "x",
                ),
                ("prompt.view", x := generator.choice(["auto", "sphere", ""]), x != ""),
                ("projection", "perspective", False),
            ]
        )
        assert set_parameter(fresh, name, value).successful == possible, (name, value)
        if name == "publish.label_resolution" and possible:
            width = {"input": 256, "model": 128}[value]
        if count % 10 == 0:
            stamp = fresh.send(scene.frames[count % 4])
            assert fresh.heard.labels[stamp].width == width
    tell(f"150 changes in {time.monotonic() - begin:.1f} s, a frame after every tenth")
    for name, value in (
        ("mask_threshold", 0.0),
        ("visibility.occluded_below", 0.5),
        ("motion_gate_deg", 12.0),
        ("publish.label_resolution", "input"),
        ("prompt.view", "auto"),
        ("overlay.alpha", 0.5),
    ):
        assert set_parameter(fresh, name, value).successful
    stamp = fresh.send(scene.frames[0])
    assert [o.id for o in fresh.heard.objects[stamp].objects] == [2]


CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = (
    getattr(Transition, f"TRANSITION_{name}")
    for name in ("CONFIGURE", "CLEANUP", "ACTIVATE", "DEACTIVATE")
)
NEXT = {  # state, transition -> state; everything else is illegal
    ("unconfigured", CONFIGURE): "inactive",
    ("inactive", CLEANUP): "unconfigured",
    ("inactive", ACTIVATE): "active",
    ("active", DEACTIVATE): "inactive",
}


def test_a_storm_of_transitions(env, tmp_path, scene: Scene) -> None:
    """Each is answered, with yes where it is legal and no elsewhere; afterwards the node works."""
    with start_tracker(env, tmp_path / "log", "/storm", "warmup_frames:=0") as running:
        tester = Tester("/storm/panosam2", "/storm/image")
        generator = random.Random(1)
        tester.connect()
        state, refused = "active", 0

        def ask(chosen: int) -> None:
            nonlocal state, refused
            request = ChangeState.Request(transition=Transition(id=chosen))
            answer = call(tester, ChangeState, "/storm/panosam2/change_state", request)
            assert answer.success == ((state, chosen) in NEXT), (state, chosen)
            refused += not answer.success
            state = NEXT.get((state, chosen), state)
            told = call(tester, GetState, "/storm/panosam2/get_state", GetState.Request())
            assert told.current_state.label == state

        for _ in range(40):
            ask(generator.choice([CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, 0, 97, 250]))
        tell(f"of 40 requests {refused} were refused")
        assert 20 < refused < 40
        way = {"unconfigured": [CONFIGURE, ACTIVATE], "inactive": [ACTIVATE], "active": []}
        for step in way[state]:
            ask(step)
        tester.connect()
        tester.heard.labels.clear()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene)).success
        assert running.poll() is None
        tester.close()
    assert running.returncode == 0, (tmp_path / "log").read_text()


def test_memory_that_ends_and_comes_back(env, tmp_path, scene: Scene) -> None:
    """Injected: three frames find no memory; the next ones do. Objects are kept, all is told."""
    log = tmp_path / "log"
    with open(log, "wb") as sink:
        running = subprocess.Popen(
            [
                sys.executable, str(FAILING), "2", "5", "--ros-args", "-r", "__ns:=/poor",
                "-p", "device:=cpu",
            ],
            env=env, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        tester = Tester("/poor/panosam2", "/poor/image")

        def report(wanted):
            return diagnosis(tester, "tracker", wanted=wanted, tracker="/poor/panosam2")

        tester.connect()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene, object_id=4)).success
        lost = []
        for _ in range(2):
            tester.send(scene.frames[1])
        for _ in range(3):
            image = to_image(tester.header(), scene.frames[2], "rgb8")
            lost.append(stamp_ns(image.header.stamp))
            tester.image.publish(image)
            tester.spin(0.6)
        status = report(lambda s: "out of memory" in s.message)
        assert "the next image is tried again. Track fewer objects" in status.message
        assert values(status)["state"] == "degraded"
        assert status.level == b"\x02"
        stamp = tester.send(scene.frames[3])
        assert [o.id for o in tester.heard.objects[stamp].objects] == [4]
        assert to_labels(tester.heard.labels[stamp]).any()
        assert not set(lost) & set(tester.heard.labels)
        status = report(lambda s: "out of memory" not in s.message)
        assert values(status)["state"] == "active"
        assert values(status)["failures"] == "3"
        tester.close()
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)
    assert running.returncode == 0, log.read_text()


def configured(tester: Tester, name: str, told: str) -> bytes:
    """Waits until /diagnostics say something of a node that did not get active."""
    status = diagnosis(tester, "tracker", wanted=lambda s: told in s.message, tracker=name)
    assert status.level == b"\x02"
    assert values(status)["state"] == "not active"
    assert told in values(status)["last_error"]
    state = call(tester, GetState, f"{name}/get_state", GetState.Request())
    return state.current_state.label


@pytest.mark.parametrize("broken", ["page", "short", "folder", "unreadable"])
def test_an_unreadable_checkpoint_is_told_in_diagnostics(env, tmp_path, broken: str) -> None:
    path = tmp_path / "weights.pt"
    if broken == "folder":
        path.mkdir()
    elif broken == "unreadable":  # as a disk that fails: it opens, and reading it is an error
        path.symlink_to("/proc/self/mem")
    else:
        path.write_bytes(b"<html>404</html>" if broken == "page" else b"PK\x03\x04" + bytes(60))
    setting = f"model.checkpoint:={path}"
    with start_tracker(env, tmp_path / "log", f"/{broken}", setting) as running:
        tester = Tester(f"/{broken}/panosam2", f"/{broken}/image")
        assert configured(tester, f"/{broken}/panosam2", str(path)) == "unconfigured"
        assert running.poll() is None
        tester.close()


FULL = """
set -e
mount -t tmpfs -o size=1m tmpfs "$1" && mkdir "$1/log"
cp "$2" "$1/weights.safetensors" || echo "the copy broke off" >&2
if touch "$1/more" && echo more >"$1/more"; then exit 3; fi
shift 2
exec "$@"
"""
NO_MOUNTS = not shutil.which("unshare") or bool(
    subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True, check=False,
    ).returncode
)  # fmt: skip


@pytest.mark.skipif(NO_MOUNTS, reason="no file system can be mounted without being root")
def test_a_full_disk(env, tmp_path, scene: Scene) -> None:
    """Weights that were cut short by it are named; the log has no room; tracking works.

    A file system of the process's own, 1 MB, on which the weights are put and the log is written.
    """
    full, log, name = tmp_path / "full", tmp_path / "log", "/full/panosam2"
    full.mkdir()
    command = [
        "unshare", "-rm", "bash", "-c", FULL, "bash", str(full), str(shipped_weights("nano")),
        sys.executable, "-m", "panosam2_ros.tracker_node", "--ros-args", "-r", "__ns:=/full",
        "-p", "device:=cpu", "-p", f"model.checkpoint:={full}/weights.safetensors",
    ]  # fmt: skip
    with open(log, "wb") as sink:
        running = subprocess.Popen(
            command, env={**env, "ROS_LOG_DIR": f"{full}/log"}, stdout=sink, stderr=sink
        )
    try:
        tester = Tester(name, "/full/image")
        assert configured(tester, name, "cut short or damaged; fetch it again") == "unconfigured"
        assert "No space left on device" in log.read_text()
        assert set_parameter(tester, "model.checkpoint", "", name).successful
        for step in (CONFIGURE, ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=step))
            assert call(tester, ChangeState, f"{name}/change_state", request).success
        tester.connect()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene, object_id=3)).success
        stamp = tester.send(scene.frames[1])
        assert (to_labels(tester.heard.labels[stamp]) == 3).any()
        status = diagnosis(tester, "tracker", tracker=name)
        assert (values(status)["state"], values(status)["last_error"]) == ("active", "")
        assert running.poll() is None
        tester.close()
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(30)
    assert running.returncode == 0, log.read_text()


def test_no_place_for_a_log_file_does_not_keep_the_node_from_starting(
    env, tmp_path, scene: Scene
) -> None:
    """A folder that cannot be made, as on a disk that is read-only or full."""
    log = tmp_path / "log"
    with start_tracker({**env, "ROS_LOG_DIR": f"{os.devnull}/log"}, log, "/mute") as running:
        tester = Tester("/mute/panosam2", "/mute/image")
        tester.connect()
        tester.greet(scene.frames[0])
        assert tester.ask(click(scene)).success
        assert "no log file" in log.read_text()
        tester.until(lambda: any("ready in" in s for s in tester.heard.logs), "/rosout")
        tester.close()
    assert running.returncode == 0, log.read_text()
