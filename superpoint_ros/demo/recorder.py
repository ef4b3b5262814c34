"""Writes what arrives on some topics to an MCAP bag, each message under the wall time of its arrival."""

import time
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, PointCloud2

TOPICS = {'camera_info': CameraInfo, 'features': PointCloud2, 'matches': PointCloud2}


class Recorder:
    """A ROS 2 node of its own that records TOPICS; a context manager, since it has to close its bag.

    Attributes:
        counts: messages written so far, by topic.
        last_arrival: `time.monotonic()` of the last message of any topic.
    """

    def __init__(self, path: Path) -> None:
        self.counts = dict.fromkeys(TOPICS, 0)
        self.last_arrival = time.monotonic()
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._context = Context()

    def __enter__(self) -> 'Recorder':
        self._writer.open()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('superpoint_demo_recorder', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        for topic, message in TOPICS.items():
            self._record(topic, message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        self._writer.close()

    def spin(self, seconds: float) -> None:
        """Record for so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _record(self, topic: str, message: type) -> None:
        name = f'sensor_msgs/msg/{message.__name__}'
        connection = self._writer.add_connection(f'/{topic}', name, typestore=self._types)

        def write(data: bytes, connection: Connection = connection) -> None:
            self._writer.write(connection, time.time_ns(), data)
            self.counts[topic] += 1
            self.last_arrival = time.monotonic()

        self.node.create_subscription(message, topic, write, QoSProfile(depth=100), raw=True)
