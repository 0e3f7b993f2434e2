"""The node on this machine: delivery of large images, latency, long runs, recovery.

Usage: python benchmarks/node.py [delivery latency restart throughput soak] [--json FILE]
       [--seconds 20] [--frames 20000] [--minutes 30] [--set view:=sphere ...]

Without names all five, one after the other; the machine should have nothing else to do. A FILE
that exists is added to.

delivery: a camera of its own process sends 3840x1920 images at 15 Hz, best effort and reliable,
with the shipped shared-memory profile and without it; counted is what the node received. Without
it: after how many seconds it says what to do.

latency: 1920x960 images, one at a time, one object. From an image's stamp to the publication of
its results, less the tracker's own stages; and its step on the same images in this process.

restart: the node is killed with an object being tracked, started again and prompted again. Also
the model's time on the first prompted image after the start and on the one after it, beside later
ones of each kind; the worse of the two.

throughput: a camera of its own process sends 1024x512 images at 30 Hz, more than the node can
take; one object, clicked on once. Frames per second that the node publishes results of, and the
processor time per result of the node and of the camera. --set gives the node parameters of this
part, too.

soak: small frames as fast as they are answered, for as many frames and as many minutes as asked
for, whichever takes longer; every third time four at once, of which some are dropped; up to three
objects come and go, all three at the very start. --set gives the node parameters of this part.
Memory of the process, the mean of the second tenth of the run and that of the last, and whether
published and dropped frames add up to those received. A frame's latency depends on how many
objects there are and in how many pictures they are looked for (each local view is one, the
panorama is one), so each is divided by the median of the frames with as many of both; those
without objects take under a millisecond, nothing is done, and are left out. The 99th percentile of
that is of frames without a prompt that found the node free; those with a prompt and those that had
to wait for another frame are told apart, and so are the network's own stages, which say how even
the machine is: the same work takes longer at some times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from machine import machine
from panosam2_ros.msg import FrameStats, Prompt, PromptResult, TrackedObjectArray
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panosam2_core import PanoTracker, load_model
from panosam2_core import Prompt as CorePrompt
from panosam2_core.data.synthetic import SyntheticWorld, WorldConfig
from panosam2_ros.images import to_image
from panosam2_ros.isolation import isolated_environment
from panosam2_ros.qos import profile
from panosam2_ros.stamps import stamp_ns, to_stamp

LARGE_HW, RATE_HZ = (1920, 3840), 15.0
MOVING_TIMES, MOVING_HZ = 8, 30.0  # 512x1024
SMALL_HW = (64, 128)
WAITED_MS = 5.0  # in the queue; a free node takes an image in less
OBJECTS = 3  # that come and go in a long run
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="delivery, latency, restart, throughput, soak")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME:=VALUE")
    parser.add_argument("--reliability", default="reliable", help="of `camera`, used by delivery")
    parser.add_argument("--topic", default="/image", help="likewise")
    parser.add_argument("--moving", action="store_true", help="likewise, by throughput")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.what == ["camera"]:
        shown, rate = [np.zeros((*LARGE_HW, 3), np.uint8)], RATE_HZ
        if args.moving:
            shown, rate = moving(), MOVING_HZ
        reliable = args.reliability == "reliable"
        camera(args.topic, args.seconds, shown, rate, reliable=reliable)
        return
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "delivery": lambda: delivery(args.seconds),
        "latency": latency,
        "restart": restart,
        "throughput": lambda: throughput(args.seconds, args.set),
        "soak": lambda: soak(args.frames, args.minutes, args.set),
    }
    result: dict[str, Any] = {}
    if args.json and args.json.exists():
        result = json.loads(args.json.read_text(encoding="utf-8"))
    for name in args.what or parts:
        before = machine()
        result |= parts[name]() | {f"{name}.run": before}
        print(json.dumps(result, indent=2), flush=True)
        if args.json:
            args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@contextmanager
def tracker(env: Mapping[str, str], *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """The node in a process of its own."""
    parts = [part for setting in settings for part in ("-p", setting)]
    command = [sys.executable, "-m", "panosam2_ros.tracker_node", "--ros-args", *parts]
    process = subprocess.Popen(command, env=dict(env), stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def listening(env: Mapping[str, str]) -> Iterator[Node]:
    """A node of this process in the same domain."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    rclpy.init(args=[])
    node = Node("benchmark")
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown()
        os.environ.clear()
        os.environ.update(before)


def until(node: Node, done: Callable[[], bool], patience_s: float = 60.0) -> bool:
    """Spin until something holds."""
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            return False
        rclpy.spin_once(node, timeout_sec=0.02)
    return True


def delivery(seconds: float) -> dict[str, Any]:
    """Share of large images that reach the node."""
    rows = []
    for shipped in (True, False):
        for reliability in ("best_effort", "reliable"):
            rows.append(_deliver(seconds, reliability, shipped=shipped))
            print(rows[-1], file=sys.stderr, flush=True)
    least = {
        kind: min(row["share"] for row in rows if row["profile"] == kind)
        for kind in ("profile", "default")
    }
    return {"delivered_4k": {**least, "rate_hz": RATE_HZ, "runs": rows}}


def _deliver(seconds: float, reliability: str, *, shipped: bool) -> dict[str, Any]:
    with isolated_environment() as isolated:
        env = dict(isolated)
        if not shipped:
            for name in PROFILES:
                env.pop(name)
        with listening(env) as node, tracker(env, "publish.label_resolution:=model"):
            found: dict[str, Any] = {"received": 0, "lost": 0, "warned": None}

            def look(msg: DiagnosticArray) -> None:
                for status in msg.status:
                    values = {v.key: v.value for v in status.values}
                    if status.name.endswith(": tracker"):
                        found["received"] = int(values["received"])
                        found["active"] = values["state"] == "active"
                    if status.name.endswith(": input"):
                        found["lost"] = int(values.get("lost", 0))
                        if "although a camera is there" in status.message:
                            found["warned"] = found["warned"] or time.monotonic()

            node.create_subscription(DiagnosticArray, "/diagnostics", look, profile(10))
            until(node, lambda: found.get("active", False))
            command = [sys.executable, __file__, "camera", "--reliability", reliability]
            camera_process = subprocess.Popen(
                [*command, "--seconds", str(seconds)], env=env, stdout=subprocess.PIPE, text=True
            )
            until(node, lambda: camera_process.poll() is not None, seconds + 60)
            told = camera_process.communicate()[0].split()
            until(node, lambda: False, 2.5)
            sent, rate, begin = int(told[0]), float(told[1]), float(told[2])
            warned = found["warned"]
            return {
                "profile": "profile" if shipped else "default",
                "reliability": reliability,
                "sent": sent,
                "sent_hz": rate,
                "received": found["received"],
                "lost_on_the_way": found["lost"],
                "share": found["received"] / max(1, sent),
                # From the first image on; one clock for all processes of a machine.
                "warned_after_s": None if warned is None else warned - begin,
            }


def camera(
    topic: str, seconds: float, shown: Sequence[np.ndarray], rate: float, *, reliable: bool
) -> None:
    """Send images; prints how many, at what rate, and when the first went out."""
    rclpy.init(args=[])
    node = Node("large_camera")
    publisher = node.create_publisher(Image, topic, profile(2, reliable=reliable))
    until(node, lambda: publisher.get_subscription_count() > 0, 20)
    images = [to_image(Header(frame_id="camera"), rgb, "rgb8") for rgb in shown]
    sent = 0
    begin = due = time.monotonic()
    while time.monotonic() - begin < seconds:
        image = images[sent % len(images)]
        image.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(image)
        sent += 1
        # A camera that was held up goes on at its pace; it does not hurry after its clock.
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    print(sent, sent / (time.monotonic() - begin), begin)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown()


class Conversation:
    """Sends images one by one and waits for what the node says of each."""

    def __init__(self, node: Node) -> None:
        self.node, self.stats, self.answers = node, dict[int, FrameStats](), list[PromptResult]()
        self.newest = 0
        self.image = node.create_publisher(Image, "/image", profile(2))
        self.prompt = node.create_publisher(Prompt, "/panosam2/prompt", profile(10))
        self.heard = node.create_subscription(
            FrameStats,
            "/panosam2/stats",
            lambda m: self.stats.update({stamp_ns(m.header.stamp): m}),
            profile(20),
        )
        self.answered = node.create_subscription(
            PromptResult,
            "/panosam2/prompt_result",
            self.answers.append,
            profile(10, transient_local=True),
        )

    def connect(self) -> None:
        """Wait for the node's subscriptions."""
        for publisher in (self.image, self.prompt):
            until(self.node, lambda p=publisher: p.get_subscription_count() > 0)

    def say(self, rgb: np.ndarray, patience_s: float = 20.0) -> FrameStats | None:
        """Send an image; ``None`` when nothing comes back."""
        image = to_image(Header(frame_id="camera"), rgb, "rgb8")
        # Packing the picture is the camera's business; from here on it is on its way.
        image.header.stamp = self.node.get_clock().now().to_msg()
        self.image.publish(image)
        self.newest = stamp_ns(image.header.stamp)
        return self._heard(patience_s)

    def click(self, u: float, v: float) -> FrameStats | None:
        """Say afresh what the object is in the newest image; what that took."""
        self.stats.pop(self.newest, None)
        before = len(self.answers)
        self.prompt.publish(Prompt(object_id=1, action=Prompt.REPLACE, points=[Point(x=u, y=v)]))
        until(self.node, lambda: len(self.answers) > before)
        return self._heard(20.0)

    def _heard(self, patience_s: float) -> FrameStats | None:
        until(self.node, lambda: self.newest in self.stats, patience_s)
        return self.stats.get(self.newest)


def latency(images: int = 60) -> dict[str, Any]:
    """What the node adds to the tracker's own step."""
    frames = [np.ascontiguousarray(np.kron(f, np.ones((15, 15, 1), np.uint8))) for f in pictures()]
    height, width = frames[0].shape[:2]
    with isolated_environment() as env, listening(env) as node, tracker(env):
        talk = Conversation(node)
        talk.connect()
        talk.say(frames[0])
        talk.click(width / 2, height / 2)
        found = [talk.say(frames[i % len(frames)]) for i in range(images)]
    stats = [one for one in found[10:] if one is not None]
    local = PanoTracker(load_model("nano", device="cpu"))
    seconds = []
    for i in range(images):
        begin = time.perf_counter()
        click = [CorePrompt(1, points=[(width / 2, height / 2)])] if i == 0 else []
        local.step(frames[i % len(frames)], click)
        seconds.append(time.perf_counter() - begin)
    step_ms = 1e3 * statistics.median(seconds[10:])
    names = ("queue", "preprocess", "inference", "postprocess", "publish")
    parts = {f"{n}_ms": statistics.median(getattr(s, f"{n}_ms") for s in stats) for n in names}
    total = statistics.median(s.latency_ms for s in stats)
    within = sum(parts[f"{n}_ms"] for n in ("preprocess", "inference", "postprocess"))
    return {
        "latency_overhead_ms": total - within,
        "latency_overhead_limit_ms": max(3.0, 0.1 * within),
        "latency": {"total_ms": total, "step_alone_ms": step_ms, **parts, "size": [width, height]},
    }


def restart() -> dict[str, Any]:
    """Seconds from the start of a killed node until it tracks again."""
    frames = pictures()
    with isolated_environment() as env, listening(env) as node:
        talk = Conversation(node)
        with tracker(env) as process:
            talk.connect()
            until(node, lambda: talk.say(frames[0], 1.0) is not None)
            talk.click(64, 32)
            process.kill()
            process.wait()
        until(node, lambda: talk.image.get_subscription_count() == 0)
        begin = time.monotonic()
        with tracker(env):
            talk.connect()
            until(node, lambda: talk.say(frames[0], 1.0) is not None)
            first = [talk.click(64, 32), talk.say(frames[1])]
            took = time.monotonic() - begin
            later = [[talk.click(64, 32), talk.say(frame)] for frame in frames[2:30]]
    # A prompted image costs more than others; each kind is compared with its own.
    ratios = [
        _model_ms(one) / statistics.median(map(_model_ms, others))
        for one, others in zip(first, zip(*later, strict=True), strict=True)
    ]
    return {
        "recovery_s": took,
        "first_frame_over_steady": max(ratios),
        "first_frame": {"prompted": ratios[0], "next": ratios[1]},
    }


def _model_ms(stats: FrameStats | None) -> float:
    if stats is None:
        raise RuntimeError("the node did not answer")
    return stats.preprocess_ms + stats.inference_ms + stats.postprocess_ms


def pictures() -> list[np.ndarray]:
    """Small frames of the synthetic world."""
    world = WorldConfig(size_hw=SMALL_HW, frames=60, objects=(3, 4), angular_size_deg=(30, 60))
    clip = SyntheticWorld(world, "val").clip(0)
    return [np.ascontiguousarray(f.image.permute(1, 2, 0).numpy()) for f in clip]


def moving() -> list[np.ndarray]:
    """Frames of the synthetic world, enlarged, there and back again, so that nothing jumps."""
    block = np.ones((MOVING_TIMES, MOVING_TIMES, 1), np.uint8)
    frames = [np.ascontiguousarray(np.kron(frame, block)) for frame in pictures()]
    return frames + frames[-2:0:-1]


def throughput(seconds: float, settings: Sequence[str]) -> dict[str, Any]:
    """Results per second of the whole node, from a camera that never waits for it."""
    heard: list[FrameStats] = []
    with (
        isolated_environment() as env,
        listening(env) as node,
        tracker(env, *settings) as process,
    ):
        node.create_subscription(FrameStats, "/panosam2/stats", heard.append, profile(50))
        prompt = node.create_publisher(Prompt, "/panosam2/prompt", profile(10))
        until(node, lambda: prompt.get_subscription_count() > 0)
        whole = [sys.executable, __file__, "camera", "--moving", "--seconds", str(seconds + 60)]
        sender = subprocess.Popen(whole, env=dict(env), stdout=subprocess.DEVNULL)
        try:
            until(node, lambda: bool(heard))
            height, width = (MOVING_TIMES * side for side in SMALL_HW)
            prompt.publish(Prompt(object_id=1, points=[Point(x=width / 2, y=height / 2)]))
            until(node, lambda: heard[-1].objects > 0)
            until(node, lambda: len(heard) > 40)  # its memory is full then
            del heard[:]
            begin = time.monotonic()
            before = [_cpu_s(process.pid), _cpu_s(sender.pid)]
            until(node, lambda: time.monotonic() - begin > seconds, seconds + 10)
            spent, took = [_cpu_s(process.pid), _cpu_s(sender.pid)], time.monotonic() - begin
        finally:
            sender.kill()
            sender.wait()
    return {
        "throughput": {
            "fps": len(heard) / took,
            "results": len(heard),
            "received": heard[-1].received - heard[0].received,
            "node_cpu_ms_per_result": 1e3 * (spent[0] - before[0]) / len(heard),
            "camera_cpu_ms_per_result": 1e3 * (spent[1] - before[1]) / len(heard),
            "inference_ms": statistics.median(s.inference_ms for s in heard),
            "latency_ms": statistics.median(s.latency_ms for s in heard),
            "settings": list(settings),
            "size": [width, height],
        }
    }


def soak(frames: int, minutes: float, settings: Sequence[str]) -> dict[str, Any]:
    """A long run in short time."""
    with (
        isolated_environment() as env,
        listening(env) as node,
        tracker(env, *settings) as process,
    ):
        found = _soak(node, process.pid, pictures(), frames, minutes)
    return {
        "soak": {"settings": list(settings), **found},
        "latency_p99_over_median": found["p99_over_median"],
    }


class _Ledger:
    """What the node says of a long run."""

    def __init__(self, node: Node) -> None:
        self.stats: dict[int, FrameStats] = {}
        self.published: dict[int, int] = {}  # pictures looked at, by stamp
        self.prompted: set[int] = set()
        self.rows: list[tuple[int, FrameStats]] = []  # by stamp
        listen = node.create_subscription
        self.heard = [
            listen(FrameStats, "/panosam2/stats", self._on_stats, profile(50)),
            listen(
                TrackedObjectArray,
                "/panosam2/objects",
                self._on_objects,
                profile(50),
            ),
            listen(
                PromptResult,
                "/panosam2/prompt_result",
                lambda m: self.prompted.add(stamp_ns(m.header.stamp)),
                profile(100, transient_local=True),
            ),
        ]

    def _on_stats(self, stats: FrameStats) -> None:
        stamp = stamp_ns(stats.header.stamp)
        self.stats[stamp] = stats
        self.rows.append((stamp, stats))

    def _on_objects(self, found: TrackedObjectArray) -> None:
        close = sum(item.view[2] > 0 for item in found.objects)
        whole = close < len(found.objects)
        self.published[stamp_ns(found.header.stamp)] = close + whole

    def latencies(self) -> dict[str, Any]:
        """Of the frames after the first tenth, by the number of objects and of pictures."""
        rows = [
            (stamp, f"{stats.objects} in {self.published[stamp]}", stats)
            for stamp, stats in self.rows[len(self.rows) // 10 :]
            if stats.objects and stamp in self.published
        ]
        kinds: dict[str, dict[str, list[float]]] = {}
        for stamp, kind, stats in rows:
            waited = stats.queue_ms > WAITED_MS
            which = "prompted" if stamp in self.prompted else "waited" if waited else "calm"
            found = kinds.setdefault(kind, {"calm": [], "waited": [], "prompted": [], "model": []})
            # From its arrival: of several that are sent at once the way says nothing.
            found[which].append(stats.queue_ms + _model_ms(stats) + stats.publish_ms)
            if which == "calm":
                found["model"].append(_model_ms(stats))
        kinds = {kind: found for kind, found in sorted(kinds.items()) if len(found["calm"]) >= 20}

        def even(which: str, to: str = "calm") -> list[float]:
            medians = {kind: statistics.median(found[to]) for kind, found in kinds.items()}
            return [ms / medians[kind] for kind, found in kinds.items() for ms in found[which]]

        return {
            "p99_over_median": _p99(even("calm")),
            "p99_over_median_of_the_network": _p99(even("model", "model")),
            "p99_over_median_that_waited": _p99(even("waited")),
            "p99_over_median_with_a_prompt": _p99(even("prompted")),
            "by_objects_and_pictures": {
                kind: {
                    "frames": len(found["calm"]),
                    "median_ms": statistics.median(found["calm"]),
                    "p99_ms": _p99(found["calm"]),
                }
                for kind, found in kinds.items()
            },
        }


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else math.nan


def _soak(
    node: Node, pid: int, shown: list[np.ndarray], frames: int, minutes: float
) -> dict[str, Any]:
    ledger = _Ledger(node)
    image = node.create_publisher(Image, "/image", profile(4))
    prompt = node.create_publisher(Prompt, "/panosam2/prompt", profile(10))
    until(node, lambda: image.get_subscription_count() and prompt.get_subscription_count())
    generator = random.Random(0)
    memory, sent, noted, turn = [_rss_mb(pid)], 0, 0, 0
    begin, cpu_s = time.monotonic(), _cpu_s(pid)
    clock = 1_700_000_000_000_000_000
    while sent < frames or time.monotonic() - begin < 60 * minutes:
        for _ in range(4 if turn % 3 == 2 else 1):
            clock += 50_000_000
            header = Header(frame_id="camera", stamp=to_stamp(clock))
            image.publish(to_image(header, shown[sent % len(shown)], "rgb8"))
            sent += 1
        turn += 1
        if turn == 1:
            for order in _crowd(generator):
                prompt.publish(order)
        elif sent > 80 and generator.random() < 0.05:
            prompt.publish(_order(generator))
        if not until(node, lambda newest=clock: newest in ledger.stats, 20):
            raise RuntimeError(f"no result after {sent} images")
        newest = ledger.stats[clock]
        ledger.stats.clear()
        if sent >= noted + 100:
            noted = sent
            memory.append(_rss_mb(pid))
            if len(memory) % 20 == 0:
                print(f"{sent} images, {memory[-1]:.1f} MB", file=sys.stderr, flush=True)
    until(node, lambda: False, 1.0)  # the last answers
    tenth = max(1, len(memory) // 10)
    first = statistics.mean(memory[tenth : 2 * tenth] or memory)
    last = statistics.mean(memory[-tenth:])
    return {
        "frames": sent,
        "received": newest.received,
        "published": len(ledger.published),
        "dropped": newest.dropped,
        "adds_up": newest.processed + newest.dropped == newest.received
        and newest.processed == len(ledger.published),
        "minutes": (time.monotonic() - begin) / 60,
        "cpu_ms_per_result": 1e3 * (_cpu_s(pid) - cpu_s) / max(1, len(ledger.published)),
        "rss_mb": [round(mb, 1) for mb in memory[:: max(1, len(memory) // 20)]],
        "rss_mb_second_tenth": first,
        "rss_mb_last_tenth": last,
        "rss_mb_most": max(memory),
        "rss_growth": last / first - 1,
        **ledger.latencies(),
    }


def _crowd(generator: random.Random) -> list[Prompt]:
    """All at once, so that what grows later does not do so for want of memory till then."""
    return [_added(generator, object_id) for object_id in range(1, 1 + OBJECTS)]


def _order(generator: random.Random) -> Prompt:
    """Somebody adds an object, or takes one away."""
    object_id = generator.randint(1, OBJECTS)
    if generator.random() < 0.5:
        return Prompt(action=Prompt.REMOVE, object_id=object_id)
    return _added(generator, object_id)


def _added(generator: random.Random, object_id: int) -> Prompt:
    u, v = generator.uniform(0, SMALL_HW[1]), generator.uniform(10, SMALL_HW[0] - 10)
    return Prompt(object_id=object_id, points=[Point(x=u, y=v)])


def _cpu_s(pid: int) -> float:
    """Of all threads of a process, since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
