"""Networks that turn with the picture: by brute force, by turning pictures, on every way of running them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import photograph
from torch import nn
from torch.nn.functional import batch_norm, conv2d

from superpoint_ros.detector import Detector
from superpoint_ros.matching import mutual_nearest
from superpoint_ros.networks import (
    SuperPoint,
    SuperPointConfig,
    fold_batch_norm,
    load_network,
    save_network,
    score_map,
)
from superpoint_ros.networks.turning import StrongestTurning, TurningConv2d, TurningNorm, TurningPixels
from superpoint_ros.photographs import photographs

CONFIG = SuperPointConfig((4, 8, 8, 12, 12, 16, 16, 16), 16, 24, 'skip', 'batch_below_full', turning=True)


def turned(image: torch.Tensor, turns: int) -> torch.Tensor:
    return torch.rot90(image, turns, (-2, -1))


def trained_looking(config: SuperPointConfig, seed: int = 0) -> SuperPoint:
    torch.manual_seed(seed)
    network = SuperPoint(config).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 1, 32, 48))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


@pytest.mark.parametrize(('in_channels', 'kernel'), [(1, 3), (4, 1), (8, 3)])
def test_each_block_of_channels_has_the_filters_in_its_orientation(in_channels, kernel):
    torch.manual_seed(0)
    convolution = TurningConv2d(in_channels, 12, kernel)
    features = torch.rand(1, in_channels, 6, 7)
    filters, biases, blocks = convolution.weight, convolution.bias, max(1, in_channels // 4)
    answer = convolution(features)
    for turns in range(4):
        for number in range(3):
            expected = biases[number] + torch.zeros(6, 7)
            for channel in range(in_channels):
                orientation, kind = divmod(channel, blocks)
                # A filter that looks for orientation o, turned by t, looks for it where it was o + t before.
                looked_for = (orientation - turns) % 4 * blocks + kind if in_channels > 1 else 0
                filter_ = turned(filters[number, looked_for], turns)
                expected = expected + conv2d(features[:, [channel]], filter_[None, None], padding='same')[0, 0]
            torch.testing.assert_close(answer[0, turns * 3 + number], expected)


@given(
    seed=st.integers(0, 100),
    turns=st.integers(1, 3),
    head=st.sampled_from(['plain', 'skip']),
    norm=st.sampled_from(['none', 'batch', 'batch_below_full']),
    kernel=st.sampled_from([1, 3]),
    first_stride=st.sampled_from([1, 2]),
    training=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_turned_picture_gives_turned_answers(seed, turns, head, norm, kernel, first_stride, training):
    config = replace(CONFIG, detector_head=head, norm=norm, skip_kernel=kernel, first_stride=first_stride)
    network = trained_looking(config, seed).train(training)
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        logits, descriptors = network(image)
        turned_logits, turned_descriptors = network(turned(image, turns))
    assert logits[:, :64].std() > 0
    torch.testing.assert_close(score_map(turned_logits), turned(score_map(logits), turns), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(turned_descriptors, turned(descriptors, turns), rtol=1e-3, atol=1e-4)


def test_a_network_that_does_not_turn_gives_others():
    network = trained_looking(replace(CONFIG, turning=False))
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        assert not torch.allclose(network(turned(image, 1))[1], turned(network(image)[1], 1), atol=1e-3)


@pytest.mark.parametrize('side', [1, 2, 4, 8])
@pytest.mark.parametrize('rest', [False, True])
def test_pixels_come_in_raster_order(side, rest):
    torch.manual_seed(0)
    convolution = TurningPixels(8, side, 1, rest=rest)
    features = torch.rand(1, 8, 3, 5)
    answer = convolution(features)
    assert answer.shape == (1, side**2 + rest * (side > 1), 3, 5)
    # Turning a picture moves the blocks of its oriented map on by one.
    moved = convolution(turned(features, 1).roll(2, dims=1))
    cells = answer[0, : side**2].reshape(side, side, 3, 5)
    expected = torch.rot90(torch.rot90(cells, 1, (0, 1)), 1, (2, 3)).reshape(side**2, 5, 3)
    torch.testing.assert_close(moved[0, : side**2], expected)


def test_all_orientations_are_normalised_together():
    torch.manual_seed(0)
    features = torch.rand(2, 12, 5, 7) * torch.arange(1, 13)[:, None, None]
    norm = TurningNorm(3).train()
    orientations = features.chunk(4, dim=1)
    expected = batch_norm(torch.cat(orientations), None, None, training=True).chunk(4)
    torch.testing.assert_close(norm(features), torch.cat(expected, dim=1), rtol=1e-3, atol=1e-4)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(last), norm(features))


@pytest.mark.parametrize('kernel', [1, 3])
def test_the_strongest_of_four_orientations(kernel):
    torch.manual_seed(0)
    convolution = StrongestTurning(8, 3, kernel)
    every = TurningConv2d(8, 12, kernel)
    every.load_state_dict(convolution.state_dict())
    features = torch.rand(2, 8, 5, 6)
    answers = every(features).detach()
    expected = np.max([answers[:, 3 * turns : 3 * turns + 3].numpy() for turns in range(4)], axis=0)
    np.testing.assert_array_equal(convolution(features).detach(), expected)
    torch.testing.assert_close(convolution.written_out()(features), torch.from_numpy(expected))


@pytest.mark.parametrize('head', ['plain', 'skip'])
@pytest.mark.parametrize('norm', ['none', 'batch', 'batch_below_full'])
@pytest.mark.parametrize('first_stride', [1, 2])
def test_written_out_it_is_made_of_plain_layers_that_compute_the_same(head, norm, first_stride):
    network = trained_looking(replace(CONFIG, detector_head=head, norm=norm, first_stride=first_stride))
    plain = fold_batch_norm(network)
    kinds = {type(module) for module in plain.modules()}
    assert not kinds & {TurningConv2d, TurningPixels, TurningNorm, nn.BatchNorm2d}
    image = torch.rand(1, 1, 40, 64)
    for expected, actual in zip(network(image), plain(image), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_weights_on_disk_are_the_filters_alone(tmp_path):
    network = trained_looking(CONFIG)
    save_network(network, tmp_path / 'turning.safetensors', {})
    save_network(trained_looking(replace(CONFIG, turning=False)), tmp_path / 'not.safetensors', {})
    assert (tmp_path / 'turning.safetensors').stat().st_size < (tmp_path / 'not.safetensors').stat().st_size / 2
    again = load_network(tmp_path / 'turning.safetensors', fold=False)
    assert again.config == CONFIG
    for expected, actual in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize('engine', ['torch', 'openvino'])
def test_the_detector_finds_the_same_in_a_turned_picture(engine, tmp_path):
    if engine == 'openvino':
        pytest.importorskip('openvino')
    save_network(trained_looking(CONFIG), tmp_path / 'turning.safetensors', {})
    detector = Detector.load(
        tmp_path / 'turning.safetensors', engine=engine, precision='float32', detection_threshold=0.0, levels=1
    )
    image = photograph(96, 128)
    upright, turned_ = detector.detect(image), detector.detect(np.ascontiguousarray(np.rot90(image)))
    assert len(upright) == len(turned_) > 50
    x, y = upright.keypoints.T
    expected = np.stack([y, image.shape[1] - 1 - x], axis=1)
    distances = np.linalg.norm(expected[:, None] - turned_.keypoints[None], axis=2)
    nearest = distances.argmin(axis=1)
    assert np.mean(distances.min(axis=1) < 0.1) > 0.95
    same = np.sum(upright.descriptors * turned_.descriptors[nearest], axis=1)
    assert np.mean(same > 0.999) > 0.95


@pytest.mark.parametrize('wrong', [{'widths': (4, 4, 6, 6, 8, 8, 8, 8)}, {'head_width': 10}])
def test_channels_that_have_no_four_orientations_are_refused(wrong):
    with pytest.raises(ValueError, match='multiples of 4, got'):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize('channels', [1, 8])
def test_maps_of_a_picture_stay_channels_last(channels):
    """Channels first, each following layer would bring them into the other order first, forth and back."""
    picture = torch.zeros(2, channels, 16, 24).contiguous(memory_format=torch.channels_last)
    assert TurningConv2d(channels, 8, 3)(picture).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('name', ['superpoint', 'superpoint_small'])
@pytest.mark.parametrize('degrees', [40, 90, 155])
def test_shipped_weights_find_a_turned_picture_again(name, degrees):
    detector = Detector.load(name, 'cpu', engine='torch', max_keypoints=300)
    right, matches = 0, 0
    for path in photographs()[:4]:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        upright = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)
        turn = cv2.getRotationMatrix2D((159.5, 119.5), degrees, 1.0)
        features, others = detector.detect(upright), detector.detect(cv2.warpAffine(upright, turn, (320, 240)))
        query, train = mutual_nearest(features.descriptors @ others.descriptors.T, -1.0)
        moved = features.keypoints[query] @ turn[:, :2].T + turn[:, 2]
        shown = ((moved > 0) & (moved < [319, 239])).all(axis=1)
        error = np.linalg.norm(moved - others.keypoints[train], axis=1)[shown]
        right, matches = right + np.count_nonzero(error < 3), matches + len(error)
    assert right > 0.7 * matches
