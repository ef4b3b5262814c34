"""The measures against trajectories whose errors are known; and the shipped weights on recorded sequences."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')
pytest.importorskip('evo', reason='an optional extra')

EXAMPLES = Path(__file__).resolve().parents[1] / 'examples'
sys.path.insert(0, str(EXAMPLES))

from measure_trajectories import (  # noqa: E402
    AT_REST,
    STREET,
    Trajectory,
    ate,
    ate_of_another_body,
    drift,
    load_detector,
    measure_stereo,
    stereo_figures,
)
from measured_sequences import Sequence, load, rectified_pair  # noqa: E402

from superpoint_ros.camera import Camera  # noqa: E402

DATA = Path(os.environ.get('SUPERPOINT_DATA', Path(__file__).parents[1] / '../shared/data')) / 'sequences'
CAMERA = Camera(np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1.0]]), np.zeros(0), 'none', 320, 240)


def street(metres: float = 60.0, count: int = 61) -> Sequence:
    """A bend, with a pose a metre."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, way in enumerate(np.linspace(0, metres, count)):
        poses[index, :3, :3] = cv2.Rodrigues(np.array([0, 0.01 * way, 0]))[0]
        poses[index, :3, 3] = 100 * (1 - np.cos(0.01 * way)), 0, 100 * np.sin(0.01 * way)
    return Sequence('street', 10**9 + np.arange(count) * 10**8, poses, (CAMERA,), [])


def moved(poses: np.ndarray, scale: float = 1.0) -> dict[int, np.ndarray]:
    """The same path in another frame, larger."""
    other = np.eye(4)
    other[:3, :3], other[:3, 3] = cv2.Rodrigues(np.array([0.3, -0.8, 0.2]))[0], (5, 1, -2)
    larger = poses.copy()
    larger[:, :3, 3] *= scale
    return dict(enumerate(other @ larger))


@pytest.mark.parametrize('align', [True, False])
def test_another_frame_is_no_error(align):
    sequence = street()
    pair = Trajectory(moved(sequence.poses)).pair(sequence, align=align, scale=False)
    assert ate(*pair) < 1e-9
    assert drift(*pair) == pytest.approx({'percent': 0, 'deg_per_m': 0}, abs=1e-4)


def test_poses_of_another_body_than_the_camera_are_told_from_a_wrong_path():
    sequence, seat = street(), np.array([0.4, 0, -0.3])
    turning = [cv2.Rodrigues(np.array([0.4 * np.sin(index / 9), 0.3 * np.sin(index / 7), 0]))[0] for index in range(61)]
    sequence.poses[:, :3, :3] = turning
    camera = sequence.poses.copy()
    camera[:, :3, 3] += camera[:, :3, :3] @ seat
    pair = Trajectory(moved(camera, scale=0.5)).pair(sequence, align=True, scale=True)
    assert ate(*pair) > 0.05
    left, found = ate_of_another_body(*pair)
    assert left < 1e-3
    np.testing.assert_allclose(found, seat, atol=2e-3)


def test_scale_is_an_error_of_two_cameras_and_none_of_one():
    sequence = street()
    larger = Trajectory(moved(sequence.poses, scale=1.02))
    assert ate(*larger.pair(sequence, align=True, scale=True)) < 1e-9
    figures = drift(*larger.pair(sequence, align=False, scale=False))
    assert figures['percent'] == pytest.approx(2, abs=0.05)
    assert figures['deg_per_m'] == pytest.approx(0, abs=1e-4)


def test_turning_too_far_is_a_rotation_error():
    sequence = street()
    poses = sequence.poses.copy()
    for way, pose in enumerate(poses):
        pose[:3, :3] = pose[:3, :3] @ cv2.Rodrigues(np.array([np.radians(0.05) * way, 0, 0]))[0]
    figures = drift(*Trajectory(dict(enumerate(poses))).pair(sequence, align=False, scale=False))
    assert figures['deg_per_m'] == pytest.approx(0.05, rel=0.05)


def test_frames_without_a_pose_are_left_out():
    sequence = street()
    some = {index: pose for index, pose in moved(sequence.poses).items() if index % 3}
    truth, found = Trajectory(some).pair(sequence, align=False, scale=False)
    assert truth.num_poses == found.num_poses == 40
    assert ate(truth, found) < 1e-9


def test_at_rest_the_farthest_pose_counts():
    sequence = street(metres=0.0, count=20)
    poses = sequence.poses.copy()
    poses[7, 2, 3] = 0.03
    figures = stereo_figures(sequence, Trajectory(dict(enumerate(poses))))
    assert figures['farthest_m'] == pytest.approx(0.03)
    assert figures['end_m'] == pytest.approx(0)


def test_rectified_cameras_see_a_point_in_one_row():
    rng = np.random.default_rng(2)
    to_right = np.eye(4)
    to_right[:3, :3], to_right[:3, 3] = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0], (-0.2, 0.003, 0.005)
    bent = Camera(CAMERA.K, np.array([-0.2, 0.05, 1e-3, 0.0]), 'plumb_bob', 320, 240)
    left, right = rectified_pair((bent, CAMERA), to_right)
    points = rng.uniform([-1, -0.8, 3], [1, 0.8, 8], (40, 3))
    no_turn = np.zeros(3)
    seen = [
        cv2.projectPoints(points, no_turn, no_turn, bent.K, bent.distortion)[0][:, 0],
        cv2.projectPoints(points, cv2.Rodrigues(to_right[:3, :3])[0], to_right[:3, 3], CAMERA.K, np.zeros(4))[0][:, 0],
    ]
    on_left, on_right = left.rectify_points(seen[0]), right.rectify_points(seen[1])
    np.testing.assert_allclose(on_left[:, 1], on_right[:, 1], atol=0.01)
    depth = left.rectified.K[0, 0] * right.baseline / (on_left - on_right)[:, 0]
    np.testing.assert_allclose(depth, (points @ left.R.T)[:, 2], rtol=1e-3)
    assert right.baseline == pytest.approx(np.linalg.norm(to_right[:3, 3]), rel=1e-6)


@pytest.mark.skipif(not (DATA / STREET).exists(), reason=f'no sequences at {DATA}; set SUPERPOINT_DATA')
class TestRecorded:
    def test_a_street_in_stereo(self):
        figures, _ = measure_stereo('superpoint', load_detector('superpoint'), load(DATA / STREET))
        assert figures['poses'] == figures['frames'] == 51
        assert figures['percent'] <= 2
        assert figures['deg_per_m'] <= 0.02

    def test_a_stereo_camera_at_rest(self):
        figures, _ = measure_stereo('superpoint_small', load_detector('superpoint_small'), load(DATA / AT_REST))
        assert figures['farthest_m'] <= 0.02
        assert figures['epipolar_px'] <= 0.5
