"""Laws of what tells a found object by its colours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panosam2_core.likeness import PORTRAITS, likeness, portrait, with_newest


def hue(seed: int, pixels: int = 400) -> torch.Tensor:
    """Pixels of one hue with noise."""
    random = torch.Generator().manual_seed(seed)
    middle = torch.rand(3, 1, generator=random)
    return (middle + 0.05 * torch.randn(3, pixels, generator=random)).clamp(0, 1)


def described(pixels: torch.Tensor) -> torch.Tensor:
    here = portrait(pixels)
    assert here is not None
    return here[0]


@given(st.integers(0, 10**6), st.integers(1, 500))
def test_order_and_number_of_pixels_do_not_matter(seed: int, pixels: int) -> None:
    some = hue(seed, pixels)
    assert torch.equal(described(some), described(some.flip(1)))
    assert torch.allclose(described(some), described(some.repeat(1, 3)))


@given(st.integers(0, 10**6), st.integers(1, 500))
def test_an_object_is_as_like_itself_as_can_be(seed: int, pixels: int) -> None:
    here = described(hue(seed, pixels))
    assert likeness(here, here[None]) == pytest.approx(1.0, abs=1e-5)


@given(st.floats(0, 1))
def test_likeness_follows_the_share_of_other_colours(share: float) -> None:
    red, blue = torch.tensor([0.9, 0.0, 0.0])[:, None], torch.tensor([0.0, 0.0, 0.9])[:, None]
    count = round(100 * share)
    mixed = described(torch.cat((red.repeat(1, count), blue.repeat(1, 100 - count)), 1))
    known = torch.stack((described(red), described(red)))
    assert likeness(mixed, known) == pytest.approx((count / 100) ** 0.5, abs=1e-5)
    assert likeness(mixed, torch.cat((known, described(blue)[None]))) >= 0.5**0.5 - 1e-5


@given(st.integers(0, 10**6), st.floats(0.65, 1.5))
def test_another_light_does_not_make_another_object(seed: int, gain: float) -> None:
    """As long as nothing is too bright for the camera."""
    pixels = hue(seed) * 0.6 + 0.05
    known, here = described(pixels)[None], portrait(gain * pixels)
    assert here is not None
    assert likeness(here, known) > 0.75
    assert likeness(here[:1], known) <= likeness(here, known)


def test_of_no_pixels_there_is_no_portrait() -> None:
    assert portrait(torch.empty(3, 0)) is None


def test_the_first_and_the_newest_are_kept_in_a_fixed_space() -> None:
    new = torch.eye(216)[:, None].expand(-1, 9, -1)  # what a portrait shows, in nine lights
    known = with_newest(None, new[0])
    sizes = {known.shape}
    for i in range(1, 10):
        known = with_newest(known, new[i])
        sizes.add(known.shape)
        assert torch.equal(known[0], new[0, 0])
        assert torch.equal(known[-1], new[i, 0])
    assert sizes == {(PORTRAITS, 216)}
    assert torch.equal(known[1:], new[7:10, 0])
