"""One camera of a front-end node: what is known of it, where its results go, and how it fares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from superpoint_ros.calibrations import Calibration
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.images import to_array
from superpoint_ros.nodes.optics import Optics, View
from superpoint_ros.nodes.outputs import Outputs
from superpoint_ros.nodes.statistics import Statistics


class Arrival(NamedTuple):
    """An image message and when it came, in seconds of the monotonic clock."""

    message: Any
    time: float

    @property
    def header(self) -> Any:
        """The message's; by it arrivals are paired as messages are."""
        return self.message.header


def topic_prefix(name: str) -> str:
    """What the names of a camera's topics begin with."""
    return f'{name}/' if name else ''


class Channel:
    """One camera of a front-end node. `name` is '' where it is the only one."""

    def __init__(
        self,
        name: str,
        outputs: Outputs,
        statistics: Statistics,
        mask: np.ndarray | None,
        logger: Any,
        calibration: Calibration | None = None,
    ) -> None:
        """mask, calibration: see `Optics`."""
        self.name = name
        self.outputs = outputs
        self.statistics = statistics
        self.optics = Optics(mask, self.notice, calibration)
        self.problem = ''
        """Why the last image failed, for people; '' if it did not."""
        self.failure = ''
        """Why the latest did that failed, for people."""
        self._logger = logger
        self._last_stamp_ns: int | None = None
        self._is_rectified = False

    def restart(self) -> None:
        """Expect images from now on; what was wrong with earlier ones is over."""
        self.statistics.restart_clock()
        self.problem = ''

    @property
    def prefix(self) -> str:
        """Of the camera's topics, and of its figures."""
        return topic_prefix(self.name)

    @property
    def warning(self) -> str:
        """What is odd of the camera, but keeps no image from being processed, for people; '' where nothing is."""
        return self.optics.warning and f'{self._said}{self.optics.warning}'

    def view(self, message: Any, rectification: str) -> View:
        """The picture in an Image or CompressedImage; raises ImageError."""
        return self.optics.view(to_array(message), rectification)

    def prepare(self, frontend: Frontend, view: View, stamp: int) -> None:
        """Let the camera's front-end follow what changed since its last image."""
        if view.is_rectified != self._is_rectified:
            self._is_rectified = view.is_rectified
            frontend.begin_anew()
        if frontend.camera is not view.camera:
            frontend.camera = view.camera
        if self._last_stamp_ns is None:
            return
        step = (stamp - self._last_stamp_ns) * 1e-9
        if step <= 0:
            self.statistics.on_unsteady()
        if step < 0:
            self.notice('time went back', f'The stamps went back by {-step:.3f} s: tracks start anew.')
        if step == 0:
            self.notice('time stood still', 'Two images have the same stamp: velocities between them are 0.')

    def done(self, frame: Frame, latency_ms: float, times: dict[str, float]) -> None:
        """Count a frame that was published."""
        self._last_stamp_ns = frame.stamp_ns
        self.problem = ''
        self.statistics.on_processed(latency_ms, _figures(frame) | {f'{k}_ms': v for k, v in times.items()})

    def fail(self, cause: str, message: str) -> None:
        """Count an image that could not be processed; log the first of each cause."""
        self.failure = f'{cause}: {message.splitlines()[-1].rstrip(".")}.'
        self.problem = f'{self._said}{self.failure}'
        if self.statistics.on_failed(cause):
            self._logger.error(f'{self._said}An image was skipped. {message} Further ones are only counted.')

    def notice(self, cause: str, message: str) -> None:
        """Count something odd; log the first of each cause."""
        if self.statistics.on_noticed(cause):
            self._logger.warning(f'{self._said}{message}')

    @property
    def _said(self) -> str:
        return f'{self.name}: ' if self.name else ''


def _figures(frame: Frame) -> dict[str, float]:
    matches, inliers = len(frame.matches), int(frame.matches.inlier.sum())
    return {
        'keypoints': len(frame.features),
        'matches': matches,
        'inliers': inliers,
        'inlier_ratio': inliers / matches if matches else 0.0,
    }
