"""From an image message to published results: what the front-end node's worker does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import rclpy

from superpoint_ros.camera import Camera
from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.images import ImageError, to_array
from superpoint_ros.messages import stamp_ns
from superpoint_ros.nodes.optics import Optics, View
from superpoint_ros.nodes.outputs import Outputs
from superpoint_ros.nodes.settings import Settings
from superpoint_ros.nodes.statistics import Statistics
from superpoint_ros.stopwatch import Stopwatch


class Pipeline:
    """Processes one image message after the other; whatever is wrong with one is counted, and logged once.

    `process` belongs to one thread. The others may replace `settings` and `detector`, call `optics.set_info`
    and set `reset_wanted` at any time: each is looked at before the next image.
    """

    def __init__(
        self,
        load: Callable[[str | None], Detector],
        settings: Settings,
        mask: np.ndarray | None,
        outputs: Outputs,
        statistics: Statistics,
        logger: Any,
    ) -> None:
        """load: makes the detector that the parameters ask for, or the best there is on the device given.

        Raises what `load` raises.
        """
        self._load = load
        self._outputs = outputs
        self._statistics = statistics
        self._logger = logger
        self.settings = settings
        self.optics = Optics(mask, self._notice)
        self.detector = load(None)
        self.reset_wanted = False
        self.problem = ''
        """What keeps it from working, or from working as asked, for people."""
        self._frontend = Frontend(self.detector)
        self._fallback: Detector | None = None
        self._why_fallback = ''
        self._last_stamp_ns = 0
        self._rectified_by: Camera | None = None

    def process(self, message: Any, received: float) -> None:
        """Take an Image or CompressedImage that came at this time of the monotonic clock. Never raises."""
        try:
            self._process(message, received)
        except ImageError as error:
            self._fail(error.cause, str(error))
        except EngineError as error:
            self._fail('engine failure', str(error))
            self._fall_back_to_cpu(error)
        except Exception:  # a fault of ours in one image must not end the robot's sight
            if rclpy.ok():  # else a signal came in mid-frame, and there is nobody to publish to
                self._fail('internal error', traceback.format_exc())

    def _process(self, message: Any, received: float) -> None:
        settings = self.settings
        watch = Stopwatch()
        waited = (monotonic() - received) * 1e3
        view = self.optics.view(to_array(message), settings.rectification)
        watch.lap('decode')
        stamp = stamp_ns(message.header.stamp)
        self._prepare(settings, view, stamp)
        frame = self._frontend.process(view.image, stamp, view.mask)
        watch.lap('frontend')
        self._outputs.publish(frame, view.image, message.header, settings.descriptor_type)
        watch.lap('publish')
        self._last_stamp_ns = stamp
        self.problem = self._why_fallback if self._frontend.detector is self._fallback else ''
        times = {
            'waited': waited,
            'decode': watch.laps['decode'],
            **frame.timings,
            'publish': watch.laps['publish'],
        }
        latency = (monotonic() - received) * 1e3
        self._statistics.on_processed(latency, _figures(frame) | {f'{k}_ms': v for k, v in times.items()})

    def _prepare(self, settings: Settings, view: View, stamp: int) -> None:
        """Let the front-end follow what changed since the last image."""
        frontend = self._frontend
        if self.reset_wanted:
            self.reset_wanted = False
            frontend.reset()
        if frontend.detector is not self.detector:
            frontend.detector = self.detector
        if view.rectified_by is not self._rectified_by:
            self._rectified_by = view.rectified_by
            frontend.begin_anew()
        if frontend.camera is not view.camera:
            frontend.camera = view.camera
        settings.apply(frontend)
        if stamp < self._last_stamp_ns:
            back = (self._last_stamp_ns - stamp) * 1e-9
            self._notice('time went back', f'The stamps went back by {back:.3f} s: tracks start anew.')

    def _fail(self, cause: str, message: str) -> None:
        self.problem = f'{cause}: {message.splitlines()[-1]}'
        if self._statistics.on_failed(cause):
            self._logger.error(f'An image was skipped. {message} Further ones are only counted.')

    def _notice(self, cause: str, message: str) -> None:
        if self._statistics.on_noticed(cause):
            self._logger.warning(message)

    def _fall_back_to_cpu(self, error: EngineError) -> None:
        """Go on without the device that failed. Where that fails, too, the next image tries again."""
        failed = self._frontend.detector
        if failed is self._fallback:
            return
        try:
            fallback = self._load('cpu')
        except Exception as cpu_error:  # of torch or OpenVINO, whatever they raise
            self.problem = f'{error}; and the CPU can not take over: {cpu_error}'
            self._notice('no fallback', f'The CPU can not take over: {traceback.format_exc()}')
            return
        if self.detector is failed:  # else ~/reload_weights was faster
            self.problem = self._why_fallback = f'On the CPU, since: {error}'
            self.detector = self._fallback = fallback
            self._logger.error(f'The CPU takes over: {fallback.description}.')


def _figures(frame: Frame) -> dict[str, float]:
    matches, inliers = len(frame.matches), int(frame.matches.inlier.sum())
    return {
        'keypoints': len(frame.features),
        'matches': matches,
        'inliers': inliers,
        'inlier_ratio': inliers / matches if matches else 0.0,
    }
