"""J and F against the definition and against another team's code."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from vos_benchmark import evaluator

from panosam2_core.evaluation.metrics import Mask, score_mask
from panosam2_core.evaluation.scores import ObjectScore, summarize

PAIRS = 1000


def pairs(count: int, size_hw: tuple[int, int] = (60, 120)) -> Iterator[tuple[Mask, Mask]]:
    """Blobs that overlap more or less, some cut by every edge, some empty, some everywhere."""
    generator = np.random.default_rng(0)
    for i in range(count):
        noise = generator.normal(size=(3, *size_hw))
        smooth = [gaussian_filter(n, generator.uniform(1, 8), mode="wrap") for n in noise]
        smooth = [s / s.std() for s in smooth]
        share = generator.uniform(0, 1)
        first = smooth[0] > generator.uniform(-0.5, 2.5)
        second = share * smooth[0] + (1 - share) * smooth[1] > generator.uniform(-0.5, 2.5)
        yield first & (i % 10 != 3), (second | (i % 50 == 7)) & (i % 10 not in (3, 4))


Pixels = set[tuple[int, int]]


def edge(mask: Mask, *, wrap: bool) -> Pixels:
    """Pixels that differ from one of three neighbours."""
    height, width = mask.shape
    found = set()
    for row, col in np.ndindex(height, width):
        for down, aside in ((0, 1), (1, 0), (1, 1)):
            r, c = min(row + down, height - 1), col + aside
            c = c % width if wrap else min(c, width - 1)
            if mask[r, c] != mask[row, col]:
                found.add((row, col))
    return found


def near(some: Pixels, others: Pixels, size_hw: tuple[int, int], *, wrap: bool) -> Pixels:
    """Pixels of ``some`` with one of the others within the tolerance."""
    radius = math.ceil(0.008 * math.sqrt(size_hw[0] ** 2 + size_hw[1] ** 2))
    reach = range(-radius, radius + 1)
    disc = [(a, b) for a in reach for b in reach if a * a + b * b <= radius**2]
    wide = {(r, c + k * size_hw[1]) for r, c in others for k in ((-1, 0, 1) if wrap else (0,))}
    return {(r, c) for r, c in some if any((r + a, c + b) in wide for a, b in disc)}


def by_definition(predicted: Mask, truth: Mask, *, wrap: bool, solid: bool) -> tuple[float, float]:
    """J and F, pixel by pixel."""
    height, size = truth.shape[0], (truth.shape[0], truth.shape[1])

    def total(pixels: Pixels) -> float:
        if not solid:
            return len(pixels)
        line = [math.sin(math.pi * (0.5 - k / height)) for k in range(height + 1)]
        return sum(line[row] - line[row + 1] for row, _ in pixels)

    union = {tuple(p) for p in np.argwhere(predicted | truth)}
    common = {tuple(p) for p in np.argwhere(predicted & truth)}
    j = total(common) / total(union) if union else 1.0
    ours, theirs = edge(predicted, wrap=wrap), edge(truth, wrap=wrap)
    if not ours or not theirs:
        return j, float(not ours and not theirs)
    precision = total(near(ours, theirs, size, wrap=wrap)) / total(ours)
    recall = total(near(theirs, ours, size, wrap=wrap)) / total(theirs)
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_scores_are_those_of_the_definition() -> None:
    for predicted, truth in pairs(60, (24, 48)):
        score = score_mask(predicted, truth)
        plain = by_definition(predicted, truth, wrap=False, solid=False)
        closed = by_definition(predicted, truth, wrap=True, solid=False)
        sphere = by_definition(predicted, truth, wrap=True, solid=True)
        expected = (plain[0], plain[1], closed[1], sphere[0], sphere[1])
        assert score == pytest.approx(expected, abs=1e-9)


def test_compatible_scores_equal_an_independent_toolkit() -> None:
    """A thousand pairs, frame by frame; the toolkit leaves out frames where both are empty."""
    both_empty = f_below_one = 0
    for predicted, truth in pairs(PAIRS):
        score = score_mask(predicted, truth)
        if not truth.any() and not predicted.any():
            both_empty += 1
            assert score == (1, 1, 1, 1, 1)
            continue
        toolkit = evaluator.Evaluator()
        toolkit.feed_frame(predicted.astype(np.uint8), truth.astype(np.uint8))
        assert score.j == pytest.approx(toolkit.object_iou[1][0], abs=1e-6)
        assert score.f == pytest.approx(toolkit.boundary_f[1][0], abs=1e-6)
        f_below_one += score.f < 1
    assert both_empty >= 50
    assert f_below_one >= PAIRS / 2


@given(seed=st.integers(0, 10**6), shift=st.integers(-60, 60))
@settings(max_examples=30, deadline=None)
def test_turning_the_camera_changes_only_the_score_that_does_not_know_the_seam(
    seed: int, shift: int
) -> None:
    noise = np.random.default_rng(seed).normal(size=(2, 30, 60))
    first, second = (gaussian_filter(n, 3, mode="wrap") > 0.1 for n in noise)
    still = score_mask(first, second)
    turned = score_mask(np.roll(first, shift, axis=1), np.roll(second, shift, axis=1))
    assert turned._replace(f=0) == pytest.approx(still._replace(f=0), abs=1e-9)


def test_the_toolkits_f_hangs_on_where_the_seam_is() -> None:
    mask = np.zeros((64, 128), bool)
    mask[20:40, 40:60] = True
    moved = np.roll(mask, 2, axis=1)
    inside = score_mask(moved, mask)
    across = score_mask(np.roll(moved, 68, axis=1), np.roll(mask, 68, axis=1))
    assert across.f != pytest.approx(inside.f, abs=1e-3)
    assert across.f_wrap == pytest.approx(inside.f_wrap)


def test_a_mask_where_nothing_is_scores_zero_and_nothing_there_scores_one() -> None:
    empty, some = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    some[5:9, 5:9] = True
    assert score_mask(empty, empty) == (1, 1, 1, 1, 1)
    assert score_mask(some, empty) == (0, 0, 0, 0, 0)
    assert score_mask(empty, some) == (0, 0, 0, 0, 0)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(20, 40\) and \(20, 41\)"):
        score_mask(np.zeros((20, 40), bool), np.zeros((20, 41), bool))


def test_absent_frames_count_and_objects_count_alike() -> None:
    truth, empty = np.zeros((64, 128), bool), np.zeros((64, 128), bool)
    truth[30:34, 60:64] = True
    always, never = ObjectScore(), ObjectScore()
    for seen in (True, True, False, False):
        always.add(truth, truth if seen else empty, visible=True)
    never.add(empty, truth, visible=False)
    result = summarize([always, never])
    assert always.groups == {"tiny"}
    assert result["j"] == result["f"] == result["j_and_f"] == pytest.approx((0.5 + 0) / 2)
    assert result["mean_iou"] == pytest.approx((1 + 0) / 2)
    assert (result["visible_recall"], result["absent_recall"]) == (0.5, 0.0)


def test_groups_of_an_object() -> None:
    polar, large = ObjectScore(), ObjectScore()
    truth = np.zeros((64, 128), bool)
    truth[2:9] = True
    polar.add(truth, truth, visible=True)
    assert "polar" in polar.groups
    truth = np.zeros((64, 128), bool)
    truth[25:40, 100:115] = True
    large.add(truth, truth, visible=True)
    assert large.groups == {"large"}


def band(lat: float, hidden: bool = False) -> np.ndarray:
    """A thing of 20 degrees at a latitude in degrees, 64x128."""
    mask = np.zeros((64, 128), bool)
    row = round(32 - lat * 64 / 180)
    if not hidden:
        mask[max(0, row - 3) : row + 4, 60:68] = True
    return mask


def scored(*masks: np.ndarray) -> ObjectScore:
    score = ObjectScore()
    for mask in masks:
        score.add(mask, mask, visible=bool(mask.any()))
    return score


def test_a_thing_that_crosses_the_equator_is_not_on_it() -> None:
    """The band is that of the mean distance from the equator."""
    assert scored(band(45), band(-45)).band == "30-60"
    assert scored(band(10), band(-10)).band == "0-30"


def test_only_what_comes_back_was_occluded() -> None:
    assert "occlusion" in scored(band(0), band(0, hidden=True), band(0)).events
    assert "occlusion" not in scored(band(0), band(0), band(0, hidden=True)).events
