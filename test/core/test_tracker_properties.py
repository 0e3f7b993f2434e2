"""Whatever a caller does, in whatever order: what holds of a tracker at all times."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from panosam2_core import (
    ObjectState,
    PanoSAM2Error,
    PanoTracker,
    Prompt,
    TrackerConfig,
)
from panosam2_core.model import PanoSAM2

SIZES = [(64, 128), (48, 130), (33, 61)]
LIMIT = 4  # objects
wild = st.one_of(
    st.floats(-20, 150), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 64.0, 128.0])
)
ids = st.one_of(st.integers(1, 6), st.sampled_from([0, -1, 65535, 65536]))


@st.composite
def good_prompts(draw: st.DrawFn, size_hw: tuple[int, int], known: list[int]) -> Prompt:
    """Such as a tracker that knows the object, or has room for it, must take."""
    height, width = size_hw
    object_id = draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["points", "box", "both", "mask"]))
    if kind == "mask":
        mask = np.zeros(size_hw, draw(st.sampled_from([bool, np.uint8, np.float32])))
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, 20)), left : left + draw(st.integers(1, 40))] = 1
        return Prompt(object_id, mask=mask)
    fields: dict[str, Any] = {"refine": object_id in known and draw(st.booleans())}
    if kind != "box":
        place = st.tuples(st.floats(0, width - 0.01), st.floats(0, height - 0.01))
        fields["points"] = draw(st.lists(place, min_size=1, max_size=3))
        fields["labels"] = [1, *draw(st.lists(st.integers(0, 1), min_size=2, max_size=2))]
        fields["labels"] = fields["labels"][: len(fields["points"])]
    if kind != "points":
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 10))
        fields["box"] = (left, top, (left + draw(st.integers(1, 25))) % width, top + 9)
    return Prompt(object_id, **fields)


@st.composite
def wild_prompts(draw: st.DrawFn, size_hw: tuple[int, int]) -> Prompt:
    """Nearly always wrong in some way."""
    fields: dict[str, Any] = {}
    if draw(st.booleans()):
        fields["points"] = draw(st.lists(st.tuples(wild, wild), max_size=3))
        fields["labels"] = draw(st.lists(st.integers(-1, 2), max_size=3))
    if draw(st.booleans()):
        fields["box"] = draw(st.tuples(wild, wild, wild, wild))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([size_hw, (5, 5), (3, 4, 5)]))
        fields["mask"] = np.zeros(shape, draw(st.sampled_from([bool, object])))
        fields["mask"][: draw(st.integers(0, 3))] = 1
    return Prompt(draw(ids), refine=draw(st.booleans()), **fields)


class Caller(RuleBasedStateMachine):
    """Calls a tracker at random, and keeps book of what it should hold."""

    network: PanoSAM2
    outcomes: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.tracker = PanoTracker(self.network, TrackerConfig(max_objects=LIMIT, seed=1))
        self.expected: list[int] = []
        self.frames = 0
        self.result: Any = None

    @rule(data=st.data(), seed=st.integers(0, 99), size_hw=st.sampled_from(SIZES))
    def step(self, data: st.DataObject, seed: int, size_hw: tuple[int, int]) -> None:
        good = good_prompts(size_hw, self.expected)
        given = data.draw(st.lists(st.one_of(good, good, wild_prompts(size_hw)), max_size=2))
        frame = np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
        before = self.tracker.snapshot()
        try:
            result = self.tracker.step(frame, given)
        except PanoSAM2Error:
            assert given, "a good frame was refused"
            assert self.tracker.snapshot() == before
            self.outcomes["refused"] += 1
            return
        self.frames += 1
        self.outcomes["accepted"] += bool(given)
        self.outcomes["corrected"] += any(p.refine for p in given)
        self.outcomes["resized"] += self.result is not None and self.result.size_hw != size_hw
        self.result = result
        new = [p.object_id for p in given if p.object_id not in self.expected]
        self.expected += new
        assert not any(p.refine and p.object_id in new for p in given)
        assert self.result.frame_index == self.frames - 1
        assert self.result.size_hw == size_hw
        assert list(self.result.objects) == self.expected
        self.outcomes["several"] += len(self.expected) > 1
        self.check_result()

    @rule(shape=st.sampled_from([(0, 8, 3), (8, 8), (8, 8, 4)]))
    def bad_frame(self, shape: tuple[int, ...]) -> None:
        before = self.tracker.snapshot()
        with pytest.raises(PanoSAM2Error):
            self.tracker.step(np.zeros(shape, np.uint8))
        assert self.tracker.snapshot() == before

    @rule(object_id=ids)
    def remove(self, object_id: int) -> None:
        before = self.tracker.snapshot()
        try:
            self.tracker.remove(object_id)
        except PanoSAM2Error:
            assert object_id not in self.expected
            assert self.tracker.snapshot() == before
        else:
            self.expected.remove(object_id)

    @precondition(lambda self: self.expected)
    @rule()
    def forget_short_term(self) -> None:
        self.tracker.forget_short_term()

    @rule()
    def save_and_go_on_elsewhere(self) -> None:
        other = PanoTracker(self.network, self.tracker.config)
        assert other.restore(self.tracker.snapshot()) == self.frames
        self.tracker = other

    @rule()
    def reset(self) -> None:
        self.tracker.reset()
        self.expected, self.frames = [], 0
        assert self.tracker.state_bytes() == 0

    @invariant()
    def ids_are_those_that_were_added(self) -> None:
        assert list(self.tracker.object_ids) == self.expected
        assert len(self.expected) <= LIMIT

    def check_result(self) -> None:
        height, width = self.result.size_hw
        claimed = np.zeros((height, width), bool)
        for object_id, thing in self.result.objects.items():
            assert thing.object_id == object_id
            assert thing.mask.shape == (height, width)
            assert thing.mask.dtype == np.bool_
            visible = thing.state is ObjectState.VISIBLE
            assert visible == bool(thing.mask.any()) == (thing.area_px > 0)
            assert (thing.frames_since_seen == 0) == visible or thing.age == 0
            x, y, w, h = thing.box
            assert 0 <= x < width
            assert 0 <= y <= y + h <= height
            assert 0 <= w <= width
            assert visible or thing.box == (0, 0, 0, 0)
            numbers = dataclasses.astuple(dataclasses.replace(thing, mask=None, logits=None))
            assert all(np.isfinite(n).all() for n in numbers if isinstance(n, (float, np.ndarray)))
            assert np.isfinite(thing.logits).all()
            assert 0 <= thing.visibility <= 1
            assert 0 <= thing.mask_score <= 1
            mine = self.result.labels == object_id
            assert not (mine & ~thing.mask).any()
            claimed |= thing.mask
        assert np.array_equal(self.result.labels > 0, claimed)


def test_a_tracker_survives_any_caller(small_nano: PanoSAM2) -> None:
    Caller.network = small_nano
    Caller.outcomes.clear()
    run_state_machine_as_test(
        Caller,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # Had it only been refused, or never, it would not have been tried.
    for outcome in ("accepted", "refused", "corrected", "several", "resized"):
        assert Caller.outcomes[outcome] >= 5, Caller.outcomes
