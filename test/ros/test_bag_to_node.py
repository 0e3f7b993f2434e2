"""The loop closes: what the node publishes is recorded, trained on, and loaded by the node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import Point
from harness import Scene, Tester, start_tracker
from panosam2_ros.msg import Prompt, PromptResult
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image

from panosam2_core.data.datasets import open_clips
from panosam2_core.weight_file import read_weights
from panosam2_ros.images import to_image
from panosam2_ros.stamps import stamp_ns

ROOT = Path(__file__).parents[2]
CAMERA, LABELS = "/loop/image", "/loop/panosam2/label_image"


def record(path: Path, camera: dict[int, Image], labels: dict[int, Image]) -> None:
    """A recording of both topics, as `ros2 bag record` writes it."""
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        topics = {
            topic: bag.add_connection(topic, "sensor_msgs/msg/Image", typestore=store)
            for topic in (CAMERA, LABELS)
        }
        for stamp, image in sorted(camera.items()):
            bag.write(topics[CAMERA], stamp, serialize_message(image))
            if stamp in labels:
                bag.write(topics[LABELS], stamp + 10**8, serialize_message(labels[stamp]))


def test_record_train_load(env: dict[str, str], scene: Scene, tmp_path: Path) -> None:
    u, v = scene.click
    with start_tracker(env, tmp_path / "first.log", "/loop"):
        tester = Tester("/loop/panosam2", CAMERA)
        tester.connect()
        tester.greet(scene.frames[0])
        camera: dict[int, Image] = {}

        def send(rgb: np.ndarray) -> None:
            image = to_image(tester.header(), rgb, "rgb8")
            camera[stamp_ns(image.header.stamp)] = image
            tester.send_image(image)

        send(scene.frames[0])
        answer = tester.ask(_click(u, v))
        assert answer.code == PromptResult.OK, answer.message
        for rgb in (*scene.frames, *scene.frames):
            send(rgb)
        record(tmp_path / "bag", camera, tester.heard.labels)
        tester.close()

    (clip,) = open_clips(tmp_path / "bag")
    assert len(clip.annotated) == len(camera) == 9
    assert any((frame.labels == 1).any() for frame in clip.read(clip.annotated))

    out = tmp_path / "tuned"
    command = [
        sys.executable, "-m", "panosam2_core.train", str(ROOT / "config/train/finetune_bag.yaml"),
        "--out", str(out), "--device", "cpu", "--workers", "0",
        f"data.0.path={tmp_path / 'bag'}", "data.0.step=[1,1]", "stages.0.steps=2",
        "stages.0.frames=3", "stages.0.input_size=[128,256]",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    tuned, _ = read_weights(out / "nano.safetensors")
    shipped, _ = read_weights(ROOT / "panosam2_core/weights/nano.safetensors")
    assert any(not np.array_equal(value, shipped[key]) for key, value in tuned.items())

    setting = f"model.checkpoint:={out / 'nano.safetensors'}"
    with start_tracker(env, tmp_path / "second.log", "/again", setting) as running:
        tester = Tester("/again/panosam2", "/again/image")
        tester.connect()
        tester.greet(scene.frames[0])
        tester.send(scene.frames[0])
        answer = tester.ask(_click(u, v))
        assert answer.code == PromptResult.OK, answer.message
        stamp = tester.send(scene.frames[1])
        assert [found.id for found in tester.heard.objects[stamp].objects] == [1]
        assert running.poll() is None
        tester.close()
    assert "nano.safetensors" in (tmp_path / "second.log").read_text()
    assert rclpy.ok()


def _click(u: float, v: float) -> Prompt:
    return Prompt(action=Prompt.ADD, object_id=1, points=[Point(x=u, y=v)], point_labels=[1])
