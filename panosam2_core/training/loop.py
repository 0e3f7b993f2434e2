"""The training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from panosam2_core.build import VARIANTS, build_model, load_model, shipped_weights
from panosam2_core.errors import ConfigError
from panosam2_core.losses.criterion import FrameLoss
from panosam2_core.model import PanoSAM2
from panosam2_core.training.board import Board
from panosam2_core.training.checkpoint import save_training_state, save_weights
from panosam2_core.training.imagenet import load_imagenet_trunk
from panosam2_core.training.opening import make_source
from panosam2_core.training.parallel import average_gradients, average_metrics
from panosam2_core.training.plan import Stage, TrainPlan
from panosam2_core.training.rollout import PROMPT_KINDS, Chunk, Schedule, losses_in, rollout
from panosam2_core.training.samples import Batches, Sample
from panosam2_core.training.sources import choices

logger = logging.getLogger(__name__)

BATCHES_PER_STAGE = 10_000_000  # stages draw from disjoint ranges of the endless series
PICTURE_EVERY = 50  # steps between two pictures on the board
Report = Callable[[Mapping[str, Any]], None]


def learning_rate(step: int, plan: TrainPlan) -> float:
    """Factor of the stage's peak learning rate, after a linear warm-up.

    Args:
        step: 0 .. total_steps - 1.
        plan: of the run; ``cosine`` falls to 5 % over the run, ``constant`` leaves the rates to
            the stages.

    Returns:
        Factor in (0, 1].
    """
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    if plan.lr_schedule == "constant":
        return warm
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / plan.total_steps))
    return warm * (0.05 + 0.95 * cosine)


def initial_model(plan: TrainPlan, weights: Path | None) -> PanoSAM2:
    """Build the network that a run starts from.

    Args:
        plan: of the run.
        weights: file to start from; ``None``: what ``plan.init`` says.

    Returns:
        The model in training mode, on the CPU.

    Raises:
        ConfigError: when the plan wants a file and there is none, or another variant.
        CheckpointError: when weights cannot be read or do not fit.
    """
    if weights is None and plan.init == "imagenet":
        if plan.variant != "nano":
            raise ConfigError(
                f"init: imagenet is for nano; start {plan.variant} from a file: --weights FILE"
            )
        model = build_model(plan.network_config(VARIANTS[plan.variant]))
        model.image_encoder.trunk.load_state_dict(load_imagenet_trunk())
        model.train()
        return model
    if weights is None and plan.init == "file":
        raise ConfigError("this plan starts from weights; give them with --weights FILE")
    chosen = weights or shipped_weights(plan.variant)
    model = load_model(plan.variant, checkpoint=chosen, device="cpu", change=plan.network_config)
    model.requires_grad_(True).train()
    return model


class Trainer:
    """Holds what changes from step to step; everything else is in the plan.

    Args:
        plan: of the run.
        out: folder for weights, training state, ``metrics.jsonl`` and ``board``. A run that was
            interrupted there goes on.
        processes: that train together; gives the device.
        report: called with the metrics of every step.
        weights: file to start from; ``None``: what ``plan.init`` says.

    Raises:
        ConfigError: when the plan does not fit the number of processes, when the folder holds a
            run of another plan or from other weights, or as :func:`initial_model`.
    """

    def __init__(
        self,
        plan: TrainPlan,
        out: Path,
        processes: PartialState,
        report: Report,
        weights: Path | None = None,
    ) -> None:
        if plan.accumulate % processes.num_processes:
            raise ConfigError(
                f"accumulate: {plan.accumulate} batches cannot be shared out among "
                f"{processes.num_processes} processes; choose a multiple"
            )
        self.plan, self.out, self.processes, self.report = plan, out, processes, report
        self.device: torch.device = processes.device
        torch.manual_seed(plan.seed)
        self.model = initial_model(plan, weights).to(self.device)
        self.optimizer = torch.optim.AdamW(_groups(self.model, plan), betas=(0.9, 0.999))
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.step = self.skipped = 0
        self._shown: tuple[Sample, Chunk] | None = None
        out.mkdir(parents=True, exist_ok=True)
        self._origin = {"plan": _settings(plan), "weights": _digest(weights)}
        if (out / "last.pt").is_file():
            self._resume(out / "last.pt")
        self._metrics = out / "metrics.jsonl"
        self._board: Board | None = None
        if processes.is_main_process:
            _cut_metrics(self._metrics, self.step)
            self._board = Board(out / "board", self.step)

    def run(self, workers: int = 1) -> None:
        """Train to the end of the plan.

        Args:
            workers: processes that draw samples; 0: this one.

        Raises:
            FloatingPointError: when a loss is not finite, naming the sample.
            DataError: when a clip cannot be read and the plan does not skip it.
        """
        saved = time.monotonic()
        while self.step < self.plan.total_steps:
            stage = self.plan.stage_at(self.step)
            self.model.set_input_size(stage.input_size)
            for parameter in self.optimizer.param_groups[1]["params"]:
                parameter.requires_grad_(stage.trunk_lr > 0)  # no backward pass to throw away
            end = self.step + _remaining(self.plan, self.step)
            samples = self.batches(stage, workers)
            while self.step < end:
                started = time.monotonic()
                mine = [next(samples) for _ in range(self._share)]
                loaded = time.monotonic()
                metrics = self.train_step(mine, stage)
                metrics |= {
                    "step": self.step,
                    "seconds": time.monotonic() - started,
                    "waited": loaded - started,
                }
                self._log(metrics, stage)
                self.step += 1
                if time.monotonic() - saved >= 60 * self.plan.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self._board:
            self._board.close()

    @property
    def _share(self) -> int:
        """Batches per step that are this process's."""
        processes: int = self.processes.num_processes
        return self.plan.accumulate // processes

    def batches(self, stage: Stage, workers: int) -> Iterator[Sample]:
        """Batches of this process from the current step on.

        Args:
            stage: that the step belongs to.
            workers: processes that draw samples; 0: this one.

        Returns:
            Endless batches.
        """
        dataset = Batches(
            make_source(self.plan, stage),
            clips=stage.clips,
            start=self._number(stage, 0),
            stride=self.processes.num_processes,
            distortion=self.plan.distortion,
        )
        loader: DataLoader[Sample] = DataLoader(dataset, batch_size=None, num_workers=workers)
        return iter(loader)

    def _number(self, stage: Stage, index: int) -> int:
        """Number of this process's ``index``-th batch of the current step."""
        first = BATCHES_PER_STAGE * self.plan.stages.index(stage)
        here: int = self.processes.process_index + index * self.processes.num_processes
        return first + self.step * self.plan.accumulate + here

    def train_step(self, samples: Sequence[Sample], stage: Stage) -> dict[str, Any]:
        """One optimiser step.

        Args:
            samples: this process's batches.
            stage: gives learning rates and schedule.

        Returns:
            Metrics, means over all processes.

        Raises:
            FloatingPointError: when the loss is not finite.
        """
        factor = learning_rate(self.step, self.plan)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (stage.trunk_lr if group["name"] == "trunk" else stage.lr)
        self.optimizer.zero_grad(set_to_none=True)
        rows = [
            self._backward(sample, stage, self._number(stage, index))
            for index, sample in enumerate(samples)
        ]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.requires_grad]
        average_gradients(parameters, self.processes)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip_grad)
        self.optimizer.step()
        self._update_average()
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        return {
            **average_metrics(mean, self.processes),
            "grad_norm": float(norm),
            "objects": sum(len(sample.image_index) for sample in samples),
            "skipped": self._count_skipped(samples),
        }

    def _backward(self, sample: Sample, stage: Stage, number: int) -> dict[str, float]:
        """Add a batch's share to the gradients."""
        plan = self.plan
        generator = choices(plan.seed, "prompts and draws", number)
        torch.manual_seed(int(generator.integers(2**63)))  # of dropout
        prompt = PROMPT_KINDS[generator.choice(len(PROMPT_KINDS), p=plan.prompts)]
        pano = plan.pano and sample.closed
        schedule = Schedule(prompt, stage.truth_every, stage.long_frames, stage.bptt, pano)
        config = dataclasses.replace(
            plan.loss,
            other_masks=stage.other_masks,
            occlusion=plan.loss.occlusion if stage.occlusion is None else stage.occlusion,
        )
        sample = sample.to(self.device)
        share = 1.0 / (losses_in(sample, schedule) * self._share)
        losses: list[FrameLoss] = []
        for chunk in self._chunks(sample, schedule, config, generator):
            self._shown = (sample, chunk)
            losses += chunk.losses
            if not chunk.losses:
                continue
            total = torch.stack([loss.total for loss in chunk.losses]).sum()
            if not torch.isfinite(total):
                raise FloatingPointError(
                    f"loss is {float(total.detach())} at step {self.step}: {sample.name}"
                )
            (total * share).backward()  # type: ignore[no-untyped-call]
        return _summary(losses)

    def _chunks(self, *what: Any) -> Iterator[Chunk]:
        """Chunks of a rollout, computed in the plan's precision."""
        chunks = rollout(self.model, *what)
        while True:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16"
            ):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _count_skipped(self, samples: Sequence[Sample]) -> int:
        for text in (text for sample in samples for text in sample.skipped):
            self.skipped += 1
            logger.warning("skipped (%d so far): %s", self.skipped, text)
        return self.skipped

    def _update_average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[key].lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write ``last.pt`` (to go on) and the averaged weights (to use)."""
        if not self.processes.is_main_process:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "skipped": self.skipped,
            "origin": self._origin,
        }
        save_training_state(self.out / "last.pt", state)
        notes = {"steps": str(self.step), "seed": str(self.plan.seed)}
        path = self.out / f"{self.plan.variant}.safetensors"
        save_weights(path, self.model, self.average, notes)
        logger.info("saved step %d to %s", self.step, path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        _check_origin(state.get("origin", {}), self._origin, path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.skipped = state["step"], state["skipped"]
        logger.info("going on from step %d of %s", self.step, path)

    def _log(self, metrics: dict[str, Any], stage: Stage) -> None:
        if self._board is None:
            return
        # JSON knows no NaN (no object was visible, so there is no IoU).
        row = {k: None if v != v else v for k, v in metrics.items()}
        row["stage"] = stage.name
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._board.scalars(row, self.step)
        if self._shown and self.step % PICTURE_EVERY == 0:
            sample, chunk = self._shown
            self._board.masks(sample, chunk.logits, chunk.frame, self.step)
        self.report(row)


def _settings(plan: TrainPlan) -> str:
    """All that decides what a run gives, as text."""
    values = dataclasses.asdict(plan)
    del values["checkpoint_minutes"]
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _digest(weights: Path | None) -> str:
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights else ""


def _check_origin(there: Mapping[str, str], here: Mapping[str, str], path: Path) -> None:
    if there == here:
        return
    before, now = (x.get("plan", "").splitlines() for x in (there, here))
    changed = [(a, b) for a, b in zip_longest(before, now, fillvalue="") if a != b]
    what = "it began with other weights"
    if changed:
        what = f"'{changed[0][0].strip()}' there, '{changed[0][1].strip()}' here"
    raise ConfigError(f"{path} is of another run ({what}); choose another --out to start anew")


def _cut_metrics(path: Path, step: int) -> None:
    """Drop what an interrupted run wrote after its last checkpoint."""
    if not path.is_file():
        return
    rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] < step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(row + "\n" for row in kept), encoding="utf-8")
    os.replace(temporary, path)


def _groups(model: PanoSAM2, plan: TrainPlan) -> list[dict[str, Any]]:
    """Parameter groups; early trunk stages and what ``plan.freeze`` names stay frozen for good."""
    trunk, new = [], []
    for name, parameter in model.named_parameters():
        if name.startswith(plan.freeze):
            parameter.requires_grad_(False)
            continue
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
