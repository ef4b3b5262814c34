"""The rig node's promises, each tried on a real node in another process, over DDS."""

import time
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
from ros_processes import Cameras, NodeProcess, image_message, scene
from test_stereo_node import HEIGHT, WIDTH, camera_info

from superpoint_ros.messages import read_features
from superpoint_ros.nodes.parameters import ParameterError
from superpoint_ros.nodes.rig import RigNode, check_names

OK, WARN, ERROR = 0, 1, 2
NAMES = ('front', 'left', 'right', 'back', 'up', 'down', 'arm/left', 'arm/right')


@pytest.fixture(scope='module')
def rig():
    rclpy.init()
    node = Cameras('/superpoint_rig', NAMES)
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def process(rig, tmp_path_factory):
    started = NodeProcess(
        'superpoint_ros.nodes.rig',
        tmp_path_factory.mktemp('rig'),
        cameras=f'[{",".join(NAMES)}]',
        weights='superpoint_small',
        warm_up_width=WIDTH,
        warm_up_height=HEIGHT,
        stale_after=30.0,
    )
    yield started
    started.stop()


@pytest.fixture
def active(rig, process):
    """The node, active, and without memory of earlier images."""
    rig.begin_anew()
    return process


def publish(rig: Cameras, shift: int = 0, names=NAMES) -> dict:
    """Publish an image of each camera, which sees another part of the scene; returns the headers."""
    headers = {}
    for name in names:
        headers[name] = rig.header()
        headers[name].frame_id = name
        rig.images[name].publish(image_message(scene(shift + 10 * NAMES.index(name)), 'mono8', headers[name]))
    return headers


def answers(rig: Cameras, headers: dict) -> dict:
    return {name: read_features(rig.wait_for(f'{name}/features', header)) for name, header in headers.items()}


def counts(rig: Cameras) -> dict[str, dict[str, int]]:
    """Of the next report, by name and camera."""
    latest = rig.diagnostics()[2]
    names = ('received', 'processed', 'dropped', 'failed')
    return {name: {camera: int(latest.get(f'{camera}/{name}', 0)) for camera in NAMES} for name in names}


class TestEight:
    def test_every_camera_has_its_own_features_and_ids_are_unique_over_the_rig(self, rig, active):
        seen = {name: set() for name in NAMES}
        for number in range(3):
            features = answers(rig, publish(rig, shift=2 * number))
            for name in NAMES:
                assert len(features[name]) > 20
                seen[name] |= set(features[name].track_ids.tolist())
        for name in NAMES:
            assert (features[name].track_ages == 3).sum() > 10
        assert not any(seen[a] & seen[b] for a, b in combinations(NAMES, 2))

    def test_at_5_hz_all_are_processed(self, rig, active):
        answers(rig, publish(rig))
        before = counts(rig)
        sent = 0
        for shift in range(15):
            headers = publish(rig, shift)
            sent += 1
            next_time = time.monotonic() + 0.2
            answers(rig, headers)
            rig.spin_for(max(0.0, next_time - time.monotonic()))
        after = counts(rig)
        for name, expected in (('received', sent), ('processed', sent), ('dropped', 0), ('failed', 0)):
            change = {camera: after[name][camera] - before[name][camera] for camera in NAMES}
            assert change == dict.fromkeys(NAMES, expected)

    def test_one_camera_missing_does_not_stop_the_others_and_is_named(self, rig, active):
        answers(rig, publish(rig))
        assert rig.set(stale_after=1.0) == ''
        others = [name for name in NAMES if name != 'back']
        warning = rig.warning_while(lambda: answers(rig, publish(rig, names=others)), 'No image')
        assert rig.set(stale_after=30.0) == ''
        assert 'No image on /back/image for ' in warning
        assert '(publishers: 1).' in warning
        assert warning.count('No image') == 1
        assert len(answers(rig, publish(rig))['back']) > 20

    def test_an_image_that_can_not_be_read_is_its_cameras_alone(self, rig, active):
        answers(rig, publish(rig))
        before = counts(rig)['failed']
        header = rig.header()
        rig.images['left'].publish(image_message(scene(), 'mono8', header, encoding='holographic'))
        answers(rig, publish(rig, names=[name for name in NAMES if name != 'left']))
        rig.spin_until(lambda: counts(rig)['failed']['left'] == before['left'] + 1, 'the failure to be counted')
        level, message, _ = rig.diagnostics()
        assert level == ERROR
        assert message.startswith('left: unknown encoding')
        after = counts(rig)['failed']
        assert [name for name in NAMES if after[name] > before[name]] == ['left']
        answers(rig, publish(rig))
        level, message, _ = rig.diagnostics()
        assert level == WARN
        assert 'images on /left/image could not be processed, the latest for unknown encoding' in message

    def test_the_newest_of_each_camera_wins_and_every_drop_is_counted(self, rig, active):
        answers(rig, publish(rig))
        before = counts(rig)
        for shift in range(30):
            newest = publish(rig, shift, names=('front', 'up'))
            time.sleep(0.003)
        answers(rig, newest)
        after = counts(rig)
        changes = {name: {c: after[name][c] - before[name][c] for c in NAMES} for name in before}
        for camera in ('front', 'up'):
            received, processed, dropped, failed = (changes[name][camera] for name in before)
            assert dropped > 0
            assert (received, failed) == (processed + dropped, 0)
        assert changes['received']['back'] == 0

    def test_each_camera_has_its_own_calibration(self, rig, active):
        rig.infos['front'].publish(camera_info(0.0, focal=150.0))
        rig.infos['arm/left'].publish(camera_info(0.0, focal=300.0))
        rig.spin_for(0.3)
        features = answers(rig, publish(rig))
        for name, focal in (('front', 150), ('arm/left', 300)):
            expected = (features[name].keypoints - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) / focal
            np.testing.assert_allclose(features[name].rays[:, :2], expected, atol=1e-4)
        assert np.isnan(features['back'].rays).all()
        latest = rig.diagnostics()[2]
        assert [latest[f'{name}/calibration'] for name in ('front', 'back')] == ['pinhole', 'uncalibrated']

    def test_other_cameras_can_be_named_when_it_is_configured_again(self, rig, active):
        assert rig.change_state('deactivate')
        assert rig.change_state('cleanup')
        assert rig.set(cameras=['front', 'front']) == ''
        assert not rig.change_state('configure')
        level, message, _ = rig.diagnostics()
        assert (level, message) == (ERROR, 'Not configured: cameras must be different ones, not front, front.')
        assert rig.set(cameras=['back', 'front']) == ''
        assert rig.change_state('configure')
        assert rig.change_state('activate')
        rig.spin_until(rig.images['front'].get_subscription_count, 'the front-end to listen')
        assert rig.images['left'].get_subscription_count() == 0
        rig.spin_for(0.5)
        answers(rig, publish(rig, names=('front', 'back')))

    def test_one_file_has_the_calibrations_of_all_cameras_in_their_order(self, rig, active, tmp_path):
        path, focals = tmp_path / 'rig.yaml', {'back': 150, 'front': 300}
        cameras = [
            f'cam{place}: {{camera_model: pinhole, distortion_model: radtan, distortion_coeffs: [0, 0, 0, 0], '
            f'intrinsics: [{focal}, {focal}, 0, 0], resolution: [{WIDTH}, {HEIGHT}]}}\n'
            for place, focal in enumerate(focals.values())
        ]
        assert rig.change_state('deactivate')
        assert rig.change_state('cleanup')
        assert rig.set(cameras=list(focals), calibration=str(path)) == ''
        path.write_text(cameras[0])
        assert not rig.change_state('configure')
        assert 'is of 1, and there are 2 cameras: back, front.' in rig.diagnostics()[1]
        path.write_text(''.join(cameras))
        assert rig.change_state('configure')
        assert rig.change_state('activate')
        rig.spin_until(rig.images['front'].get_subscription_count, 'the front-end to listen')
        rig.spin_for(0.5)
        for name, features in answers(rig, publish(rig, names=tuple(focals))).items():
            np.testing.assert_allclose(features.rays[:, :2], features.keypoints / focals[name], atol=1e-4)

    def test_a_signal_ends_it_cleanly(self, rig, active):
        publish(rig)
        assert active.interrupt() == 0
        assert 'Traceback' not in active.log
        assert 'internal error' not in active.log


def test_images_wait_for_others_only_where_a_batch_is_worth_it(rig):
    """Whatever the engine is by now: weights are reloaded, and a GPU may be lost."""
    node = RigNode()
    try:
        waited = []
        node._worker = SimpleNamespace(
            gather=None, put=lambda *_: waited.append(node._worker.gather), stop=lambda: None
        )
        for batches in (True, False, True):
            node._pipeline = SimpleNamespace(detector=SimpleNamespace(engine=SimpleNamespace(batches=batches)))
            node._take(0, None)
        node._pipeline = None
        assert waited == [0.02, 0.0, 0.02]
    finally:
        node._worker = None
        node.destroy_node()


@pytest.mark.parametrize(
    ('cameras', 'reason'),
    [
        ([], 'one camera or more'),
        (['front', 'a b'], "'a b'"),
        (['/front'], "'/front'"),
        (['1st'], "'1st'"),
        ([''], "''"),
        (['a', 'b', 'a'], 'different'),
    ],
)
def test_names_that_can_not_be_topics_are_refused(cameras, reason):
    with pytest.raises(ParameterError, match=reason):
        check_names(cameras)
