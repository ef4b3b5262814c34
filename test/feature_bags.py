"""A world of points seen by a camera that walks past it, as a bag of `features` and `camera_info`."""

from array import array
from pathlib import Path

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_msgs.msg import Header

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features
from superpoint_ros.frontend import Frontend
from superpoint_ros.messages import encode_features

SIZE = (640, 480)
K = np.array([[420.0, 0, 310], [0, 420, 250], [0, 0, 1]])
PERIOD_NS = 100_000_000


def camera_info(model: str = 'plumb_bob', distortion: tuple[float, ...] = (0.0,) * 5) -> CameraInfo:
    info = CameraInfo(width=SIZE[0], height=SIZE[1], distortion_model=model, d=list(distortion))
    info.k, info.r, info.p = K.ravel(), np.eye(3).ravel(), np.insert(K, 3, 0, axis=1).ravel()
    return info


class Walk:
    """Points ahead of a camera that walks to the right and turns to the left."""

    def __init__(self, frames: int, points: int = 400, noise: float = 0.1) -> None:
        self.rng = np.random.default_rng(8)
        self.points = self.rng.uniform([-3, -2, 4], [6, 2, 9], (points, 3))
        descriptors = self.rng.normal(size=(points, 32)).astype(np.float32)
        self.descriptors = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
        self.noise = noise
        self.turns = [cv2.Rodrigues(np.array([0.01 * i, -0.025 * i, 0.005 * i]))[0] for i in range(frames)]
        self.positions = np.array([[0.15 * i, 0.05 * np.sin(i / 3), 0.05 * i] for i in range(frames)])

    def features(self, index: int) -> Features:
        local = (self.points - self.positions[index]) @ self.turns[index]
        pixels = local[:, :2] / local[:, 2:] * K[0, 0] + K[:2, 2]
        pixels = pixels + self.rng.normal(0, self.noise, pixels.shape)
        rows = np.flatnonzero(((pixels >= 0) & (pixels < SIZE)).all(axis=1) & (local[:, 2] > 0.5))
        return Features(pixels[rows].astype(np.float32), np.ones(len(rows), np.float32), self.descriptors[rows])

    def messages(self) -> list[PointCloud2]:
        frontend = Frontend(None, camera=Camera.from_info(camera_info()))
        messages = []
        for index in range(len(self.positions)):
            stamp_ns = (index + 1) * PERIOD_NS
            header = Header(frame_id='camera')
            header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
            frame = frontend.advance(self.features(index), SIZE, stamp_ns)
            messages.append(encode_features(frame, header, 'int8'))
        return messages


def write_bag(path: Path, features: dict[str, list[PointCloud2]], infos: dict[str, list[CameraInfo]]) -> Path:
    """A bag with these topics."""
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, given in infos.items():
            connection = writer.add_connection(topic, 'sensor_msgs/msg/CameraInfo', typestore=types)
            for info in given:
                writer.write(connection, 1, serialize_message(info))
        for topic, messages in features.items():
            connection = writer.add_connection(topic, 'sensor_msgs/msg/PointCloud2', typestore=types)
            for index, message in enumerate(messages):
                writer.write(connection, 2 + index, serialize_message(message))
    return path


def some_cloud() -> PointCloud2:
    """Not features."""
    return PointCloud2(data=array('B'))
