"""The commands `train` and `label`, on data small enough to train on in seconds."""

import re

import numpy as np
import pytest
import torch
from tiny import TINY, write_config

from superpoint_ros.networks import SuperPoint, load_network, save_network
from superpoint_training import label, train
from superpoint_training.distributed import pick_device
from superpoint_training.frames import Frames
from superpoint_training.labels import Labels


@pytest.mark.parametrize(('sigma', 'keypoints'), [(0, 10), (0.75, 4)])
def test_a_training_says_what_a_prediction_blind_to_the_picture_would_have(
    pictures, tmp_path, capsys, sigma, keypoints
):
    """With ten labels a picture, each a keypoint, or two in five."""
    points = np.column_stack([np.arange(10, 110, 10), np.full(10, 40), np.full(10, 0.4)])
    Labels(dict.fromkeys(Frames(pictures).names, points), {}).save(tmp_path / 'labels.npz')
    config = write_config(tmp_path / 'c.yaml', loop={'steps': 1, 'batch_size': 2, 'workers': 0})
    words = ['superpoint', '--config', config, '--frames', str(pictures), '--labels', str(tmp_path / 'labels.npz')]
    words += ['--out', str(tmp_path / 'w.safetensors'), '--set', 'pairs.size=64', f'pairs.label_sigma={sigma}']
    assert train.main([*words, '--device', 'cpu']) == 0
    said = float(re.search(r'has a detector loss of about ([\d.]+)', capsys.readouterr().out)[1])
    share = keypoints / (16 * 20)
    assert said == pytest.approx(-share * np.log(share / 64) - (1 - share) * np.log(1 - share), abs=1e-3)


def test_a_training_goes_without_the_pictures_that_can_not_be_read(pictures, tmp_path, capsys):
    """Be it the first."""
    labels = dict.fromkeys(Frames(pictures).names, np.full((3, 3), (40.0, 40.0, 1.0)))
    Labels(labels, {}).save(tmp_path / 'labels.npz')
    (pictures / '0.png').write_bytes(b'nothing of a picture')
    config = write_config(tmp_path / 'c.yaml', loop={'steps': 1, 'batch_size': 2, 'workers': 0}, pairs={'size': 64})
    words = ['superpoint', '--config', config, '--frames', str(pictures), '--labels', str(tmp_path / 'labels.npz')]
    assert train.main([*words, '--out', str(tmp_path / 'w.safetensors'), '--device', 'cpu']) == 0
    assert 'a detector loss of about' in capsys.readouterr().out


def test_magicpoint_learns_and_resumes_to_the_same_weights(tmp_path):
    """Stopped after any number of steps and called again, a run ends with exactly the weights of one never stopped."""
    loop = {'steps': 12, 'batch_size': 4, 'warm_up': 5, 'workers': 0, 'checkpoint_seconds': 0.0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    words = ['magicpoint', '--config', config, '--device', 'cpu']
    assert train.main([*words, '--out', str(tmp_path / 'whole.safetensors')]) == 0
    interrupted = [*words, '--out', str(tmp_path / 'parts.safetensors'), '--minutes', '0.0005']
    calls = 1
    while train.main(interrupted) == 3:
        calls += 1
    assert calls > 1
    assert train.main([*interrupted, '--set', 'seed=9']) == 1  # not the run that the checkpoint is of
    whole, parts = (load_network(tmp_path / f'{n}.safetensors').state_dict() for n in ('whole', 'parts'))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    fresh = SuperPoint(TINY).state_dict()
    assert any(not torch.equal(whole[n], fresh[n]) for n in whole)


def test_a_training_may_write_over_the_weights_that_it_began_with(tmp_path):
    """Which it does at its end, since until then it needs them to go on."""
    loop = {'steps': 8, 'batch_size': 4, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    start, out = tmp_path / 'start.safetensors', tmp_path / 'same.safetensors'
    save_network(SuperPoint(TINY), start, {})
    out.write_bytes(start.read_bytes())
    words = ['magicpoint', '--config', config, '--device', 'cpu']
    assert train.main([*words, '--from', str(start), '--out', str(tmp_path / 'other.safetensors')]) == 0
    stopped = [*words, '--from', str(out), '--out', str(out), '--minutes', '0']
    while (status := train.main(stopped)) == 3:
        assert out.read_bytes() == start.read_bytes()
    assert status == 0
    other, same = (load_network(tmp_path / f'{name}.safetensors').state_dict() for name in ('other', 'same'))
    assert all(torch.equal(other[name], same[name]) for name in other)


@pytest.mark.parametrize('loss', ['info_nce', 'dense_hinge'])
def test_label_then_joint_training_lowers_the_losses(pictures, tmp_path, loss, capsys):
    save_network(SuperPoint(TINY), tmp_path / 'start.safetensors', {})
    labels_config = tmp_path / 'labels.yaml'
    labels_config.write_text('views: 3\nthreshold: 0.001\nmin_views: 1')
    words = ['--config', str(labels_config), '--weights', str(tmp_path / 'start.safetensors')]
    words += ['--frames', str(pictures), '--device', 'cpu']
    labels_path = tmp_path / 'labels.npz'
    assert label.main([*words, '--out', str(labels_path), '--limit', '1']) == 0
    assert label.main([*words, '--out', str(labels_path)]) == 0
    assert len(Labels.load(labels_path)) == 4
    capsys.readouterr()
    assert label.main([*words, '--out', str(labels_path), '--limit', '2']) == 0
    assert 'labels.npz: 2 of 2 frames' in capsys.readouterr().out

    def detector_and_descriptor(steps):
        loop = {'steps': steps, 'batch_size': 2, 'workers': 0, 'warm_up': 2, 'learning_rate': 0.01}
        config = write_config(tmp_path / f'{steps}.yaml', loop=loop, pairs={'size': 64}, descriptor_loss=loss)
        out = tmp_path / f'{steps}.safetensors'
        joint = ['superpoint', '--config', config, '--frames', str(pictures), '--labels', str(labels_path)]
        assert (
            train.main([*joint, '--out', str(out), '--device', 'cpu', '--from', str(tmp_path / 'start.safetensors')])
            == 0
        )
        return dict(part.split() for part in load_network(out).metadata['losses'].split(', '))

    early, late = detector_and_descriptor(1), detector_and_descriptor(60)
    assert float(late['total']) < float(early['total'])
    assert 'tensors start from' in capsys.readouterr().out
    save_network(SuperPoint(TINY), tmp_path / 'start.safetensors', {})  # other weights under the same name
    with pytest.raises(AssertionError):
        detector_and_descriptor(60)
    assert "60.checkpoint' is from a run with other settings" in capsys.readouterr().err


def test_errors_are_said_not_thrown(tmp_path, pictures, capsys):
    config = write_config(tmp_path / 'c.yaml')
    out = ['--out', str(tmp_path / 'o.safetensors')]
    joint = ['superpoint', '--config', config, *out]
    assert train.main([*joint, '--frames', str(tmp_path / 'nowhere'), '--labels', 'none.npz']) == 1
    assert 'nowhere' in capsys.readouterr().err
    assert train.main([*joint, '--frames', str(pictures), '--labels', 'none.npz']) == 1
    assert 'none.npz' in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert train.main(['magicpoint', '--config', config, *out, '--device', 'cuda']) == 1
        assert 'CUDA' in capsys.readouterr().err


def test_a_folder_of_labels_that_can_not_be_made_is_said_before_any_work(tmp_path, pictures, capsys):
    (tmp_path / 'labels.yaml').write_text('views: 2')
    (tmp_path / 'file').write_text('')
    words = ['--config', str(tmp_path / 'labels.yaml'), '--weights', 'superpoint_small', '--frames', str(pictures)]
    assert label.main([*words, '--out', str(tmp_path / 'file' / 'labels.npz'), '--device', 'cpu']) == 1
    said = capsys.readouterr().err
    assert f"error: cannot write '{tmp_path / 'file' / 'labels.npz'}'" in said
    assert '/4' not in said  # the progress


def test_weights_that_could_not_be_written_are_missed_before_any_work(tmp_path, capsys):
    (tmp_path / 'w.safetensors').mkdir()
    loop = {'steps': 1, 'batch_size': 2, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    words = ['magicpoint', '--config', config, '--device', 'cpu', '--out', str(tmp_path / 'w.safetensors')]
    assert train.main(words) == 1
    assert f"cannot write '{tmp_path / 'w.safetensors'}': Is a directory" in capsys.readouterr().err
    assert not (tmp_path / 'w.checkpoint').exists()


def test_nothing_but_weights_and_labels_is_written_over(tmp_path, capsys):
    words = ['--config', 'c.yaml', '--out', str(tmp_path / 'README.md'), '--frames', 'x']
    for command, suffix in ((train.main, '.safetensors'), (label.main, '.npz')):
        with pytest.raises(SystemExit):
            command([*(['kp2d'] if command is train.main else ['--weights', 'w']), *words])
        assert f"--out must end in {suffix}, not '.md'" in capsys.readouterr().err


@pytest.mark.parametrize(('name', 'rank', 'number'), [
    ('auto', None, 0), ('cuda', None, 0), ('cuda:1', None, 1), ('auto', 1, 1), ('cuda', 3, 1), ('cuda:0', 1, 0),
])  # fmt: skip
def test_a_gpu_is_chosen_by_its_number(monkeypatch, name, rank, number):
    """PyTorch sets no device that has none."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    if rank is not None:
        monkeypatch.setenv('LOCAL_RANK', str(rank))
    assert pick_device(name) == torch.device('cuda', number)
    assert chosen == [torch.device('cuda', number)]
    with pytest.raises(ValueError, match=r'cuda:2.* sees 2 here'):
        pick_device('cuda:2')


def test_a_device_that_there_is_not_is_refused_by_name():
    for name in ('gpu', 'cuda0', 'mps'):
        with pytest.raises(ValueError, match=f"'cpu', 'cuda' or 'cuda:<number>', not '{name}'"):
            pick_device(name)
