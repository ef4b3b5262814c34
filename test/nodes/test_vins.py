"""`tracks` as the VINS estimators read it: their input, rebuilt from messages, against the points that were seen.

What their sources say, of HKUST-Aerial-Robotics: VINS-Mono's estimator_node.cpp takes channel 0, rounded, for the id,
1 and 2 for the pixel and 3 and 4 for the velocity, wants z to be 1 exactly, and passes over the first message.
VINS-Fusion's rosNodeTest.cpp takes channel 0, cut off, for the id, 1 for the camera, 2 to 5 for pixel and velocity,
and 6 to 8 for a true position where there are more than five. In feature_manager.cpp of both, the n-th observation of
an id belongs to the n-th message after its first.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
from ros_processes import Camera as Listener
from ros_processes import NodeProcess
from sensor_msgs.msg import PointCloud
from std_msgs.msg import Header

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features
from superpoint_ros.frontend import Frontend
from superpoint_ros.messages import encode_tracks

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

from vins_fusion import for_vins_fusion  # noqa: E402

CAMERA = Camera(np.array([[300, 0, 319.5], [0, 300, 239.5], [0, 0, 1.0]]), np.zeros(0), 'none', 640, 480)
PERIOD = 0.1


class World:
    """A camera that passes points, each of which fails to be seen now and then."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.points = rng.uniform([-4, -3, 4], [6, 3, 12], (300, 3))
        self.descriptors = rng.normal(size=(300, 64)).astype(np.float32)
        self.descriptors /= np.linalg.norm(self.descriptors, axis=1, keepdims=True)
        self.rng = rng

    def pixels(self, step: int) -> np.ndarray:
        """[300, 2] of all points at a time."""
        local = self.points - [0.1 * step, 0.02 * step, 0.05 * step]
        return local[:, :2] / local[:, 2:] * 300 + [319.5, 239.5]

    def features(self, step: int) -> Features:
        pixels = self.pixels(step)
        seen = ((pixels >= 0) & (pixels < [640, 480])).all(axis=1) & (self.rng.random(300) < 0.9)
        rows = self.rng.permutation(np.flatnonzero(seen))
        return Features(pixels[rows].astype(np.float32), np.ones(len(rows), np.float32), self.descriptors[rows])


@pytest.fixture(scope='module')
def world() -> World:
    return World()


@pytest.fixture(scope='module')
def messages(world) -> list[PointCloud]:
    """What the front-end publishes, one message an image."""
    frontend, sent = Frontend(None, camera=CAMERA), []
    for step in range(25):
        stamp_ns = 10**9 + round(step * PERIOD * 1e9)
        header = Header(frame_id='camera')
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        sent.append(encode_tracks(frontend.advance(world.features(step), (640, 480), stamp_ns), header))
    return sent


def as_vins_mono(message: PointCloud) -> dict[int, list[tuple[int, list[float]]]]:
    cameras = 1
    image = defaultdict(list)
    for i, point in enumerate(message.points):
        number = int(message.channels[0].values[i] + 0.5)
        assert point.z == 1
        numbers = [point.x, point.y, point.z, *(message.channels[c].values[i] for c in (1, 2, 3, 4))]
        image[number // cameras].append((number % cameras, numbers))
    return image


def as_vins_fusion(message: PointCloud) -> dict[int, list[tuple[int, list[float]]]]:
    frame = defaultdict(list)
    for i, point in enumerate(message.points):
        number, camera = (int(message.channels[c].values[i]) for c in (0, 1))
        if len(message.channels) > 5:
            assert [message.channels[c].values[i] for c in (6, 7, 8)] == [0, 0, 0]
        assert point.z == 1
        numbers = [point.x, point.y, point.z, *(message.channels[c].values[i] for c in (2, 3, 4, 5))]
        frame[number].append((camera, numbers))
    return frame


def as_vins_fusion_relayed(message: PointCloud) -> dict[int, list[tuple[int, list[float]]]]:
    return as_vins_fusion(for_vins_fusion(message))


READERS = pytest.mark.parametrize('read', [as_vins_mono, as_vins_fusion_relayed])


@READERS
def test_the_first_image_is_left_out_and_later_ones_are_full(messages, read):
    counts = [len(read(message)) for message in messages]
    assert counts[0] == 0
    assert min(counts[1:]) > 50


@READERS
def test_each_id_is_once_in_a_message_and_of_the_first_camera(messages, read):
    for message in messages:
        for observations in read(message).values():
            assert [camera for camera, _ in observations] == [0]


@READERS
def test_observations_count_messages_from_the_first_and_are_of_one_point(world, messages, read):
    """The estimators' bookkeeping: start frame and number of observations. No gap may be in between."""
    start, observed = {}, defaultdict(list)
    for index, message in enumerate(messages):
        for number, [(_, numbers)] in read(message).items():
            assert index == start.setdefault(number, index) + len(observed[number])
            pixel = numbers[3:5]
            distances = np.linalg.norm(world.pixels(index) - pixel, axis=1)
            assert distances.min() < 0.01
            observed[number].append(int(distances.argmin()))
    assert max(map(len, observed.values())) > 10
    assert {len(set(points)) for points in observed.values()} == {1}


@READERS
def test_rays_are_normalised_and_velocities_are_theirs(world, messages, read):
    for index, message in enumerate(messages[1:], 1):
        for [(_, (x, y, _, u, v, velocity_x, velocity_y))] in read(message).values():
            assert (x, y) == pytest.approx(((u - 319.5) / 300, (v - 239.5) / 300), abs=1e-5)
            point = int(np.linalg.norm(world.pixels(index) - [u, v], axis=1).argmin())
            moved = (world.pixels(index)[point] - world.pixels(index - 1)[point]) / 300 / PERIOD
            assert (velocity_x, velocity_y) == pytest.approx(tuple(moved), abs=1e-4)


def test_five_channels_are_too_few_for_vins_fusion(messages):
    """Why there is a relay."""
    with pytest.raises(IndexError):
        as_vins_fusion(messages[1])


def test_the_relay_over_a_real_topic(messages, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(EXAMPLES), prepend=':')
    rclpy.init()
    listener = Listener('listener')
    relay = NodeProcess('vins_fusion', tmp_path)
    try:
        publisher = listener.create_publisher(PointCloud, 'tracks', 10)
        listener.listen(PointCloud, 'vins_tracks')
        listener.spin_until(lambda: publisher.get_subscription_count() == 2, 'the relay')
        listener.spin_until(lambda: listener.count_publishers('vins_tracks'), 'its topic')

        def heard() -> bool:
            publisher.publish(messages[5])
            return bool(listener.heard['vins_tracks'])

        listener.spin_until(heard, 'a relayed message')
        assert listener.latest('vins_tracks') == for_vins_fusion(messages[5])
    finally:
        relay.stop()
        listener.destroy_node()
        rclpy.try_shutdown()
