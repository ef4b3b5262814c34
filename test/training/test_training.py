"""Configuration, frames, labels, the loop and the commands, on data small enough to train on in seconds."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from superpoint_ros.networks import SuperPoint, SuperPointConfig, load_network, save_network
from superpoint_training import label, loop, publish, route, train
from superpoint_training.config import ConfigError, load_config
from superpoint_training.examples import PairExamples, PairsConfig, ShapeExamples, ShapesConfig, cell_targets
from superpoint_training.frames import Frames
from superpoint_training.homographies import HomographyConfig, inside, warp_points
from superpoint_training.labels import LabelConfig, Labels, adapt
from superpoint_training.loop import LoopConfig, learning_rate
from superpoint_training.recipes.superpoint import JointConfig, MagicPointConfig

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'
TINY = SuperPointConfig((4, 4, 4, 4, 8, 8, 8, 8), 8, 8, 'skip', 'batch')
TINY_YAML = {
    'network': {'widths': [4, 4, 4, 4, 8, 8, 8, 8], 'head_width': 8, 'descriptor_dim': 8, 'detector_head': 'skip'}
}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        blocks = rng.integers(0, 256, (16, 20), dtype=np.uint8)
        picture = cv2.resize(blocks, (160, 128), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    return folder


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        (MagicPointConfig, 'magicpoint'),
        (LabelConfig, 'labels'),
        (JointConfig, 'teacher'),
        (JointConfig, 'superpoint'),
        (JointConfig, 'superpoint_small'),
    ],
)
def test_shipped_configurations_load(kind, name):
    load_config(kind, CONFIGS / f'{name}.yaml')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('lop: {steps: 3}', 'unknown key lop'),
        ('loop: {step: 3}', 'unknown key step'),
        ('loop: {steps: many}', 'expected int'),
        ('loop: {steps: 0}', 'at least 1'),
        ('loop: 3', 'expected a mapping'),
        ('network: {widths: [1, 2]}', 'eight'),
        ('shapes: {photometric: {contrast: 1}}', 'expected a list'),
        ('loop: [', 'cannot read'),
    ],
)
def test_wrong_configurations_are_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / 'c.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(MagicPointConfig, path)


def test_overrides_reach_nested_keys(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('seed: 4')
    config = load_config(MagicPointConfig, path, ['loop.steps=7', 'network.detector_head=skip'])
    assert (config.seed, config.loop.steps, config.network.detector_head) == (4, 7, 'skip')
    with pytest.raises(ConfigError, match='unknown key stops'):
        load_config(MagicPointConfig, path, ['loop.stops=7'])


def test_frames_come_from_folders_and_tars_alike(pictures, tmp_path):
    with tarfile.open(tmp_path / 'shard.tar', 'w') as archive:
        for path in sorted(pictures.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    loose, packed = Frames(pictures), Frames(tmp_path / 'shard.tar')
    assert len(loose) == len(packed) == 4
    assert all((loose[i] == packed[i]).all() for i in range(4))
    assert len(Frames(pictures, limit=2)) == 2


def test_frames_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match='no pictures'):
        Frames(tmp_path)
    (tmp_path / 'broken.jpg').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match=r'broken\.jpg'):
        Frames(tmp_path)[0]


def test_cell_targets_against_brute_force():
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(-5, [45, 29], (40, 2))
    targets = cell_targets(np.random.default_rng(1), keypoints, 24, 40)
    pixels = {tuple(np.round(k).astype(int)) for k in keypoints if inside(np.round(k)[None], 24, 40)[0]}
    for row in range(3):
        for column in range(5):
            here = {(y - 8 * row) * 8 + x - 8 * column for x, y in pixels if y // 8 == row and x // 8 == column}
            assert targets[row, column] in (here or {64})


def test_ties_in_a_cell_are_broken_by_lot():
    keypoints = np.array([[1.0, 1.0], [5.0, 6.0]])
    drawn = {int(cell_targets(np.random.default_rng(s), keypoints, 8, 8)[0, 0]) for s in range(40)}
    assert drawn == {1 * 8 + 1, 6 * 8 + 5}


def test_examples_depend_on_seed_and_number_alone(pictures):
    frames = Frames(pictures)
    labels = Labels({name: np.array([[30.0, 40], [80, 60]], np.float32) for name in frames.names}, {})
    for dataset in (ShapeExamples(ShapesConfig(), 3), PairExamples(frames, labels, PairsConfig(size=64), 3)):
        first, again, other = dataset[5], dataset[5], dataset[6]
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)


def test_pairs_show_their_points_at_the_same_texture(pictures):
    """Patches around corresponding points correlate: pictures, points and homographies tell one story."""
    frames = Frames(pictures)
    labels = Labels({name: np.zeros((0, 2), np.float32) for name in frames.names}, {})
    gentle = HomographyConfig((0.95, 1.05), 0.05, 0.0, 0.02)
    still = PairsConfig().photometric.__class__(probability=0.0)
    dataset = PairExamples(frames, labels, PairsConfig(96, gentle, gentle, still, 50, 1.0), 0)
    correlations = []
    for index in range(8):
        example = dataset[index]
        a, b = (example[f'image_{v}'][0].numpy() for v in 'ab')
        points = zip(example['points_a'], example['points_b'], example['points_valid'], strict=True)
        for p, q, valid in points:
            if valid and min(p.min(), q.min()) > 8 and max(p.max(), q.max()) < 87:
                patches = [cv2.getRectSubPix(im, (11, 11), tuple(map(float, r))).ravel() for im, r in ((a, p), (b, q))]
                if min(np.std(patch) for patch in patches) > 10:
                    correlations.append(np.corrcoef(*patches)[0, 1])
    assert len(correlations) > 100
    assert np.median(correlations) > 0.95


def test_pair_labels_move_with_the_view(pictures):
    frames = Frames(pictures)
    keypoints = np.array([[70.0, 60], [90, 70], [60, 40]], np.float32)
    labels = Labels(dict.fromkeys(frames.names, keypoints), {})
    still = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.0)
    shifted = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.05)
    example = PairExamples(frames, labels, PairsConfig(96, still, shifted, points=10), 0)[0]
    inset = keypoints - [(160 - 96) / 2, (128 - 96) / 2]
    cells = example['cells_a'].numpy()
    for x, y in inset.astype(int):
        assert cells[y // 8, x // 8] == y % 8 * 8 + x % 8
    assert (cells < 64).sum() == 3
    assert (example['cells_b'] < 64).sum() >= 2


class CornerCounter(torch.nn.Module):
    """Stands for a detector: says 'keypoint' at each cell's brightest pixel when it is bright."""

    metadata: dict = {}  # noqa: RUF012

    def forward(self, image):
        per_pixel = torch.nn.functional.pixel_unshuffle(image.float(), 8)
        dustbin = torch.full_like(per_pixel[:, :1], 0.5)
        return torch.cat([per_pixel, dustbin], dim=1) * 40, None


def test_adaptation_averages_where_views_see_and_finds_the_dot():
    frame = np.zeros((64, 96), np.uint8)
    cv2.circle(frame, (50, 30), 2, 255, -1)
    config = LabelConfig(views=24, homographies=HomographyConfig((0.9, 1.1), 0.3, 0.05, 0.05), min_views=3)
    heat = adapt(CornerCounter(), frame, np.random.default_rng(0), config, torch.device('cpu'))
    assert heat.shape == frame.shape
    assert np.isfinite(heat).all()
    assert (heat >= 0).all()
    assert heat.max() <= 1
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert np.hypot(x - 50, y - 30) <= 2
    single = adapt(CornerCounter(), frame, np.random.default_rng(0), LabelConfig(views=1), torch.device('cpu'))
    assert single[30, 50] > 0.01
    assert single[5, 5] < 1e-3


def test_adaptation_un_warps_exactly():
    """With one view besides the identity, the score is the mean over both, sampled where the view shows the pixel."""
    frame = np.random.default_rng(1).integers(0, 256, (40, 48), dtype=np.uint8)
    config = LabelConfig(views=2, homographies=HomographyConfig((1, 1), 0.0, 0.0, 0.2), erosion=0, min_views=1)
    rng = np.random.default_rng(5)
    heat = adapt(CornerCounter(), frame, rng, config, torch.device('cpu'))
    from superpoint_ros.networks import score_map
    from superpoint_training.homographies import sample_homography

    homography = sample_homography(np.random.default_rng(5), 40, 48, config.homographies)
    view = cv2.warpPerspective(frame, homography, (48, 40))
    detector = CornerCounter()
    plain, seen = (score_map(detector(torch.from_numpy(i)[None, None] / 255)[0])[0].numpy() for i in (frame, view))
    for y, x in ((20, 24), (15, 30), (25, 20)):
        u, v = warp_points(np.array([[x, y]], float), homography)[0]
        u0, v0 = int(np.floor(u)), int(np.floor(v))
        fu, fv = u - u0, v - v0
        sampled = sum(
            seen[v0 + j, u0 + i] * (fu if i else 1 - fu) * (fv if j else 1 - fv) for i in (0, 1) for j in (0, 1)
        )
        assert heat[y, x] == pytest.approx((plain[y, x] + sampled) / 2, abs=0.02)


def test_labels_survive_the_disk(tmp_path):
    labels = Labels({'a': np.array([[1, 2], [3, 4]], np.float32), 'b': np.zeros((0, 2), np.float32)}, {'n': 1})
    labels.save(tmp_path / 'l.npz')
    loaded = Labels.load(tmp_path / 'l.npz')
    assert loaded.about == {'n': 1}
    assert list(loaded.by_name) == ['a', 'b']
    np.testing.assert_array_equal(loaded.by_name['a'], [[1, 2], [3, 4]])
    assert loaded.by_name['b'].shape == (0, 2)
    (tmp_path / 'l.npz').write_bytes(b'junk')
    with pytest.raises(ValueError, match='not a labels file'):
        Labels.load(tmp_path / 'l.npz')


def test_learning_rate_rises_then_falls_to_nothing():
    config = LoopConfig(steps=100, warm_up=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def write_config(path: Path, **extra) -> str:
    path.write_text(yaml.safe_dump(TINY_YAML | extra))
    return str(path)


def test_magicpoint_learns_and_resumes_to_the_same_weights(tmp_path):
    """Stopped after any number of steps and called again, a run ends with exactly the weights of one never stopped."""
    loop = {'steps': 30, 'batch_size': 4, 'warm_up': 5, 'workers': 0, 'checkpoint_seconds': 0.0}
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
    fresh = train.build_network(TINY, 0, None)
    assert any(not torch.equal(whole[n], fresh.state_dict()[n]) for n in whole if n in fresh.state_dict())


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

    def detector_and_descriptor(steps):
        loop = {'steps': steps, 'batch_size': 2, 'workers': 0, 'warm_up': 2, 'learning_rate': 0.01}
        config = write_config(tmp_path / f'{steps}.yaml', loop=loop, pairs={'size': 64}, descriptor_loss=loss)
        out = tmp_path / f'{steps}.safetensors'
        joint = ['joint', '--config', config, '--frames', str(pictures), '--labels', str(labels_path)]
        assert (
            train.main([*joint, '--out', str(out), '--device', 'cpu', '--start', str(tmp_path / 'start.safetensors')])
            == 0
        )
        return dict(part.split() for part in load_network(out).metadata['losses'].split(', '))

    early, late = detector_and_descriptor(1), detector_and_descriptor(60)
    assert float(late['total']) < float(early['total'])
    assert 'tensors start from' in capsys.readouterr().out


def test_a_loss_that_stays_infinite_ends_the_run(tmp_path):
    def infinite(network, batch):
        return {'total': network(batch['x']).sum() * torch.inf}

    network, config = torch.nn.Linear(1, 1).to(memory_format=torch.preserve_format), LoopConfig(steps=500)
    batches = lambda first, last: iter([{'x': torch.ones(1, 1)}] * (last - first))  # noqa: E731
    with pytest.raises(FloatingPointError, match='up to step 100'):
        loop.train(network, batches, infinite, config, tmp_path / 'c', device=torch.device('cpu'))


def test_errors_are_said_not_thrown(tmp_path, pictures, capsys):
    config = write_config(tmp_path / 'c.yaml')
    out = ['--out', str(tmp_path / 'o.safetensors')]
    joint = ['joint', '--config', config, *out]
    assert train.main([*joint, '--frames', str(tmp_path / 'nowhere'), '--labels', 'none.npz']) == 1
    assert 'nowhere' in capsys.readouterr().err
    assert train.main([*joint, '--frames', str(pictures), '--labels', 'none.npz']) == 1
    assert 'none.npz' in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert train.main(['magicpoint', '--config', config, *out, '--device', 'cuda']) == 1
        assert 'CUDA' in capsys.readouterr().err


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    loop = {'steps': 100000, 'batch_size': 2, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    out = tmp_path / 'w.safetensors'
    command = [sys.executable, '-m', 'superpoint_training.train', 'magicpoint', '--config', config, '--out', str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while process.stderr.read(1) not in ('', ']'):
        pass  # until the progress bar is up
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert out.exists()
    assert torch.load(out.with_suffix('.checkpoint'), weights_only=True)['step'] >= 1


def test_route_runs_its_stages_in_order_and_goes_on(tmp_path, pictures, capsys):
    """The whole route on tiny configurations, in pieces, from nothing to both networks."""
    configs = tmp_path / 'configs'
    configs.mkdir()
    loop = {'steps': 3, 'batch_size': 2, 'workers': 0}
    write_config(configs / 'magicpoint.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    (configs / 'labels.yaml').write_text('views: 2\nthreshold: 0.0001\nmin_views: 1')
    for name in ('teacher', 'superpoint', 'superpoint_small'):
        write_config(configs / f'{name}.yaml', loop=loop, pairs={'size': 64})
    words = ['--frames', str(pictures), '--runs', str(tmp_path / 'runs'), '--configs', str(configs), '--device', 'cpu']
    assert route.main([*words, '--until', 'labels_1.npz']) == 0
    assert not (tmp_path / 'runs' / 'teacher.safetensors').exists()
    assert route.main([*words, '--minutes', '0.0']) == 3
    assert route.main(words) == 0
    write_config(configs / 'teacher.yaml', loop=loop, pairs={'size': 72})
    assert route.main(words) == 1
    assert 'teacher' in capsys.readouterr().err
    for name in ('superpoint', 'superpoint_small'):
        assert load_network(tmp_path / 'runs' / f'{name}.safetensors').metadata['recipe'] == 'joint'


def test_publish_writes_weights_and_a_card_with_their_figures(tmp_path):
    loop = {'steps': 2, 'batch_size': 2, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    weights, package = tmp_path / 'mine.safetensors', tmp_path / 'package'
    package.mkdir()
    assert train.main(['magicpoint', '--config', config, '--out', str(weights), '--device', 'cpu']) == 0
    figures = {str(weights): {'mAP': 0.625, 'AP_all': 0.5}, 'fast': {'mAP': 0.25, 'AP_all': 0.125}}
    (tmp_path / 'results.json').write_text(json.dumps({'protocol': 'synthetic-shapes', 'detectors': figures}))
    words = [str(weights), '--results', str(tmp_path / 'results.json'), '--data', 'shapes; no terms']
    assert publish.main([*words, '--folder', str(package)]) == 0
    card = (package / 'mine.md').read_text()
    assert '| mine | 0.625 | 0.500 |' in card
    assert 'shapes; no terms' in card
    assert '2 steps of 2' in card
    assert load_network(package / 'mine.safetensors').metadata['data_terms'] == 'shapes; no terms'
    assert publish.main(['nowhere.safetensors', '--data', 'x', '--folder', str(package)]) == 1
