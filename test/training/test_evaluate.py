"""The command: what it writes, that it writes the same again, and what it says of bad input."""

import json

import cv2
import numpy as np
import pytest

from superpoint_ros.features import Features
from superpoint_training.evaluate import main
from superpoint_training.evaluation.results import finite
from superpoint_training.evaluation.shapes_run import render, shapes_results
from superpoint_training.peers import NamedDetector, make_detector

SHIFT = np.array([[1, 0.02, 5], [-0.02, 1, 3], [0, 0, 1]])
MEANS = ('repeatability', 'localization_error', 'matching_score', 'matching_accuracy', 'nn_map', 'coverage')


def texture(seed=0, size=(320, 240)):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (24, 32), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def pairs(tmp_path):
    """Two scenes with two pairs each."""
    root = tmp_path / 'pairs'
    for index, name in enumerate(('i_dome', 'v_wall')):
        scene = root / name
        scene.mkdir(parents=True)
        cv2.imwrite(str(scene / '1.png'), texture(index))
        for k in (2, 3):
            cv2.imwrite(str(scene / f'{k}.png'), cv2.warpPerspective(texture(index), SHIFT, (320, 240)))
            np.savetxt(scene / f'H_1_{k}', SHIFT)
    return root


@pytest.fixture
def sequence(tmp_path):
    """A camera that moves along a plane of texture and looks at it, and a box before it."""
    root = tmp_path / 'corridor'
    root.mkdir()
    wall, box = texture(3, (640, 480)), texture(4, (90, 90))
    times, poses = [], []
    for index in range(6):
        frame = wall[100:340, 100 + 4 * index : 420 + 4 * index].copy()  # 4 m away at 160 px: 0.1 m a frame
        frame[70:160, 200 - 8 * index : 290 - 8 * index] = box  # 2 m away
        cv2.imwrite(str(root / f'{index}.png'), frame)
        times.append(f'{index} {index / 10:.3f} {index}.png')
        poses.append(f'{index / 10:.3f} {index / 10:.3f} 0 0 0 0 0 1')
    (root / 'timestamps.txt').write_text('\n'.join(times))
    (root / 'poses.txt').write_text('\n'.join(poses))
    (root / 'intrinsics.yaml').write_text(
        'image_width: 320\nimage_height: 240\ncamera_matrix: {data: [160, 0, 160, 0, 160, 120, 0, 0, 1]}\n'
        'distortion_model: plumb_bob\ndistortion_coefficients: {data: [0, 0, 0, 0, 0]}\n'
    )
    return root


def run(out, *arguments, status=0):
    """The results of a run that ends with this status."""
    assert main([*map(str, arguments), '--out', str(out)]) == status
    return json.loads((out / 'results.json').read_text())


def without_time(folder):
    text = (folder / 'results.json').read_text()
    return [line for line in text.splitlines() if '"created"' not in line]


def test_pairs(pairs, tmp_path, capsys):
    results = run(tmp_path / 'out', '--pairs', pairs, '--detectors', 'sift', 'orb', 'fast', '--protocol', 'kp2d-320')
    assert results['protocol'] == 'kp2d-320'
    assert results['protocol_settings']['keypoints'] == 300
    assert results['source'] == {'pairs': str(pairs), 'scenes': 2, 'pairs_count': 4}
    assert results['seed'] == 0
    assert results['skipped'] == []
    assert results['versions']['opencv'] == cv2.__version__
    assert results['command'].startswith('evaluate --pairs')
    sift = results['detectors']['sift']
    assert sift['pairs'] == 4
    assert all(0 <= sift[name] <= 3 for name in MEANS)
    assert sift['homography_accuracy'].keys() == {'1', '3', '5'}
    assert sift['homography_accuracy']['3'] == 1
    assert sift['splits']['illumination']['pairs'] == sift['splits']['viewpoint']['pairs'] == 2
    assert sift['per_pair'].keys() == {f'{scene} 1-{k}' for scene in ('i_dome', 'v_wall') for k in (2, 3)}
    assert len(sift['precision_recall']['recall']) == len(sift['precision_recall']['precision']) <= 101
    fast = results['detectors']['fast']
    assert fast['repeatability'] > 0
    assert fast['matching_score'] is None
    assert 'corner_error' not in fast['per_pair']['i_dome 1-2']
    assert 'sift' in capsys.readouterr().out
    for name in ('results.md', 'index.html', 'summary.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 100


def test_two_runs_are_identical_whether_cached_or_not(pairs, sequence, tmp_path, monkeypatch):
    inputs = ['--pairs', pairs, '--sequence', sequence, '--gaps', 1, 3, '--recording', sequence]
    arguments = [*inputs, '--detectors', 'superpoint_small', 'sift', 'orb', 'fast', '--jobs', 2, '--device', 'cpu']
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert main([*map(str, arguments), '--out', 'out']) == 0
    first, second = (without_time(tmp_path / name / 'out') for name in ('first', 'second'))
    assert first == second
    assert main([*map(str, arguments), '--out', 'out']) == 0
    assert without_time(tmp_path / 'second' / 'out') == first
    drawn = [(tmp_path / name / 'out' / 'summary.png').read_bytes() for name in ('first', 'second')]
    assert drawn[0] == drawn[1]


def test_a_changed_threshold_needs_no_new_predictions(pairs, tmp_path):
    cache = ['--cache', tmp_path / 'cache']
    first = run(tmp_path / 'out', '--pairs', pairs, '--detectors', 'sift', *cache)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'cache').rglob('*.npz')}
    assert len(kept) == 4  # of 2 x 3 pictures, 2 are seen twice
    changed = run(tmp_path / 'out', '--pairs', pairs, '--detectors', 'sift', *cache, '--set', 'correct_distance=0.2')
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'cache').rglob('*.npz')} == kept
    assert changed['protocol'] == 'kp2d-320, correct_distance 0.2'
    assert changed['protocol_settings']['correct_distance'] == 0.2
    assert changed['detectors']['sift']['repeatability'] < first['detectors']['sift']['repeatability']


def test_levels_reach_our_networks(pairs, tmp_path):
    arguments = ['--pairs', pairs, '--detectors', 'superpoint_small', '--device', 'cpu', '--levels', 2]
    results = run(tmp_path / 'out', *arguments, '--levels-per-octave', 3)
    description = results['detectors']['superpoint_small']['description']
    assert description.endswith(', 2 levels, 3 an octave')


def test_sequences_add_relative_poses(sequence, tmp_path):
    results = run(tmp_path / 'out', '--sequence', sequence, '--gaps', 3, 1, '--detectors', 'sift', 'fast')
    assert results['skipped'] == [{'what': 'fast', 'why': 'it has no descriptors, so there are no poses'}]
    poses = results['detectors']['sift']['relative_pose']['corridor']
    assert list(poses) == ['1', '3']
    assert poses['1']['pairs'] == 5
    assert poses['3']['pairs'] == 3
    for figures in poses.values():
        assert figures['auc'].keys() == {'5', '10', '20'}
        assert figures['auc']['20'] > 0.5
        assert figures['inliers'] > 50
        assert 0.5 < figures['inlier_ratio'] <= 1
        assert len(figures['per_pair']) == figures['pairs']
    assert 'relative_pose' not in results['detectors']['fast']
    assert results['protocol'] == 'relative-pose'
    assert results['protocol_settings']['keypoints'] == 1000
    page = (tmp_path / 'out' / 'index.html').read_text()
    assert 'relative-pose' in page
    assert 'kp2d-320' not in page


def test_the_protocol_of_pairs_is_not_that_of_poses(sequence, pairs, tmp_path, capsys):
    for option in (('--set', 'keypoints=50'), ('--protocol', 'kp2d-640')):
        with pytest.raises(SystemExit):
            main(['--sequence', str(sequence), *option, '--out', str(tmp_path / 'out')])
        assert 'a protocol of their own' in capsys.readouterr().err
    both = ['--sequence', sequence, '--gaps', 1, '--pairs', pairs, '--set', 'keypoints=50', '--detectors', 'sift']
    results = run(tmp_path / 'out', *both)
    assert (results['protocol_settings']['keypoints'], results['pose_protocol']['keypoints']) == (50, 1000)
    assert 'The poses of sequences' in (tmp_path / 'out' / 'index.html').read_text()


def test_two_sequences_of_one_name_are_refused(sequence, tmp_path, capsys):
    assert main(['--sequence', str(sequence), str(sequence), '--detectors', 'orb', '--out', str(tmp_path / 'out')]) == 1
    assert "two sequences are called 'corridor'" in capsys.readouterr().err


def test_recordings_add_agreement_and_tracks(sequence, tmp_path):
    results = run(tmp_path / 'out', '--recording', sequence, '--detectors', 'orb', '--frames', 4)
    orb = results['detectors']['orb']
    assert orb['self_consistency']['pairs'] == 4
    assert orb['self_consistency']['repeatability'] > 0.3
    assert orb['track_length']['frames'] == 4
    assert orb['track_length']['mean'] > 1
    assert results['source']['frames'] == 4


def test_bad_input_is_listed_and_the_rest_is_measured(pairs, tmp_path, capsys):
    (pairs / 'i_dome' / 'H_1_2').write_text('1 0 0 0 1 0 0 0')
    (pairs / 'v_wall' / '3.png').write_bytes(b'torn')
    arguments = ['--pairs', pairs, '--detectors', 'orb']
    results = run(tmp_path / 'out', *arguments)
    said = capsys.readouterr().err
    assert 'skipped: 2' in said
    assert 'i_dome/H_1_2: it holds 8 numbers, a homography has 9' in said
    assert 'v_wall 1-3' in said
    assert {entry['what'] for entry in results['skipped']} == {'i_dome/H_1_2', 'v_wall 1-3'}
    assert results['detectors']['orb']['pairs'] == 2
    run(tmp_path / 'out', *arguments, '--strict', status=3)


def test_strict_is_content_with_good_input(pairs, tmp_path):
    run(tmp_path / 'out', '--pairs', pairs, '--detectors', 'orb', '--strict')


def test_nothing_usable_is_an_error(pairs, tmp_path, capsys):
    for path in pairs.glob('*/H_1_*'):
        path.write_text('8 numbers')
    assert main(['--pairs', str(pairs), '--detectors', 'orb', '--out', str(tmp_path / 'out')]) == 1
    assert 'i_dome/H_1_2: it holds 2 numbers' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'results.json').exists()


@pytest.mark.parametrize(
    'arguments',
    [
        ['--pairs', 'absent'],
        ['--sequence', 'absent'],
        ['--recording', 'absent'],
        ['--shapes', '1', '--detectors', 'surf'],
        ['--pairs', '.', '--set', 'keypoints=none'],
        ['--compare', 'absent.json', 'absent.json'],
    ],
)
def test_errors_are_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, '--out', 'out']) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: ')
    assert said.count('\n') == 1


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['--pairs', 'x', '--shapes', '3'],
        ['--shapes', '0'],
        ['--pairs', 'x', '--jobs', '0'],
        ['--sequence', 'x', '--gaps', '0'],
        ['--pairs', 'x', '--protocol', 'mine'],
        ['--shapes', '3', '--protocol', 'kp2d-320'],
        ['--shapes', '3', '--set', 'keypoints=3'],
        ['--pairs', 'x', '--topic', '/image'],
        ['--pairs', 'x', '--frames', '3'],
        ['--recording', 'x', '--intrinsics', 'y'],
        ['--recording', 'x', '--gaps', '3'],
        ['--pairs', 'x', '--clean'],
        ['--pairs', 'x', '--levels', '0'],
    ],
)
def test_calls_that_make_no_sense_are_refused(arguments, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, '--out', str(tmp_path)])
    assert stopped.value.code == 2


def test_two_runs_are_compared(pairs, tmp_path, capsys):
    run(tmp_path / 'a', '--pairs', pairs, '--detectors', 'sift')
    run(tmp_path / 'b', '--pairs', pairs, '--detectors', 'orb')
    files = [str(tmp_path / name / 'results.json') for name in ('a', 'b')]
    assert main(['--compare', *files, '--out', str(tmp_path / 'c')]) == 0
    assert 'repeatability' in capsys.readouterr().out
    assert (tmp_path / 'c' / 'comparison.html').exists()
    (tmp_path / 'b' / 'results.json').write_text('[]')
    assert main(['--compare', *files, '--out', str(tmp_path / 'c')]) == 1
    assert 'is no results.json' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [[], ['--clean']])
def test_shapes(flags, tmp_path):
    results = run(tmp_path / 'out', '--shapes', 12, *flags, '--detectors', 'harris', 'shi-tomasi')
    assert results['protocol'] == ('synthetic-shapes' if flags else 'synthetic-shapes-noisy')
    for figures in results['detectors'].values():
        assert figures['pictures'] == 12
        assert 0 <= figures['mAP'] <= 1
        assert 0 <= figures['AP_all'] <= 1
        assert set(figures['AP']) == {'lines', 'polygon', 'polygons', 'star', 'checkerboard', 'stripes', 'cube'}
        assert figures['precision_recall']['recall'][0] == 0


def test_a_detector_that_finds_nothing_scores_nothing():
    found = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 8), np.float32))
    nothing = NamedDetector('nothing', 'finds nothing', 'key', lambda picture: found)
    (result,) = shapes_results(1, noisy=False, detectors={'nothing': nothing}).values()
    assert result['mAP'] == 0
    assert result['precision_recall'] == {'recall': [], 'precision': []}


@pytest.mark.parametrize('name', ['harris', 'shi-tomasi'])
def test_corners_of_a_picture_turned_by_half_are_the_turned_corners(name):
    picture = np.zeros((80, 100), np.uint8)
    picture[20:51, 30:61] = 200
    detector = make_detector(name)
    corners, turned = (detector(each).keypoints for each in (picture, np.ascontiguousarray(picture[::-1, ::-1])))
    assert {tuple(point) for point in corners} == {(99 - x, 79 - y) for x, y in turned}


def test_noise_makes_shapes_harder():
    detectors = {name: make_detector(name) for name in ('fast', 'harris', 'shi-tomasi')}
    clean, noisy = (shapes_results(45, noise, detectors) for noise in (False, True))
    for name in detectors:
        assert clean[name]['mAP'] > noisy[name]['mAP']
        assert clean[name]['mAP'] > clean[name]['AP_all']  # false alarms on pictures without corners


def test_shapes_are_the_same_every_time():
    first, again = render(5, True), render(5, True)
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.corners, again.corners)
    assert (render(5, False).picture != first.picture).any()


def test_what_is_not_finite_becomes_null():
    value = {'a': [1.0, float('nan'), (float('inf'), 2)], 'b': {'c': -float('inf'), 'd': 'nan', 'e': None, 'f': True}}
    assert finite(value) == {'a': [1.0, None, [None, 2]], 'b': {'c': None, 'd': 'nan', 'e': None, 'f': True}}


def test_a_sequence_tells_nothing_of_detectors_without_descriptors(tmp_path, sequence, capsys):
    assert main(['--sequence', str(sequence), '--detectors', 'fast', '--out', str(tmp_path / 'out')]) == 1
    assert 'none of the detectors has descriptors' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'results.json').exists()
