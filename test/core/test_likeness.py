"""Laws of what tells a found object by its colours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panosam2_core.likeness import PORTRAITS, likeness, portrait, with_newest


def looks(seed: int, cells: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of one hue with noise, and a mask of so many cells in it."""
    random = torch.Generator().manual_seed(seed)
    hue = torch.rand(3, 1, 1, generator=random)
    image = (hue + 0.05 * torch.randn(3, 32, 64, generator=random)).clamp(0, 1)[None]
    logits = torch.full((1, 8, 16), -1.0)
    logits.flatten()[torch.randperm(128, generator=random)[:cells]] = 1.0
    return image, logits


@given(st.integers(0, 10**6), st.integers(-15, 15))
def test_a_rolled_picture_has_the_same_portrait(seed: int, columns: int) -> None:
    image, logits = looks(seed)
    here = portrait(image, logits)
    there = portrait(image.roll(4 * columns, -1), logits.roll(columns, -1))
    assert here is not None
    assert there is not None
    assert torch.equal(here, there)


@given(st.integers(0, 10**6), st.integers(1, 128))
def test_an_object_is_as_like_itself_as_can_be(seed: int, cells: int) -> None:
    here = portrait(*looks(seed, cells))
    assert here is not None
    assert likeness(here, here[None]) == pytest.approx(1.0, abs=1e-5)


def test_only_what_is_in_the_mask_counts() -> None:
    image, logits = looks(1)
    inside = (logits > 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    here, there = portrait(image, logits), portrait(image.where(inside, 1 - image), logits)
    assert here is not None
    assert there is not None
    assert torch.equal(here, there)
    other = portrait(image.where(~inside, (image + 0.5) % 1), logits)
    assert other is not None
    assert likeness(other, here[None]) < 0.5


def test_without_a_mask_there_is_no_portrait() -> None:
    image, logits = looks(2)
    assert portrait(image, -logits.abs()) is None


def test_the_first_and_the_newest_are_kept_in_a_fixed_space() -> None:
    new = torch.eye(216)
    known = with_newest(None, new[0])
    sizes = {known.shape}
    for i in range(1, 10):
        known = with_newest(known, new[i])
        sizes.add(known.shape)
        assert torch.equal(known[0], new[0])
        assert torch.equal(known[-1], new[i])
    assert sizes == {(PORTRAITS, 216)}
    assert torch.equal(known[1:], new[7:10])
