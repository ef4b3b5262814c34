"""The example back-end: its geometry against worlds that are known, and the node over real topics."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from ros_processes import Camera, NodeProcess

from superpoint_ros.clouds import stamp_ns
from superpoint_ros.demo.gallery import camera_pose
from superpoint_ros.demo.sequence import START_NS, Gallery

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

from bundle_adjustment import adjust  # noqa: E402
from visual_odometry import VisualOdometry, disparity_per_inverse_depth, focal_length, to_pose  # noqa: E402

FOCAL, BASELINE = 400.0, 0.2


def rotation(yaw: float, pitch: float = 0.0) -> np.ndarray:
    c, s, d, t = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array([[1, 0, 0], [0, d, -t], [0, t, d]])


def walk(count: int) -> list[np.ndarray]:
    """[4, 4] camera to world: ahead and to the right, looking around."""
    poses = [np.eye(4) for _ in range(count)]
    for step, pose in enumerate(poses):
        pose[:3, :3] = rotation(0.15 * np.sin(step / 9), 0.05 * np.sin(step / 7))
        pose[:3, 3] = 0.06 * step, 0.1 * np.sin(step / 8), 0.04 * step
    return poses


class World:
    """Points in a box ahead, seen with noise in pixels; some observations are wrong."""

    def __init__(self, noise: float, wrong: float = 0.0) -> None:
        self.rng = np.random.default_rng(1)
        self.points = self.rng.uniform([-6, -3, 3], [10, 3, 14], (600, 3))
        self.noise, self.wrong = noise, wrong

    def look(self, pose: np.ndarray, stereo: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ids and observations, as `VisualOdometry.update` takes them."""
        local = (self.points - pose[:3, 3]) @ pose[:3, :3]
        x, y, z = local.T
        seen = np.column_stack([x / z, y / z, BASELINE / z if stereo else np.full(len(z), np.nan)])
        seen += self.rng.normal(0, self.noise / FOCAL, seen.shape)
        wrong = self.rng.random(len(z)) < self.wrong
        seen[wrong, :2] += self.rng.uniform(-0.3, 0.3, (wrong.sum(), 2))
        inside = (z > 0.5) & (np.abs(seen[:, 0]) < 0.8) & (np.abs(seen[:, 1]) < 0.6)
        rows = self.rng.permutation(np.flatnonzero(inside))  # ids come in any order
        return rows + 7, seen[rows]


def similarity_error(estimate: np.ndarray, truth: np.ndarray, with_scale: bool) -> float:
    """Root mean square distance of positions [N, 3] after the best rotation, shift and scale (Umeyama 1991)."""
    a, b = estimate - estimate.mean(axis=0), truth - truth.mean(axis=0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    D = np.diag([1, 1, np.linalg.det(U @ Vt)])
    scale = np.trace(np.diag(S) @ D) / (a**2).sum() if with_scale else 1.0
    return float(np.sqrt((((scale * a @ (U @ D @ Vt).T) - b) ** 2).sum(axis=1).mean()))


def follow(world: World, truth: list[np.ndarray], stereo: bool) -> dict[int, np.ndarray]:
    odometry = VisualOdometry()
    found = {}
    for step, pose in enumerate(truth):
        estimate = odometry.update(*world.look(pose, stereo), FOCAL, BASELINE)
        if estimate is not None:
            found[step] = estimate
    return found


class TestGeometry:
    @pytest.mark.parametrize('wrong', [0.0, 0.15])
    def test_stereo_is_metric(self, wrong):
        truth = walk(50)
        found = follow(World(0.3, wrong), truth, stereo=True)
        assert sorted(found) == list(range(50))
        errors = [np.linalg.norm(found[step][:3, 3] - truth[step][:3, 3]) for step in found]
        assert max(errors) < 0.03  # of 3.7 m
        np.testing.assert_allclose(found[49][:3, :3], truth[49][:3, :3], atol=0.004)

    @pytest.mark.parametrize('wrong', [0.0, 0.15])
    def test_one_camera_up_to_scale(self, wrong):
        truth = walk(50)
        found = follow(World(0.3, wrong), truth, stereo=False)
        assert len(found) > 40
        positions = np.array([found[step][:3, 3] for step in found])
        assert similarity_error(positions, np.array([truth[step][:3, 3] for step in found]), True) < 0.03

    def test_a_focal_length_that_is_off_is_found_on_the_way(self):
        world, truth = World(0.3), walk(60)
        errors = {}
        for doubt in (0.0, 0.03):
            odometry, found = VisualOdometry(doubt), {}
            for step, pose in enumerate(truth):
                ids, seen = world.look(pose, False)
                found[step] = odometry.update(ids, 1.05 * seen, FOCAL / 1.05)
            known = [step for step, pose in found.items() if pose is not None]
            positions = [np.array([poses[step][:3, 3] for step in known]) for poses in (found, truth)]
            errors[doubt] = similarity_error(*positions, True)
            assert odometry.focal == pytest.approx(1.05 if doubt else 1.0, abs=0.015 if doubt else 0)
        assert errors[0.03] < 0.7 * errors[0.0]

    def test_one_camera_that_only_turns_tells_no_position(self):
        truth = [np.eye(4) for _ in range(20)]
        for step, pose in enumerate(truth):
            pose[:3, :3] = rotation(0.02 * step)
        assert not follow(World(0.2), truth, stereo=False)

    def test_stereo_that_stands_still_stays(self):
        found = follow(World(0.3), [np.eye(4)] * 30, stereo=True)
        assert max(np.linalg.norm(pose[:3, 3]) for pose in found.values()) < 0.01

    def test_it_goes_on_where_it_was_lost(self):
        world, truth = World(0.2), walk(40)
        odometry = VisualOdometry()
        for pose in truth[:20]:
            odometry.update(*world.look(pose, True), FOCAL, BASELINE)
        odometry.update(np.zeros(0, np.uint32), np.zeros((0, 3)), FOCAL, BASELINE)
        offset = 10**6  # all tracks are new
        for pose in truth[20:]:
            ids, seen = world.look(pose, True)
            found = odometry.update(ids + offset, seen, FOCAL, BASELINE)
        one_step = np.linalg.norm(truth[20][:3, 3] - truth[19][:3, 3])
        assert np.linalg.norm(found[:3, 3] - truth[-1][:3, 3]) < 2 * one_step

    @pytest.mark.parametrize('blind', [1, 20])
    def test_where_it_sees_nothing_it_goes_on_as_it_moved(self, blind):
        truth = [np.eye(4) for _ in range(30 + blind)]
        for step, pose in enumerate(truth):
            pose[:3, 3] = 0.05 * step, 0, 0.05 * step
        world, odometry = World(0.2), VisualOdometry()
        for step, pose in enumerate(truth):
            ids, seen = world.look(pose, True)
            if 15 <= step < 15 + blind:
                ids, seen = ids[:0], seen[:0]
            found = odometry.update(ids, seen, FOCAL, BASELINE)
        assert np.linalg.norm(found[:3, 3] - truth[-1][:3, 3]) < 0.1

    @pytest.mark.parametrize('moment', [0.0, 5.0], ids='{}s'.format)
    @pytest.mark.parametrize('known', [True, False], ids=['known tracks', 'new tracks'])
    def test_stamps_that_repeat_or_jump_move_no_camera(self, moment, known):
        world, odometry, truth = World(0.2), VisualOdometry(), walk(40)
        truth[20] = truth[19 if moment == 0 else 20]
        for step, pose in enumerate(truth):
            ids, seen = world.look(pose, True)
            ids = ids if known or step < 20 else ids + len(world.points)
            found = odometry.update(ids, seen, FOCAL, BASELINE, moment if step == 20 else 0.1)
        one_step = np.linalg.norm(truth[21][:3, 3] - truth[20][:3, 3])
        assert np.linalg.norm(found[:3, 3] - truth[-1][:3, 3]) < 2 * one_step

    def test_the_first_baseline_of_one_camera_is_not_the_motion_of_an_image(self):
        world, odometry, positions = World(0.2), VisualOdometry(), []
        truth = iter(walk(80))
        while not positions:
            found = odometry.update(*world.look(next(truth), False), FOCAL)
            positions += [found[:3, 3]] if found is not None else []
        for _ in range(10):
            assert odometry.update(np.zeros(0, np.uint32), np.zeros((0, 3)), FOCAL) is None
        while len(positions) < 2:
            found = odometry.update(*world.look(next(truth), False), FOCAL)
            positions += [found[:3, 3]] if found is not None else []
        assert np.linalg.norm(positions[1] - positions[0]) < 2  # one more baseline, of length 1

    def test_the_baseline_that_each_image_guesses_does_not_matter(self):
        paths = []
        for guesses in (np.ones(40), np.random.default_rng(0).uniform(0.8, 1.2, 40)):
            world, odometry = World(0.2), VisualOdometry()
            guesses[0] = 1
            for guess, pose in zip(guesses, walk(40), strict=True):
                ids, seen = world.look(pose, True)
                found = odometry.update(ids, seen * [1, 1, guess], FOCAL, BASELINE * guess)
            paths.append(found[:3, 3])
        np.testing.assert_allclose(paths[0], paths[1], atol=1e-6)

    def test_new_tracks_are_known_before_those_that_stay_longest_are_gone(self):
        """What is far hardly moves; near things get new tracks, and the far ones go when the camera moves otherwise."""
        world, odometry = World(0.2), VisualOdometry()
        for step, along in enumerate((0.0, 0.02, 0.04, 0.06, 0.2)):
            pose = np.eye(4)
            pose[0, 3] = along
            ids, seen = world.look(pose, stereo=True)
            is_near = world.points[ids - 7, 2] < 11.5
            kept = is_near if step == 4 else np.ones(len(ids), bool)
            ids = np.where(is_near & (step >= 2), ids + 1000, ids)
            found = odometry.update(ids[kept], seen[kept], FOCAL, BASELINE)
        assert found[0, 3] == pytest.approx(0.2, abs=0.01)

    def test_nothing_seen_is_no_pose(self):
        odometry = VisualOdometry()
        for _ in range(3):
            assert odometry.update(np.zeros(0, np.uint32), np.zeros((0, 3)), 1.0) is None


class TestAdjustment:
    def test_it_finds_back_to_the_truth(self):
        world, truth = World(0.0), walk(6)
        poses = np.linalg.inv(np.array(truth))
        ids, seen = zip(*(world.look(pose, True) for pose in truth), strict=True)
        view = np.repeat(np.arange(6), [len(i) for i in ids])
        _, point = np.unique(np.concatenate(ids), return_inverse=True)
        points = world.points[np.unique(np.concatenate(ids)) - 7]
        rng = np.random.default_rng(0)
        moved = poses.copy()
        moved[1:, :3, 3] += rng.normal(0, 0.02, (5, 3))
        found, landmarks, _, errors = adjust(
            moved, points + rng.normal(0, 0.05, points.shape), view, point, np.concatenate(seen), BASELINE,
            noise=1 / FOCAL, fixed=1, steps=30,
        )  # fmt: skip
        np.testing.assert_allclose(found, poses, atol=1e-4)
        np.testing.assert_allclose(landmarks, points, atol=2e-3)
        assert errors.max() < 1e-5

    @pytest.mark.parametrize('focal', [0.95, 1.04])
    def test_it_finds_the_focal_length(self, focal):
        world, truth = World(0.0), walk(6)
        poses = np.linalg.inv(np.array(truth))
        ids, seen = zip(*(world.look(pose, True) for pose in truth), strict=True)
        view = np.repeat(np.arange(6), [len(i) for i in ids])
        numbers, point = np.unique(np.concatenate(ids), return_inverse=True)
        how = {'noise': 1 / FOCAL, 'fixed': 1, 'steps': 30}
        given = poses, world.points[numbers - 7], view, point, focal * np.concatenate(seen), BASELINE
        assert adjust(*given, **how, doubt=10.0)[2] == pytest.approx(focal, abs=1e-4)
        assert abs(adjust(*given, **how, doubt=1e-6)[2] - 1) < 1e-3
        assert adjust(*given, **how)[2] == 1.0

    def test_fixed_poses_stay(self):
        world, truth = World(1.0), walk(4)
        poses = np.linalg.inv(np.array(truth))
        ids, seen = zip(*(world.look(pose, False) for pose in truth), strict=True)
        view = np.repeat(np.arange(4), [len(i) for i in ids])
        numbers, point = np.unique(np.concatenate(ids), return_inverse=True)
        found, _, _, _ = adjust(
            poses, world.points[numbers - 7], view, point, np.concatenate(seen), 1.0, noise=1 / FOCAL, fixed=2
        )
        np.testing.assert_array_equal(found[:2], poses[:2])
        assert np.abs(found[2:] - poses[2:]).max() > 0


@pytest.mark.parametrize('at_infinity', [-40.0, 0.0, 20.0])
def test_disparity_at_infinity_is_no_part_of_the_baseline(at_infinity):
    inverse = np.random.default_rng(0).uniform(0.05, 0.5, 50)
    found = disparity_per_inverse_depth(inverse, FOCAL * BASELINE * inverse + at_infinity)
    assert found == pytest.approx(FOCAL * BASELINE)


def test_of_one_depth_the_baseline_is_that_of_equal_principal_points():
    assert disparity_per_inverse_depth(np.array([0.25]), np.array([20.0])) == pytest.approx(80)


def test_focal_length_from_rays():
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    assert focal_length(rays, 460 * rays[:, :2] + 320) == pytest.approx(460)
    assert focal_length(rays[:1], rays[:1, :2]) == 1.0


@pytest.mark.parametrize('yaw', [0.0, 0.7, -2.9])
def test_pose_message(yaw):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(yaw, 0.2), (1, 2, 3)
    pose = to_pose(matrix)
    w, v = pose.orientation.w, np.array([pose.orientation.x, pose.orientation.y, pose.orientation.z])
    cross = np.cross(np.eye(3), v)
    np.testing.assert_allclose(np.eye(3) + 2 * w * cross + 2 * cross @ cross, matrix[:3, :3], atol=1e-9)
    assert (pose.position.x, pose.position.y, pose.position.z) == (1, 2, 3)


def record_demo(folder: Path, frames: int) -> list[int]:
    """Every other picture of the demo at half its size, as a folder with a calibration; returns the stamps."""
    folder.mkdir()
    gallery = Gallery(2 * frames)
    stamps = [gallery.stamp(2 * index) for index in range(frames)]
    for index, stamp in enumerate(stamps):
        # Means of 2 x 2 pixels: a pixel's centre x comes to lie at (x - 0.5) / 2.
        picture = cv2.resize(gallery.image(2 * index), (320, 240), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f'{stamp}.png'), picture)
    (folder / 'intrinsics.yaml').write_text(
        'cameras: [{width: 320, height: 240, fx: 230.0, fy: 230.0, cx: 159.5, cy: 119.5, '
        'distortion_model: none, distortion: [0, 0, 0, 0]}]'
    )
    return stamps


def test_the_node_recovers_the_path_of_the_demo_over_real_topics(tmp_path, monkeypatch):
    """Replay, front-end and odometry as three processes; the odometry hears features only."""
    monkeypatch.setenv('PYTHONPATH', str(EXAMPLES), prepend=os.pathsep)
    stamps = record_demo(tmp_path / 'pictures', 45)
    rclpy.init()
    listener = Camera('listener')
    processes = []
    try:
        listener.listen(Odometry, 'odometry')
        listener.listen(PathMessage, 'path')
        processes.append(NodeProcess('visual_odometry', tmp_path, focal_doubt=0))
        frontend = NodeProcess('superpoint_ros.nodes.frontend', tmp_path, autostart='true', weights='superpoint_small')
        processes.append(frontend)
        listener.spin_until(lambda: listener.count_subscribers('features') == 2, 'the odometry')
        listener.spin_until(lambda: listener.count_subscribers('image') == 1, 'the front-end')
        processes.append(NodeProcess('superpoint_ros.nodes.replay', tmp_path, input=tmp_path / 'pictures', rate=0))
        odometry, paths = listener.heard['odometry'], listener.heard['path']
        listener.spin_until(
            lambda: paths and stamp_ns(paths[-1].poses[-1].header.stamp) == stamps[-1], 'the last pose', patience=180
        )
        readers = listener.get_subscriber_names_and_types_by_node('visual_odometry', '/')
    finally:
        for process in reversed(processes):
            process.stop()
        listener.destroy_node()
        rclpy.try_shutdown()
    assert {name for name, kinds in readers if 'rcl_interfaces' not in kinds[0]} == {'/features'}
    assert len(odometry) > len(stamps) / 2
    assert {message.child_frame_id for message in odometry} == {'camera'}
    assert paths[-1].poses[-1].pose == odometry[-1].pose.pose
    positions = np.array([[getattr(m.pose.pose.position, axis) for axis in 'xyz'] for m in odometry])
    times = [(stamp_ns(message.header.stamp) - START_NS) / 1e9 for message in odometry]
    truth = np.array([camera_pose(time).position for time in times])
    length = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    assert similarity_error(positions, truth, with_scale=True) < 0.02 * length
