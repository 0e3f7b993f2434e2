"""The bounded bank and the long-term draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_utils import get_1d_sine_pe
from scipy.stats import chisquare

from panosam2_core.memory.bank import FrameMemory, LongTermEntry, ObjectMemory
from panosam2_core.memory.sampling import best_spaced, draw_by_visibility
from panosam2_core.memory.tokens import pack
from panosam2_core.model import PanoSAM2


def frame(index: int) -> FrameMemory:
    return FrameMemory(index, torch.zeros(2, 1, 2), torch.zeros(4))


def entry(index: int, logit: float) -> LongTermEntry:
    return LongTermEntry(index, torch.zeros(4), logit)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 60), maps=st.integers(2, 9), pointers=st.integers(2, 20))
def test_the_bank_keeps_exactly_what_attention_looks_at(
    frames: int, maps: int, pointers: int
) -> None:
    memory = ObjectMemory(num_maps=maps, num_pointers=pointers)
    for index in range(1, frames + 1):
        memory.remember_tracked(frame(index))
    now = frames + 1
    ages = [now - m.frame for m in memory.recent]
    assert ages == list(range(min(frames, maps - 1), 0, -1))
    assert [now - f for f, _ in memory.recent_pointers] == list(
        range(min(frames, pointers - 1), 0, -1)
    )


def test_prompted_frames_are_capped_and_the_first_one_stays() -> None:
    memory = ObjectMemory(max_prompted=3)
    for index in range(6):
        memory.remember_prompted(frame(index))
    assert [m.frame for m in memory.prompted] == [0, 4, 5]
    memory.remember_prompted(frame(5))
    assert [m.frame for m in memory.prompted] == [0, 4, 5]


def test_long_term_bank_takes_only_visible_frames_and_never_drops_the_best() -> None:
    memory = ObjectMemory(long_capacity=5)
    logits = [3.0, -1.0, 9.0, 0.0, 1.0, 2.0, 5.0, 4.0, 0.5]
    for index, logit in enumerate(logits):
        memory.remember_long(entry(index, logit))
    assert sorted(e.object_logit for e in memory.long_term) == [2.0, 3.0, 4.0, 5.0, 9.0]


def test_candidates_lie_outside_the_short_window() -> None:
    memory = ObjectMemory(num_maps=7)
    for index in range(20):
        memory.remember_long(entry(index, 1.0))
    assert [e.frame for e in memory.long_candidates(20)] == list(range(14))


def test_a_prompted_frame_is_no_candidate_while_it_is_attended_to_as_such() -> None:
    memory = ObjectMemory(num_maps=3, max_prompted=2)
    for index in range(12):
        memory.remember_long(entry(index, 1.0))
        if index in (0, 4):
            memory.remember_prompted(frame(index))
    assert [e.frame for e in memory.long_candidates(12)] == [1, 2, 3, 5, 6, 7, 8, 9]
    memory.remember_prompted(frame(11))  # frame 4 is no longer kept as prompted
    assert [e.frame for e in memory.long_candidates(12)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_equal_logits_move_on_with_time() -> None:
    """Also those that are equal because they are clipped."""
    drawn = set()
    for now in range(20, 60):
        entries = [entry(i, 15.0 + i % 3) for i in range(now)]
        drawn.add(tuple(e.frame for e in best_spaced(entries, 2, 8)))
    assert len(drawn) == 40


def test_the_tokens_are_those_of_the_memories_in_order_and_with_their_ages(
    small_nano: PanoSAM2,
) -> None:
    """Every kind of entry: content, order, number and time code, written out here."""
    model, now = small_nano, 40
    (h, w), (dim, width) = model.grid_hw, (model.mem_dim, model.config.width)
    generator = torch.Generator().manual_seed(4)

    def memory_of(index: int) -> FrameMemory:
        noise = torch.randn(dim, h, w, generator=generator)
        return FrameMemory(index, noise, torch.randn(width, generator=generator))

    memory = ObjectMemory(max_anchors=1)
    prompted = [memory_of(0), memory_of(9)]
    for one in prompted:
        memory.remember_prompted(one)
    anchor = memory_of(17)
    memory.remember_tracked(dataclasses.replace(anchor, contested=True))
    lasting = [*prompted, anchor]
    recent = [memory_of(index) for index in range(24, 40)]
    for one in recent:
        memory.remember_tracked(one)
    long = [LongTermEntry(i, torch.randn(width, generator=generator), 1.0) for i in (12, 27)]
    packed = pack(model, [memory], [long], now)
    pieces = width // dim

    pointers = [m.pointer for m in lasting] + [e.pointer for e in long]
    pointers += [m.pointer for m in reversed(recent[1:])]  # the fifteen that SAM2 looks at
    ages = [40, 31, 15, 15, 13, *range(1, 16)]  # those of anchors and long-term ones end at 15
    assert packed.num_pointer_tokens == len(pointers) * pieces
    tail = packed.tokens[-packed.num_pointer_tokens :, 0].reshape(len(pointers), width)
    assert torch.equal(tail, torch.stack(pointers))
    codes = model.obj_ptr_tpos_proj(get_1d_sine_pe(torch.tensor(ages) / 15, dim=width))
    given = packed.positions[-packed.num_pointer_tokens :, 0].reshape(len(pointers), pieces, dim)
    assert torch.allclose(given, codes[:, None].expand(-1, pieces, -1), atol=1e-6)

    short = torch.stack([m.memory_map for m in recent[-6:]])[None]
    short_pointers = torch.stack([m.pointer for m in recent[-6:]])[None]
    long_pointers = torch.stack([e.pointer for e in long])[None]
    pseudo = model.lsmm(long_pointers, short_pointers, short)[0]
    maps = [*(m.memory_map for m in lasting), *pseudo, *(m.memory_map for m in recent[-6:])]
    head = packed.tokens[: -packed.num_pointer_tokens, 0]
    assert torch.allclose(head, torch.cat([m.flatten(1).T for m in maps]), atol=1e-6)
    times = [model.maskmem_tpos_enc[6, 0, 0]] * 3 + [model.lsmm.time_embed] * 2
    times += [model.maskmem_tpos_enc[age - 1, 0, 0] for age in range(6, 0, -1)]
    place = model.memory_position(short[:, 0])[0].flatten(1).T
    codes = torch.cat([place + time for time in times])
    assert torch.allclose(packed.positions[: -packed.num_pointer_tokens, 0], codes, atol=1e-6)


def test_objects_that_were_hidden_for_a_while_share_a_batch_with_the_others(
    small_nano: PanoSAM2,
) -> None:
    """Their clocks stood still then, so each has a time of its own."""
    model = small_nano
    (h, w), (dim, width) = model.grid_hw, (model.mem_dim, model.config.width)
    memories, times = [ObjectMemory(), ObjectMemory()], [19, 28]
    for memory, now in zip(memories, times, strict=True):
        memory.remember_prompted(FrameMemory(0, torch.randn(dim, h, w), torch.randn(width)))
        for index in range(1, now):
            noise = torch.randn(dim, h, w)
            memory.remember_tracked(FrameMemory(index, noise, torch.randn(width)))
    together = pack(model, memories, [[], []], times)
    for i, (memory, now) in enumerate(zip(memories, times, strict=True)):
        alone = pack(model, [memory], [[]], now)
        assert torch.equal(together.tokens[:, i], alone.tokens[:, 0])
        assert torch.allclose(together.positions[:, i], alone.positions[:, 0], atol=1e-6)


def test_draws_follow_algorithm_1() -> None:
    """Sequential weighted draws without replacement, by brute force, against the one-pass form."""
    entries = [entry(i, logit) for i, logit in enumerate([0.0, 0.7, 1.4, -0.5])]
    weights = np.exp([e.object_logit for e in entries])
    expected = np.zeros((4, 4))
    for first in range(4):
        rest = weights.copy()
        rest[first] = 0
        expected[first] = weights[first] / weights.sum() * rest / rest.sum()
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    probability = np.array([expected[i, j] + expected[j, i] for i, j in pairs])
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(pairs, 0)
    for _ in range(4000):
        drawn = draw_by_visibility(entries, 2, generator)
        counts[drawn[0].frame, drawn[1].frame] += 1
    assert chisquare(list(counts.values()), 4000 * probability).pvalue > 1e-3
    # The test can fail: on uniform draws, and on the likely mistake, pairs drawn independently.
    assert chisquare(list(counts.values()), [4000 / 6] * 6).pvalue < 1e-6
    both = np.array([weights[i] * weights[j] for i, j in pairs])
    assert chisquare(list(counts.values()), 4000 * both / both.sum()).pvalue < 1e-6


@given(
    logits=st.lists(st.floats(-1e6, 1e6), max_size=12),
    count=st.integers(0, 5),
    seed=st.integers(0),
)
@settings(max_examples=50, deadline=None)
def test_draws_are_distinct_ordered_and_survive_extreme_logits(
    logits: list[float], count: int, seed: int
) -> None:
    entries = [entry(i, logit) for i, logit in enumerate(logits)]
    drawn = draw_by_visibility(entries, count, np.random.default_rng(seed))
    indices = [e.frame for e in drawn]
    assert indices == sorted(set(indices))
    assert len(indices) == min(count, len(logits))


@pytest.mark.parametrize(
    ("logits", "spacing", "expected"),
    [
        ([5.0, 4.0, 3.0, 2.0], 1, [0, 1]),
        ([5.0, 4.0, 3.0, 2.0], 2, [0, 2]),
        ([1.0, 9.0, 8.0, 7.0], 2, [1, 3]),
        ([1.0], 8, [0]),
        ([], 8, []),
    ],
)
def test_deterministic_draws_are_the_best_ones_apart(
    logits: list[float], spacing: int, expected: list[int]
) -> None:
    entries = [entry(i, logit) for i, logit in enumerate(logits)]
    assert [e.frame for e in best_spaced(entries, 2, spacing)] == expected
