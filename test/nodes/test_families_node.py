"""The node serves every network by `weights` alone: a real process, its weights changed from one family to the next."""

import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
import torch
from ros_processes import Camera, NodeProcess, image_message, scene

from superpoint_ros.messages import read_features
from superpoint_ros.networks import (
    KP2D,
    GoodPoint,
    GoodPointConfig,
    KP2DConfig,
    UnsuperPoint,
    UnsuperPointConfig,
    save_network,
)

WIDTHS = (4, 4, 4, 4, 8, 8, 8, 8)
NETWORKS = {
    'goodpoint': lambda: GoodPoint(GoodPointConfig(WIDTHS, 8, 16, 'skip')),
    'unsuperpoint': lambda: UnsuperPoint(UnsuperPointConfig(WIDTHS, 8, 24, 'skip')),
    'kp2d': lambda: KP2D(KP2DConfig(WIDTHS, 8, 32, outlier_width=4, detector_head='skip')),
}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    for name, make in NETWORKS.items():
        save_network(make(), folder / f'tiny_{name}.safetensors', {})
    return folder


@pytest.fixture(scope='module')
def camera():
    rclpy.try_shutdown()  # what an earlier test may have left
    rclpy.init()
    node = Camera('families_camera')
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_each_network_is_served_by_its_weights_alone(camera, weights, tmp_path):
    frontend = NodeProcess(
        'superpoint_ros.nodes.frontend', tmp_path, weights=weights / 'tiny_goodpoint.safetensors', warm_up_width=160,
        warm_up_height=120, stale_after=30.0, image_reliability='reliable', detection_threshold=0.0,
        max_keypoints=100,
    )  # fmt: skip
    try:
        assert camera.change_state('configure'), frontend.log
        camera.activate()
        for dimension, name in ((16, 'goodpoint'), (24, 'unsuperpoint'), (32, 'kp2d')):
            assert camera.set(weights=str(weights / f'tiny_{name}.safetensors')) == ''
            answer = camera.trigger('reload_weights')
            assert answer.success, answer.message
            first = read_features(camera.send(image_message(scene(), 'mono8', camera.header())))
            header = camera.header()
            second = read_features(camera.send(image_message(scene(), 'mono8', header)))
            assert 10 < len(first.keypoints) <= 100
            assert first.descriptors.shape == (len(first.keypoints), dimension)
            assert first.keypoints.tolist() == second.keypoints.tolist()
            assert camera.wait_for('matches', header).width > 0
            assert set(first.track_ids) & set(second.track_ids)
            _, _, values = camera.diagnostics()
            assert f'tiny_{name}' in values['detector']
        assert 'Traceback' not in frontend.log
    finally:
        frontend.stop()
