"""The topics that the front-end publishes for each image."""

from __future__ import annotations

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud, PointCloud2
from std_msgs.msg import Header

from superpoint_ros.drawing import draw_frame
from superpoint_ros.frontend import Frame
from superpoint_ros.messages import encode_features, encode_image, encode_matches, encode_tracks

# Reliable, because a best-effort message of 1 MB is lost with any of its fragments; few: nothing queues.
_QOS = QoSProfile(depth=3, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """Publishers of `features`, `matches`, `tracks` and `debug_image`. What nobody listens to is not made."""

    def __init__(self, node: LifecycleNode) -> None:
        self._features = node.create_lifecycle_publisher(PointCloud2, 'features', _QOS)
        self._matches = node.create_lifecycle_publisher(PointCloud2, 'matches', _QOS)
        self._tracks = node.create_lifecycle_publisher(PointCloud, 'tracks', _QOS)
        self._debug_image = node.create_lifecycle_publisher(Image, 'debug_image', _QOS)

    def publish(self, frame: Frame, image: np.ndarray, header: Header, descriptor_type: str) -> None:
        """Publish a frame under its image's header. `features` come last of the data: they say it is done."""
        if self._matches.get_subscription_count():
            self._matches.publish(encode_matches(frame, header))
        if self._tracks.get_subscription_count():
            self._tracks.publish(encode_tracks(frame, header))
        if self._features.get_subscription_count():
            self._features.publish(encode_features(frame, header, descriptor_type))
        if self._debug_image.get_subscription_count():
            self._debug_image.publish(encode_image(draw_frame(image, frame), 'rgb8', header))

    def destroy(self, node: LifecycleNode) -> None:
        """Take the topics away."""
        for publisher in (self._features, self._matches, self._tracks, self._debug_image):
            node.destroy_lifecycle_publisher(publisher)
