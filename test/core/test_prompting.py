"""Prompts from angles, strokes and label images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panosam2_core import Prompt, PromptError
from panosam2_core.field_of_view import FieldOfView
from panosam2_core.geometry import erp
from panosam2_core.prompting import (
    label_image_prompts,
    pixel_of_bearing,
    pixel_of_lonlat,
    scribble_prompt,
)
from panosam2_core.prompts import check_prompt

SIZE = (100, 200)
quick = settings(max_examples=100, deadline=None, derandomize=True)
angles = st.floats(-20, 20), st.floats(-math.pi / 2, math.pi / 2)


@quick
@given(*angles)
def test_a_direction_becomes_the_pixel_that_looks_there(lon: float, lat: float) -> None:
    bearing = [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
    u, v = pixel_of_lonlat(lon, lat, SIZE)
    assert 0 <= u < SIZE[1]
    assert 0 <= v < SIZE[0]
    back = erp.ray_to_bearing(erp.pixel_to_ray(torch.tensor([u, v], dtype=torch.float64), SIZE))
    np.testing.assert_allclose(back.numpy(), bearing, atol=1e-6)
    stretched = pixel_of_bearing([3 * x for x in bearing], SIZE)
    again = erp.pixel_to_ray(torch.tensor(stretched, dtype=torch.float64), SIZE)
    np.testing.assert_allclose(erp.ray_to_bearing(again).numpy(), bearing, atol=1e-6)


def test_left_is_left_and_up_is_up() -> None:
    assert pixel_of_lonlat(math.pi / 2, 0, SIZE) == pytest.approx((50, 50))
    assert pixel_of_bearing((1, 0, 1), SIZE) == pytest.approx((100, 25))
    part = pixel_of_lonlat(math.pi / 8, math.pi / 16, (50, 100), FieldOfView(math.pi / 2))
    assert part == pytest.approx((25, 12.5))


@quick
@given(u=st.floats(0, 199.9), v=st.floats(0, 29.9), top=st.integers(0, 70))
def test_rows_that_are_cut_off_move_no_click(u: float, v: float, top: int) -> None:
    """30 of 100 rows: a direction is found where the whole panorama has it, less what is cut."""
    part = FieldOfView(vfov=0.3 * math.pi, middle_lat=(0.35 - top / 100) * math.pi)
    lon, lat = (0.5 - u / 200) * math.tau, (0.5 - (v + top) / 100) * math.pi
    at = pixel_of_lonlat(lon, lat, (30, 200), part)
    whole = pixel_of_lonlat(lon, lat, SIZE)
    assert at == pytest.approx((whole[0], whole[1] - top), abs=1e-4)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: pixel_of_lonlat(0, 0.8, (50, 200), FieldOfView(vfov=math.pi / 2)),
        lambda: pixel_of_bearing((0, 0, 0), SIZE),
        lambda: pixel_of_bearing((math.nan, 0, 1), SIZE),
        lambda: pixel_of_lonlat(0, 2, SIZE),
        lambda: pixel_of_lonlat(math.inf, 0, SIZE),
        lambda: pixel_of_lonlat(1, 0, SIZE, fov=FieldOfView(math.pi / 2)),
        lambda: scribble_prompt(1, [], SIZE),
        lambda: scribble_prompt(1, [(3, 3), (200, 3)], SIZE),
        lambda: scribble_prompt(1, [(3, math.nan)], SIZE),
    ],
)
def test_what_is_no_place_in_the_picture_is_refused(ask) -> None:
    with pytest.raises(PromptError) as caught:
        ask()
    assert caught.value.code == "BAD_COORDS"


@quick
@given(
    st.lists(st.tuples(st.floats(0, 199.99), st.floats(0, 99.99)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.booleans(),
)
def test_a_stroke_gives_clicks_that_can_be_applied(line, count: int, wraps: bool) -> None:
    prompt = scribble_prompt(3, line, SIZE, count=count, wraps=wraps)
    check_prompt(prompt, SIZE, pano=wraps)
    assert len(prompt.points) in (1, count)
    assert prompt.points[0] == pytest.approx(line[0], abs=1e-3)


def test_a_stroke_takes_the_shorter_way() -> None:
    over = scribble_prompt(1, [(190, 40), (10, 40)], SIZE, count=5)
    assert [u for u, _ in over.points] == pytest.approx([190, 195, 0, 5, 10])
    flat = scribble_prompt(1, [(190, 40), (10, 40)], SIZE, count=5, wraps=False)
    assert [u for u, _ in flat.points] == pytest.approx([190, 145, 100, 55, 10])


def test_clicks_are_evenly_spaced_along_the_stroke() -> None:
    bent = scribble_prompt(1, [(10, 10), (10, 40), (70, 40)], SIZE, count=4)
    assert bent.points == [(10, 10), (10, 40), (40, 40), (70, 40)]


def test_a_label_image_gives_each_object_its_mask() -> None:
    labels = np.zeros(SIZE, np.int32)
    labels[3:9, 4:8], labels[20, 190:] = 7, 2
    prompts = label_image_prompts(labels, "thing")
    assert [(p.object_id, p.label) for p in prompts] == [(2, "thing"), (7, "thing")]
    for prompt in prompts:
        assert isinstance(prompt, Prompt)
        assert np.array_equal(prompt.mask, labels == prompt.object_id)


@pytest.mark.parametrize(
    "labels", [np.zeros(SIZE, np.uint8), np.ones(SIZE), np.ones((3, 4, 5), int)]
)
def test_what_is_no_label_image_is_refused(labels) -> None:
    with pytest.raises(PromptError) as caught:
        label_image_prompts(labels)
    assert caught.value.code == "BAD_MASK"
