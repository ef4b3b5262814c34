"""The topics that a front-end listens to for one camera, and why nothing may come on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from superpoint_ros.nodes.channel import Channel
from superpoint_ros.nodes.optics import UNCALIBRATED

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

_KINDS = {'raw': Image, 'compressed': CompressedImage}
_TYPES = {'raw': 'sensor_msgs/msg/Image', 'compressed': 'sensor_msgs/msg/CompressedImage'}


class Inputs:
    """Subscriptions of a camera's `image` and `camera_info`."""

    def __init__(
        self,
        node: Node,
        channel: Channel,
        on_image: Callable[[Any], None],
        *,
        transport: str,
        reliability: str,
        depth: int,
    ) -> None:
        """transport, reliability: as the parameters have them. depth: images that wait for the executor's thread."""
        self._node, self._channel = node, channel
        self._transport, self._reliability = transport, ReliabilityPolicy[reliability.upper()]
        any_sender = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        newest = QoSProfile(depth=depth, reliability=self._reliability)
        info, image = f'{channel.prefix}camera_info', f'{channel.prefix}image'
        self._infos = node.create_subscription(CameraInfo, info, channel.optics.set_info, any_sender)
        self._images = _subscribe(node, _KINDS[transport], image, on_image, newest, self._on_lost)

    @property
    def topics(self) -> tuple[str, str]:
        """Full names of the topics of images and calibration."""
        return self._images.topic_name, self._infos.topic_name

    def warnings(self, stale_after: float) -> list[str]:
        """What is amiss, for people. stale_after: seconds without an image, or a processed one, that are too long."""
        topic, info_topic = self.topics
        statistics, found = self._channel.statistics, []
        if statistics.silence > stale_after:
            found.append(f'No image on {topic} for {statistics.silence:.1f} s {self._why_silent()}.')
        elif statistics.standstill > stale_after:
            found.append(f'Images come on {topic}, but none was processed for {statistics.standstill:.1f} s.')
        lost, came = statistics.lately
        if lost:
            remedy = ''
            if self._reliability == ReliabilityPolicy.BEST_EFFORT:
                remedy = (
                    ', as large ones are with best effort: set image_reliability to reliable, or start the camera with '
                    'config/fastdds.xml, too'
                )
            found.append(f'{lost} of the last {lost + came} images on {topic} were lost on the way{remedy}.')
        if self._channel.warning:
            found.append(self._channel.warning)
        elif self._channel.optics.status == UNCALIBRATED and self._channel.outputs.tracks_are_wanted:
            count = self._node.count_publishers(info_topic)
            found.append(f'Tracks are empty without a calibration on {info_topic} (publishers: {count}).')
        return found

    def destroy(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def _why_silent(self) -> str:
        """In brackets."""
        publishers = self._node.get_publishers_info_by_topic(self.topics[0])
        sent, wanted = {publisher.topic_type for publisher in publishers}, _TYPES[self._transport]
        if sent and wanted not in sent:
            return f'(its publisher sends {sent.pop()}, image_transport {self._transport} is {wanted})'
        offered = {publisher.qos_profile.reliability for publisher in publishers}
        if self._reliability == ReliabilityPolicy.RELIABLE and offered == {ReliabilityPolicy.BEST_EFFORT}:
            return '(its publisher offers best effort only: set image_reliability to best_effort)'
        return f'(publishers: {len(publishers)})'

    def _on_lost(self, event: Any) -> None:
        self._channel.statistics.on_lost(event.total_count_change)


def _subscribe(
    node: Node, kind: type, topic: str, on_message: Callable[[Any], None], qos: QoSProfile,
    on_lost: Callable[[Any], None],
) -> Any:  # fmt: skip
    """With word of what is lost, where the middleware gives it."""
    try:
        callbacks = SubscriptionEventCallbacks(message_lost=on_lost)
        return node.create_subscription(kind, topic, on_message, qos, event_callbacks=callbacks)
    except rclpy_implementation.UnsupportedEventTypeError:
        return node.create_subscription(kind, topic, on_message, qos)
