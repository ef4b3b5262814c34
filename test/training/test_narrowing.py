"""Shorter descriptors: which values are kept, against least squares, and what the network then says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY, write_config

from superpoint_ros.networks import SuperPoint, load_network, save_network
from superpoint_training import train
from superpoint_training.frames import Frames
from superpoint_training.labels import Labels
from superpoint_training.narrowing import narrow, telling_values


def unpredicted(descriptors, kept, value):
    """What is left of the variance of a value once the kept ones, and a constant, have told what they can."""
    known = np.column_stack([np.ones(len(descriptors)), descriptors[:, kept]])
    told = known @ np.linalg.lstsq(known, descriptors[:, value], rcond=None)[0]
    return float(((descriptors[:, value] - told) ** 2).sum())


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_each_value_is_the_one_that_those_before_predict_least(seed, count):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    kept = telling_values(descriptors, count)
    assert len(set(kept)) == count
    for turn, value in enumerate(kept):
        left = [unpredicted(descriptors, kept[:turn], other) for other in range(6)]
        assert left[value] == pytest.approx(max(left))


def test_what_others_tell_is_not_kept_as_long_as_there_is_more():
    rng = np.random.default_rng(0)
    first, second, third = rng.normal(size=(3, 100, 1))
    descriptors = np.hstack([3 * first, 6 * first, first + second, 0 * first, second - 2 * first, 0.01 * third])
    assert set(telling_values(descriptors, 3)) in ({1, 2, 5}, {1, 4, 5})
    assert sorted(telling_values(descriptors, 6)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize('turning', [False, True])
def test_all_else_stays(pictures, turning):
    torch.manual_seed(0)
    network = SuperPoint(replace(TINY, turning=turning, widths=(8,) * 8, head_width=8)).eval()
    narrowed = narrow(network, 3, Frames(pictures)).eval()
    image = torch.rand(1, 1, 64, 48)
    with torch.no_grad():
        logits, descriptors = network(image)
        fewer_logits, fewer = narrowed(image)
    assert torch.equal(logits, fewer_logits)
    assert narrowed.config.descriptor_dim == fewer.shape[1] == 3
    for value in fewer[0]:
        assert any(torch.allclose(value, of_all, atol=1e-6) for of_all in descriptors[0])


def test_pictures_that_can_not_be_looked_at_choose_nothing(pictures):
    network = SuperPoint(replace(TINY, widths=(8,) * 8, head_width=8)).eval()
    expected = narrow(network, 3, Frames(pictures)).state_dict()
    (pictures / '00.png').write_bytes(b'nothing of a picture')
    cv2.imwrite(str(pictures / '01.png'), np.zeros((7, 70), np.uint8))
    narrowed = narrow(network, 3, Frames(pictures)).state_dict()
    assert all(torch.equal(narrowed[name], expected[name]) for name in expected)
    for index in range(4):
        (pictures / f'{index}.png').unlink()
    with pytest.raises(ValueError, match=r"none of the 2 pictures, of which '00\.png' is the first, can be read"):
        narrow(network, 3, Frames(pictures))


def test_training_of_shorter_descriptors_begins_with_those_values(pictures, tmp_path, capsys):
    torch.manual_seed(0)
    start = SuperPoint(TINY).eval()
    save_network(start, tmp_path / 'start.safetensors', {})
    labels = Labels({name: np.full((3, 3), (40.0, 40.0, 1.0)) for name in Frames(pictures).names}, {})
    labels.save(tmp_path / 'labels.npz')
    config = write_config(tmp_path / 'c.yaml', loop={'steps': 1, 'batch_size': 2, 'workers': 0, 'learning_rate': 0.0})
    words = ['superpoint', '--config', config, '--frames', str(pictures), '--labels', str(tmp_path / 'labels.npz')]
    words += ['--from', str(tmp_path / 'start.safetensors'), '--device', 'cpu']
    out = tmp_path / 'out.safetensors'
    words += ['--out', str(out), '--set', 'network.descriptor_dim=5', 'pairs.size=64']
    assert train.main(words) == 0
    printed = capsys.readouterr().out
    assert f'with 5 of {TINY.descriptor_dim} values of its descriptors' in printed
    expected = narrow(load_network(tmp_path / 'start.safetensors', fold=False), 5, Frames(pictures))
    trained = load_network(out, fold=False)
    torch.testing.assert_close(trained.descriptor[1].weight, expected.descriptor[1].weight, rtol=1e-3, atol=1e-4)
    assert train.main([*words, 'loop.steps=2']) == 0  # goes on from its checkpoint, and has no need to choose again
    assert 'start from' not in capsys.readouterr().out
