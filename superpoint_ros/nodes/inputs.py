"""The topics that a front-end listens to for one camera, and why nothing may come on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
_MOST_LOST_AT_ONCE = 10_000
_MOST_UNSTEADY = 0.1  # share of images whose stamps do not rise; one of them begins a recording anew
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
        self._node, self._channel, self._on_image = node, channel, on_image
        self._transport, self._asked, self._depth = transport, reliability, depth
        any_sender = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        info = f'{channel.prefix}camera_info'
        self._infos = node.create_subscription(CameraInfo, info, channel.optics.set_info, any_sender)
        self._reliability = self._fitting()
        self._images = self._subscribe()

    @property
    def topics(self) -> tuple[str, str]:
        """Full names of the topics of images and calibration."""
        return self._images.topic_name, self._infos.topic_name

    def follow(self) -> None:
        """Where that is left to us, ask for as much reliability as all publishers offer; to be called now and then."""
        fitting = self._fitting()
        if fitting != self._reliability:
            self._reliability = fitting
            self._node.destroy_subscription(self._images)
            self._images = self._subscribe()

    def warnings(self, stale_after: float) -> list[str]:
        """What is amiss, for people. stale_after: seconds without an image, or a processed one, that are too long."""
        topic, info_topic = self.topics
        statistics, found = self._channel.statistics, []
        if statistics.silence > stale_after:
            found.append(f'No image on {topic} for {statistics.silence:.1f} s {self._why_silent()}.')
        if statistics.standstill > stale_after:
            found.append(f'Images came on {topic}, but none was processed for {statistics.standstill:.1f} s.')
        found += self._warnings_of(statistics.lately)
        if self._channel.warning:
            found.append(self._channel.warning)
        elif self._channel.optics.status == UNCALIBRATED and self._channel.outputs.tracks_are_wanted:
            count = self._node.count_publishers(info_topic)
            silent = '' if self._channel.optics.was_informed or not count else ', none sent one since the activation'
            found.append(f'Tracks are empty without a calibration on {info_topic} (publishers: {count}{silent}).')
        return found

    def _warnings_of(self, lately: Mapping[str, int]) -> list[str]:
        """What is amiss with images that came lately, and that did not; see `Statistics.lately`."""
        topic, found = self._images.topic_name, []
        lost, came = lately['lost'], lately['received']
        failed, processed = lately['failed'], lately['processed']
        if lost:
            remedy = ''
            if self._reliability == ReliabilityPolicy.BEST_EFFORT:
                remedy = (
                    ', as large ones are with best effort: let the camera publish reliably and set image_reliability '
                    'to auto, or start the camera with config/fastdds.xml, too'
                )
            found.append(f'{lost} of the last {lost + came} images on {topic} were lost on the way{remedy}.')
        if failed and not self._channel.problem:  # which says it of the last one
            found.append(
                f'{failed} of the last {failed + processed} images on {topic} could not be processed, the latest for '
                f'{self._channel.failure}'
            )
        if lately['unsteady'] > _MOST_UNSTEADY * processed:
            found.append(
                f'The stamps of {lately["unsteady"]} of the last {processed} images processed on {topic} were not '
                'later than those before: there are no velocities, or no matches and tracks, where that is so.'
            )
        return found

    def destroy(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def _why_silent(self) -> str:
        """In brackets."""
        publishers = self._publishers()
        sent, wanted = {publisher.topic_type for publisher in publishers}, _TYPES[self._transport]
        if sent and wanted not in sent:
            return f'(its publisher sends {sent.pop()}, image_transport {self._transport} is {wanted})'
        offered = {publisher.qos_profile.reliability for publisher in publishers}
        if self._reliability == ReliabilityPolicy.RELIABLE and offered == {ReliabilityPolicy.BEST_EFFORT}:
            return '(its publisher offers best effort only: set image_reliability to auto)'
        return f'(publishers: {len(publishers)})'

    def _publishers(self) -> list[Any]:
        return self._node.get_publishers_info_by_topic(f'{self._channel.prefix}image')

    def _fitting(self) -> ReliabilityPolicy:
        if self._asked != 'auto':
            return ReliabilityPolicy[self._asked.upper()]
        offered = {publisher.qos_profile.reliability for publisher in self._publishers()}
        reliable = offered == {ReliabilityPolicy.RELIABLE}
        return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self) -> Any:
        """With word of what is lost, where the middleware gives it."""
        newest = QoSProfile(depth=self._depth, reliability=self._reliability)
        what = _KINDS[self._transport], f'{self._channel.prefix}image', self._on_image, newest
        try:
            callbacks = SubscriptionEventCallbacks(message_lost=self._on_lost)
            return self._node.create_subscription(*what, event_callbacks=callbacks)
        except rclpy_implementation.UnsupportedEventTypeError:
            return self._node.create_subscription(*what)

    def _on_lost(self, event: Any) -> None:
        # Fast DDS tells of a large image twice, once with the true number and once with the largest of 32 bits.
        if event.total_count_change <= _MOST_LOST_AT_ONCE:
            self._channel.statistics.on_lost(event.total_count_change)
