"""Writes what the front-end publishes to an MCAP bag, each message under the wall time of its arrival."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from superpoint_ros.processes import Listener

TOPICS = {'camera_info': CameraInfo, 'features': PointCloud2, 'matches': PointCloud2}
IMAGE_HEADERS = 'image_header'
"""Topic in the bag with the headers of the images: when each came, without its megabyte."""


class Recorder(Listener):
    """Records TOPICS and the images' headers.

    Attributes:
        counts: messages written so far, by topic of the bag.
        problem: what `/diagnostics` last called an error, '' when all is well.
        last_arrival: `time.monotonic()` of the last message of any topic.
    """

    def __init__(self, path: Path) -> None:
        super().__init__('superpoint_demo_recorder')
        self.counts = dict.fromkeys((*TOPICS, IMAGE_HEADERS), 0)
        self.problem = ''
        self.last_arrival = time.monotonic()
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)

    def __enter__(self) -> 'Recorder':
        self._writer.open()
        super().__enter__()
        for topic, kind in TOPICS.items():
            self._subscribe(kind, topic, self._writes(topic, kind))
        write_header = self._writes(IMAGE_HEADERS, Header)
        self._subscribe(Image, 'image', lambda data: write_header(_header(data)))
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        self._writer.close()

    def hears(self, topic: str, node: str) -> bool:
        """Whether a node of that name subscribes to the topic."""
        readers = self.node.get_subscriptions_info_by_topic(self.node.resolve_topic_name(topic))
        return node in (reader.node_name for reader in readers)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        errors = [status.message for status in message.status if status.level == DiagnosticStatus.ERROR]
        self.problem = '; '.join(errors)

    def _subscribe(self, kind: type, topic: str, on_message: Callable[[bytes], None]) -> None:
        self.node.create_subscription(kind, topic, on_message, QoSProfile(depth=20), raw=True)

    def _writes(self, topic: str, kind: type) -> Callable[[bytes], None]:
        """Return a function that writes a serialised message to a topic of the bag."""
        package, _, _ = kind.__module__.partition('.')
        name = f'{package}/msg/{kind.__name__}'
        connection = self._writer.add_connection(f'/{topic}', name, typestore=self._types)

        def write(data: bytes) -> None:
            self._writer.write(connection, time.time_ns(), data)
            self.counts[topic] += 1
            self.last_arrival = time.monotonic()

        return write


def _header(image: bytes) -> bytes:
    """Cut the header off a serialised image: 4 bytes of encoding, stamp, length of the name, frame's name."""
    little_endian = image[1] & 1
    (length,) = struct.unpack_from('<I' if little_endian else '>I', image, 12)
    return image[: 16 + length]
