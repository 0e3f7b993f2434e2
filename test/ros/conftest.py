"""Fixtures of the ROS tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
import torch
from harness import Scene, Tester, start_tracker
from panosam2_ros.msg import Prompt, PromptResult

from panosam2_core.data.synthetic import SyntheticWorld
from panosam2_ros.isolation import isolated_environment
from panosam2_ros.parameters import CHECKPOINT_VARIABLE


@pytest.fixture(scope="session")
def env() -> Iterator[dict[str, str]]:
    with isolated_environment() as isolated:
        isolated["OMP_NUM_THREADS"] = "1"
        isolated.pop(CHECKPOINT_VARIABLE, None)
        torch.set_num_threads(1)  # here, too: threads that wait for one another cost most
        before = dict(os.environ)
        os.environ.update(isolated)
        rclpy.init(args=[])
        yield isolated
        rclpy.try_shutdown()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def tracker(
    env: dict[str, str], tmp_path_factory: pytest.TempPathFactory, scene: Scene
) -> Iterator[Tester]:
    """A tracker that is shared by the tests, so that its model is loaded once."""
    log = tmp_path_factory.mktemp("logs") / "tracker.log"
    with start_tracker(env, log, "/shared") as running:
        tester = Tester("/shared/panosam2", "/shared/image")
        tester.connect()
        tester.greet(scene.frames[0])
        yield tester
        assert running.poll() is None, log.read_text()
        tester.close()
    assert running.returncode == 0, log.read_text()


@pytest.fixture
def fresh(tracker: Tester) -> Tester:
    """The shared tracker, without objects."""
    answer = tracker.ask(Prompt(action=Prompt.RESET))
    assert answer.code in (PromptResult.OK, PromptResult.NO_FRAME)
    return tracker


@pytest.fixture(scope="session")
def scene() -> Scene:
    clip = SyntheticWorld(split="demo").clip(0, size_hw=(128, 256))
    drawn = [clip.frame(t) for t in range(4)]
    frames = [np.ascontiguousarray(f.image.permute(1, 2, 0).numpy()) for f in drawn]
    masks = [f.labels.numpy() == clip.target_id for f in drawn]
    rows, columns = np.nonzero(masks[0])
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return Scene(frames, masks, (columns[nearest] + 0.5, rows[nearest] + 0.5))
