"""Targets that leave and come back elsewhere: what the clips promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from panosam2_core.data.absence import take_away
from panosam2_core.data.render import Canvas
from panosam2_core.data.rng import StableRng
from panosam2_core.data.synthetic import SyntheticClip, SyntheticWorld, WorldConfig
from panosam2_core.geometry.region import measure

GONE = (4, 9)
WORLD = SyntheticWorld(
    WorldConfig((64, 128), frames=14, p_occlusion=0.0, p_lookalike=1.0, p_motion_blur=1.0), "val"
)


def away(index):
    scene = WORLD.clip(index).scene
    taken = take_away(scene, GONE, 40.0, StableRng("absence", index))
    return scene, taken


def drawn(scene):
    canvas = Canvas((64, 128), torch.device("cpu"))
    return list(SyntheticClip(scene, WORLD.library, canvas))


@pytest.mark.parametrize("index", range(4))
def test_the_target_is_gone_and_comes_back_elsewhere(index):
    scene, taken = away(index)
    before, after = drawn(scene), drawn(taken)
    target = taken.objects[0].object_id
    for t, (old, new) in enumerate(zip(before, after, strict=True)):
        gone = GONE[0] <= t <= GONE[1]
        if t < GONE[0]:
            assert torch.equal(old.image, new.image), "nothing changes before"
        elif gone:
            assert not (new.labels == target).any()
            assert new.visibility[target] == 0.0
            where = old.labels == target
            assert not where.any() or not torch.equal(old.image[:, where], new.image[:, where])
    last, first = (after[t].labels.numpy() == target for t in (GONE[0] - 1, GONE[1] + 1))
    if last.any() and first.any():
        one, other = (measure(mask, pano=True).bearing for mask in (last, first))
        assert math.degrees(math.acos(np.clip(one @ other, -1, 1))) > 25, "40 less half a target"


def test_most_scenes_can_be_used_and_none_is_moved_less_than_asked():
    turned = [away(index)[1] for index in range(20)]
    assert sum(scene is not None for scene in turned) >= 15
    scene = WORLD.clip(0).scene
    assert take_away(scene, GONE, 179.9, StableRng("far")) is None
    with pytest.raises(ValueError, match="expected 0 < first"):
        take_away(scene, (0, 3), 40.0, StableRng("first"))
