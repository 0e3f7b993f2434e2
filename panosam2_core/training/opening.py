"""Opens what a stage of a plan is trained on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from panosam2_core.data.datasets import open_clips
from panosam2_core.training.local_views import DETAIL, LocalViews
from panosam2_core.training.plan import DataConfig, Stage, TrainPlan
from panosam2_core.training.sources import ClipSource, Mixture, Source, SyntheticSource

logger = logging.getLogger(__name__)


def make_source(plan: TrainPlan, stage: Stage) -> Source:
    """Open what a stage is trained on.

    Args:
        plan: of the run.
        stage: of the plan.

    Returns:
        The source. The clips of one batch come from the same dataset.

    Raises:
        DataError: when a dataset cannot be opened.
    """
    sources = [_open(data, plan, stage) for data in plan.data]
    return Mixture(sources, [data.weight for data in plan.data], plan.seed, stage.clips)


def _open(data: DataConfig, plan: TrainPlan, stage: Stage) -> Source:
    local = data.view == "local"
    scale = DETAIL if local else 1
    size = (scale * stage.input_size[0], scale * stage.input_size[1])
    make = _synthetic if data.kind == "synthetic" else _recorded
    source = make(data, plan, stage, size)
    return LocalViews(source, stage.input_size, plan.seed) if local else source


def _synthetic(_: DataConfig, plan: TrainPlan, stage: Stage, size: tuple[int, int]) -> Source:
    world = dataclasses.replace(stage.world_config(), size_hw=size)
    return SyntheticSource(world, "train", stage.objects, plan.seed)


def _recorded(data: DataConfig, plan: TrainPlan, stage: Stage, size: tuple[int, int]) -> Source:
    clips = open_clips(
        Path(data.path),
        data.kind,
        split=data.split,
        image_topic=data.image_topic,
        label_topic=data.label_topic,
    )
    logger.info(
        "%s: %d clips, %d labelled frames",
        data.path,
        len(clips),
        sum(len(clip.annotated) for clip in clips),
    )
    return ClipSource(
        clips,
        frames=stage.num_frames,
        step=data.step,
        size=size,
        objects=stage.objects,
        augmentation=plan.augment,
        seed=plan.seed,
        skip_broken=plan.on_error == "skip",
    )
