"""The front-end node's promises, each tried on a real node in another process, over DDS."""

import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
import torch
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_processes import Camera, NodeProcess, image_message, jpeg_message, scene
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from superpoint_ros.messages import read_features, read_matches
from superpoint_ros.networks import WeightsError
from superpoint_ros.nodes import frontend as nodes_frontend
from superpoint_ros.nodes.frontend import FrontendNode

OK, WARN, ERROR = 0, 1, 2
LARGE_AND_SMALL = """
import time

import numpy as np
import rclpy
from ros_processes import Camera, image_message, scene

rclpy.init()
camera = Camera('large')
pictures = [(np.repeat(scene(0, 960, 1280)[..., None], 3, axis=2), 'bgr8'), (scene(), 'mono8')]
while True:
    for picture, encoding in pictures:  # the small one comes, and tells by its number what did not
        camera.images.publish(image_message(picture, encoding, camera.header()))
    time.sleep(0.05)
"""


@pytest.fixture(scope='module')
def camera():
    rclpy.init()
    node = Camera()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def frontend(camera, tmp_path_factory):
    """A front-end that is not configured, with the small network and small images."""
    process = NodeProcess(
        'superpoint_ros.nodes.frontend',
        tmp_path_factory.mktemp('frontend'),
        weights='superpoint_small',
        warm_up_width=160,
        warm_up_height=120,
        stale_after=30.0,
    )
    yield process
    process.stop()


@pytest.fixture
def active(camera, frontend):
    """The same front-end, active, and without memory of earlier images."""
    camera.begin_anew()
    return frontend


def send_scene(camera: Camera, shift: int = 0, stamp_ns: int | None = None):
    return read_features(camera.send(image_message(scene(shift), 'mono8', camera.header(stamp_ns))))


def counts(values: dict[str, str]) -> dict[str, int]:
    return {name: int(values[name]) for name in ('received', 'processed', 'dropped', 'failed')}


def camera_info(width: int = 160, height: int = 120, focal: float = 150.0) -> CameraInfo:
    k = np.array([focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1.0 if focal else 0.0])
    p = np.insert(k.reshape(3, 3), 3, 0, axis=1).ravel()
    if not focal:
        k, p = np.zeros(9), np.zeros(12)
    return CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5, k=k, p=p)


class TestConfigure:
    """Runs first, on the node that is not configured yet."""

    def refuse(self, camera, frontend, reason, **values):
        before = frontend.log.count('Not configured')
        assert camera.set(**values) == ''
        assert not camera.change_state('configure')
        assert camera.state() == 'unconfigured'
        assert frontend.log.count('Not configured') == before + 1
        assert reason in frontend.log.rpartition('Not configured')[2]
        level, message, _ = camera.diagnostics()
        assert level == ERROR
        assert reason in message

    def test_missing_weights(self, camera, frontend):
        self.refuse(camera, frontend, '/no/such.safetensors', weights='/no/such.safetensors')

    def test_corrupt_weights(self, camera, frontend, tmp_path):
        path = tmp_path / 'corrupt.safetensors'
        path.write_bytes(b'\x10\0\0\0\0\0\0\0{"nonsense": tru')
        self.refuse(camera, frontend, str(path), weights=str(path))

    def test_a_pickle_posing_as_weights_is_not_run(self, camera, frontend, tmp_path):
        trap = tmp_path / 'trap'

        class Bomb:
            def __reduce__(self):
                return (open, (str(trap), 'w'))

        for suffix in ('.safetensors', '.pth'):
            path = tmp_path / f'weights{suffix}'
            path.write_bytes(pickle.dumps(Bomb()))
            self.refuse(camera, frontend, str(path), weights=str(path))
        assert not trap.exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a CUDA device')
    def test_no_cuda_when_asked_for(self, camera, frontend):
        self.refuse(camera, frontend, 'cuda', weights='superpoint_small', device='cuda')

    def test_a_mask_that_is_no_picture(self, camera, frontend, tmp_path):
        path = tmp_path / 'mask.png'
        path.write_text('no picture')
        self.refuse(camera, frontend, str(path), weights='superpoint_small', device='auto', mask=str(path))

    def test_a_calibration_that_is_none(self, camera, frontend, tmp_path):
        path = tmp_path / 'camera.yaml'
        path.write_text('just: words')
        self.refuse(camera, frontend, str(path), weights='superpoint_small', mask='', calibration=str(path))

    def test_services_without_weights_say_so(self, camera, frontend):
        for service in ('reset', 'reload_weights'):
            answer = camera.trigger(service)
            assert not answer.success
            assert 'Not configured' in answer.message

    def test_a_transition_that_is_not_possible_does_not_end_the_node(self, camera, frontend):
        assert not camera.change_state('activate')
        assert camera.state() == 'unconfigured'

    def test_it_can_be_configured_after_all_that(self, camera, frontend):
        assert camera.set(weights='superpoint_small', device='auto', mask='', calibration='') == ''
        assert camera.change_state('configure')
        assert camera.state() == 'inactive'
        level, message, values = camera.diagnostics()
        assert (level, message) == (OK, 'Inactive.')
        assert 'superpoint_small' in values['detector']


class TestImages:
    def test_outputs_carry_the_header_of_their_image(self, camera, active):
        image = image_message(scene(), 'mono8', camera.header())
        message = camera.send(image)
        assert message.header == image.header
        camera.wait_for('tracks', image.header)
        camera.wait_for('matches', image.header)
        assert len(read_features(message)) > 20

    def test_features_keep_their_ids_and_matches_link_two_frames(self, camera, active):
        first = send_scene(camera)
        assert len(read_matches(camera.latest('matches'))) == 0
        second = send_scene(camera, shift=8)
        matches = read_matches(camera.latest('matches'))
        assert matches.previous_stamp_ns == first.stamp_ns
        assert matches.stamp_ns == second.stamp_ns
        np.testing.assert_array_equal(matches.keypoints, second.keypoints[matches.query])
        np.testing.assert_array_equal(matches.previous_keypoints, first.keypoints[matches.train])
        np.testing.assert_array_equal(matches.track_ids[matches.inlier], first.track_ids[matches.train][matches.inlier])

    def test_bad_images_are_counted_and_named_and_the_node_goes_on(self, camera, active):
        good = scene()
        bad = {
            'empty image': {'width': 0, 'height': 0},
            'wrong step': {'step': 7},
            'unknown encoding': {'encoding': 'holographic'},
            'short data': {'height': 999},
        }
        _, _, before = camera.diagnostics()
        for changes in bad.values():
            for _ in range(2):
                camera.images.publish(image_message(good, 'mono8', camera.header(), **changes))
                camera.spin_for(0.1)
            assert len(send_scene(camera)) > 20
        _, _, after = camera.diagnostics()
        for cause in bad:
            assert int(after[f'failed: {cause}']) - int(before.get(f'failed: {cause}', 0)) == 2
        assert int(after['failed']) - int(before['failed']) == 8
        assert active.log.count('holographic') == 1  # logged once, counted twice

    @pytest.mark.parametrize(
        ('encoding', 'pixels'),
        [
            ('mono16', scene().astype(np.uint16) << 4),
            ('bayer_rggb8', scene()),
            ('bayer_gbrg16', scene().astype(np.uint16) << 6),
            ('rgb8', np.repeat(scene()[..., None], 3, axis=2)),
        ],
    )
    def test_deep_coloured_and_mosaic_images_are_read(self, camera, active, encoding, pixels):
        grey = send_scene(camera)
        features = read_features(camera.send(image_message(pixels, encoding, camera.header())))
        assert len(features) > 0.7 * len(grey)

    def test_a_size_change_in_mid_stream(self, camera, active):
        send_scene(camera)
        wide = scene(height=90, width=203)
        features = read_features(camera.send(image_message(wide, 'mono8', camera.header())))
        assert len(read_matches(camera.latest('matches'))) == 0
        assert features.keypoints[:, 0].max() > 165
        send_scene(camera)

    def test_stamps_going_back_start_tracks_anew(self, camera, active):
        first = send_scene(camera)
        second = send_scene(camera, stamp_ns=first.stamp_ns - 20_000_000_000)
        assert len(read_matches(camera.latest('matches'))) == 0
        assert (second.track_ages == 1).all()
        assert not np.isin(second.track_ids, first.track_ids).any()
        assert 'went back by 20.000 s' in active.log
        third = send_scene(camera, shift=1, stamp_ns=second.stamp_ns + 33_000_000)
        assert (third.track_ages > 1).sum() > 10

    def test_equal_stamps_are_processed(self, camera, active):
        features = [send_scene(camera, stamp_ns=0) for _ in range(2)]
        assert (features[1].track_ages == 2).sum() > 10

    def test_newest_image_wins_and_every_drop_is_counted(self, camera, active):
        send_scene(camera)
        _, _, before = camera.diagnostics()
        headers = [camera.header() for _ in range(40)]
        images = [image_message(scene(index), 'mono8', header) for index, header in enumerate(headers)]
        heard = len(camera.heard['features'])
        for image in images:
            camera.images.publish(image)
            time.sleep(0.002)
        camera.spin_until(lambda: camera.latest('features').header == headers[-1], 'the newest image')
        _, _, after = camera.diagnostics()
        difference = {name: count - counts(before)[name] for name, count in counts(after).items()}
        assert difference['failed'] == 0
        assert difference['processed'] == len(camera.heard['features']) - heard
        assert difference['dropped'] > 0
        assert difference['received'] == difference['processed'] + difference['dropped']
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in camera.heard['features'][heard:]]
        assert stamps == sorted(stamps)


class TestCalibration:
    def test_camera_info_gives_rays_and_tracks(self, camera, active):
        assert camera.diagnostics()[1].endswith('(publishers: 1, none sent one since the activation).')
        camera.infos.publish(camera_info())
        camera.spin_for(0.3)
        send_scene(camera)
        image = image_message(scene(), 'mono8', camera.header())
        features = read_features(camera.send(image))
        expected = (features.keypoints - [79.5, 59.5]) / 150
        np.testing.assert_allclose(features.rays[:, :2], expected, atol=1e-4)
        tracks = camera.wait_for('tracks', image.header)
        assert len(tracks.points) == (features.track_ages > 1).sum() > 0
        assert [len(c.values) for c in tracks.channels] == [len(tracks.points)] * 5
        assert camera.diagnostics()[2]['calibration'] == 'pinhole'

    def test_rectification_can_be_changed(self, camera, active):
        info = camera_info()
        info.d = [-0.2, 0.0, 0.0, 0.0, 0.0]
        camera.infos.publish(info)
        camera.spin_for(0.3)
        distorted = send_scene(camera)
        assert camera.set(rectification='rectify') == ''
        rectified = send_scene(camera)
        assert len(read_matches(camera.latest('matches'))) == 0  # to pixels of a picture that was not rectified
        assert camera.set(rectification='raw') == ''
        assert camera.diagnostics()[2]['calibration'] == 'plumb_bob'
        np.testing.assert_allclose(rectified.rays[:, :2], (rectified.keypoints - [79.5, 59.5]) / 150, atol=1e-4)
        pinhole = (distorted.keypoints - [79.5, 59.5]) / 150
        assert np.abs(distorted.rays[:, :2] - pinhole).max() > 0.01

    def test_zero_camera_info_is_no_calibration(self, camera, active):
        camera.infos.publish(camera_info(focal=0.0))
        camera.spin_for(0.3)
        assert np.isnan(send_scene(camera).rays).all()
        level, message, values = camera.diagnostics()
        assert (level, values['calibration']) == (WARN, 'uncalibrated')
        assert message.endswith('Tracks are empty without a calibration on /camera_info (publishers: 1).')
        assert values['notice: zero camera_info'] == '1'
        assert 'not calibrated' in active.log

    def test_camera_info_of_another_size_or_model_is_no_calibration_and_warned_of(self, camera, active):
        odd = camera_info()
        odd.distortion_model = 'fun_fair_mirror'
        for info, sign in ((odd, 'fun_fair_mirror'), (camera_info(width=640), '640x120')):
            camera.infos.publish(info)
            camera.spin_for(0.3)
            assert np.isnan(send_scene(camera).rays).all()
            assert sign in active.log
        level, message, values = camera.diagnostics()
        assert (level, values['calibration']) == (WARN, 'camera_info of another size')
        assert '640x120' in message
        camera.infos.publish(camera_info())
        camera.spin_for(0.3)


class TestParametersAndServices:
    @pytest.mark.parametrize(
        ('values', 'reason'),
        [
            ({'max_keypoints': 0}, 'max_keypoints'),
            ({'detection_threshold': 1.5}, 'detection_threshold'),
            ({'detection_threshold': 'high'}, 'detection_threshold'),
            ({'descriptor_type': 'float64'}, 'float32, int8'),
            ({'matching__max_ratio': 0.0}, 'max_ratio'),
            ({'engine': 'steam'}, 'engine'),
            ({'device': 'gpu'}, "device must be auto, cpu, cuda, or cuda:N, not 'gpu'."),
            ({'autostart': True}, 'read-only'),
            ({'nms_radius': 2.5}, 'INTEGER'),
        ],
    )
    def test_a_bad_value_is_refused_with_the_reason(self, camera, active, values, reason):
        assert reason in camera.set(**values)
        assert len(send_scene(camera)) > 20

    def test_live_parameters_change_the_next_image(self, camera, active):
        assert camera.set(max_keypoints=7, descriptor_type='float32') == ''
        message = camera.send(image_message(scene(), 'mono8', camera.header()))
        assert camera.set(max_keypoints=1000, descriptor_type='int8') == ''
        features = read_features(message)
        assert len(features) == 7
        assert message.fields[-1].datatype == message.fields[-1].FLOAT32
        np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
        assert len(send_scene(camera)) > 20

    def test_when_the_others_take_effect_is_said(self, camera, active):
        before = len(active.log)
        assert (
            camera.set(mask='nowhere.png', precision='float32', image_transport='compressed', max_keypoints=1000) == ''
        )
        assert camera.set(mask='', precision='auto', image_transport='raw') == ''
        said = active.log[before:]
        assert said.count('mask takes effect when the node is configured and activated again.') == 2
        assert said.count('precision takes effect on ~/reload_weights.') == 2
        assert said.count('image_transport takes effect when the node is activated again.') == 2
        assert 'max_keypoints' not in said

    def test_reset_starts_ids_at_1(self, camera, active):
        send_scene(camera)
        assert camera.trigger('reset').success
        features = send_scene(camera)
        assert sorted(features.track_ids) == list(range(1, len(features) + 1))

    def test_reload_weights_keeps_the_old_ones_when_the_new_are_bad(self, camera, active, tmp_path):
        path = tmp_path / 'new.safetensors'
        path.write_bytes(b'nonsense')
        assert camera.set(weights=str(path)) == ''
        answer = camera.trigger('reload_weights')
        assert not answer.success
        assert str(path) in answer.message
        first = send_scene(camera)
        assert camera.set(weights='superpoint_small') == ''
        assert camera.trigger('reload_weights').success
        second = send_scene(camera)
        assert not np.isin(second.track_ids, first.track_ids).any()

    def test_weights_are_reloaded_while_images_flow(self, camera, active):
        first = send_scene(camera)
        _, _, before = camera.diagnostics()
        heard = len(camera.heard['features'])

        def send_another() -> None:
            camera.images.publish(image_message(scene(), 'mono8', camera.header()))
            time.sleep(0.02)

        assert camera.trigger('reload_weights', meanwhile=send_another).success
        assert len(camera.heard['features']) > heard
        last = send_scene(camera)
        _, _, after = camera.diagnostics()
        assert counts(after)['failed'] == counts(before)['failed']
        assert last.track_ids.min() > first.track_ids.max()

    def test_a_reload_that_ends_after_cleanup_says_so(self, camera, active):
        assert camera.change_state('deactivate')
        cleaned_up = []
        reloads = active.log.count('Loading weights')

        def clean_up_once() -> None:
            if not cleaned_up and active.log.count('Loading weights') > reloads:
                cleaned_up.append(camera.change_state('cleanup'))

        answer = camera.trigger('reload_weights', meanwhile=clean_up_once)
        assert cleaned_up == [True]
        assert not answer.success
        assert 'cleaned up meanwhile' in answer.message
        assert camera.state() == 'unconfigured'

    def test_the_debug_image_is_drawn_while_someone_listens(self, camera, active):
        listener = camera.listen(Image, 'debug_image')
        camera.spin_for(1.0)
        send_scene(camera)
        camera.spin_until(lambda: camera.heard['debug_image'], 'a debug image')
        picture = camera.latest('debug_image')
        assert (picture.height, picture.width, picture.encoding) == (120, 160, 'rgb8')
        assert picture.header.frame_id == 'optical'
        camera.destroy_subscription(listener)


class TestLifecycle:
    def test_silence_is_reported(self, camera, active):
        send_scene(camera)
        assert 'No image' not in camera.diagnostics()[1]
        assert camera.set(stale_after=0.1) == ''
        level, message, _ = camera.diagnostics()
        assert camera.set(stale_after=30.0) == ''
        assert level == WARN
        assert re.search(r'No image on /image for \d+\.\d s \(publishers: 1\)\.', message)

    def test_silence_is_reported_beside_what_was_wrong_with_the_last_image(self, camera, active):
        camera.images.publish(image_message(scene(), 'mono8', camera.header(), encoding='holographic'))
        camera.spin_until(lambda: 'holographic' in camera.diagnostics()[1], 'the failure')
        assert camera.set(stale_after=0.1) == ''
        level, message, _ = camera.diagnostics()
        assert level == ERROR
        assert re.search(r'holographic.* No image on /image for \d+\.\d s', message)
        assert camera.change_state('deactivate')
        camera.activate()
        level, message, _ = camera.diagnostics()
        assert camera.set(stale_after=30.0) == ''
        assert level == WARN
        assert 'No image on /image' in message
        assert 'holographic' not in message

    def test_failures_and_stamps_that_do_not_rise_are_warned_of_for_as_long_as_they_last(self, camera, active):
        camera.images.publish(image_message(scene(), 'mono8', camera.header(), encoding='holographic'))
        camera.spin_for(0.5)
        for _ in range(3):
            send_scene(camera, stamp_ns=7)
        level, message, _ = camera.diagnostics()
        assert level == WARN
        assert re.search(r'\d of the last \d+ images on /image could not be processed, .*holographic', message)
        assert re.search(r'The stamps of \d of the last \d+ images processed on /image were not later', message)

    def test_images_lost_on_the_way_are_counted_and_the_remedy_is_named(self, camera, active):
        assert camera.change_state('deactivate')
        assert camera.set(image_reliability='best_effort') == ''
        # Of its own, because this process may have been told of a larger shared memory.
        usual = {name: value for name, value in os.environ.items() if not name.endswith('_PROFILES_FILE')}
        sender = subprocess.Popen([sys.executable, '-c', LARGE_AND_SMALL], env=usual, cwd=Path(__file__).parents[1])
        try:
            camera.activate()
            assert 'set image_reliability to auto' in camera.warning_while(lambda: None, 'lost on the way')
            values = camera.diagnostics()[2]
        finally:
            sender.kill()
            sender.wait()
            assert camera.change_state('deactivate')
            assert camera.set(image_reliability='auto') == ''
            camera.activate()
        assert 0 < int(values['lost']) < 10_000
        assert int(values['received']) > 0

    def test_it_is_as_reliable_as_all_its_publishers(self, camera, active):
        def asked() -> list[ReliabilityPolicy]:
            return [each.qos_profile.reliability for each in camera.get_subscriptions_info_by_topic('/image')]

        camera.spin_until(lambda: asked() == [ReliabilityPolicy.RELIABLE], 'a reliable subscription')
        offer = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        other = camera.create_publisher(Image, 'image', offer)
        camera.spin_until(lambda: asked() == [ReliabilityPolicy.BEST_EFFORT], 'a best-effort subscription')
        camera.destroy_publisher(other)
        camera.spin_until(lambda: asked() == [ReliabilityPolicy.RELIABLE], 'a reliable subscription again')
        assert len(send_scene(camera)) > 20

    @pytest.mark.parametrize(
        ('parameters', 'reason'),
        [
            ({'image_transport': 'compressed'}, 'sends sensor_msgs/msg/Image, image_transport compressed is'),
            ({'image_reliability': 'reliable'}, 'offers best effort only: set image_reliability to auto'),
        ],
    )
    def test_why_no_image_comes_from_a_publisher_that_is_there(self, camera, active, parameters, reason):
        offer = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        camera.destroy_publisher(camera.images)
        camera.images = camera.create_publisher(Image, 'image', offer)
        assert camera.change_state('deactivate')
        usual = {'image_transport': 'raw', 'image_reliability': 'auto', 'stale_after': 30.0}
        try:
            assert camera.set(**parameters, stale_after=0.1) == ''
            assert camera.change_state('activate')
            assert 'No image on /image' in camera.warning_while(lambda: None, reason)
        finally:
            assert camera.change_state('deactivate')
            assert camera.set(**usual) == ''
            camera.destroy_publisher(camera.images)
            camera.images = camera.create_publisher(Image, 'image', 5)
            camera.activate()
        assert len(send_scene(camera)) > 20

    def test_compressed_images_and_truncated_ones(self, camera, active):
        assert camera.change_state('deactivate')
        assert camera.set(image_transport='compressed') == ''
        camera.destroy_publisher(camera.images)  # a DDS participant has one type a topic
        camera.images = camera.create_publisher(CompressedImage, 'image', 5)
        try:
            camera.activate()
            assert len(read_features(camera.send(jpeg_message(scene(), camera.header())))) > 20
            camera.images.publish(jpeg_message(scene(), camera.header(), cut=500))
            camera.spin_for(0.2)
            assert len(read_features(camera.send(jpeg_message(scene(), camera.header())))) > 20
            assert camera.diagnostics()[2]['failed: truncated image'] == '1'
        finally:
            camera.destroy_publisher(camera.images)
            camera.images = camera.create_publisher(Image, 'image', 5)
            assert camera.change_state('deactivate')
            assert camera.set(image_transport='raw') == ''

    def test_deactivate_stops_and_cleanup_frees(self, camera, active):
        send_scene(camera)
        bad = image_message(scene(), 'mono8', camera.header())
        bad.encoding = 'unheard of'
        camera.images.publish(bad)
        reports = camera.heard['/diagnostics']
        camera.spin_until(lambda: any('unheard of' in report.status[0].message for report in reports), 'an error')
        assert camera.change_state('deactivate')
        assert camera.diagnostics()[:2] == (OK, 'Inactive.')
        heard = len(camera.heard['features'])
        camera.images.publish(image_message(scene(), 'mono8', camera.header()))
        camera.spin_for(0.5)
        assert len(camera.heard['features']) == heard
        assert camera.change_state('cleanup')
        assert camera.state() == 'unconfigured'
        camera.spin_until(lambda: not camera.count_publishers('features'), 'the topics to go')
        assert camera.change_state('configure')
        camera.activate()
        assert len(send_scene(camera)) > 20

    def test_a_signal_in_mid_frame_ends_it_cleanly(self, camera, active):
        large = image_message(scene(height=600, width=800), 'mono8', camera.header())
        reports = camera.heard['/diagnostics']
        reports.clear()

        def in_hand() -> bool:
            """Whether the latest report has images without an end; more of them come than can be processed."""
            camera.images.publish(large)
            if not reports:
                return False
            now = counts({pair.key: pair.value for pair in reports[-1].status[0].values})
            return now['received'] > now['processed'] + now['dropped'] + now['failed']

        camera.spin_until(in_hand, 'an image that is in work')
        assert active.interrupt() == 0
        assert 'Traceback' not in active.log
        assert 'internal error' not in active.log


class TestInThisProcess:
    """What only a hand on the node's own clockwork can bring about."""

    @pytest.fixture
    def node(self, camera):
        node = FrontendNode()
        yield node
        node.destroy_node()

    def test_a_parameter_set_during_loading_does_not_reach_it_halfway(self, node, monkeypatch):
        seen = []

        def load(values, device, images):
            before = dict(values)
            node.set_parameters([RosParameter('weights', value='superpoint_small')])
            seen.append(values == before)
            raise WeightsError('seen enough')

        monkeypatch.setattr(nodes_frontend, 'load_detector', load)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert seen == [True]

    def test_what_was_wrong_is_over_when_the_node_is_shut_down(self, node, monkeypatch):
        said = []
        monkeypatch.setattr(node._diagnostics, 'publish', lambda *words: said.append(words[1:4]))
        node._not_configured('the mask is no picture')
        node._publish_diagnostics()
        node.on_shutdown(None)
        node._publish_diagnostics()
        assert said == [('Not configured: the mask is no picture', '', 'Not configured.'), ('', '', 'Shut down.')]

    def test_a_vanished_device_does_not_hinder_the_cleanup(self, node, monkeypatch):
        def vanished() -> None:
            raise RuntimeError('CUDA error: device-side assert triggered')

        def load(values, device, images):
            raise WeightsError('none')

        monkeypatch.setattr(torch.cuda, 'empty_cache', vanished)
        monkeypatch.setattr(nodes_frontend, 'load_detector', load)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE

    @pytest.mark.parametrize('kind', [WeightsError, OSError, ZeroDivisionError])
    def test_a_reload_that_fails_in_whatever_way_says_why(self, node, monkeypatch, kind):
        def load(values, device, images):
            raise kind('no such thing')

        monkeypatch.setattr(nodes_frontend, 'load_detector', load)
        node._pipeline = object()  # configured
        answer = node._reload_weights(Trigger.Response())
        node._pipeline = None
        assert not answer.success
        assert 'no such thing' in answer.message


def test_a_signal_while_weights_are_loaded_ends_it_cleanly(camera, tmp_path):
    process = NodeProcess('superpoint_ros.nodes.frontend', tmp_path, '-r', '__node:=loader', autostart='true', levels=1)
    client = camera.create_client(Trigger, '/loader/reload_weights')
    camera.spin_until(lambda: 'Active' in process.log and client.service_is_ready(), 'the node to be active')
    client.call_async(Trigger.Request())
    camera.spin_until(lambda: 'Loading' in process.log, 'the loading to begin')
    assert process.interrupt() == 0, process.log
    camera.destroy_client(client)


def test_an_out_of_range_parameter_at_start_is_refused_with_the_reason(tmp_path):
    process = NodeProcess('superpoint_ros.nodes.frontend', tmp_path, max_keypoints=-3)
    assert process.wait() == 1
    assert 'max_keypoints' in process.log
    assert 'Traceback' not in process.log
