"""Losses: tiny cases by hand, brute force, minima where they belong, no NaN where there is nothing to learn."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from superpoint_training.recipes.losses import (
    constant_prediction_loss,
    dense_hinge_loss,
    detector_loss,
    info_nce_loss,
)


def test_detector_loss_by_hand():
    logits = torch.zeros(1, 65, 1, 2)
    logits[0, 5, 0, 0] = 2.0
    cells = torch.tensor([[[5, 64]]])
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    first = np.log(64 + np.exp(2)) - 2
    assert detector_loss(logits, cells, valid).item() == pytest.approx((first + np.log(65)) / 2, rel=1e-5)
    valid[0, 0, 1] = False
    assert detector_loss(logits, cells, valid).item() == pytest.approx(first, rel=1e-5)
    assert detector_loss(logits, cells, torch.zeros_like(valid)).item() == 0


def test_constant_prediction_is_the_best_blind_one():
    """The formula is the minimum that gradient descent on one logit vector for all cells finds."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.where(
        torch.rand(4, 20, 20, generator=generator) < 0.1, torch.randint(0, 64, (4, 20, 20), generator=generator), 64
    )
    share = (cells < 64).float().mean().item()
    blind = torch.full((65,), np.log(share / 64))
    blind[64] = np.log(1 - share)
    logits = blind[None, :, None, None].expand(4, 65, 20, 20)
    loss = detector_loss(logits, cells, torch.ones_like(cells, dtype=torch.bool)).item()
    assert constant_prediction_loss(share * 400, 400) == pytest.approx(loss, rel=1e-4)


def dense_hinge_brute_force(first, second, moved, valid, positive_weight=0.05, m_p=1.0, m_n=0.2):
    total, count = 0.0, 0
    batch, _, rows, columns = first.shape
    a, b = normalize(first.double(), dim=1), normalize(second.double(), dim=1)
    for n in range(batch):
        for i in range(rows * columns):
            if not valid[n, i]:
                continue
            for j in range(rows * columns):
                centre = torch.tensor([(j % columns + 0.5) * 8 - 0.5, (j // columns + 0.5) * 8 - 0.5])
                together = float((moved[n, i] - centre).norm() <= 8)
                dot = max(0.0, float(a[n, :, i // columns, i % columns] @ b[n, :, j // columns, j % columns]))
                total += positive_weight * together * max(0, m_p - dot) + (1 - together) * max(0, dot - m_n)
                count += 1
    return total / count * rows * columns


def test_dense_hinge_against_brute_force():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 6, 3, 4, generator=generator)
    moved = torch.rand(2, 12, 2, generator=generator) * torch.tensor([31.0, 23.0])
    valid = torch.ones(2, 12, dtype=torch.bool)
    actual = dense_hinge_loss(first, second, moved, valid).item()
    assert actual == pytest.approx(dense_hinge_brute_force(first, second, moved, valid), rel=1e-4)


def test_dense_hinge_is_least_for_matching_and_orthogonal_descriptors():
    rows, columns = 1, 6
    identity = torch.eye(6).reshape(1, 6, rows, columns)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    spread = (torch.stack([x, y], -1).reshape(1, -1, 2) + 0.5) * 8 - 0.5
    valid = torch.ones(1, 6, dtype=torch.bool)
    right = dense_hinge_loss(identity, identity, spread, valid, positive_weight=1.0)
    wrong = dense_hinge_loss(identity, identity.roll(3, dims=1), spread, valid, positive_weight=1.0)
    assert right < wrong
    assert dense_hinge_loss(identity, identity, spread, ~valid) == 0


def test_info_nce_against_brute_force():
    generator = torch.Generator().manual_seed(1)
    first, second = normalize(torch.randn(2, 1, 7, 5, generator=generator), dim=-1)
    points = torch.rand(1, 7, 2, generator=generator) * 40
    valid = torch.tensor([[True, True, True, True, True, False, False]])
    losses = []
    similarity = (first[0] @ second[0].T / 0.07).double()
    for i in range(5):
        allowed = [j for j in range(5) if j == i or (points[0, i] - points[0, j]).norm() >= 8]
        for row in (similarity[i], similarity[:, i]):
            losses.append(torch.logsumexp(row[allowed], 0) - row[i])
    assert info_nce_loss(first, second, points, valid).item() == pytest.approx(float(sum(losses) / 10), rel=1e-4)


def test_info_nce_prefers_the_right_pairing_and_survives_nothing():
    descriptors = torch.eye(8)[None]
    points = torch.arange(8)[None, :, None] * torch.tensor([20.0, 0.0])
    valid = torch.ones(1, 8, dtype=torch.bool)
    assert info_nce_loss(descriptors, descriptors, points, valid) < 1e-3
    assert info_nce_loss(descriptors, descriptors.roll(1, dims=1), points, valid) > 5
    assert info_nce_loss(descriptors, descriptors, points, ~valid) == 0


@pytest.mark.parametrize('valid', [True, False])
def test_gradients_are_finite_on_constant_maps(valid):
    flat = torch.ones(1, 4, 2, 2, requires_grad=True)
    mask = torch.full((1, 4), valid)
    loss = dense_hinge_loss(flat, flat, torch.zeros(1, 4, 2), mask)
    sampled = normalize(flat.flatten(2).transpose(1, 2), dim=-1)
    loss = loss + info_nce_loss(sampled, sampled, torch.zeros(1, 4, 2), mask)
    loss.backward()
    assert torch.isfinite(flat.grad).all()
