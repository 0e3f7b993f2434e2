"""Laws of whole runs: killed or not, alone or in company, in parts or at once."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from recordings import scene, write_bag, write_davis
from test_training import PLAN, STAGE, _no_imagenet, trainer  # noqa: F401

from panosam2_core import ConfigError, train
from panosam2_core.data.augment import AugmentConfig
from panosam2_core.data.clips import DataError
from panosam2_core.losses.criterion import LossConfig
from panosam2_core.training.loop import Trainer
from panosam2_core.training.opening import make_source
from panosam2_core.training.plan import DataConfig, TrainPlan, load_plan
from panosam2_core.training.rollout import Schedule, rollout
from panosam2_core.training.samples import Batches
from panosam2_core.training.sources import MIN_PIXELS, Mixture, SyntheticSource
from panosam2_core.weight_file import read_weights

SCRIPT = Path(__file__).with_name("train_process.py")


def start(out: Path, *changes: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(out), *changes]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def state(out: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(out / "last.pt", weights_only=True)["model"]
    return loaded


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)
    kill_after = random.SystemRandom().randint(1, 4)
    process = start(killed)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        file = killed / "metrics.jsonl"
        if file.is_file() and len(file.read_text().splitlines()) >= kill_after:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(rows(killed)) < 6, "it was to be killed before its end"
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # a line that was not finished
    finish(undisturbed)
    finish(start(killed))
    assert [row["step"] for row in rows(killed)] == list(range(6))
    for one, other in zip(rows(whole), rows(killed), strict=True):
        assert one["loss"] == other["loss"], (kill_after, one["step"])
    for key, value in state(whole).items():
        assert torch.equal(value, state(killed)[key]), (kill_after, key)
    averaged = [read_weights(out / "nano.safetensors") for out in (whole, killed)]
    assert averaged[0][1] == averaged[1][1]
    assert all(torch.equal(v, averaged[1][0][k]) for k, v in averaged[0][0].items())


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    company = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pair = [
        start(tmp_path / "two", "accumulate=2", RANK=str(i), LOCAL_RANK=str(i), **company)
        for i in range(2)
    ]
    finish(*pair)
    finish(start(tmp_path / "one", "accumulate=2"))
    alone, together = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(alone) == len(together) == 6
    for one, two in zip(alone, together, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    # Adam divides by the gradients' size, so rounding in tiny ones moves weights a little.
    one_state, two_state = state(tmp_path / "one"), state(tmp_path / "two")
    moved = [float((value - one_state[key]).abs().max()) for key, value in two_state.items()]
    assert max(moved) < 6 * 1e-3 / 4


def test_a_folder_with_a_run_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Else the user believes to have trained on a second recording."""
    one = dataclasses.replace(PLAN, stages=(dataclasses.replace(STAGE, steps=1),))
    trainer(tmp_path, one).run(workers=0)
    again = trainer(tmp_path, dataclasses.replace(one, checkpoint_minutes=9.0))
    assert again.step == 1
    with pytest.raises(ConfigError, match="'seed: .*' there, 'seed: 99' here.*another --out"):
        trainer(tmp_path, dataclasses.replace(one, seed=99))


def test_drawing_in_this_process_leaves_its_threads_alone(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        made = trainer(tmp_path, PLAN)
        next(made.batches(PLAN.stages[0], workers=0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_batches_that_cannot_be_shared_out_are_refused(tmp_path: Path) -> None:
    class Three:
        num_processes, process_index, device = 3, 0, torch.device("cpu")

    with pytest.raises(ConfigError, match="accumulate: 4 batches cannot be shared out among 3"):
        Trainer(dataclasses.replace(PLAN, accumulate=4), tmp_path, Three(), lambda m: None)


def gradients(out: Path, plan: TrainPlan) -> dict[str, torch.Tensor]:
    made = trainer(out, plan)
    stage = plan.stages[0]
    made.model.set_input_size(stage.input_size)
    batches = made.batches(stage, workers=0)
    made.train_step([next(batches) for _ in range(plan.accumulate)], stage)
    return {k: p.grad.clone() for k, p in made.model.named_parameters() if p.grad is not None}


def test_accumulated_batches_give_the_mean_of_their_gradients(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, accumulate=2, clip_grad=1e9)
    both = gradients(tmp_path / "both", plan)
    made = trainer(tmp_path / "each", plan)
    made.model.set_input_size(STAGE.input_size)
    batches = made.batches(STAGE, workers=0)
    total: dict[str, torch.Tensor] = {}
    for number in range(2):
        made.model.zero_grad()
        made._backward(next(batches), STAGE, number)
        for key, parameter in made.model.named_parameters():
            if parameter.grad is not None:  # already halved: its share of the step
                total[key] = total.get(key, 0) + parameter.grad
    assert set(both) == set(total)
    for key, value in both.items():
        torch.testing.assert_close(value, total[key], rtol=1e-4, atol=1e-7, msg=key)


def test_truncation_changes_gradients_not_losses(tmp_path: Path) -> None:
    """A chunk as long as the clip is no truncation; a shorter one cuts the way back."""
    made = trainer(tmp_path)
    made.model.set_input_size(STAGE.input_size)
    stage = dataclasses.replace(STAGE, frames=5)
    one = Batches(SyntheticSource(stage.world_config(), "train", 2), clips=1).batch(0)

    def run(bptt: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        made.model.zero_grad()
        losses = []
        schedule = Schedule("point", 0, 0, bptt)
        for chunk in rollout(made.model, one, schedule, LossConfig(), np.random.default_rng(0)):
            torch.stack([loss.total for loss in chunk.losses]).sum().backward()
            losses += [float(loss.total.detach()) for loss in chunk.losses]
        return losses, {
            k: p.grad.clone() for k, p in made.model.named_parameters() if p.grad is not None
        }

    whole, five, two = run(0), run(5), run(2)
    assert whole[0] == pytest.approx(five[0], rel=1e-5)
    assert whole[0] == pytest.approx(two[0], rel=1e-4)
    key = "memory_encoder.out_proj.weight"
    torch.testing.assert_close(whole[1][key], five[1][key])
    assert (whole[1][key] - two[1][key]).norm() > 0.05 * whole[1][key].norm()


def test_frozen_parts_do_not_move(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, freeze=("memory_encoder.", "sam_prompt_encoder."))
    made = trainer(tmp_path, plan)
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    made.run(workers=0)
    moved = {k for k, v in made.model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(key.startswith(plan.freeze) for key in moved)
    assert any(key.startswith("memory_attention.") for key in moved)


def test_bfloat16_trains_weights_that_stay_float32(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, precision="bfloat16")
    made = trainer(tmp_path, plan)
    made.run(workers=0)
    reference = trainer(tmp_path / "reference")
    reference.run(workers=0)
    assert {v.dtype for v in made.model.state_dict().values() if v.is_floating_point()} == {
        torch.float32
    }
    half, full = (rows(out)[0]["loss"] for out in (tmp_path, tmp_path / "reference"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_curves_and_pictures_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path).run(workers=0)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    written = [event.value for event in board.Scalars("train/loss")]
    assert written == pytest.approx([row["loss"] for row in rows(tmp_path)])
    (picture,) = board.Images("masks/true_above_predicted")
    assert (picture.width, picture.height) == (128, 2 * 64)


def test_out_of_memory_names_the_settings_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(Trainer, "train_step", explode)
    plan = Path(__file__).parents[2] / "config/train/finetune_bag.yaml"
    bag = tmp_path / "bag"
    write_bag(bag, scene(frames=9, size=(256, 512)))
    command = [str(plan), "--out", str(tmp_path / "out"), f"data.0.path={bag}"]
    assert train.main([*command, "--device", "cpu", "--workers", "0"]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "out of memory" in shown
    for setting in ("stages.0.clips=1", "stages.0.bptt=8", "precision=bfloat16", "accumulate=1"):
        assert setting in shown


def on_clips(path: Path, **changes: object) -> TrainPlan:
    data = (DataConfig("auto", str(path)),)
    still = AugmentConfig(yaw=False, tilt_deg=0, flip=0, photometric=0)
    return dataclasses.replace(PLAN, data=data, augment=still, **changes)


def test_recorded_clips_arrive_as_they_are(tmp_path: Path) -> None:
    frames = scene(frames=5)
    write_bag(tmp_path / "bag", frames)
    drawn = make_source(on_clips(tmp_path / "bag"), STAGE).draw(4)
    starts = [
        t for t in range(3)
        if np.array_equal(drawn.images[0].permute(1, 2, 0).numpy(), frames[t][0])
    ]  # fmt: skip
    assert len(starts) == 1
    for t in range(3):
        assert np.array_equal(drawn.labels[t].numpy(), frames[starts[0] + t][1])
    assert drawn.name == f"bag frames 5.{starts[0]}00000123 to 5.{starts[0] + 2}00000123"
    assert all((frames[starts[0]][1] == i).sum() >= MIN_PIXELS for i in drawn.ids)


def test_a_number_always_gives_the_same_clip(tmp_path: Path) -> None:
    write_davis(tmp_path, {"a": scene(frames=9), "b": scene(frames=9, index=1)})
    plan = dataclasses.replace(on_clips(tmp_path), augment=AugmentConfig())
    plan = dataclasses.replace(plan, data=(DataConfig("folder", str(tmp_path), step=(1, 3)),))
    one, other = make_source(plan, STAGE), make_source(plan, STAGE)
    for number in (0, 7, 3):
        a, b = one.draw(number), other.draw(number)
        assert a.name == b.name
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert len({one.draw(number).name for number in range(12)}) > 4


def test_a_mixture_draws_by_weight(tmp_path: Path) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def draw(self, number: int) -> str:
            return self.name

    mixture = Mixture([Named("a"), Named("b")], [3, 1], seed=0)
    drawn = [mixture.draw(number) for number in range(1000)]
    assert 700 < drawn.count("a") < 800


def test_a_broken_clip_stops_the_run_or_is_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_davis(tmp_path / "set", {"a": scene(frames=6)})
    plan = on_clips(tmp_path / "set")
    (tmp_path / "set/Annotations/a/00005.png").write_bytes(b"broken")
    numbers = range(40)
    source = make_source(plan, STAGE)
    with pytest.raises(DataError, match=r"00005\.png cannot be read as a mask"):
        [source.draw(number) for number in numbers]
    skipping = dataclasses.replace(
        plan,
        on_error="skip",
        stages=(dataclasses.replace(STAGE, steps=8),),
    )
    made = trainer(tmp_path / "out", skipping)
    made.run(workers=0)
    assert made.skipped > 0
    assert rows(tmp_path / "out")[-1]["skipped"] == made.skipped
    assert "00005.png" in caplog.text


def test_clips_without_objects_or_too_short_are_errors(tmp_path: Path) -> None:
    empty = [(rgb, np.zeros_like(ids)) for rgb, ids in scene(frames=4)]
    write_davis(tmp_path / "empty", {"a": empty})
    with pytest.raises(DataError, match=r"a: 20 stretches.*began without an object of 96 pixels"):
        make_source(on_clips(tmp_path / "empty"), STAGE).draw(0)
    write_davis(tmp_path / "short", {"b": scene(frames=2)})
    with pytest.raises(DataError, match="expected clips with 3 labelled frames.*b with 2"):
        make_source(on_clips(tmp_path / "short"), STAGE)


def test_a_run_on_a_recording_starts_from_the_shipped_weights(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", scene(frames=5))
    plan = on_clips(tmp_path / "bag", init="shipped")
    made = trainer(tmp_path / "out", plan)
    made.run(workers=1)
    assert [row["step"] for row in rows(tmp_path / "out")] == [0, 1]


@pytest.mark.parametrize("name", ["hiera_t_360vots", "hiera_t_panovos", "finetune_bag"])
def test_shipped_plans_are_readable_and_take_changes(name: str) -> None:
    path = Path(__file__).parents[2] / f"config/train/{name}.yaml"
    first = path.read_text(encoding="utf-8").splitlines()[1]
    assert f"python -m panosam2_core.train config/train/{name}.yaml" in first
    plan = load_plan(path, ["seed=7", "stages.0.input_size=[64,128]", "data.0.path=/x"])
    assert (plan.seed, plan.stages[0].input_size, plan.data[0].path) == (7, (64, 128), "/x")
    for wrong, words in (
        ("sed=1", "unknown keys .'sed'"),
        ("init=magic", "init: expected one of"),
        ("data.0.kind=cd", "unknown kind 'cd'"),
        ("data.0.path=", "expected a path"),
        ("augment.flip=2", "expected flip"),
        ("stages.9.steps=1", "not a training plan"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_plan(path, [wrong])


def test_hiera_plans_need_a_file(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "config/train/hiera_t_360vots.yaml"
    with pytest.raises(ConfigError, match="--weights FILE"):
        Trainer(load_plan(path), tmp_path, PartialState(cpu=True), lambda m: None)
