"""The command lines: camera, prompt, demo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from harness import PATIENCE_S, Scene, Tester, process
from panosam2_ros.msg import Prompt
from sensor_msgs.msg import Image
from std_msgs.msg import UInt64

from panosam2_ros import prompt as prompt_command
from panosam2_ros.demo import click_on_truth, parse, read_prompt
from panosam2_ros.images import to_rgb
from panosam2_ros.isolation import isolated_environment
from panosam2_ros.qos import profile


def run(env: dict[str, str], *command: str, timeout: float = 170) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=env, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def test_the_demo_says_at_once_that_a_video_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        parse(["--video", str(tmp_path / "nope.mp4"), "--prompt", "point:9,4"])
    assert "nope.mp4" in capsys.readouterr().err
    assert parse(["--video", str(tmp_path), "--prompt", "point:9,4"]).video == str(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, scene: Scene) -> Path:
    """A video as a folder of images."""
    path = tmp_path / "images"
    path.mkdir()
    for index, rgb in enumerate(scene.frames):
        cv2.imwrite(str(path / f"{index:03}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return path


def test_the_camera_plays_a_folder_and_tells_its_end(
    env: dict[str, str], folder: Path, scene: Scene, tmp_path: Path
) -> None:
    viewer = Tester("/nobody", "/unused")
    images: list[Image] = []
    ends: list[UInt64] = []
    viewer.node.create_subscription(Image, "/folder/image_raw", images.append, profile(10))
    viewer.node.create_subscription(
        UInt64, "/folder/camera_360/end_of_stream", ends.append, profile(1, transient_local=True)
    )
    arguments = ("--ros-args", "-r", "__ns:=/folder", "-p", f"video:={folder}", "-p", "rate:=20.0")
    with process(env, tmp_path / "log", "camera_360", *arguments) as camera:
        viewer.until(lambda: bool(ends), "the end")
        viewer.until(lambda: len(images) == 4, "the images")
        assert camera.wait(PATIENCE_S) == 0
    assert ends[0].data == 4
    for image, rgb in zip(images, scene.frames, strict=True):
        np.testing.assert_array_equal(to_rgb(image), rgb)
        assert image.header.frame_id == "camera"
    viewer.close()


def test_a_video_that_is_not_there_is_named(env: dict[str, str]) -> None:
    done = run(env, "panosam2_ros.camera_360", "--ros-args", "-p", "video:=/nowhere.mp4")
    assert done.returncode == 1
    assert "/nowhere.mp4" in done.stdout + done.stderr


def test_the_prompt_command_prints_the_answer(
    env: dict[str, str], fresh: Tester, scene: Scene, tmp_path: Path
) -> None:
    fresh.send(scene.frames[0])
    command = ("panosam2_ros.prompt", "--node", "/shared/panosam2", "--timeout", "30")
    point = f"{scene.click[0]},{scene.click[1]}"
    done = run(env, *command, "--point", point, "--id", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "object 4: ok" in done.stdout
    assert "tracked now: 4" in done.stdout
    done = run(env, *command, "--point", "9999,5")
    assert done.returncode == 1
    assert "BAD_COORDS" in done.stdout
    assert "outside the 256x128 image" in done.stdout


def test_nobody_answers(env: dict[str, str]) -> None:
    done = run(env, "panosam2_ros.prompt", "--reset", "--node", "/nobody", "--timeout", "1")
    assert done.returncode == 2
    assert "no answer from /nobody" in done.stdout


@pytest.mark.parametrize("module", ["tracker_node", "camera_360", "recorder"])
def test_a_node_tells_its_usage_and_starts_for_nothing_else(
    module: str, env: dict[str, str]
) -> None:
    told = run(env, f"panosam2_ros.{module}", "--help")
    assert told.returncode == 0
    assert "--ros-args -r FROM:=TO -p NAME:=VALUE" in told.stdout
    listed = {"tracker_node": "config/tracker.yaml", "camera_360": "loop (", "recorder": "`out`"}
    assert listed[module] in told.stdout
    wrong = run(env, f"panosam2_ros.{module}", "walk.mp4", "--ros-args", "-p", "rate:=1.0")
    assert wrong.returncode == 2
    assert "unrecognized arguments: walk.mp4" in wrong.stderr


def test_prompts_from_the_command_line(tmp_path: Path) -> None:
    def message(*args: str) -> Prompt:
        return prompt_command.to_message(prompt_command.parse(list(args)))

    msg = message("--point", "1,2", "--not", "3,4", "--box", "5,6,7,8", "--label", "cup")
    assert [(p.x, p.y) for p in msg.points] == [(1, 2), (3, 4)]
    assert list(msg.point_labels) == [1, 0]
    assert list(msg.box) == [5, 6, 7, 8]
    assert msg.label == "cup"
    msg = message("--bearing", "90,0")
    assert msg.coordinates == Prompt.BEARING
    assert (msg.points[0].x, msg.points[0].y) == pytest.approx((0, 1))
    (right,) = message("--bearing", "-90,0").points
    assert (right.x, right.y) == pytest.approx((0, -1))
    msg = message("--point", "-1,2", "--not", "-.5,3", "--box", "-5,6,7,8")
    assert [(p.x, p.y) for p in msg.points] == [(-1, 2), (-0.5, 3)]
    assert list(msg.box) == [-5, 6, 7, 8]
    assert message("--remove", "--id", "3").action == Prompt.REMOVE
    assert message("--reset").action == Prompt.RESET
    assert message("--point", "1,2", "--replace").action == Prompt.REPLACE
    assert message("--not", "1,2", "--refine", "--id", "3").action == Prompt.REFINE
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((2, 3), 255, np.uint8))
    mask = message("--mask", str(tmp_path / "mask.png")).mask
    assert (mask.width, mask.height, mask.encoding) == (3, 2, "mono8")
    with pytest.raises(ValueError, match=r"none\.png"):
        message("--mask", "none.png")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--remove"],
        ["--point", "1"],
        ["--reset", "--point", "1,2"],
        ["--id", "-1"],
        ["--bearing", "720,100"],
        ["--bearing", "0,-90.5"],
    ],
)
def test_command_lines_that_make_no_sense(args: list[str]) -> None:
    with pytest.raises(SystemExit):
        prompt_command.parse(args)


def test_the_click_of_the_demo_is_inside_the_object() -> None:
    truth = np.zeros((40, 80), np.uint8)
    truth[10:20, :6] = truth[10:20, -8:] = 2  # across the seam
    click = click_on_truth(truth)
    u, v = click.mark
    assert truth[int(v), int(u)] == 2
    assert click.truth_id == 2
    assert min((u - 79) % 80, (79 - u) % 80) < 4
    assert read_prompt("point:3,4").arguments == ("--point", "3,4")
    assert read_prompt("box:1,2,3,4").arguments == ("--box", "1,2,3,4")


def test_two_runs_at_a_time_do_not_share_a_domain() -> None:
    with isolated_environment() as one, isolated_environment() as other:
        assert one["ROS_DOMAIN_ID"] != other["ROS_DOMAIN_ID"]
        assert Path(one["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def test_the_demo_on_a_video(env: dict[str, str], folder: Path, scene: Scene, tmp_path) -> None:
    point = f"point:{scene.click[0]},{scene.click[1]}"
    out = tmp_path / "out"
    done = run(
        env, "panosam2_ros.demo", "--video", str(folder), "--prompt", point, "--out", str(out)
    )  # fmt: skip
    logs = "".join(log.read_text() for log in out.glob("logs/*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers["frames_published"] == numbers["frames_processed"] == 4
    assert numbers["frames_dropped"] == 0
    assert numbers["objects"] == [{"id": 1}]  # nobody knows the truth
    assert numbers["latency_ms"]["p95"] >= numbers["latency_ms"]["p50"] > 0
    assert (numbers["device"], numbers["variant"]) == ("cpu", "nano")
    assert set(numbers) == {
        "frames_published", "frames_processed", "frames_dropped", "seam_crossings", "objects",
        "latency_ms", "fps", "device", "variant",
    }  # fmt: skip
    assert (out / "overlay.mp4").stat().st_size > 0
    assert cv2.imread(str(out / "sheet.png")).shape[1] == 4 * 480
    assert "make demo VIDEO=" in done.stdout
