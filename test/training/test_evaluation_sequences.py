"""Sequences with poses, in the layouts people download, and what is wrong with them."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from superpoint_ros.recordings.pictures import nanoseconds
from superpoint_training.evaluation.cameras import read_camera, tum_camera
from superpoint_training.evaluation.layouts import open_sequence
from superpoint_training.evaluation.problems import spans
from superpoint_training.evaluation.relative_pose import relative
from superpoint_training.evaluation.sequences import frame_pairs
from superpoint_training.evaluation.trajectories import Trajectory, read_tum, rotation_matrix

START = 1403715273262142976
STEP = 50_000_000


def picture(index):
    rng = np.random.default_rng(index)
    return cv2.resize(rng.integers(0, 256, (12, 16), dtype=np.uint8), (160, 120))


def encoded(index, suffix='.png'):
    return cv2.imencode(suffix, picture(index))[1].tobytes()


def quaternion(degrees):
    """About y, x y z w."""
    half = np.radians(degrees) / 2
    return np.array([0, np.sin(half), 0, np.cos(half)])


def pose_of(index):
    """Where the camera is at frame number `index`: it turns by 2 degrees and moves by 0.1 m a frame."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix(quaternion(2 * index))
    pose[:3, 3] = [0.1 * index, 0, 1]
    return pose


def tum_line(seconds, index):
    values = [0.1 * index, 0, 1, *quaternion(2 * index)]
    return f'{seconds:.6f} ' + ' '.join(f'{value:.9f}' for value in values)


def write_plain(root, count=6, archive=True, posed=None):
    root.mkdir()
    names = [f'{index:06d}.png' for index in range(count)]
    if archive:
        with tarfile.open(root / 'frames.tar', 'w') as tar:
            for index, name in enumerate(names):
                member = tarfile.TarInfo(f'left/{name}')
                member.size = len(encoded(index))
                tar.addfile(member, io.BytesIO(encoded(index)))
    else:
        (root / 'left').mkdir()
        for index, name in enumerate(names):
            (root / 'left' / name).write_bytes(encoded(index))
    rows = [f'{i} {i * 0.1:.6f} left/{name} right/{name}' for i, name in enumerate(names)]
    (root / 'timestamps.txt').write_text('# frame timestamp_s left right\n' + '\n'.join(rows) + '\n')
    posed = range(count) if posed is None else posed
    (root / 'poses.txt').write_text('# pose\n' + '\n'.join(tum_line(i * 0.1, i) for i in posed) + '\n')
    camera = {'width': 160, 'height': 120, 'fx': 100.0, 'fy': 101.0, 'cx': 80.0, 'cy': 60.0,
              'distortion_model': 'none (rectified)', 'distortion': [0, 0, 0, 0]}  # fmt: skip
    (root / 'intrinsics.yaml').write_text(yaml.safe_dump({'cameras': [camera]}))
    return root


def write_tum(root, count=6):
    """As downloaded: colour at 30 Hz, truth at 100 Hz, at times of their own."""
    (root / 'rgb').mkdir(parents=True)
    stamps = [1305031102.175304 + index / 30 for index in range(count)]
    for index, stamp in enumerate(stamps):
        (root / 'rgb' / f'{stamp:.6f}.png').write_bytes(encoded(index))
    head = '# color images\n# file: x.bag\n# timestamp filename\n'
    (root / 'rgb.txt').write_text(head + ''.join(f'{stamp:.6f} rgb/{stamp:.6f}.png\n' for stamp in stamps))
    truth = [stamps[0] - 0.013 + 0.01 * k for k in range(int(100 * count / 30) + 4)]
    lines = [tum_line(time, (time - stamps[0]) * 30) for time in truth]
    (root / 'groundtruth.txt').write_text('# ground truth trajectory\n' + '\n'.join(lines) + '\n')
    return root


def write_euroc(root, count=6):
    cam, states = root / 'mav0' / 'cam0', root / 'mav0' / 'state_groundtruth_estimate0'
    (cam / 'data').mkdir(parents=True)
    states.mkdir()
    stamps = [START + index * STEP for index in range(count)]
    for index, stamp in enumerate(stamps):
        (cam / 'data' / f'{stamp}.png').write_bytes(encoded(index))
    rows = [f'{stamp},{stamp}.png' for stamp in stamps]
    (cam / 'data.csv').write_text('#timestamp [ns],filename\r\n' + '\r\n'.join(rows) + '\r\n')
    body_to_camera = np.eye(4)
    body_to_camera[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    body_to_camera[:3, 3] = [0.2, 0.1, 0]
    flat = ', '.join(str(float(value)) for value in body_to_camera.ravel())
    (cam / 'sensor.yaml').write_text(
        '# General sensor definitions.\nsensor_type: camera\n'
        f'T_BS:\n  cols: 4\n  rows: 4\n  data: [{flat}]\n'
        'rate_hz: 20\nresolution: [160, 120]\ncamera_model: pinhole\n'
        'intrinsics: [100.0, 101.0, 80.0, 60.0] #fu, fv, cu, cv\n'
        'distortion_model: radial-tangential\ndistortion_coefficients: [-0.28, 0.07, 0.0002, 1.7e-05]\n'
    )
    lines = ['#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], v']
    for k in range(-2, 10 * count):
        x, y, z, w = quaternion(0.2 * k)
        lines.append(
            f'{START + k * STEP // 10},{0.01 * k:.9f},0,1,{w:.12f},{x:.12f},{y:.12f},{z:.12f},0,0,0,0,0,0,0,0,0'
        )
    (states / 'data.csv').write_text('\n'.join(lines) + '\n')
    return root, body_to_camera


@pytest.mark.parametrize('archive', [True, False])
def test_the_plain_layout(archive, tmp_path):
    frames = open_sequence(write_plain(tmp_path / 'street', archive=archive))
    assert frames.name == 'street'
    assert len(frames) == 6
    assert frames.stamps.tolist() == [index * 100_000_000 for index in range(6)]
    for index in range(6):
        np.testing.assert_allclose(frames.poses[index], pose_of(index), atol=1e-6)
        np.testing.assert_array_equal(frames.pictures[frames.names[index]], picture(index))
    assert frames.camera.focal == 100.5
    assert frames.camera.model == 'none'


def test_nanoseconds_are_taken_where_they_are_given(tmp_path):
    root = write_plain(tmp_path / 'room')
    times = [f'{i} {(START + i * STEP) / 1e9:.3f} {START + i * STEP} left/{i:06d}.png' for i in range(6)]
    (root / 'timestamps.txt').write_text('# frame timestamp_s timestamp_ns left\n' + '\n'.join(times))
    assert open_sequence(root).stamps.tolist() == [START + i * STEP for i in range(6)]


@pytest.mark.parametrize('line', ['{i} {time} {name}', '{time} {name}'])
def test_without_a_heading_the_time_stands_before_the_picture(line, tmp_path):
    root = write_plain(tmp_path / 'room')
    lines = [line.format(i=i, time=f'{i * 0.5:.3f}', name=f'left/{i:06d}.png') for i in range(6)]
    (root / 'timestamps.txt').write_text('\n'.join(lines))
    assert open_sequence(root).stamps.tolist() == [i * 500_000_000 for i in range(6)]


def test_a_calibration_of_another_size_is_said(tmp_path):
    root = write_plain(tmp_path / 'street', 3)
    calibration = yaml.safe_load((root / 'intrinsics.yaml').read_text())
    calibration['cameras'][0] |= {'width': 320, 'height': 240}
    (root / 'intrinsics.yaml').write_text(yaml.safe_dump(calibration))
    pairs, skipped = frame_pairs(open_sequence(root), [1], 100)
    assert pairs.starts == {}
    assert {each.why for each in skipped} == {'it is 160x120, and the calibration is of 320x240'}


def test_tum_as_downloaded(tmp_path):
    frames = open_sequence(write_tum(tmp_path / 'rgbd_dataset_freiburg1_desk'))
    assert len(frames) == 6
    assert frames.stamps[0] == 1305031102175304000
    for index in range(6):
        np.testing.assert_allclose(frames.poses[index], pose_of(index), atol=2e-5)  # interpolated
    np.testing.assert_array_equal(frames.pictures[frames.names[3]], picture(3))
    assert frames.camera.K[0, 0] == 517.3
    assert frames.camera.model == 'plumb_bob'


def test_a_link_to_tum_is_called_what_the_link_is(tmp_path, monkeypatch):
    (tmp_path / 'rgbd_dataset_freiburg1_xyz').symlink_to(write_tum(tmp_path / 'disk' / '0001'))
    monkeypatch.chdir(tmp_path / 'disk')
    for root in (tmp_path / 'rgbd_dataset_freiburg1_xyz', Path('../rgbd_dataset_freiburg1_xyz')):
        frames = open_sequence(root)
        assert frames.name == 'rgbd_dataset_freiburg1_xyz'
        assert frames.camera.K[0, 0] == 517.3


def test_tum_of_an_unknown_camera_wants_a_calibration(tmp_path):
    root = write_tum(tmp_path / 'our_lab')
    with pytest.raises(ValueError, match='--intrinsics'):
        open_sequence(root)
    calibration = write_plain(tmp_path / 'other') / 'intrinsics.yaml'
    assert open_sequence(root, calibration).camera.K[1, 1] == 101


def test_frames_come_in_the_order_of_time_whatever_the_order_of_the_list(tmp_path):
    root = write_plain(tmp_path / 'walk')
    expected = open_sequence(root)
    head, *rows = (root / 'timestamps.txt').read_text().splitlines()
    (root / 'timestamps.txt').write_text('\n'.join([head, *rows[3:], *rows[:3]]))
    frames = open_sequence(root)
    assert frames.names == expected.names
    np.testing.assert_array_equal(frames.stamps, expected.stamps)
    np.testing.assert_array_equal(frames.poses, expected.poses)


def test_a_line_of_tum_that_has_no_time_is_named(tmp_path):
    root = write_tum(tmp_path / 'rgbd_dataset_freiburg1_desk')
    (root / 'rgb.txt').write_text('# timestamp filename\nabc rgb/1.png\n')
    with pytest.raises(ValueError, match=r"rgb\.txt: 'abc rgb/1\.png' has no time"):
        open_sequence(root)
    (root / 'rgb.txt').write_text('# timestamp filename\n')
    with pytest.raises(ValueError, match=r"rgb\.txt' names no picture"):
        open_sequence(root)


def test_a_line_of_euroc_that_says_too_little_is_named(tmp_path):
    root, _ = write_euroc(tmp_path / 'V1_01_easy')
    listed = root / 'mav0' / 'cam0' / 'data.csv'
    listed.write_text(listed.read_text() + '1403636579763555584\n')
    with pytest.raises(ValueError, match=r'data\.csv'):
        open_sequence(root)


def test_euroc_as_downloaded(tmp_path):
    root, body_to_camera = write_euroc(tmp_path / 'V1_01_easy')
    for folder in (root, root / 'mav0'):
        frames = open_sequence(folder)
        assert frames.name == 'V1_01_easy'
        assert len(frames) == 6
        assert frames.stamps.tolist() == [START + index * STEP for index in range(6)]
        for index in range(6):
            np.testing.assert_allclose(frames.poses[index], pose_of(index) @ body_to_camera, atol=1e-6)
        np.testing.assert_array_equal(frames.pictures[frames.names[2]], picture(2))
        assert (frames.camera.width, frames.camera.height) == (160, 120)
        np.testing.assert_allclose(frames.camera.distortion, [-0.28, 0.07, 0.0002, 1.7e-05, 0])


def test_the_true_motion_moves_points_from_frame_to_frame(tmp_path):
    frames = open_sequence(write_plain(tmp_path / 'street'))
    rotation, translation = relative(frames.poses[1], frames.poses[4])
    world = np.array([0.3, -0.2, 7.0, 1.0])
    in_first, in_second = (np.linalg.inv(frames.poses[index]) @ world for index in (1, 4))
    np.testing.assert_allclose(rotation @ in_first[:3] + translation, in_second[:3], atol=1e-9)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda root: (root / 'poses.txt').unlink(), 'poses.txt'),
        (lambda root: (root / 'poses.txt').write_text('0.0 1 2 3'), 'line 1: a pose is time'),
        (lambda root: (root / 'poses.txt').write_text('zero 1 2 3 0 0 0 1'), 'line 1.*not numbers'),
        (lambda root: (root / 'intrinsics.yaml').unlink(), 'intrinsics.yaml'),
        (lambda root: (root / 'intrinsics.yaml').write_text('cameras: []'), 'list of cameras is empty'),
        (lambda root: (root / 'intrinsics.yaml').write_text('nothing'), 'no names'),
        (lambda root: (root / 'timestamps.txt').write_text('0 0.0 nothing'), 'names no picture'),
        (lambda root: (root / 'timestamps.txt').write_text('left/000000.png 0.0'), 'has no time before the file'),
        (
            lambda root: (root / 'timestamps.txt').write_text('# timestamp_s left\nsoon left/000000.png'),
            'has no time in its column timestamp_s',
        ),
        (lambda root: (root / 'timestamps.txt').unlink(), 'is no sequence'),
        (lambda root: (root / 'frames.tar').write_bytes(b'torn'), "frames.tar' is not a readable tar"),
    ],
)
def test_files_that_cannot_be_read_are_named(spoil, message, tmp_path):
    root = write_plain(tmp_path / 'street')
    spoil(root)
    with pytest.raises(ValueError, match=message):
        open_sequence(root)


def test_pairs_are_a_gap_apart_and_spread_evenly(tmp_path):
    frames = open_sequence(write_plain(tmp_path / 'street', 30))
    pairs, skipped = frame_pairs(frames, [1, 10], 5)
    assert skipped == []
    assert pairs.starts[10] == [0, 5, 10, 14, 19]
    assert len(pairs.starts[1]) == 5
    assert (pairs.starts[1][0], pairs.starts[1][-1]) == (0, 28)
    assert frame_pairs(frames, [10], 100)[0].starts[10] == list(range(20))


def test_what_is_wrong_with_frames_is_named_and_the_rest_is_used(tmp_path):
    root = write_plain(tmp_path / 'street', 12, archive=False, posed=[0, 1, 2, 3, 4, 5, 8, 9])
    (root / 'left' / '000001.png').unlink()
    (root / 'left' / '000004.png').write_bytes(b'')
    pairs, skipped = frame_pairs(open_sequence(root), [1, 50], 100)
    assert pairs.starts == {1: [2, 8]}
    reasons = {each.what: each.why for each in skipped}
    assert reasons['street, frames 1 (1 of 12)'] == 'there are no such pictures'
    assert reasons['street, frames 6-7, 10-11 (4 of 12)'].startswith('no pose near')
    assert '0.000 to 0.900 s' in reasons['street, frames 6-7, 10-11 (4 of 12)']
    assert 'no picture' in reasons['street/left/000004.png']
    assert reasons['street, gap 50'] == 'the sequence has 12 frames only'


def test_a_truth_without_poses_is_said(tmp_path):
    pairs, skipped = frame_pairs(open_sequence(write_plain(tmp_path / 'street', posed=[])), [1], 100)
    assert pairs.starts == {}
    assert 'the truth has no poses' in skipped[0].why


def test_poses_are_interpolated_but_not_beyond_their_ends_or_over_holes():
    stamps = np.array([0, 100, 200, 900]) * 1_000_000
    positions = np.array([[0, 0, 0], [1, 0, 0], [1, 2, 0], [5, 5, 5.0]])
    truth = Trajectory.of(stamps, positions, np.stack([quaternion(a) for a in (0, 40, 20, 0)]))
    asked = np.array([-0.9, -50, 25, 100, 150, 500, 899.5, 950]) * 1_000_000
    poses = truth.at(asked.astype(np.int64))
    known = np.isfinite(poses).all(axis=(1, 2))
    assert known.tolist() == [True, False, True, True, True, False, True, False]
    np.testing.assert_allclose(poses[2][:3, 3], [0.25, 0, 0])
    np.testing.assert_allclose(poses[2][:3, :3], rotation_matrix(quaternion(10)), atol=1e-9)
    np.testing.assert_allclose(poses[4][:3, :3], rotation_matrix(quaternion(30)), atol=1e-9)


def test_a_quaternion_and_its_negative_are_one_rotation():
    rotations = np.stack([quaternion(10), -quaternion(20)])
    truth = Trajectory.of(np.array([0, 100_000_000]), np.zeros((2, 3)), rotations)
    between = truth.at(np.array([50_000_000]))[0]
    np.testing.assert_allclose(between[:3, :3], rotation_matrix(quaternion(15)), atol=1e-9)


def test_a_single_pose_is_its_own_frame_s():
    truth = Trajectory.of(np.array([7]), np.ones((1, 3)), quaternion(0)[None])
    assert np.isfinite(truth.at(np.array([7, 10**9]))).all(axis=(1, 2)).tolist() == [True, False]


def test_poses_that_are_not_finite_or_no_rotation_are_left_out(tmp_path):
    path = tmp_path / 'poses.txt'
    path.write_text('2 0 0 0 0 0 0 1\n0 nan 0 0 0 0 0 1\n1 0 0 0 0 0 0 0\n0.5 0 0 0 0 0 0 2\n')
    truth = read_tum(path)
    assert truth.stamps.tolist() == [500_000_000, 2_000_000_000]
    np.testing.assert_allclose(np.linalg.norm(truth.rotations, axis=1), 1)


@given(st.integers(0, 2**61), st.integers(0, 9))
def test_nanoseconds_are_exact(stamp, digits):
    whole, fraction = divmod(stamp, 10**9)
    text = f'{whole}.{fraction:09d}'[: len(str(whole)) + 1 + digits]
    assert nanoseconds(text) == whole * 10**9 + fraction // 10 ** (9 - digits) * 10 ** (9 - digits)


def test_nanoseconds_of_other_notations():
    assert nanoseconds('1.5e1') == 15 * 10**9
    assert nanoseconds('-0.5') == -500_000_000
    for word in ('noon', 'inf', '-Infinity', 'nan', '1e400'):
        with pytest.raises(ValueError, match=word):
            nanoseconds(word)


def test_ros_calibrations_are_read(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(
        '%YAML:1.0\n'
        'image_width: 160\nimage_height: 120\n'
        'camera_matrix: {rows: 3, cols: 3, data: [100, 0, 80, 0, 101, 60, 0, 0, 1]}\n'
        'distortion_model: equidistant\ndistortion_coefficients: {rows: 1, cols: 4, data: [0, 0, 0, 0]}\n'
    )
    camera = read_camera(path)
    assert camera.model == 'equidistant'
    np.testing.assert_allclose(camera.K, [[100, 0, 80], [0, 101, 60], [0, 0, 1]])
    assert np.isfinite(camera.rays(np.array([[80.0, 60.0], [10, 10]]))).all()
    path.write_text(path.read_text().replace('equidistant', 'mirror'))
    with pytest.raises(ValueError, match="'mirror' is not known"):
        read_camera(path)


def test_tum_cameras_by_name():
    assert tum_camera('rgbd_dataset_freiburg3_long_office').model == 'none'
    assert tum_camera('rgbd_dataset_freiburg2_xyz').K[0, 2] == 325.1
    assert tum_camera('kitchen') is None


@given(st.sets(st.integers(0, 40)))
def test_spans_name_every_number_once(numbers):
    named = []
    for part in spans(sorted(numbers)).split(', ') if numbers else []:
        first, _, last = part.partition('-')
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
