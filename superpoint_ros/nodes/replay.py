"""Plays a bag, a video or a folder of pictures as a camera: `image` and `camera_info`, and the time as `/clock`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic, time_ns

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from superpoint_ros.calibrations import CalibrationFileError
from superpoint_ros.clouds import serialized_stamp_ns, stamp_ns
from superpoint_ros.nodes.command_line import check_arguments
from superpoint_ros.nodes.parameters import ON_START, Parameter, ParameterError, declare
from superpoint_ros.nodes.process import run
from superpoint_ros.nodes.recordings import (
    CutShortError,
    Options,
    Recording,
    RecordingError,
    Shot,
    decompress,
    open_recording,
    time_of,
)

_LONGEST_PAUSE = 600.0
"""Recorded seconds between two images that are waited for; longer ones are those of a clock that was set."""
_FURTHEST_BACK = -1.0
"""Recorded seconds by which stamps go back where images are out of order; by more, the clock was set."""
_LAST_MESSAGE_SECONDS = 0.5
"""That the last message has to arrive before this process and its memory go."""

_TABLE = (
    Parameter('input', '', 'Bag (rosbag2 folder, .mcap, .db3, ROS 1 .bag), video, or folder of pictures.'),
    Parameter('topic', '', "Image topic in the bag; '' takes the one with the most images that are not depth."),
    Parameter(
        'camera_info_topic',
        '',
        "Calibration topic in the bag; '' takes the one that is the camera's by its name, if any.",
    ),
    Parameter('camera_info', '', 'Calibration file (YAML) to publish in place of a recorded calibration.'),
    Parameter('frame_id', 'camera', 'frame_id of pictures and videos, which have none.'),
    Parameter('fps', 30.0, 'Images per second, for pictures that have no times.', low=0.01, high=1000.0),
    Parameter(
        'rate',
        1.0,
        'Speed: 1 as recorded, 2 twice as fast; 0 sends the next image once `features` of the last one arrived.',
        low=0.0,
        high=1000.0,
    ),
    Parameter('loop', False, 'Start again at the end. Stamps keep rising.'),
    Parameter(
        'stamps',
        'recorded',
        'Stamps of the images: recorded, or now, the time of publishing.',
        choices=('recorded', 'now'),
    ),
    Parameter('clock', False, 'Publish the stamp of each image on /clock, for nodes with use_sim_time.'),
    Parameter(
        'image_transport',
        'raw',
        'raw decodes compressed recordings to Image; compressed passes them on as CompressedImage.',
        choices=('raw', 'compressed'),
    ),
    Parameter(
        'wait_for_subscribers',
        1,
        'Wait for so many subscribers of `image`; 0 starts at once.',
        low=0,
        high=100,
    ),
    Parameter(
        'answer_timeout',
        2.0,
        'At rate 0: seconds to wait for the features of an image before sending the next one anyway.',
        low=0.01,
        high=600.0,
    ),
)
PARAMETERS = tuple(replace(each, takes_effect=ON_START) for each in _TABLE)


class Replay(Node):
    """Publishes a recording's images. `play` returns when it ended."""

    def __init__(self) -> None:
        super().__init__('replay')
        self._settings = declare(self, PARAMETERS)
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)  # serves best-effort readers too
        kind = CompressedImage if self._settings['image_transport'] == 'compressed' else Image
        self._images = self.create_publisher(kind, 'image', reliable)
        self._infos = self.create_publisher(CameraInfo, 'camera_info', reliable)
        self._time = self.create_publisher(Clock, '/clock', reliable) if self._settings['clock'] else None
        self._answer: int | None = None
        if self._settings['rate'] == 0:
            self.create_subscription(PointCloud2, 'features', self._on_features, reliable, raw=True)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)

    def destroy_node(self) -> None:
        """Also end what it waits by, which would otherwise complain at the end of the process, in some orders of it."""
        self._executor.shutdown()
        super().destroy_node()

    def play(self) -> None:
        """Play to the end, again and again if told to loop.

        Raises:
            RecordingError, CalibrationFileError: there is nothing to play.
        """
        settings = self._settings
        if not settings['input']:
            raise RecordingError('Say what to play: --ros-args -p input:=PATH.')
        recording = open_recording(
            Path(settings['input']).expanduser(),
            Options(
                topic=settings['topic'],
                camera_info_topic=settings['camera_info_topic'],
                camera_info=Path(settings['camera_info']).expanduser() if settings['camera_info'] else None,
                frame_id=settings['frame_id'],
                fps=settings['fps'],
            ),
        )
        if settings['wait_for_subscribers']:
            self._wait_for_subscribers(settings['wait_for_subscribers'])
        calibration = f'calibrated by {recording.calibration}' if recording.calibration else 'uncalibrated'
        self.get_logger().info(f'Playing {recording}, {calibration}.')
        shift_ns = 0
        while True:
            end, round_ns = self._play_once(recording, shift_ns)
            if not settings['loop']:
                break
            shift_ns += round_ns
            if settings['rate'] > 0:
                self._spin_until(end)
        self._spin_until(monotonic() + _LAST_MESSAGE_SECONDS)

    def _play_once(self, recording: Recording, shift_ns: int) -> tuple[float, int]:
        """Play all images, their stamps moved by `shift_ns`.

        Returns when the next round's first is to come, in seconds of the monotonic clock, and how many recorded
        nanoseconds this round took.
        """
        rate = self._settings['rate'] or float('inf')
        began = due = monotonic()
        stamps: list[int] = []
        played = 0
        try:
            for shot in recording:
                if not stamps:  # what it took to open the recording is not to be caught up on in a burst
                    began = due = monotonic()
                elif _FURTHEST_BACK <= (step := (shot.stamp_ns - stamps[-1]) * 1e-9) <= _LONGEST_PAUSE:
                    due += step / rate
                else:
                    self.get_logger().warning(f'The stamps jump by {step:.1f} s, which is not waited for.')
                self._spin_until(due)
                stamps.append(shot.stamp_ns)
                played += self._publish(shot, shift_ns)
        except CutShortError as error:
            self.get_logger().warning(str(error))
        if not stamps:
            raise RecordingError(f'There are no images in {recording}.')
        seconds = monotonic() - began
        if not played:
            raise RecordingError(f'No image of {recording} can be read.')
        self.get_logger().info(f'Played {played} images in {seconds:.1f} s.')
        period = max(1, int(np.median(np.diff(stamps)))) if len(stamps) > 1 else 1_000_000_000
        return due + period * 1e-9 / rate, max(stamps) - min(stamps) + period

    def _publish(self, shot: Shot, shift_ns: int) -> bool:
        """Whether the image could be read."""
        image = shot.image
        if self._settings['image_transport'] == 'raw' and isinstance(image, CompressedImage):
            try:
                image = decompress(image)
            except RecordingError as error:
                self.get_logger().warning(f'Skipped: {error}')
                return False
        elif self._settings['image_transport'] == 'compressed' and isinstance(image, Image):
            raise RecordingError('These images are not compressed: leave image_transport at raw.')
        moment = self._now_ns() if self._settings['stamps'] == 'now' else shot.stamp_ns + shift_ns
        image.header.stamp = stamp = time_of(moment)
        if self._time:
            self._time.publish(Clock(clock=stamp))
        if shot.info is not None:
            shot.info.header = image.header
            self._infos.publish(shot.info)
        self._images.publish(image)
        if self._settings['rate'] == 0:
            self._wait_for_answer(stamp_ns(stamp))
        return True

    def _now_ns(self) -> int:
        """By the node's clock, unless that may be the one that is made here."""
        return time_ns() if self._time else self.get_clock().now().nanoseconds

    def _wait_for_subscribers(self, count: int) -> None:
        answered = self._settings['rate'] == 0
        answers = f', and for one to publish {self.resolve_topic_name("features")}' if answered else ''
        self.get_logger().info(f'Waiting for {count} to listen to {self._images.topic_name}{answers}.')
        while self._images.get_subscription_count() < count or (answered and not self.count_publishers('features')):
            self._executor.spin_once(timeout_sec=0.05)
        # The other side may know of this one a little later.
        self._spin_until(monotonic() + 0.3)

    def _wait_for_answer(self, stamp: int) -> None:
        deadline = monotonic() + self._settings['answer_timeout']
        while self._answer != stamp and (left := deadline - monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _on_features(self, serialized: bytes) -> None:
        self._answer = serialized_stamp_ns(serialized)  # all that is needed of 1 MB

    def _spin_until(self, moment: float) -> None:
        while (left := moment - monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)


def main(args: list[str] | None = None) -> None:
    """Play until the recording ends or a signal comes."""
    check_arguments('replay', __doc__, PARAMETERS, args)
    run('replay', Replay, Replay.play, args, refusals=(RecordingError, CalibrationFileError, ParameterError))


if __name__ == '__main__':
    main()
