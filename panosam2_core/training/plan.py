"""What a training run does, as data: read from YAML, checked before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from panosam2_core.config import ModelConfig
from panosam2_core.data.augment import AugmentConfig
from panosam2_core.data.datasets import KINDS
from panosam2_core.data.synthetic import WorldConfig
from panosam2_core.errors import ConfigError
from panosam2_core.losses.criterion import LossConfig
from panosam2_core.losses.distortion import DistortionConfig

_CHOICES = {
    "on_error": ("stop", "skip"),
    "init": ("imagenet", "shipped", "file"),
    "precision": ("float32", "bfloat16"),
    "lr_schedule": ("cosine", "constant"),
}


VIEWS = ("sphere", "local")


@dataclass(frozen=True)
class DataConfig:
    """A dataset to train on.

    Attributes:
        kind: ``synthetic``, ``auto``, or one of :data:`panosam2_core.data.datasets.KINDS`.
        path: of a recorded dataset.
        split: of a dataset that has some.
        image_topic: of recordings; ``None``: the only one.
        label_topic: of recordings; ``None``: the only one that ends in ``label_image``.
        weight: chance of being drawn from, up to a factor.
        step: (least, greatest) distance between the frames of a clip, in labelled frames.
        view: ``sphere``, whole panoramas, or ``local``, the tracker's local views of an object.
    """

    kind: str = "auto"
    path: str = ""
    split: str | None = None
    image_topic: str | None = None
    label_topic: str | None = None
    weight: float = 1.0
    step: tuple[int, int] = (1, 1)
    view: str = "sphere"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind not in ("synthetic", "auto", *KINDS):
            raise ConfigError(
                f"data: unknown kind {self.kind!r}; expected synthetic, auto, {', '.join(KINDS)}"
            )
        if self.view not in VIEWS:
            raise ConfigError(f"data: view must be one of {VIEWS}, got {self.view!r}")
        if self.kind != "synthetic" and not self.path:
            raise ConfigError("data: expected a path; on the command line: data.0.path=PATH")
        if not (self.weight > 0 and 1 <= self.step[0] <= self.step[1]):
            raise ConfigError(
                f"data: expected weight > 0 and 1 <= step[0] <= step[1], got {self.weight} and "
                f"{self.step}"
            )


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
        frames: of a clip; 0: what ``world`` says.
        bptt: frames that gradients reach back; 0: the whole clip. Memory grows with it.
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
    frames: int = 0
    bptt: int = 0
    truth_every: int = 0
    long_frames: int = 0
    other_masks: float = 0.0
    occlusion: float | None = None
    world: dict[str, Any] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """T of a clip."""
        return int(self.frames or self.world.get("frames", WorldConfig.frames))

    def world_config(self) -> WorldConfig:
        """The world this stage draws from."""
        overrides = {**self.world, "size_hw": self.input_size, "frames": self.num_frames}
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
        data: what clips come from.
        augment: of recorded clips; synthetic ones vary by themselves.
        distortion: of the pixel weights.
        on_error: ``stop`` at a clip that cannot be read, or ``skip`` it, say so and count it.
        init: weights to start from: ``imagenet`` (nano's trunk; the rest is random), ``shipped``
            (nano's own) or ``file`` (given on the command line, which always goes first).
        accumulate: batches per optimiser step, over all processes; a multiple of their number.
        precision: ``float32`` or ``bfloat16`` arithmetic; weights are float32 in either case.
        lr_schedule: ``cosine`` over the whole run, or ``constant``: what each stage says.
        network: overrides of :class:`panosam2_core.config.ModelConfig`, for example
            ``{pc_blocks: false}``: a network without some parts. Parts that the weights it starts
            from lack begin at identity.
        pano: train on closed panoramas; off: with SAM2's own padding at the left and right edge.
        freeze: beginnings of the names of parameters that are not trained.
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
    data: tuple[DataConfig, ...] = (DataConfig("synthetic"),)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    distortion: DistortionConfig = field(
        default_factory=lambda: DistortionConfig(crop_hw=(64, 128))
    )
    on_error: str = "stop"
    init: str = "imagenet"
    accumulate: int = 1
    precision: str = "float32"
    lr_schedule: str = "cosine"
    network: dict[str, Any] = field(default_factory=dict)
    pano: bool = True
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the choices."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        self.network_config(ModelConfig(variant=self.variant))
        if self.accumulate < 1:
            raise ConfigError(f"accumulate: expected 1 or more, got {self.accumulate}")

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def network_config(self, config: ModelConfig) -> ModelConfig:
        """Change a network as the plan says.

        Args:
            config: of the variant, or of the weights that the run starts from.

        Returns:
            The config of the network to train.

        Raises:
            ConfigError: when the plan names what no network has.
        """
        changed: ModelConfig = _build(
            ModelConfig, {**dataclasses.asdict(config), **self.network}, "network"
        )
        return changed

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


def load_plan(path: Path, changes: Sequence[str] = ()) -> TrainPlan:
    """Read a plan.

    Args:
        path: YAML file whose keys are the fields of :class:`TrainPlan` and :class:`Stage`.
        changes: ``key=value`` that go before what the file says; the key of a list's item is its
            number: ``seed=3``, ``stages.0.steps=10``, ``data.0.path=bags/kitchen``.

    Returns:
        The plan.

    Raises:
        ConfigError: for an unreadable file, or an unknown or missing key.
    """
    try:
        config = OmegaConf.load(path)
        for change in changes:
            key, _, value = change.partition("=")
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
        raw: Any = OmegaConf.to_container(config, resolve=True)
        for key, kind in _LISTS.items():
            if key in raw:
                raw[key] = tuple(_build(kind, item, f"{path}: {key}") for item in raw[key])
        for key, kind in _GROUPS.items():
            if key in raw:
                raw[key] = _build(kind, raw[key], f"{path}: {key}")
        plan: TrainPlan = _build(TrainPlan, raw, str(path))
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, KeyError) as error:
        raise ConfigError(f"{path} is not a training plan: {error!r}") from error
    if any(data.kind == "synthetic" for data in plan.data):
        for stage in plan.stages:
            stage.world_config()  # a typing error must show before hours of training, not after
    return plan


_LISTS: dict[str, type[Any]] = {"stages": Stage, "data": DataConfig}
_GROUPS: dict[str, type[Any]] = {
    "loss": LossConfig,
    "augment": AugmentConfig,
    "distortion": DistortionConfig,
}


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown keys {unknown}; known: {sorted(known)}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
