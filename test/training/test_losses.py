"""Losses: tiny cases by hand, brute force, minima where they belong, no NaN where there is nothing to learn."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from superpoint_ros.networks import score_map
from superpoint_training.recipes.losses import (
    constant_prediction_loss,
    dense_hinge_loss,
    detector_loss,
    expected_detector_loss,
    info_nce_loss,
    repeatability_loss,
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


def test_expected_detector_loss_by_hand():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(1, 65, 1, 3))).float()
    expected = torch.zeros(1, 8, 24)
    expected[0, 2, 5], expected[0, 7, 0] = 0.3, 0.2
    expected[0, 1, 8 + 1], expected[0, 1, 8 + 2] = 0.9, 0.6  # more than 1
    logs = logits.log_softmax(1)[0, :, 0]
    first = -(0.3 * logs[21, 0] + 0.2 * logs[56, 0] + 0.5 * logs[64, 0])
    second = -(0.6 * logs[9, 1] + 0.4 * logs[10, 1])
    valid = torch.tensor([[[True, True, False]]])
    assert expected_detector_loss(logits, expected, valid).item() == pytest.approx(
        (first + second).item() / 2, rel=1e-5
    )
    assert expected_detector_loss(logits, expected, torch.zeros_like(valid)).item() == 0
    sure = torch.zeros(1, 8, 24)
    sure[0, 3, 4] = 1
    cells = torch.tensor([[[28, 64, 64]]])
    same = detector_loss(logits, cells, torch.ones_like(cells, dtype=torch.bool))
    assert expected_detector_loss(logits, sure, torch.ones_like(cells, dtype=torch.bool)).item() == pytest.approx(
        same.item()
    )


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
    right = dense_hinge_loss(identity, identity, spread, valid)
    wrong = dense_hinge_loss(identity, identity.roll(3, dims=1), spread, valid)
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


def test_rivals_are_one_more_negative_of_the_first():
    generator = torch.Generator().manual_seed(0)
    first, second, rivals = (normalize(torch.randn(2, 5, 4, generator=generator), dim=-1) for _ in range(3))
    points = torch.arange(5)[None, :, None].expand(2, 5, 2) * 20.0
    valid = torch.rand(2, 5, generator=generator) < 0.8
    expected = []
    for b in range(2):
        chosen = np.flatnonzero(valid[b])
        similarity = first[b, chosen] @ second[b, chosen].T / 0.07
        for row, i in enumerate(chosen):
            rival = (first[b, i] @ rivals[b, i] / 0.07)[None]
            forth, back = torch.cat([similarity[row], rival]), similarity[:, row]
            loss = (forth.logsumexp(0) + back.logsumexp(0)) / 2 - similarity[row, row]
            expected.append(float(loss) / len(chosen) / 2)
    actual = info_nce_loss(first, second, points, valid, rivals=rivals).item()
    assert actual == pytest.approx(sum(expected), rel=1e-4)


def test_info_nce_prefers_the_right_pairing_and_survives_nothing():
    descriptors = torch.eye(8)[None]
    points = torch.arange(8)[None, :, None] * torch.tensor([20.0, 0.0])
    valid = torch.ones(1, 8, dtype=torch.bool)
    assert info_nce_loss(descriptors, descriptors, points, valid) < 1e-3
    assert info_nce_loss(descriptors, descriptors.roll(1, dims=1), points, valid) > 5
    assert info_nce_loss(descriptors, descriptors, points, ~valid) == 0


def sure_of(*pixels, rows=3, columns=4):
    """Logits `[1, 65, rows, columns]` of a detector that is sure of keypoints at pixels (x, y), one a cell at most."""
    logits = torch.zeros(1, 65, rows, columns)
    logits[:, 64] = 40
    for x, y in pixels:
        logits[0, y % 8 * 8 + x % 8, y // 8, x // 8] = 80
    return logits


EVERYWHERE = torch.ones(1, 3, 4, dtype=torch.bool)
SHIFT = torch.tensor([[[1.0, 0, 5], [0, 1, -2], [0, 0, 1]]])


def test_a_keypoint_is_worth_how_near_the_other_picture_has_one_less_its_price():
    """Of three keypoints the first is found a pixel off, the second not at all, and the third is out of sight."""
    first, second = sure_of((10, 10), (3, 17), (30, 20)), sure_of((16, 8), (8, 20))
    shared = sum(0 <= x + 5 <= 31 and 0 <= y - 2 <= 23 for x in range(32) for y in range(24))
    near = np.exp(-1 / (2 * 1.5**2))
    worth = (near - 0.25) + (0 - 0.25)
    scores = score_map(first), score_map(second)
    actual = repeatability_loss(*scores, SHIFT, EVERYWHERE, EVERYWHERE, sigma=1.5, price=0.25).item()
    assert shared == 27 * 22
    assert actual == pytest.approx(-worth * 64 / shared, rel=1e-4)


def test_repeatability_against_brute_force():
    generator = torch.Generator().manual_seed(0)
    first, second = 3 * torch.randn(2, 1, 65, 3, 4, generator=generator)
    homography = np.array([[0.9, 0.15, 2], [-0.1, 1.1, 1], [1e-3, -5e-4, 1]])
    valid, other_valid = torch.rand(2, 1, 3, 4, generator=generator) < 0.8
    own, other = (
        logits.softmax(1)[0, :64].reshape(8, 8, 3, 4).permute(2, 0, 3, 1).reshape(24, 32).numpy().astype(float)
        for logits in (first, second)
    )

    def closeness(x, y):
        return min(1, sum(
            other[v, u] * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 1.0**2))
            for v in range(max(0, y - 3), min(24, y + 4)) for u in range(max(0, x - 3), min(32, x + 4))
        ))  # fmt: skip

    worth = []
    for y in range(24):
        for x in range(32):
            u, v, w = homography @ [x, y, 1]
            left, top = int(np.floor(u / w)), int(np.floor(v / w))
            right, down = u / w - left, v / w - top
            corners = [
                (left + i, top + j, (right if i else 1 - right) * (down if j else 1 - down))
                for i in (0, 1) for j in (0, 1)
            ]  # fmt: skip
            seen = all(0 <= a < 32 and 0 <= b < 24 and other_valid[0, b // 8, a // 8] for a, b, _ in corners)
            if seen and valid[0, y // 8, x // 8]:
                worth.append(own[y, x] * (sum(share * closeness(a, b) for a, b, share in corners) - 0.3))
    matrix = torch.tensor(homography)[None].float()
    scores = score_map(first), score_map(second)
    actual = repeatability_loss(*scores, matrix, valid, other_valid, sigma=1.0, price=0.3).item()
    assert actual == pytest.approx(-64 * np.mean(worth), rel=1e-3)


def test_repeatability_looks_at_the_right_place_under_autocast():
    """Half a pixel beside the other picture's keypoint, where bfloat16 knows whole pixels only."""
    first, second = (score_map(sure_of(place, rows=20, columns=20)) for place in ((150, 150), (155, 147)))
    homography = torch.tensor([[[1.0, 0, 5.5], [0, 1, -2.5], [0, 0, 1]]])
    everywhere = torch.ones(1, 20, 20, dtype=torch.bool)
    expected = repeatability_loss(first, second, homography, everywhere, everywhere).item()
    with torch.autocast('cpu', torch.bfloat16):
        actual = repeatability_loss(first, second, homography, everywhere, everywhere).item()
    assert actual == pytest.approx(expected, rel=0.02)  # the blur is a convolution, in bfloat16


def test_what_lies_behind_the_horizon_is_not_shared():
    """Turned half a turn and tilted: beyond x = 15, where a view of it would be upside down, there is nothing."""
    homography = torch.tensor([[[-1.0, 0, 15], [0, -1, 12], [-1 / 15, 0, 1]]])
    logits = [3 * torch.randn(1, 65, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = map(score_map, logits)
    behind = first.clone()
    behind[..., 16:] = torch.rand(1, 24, 16)
    losses = [repeatability_loss(each, second, homography, EVERYWHERE, EVERYWHERE) for each in (first, behind)]
    assert losses[0] == losses[1] != 0


def test_following_the_repeatability_loss_finds_the_other_pictures_keypoints():
    second = score_map(sure_of((16, 8), (8, 20)))
    logits = torch.zeros(1, 65, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        repeatability_loss(score_map(logits), second, SHIFT, EVERYWHERE, EVERYWHERE, price=0.5).backward()
        optimizer.step()
    found = logits.detach().softmax(1)[0, :64].reshape(8, 8, 3, 4).permute(2, 0, 3, 1).reshape(24, 32)
    assert found[10, 11] > 0.5
    assert found[22, 3] > 0.5
    assert found[2:8, 8:16].sum() < 0.1  # shown by both and found by neither


def test_pictures_that_share_nothing_have_no_repeatability_to_lose():
    away = torch.tensor([[[1.0, 0, 500], [0, 1, 0], [0, 0, 1]]])
    logits = torch.randn(1, 65, 3, 4, requires_grad=True)
    loss = repeatability_loss(score_map(logits), score_map(sure_of()), away, EVERYWHERE, EVERYWHERE)
    loss.backward()
    assert loss == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize('valid', [True, False])
def test_gradients_are_finite_on_constant_maps(valid):
    flat = torch.ones(1, 4, 2, 2, requires_grad=True)
    mask = torch.full((1, 4), valid)
    loss = dense_hinge_loss(flat, flat, torch.zeros(1, 4, 2), mask)
    sampled = normalize(flat.flatten(2).transpose(1, 2), dim=-1)
    loss = loss + info_nce_loss(sampled, sampled, torch.zeros(1, 4, 2), mask)
    loss.backward()
    assert torch.isfinite(flat.grad).all()
