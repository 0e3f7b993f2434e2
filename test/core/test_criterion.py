"""Laws of the training criterion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panosam2_core.losses.criterion import LossConfig, binary_iou, dice_loss, frame_loss
from panosam2_core.model import Decoded

TARGET = torch.zeros(2, 8, 16)
TARGET[:, 2:6, 4:12] = 1
ONES = torch.ones_like(TARGET)
SEEN = torch.tensor([True, True])


def decoded(masks: torch.Tensor, ious: torch.Tensor, visible: float = 5.0) -> Decoded:
    best = masks[:, :1]
    pointer, logit = torch.zeros(2, 4), torch.full((2, 1), visible)
    return Decoded(best, masks, ious, ious[:, 0], pointer, logit, None)


def candidates(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 8, 16, generator=generator, requires_grad=True)


def perfect() -> torch.Tensor:
    return (TARGET * 40 - 20)[:, None].expand(-1, 3, -1, -1)


def test_a_perfect_answer_costs_nothing() -> None:
    loss = frame_loss(decoded(perfect(), torch.ones(2, 3), 20.0), TARGET, ONES, SEEN, LossConfig())
    assert float(loss.total) < 1e-6
    assert loss.true_iou.tolist() == [1.0, 1.0]


def test_only_the_best_mask_gets_a_mask_gradient_and_all_get_an_iou_gradient() -> None:
    masks = candidates()
    ious = torch.full((2, 3), 0.3, requires_grad=True)
    frame_loss(decoded(masks, ious), TARGET, ONES, SEEN, LossConfig()).total.backward()
    assert masks.grad is not None
    assert (masks.grad.flatten(2).abs().sum(-1) > 0).sum(dim=1).tolist() == [1, 1]
    assert ious.grad is not None
    assert bool((ious.grad != 0).all())


def test_other_masks_share_the_gradient_when_asked() -> None:
    masks = candidates()
    config = LossConfig(other_masks=0.3)
    frame_loss(decoded(masks, torch.ones(2, 3)), TARGET, ONES, SEEN, config).total.backward()
    assert masks.grad is not None
    assert (masks.grad.flatten(2).abs().sum(-1) > 0).all()


def test_an_absent_object_takes_part_in_the_occlusion_term_only() -> None:
    masks = candidates()
    absent = torch.tensor([True, False])
    loss = frame_loss(decoded(masks, torch.ones(2, 3)), TARGET, ONES, absent, LossConfig())
    loss.total.backward()
    assert masks.grad is not None
    assert masks.grad[0].abs().sum() > 0
    assert masks.grad[1].abs().sum() == 0
    assert bool(loss.true_iou.isnan()[1])
    # Visible with logit 5 where one of two is absent: mean of log(1+e^-5) and log(1+e^5).
    assert float(loss.occlusion) == pytest.approx((0.0067 + 5.0067) / 2, abs=1e-3)


def test_nobody_visible_gives_a_finite_loss() -> None:
    none = torch.tensor([False, False])
    loss = frame_loss(decoded(candidates(), torch.ones(2, 3)), TARGET, ONES, none, LossConfig())
    assert torch.isfinite(loss.total)
    assert float(loss.bce) == float(loss.dice) == float(loss.iou) == 0.0


def test_weights_scale_the_cross_entropy_pixel_by_pixel() -> None:
    masks, ious = candidates().detach()[:, :1], torch.ones(2, 1)
    plain = frame_loss(decoded(masks, ious), TARGET, ONES, SEEN, LossConfig())
    double = frame_loss(decoded(masks, ious), TARGET, 2 * ONES, SEEN, LossConfig())
    inside = frame_loss(decoded(masks, ious), TARGET, TARGET, SEEN, LossConfig())
    outside = frame_loss(decoded(masks, ious), TARGET, 1 - TARGET, SEEN, LossConfig())
    assert float(double.bce) == pytest.approx(2 * float(plain.bce), rel=1e-6)
    assert float(inside.bce + outside.bce) == pytest.approx(float(plain.bce), rel=1e-5)
    assert float(double.dice) == float(plain.dice)


def test_dice_and_iou_on_known_overlaps() -> None:
    half = TARGET.clone()
    half[:, 2:6, 8:12] = 0
    assert binary_iou(half > 0, TARGET > 0).tolist() == [0.5, 0.5]
    assert binary_iou(half < 0, TARGET < 0).tolist() == [1.0, 1.0]
    assert dice_loss(half, TARGET)[0] == pytest.approx(1 - (2 * 16 + 1) / (16 + 32 + 1))


def test_the_loss_is_blind_to_the_seam() -> None:
    masks, ious = candidates().detach(), torch.full((2, 3), 0.5)
    target = torch.roll(TARGET, 6, -1)
    plain = frame_loss(decoded(masks, ious), TARGET, ONES, SEEN, LossConfig())
    rolled = frame_loss(decoded(torch.roll(masks, 6, -1), ious), target, ONES, SEEN, LossConfig())
    torch.testing.assert_close(plain.total, rolled.total)


def test_the_total_is_the_papers_sum_of_its_terms() -> None:
    """Written out here with NumPy, with terms that are all different; defaults as published."""
    config = LossConfig()
    assert (config.bce, config.dice, config.iou, config.occlusion) == (0.5, 0.5, 1.0, 0.1)
    masks, ious = candidates(3).detach(), torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.4, 0.6]])
    weights = torch.linspace(0.5, 2, 128).reshape(8, 16).expand(2, -1, -1)
    loss = frame_loss(decoded(masks, ious, 1.5), TARGET, weights, SEEN, config)
    m, t, w = masks.double().numpy(), TARGET.double().numpy(), weights.double().numpy()
    total = 0.0
    for b in range(2):
        costs = []
        for k in range(3):
            p = 1 / (1 + np.exp(-m[b, k]))
            cross = -(t[b] * np.log(p) + (1 - t[b]) * np.log(1 - p))
            overlap = 2 * (p * t[b]).sum()
            dice = 1 - (overlap + 1) / (p.sum() + t[b].sum() + 1)
            costs.append(0.5 * (cross * w[b]).mean() + 0.5 * dice)
        total += min(costs) / 2
        for k in range(3):
            hit, truth = m[b, k] > 0, t[b] > 0.5
            iou = (hit & truth).sum() / (hit | truth).sum()
            total += (float(ious[b, k]) - iou) ** 2 / 6
    total += 0.1 * np.log(1 + np.exp(-1.5))
    assert float(loss.total) == pytest.approx(total, rel=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    """In double precision; the choice of the best mask and the true IoU are constant nearby."""
    generator = torch.Generator().manual_seed(5)
    masks = torch.randn(2, 3, 4, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    ious = torch.rand(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    logit = torch.randn(2, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 4, 8, generator=generator, dtype=torch.float64) > 0.6).double()
    weights = 0.5 + torch.rand(2, 4, 8, generator=generator, dtype=torch.float64)

    def total(masks: torch.Tensor, ious: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
        answer = Decoded(masks[:, :1], masks, ious, ious[:, 0], ious, logit, None)
        return frame_loss(answer, target, weights, SEEN, LossConfig(other_masks=0.2)).total

    assert torch.autograd.gradcheck(total, (masks, ious, logit), eps=1e-6, atol=1e-6)
