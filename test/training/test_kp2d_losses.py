"""KP2D's losses: by hand, by loops in float64, least where they should be, finite where there is nothing."""

import numpy as np
import pytest
import torch
from pair_losses import assert_losses_ignore_autocast, batch_of
from test_points import SHIFT, TILT, view
from torch import nn
from torch.nn.functional import normalize

from superpoint_ros.networks import KP2D, KP2DConfig
from superpoint_ros.networks.kp2d import OutlierNetwork
from superpoint_training.recipes.geometry import warp
from superpoint_training.recipes.kp2d import (
    KP2DTraining,
    descriptor_distances,
    kp2d_losses,
    outlier_loss,
    triplet_loss,
)
from superpoint_training.recipes.losses import location_loss, score_loss
from superpoint_training.recipes.points import correspond

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_location_loss_by_hand():
    first = view([[10.0, 10.0], [20.0, 20.0], [47.0, 30.0]])
    second = view([[15.0, 11.0], [25.0, 24.0], [30.0, 30.0]])
    matches = correspond(first, second, SHIFT, 4.0)
    assert matches.together[0].tolist() == [True, False, False]  # the second is 6 px off, the third out of sight
    assert location_loss(matches.distances, matches.together).item() == pytest.approx(3.0)


def test_location_loss_is_zero_for_keypoints_that_move_with_the_picture():
    points = torch.rand(40, 2) * 30 + 5
    first, second = view(points), view(warp(points[None], TILT)[0])
    matches = correspond(first, second, TILT, 4.0)
    assert location_loss(matches.distances, matches.together) < 1e-4


def test_triplet_loss_against_a_loop():
    generator = torch.Generator().manual_seed(1)
    anchors, positives, candidates = normalize(torch.randn(3, 2, 7, 5, generator=generator), dim=-1)
    apart = torch.rand(2, 7, 7, generator=generator) < 0.6
    visible = torch.rand(2, 7, generator=generator) < 0.8
    means = []
    for b in range(2):
        losses = []
        for i in range(7):
            if not visible[b, i]:
                continue
            near = float((anchors[b, i] - positives[b, i]).double().norm())
            far = [float((anchors[b, i] - candidates[b, j]).double().norm()) for j in range(7) if apart[b, i, j]]
            losses.append(max(0.0, near - min(far, default=2.0) + 0.2))
        means.append(np.mean(losses))
    loss = triplet_loss(anchors, positives, candidates, apart, visible).item()
    assert loss == pytest.approx(np.mean(means), rel=1e-4)


def test_triplet_loss_is_zero_for_equal_positives_and_orthogonal_negatives():
    basis = torch.eye(3)[None]
    apart = ~torch.eye(3, dtype=torch.bool)[None]
    assert triplet_loss(basis, basis, basis, apart, ALL) == 0
    assert triplet_loss(basis, basis.roll(1, dims=1), basis, apart, ALL) > 0.1


def test_distances_have_a_gradient_also_between_equal_descriptors():
    descriptors = normalize(torch.ones(1, 2, 4), dim=-1).requires_grad_()
    descriptor_distances(descriptors, descriptors).sum().backward()
    assert descriptors.grad.isfinite().all()
    first, second = normalize(torch.randn(2, 1, 5, 4), dim=-1)
    torch.testing.assert_close(descriptor_distances(first, second), torch.cdist(first, second), atol=1e-5, rtol=1e-4)


def test_consistency_of_scores_by_hand():
    together = torch.tensor([[True, True, False]])
    loss = score_loss(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.7, 0.5, 0.9]]), together)
    assert loss.item() == pytest.approx(0.04 / 2)


class Oracle(nn.Module):
    """Says what it is told, and keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, matches, valid):
        self.matches, self.valid = matches, valid
        return self.answer(matches)


def descriptors_of(first, second, pairs):
    """Views whose descriptors make keypoint i of the first nearest to `pairs[i]` of the second."""
    basis = torch.eye(4)

    class Fixed(type(first)):
        def describe(self, points):
            return self.given[None]

    fixed = []
    for each, given in ((first, basis[torch.tensor(pairs)]), (second, basis[: second.points.shape[1]])):
        one = Fixed(*each)
        one.given = given
        fixed.append(one)
    return fixed


def test_the_outlier_network_is_asked_about_the_lowest_scores_and_told_which_matches_are_right():
    first = view([[10.0, 10.0], [20.0, 20.0], [30.0, 20.0], [46.0, 30.0]], scores=[0.9, 0.2, 0.4, 0.1])
    second = view([[15.0, 8.0], [25.0, 18.0], [40.0, 30.0]])
    matches = correspond(first, second, SHIFT, 4.0)
    first, second = descriptors_of(first, second, [0, 1, 0, 2])
    oracle = Oracle(lambda asked: torch.tensor([[-1.0, 1.0]]))
    loss = outlier_loss(oracle, first, second, matches, 2, 4.0)
    # The third's nearest descriptor is of the first, 22 px away; the fourth, of the lowest score, is out of sight.
    assert loss == 0
    assert oracle.valid.all()
    expected = (torch.tensor([[20.0, 20.0], [30.0, 20.0]]) + 0.5) / torch.tensor([48.0, 40.0]) * 2 - 1
    torch.testing.assert_close(oracle.matches[0, :2].T, expected)
    wrong = Oracle(lambda asked: torch.tensor([[1.0, 1.0]]))
    assert outlier_loss(wrong, first, second, matches, 2, 4.0).item() == pytest.approx(4 / 2)


def test_the_outlier_networks_gradient_reaches_positions_and_descriptors():
    torch.manual_seed(0)
    points = (torch.rand(1, 6, 2) * 30 + 5).requires_grad_()
    first = view(torch.rand(6, 2))._replace(points=points)
    first.descriptor_map.requires_grad_()
    second = view(torch.rand(5, 2) * 30, seed=1)
    second.descriptor_map.requires_grad_()
    outlier_loss(OutlierNetwork(8), first, second, correspond(first, second, SHIFT, 4.0), 300, 4.0).backward()
    for reached in (points.grad, first.descriptor_map.grad, second.descriptor_map.grad):
        assert reached.isfinite().all()
        assert reached.abs().sum() > 0


def test_the_outlier_networks_error_agrees_with_finite_differences():
    torch.manual_seed(1)
    network = OutlierNetwork(4).double()
    valid = torch.tensor([[True, True, True, False]])
    matches = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)

    def judged(values):
        features = network.enter(values)
        return network.leave(features)[:, 0].tanh()[valid]

    assert torch.autograd.gradcheck(judged, matches)


@pytest.mark.parametrize('loss', ['triplet', 'info_nce'])
@pytest.mark.parametrize('visible', [True, False])
@pytest.mark.parametrize('homography', [torch.eye(3)[None], torch.tensor([[[1.0, 0, 999], [0, 1, 0], [0, 0, 1]]])])
def test_nothing_to_learn_from_gives_finite_losses_and_gradients(loss, visible, homography):
    """Constant pictures; no cell that counts; views that share nothing."""
    torch.manual_seed(0)
    network = KP2D(KP2DConfig((4,) * 8, 8, 8, outlier_width=4, detector_head='skip')).train()
    flat = torch.full((2, 1, 32, 40), 128, dtype=torch.uint8)
    losses = kp2d_losses(network, batch_of(flat, flat, homography, visible), KP2DTraining(descriptor_loss=loss))
    losses['total'].backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_under_autocast_only_the_network_is_in_half_precision():
    torch.manual_seed(0)
    network = KP2D(KP2DConfig((4,) * 8, 8, 8, dropout=0.0, outlier_width=4, detector_head='skip')).eval()
    pictures = torch.randint(0, 256, (2, 2, 1, 40, 48), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    assert_losses_ignore_autocast(kp2d_losses, network, batch, KP2DTraining())


def test_a_batchs_losses_are_the_mean_of_its_examples():
    torch.manual_seed(0)
    network = KP2D(KP2DConfig((4,) * 8, 8, 8, dropout=0.0, outlier_width=4, detector_head='skip')).eval()
    pictures = torch.randint(0, 256, (2, 2, 1, 40, 48), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    whole = kp2d_losses(network, batch, KP2DTraining())
    parts = [kp2d_losses(network, {k: v[i : i + 1] for k, v in batch.items()}, KP2DTraining()) for i in range(2)]
    for name, value in whole.items():
        assert value.item() == pytest.approx(np.mean([part[name].item() for part in parts]), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(('weight', 'name'), [('descriptor_weight', 'descriptor'), ('outlier_weight', 'outlier')])
def test_what_an_ablation_leaves_out_is_not_there(weight, name):
    network = KP2D(KP2DConfig((4,) * 8, 8, 8, outlier_width=4)).eval()
    pictures = torch.randint(0, 256, (2, 1, 1, 32, 40), dtype=torch.uint8)
    losses = kp2d_losses(network, batch_of(*pictures, TILT), KP2DTraining(**{weight: 0.0}))
    assert name not in losses
