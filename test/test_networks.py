"""Networks: shapes, exact folding of BatchNorm, sampling convention, weights on disk."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate

from superpoint_ros.networks import (
    GoodPointConfig,
    SuperPoint,
    SuperPointConfig,
    WeightsError,
    fold_batch_norm,
    load_network,
    sample_at,
    save_network,
    score_map,
    shipped_weights,
)

TINY = SuperPointConfig((4, 4, 6, 6, 8, 8, 8, 8), 10, 12, 'skip', 'batch')


def trained_looking(config: SuperPointConfig) -> SuperPoint:
    """Random weights and, unlike a fresh network's, random BatchNorm statistics."""
    torch.manual_seed(0)
    network = SuperPoint(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


@pytest.mark.parametrize('head', ['plain', 'skip'])
@pytest.mark.parametrize('norm', ['none', 'batch', 'batch_below_full'])
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('first_stride', [1, 2])
def test_outputs_have_the_promised_shapes(head, norm, kernel, first_stride):
    config = SuperPointConfig((4, 4, 6, 6, 8, 8, 8, 8), 10, 12, head, norm, kernel, first_stride=first_stride)
    network = SuperPoint(config).eval()
    logits, descriptors = network(torch.rand(2, 1, 24, 40))
    assert logits.shape == (2, 65, 3, 5)
    assert descriptors.shape == (2, 12, 3, 5)
    assert score_map(logits).shape == (2, 24, 40)


@pytest.mark.parametrize('setting', [{'turning': True}, {'first_stride': 2}])
def test_goodpoint_refuses_what_it_does_not_have(setting):
    with pytest.raises(ValueError, match='goodpoint'):
        GoodPointConfig((8,) * 8, 8, 12, **setting)


@pytest.mark.parametrize(
    'settings', [{'first_stride': 3}, {'skip_kernel': 2}, {'detector_head': 'bold'}, {'widths': (8,)}]
)
def test_a_network_that_cannot_be_is_refused_by_what_is_wrong(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SuperPointConfig(**settings)


@pytest.mark.parametrize('head', ['plain', 'skip'])
@pytest.mark.parametrize('norm', ['batch', 'batch_below_full'])
def test_folding_batch_norm_is_exact(head, norm):
    network = trained_looking(SuperPointConfig((8, 8, 8, 8, 16, 16, 16, 16), 16, 16, head, norm))
    image = torch.rand(1, 1, 64, 80)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for expected, actual in zip(network(image), folded(image), strict=True):
        assert (expected - actual).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_folding_leaves_the_original_alone():
    network = trained_looking(TINY)
    image = torch.rand(1, 1, 16, 16)
    before = network(image)[0]
    fold_batch_norm(network)
    assert torch.equal(network(image)[0], before)


def test_score_map_puts_each_channel_at_its_pixel():
    logits = torch.full((1, 65, 2, 3), -20.0)
    logits[0, 64] = 0
    row, column, cell_row, cell_column = 5, 2, 1, 2
    logits[0, row * 8 + column, cell_row, cell_column] = 20
    scores = score_map(logits)[0]
    assert scores[cell_row * 8 + row, cell_column * 8 + column] > 0.99
    assert scores.sum() < 1.01


def test_skip_logits_are_aligned_with_their_pixels():
    """A bright pixel moves the full-resolution logit of that very pixel most."""
    network = SuperPoint(replace(TINY, norm='none')).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    first, second = network.encoder[0][0][0], network.encoder[0][1][0]
    for convolution in (first, second, network.skips[0]):
        convolution.weight.data[0, 0, 1, 1] = 1
    image = torch.zeros(1, 1, 32, 24)
    image[0, 0, 19, 13] = 1
    logits = network(image)[0]
    moved = score_map(logits)[0]
    assert divmod(int(moved.argmax()), 24) == (19, 13)


def test_sampling_a_linear_ramp_is_exact_between_cell_centres():
    """The map holds the x and y of each cell's centre; sampling at a pixel must give that pixel back."""
    stride, rows, columns = 8, 5, 7
    y, x = np.mgrid[:rows, :columns]
    ramp = torch.tensor(np.stack([x, y]), dtype=torch.float32)[None]
    ramp = (ramp + 0.5) * stride - 0.5
    rng = np.random.default_rng(0)
    points = torch.tensor(rng.uniform(3.5, [columns * stride - 4.5, rows * stride - 4.5], (50, 2)), dtype=torch.float32)
    torch.testing.assert_close(sample_at(ramp, points[None], stride)[0], points, rtol=0, atol=1e-4)


def test_sampling_agrees_with_upsampling_at_whole_pixels():
    features = torch.rand(1, 3, 4, 6)
    dense = interpolate(features, scale_factor=8, mode='bilinear', align_corners=False)
    points = torch.tensor([[[0.0, 0.0], [47.0, 31.0], [13.0, 22.0]]])
    sampled = sample_at(features, points, 8)[0]
    for (x, y), values in zip(points[0].long().tolist(), sampled, strict=True):
        torch.testing.assert_close(values, dense[0, :, y, x], rtol=0, atol=1e-5)


def test_weights_survive_the_disk(tmp_path):
    network = trained_looking(TINY)
    save_network(network, tmp_path / 'w.safetensors', {'recipe': 'test'})
    loaded = load_network(tmp_path / 'w.safetensors', fold=False)
    image = torch.rand(1, 1, 16, 24)
    assert loaded.config == TINY
    assert loaded.metadata['recipe'] == 'test'
    torch.testing.assert_close(loaded(image)[0], network(image)[0], rtol=2e-2, atol=2e-2)


def test_paper_layout_checkpoint_loads(tmp_path):
    """A checkpoint named conv1a ... convDb computes the same as convolutions written out by hand."""
    widths = (4, 4, 6, 6, 8, 8, 8, 8)
    torch.manual_seed(1)
    names = [f'conv{level}{letter}' for level in range(1, 5) for letter in 'ab']
    shapes = list(zip((1, *widths), widths, strict=False))
    state = {}
    for name, (fan_in, fan_out), size in [
        *[(n, s, 3) for n, s in zip(names, shapes, strict=True)],
        ('convPa', (8, 10), 3), ('convPb', (10, 65), 1), ('convDa', (8, 10), 3), ('convDb', (10, 12), 1),
    ]:  # fmt: skip
        state[f'{name}.weight'] = torch.randn(fan_out, fan_in, size, size) * 0.3
        state[f'{name}.bias'] = torch.randn(fan_out) * 0.1
    torch.save(state, tmp_path / 'foreign.pth')
    logits, descriptors = load_network(tmp_path / 'foreign.pth')(image := torch.rand(1, 1, 16, 16))

    def conv(x, name):
        weight = state[f'{name}.weight']
        return nn.functional.conv2d(x, weight, state[f'{name}.bias'], padding=weight.shape[-1] // 2)

    features = image
    for name in names:
        features = conv(features, name).relu()
        if name in ('conv1b', 'conv2b', 'conv3b'):
            features = nn.functional.max_pool2d(features, 2)
    torch.testing.assert_close(logits, conv(conv(features, 'convPa').relu(), 'convPb'))
    torch.testing.assert_close(descriptors, conv(conv(features, 'convDa').relu(), 'convDb'))


def test_missing_weights_name_the_shipped_ones():
    with pytest.raises(WeightsError, match='superpoint_small'):
        load_network('no_such_weights')


def test_truncated_weights_are_refused(tmp_path):
    path = tmp_path / 'w.safetensors'
    save_network(SuperPoint(TINY), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match='cut short'):
        load_network(path)


class Bomb:
    def __reduce__(self):
        return (print, ('unpickled!',))


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
def test_a_pickle_is_never_run(tmp_path, suffix, capsys):
    path = tmp_path / f'evil{suffix}'
    path.write_bytes(pickle.dumps({'state_dict': Bomb()}))
    with pytest.raises(WeightsError):
        load_network(path)
    torch.save({'state_dict': Bomb()}, path)
    with pytest.raises(WeightsError):
        load_network(path)
    assert 'unpickled' not in capsys.readouterr().out


def test_a_checkpoint_of_another_network_or_of_nothing_is_refused(tmp_path):
    names = [f'conv{level}{letter}' for level in range(1, 5) for letter in 'ab'] + ['convPa', 'convDb']
    for state in ({}, {'conv1a.weight': torch.zeros(3)}, {f'{name}.weight': torch.zeros(0) for name in names}):
        torch.save(state, tmp_path / 'w.pth')
        with pytest.raises(WeightsError, match='layout'):
            load_network(tmp_path / 'w.pth')


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({}, 'does not describe'),
        ({'architecture': 'something', 'config': '{}'}, 'does not describe'),
        ({'architecture': 'superpoint', 'config': '{"widths": [1, 2]}'}, 'eight'),
        ({'architecture': 'superpoint', 'config': '{"depth": 3}'}, 'does not describe'),
        ({'architecture': 'superpoint', 'config': 'not json'}, 'does not describe'),
    ],
)
def test_strange_metadata_is_refused(tmp_path, metadata, message):
    save_file({'x': torch.zeros(1)}, tmp_path / 'w.safetensors', metadata=metadata)
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / 'w.safetensors')


def test_nan_weights_are_refused(tmp_path):
    path = tmp_path / 'w.safetensors'
    save_network(SuperPoint(TINY), path, {})
    state = load_file(path)
    state['detector.1.bias'][0] = float('nan')
    config = {'widths': TINY.widths, 'head_width': 10, 'descriptor_dim': 12, 'detector_head': 'skip', 'norm': 'batch'}
    save_file(state, path, metadata={'architecture': 'superpoint', 'config': json.dumps(config)})
    with pytest.raises(WeightsError, match='NaN'):
        load_network(path)


def test_shipped_weights_fit_their_sizes():
    parameters = {}
    for name in ('superpoint', 'superpoint_small'):
        assert name in shipped_weights()
        network = load_network(name)
        parameters[name] = sum(p.numel() for p in network.parameters())
        assert network.metadata['recipe'] == 'superpoint'
        assert network.metadata['schedule']
    assert parameters['superpoint_small'] <= 400_000
    assert parameters['superpoint_small'] < parameters['superpoint']


def test_saved_weights_are_readable_by_whom_other_files_are(tmp_path):
    """A front-end may run as another user than the training did."""
    before = os.umask(0o022)
    try:
        save_network(SuperPoint(TINY), tmp_path / 'mine.safetensors', {})
    finally:
        os.umask(before)
    assert (tmp_path / 'mine.safetensors').stat().st_mode & 0o777 == 0o644
