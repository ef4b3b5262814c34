"""GoodPoint's targets and losses: by hand, by loops in float64, least where they should be, and its variance test."""

import numpy as np
import pytest
import torch
from pair_losses import assert_losses_ignore_autocast, batch_of
from test_points import SHIFT, TILT
from torch.nn.functional import normalize

from superpoint_ros.networks import GoodPoint, GoodPointConfig
from superpoint_training.examples import PairsConfig
from superpoint_training.photometric import CHANGES, PhotometricConfig, augment
from superpoint_training.recipes.geometry import blur, gaussian, look_up, warp
from superpoint_training.recipes.goodpoint import (
    GoodPointTraining,
    agree,
    cell_maxima,
    goodpoint_losses,
    heatmap_loss,
    keypoint_loss,
    three_part_loss,
)

SIZE = (64, 96)
EVERYWHERE = torch.ones(1, *SIZE, dtype=torch.bool)


def test_cell_maxima_equal_those_of_a_loop():
    heatmap = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(0))
    points = cell_maxima(heatmap, 16)
    for b in range(2):
        expected = []
        for top in (0, 16):
            for left in (0, 16, 32):
                y, x = np.unravel_index(int(heatmap[b, top : top + 16, left : left + 16].argmax()), (16, 16))
                expected.append([left + x, top + y])
        assert points[b].tolist() == expected


def test_looking_up_takes_the_pixel_a_point_lies_in():
    values = torch.arange(12.0).reshape(1, 3, 4)
    points = torch.tensor([[[1.4, 0.6], [2.6, 2.0], [-3.0, 9.0]]])
    assert look_up(values, points).tolist() == [[5.0, 11.0, 8.0]]


def agreement_of(points, others, pairs, homography=SHIFT, valid=EVERYWHERE, radius=4.0):
    """Keypoints whose nearest descriptors are as in `pairs`."""
    basis = torch.eye(8)
    points, others = (torch.tensor(each, dtype=torch.float32)[None] for each in (points, others))
    return agree(
        points, others, basis[torch.tensor(pairs)][None], basis[: others.shape[1]][None], homography, valid,
        EVERYWHERE, radius,
    )  # fmt: skip


def test_views_agree_where_position_and_descriptor_do():
    points = [[10.0, 10.0], [30.0, 20.0], [50.0, 40.0], [94.0, 60.0], [70.0, 30.0]]
    others = [[16.0, 8.0], [35.0, 19.0], [55.0, 44.0], [75.0, 28.0]]
    # By descriptor: the second takes the first's partner; the third is 6 px off; the fourth leaves the picture.
    found = agreement_of(points, others, [0, 0, 2, 1, 3])
    assert found.agreed[0].tolist() == [True, False, False, False, True]
    assert found.visible[0].tolist() == [True, True, True, False, True]
    torch.testing.assert_close(found.other_targets[0, 0], torch.tensor([15.5, 8.0]))  # halfway between 15 and 16
    torch.testing.assert_close(found.targets[0, 0], torch.tensor([10.5, 10.0]))
    assert found.separation[0, 1].item() == pytest.approx(np.hypot(35 - 16, 18 - 8))


def test_targets_of_both_views_are_one_point_of_the_picture():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 30, 2, generator=generator) * torch.tensor([80.0, 50.0])
    others, described = torch.rand(1, 40, 2, generator=generator) * 60, torch.randn(2, 1, 40, 4, generator=generator)
    found = agree(points, others, described[0][:, :30], described[1], TILT, EVERYWHERE, EVERYWHERE, 1e9)
    torch.testing.assert_close(warp(found.targets, TILT), found.other_targets, atol=1e-3, rtol=1e-4)


def test_nothing_is_agreed_on_where_a_picture_is_not():
    nowhere = torch.zeros_like(EVERYWHERE)
    assert not agreement_of([[10.0, 10.0]], [[15.0, 8.0]], [0], valid=nowhere).agreed.any()


def test_keypoint_loss_by_hand():
    heatmap = torch.full((1, *SIZE), 0.01)
    heatmap[0, 8, 10], heatmap[0, 20, 30] = 1.0, 0.25
    targets = torch.tensor([[[10.2, 7.8], [30.0, 20.0], [40.0, 40.0], [200.0, 5.0]]])
    agreed = torch.tensor([[True, True, False, True]])  # the last lies outside and can't be learned
    expected = -0.5 * (np.log(1.0) + np.log(0.25)) / 2
    assert keypoint_loss(heatmap, targets, agreed).item() == pytest.approx(expected, abs=1e-5)
    assert keypoint_loss(heatmap, targets, agreed & False) == 0


def test_a_blur_keeps_the_sum_and_equals_float64():
    heatmap = torch.zeros(1, 21, 21)
    heatmap[0, 10, 10] = 2
    blurred = blur(heatmap, gaussian(1.5, heatmap) / gaussian(1.5, heatmap).sum())
    assert blurred.sum().item() == pytest.approx(2, rel=1e-5)
    steps = np.arange(-4, 5)
    profile = np.exp(-(steps**2) / (2 * 1.5**2))
    profile /= profile.sum()
    np.testing.assert_allclose(blurred[0, 6:15, 6:15].numpy(), 2 * np.outer(profile, profile), atol=1e-6)


def test_heatmap_loss_is_zero_for_a_detector_that_moves_with_the_picture():
    heatmap = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0))
    moved = torch.zeros_like(heatmap)
    moved[:, : SIZE[0] - 2, 5:] = heatmap[:, 2:, : SIZE[1] - 5]
    valid = EVERYWHERE.clone()
    valid[:, :10] = valid[:, -10:] = valid[:, :, :10] = valid[:, :, -10:] = False  # where blurs see the border
    assert heatmap_loss(heatmap, moved, SHIFT, valid, EVERYWHERE, 1.0) < 1e-10
    assert heatmap_loss(heatmap, heatmap, SHIFT, valid, EVERYWHERE, 1.0) > 1e-4


def test_heatmap_loss_against_a_loop():
    first, second = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    valid, other_valid = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(2)) < 0.8
    profile = gaussian(1.0, first) / gaussian(1.0, first).sum()
    a, b = (blur(each, profile)[0].double().numpy() for each in (first, second))
    errors = []
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            u, v, w = TILT[0].double().numpy() @ [x, y, 1]
            u, v = u / w, v / w
            if valid[0, y, x] and 0 <= u <= SIZE[1] - 1 and 0 <= v <= SIZE[0] - 1:
                column, row = round(u), round(v)
                if other_valid[0, row, column]:
                    errors.append((a[y, x] - b[row, column]) ** 2)
    assert heatmap_loss(first, second, TILT, valid, other_valid, 1.0).item() == pytest.approx(np.mean(errors), rel=1e-3)


def test_three_part_loss_by_hand():
    found = agreement_of([[10.0, 10.0], [30.0, 20.0]], [[16.0, 8.0], [35.0, 19.0]], [0, 0])
    own = normalize(torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), dim=-1)
    other = normalize(torch.tensor([[[0.8, 0.6], [0.0, 1.0]]]), dim=-1)
    strangers = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]])
    # Correct: the first, g = 0.8. Wrong: the second with the first's partner, g = 0.96. Random: 0 and -0.8.
    loss = three_part_loss(own, other, strangers, found, 7.0)
    assert loss.item() == pytest.approx(0.2 + 0.96 + 0, rel=1e-5)


def test_three_part_loss_is_zero_for_a_perfect_descriptor():
    found = agreement_of([[10.0, 10.0], [30.0, 20.0]], [[16.0, 8.0], [35.0, 19.0]], [0, 1])
    basis = torch.eye(4)
    assert three_part_loss(basis[None, :2], basis[None, :2], basis[None, 2:], found, 7.0) == 0


@pytest.mark.parametrize('loss', ['three_part', 'info_nce'])
@pytest.mark.parametrize('visible', [True, False])
@pytest.mark.parametrize('homography', [torch.eye(3)[None], torch.tensor([[[1.0, 0, 999], [0, 1, 0], [0, 0, 1]]])])
def test_nothing_to_learn_from_gives_finite_losses_and_gradients(loss, visible, homography):
    torch.manual_seed(0)
    network = GoodPoint(GoodPointConfig((4,) * 8, 8, 8, 'skip')).train()
    flat = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    config = GoodPointTraining(descriptor_loss=loss, pairs=PairsConfig(size=64))
    losses = goodpoint_losses(network, batch_of(flat, flat, homography, visible), config)
    losses['total'].backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_under_autocast_only_the_network_is_in_half_precision():
    torch.manual_seed(0)
    network = GoodPoint(GoodPointConfig((4,) * 8, 8, 8, 'skip')).eval()
    pictures = torch.randint(0, 256, (2, 2, 1, 64, 64), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    assert_losses_ignore_autocast(goodpoint_losses, network, batch, GoodPointTraining(pairs=PairsConfig(size=64)))


@pytest.mark.parametrize(('cell', 'other_cell'), [(32, 16), (16, 32), (16, 16)])
def test_squares_of_any_two_sizes_give_every_keypoint_a_stranger(cell, other_cell):
    network = GoodPoint(GoodPointConfig((4,) * 8, 8, 8, 'skip')).eval()
    config = GoodPointTraining(pairs=PairsConfig(size=64), cell=cell, other_cell=other_cell)
    batch = batch_of(*torch.randint(0, 256, (2, 1, 1, 64, 64), dtype=torch.uint8), SHIFT)
    assert goodpoint_losses(network, batch, config)['descriptor'].isfinite()


def test_a_batchs_losses_are_the_mean_of_its_examples():
    torch.manual_seed(0)
    network = GoodPoint(GoodPointConfig((4,) * 8, 8, 8, 'skip')).eval()
    config = GoodPointTraining(pairs=PairsConfig(size=64))
    pictures = torch.randint(0, 256, (2, 2, 1, 64, 64), dtype=torch.uint8)
    batch = batch_of(*pictures, TILT)
    whole = goodpoint_losses(network, batch, config)
    parts = [goodpoint_losses(network, {k: v[i : i + 1] for k, v in batch.items()}, config) for i in range(2)]
    for name, value in whole.items():
        assert value.item() == pytest.approx(np.mean([part[name].item() for part in parts]), rel=1e-4, abs=1e-6), name


def test_crops_that_the_squares_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='multiple of cell'):
        GoodPointTraining(pairs=PairsConfig(size=144))


def test_there_are_six_noise_filters():
    assert len(CHANGES) == 6


def test_a_filter_that_leaves_too_little_variance_is_not_applied():
    """Brightness saturates nearly all of a bright picture; contrast alone halves the spread, a quarter of the
    variance, which is enough."""
    picture = np.random.default_rng(0).integers(200, 256, (64, 64)).astype(np.uint8)
    saturating = PhotometricConfig(5000, (1, 1), 0, 0, (0, 0), 0, 1.0)
    assert augment(np.random.default_rng(1), picture, saturating).var() == 0
    tested = PhotometricConfig(5000, (1, 1), 0, 0, (0, 0), 0, 1.0, least_variance=0.1)
    np.testing.assert_array_equal(augment(np.random.default_rng(1), picture, tested), picture)
    halved = PhotometricConfig(0, (0.5, 0.5), 0, 0, (0, 0), 0, 1.0, least_variance=0.1)
    assert augment(np.random.default_rng(1), picture, halved).var() == pytest.approx(picture.var() / 4, rel=0.05)
    flattened = PhotometricConfig(0, (0.2, 0.2), 0, 0, (0, 0), 0, 1.0, least_variance=0.1)
    np.testing.assert_array_equal(augment(np.random.default_rng(1), picture, flattened), picture)
