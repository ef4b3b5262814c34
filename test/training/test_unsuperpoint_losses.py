"""UnsuperPoint's losses: by hand, against float64, least where they should be, and no refuge in answering 0."""

import numpy as np
import pytest
import torch
from pair_losses import assert_losses_ignore_autocast, batch_of
from test_points import SHIFT, TILT, view
from torch import nn
from torch.nn.functional import normalize

from superpoint_ros.networks import UnsuperPoint, UnsuperPointConfig
from superpoint_training.recipes.geometry import FAR
from superpoint_training.recipes.losses import location_loss, score_loss
from superpoint_training.recipes.points import correspond
from superpoint_training.recipes.unsuperpoint import (
    UnsuperPointTraining,
    decorrelation_loss,
    hinge_loss,
    uniform_loss,
    unsuperpoint_losses,
)

PAPER = UnsuperPointTraining()


def test_position_and_score_losses_by_hand():
    first = view([[10.0, 10.0], [20.0, 20.0]], scores=[0.9, 0.4])
    second = view([[15.0, 11.0], [25.0, 17.0]], scores=[0.5, 0.6])
    matches = correspond(first, second, SHIFT, 4.0)
    assert location_loss(matches.distances, matches.together).item() == pytest.approx((3 + 1) / 2)
    assert score_loss(first.scores, matches.of_other(second.scores), matches.together).item() == pytest.approx(
        (0.16 + 0.04) / 2
    )


def test_uniform_loss_by_hand_and_zero_for_a_shuffled_ramp():
    valid = torch.tensor([[True, True, True, False]])
    positions = torch.tensor([[[0.7, 0.5], [0.1, 0.0], [0.5, 1.0], [9.0, 9.0]]])
    x = (0.1**2 + 0 + 0.3**2) / 3  # 0.1, 0.5, 0.7 against 0, 0.5, 1
    assert uniform_loss(positions, valid).item() == pytest.approx(x, rel=1e-5)
    ramp = torch.linspace(0, 1, 50)
    shuffled = torch.stack([ramp[torch.randperm(50)], ramp[torch.randperm(50)]], dim=-1)[None]
    assert uniform_loss(shuffled, torch.ones(1, 50, dtype=torch.bool)) < 1e-10
    zero = uniform_loss(torch.zeros(1, 200, 2), torch.ones(1, 200, dtype=torch.bool))
    assert zero.item() == pytest.approx(2 / 3, abs=0.01)


def test_the_gradient_through_the_sort_agrees_with_finite_differences():
    positions = torch.rand(1, 6, 2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True, False, True, True, True]])
    assert torch.autograd.gradcheck(lambda p: uniform_loss(p, valid), positions)


def test_hinge_loss_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = normalize(torch.randn(2, 1, 6, 4, generator=generator), dim=-1)
    separation = torch.rand(1, 6, 6, generator=generator) * 20
    separation[0, :, 2] = FAR
    visible = torch.tensor([[True, True, False, True, True, True]])
    losses = []
    for i in range(6):
        for j in range(6):
            if visible[0, i] and j != 2:
                dot = float(first[0, i].double() @ second[0, j].double())
                near = separation[0, i, j] <= 8
                losses.append(250 * max(0, 1 - dot) if near else max(0, dot - 0.2))
    assert hinge_loss(first, second, separation, visible, PAPER).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_hinge_loss_is_zero_for_right_descriptors_only():
    basis = torch.eye(4)[None]
    separation = torch.full((1, 4, 4), 50.0)
    separation[0].fill_diagonal_(1.0)
    visible = torch.ones(1, 4, dtype=torch.bool)
    assert hinge_loss(basis, basis, separation, visible, PAPER) == 0
    equal = torch.ones_like(basis) / 2
    assert hinge_loss(basis, basis.roll(1, 1), separation, visible, PAPER) > 1
    assert hinge_loss(equal, equal, separation, visible, PAPER) > 0.5
    assert hinge_loss(torch.zeros_like(basis), torch.zeros_like(basis), separation, visible, PAPER) > 1


def test_decorrelation_loss_against_numpy():
    descriptors = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = []
    for one, counted in zip(descriptors, valid, strict=True):
        r = np.corrcoef(one[counted].double().numpy().T)
        expected.append((np.square(r).sum() - 5) / 20)
    assert decorrelation_loss(descriptors, valid).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_decorrelation_loss_is_one_for_equal_dimensions_and_zero_for_orthogonal_ones():
    valid = torch.ones(1, 4, dtype=torch.bool)
    same = torch.tensor([1.0, 2, 3, 5])[None, :, None].expand(1, 4, 3)
    assert decorrelation_loss(same, valid).item() == pytest.approx(1, rel=1e-5)
    orthogonal = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[None]
    assert decorrelation_loss(orthogonal, valid) == 0
    assert decorrelation_loss(torch.ones(1, 4, 3), valid) == 0
    assert decorrelation_loss(torch.randn(1, 4, 1), valid) == 0


class Given(nn.Module):
    """Answers what it was given, whatever the pictures."""

    descriptor_stride = 8

    def __init__(self, scores, offsets, descriptors):
        super().__init__()
        self.answer = scores, offsets, descriptors

    def forward(self, _):
        return self.answer


def test_the_all_zero_solution_is_worse_than_a_good_one():
    """A picture shifted by (3, 1): keypoints that move with it and score by it, against scores, positions and
    descriptors of 0. Each loss that keeps from 0 must say so on its own, and the total too."""
    torch.manual_seed(0)
    rows, columns = 8, 10
    spread = torch.rand(rows, columns, 2) * 7.9 - 3.95
    spread[..., 0] = spread[..., 0].clamp(max=0.9)  # so that most stay in their cells when shifted
    spread[..., 1] = spread[..., 1].clamp(max=2.9)
    offsets = torch.stack([spread, spread + torch.tensor([3.0, 1.0])])
    scores = torch.ones(2, rows, columns)
    lost = torch.rand(rows, columns) < 0.4  # keypoints found again elsewhere, which a good network rates low
    scores[:, lost] = 0
    offsets[1, lost] += torch.tensor([-2.0, -2.5])
    descriptors = torch.randn(rows * columns, 64).T.reshape(1, 64, rows, columns).expand(2, -1, -1, -1)
    blank = torch.zeros(2, 1, rows * 8, columns * 8, dtype=torch.uint8)
    homography = torch.tensor([[[1.0, 0, 3], [0, 1, 1], [0, 0, 1]]])
    batch = batch_of(blank[:1], blank[1:], homography)
    good = unsuperpoint_losses(Given(scores, offsets, descriptors), batch, PAPER)
    trivial = unsuperpoint_losses(
        Given(torch.zeros_like(scores), torch.zeros_like(offsets) - 4, torch.zeros_like(descriptors)), batch, PAPER
    )
    for name in ('total', 'position', 'point', 'uniform', 'descriptor'):
        assert good[name] < trivial[name], name
    assert trivial['point'] == trivial['score'] == 0


@pytest.mark.parametrize('loss', ['hinge', 'info_nce'])
@pytest.mark.parametrize('visible', [True, False])
@pytest.mark.parametrize('homography', [torch.eye(3)[None], torch.tensor([[[1.0, 0, 999], [0, 1, 0], [0, 0, 1]]])])
def test_nothing_to_learn_from_gives_finite_losses_and_gradients(loss, visible, homography):
    torch.manual_seed(0)
    network = UnsuperPoint(UnsuperPointConfig((4,) * 8, 8, 8, 'skip')).train()
    flat = torch.full((2, 1, 32, 40), 128, dtype=torch.uint8)
    config = UnsuperPointTraining(descriptor_loss=loss)
    losses = unsuperpoint_losses(network, batch_of(flat, flat, homography, visible), config)
    losses['total'].backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_single_visible_point_gives_finite_losses():
    network = UnsuperPoint(UnsuperPointConfig((4,) * 8, 8, 8)).eval()
    pictures = torch.randint(0, 256, (2, 1, 1, 32, 40), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT, visible=False)
    batch['valid_a'][0, 1, 1] = batch['valid_b'][0, 1, 1] = True
    assert all(value.isfinite() for value in unsuperpoint_losses(network, batch, PAPER).values())


def test_under_autocast_only_the_network_is_in_half_precision():
    torch.manual_seed(0)
    network = UnsuperPoint(UnsuperPointConfig((4,) * 8, 8, 8, 'skip')).eval()
    pictures = torch.randint(0, 256, (2, 2, 1, 40, 48), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    assert_losses_ignore_autocast(unsuperpoint_losses, network, batch, PAPER)


def test_a_batchs_losses_are_the_mean_of_its_examples():
    torch.manual_seed(0)
    network = UnsuperPoint(UnsuperPointConfig((4,) * 8, 8, 8, 'skip')).eval()
    pictures = torch.randint(0, 256, (2, 2, 1, 40, 48), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    whole = unsuperpoint_losses(network, batch, PAPER)
    parts = [unsuperpoint_losses(network, {k: v[i : i + 1] for k, v in batch.items()}, PAPER) for i in range(2)]
    for name, value in whole.items():
        assert value.item() == pytest.approx(np.mean([part[name].item() for part in parts]), rel=1e-4, abs=1e-6), name
