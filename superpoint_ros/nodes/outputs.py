"""The topics that a front-end publishes for each image, and for each pair of them."""

from __future__ import annotations

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud, PointCloud2
from std_msgs.msg import Header

from superpoint_ros.drawing import draw_frame
from superpoint_ros.frontend import Frame
from superpoint_ros.messages import (
    encode_features,
    encode_image,
    encode_matches,
    encode_stereo_matches,
    encode_tracks,
)
from superpoint_ros.stereo import StereoMatches

# Reliable, because a best-effort message of 1 MB is lost with any of its fragments; few: nothing queues.
_QOS = QoSProfile(depth=3, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """Publishers of one camera's `features`, `matches`, `tracks` and `debug_image`.

    What nobody listens to is not made.
    """

    def __init__(self, node: LifecycleNode, prefix: str, motion_prefix: str | None = None) -> None:
        """prefix: of the topics' names; motion_prefix: of `matches` and `tracks`, if another."""
        motion = prefix if motion_prefix is None else motion_prefix
        self._features = node.create_lifecycle_publisher(PointCloud2, f'{prefix}features', _QOS)
        self._matches = node.create_lifecycle_publisher(PointCloud2, f'{motion}matches', _QOS)
        self._tracks = node.create_lifecycle_publisher(PointCloud, f'{motion}tracks', _QOS)
        self._debug_image = node.create_lifecycle_publisher(Image, f'{prefix}debug_image', _QOS)

    @property
    def tracks_are_wanted(self) -> bool:
        """Whether somebody listens to `tracks`."""
        return self._tracks.get_subscription_count() > 0

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


class StereoOutput:
    """Publisher of `stereo_matches`."""

    def __init__(self, node: LifecycleNode) -> None:
        self._publisher = node.create_lifecycle_publisher(PointCloud2, 'stereo_matches', _QOS)

    def publish(self, matches: StereoMatches, left: Frame, right: Frame, header: Header) -> None:
        """Publish the matches of two frames under the header of the left image."""
        if self._publisher.get_subscription_count():
            self._publisher.publish(encode_stereo_matches(matches, left, right, header))

    def destroy(self, node: LifecycleNode) -> None:
        """Take the topic away."""
        node.destroy_lifecycle_publisher(self._publisher)
