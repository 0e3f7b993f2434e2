"""What a training run does, as data: read from YAML, checked before anything starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from panosam2_core.data.synthetic import WorldConfig
from panosam2_core.errors import ConfigError
from panosam2_core.losses.criterion import LossConfig


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one kind of clip.

    Attributes:
        name: for the log.
        steps: optimiser steps.
        input_size: (height, width) of the clips and of the network.
        clips: per batch.
        objects: most objects per clip that are tracked.
        lr: peak learning rate of the new modules.
        trunk_lr: of the ImageNet trunk's trainable stages; 0 freezes it whole.
        truth_every: the true mask enters memory on every n-th frame; 0: never.
        long_frames: N_l of the long-short memory; 0: off.
        other_masks: see :class:`LossConfig`.
        occlusion: weight of the visibility's loss; ``None``: the plan's.
        world: overrides of :class:`WorldConfig` (frames, objects, sizes, speeds, ...).
    """

    name: str
    steps: int
    input_size: tuple[int, int]
    clips: int
    objects: int
    lr: float
    trunk_lr: float = 0.0
    truth_every: int = 0
    long_frames: int = 0
    other_masks: float = 0.0
    occlusion: float | None = None
    world: dict[str, Any] = field(default_factory=dict)

    def world_config(self) -> WorldConfig:
        """The world this stage draws from."""
        overrides = {**self.world, "size_hw": self.input_size}
        config: WorldConfig = _build(WorldConfig, overrides, f"stage {self.name}: world")
        return config


@dataclass(frozen=True)
class TrainPlan:
    """A whole run.

    Attributes:
        variant: of the model.
        stages: in order.
        seed: of weights, clips and prompts.
        weight_decay: of AdamW (paper: 0.01).
        clip_grad: largest gradient norm.
        ema: decay per step of the averaged weights that are saved.
        trunk_from: first trunk stage that may be trained; earlier ones keep ImageNet's weights.
        prompts: chances of mask, point and box prompts.
        loss: weights of the criterion.
        warmup_steps: linear warm-up of the learning rate at the start of the run.
        checkpoint_minutes: least time between two checkpoints.
    """

    variant: str
    stages: tuple[Stage, ...]
    seed: int = 0
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    ema: float = 0.998
    trunk_from: int = 3
    prompts: tuple[float, float, float] = (0.4, 0.35, 0.25)
    loss: LossConfig = field(default_factory=LossConfig)
    warmup_steps: int = 50
    checkpoint_minutes: float = 3.0

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """Stage that a step belongs to.

        Args:
            step: 0 .. total_steps - 1.

        Returns:
            The stage; the last one beyond the end.
        """
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]


def load_plan(path: Path) -> TrainPlan:
    """Read a plan.

    Args:
        path: YAML file whose keys are the fields of :class:`TrainPlan` and :class:`Stage`.

    Returns:
        The plan.

    Raises:
        ConfigError: for an unreadable file, or an unknown or missing key.
    """
    try:
        raw: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        stages = tuple(_build(Stage, stage, f"{path}: stage") for stage in raw.pop("stages"))
        loss = _build(LossConfig, raw.pop("loss", {}), f"{path}: loss")
        plan: TrainPlan = _build(TrainPlan, {**raw, "stages": stages, "loss": loss}, str(path))
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, KeyError) as error:
        raise ConfigError(f"{path} is not a training plan: {error!r}") from error
    for stage in plan.stages:
        stage.world_config()  # a typing error must show before hours of training, not after
    return plan


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown keys {unknown}; known: {sorted(known)}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
