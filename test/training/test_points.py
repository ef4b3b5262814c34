"""Keypoints of cells and their correspondences: hand-made views, loops in float64, nothing visible."""

import numpy as np
import pytest
import torch

from superpoint_training.recipes.geometry import is_inside, magnification, warp
from superpoint_training.recipes.losses import unsupervised_point_loss
from superpoint_training.recipes.points import View, correspond, view_of

SHIFT = torch.tensor([[[1.0, 0, 5], [0, 1, -2], [0, 0, 1]]])
TILT = torch.tensor([[[0.9, 0.15, 2], [-0.1, 1.1, 1], [1e-3, -5e-4, 1]]])


def view(points, scores=None, valid=None, size=(40, 48), dimension=3, seed=0):
    """A view with these keypoints, random descriptors and, if not given, scores of a half."""
    points = torch.as_tensor(points, dtype=torch.float32)[None]
    count = points.shape[1]
    generator = torch.Generator().manual_seed(seed)
    return View(
        points,
        torch.full((1, count), 0.5) if scores is None else torch.as_tensor(scores)[None],
        torch.randn(1, dimension, size[0] // 8, size[1] // 8, generator=generator),
        8,
        torch.ones(1, count, dtype=torch.bool) if valid is None else torch.as_tensor(valid)[None],
        size,
    )


def test_a_view_has_the_absolute_positions_of_its_cells():
    offsets = torch.zeros(1, 2, 3, 2)
    offsets[0, 1, 2] = torch.tensor([1.5, -6.0])
    found = view_of(torch.rand(1, 2, 3), offsets, torch.rand(1, 4, 4, 6), 4, torch.ones(1, 2, 3, dtype=torch.bool))
    assert found.points[0, 0].tolist() == [3.5, 3.5]
    assert found.points[0, 5].tolist() == [19.5 + 1.5, 11.5 - 6.0]
    assert found.descriptor_stride == 4
    assert found.size == (16, 24)


def test_warping_agrees_with_float64_and_sends_what_lies_behind_far_away():
    points = torch.rand(1, 20, 2) * 40
    mapped = np.concatenate([points[0].double().numpy(), np.ones((20, 1))], axis=1) @ TILT[0].double().numpy().T
    np.testing.assert_allclose(warp(points, TILT)[0].numpy(), mapped[:, :2] / mapped[:, 2:], rtol=1e-5)
    behind = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]])
    moved = warp(torch.tensor([[[20.0, 5.0], [10.0, 5.0]]]), behind)
    assert moved.isfinite().all()
    assert not is_inside(moved, (40, 48)).any()


def test_points_are_moved_exactly_under_autocast():
    points = torch.rand(1, 20, 2) * 200
    with torch.autocast('cpu', torch.bfloat16):
        moved = warp(points, TILT)
    torch.testing.assert_close(moved, warp(points.double(), TILT.double()).float(), atol=1e-3, rtol=0)


def test_correspondences_equal_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    first = view(torch.rand(30, 2, generator=generator) * 40, valid=torch.rand(30, generator=generator) < 0.8)
    second = view(torch.rand(25, 2, generator=generator) * 40, valid=torch.rand(25, generator=generator) < 0.8)
    matches = correspond(first, second, TILT, 4.0)
    for i in range(30):
        x, y, w = TILT[0].double() @ torch.tensor([*first.points[0, i].tolist(), 1.0]).double()
        x, y = float(x / w), float(y / w)
        visible = bool(first.valid[0, i]) and 0 <= x <= 47 and 0 <= y <= 39
        distances = [
            np.hypot(x - p[0], y - p[1]) if ok else np.inf
            for p, ok in zip(second.points[0].tolist(), second.valid[0].tolist(), strict=True)
        ]
        assert bool(matches.visible[0, i]) == visible
        assert int(matches.nearest[0, i]) == int(np.argmin(distances))
        assert float(matches.distances[0, i]) == pytest.approx(min(distances), abs=1e-4)
        assert bool(matches.together[0, i]) == (visible and min(distances) <= 4)
    values = torch.rand(1, 25, 2)
    torch.testing.assert_close(matches.of_other(values)[0], values[0][matches.nearest[0]])
    torch.testing.assert_close(matches.of_other(values[..., 0])[0], values[0, :, 0][matches.nearest[0]])


def test_nothing_belongs_together_where_nothing_is_seen():
    first, second = view([[5.0, 5.0]]), view([[10.0, 3.0]], valid=[False])
    assert not correspond(first, second, SHIFT, 4.0).together.any()
    away = torch.tensor([[[1.0, 0, 900], [0, 1, 0], [0, 0, 1]]])
    assert not correspond(first, view([[10.0, 3.0]]), away, 4.0).visible.any()


def test_descriptors_are_unit_vectors_even_of_an_empty_map():
    flat = view([[5.0, 5.0]])._replace(descriptor_map=torch.zeros(1, 3, 5, 6, requires_grad=True))
    described = flat.describe(flat.points)
    described.sum().backward()
    assert described.isfinite().all()
    assert flat.descriptor_map.grad.isfinite().all()
    lengths = view([[5.0, 5.0]]).describe(torch.rand(1, 4, 2) * 40).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(1, 4))


def test_unsupervised_point_loss_by_hand():
    scores, distances = torch.tensor([[0.9, 0.2, 0.7]]), torch.tensor([[0.5, 3.5, 99.0]])
    together = torch.tensor([[True, True, False]])
    expected = (0.9 * (0.5 - 2) + 0.2 * (3.5 - 2)) / 2
    assert unsupervised_point_loss(scores, distances, together).item() == pytest.approx(expected)
    pairs = torch.stack([together[0], ~together[0]])
    both = unsupervised_point_loss(scores.repeat(2, 1), distances.repeat(2, 1), pairs)
    assert both.item() == pytest.approx(expected / 2)  # one pair of views has a single keypoint, its own mean


def test_scores_of_zero_lose_to_scores_that_tell_good_keypoints_from_bad():
    distances = torch.tensor([[0.1, 0.2, 3.0, 3.5]])
    together = torch.ones(1, 4, dtype=torch.bool)
    zero = torch.zeros(1, 4, requires_grad=True)
    trivial = unsupervised_point_loss(zero, distances, together)
    good = unsupervised_point_loss(torch.tensor([[1.0, 1, 0, 0]]), distances, together)
    bad = unsupervised_point_loss(torch.tensor([[0.0, 0, 1, 1]]), distances, together)
    assert good < trivial < bad
    trivial.backward()
    assert (zero.grad[0, :2] < 0).all()  # descent raises the scores of the near ones
    assert (zero.grad[0, 2:] > 0).all()


def test_scores_need_no_keypoints():
    together = torch.zeros(1, 3, dtype=torch.bool)
    assert unsupervised_point_loss(torch.rand(1, 3), torch.rand(1, 3), together) == 0


@pytest.mark.parametrize('autocast', [False, True])
def test_magnification_is_the_root_of_what_a_small_square_becomes(autocast):
    points = torch.rand(1, 20, 2) * 200
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        actual = magnification(points, TILT)
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64) * 1e-3
    moved = warp((points[0].double()[:, None] + corners), TILT.double().expand(20, 3, 3))
    sides = moved[:, 1:] - moved[:, :1]
    expected = torch.linalg.det(sides).abs().sqrt() / 1e-3
    torch.testing.assert_close(actual[0].double(), expected, rtol=1e-3, atol=1e-4)
