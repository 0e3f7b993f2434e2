"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from panosam2_core.build import VARIANTS, build_model, load_state
from panosam2_core.losses.criterion import FrameLoss
from panosam2_core.model import PanoSAM2
from panosam2_core.training.checkpoint import save_training_state, save_weights
from panosam2_core.training.imagenet import load_imagenet_trunk
from panosam2_core.training.plan import Stage, TrainPlan
from panosam2_core.training.rollout import PROMPT_KINDS, Schedule, rollout
from panosam2_core.training.samples import Sample, SyntheticSamples
from panosam2_core.weight_file import read_weights

logger = logging.getLogger(__name__)

CLIPS_PER_STAGE = 10_000_000  # stages draw from disjoint ranges of the endless train split
Report = Callable[[Mapping[str, float]], None]


def learning_rate(step: int, plan: TrainPlan) -> float:
    """Factor of the stage's peak learning rate: linear warm-up, cosine to 5 % over the run.

    Args:
        step: 0 .. total_steps - 1.
        plan: of the run.

    Returns:
        Factor in (0, 1].
    """
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / plan.total_steps))
    return warm * (0.05 + 0.95 * cosine)


class Trainer:
    """Holds what changes from step to step; everything else is in the plan.

    Args:
        plan: of the run.
        out: folder for weights, training state and ``metrics.jsonl``.
        device: to train on.
        report: called with the metrics of every logged step.
        weights: file to start from instead of ImageNet's trunk and random numbers.
    """

    def __init__(
        self,
        plan: TrainPlan,
        out: Path,
        device: torch.device,
        report: Report,
        weights: Path | None = None,
    ) -> None:
        self.plan, self.out, self.device, self.report = plan, out, device, report
        torch.manual_seed(plan.seed)
        self.model = build_model(VARIANTS[plan.variant])
        if weights is None:
            self.model.image_encoder.trunk.load_state_dict(load_imagenet_trunk())
        else:
            load_state(self.model, read_weights(weights)[0], source=str(weights))
        self.model.to(device).train()
        self.optimizer = torch.optim.AdamW(_groups(self.model, plan), betas=(0.9, 0.999))
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "last.pt").is_file():
            self._resume(out / "last.pt")

    def run(self, workers: int = 1) -> None:
        """Train to the end of the plan.

        Args:
            workers: processes that draw samples.

        Raises:
            FloatingPointError: when a loss is not finite, naming the sample.
        """
        saved = time.monotonic()
        while self.step < self.plan.total_steps:
            stage = self.plan.stage_at(self.step)
            self.model.set_input_size(stage.input_size)
            for parameter in self.optimizer.param_groups[1]["params"]:
                parameter.requires_grad_(stage.trunk_lr > 0)  # no backward pass to throw away
            end = self.step + _remaining(self.plan, self.step)
            samples = _batches(self.plan, stage, self.step, workers)
            while self.step < end:
                started = time.monotonic()
                sample = next(samples)
                metrics = self.train_step(sample, stage)
                metrics |= {"step": self.step, "seconds": time.monotonic() - started}
                self._log(metrics, stage)
                self.step += 1
                if time.monotonic() - saved > 60 * self.plan.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def train_step(self, sample: Sample, stage: Stage) -> dict[str, float]:
        """One optimiser step.

        Args:
            sample: a batch.
            stage: gives learning rates and schedule.

        Returns:
            Metrics.

        Raises:
            FloatingPointError: when the loss is not finite.
        """
        plan = self.plan
        generator = np.random.default_rng([plan.seed, self.step])
        sample = sample.to(self.device)
        prompt = PROMPT_KINDS[generator.choice(len(PROMPT_KINDS), p=plan.prompts)]
        schedule = Schedule(prompt, stage.truth_every, stage.long_frames)
        config = dataclasses.replace(
            plan.loss,
            other_masks=stage.other_masks,
            occlusion=plan.loss.occlusion if stage.occlusion is None else stage.occlusion,
        )
        losses = rollout(self.model, sample, schedule, config, generator)
        total = torch.stack([loss.total for loss in losses]).mean()
        if not torch.isfinite(total):
            raise FloatingPointError(f"loss is {float(total)} at step {self.step}: {sample.name}")
        factor = learning_rate(self.step, plan)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (stage.trunk_lr if group["name"] == "trunk" else stage.lr)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, plan.clip_grad)
        self.optimizer.step()
        self._update_average()
        return {**_summary(losses), "grad_norm": float(norm), "objects": len(sample.image_index)}

    def _update_average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[key].lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write ``last.pt`` (to go on) and ``nano.safetensors`` (to use)."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        save_training_state(self.out / "last.pt", state)
        notes = {"steps": str(self.step), "seed": str(self.plan.seed)}
        path = self.out / f"{self.plan.variant}.safetensors"
        save_weights(path, self.model, self.average, notes)
        logger.info("saved step %d to %s", self.step, path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step = state["step"]
        logger.info("going on from step %d of %s", self.step, path)

    def _log(self, metrics: dict[str, Any], stage: Stage) -> None:
        metrics["stage"] = stage.name
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        self.report(metrics)


def _groups(model: PanoSAM2, plan: TrainPlan) -> list[dict[str, Any]]:
    """Parameter groups; trunk stages before ``plan.trunk_from`` are frozen for good."""
    trunk, new = [], []
    for name, parameter in model.named_parameters():
        if not name.startswith("image_encoder.trunk."):
            new.append(parameter)
            continue
        parts = name.split(".")
        trainable = parts[2] == "stages" and int(parts[3]) >= plan.trunk_from
        parameter.requires_grad_(trainable)
        if trainable:
            trunk.append(parameter)
    decay = plan.weight_decay
    return [
        {"name": "new", "params": new, "weight_decay": decay, "lr": 0.0},
        {"name": "trunk", "params": trunk, "weight_decay": decay, "lr": 0.0},
    ]


def _remaining(plan: TrainPlan, step: int) -> int:
    """Steps left in the stage that ``step`` belongs to."""
    for stage in plan.stages:
        if step < stage.steps:
            return stage.steps - step
        step -= stage.steps
    return 0


def _batches(plan: TrainPlan, stage: Stage, step: int, workers: int) -> Iterator[Sample]:
    start = CLIPS_PER_STAGE * plan.stages.index(stage) + step * stage.clips
    dataset = SyntheticSamples(
        stage.world_config(), "train", clips=stage.clips, objects=stage.objects, start=start
    )
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size=None, num_workers=workers)
    return iter(loader)


def _summary(losses: list[FrameLoss]) -> dict[str, float]:
    def mean(values: list[Tensor]) -> float:
        return float(torch.stack(values).detach().mean())

    ious = torch.stack([loss.true_iou for loss in losses])
    return {
        "loss": mean([loss.total for loss in losses]),
        "bce": mean([loss.bce for loss in losses]),
        "dice": mean([loss.dice for loss in losses]),
        "iou_error": mean([loss.iou for loss in losses]),
        "occlusion": mean([loss.occlusion for loss in losses]),
        "iou": float(ious.nanmean()),
        "iou_last": float(ious[-1].nanmean()),
    }
