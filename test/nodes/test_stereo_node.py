"""The stereo node's promises, each tried on a real node in another process, over DDS."""

import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
from ros_processes import Cameras, NodeProcess, image_message, scene
from sensor_msgs.msg import CameraInfo, PointCloud, PointCloud2

from superpoint_ros.messages import read_features, read_matches, read_stereo_matches

OK, WARN, ERROR = 0, 1, 2
FOCAL, BASELINE = 150.0, 0.1
HEIGHT, WIDTH = 120, 160
NEAR, FAR = 24, 8  # disparities of the lower and of the upper half of the scene, pixels
OUTPUTS = ('left/features', 'right/features', 'matches', 'tracks', 'stereo_matches')


def camera_info(baseline: float, focal: float = FOCAL, height: int = HEIGHT, width: int = WIDTH) -> CameraInfo:
    k = [focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1.0]
    p = [*k[:3], -focal * baseline, *k[3:6], 0, *k[6:], 0]
    return CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5, k=k, p=p)


def stereo_scene(shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What two rectified cameras see of a scene whose lower half is nearer."""
    left, far, near = (scene(shift + disparity) for disparity in (0, FAR, NEAR))
    return left, np.concatenate([far[: HEIGHT // 2], near[HEIGHT // 2 :]])


class Rig(Cameras):
    """A stereo camera."""

    def __init__(self) -> None:
        super().__init__('/superpoint_stereo', ('left', 'right'))
        for topic, kind in (('matches', PointCloud2), ('tracks', PointCloud), ('stereo_matches', PointCloud2)):
            self.listen(kind, topic)

    def publish(self, left: np.ndarray | None, right: np.ndarray | None, offset_ns: int = 0):
        """Publish images of one time, the right one's stamp later by an offset. Returns the left header."""
        header = self.header()
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        if left is not None:
            self.images['left'].publish(image_message(left, 'mono8', header))
        if right is not None:
            self.images['right'].publish(image_message(right, 'mono8', self.header(stamp + offset_ns)))
        return header

    def send(self, left: np.ndarray, right: np.ndarray, offset_ns: int = 0) -> dict:
        """Publish a pair and return what comes back, by topic."""
        for messages in self.heard.values():
            messages.clear()
        header = self.publish(left, right, offset_ns)
        topics = OUTPUTS if offset_ns == 0 else set(OUTPUTS) - {'right/features'}
        return {topic: self.wait_for(topic, header) for topic in topics}

    def calibrate(self, left: CameraInfo | None, right: CameraInfo | None) -> None:
        for name, info in (('left', left), ('right', right)):
            if info is not None:
                self.infos[name].publish(info)
        self.spin_for(0.3)


@pytest.fixture(scope='module')
def rig():
    rclpy.init()
    node = Rig()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def process(rig, tmp_path_factory):
    started = NodeProcess(
        'superpoint_ros.nodes.stereo',
        tmp_path_factory.mktemp('stereo'),
        weights='superpoint_small',
        warm_up_width=WIDTH,
        warm_up_height=HEIGHT,
        stale_after=30.0,
    )
    yield started
    started.stop()


@pytest.fixture
def active(rig, process):
    """The node, active, calibrated, and without memory of earlier images."""
    rig.begin_anew()
    rig.calibrate(camera_info(0.0), camera_info(BASELINE))
    return process


def restarted(rig: Rig, **values: object) -> None:
    """Set parameters that are read on activation; what was known of the cameras is gone."""
    assert rig.change_state('deactivate')
    assert rig.change_state('cleanup')
    assert rig.set(**values) == ''
    assert rig.change_state('configure')
    rig.activate()


def count(values: dict[str, str], name: str) -> dict[str, int]:
    return {side: int(values[f'{side}/{name}']) for side in ('left', 'right')}


class TestPairs:
    def test_without_camera_info_it_says_which_is_missing_and_features_come_all_the_same(self, rig, process):
        """Runs first, on the node that has heard none yet."""
        assert rig.change_state('configure')
        rig.activate()
        answers = rig.send(*stereo_scene())
        assert answers['stereo_matches'].width == 0
        assert len(read_features(answers['left/features'])) > 20
        level, message, _ = rig.diagnostics()
        assert level == WARN
        assert 'on /left/camera_info and /right/camera_info' in message
        rig.calibrate(camera_info(0.0), None)
        assert rig.send(*stereo_scene())['stereo_matches'].width == 0
        assert rig.diagnostics()[1].endswith('has come on /right/camera_info.')

    def test_points_are_where_the_scene_is_in_metres(self, rig, active):
        answers = rig.send(*stereo_scene())
        left, right = (read_features(answers[f'{side}/features']) for side in ('left', 'right'))
        stereo = read_stereo_matches(answers['stereo_matches'])
        assert answers['stereo_matches'].header == answers['left/features'].header
        assert len(stereo) > 25
        np.testing.assert_array_equal(stereo.keypoints, left.keypoints[stereo.left])
        np.testing.assert_array_equal(stereo.right_x, right.keypoints[stereo.right, 0])
        np.testing.assert_array_equal(stereo.track_ids, left.track_ids[stereo.left])
        row = stereo.keypoints[:, 1]
        for half, disparity in ((row < HEIGHT / 2 - 8, FAR), (row > HEIGHT / 2 + 8, NEAR)):
            assert half.sum() > 8
            depth = FOCAL * BASELINE / disparity
            assert (np.abs(stereo.points[half, 2] / depth - 1) < 0.1).mean() > 0.8
            assert np.nanmedian(stereo.points[half, 2]) == pytest.approx(depth, rel=0.02)
        ray = (stereo.keypoints - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) / FOCAL
        np.testing.assert_allclose(stereo.points[:, :2], ray * stereo.points[:, 2:], rtol=1e-4, atol=1e-5)

    def test_matches_and_tracks_are_those_of_the_left_camera_in_time(self, rig, active):
        first = read_features(rig.send(*stereo_scene())['left/features'])
        answers = rig.send(*stereo_scene(shift=8))
        second, matches = read_features(answers['left/features']), read_matches(answers['matches'])
        assert matches.previous_stamp_ns == first.stamp_ns
        np.testing.assert_array_equal(matches.keypoints, second.keypoints[matches.query])
        np.testing.assert_array_equal(matches.previous_keypoints, first.keypoints[matches.train])
        assert len(answers['tracks'].points) == (second.track_ages > 1).sum() > 10

    def test_ids_differ_between_the_cameras_and_begin_anew_after_a_reset(self, rig, active):
        for _ in range(2):
            answers = rig.send(*stereo_scene())
            left, right = (read_features(answers[f'{side}/features']).track_ids for side in ('left', 'right'))
            assert left.min() == 1
            assert right.min() == 2
            assert not np.isin(left, right).any()
            assert rig.trigger('reset').success

    def test_the_latency_of_a_pair_begins_when_each_image_comes(self, rig, active):
        left, right = stereo_scene()
        header = rig.header()
        rig.images['left'].publish(image_message(left, 'mono8', header))
        rig.spin_for(1.0)
        rig.images['right'].publish(image_message(right, 'mono8', header))
        rig.wait_for('right/features', header)
        values = rig.diagnostics()[2]
        assert float(values['left/waited_ms']) > 500
        assert float(values['left/waited_ms']) > float(values['right/waited_ms']) + 400

    def test_a_pair_is_processed_or_dropped_whole_and_every_drop_is_counted(self, rig, active):
        rig.send(*stereo_scene())
        before = rig.diagnostics()[2]
        for messages in rig.heard.values():
            messages.clear()
        for shift in range(40):
            newest = rig.publish(*stereo_scene(shift))
            time.sleep(0.004)
        rig.wait_for('right/features', newest)
        rig.wait_for('left/features', newest)
        after = rig.diagnostics()[2]
        stamps = [
            [(m.header.stamp.sec, m.header.stamp.nanosec) for m in rig.heard[topic]]
            for topic in ('left/features', 'right/features', 'stereo_matches')
        ]
        assert stamps[0] == stamps[1] == stamps[2] == sorted(stamps[0])
        changes = {
            name: {side: n - count(before, name)[side] for side, n in count(after, name).items()}
            for name in ('received', 'processed', 'dropped', 'failed', 'unpaired')
        }
        assert changes['processed'] == {'left': len(stamps[0]), 'right': len(stamps[0])}
        assert changes['dropped']['left'] == changes['dropped']['right'] > 0
        assert changes['failed'] == {'left': 0, 'right': 0}
        for side in ('left', 'right'):  # an image that transport lost leaves the other one waiting
            ended = sum(changes[name][side] for name in ('processed', 'dropped', 'unpaired'))
            assert 0 <= changes['received'][side] - ended <= 10


class TestBadInput:
    def test_an_image_that_can_not_be_read_takes_its_partner_with_it(self, rig, active):
        left, right = stereo_scene()
        rig.send(left, right)
        before = rig.diagnostics()[2]
        header = rig.header()
        rig.images['left'].publish(image_message(left, 'mono8', header))
        rig.images['right'].publish(image_message(right, 'mono8', header, height=999))
        rig.spin_for(0.3)
        answers = rig.send(left, right)
        assert len(read_stereo_matches(answers['stereo_matches'])) > 25
        after = rig.diagnostics()[2]
        assert count(after, 'failed')['right'] == count(before, 'failed')['right'] + 1
        assert count(after, 'dropped')['left'] == count(before, 'dropped')['left'] + 1
        assert int(after['right/failed: short data']) == 1
        assert 'right: An image was skipped.' in active.log

    def test_swapped_images_are_named_by_their_negative_disparities(self, rig, active):
        left, right = stereo_scene()
        few = read_stereo_matches(rig.send(right, left)['stereo_matches'])
        level, message, _ = rig.diagnostics()
        assert level == WARN
        assert 'negative disparities' in message
        assert 'swapped' in message
        many = read_stereo_matches(rig.send(left, right)['stereo_matches'])
        assert len(few) < 0.25 * len(many)
        assert 'swapped' not in rig.diagnostics()[1]

    def test_swapped_calibrations_are_named(self, rig, active):
        rig.calibrate(camera_info(BASELINE), camera_info(0.0))
        answers = rig.send(*stereo_scene())
        assert answers['stereo_matches'].width == 0
        assert 'swapped' in rig.diagnostics()[1]
        assert 'swapped' in active.log

    def test_images_of_different_sizes_are_named(self, rig, active):
        left, right = stereo_scene()
        half = np.ascontiguousarray(right[::2, ::2])
        answers = rig.send(left, half)  # whose calibration is still that of the large ones
        assert answers['stereo_matches'].width == 0
        assert len(read_features(answers['right/features'])) > 5
        assert 'right/camera_info' in rig.diagnostics()[1]
        assert 'right: camera_info is for 160x120 pixels, the images have 80x60' in active.log
        rig.calibrate(None, camera_info(BASELINE, FOCAL / 2, HEIGHT // 2, WIDTH // 2))
        assert rig.send(left, half)['stereo_matches'].width == 0
        message = rig.diagnostics()[1]
        assert 'not rectified to one another' in message
        assert '75.00' in message

    def test_a_camera_that_stops_is_named_and_comes_back(self, rig, active):
        left, right = stereo_scene()
        rig.send(right, left)
        assert 'swapped' in rig.diagnostics()[1]
        before = count(rig.diagnostics()[2], 'unpaired')
        assert rig.set(stale_after=1.0) == ''
        warning = rig.warning_while(lambda: rig.publish(left, None), '/right/image')
        assert rig.set(stale_after=30.0) == ''
        assert 'No image on /right/image for ' in warning
        assert '(publishers: 1).' in warning
        assert warning.count('No image') == 1
        assert 'swapped' not in warning
        rig.spin_until(
            lambda: rig.publish(left, None) and count(rig.latest_values(), 'unpaired')['left'] > before['left'],
            'images that found no partner to be counted',
        )
        assert count(rig.latest_values(), 'unpaired')['right'] == before['right']
        assert len(read_stereo_matches(rig.send(*stereo_scene())['stereo_matches'])) > 25

    def test_stamps_that_never_pair_are_named_with_their_difference(self, rig, active):
        rig.send(*stereo_scene()[::-1])
        _, warning, before = rig.diagnostics()
        assert 'swapped' in warning  # which the last pair was
        assert rig.set(stale_after=1.0) == ''
        pair = stereo_scene()
        message = rig.warning_while(lambda: rig.publish(*pair, offset_ns=7_000_000), 'made a pair')
        assert rig.set(stale_after=30.0) == ''
        assert 'differ by 7.000 ms or more' in message
        assert 'swapped' not in message
        assert 'pairing.slop' in message

        def counted() -> bool:
            rig.publish(*pair, offset_ns=7_000_000)
            now = count(rig.latest_values(), 'unpaired')
            return all(number > count(before, 'unpaired')[side] for side, number in now.items())

        rig.spin_until(counted, 'images that found no partner to be counted')
        assert count(rig.latest_values(), 'processed') == count(before, 'processed')
        assert len(read_stereo_matches(rig.send(*stereo_scene())['stereo_matches'])) > 25

    def test_a_right_camera_that_is_five_images_late_is_paired(self, rig, active):
        late = []
        for shift in range(12):
            left, right = stereo_scene(shift)
            header = rig.publish(left, None)
            rig.spin_for(0.05)
            late.append((header, right))
            if len(late) > 5:
                header, right = late.pop(0)
                rig.images['right'].publish(image_message(right, 'mono8', header))
                message = rig.wait_for('stereo_matches', header)
                assert len(read_stereo_matches(message)) > 25
        for header, right in late:
            rig.images['right'].publish(image_message(right, 'mono8', header))
            rig.wait_for('stereo_matches', header)

    def test_time_jumping_back_goes_on_with_new_tracks(self, rig, active):
        first = read_features(rig.send(*stereo_scene())['left/features'])
        rig._sent -= 20
        answers = rig.send(*stereo_scene())
        second = read_features(answers['left/features'])
        assert second.stamp_ns < first.stamp_ns
        assert (second.track_ages == 1).all()
        assert len(read_stereo_matches(answers['stereo_matches'])) > 25
        assert 'left: The stamps went back' in active.log
        rig._sent += 20


class TestParameters:
    def test_live_ones_change_the_next_pair(self, rig, active):
        assert rig.set(stereo__max_disparity=float(FAR + 4)) == ''
        far_only = read_stereo_matches(rig.send(*stereo_scene())['stereo_matches'])
        assert rig.set(stereo__max_disparity=128.0) == ''
        assert far_only.disparity.max() <= FAR + 4
        assert (far_only.keypoints[:, 1] < HEIGHT / 2 + 8).mean() > 0.8

    @pytest.mark.parametrize(
        ('values', 'reason'),
        [
            ({'stereo__epipolar_tolerance': 0.0}, 'epipolar_tolerance'),
            ({'stereo__min_disparity': 200.0}, 'must be less than'),
            ({'pairing__slop': -1.0}, 'slop'),
        ],
    )
    def test_a_bad_value_is_refused_with_the_reason(self, rig, active, values, reason):
        assert reason in rig.set(**values)

    def test_stamps_within_the_slop_are_paired(self, rig, active):
        restarted(rig, pairing__slop=0.01)
        try:
            rig.calibrate(camera_info(0.0), camera_info(BASELINE))
            answers = rig.send(*stereo_scene(), offset_ns=7_000_000)
            assert len(read_stereo_matches(answers['stereo_matches'])) > 25
        finally:
            restarted(rig, pairing__slop=0.0)

    @pytest.mark.parametrize('rectification', ['raw', 'rectify'])
    def test_cameras_with_distortion_that_look_in_different_directions_give_the_same_points(
        self, rig, active, rectification
    ):
        """The scene is warped as such cameras would see it; the rectified cameras are those of the other tests."""
        infos, pictures = [], []
        for picture, baseline, turn in zip(stereo_scene(), (0.0, BASELINE), (0.03, -0.02), strict=True):
            info = camera_info(baseline)
            info.d = [-0.1, 0.02, 0.0, 0.0, 0.0]
            R = cv2.Rodrigues(np.array([turn, 0.5 * turn, turn]))[0]
            info.r = R.ravel()
            infos.append(info)
            K, P = np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))[:, :3]
            x, y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
            pixels = np.stack([x.ravel(), y.ravel()], axis=1)[:, None].astype(np.float64)
            ideal = cv2.undistortPoints(pixels, K, np.array(info.d), R=R, P=P)[:, 0].astype(np.float32)
            maps = ideal[:, 0].reshape(HEIGHT, WIDTH), ideal[:, 1].reshape(HEIGHT, WIDTH)
            pictures.append(cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        rig.calibrate(*infos)
        assert rig.set(rectification=rectification) == ''
        try:
            stereo = read_stereo_matches(rig.send(*pictures)['stereo_matches'])
        finally:
            assert rig.set(rectification='raw') == ''
        assert len(stereo) > 20
        row = stereo.points[:, 1] / stereo.points[:, 2] * FOCAL + (HEIGHT - 1) / 2  # rectified
        for half, disparity in ((row < HEIGHT / 2 - 8, FAR), (row > HEIGHT / 2 + 8, NEAR)):
            assert np.median(stereo.points[half, 2]) == pytest.approx(FOCAL * BASELINE / disparity, rel=0.05)


class TestLifecycle:
    def test_weights_are_reloaded_between_two_pairs(self, rig, active):
        first = read_features(rig.send(*stereo_scene())['left/features'])
        assert rig.trigger('reload_weights').success
        second = read_features(rig.send(*stereo_scene())['left/features'])
        assert not np.isin(second.track_ids, first.track_ids).any()

    def test_deactivate_stops_and_counts_what_waited(self, rig, active):
        rig.send(*stereo_scene())
        before = count(rig.diagnostics()[2], 'unpaired')
        rig.publish(stereo_scene()[0], None)
        rig.spin_for(0.3)
        assert rig.change_state('deactivate')
        values = rig.diagnostics()[2]
        assert count(values, 'unpaired')['left'] > before['left']
        received, processed = (count(values, name)['left'] for name in ('received', 'processed'))
        ended = processed + sum(count(values, name)['left'] for name in ('dropped', 'failed', 'unpaired'))
        assert received == ended
        assert rig.change_state('cleanup')
        rig.spin_until(lambda: not rig.count_publishers('stereo_matches'), 'the topics to go')

    def test_a_signal_ends_it_cleanly(self, rig, active):
        rig.send(*stereo_scene())
        rig.publish(*stereo_scene())
        assert active.interrupt() == 0, active.log
        assert 'Traceback' not in active.log
        assert 'internal error' not in active.log
