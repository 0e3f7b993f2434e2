"""Training clips as local views, and the outline of a view on the panorama."""

from __future__ import annotations

import math

import numpy as np
import torch

from panosam2_core import ObjectState
from panosam2_core.data.synthetic import WorldConfig
from panosam2_core.media.overlay import draw
from panosam2_core.offline.scores import Shown
from panosam2_core.training.local_views import LocalViews
from panosam2_core.training.samples import Batches
from panosam2_core.training.sources import SyntheticSource

SIZE = (64, 128)


def clips(seed: int = 0) -> LocalViews:
    world = WorldConfig(size_hw=(128, 256), frames=5, angular_size_deg=(10, 25), p_occlusion=0.0)
    return LocalViews(SyntheticSource(world, "train", 3, seed), SIZE, seed)


def test_views_follow_their_object() -> None:
    seen = 0
    for number in range(6):
        drawn = clips().draw(number)
        assert drawn.images.shape == (5, 3, *SIZE)
        assert not drawn.closed
        (object_id,) = drawn.ids
        for labels in drawn.labels:
            rows, columns = torch.nonzero(labels == object_id, as_tuple=True)
            if len(rows):
                seen += 1
                middle = columns.float().mean() / SIZE[1], rows.float().mean() / SIZE[0]
                assert all(0.15 < float(value) < 0.85 for value in middle)
    assert seen > 20


def test_the_same_number_is_the_same_clip_and_another_seed_another() -> None:
    one, same, other = (clips(seed).draw(3) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert one.name != other.name


def test_a_batch_of_views_is_no_panorama_and_weighs_all_pixels_alike() -> None:
    batch = Batches(clips(), clips=2).batch(0)
    assert not batch.closed
    assert (batch.weights == 1).all()


def test_the_outline_of_a_view_is_where_the_view_is() -> None:
    black = np.zeros((256, 512, 3), np.uint8)
    view = (math.radians(90), 0.0, math.radians(60), math.radians(30))  # 90 degrees to the left
    shown = Shown("", ObjectState.OCCLUDED, 0.5, crosses_seam=False, box=(0, 0, 0, 0), view=view)
    drawn = draw(black, np.zeros((256, 512), np.uint8), {1: shown}, alpha=0.5, max_width=512)
    bare = Shown("", ObjectState.OCCLUDED, 0.5, crosses_seam=False, box=(0, 0, 0, 0), view=None)
    plain = draw(black, np.zeros((256, 512), np.uint8), {1: bare}, alpha=0.5, max_width=512)
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    assert abs(columns.mean() - 128) < 3
    assert abs(rows.mean() - 128) < 3
    assert abs(np.ptp(columns) - 512 / 6) <= 4
    assert abs(np.ptp(rows) - 256 / 6) <= 4
