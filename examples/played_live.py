"""A sequence played in real time to the front-end's node and to `visual_odometry.py`, each a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from measured_sequences import Sequence
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from superpoint_ros.camera import Camera
from superpoint_ros.clouds import stamp_ns
from superpoint_ros.messages import encode_image
from superpoint_ros.processes import Listener, Process, isolate, own_domain, ros_arguments
from superpoint_training.evaluation.trajectories import rotation_matrix

QUIET_SECONDS = 5.0
"""Without a pose after the last image, until all are taken to have come."""


def play(sequence: Sequence, weights: str, folder: Path, focal_doubt: float = 0.0) -> dict[int, np.ndarray]:
    """Publish the images at the times of their stamps. Returns the poses heard, [4, 4] camera to world, by frame.

    Logs go to `folder`. Raises ProcessError when a node ends or does not start.
    """
    isolate(own_domain())
    os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
    stereo = len(sequence.cameras) == 2
    node = 'stereo' if stereo else 'frontend'
    frontend = ros_arguments(autostart='true', weights=weights, image_reliability='reliable')
    odometry = ros_arguments(stereo=str(stereo).lower(), focal_doubt=str(float(focal_doubt)))
    logs = {name: folder / f'{sequence.name}-{weights}-{name}.log' for name in (node, 'odometry')}
    with (
        Process(f'superpoint_ros.nodes.{node}', frontend, logs[node]) as one,
        Process('visual_odometry', odometry, logs['odometry']) as other,
        _Player(sequence) as player,
    ):
        player.wait_for(player.is_heard, one, other)
        player.spin(1.0)
        player.play()
        one.require()
        other.require()
        return player.poses


class _Player(Listener):
    """The camera, and the listener to the poses."""

    def __init__(self, sequence: Sequence) -> None:
        super().__init__('player')
        self._sequence = sequence
        self._index = {stamp: index for index, stamp in enumerate(sequence.stamps.tolist())}
        self.poses: dict[int, np.ndarray] = {}
        self._last = time.monotonic()

    def __enter__(self) -> _Player:
        super().__enter__()
        prefixes = ('left/', 'right/') if len(self._sequence.cameras) == 2 else ('',)
        qos = QoSProfile(depth=5)
        publisher = self.node.create_publisher
        self._outputs = [
            (publisher(Image, f'{prefix}image', qos), publisher(CameraInfo, f'{prefix}camera_info', qos))
            for prefix in prefixes
        ]
        self.node.create_subscription(Odometry, 'odometry', self._on_odometry, QoSProfile(depth=50))
        return self

    def is_heard(self) -> bool:
        """Whether front-end and odometry listen to this and to one another."""
        topic = 'stereo_matches' if len(self._outputs) == 2 else 'features'
        return all((
            *(images.get_subscription_count() for images, _ in self._outputs),
            self.node.count_subscribers(topic),
            self.node.count_publishers(topic),
            self.node.count_publishers('odometry'),
        ))  # fmt: skip

    def play(self) -> None:
        """All images at their times; then wait for the last poses."""
        stamps = self._sequence.stamps
        pictures = [
            [self._sequence.picture(index, camera) for camera in range(len(self._outputs))]
            for index in range(len(stamps))
        ]
        started = time.monotonic()
        for stamp, views in zip(stamps.tolist(), pictures, strict=True):
            self.spin_until(started + (stamp - int(stamps[0])) / 1e9)
            header = Header(frame_id='camera')
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
            for camera, (images, infos), view in zip(self._sequence.cameras, self._outputs, views, strict=True):
                infos.publish(camera_info(camera, header))
                images.publish(encode_image(view, 'mono8', header))
        self._last = time.monotonic()
        while time.monotonic() - self._last < QUIET_SECONDS:
            self.spin(0.1)

    def _on_odometry(self, message: Odometry) -> None:
        pose, q = message.pose.pose, message.pose.pose.orientation
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_matrix(np.array([q.x, q.y, q.z, q.w]))
        matrix[:3, 3] = pose.position.x, pose.position.y, pose.position.z
        self.poses[self._index[stamp_ns(message.header.stamp)]] = matrix
        self._last = time.monotonic()


def camera_info(camera: Camera, header: Header) -> CameraInfo:
    """The calibration as its driver would publish it."""
    K = camera.rectified.K
    P = np.column_stack([K, [-K[0, 0] * camera.baseline, 0, 0]])
    distortion = np.zeros(5)
    distortion[: len(camera.distortion)] = camera.distortion
    return CameraInfo(
        header=header, width=camera.width, height=camera.height, distortion_model='plumb_bob', d=distortion.tolist(),
        k=camera.K.ravel(), r=camera.R.ravel(), p=P.ravel(),
    )  # fmt: skip
