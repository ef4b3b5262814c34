"""From image messages to published results: what a front-end node's worker does."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import rclpy

from superpoint_ros.clouds import stamp_ns
from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError
from superpoint_ros.frontend import Frame
from superpoint_ros.images import ImageError
from superpoint_ros.nodes.channel import Arrival, Channel
from superpoint_ros.nodes.optics import View
from superpoint_ros.nodes.settings import Settings
from superpoint_ros.rig import Rig, Shot
from superpoint_ros.stopwatch import Stopwatch


@dataclass(frozen=True)
class Batch:
    """Images that are processed together, and what they saw, by the number of their camera."""

    arrivals: Mapping[int, Arrival]
    views: Mapping[int, View]
    settings: Settings
    begun: float
    """When work on them began, seconds of the monotonic clock."""
    watch: Stopwatch

    def header(self, index: int) -> Any:
        """Of the image of a camera."""
        return self.arrivals[index].message.header


class Pipeline:
    """Processes the images of one camera or several; whatever is wrong with one is counted, and logged once.

    `process` belongs to one thread. The others may replace `settings` and `detector`, call the channels'
    `optics.set_info` and set `reset_wanted` at any time: each is looked at before the next images.
    """

    def __init__(
        self, load: Callable[[str | None], Detector], settings: Settings, channels: Sequence[Channel], logger: Any
    ) -> None:
        """load: makes the detector that the parameters ask for, or the best there is on the device given.

        Raises what `load` raises.
        """
        self._load = load
        self._logger = logger
        self.settings = settings
        self.channels = channels
        self.detector = load(None)
        self.reset_wanted = False
        self.warning = ''
        """What is odd, but keeps no image from being processed, for people."""
        self.figures: dict[str, float] = {}
        """What to report of the latest images beside what the channels report, by name."""
        self._rig = Rig(self.detector, len(channels))
        self._fallback: Detector | None = None
        self._why_fallback = ''
        self._device_problem = ''

    def restart(self) -> None:
        """Expect images from now on; what was wrong with earlier ones is over."""
        self.warning = ''
        for channel in self.channels:
            channel.restart()

    @property
    def problem(self) -> str:
        """What keeps it from working, or from working as asked, for people."""
        return ' '.join(filter(None, (channel.problem for channel in self.channels))) or self._device_problem

    def process(self, arrivals: Mapping[int, Arrival]) -> None:
        """Take an Image or CompressedImage of some cameras, by their number. Never raises."""
        watch, begun, settings = Stopwatch(), monotonic(), self.settings
        views = self.see(arrivals, settings)
        watch.lap('decode')
        try:
            if views:
                self._process(Batch(arrivals, views, settings, begun, watch))
        except EngineError as error:
            self._fail(views, 'engine failure', str(error))
            self._fall_back_to_cpu(error)
        except Exception:  # a fault of ours in one image must not end the robot's sight
            self._fail(views, 'internal error', traceback.format_exc())

    def see(self, arrivals: Mapping[int, Arrival], settings: Settings) -> dict[int, View]:
        """What the cameras saw, of those whose images can be read."""
        views = {}
        for index, arrival in arrivals.items():
            try:
                views[index] = self.channels[index].view(arrival.message, settings.rectification)
            except ImageError as error:
                self._fail([index], error.cause, str(error))
            except Exception:
                self._fail([index], 'internal error', traceback.format_exc())
        return views

    def publish(self, frames: Mapping[int, Frame], batch: Batch) -> None:
        """Publish what was found, under the headers of the images."""
        for index, frame in frames.items():
            image, descriptor_type = batch.views[index].image, batch.settings.descriptor_type
            self.channels[index].outputs.publish(frame, image, batch.header(index), descriptor_type)
        batch.watch.lap('publish')

    def _process(self, batch: Batch) -> None:
        shots = {
            index: Shot(view.image, stamp_ns(batch.header(index).stamp), view.mask)
            for index, view in batch.views.items()
        }
        self._prepare(batch, shots)
        frames = self._rig.process(shots)
        batch.watch.lap('frontend')
        self.publish(frames, batch)
        self._device_problem = self._why_fallback if self._rig.detector is self._fallback else ''
        laps, now = batch.watch.laps, monotonic()
        after = {stage: laps[stage] for stage in laps if stage not in ('decode', 'frontend')}
        for index, frame in frames.items():
            came = batch.arrivals[index].time
            times = {'waited': (batch.begun - came) * 1e3, 'decode': laps['decode'], **frame.timings, **after}
            self.channels[index].done(frame, (now - came) * 1e3, times)

    def _prepare(self, batch: Batch, shots: Mapping[int, Shot]) -> None:
        """Let the front-ends follow what changed since the last images."""
        if self.reset_wanted:
            self.reset_wanted = False
            self._rig.reset()
        if self._rig.detector is not self.detector:
            self._rig.detector = self.detector
        for index, view in batch.views.items():
            frontend = self._rig.frontends[index]
            self.channels[index].prepare(frontend, view, shots[index].stamp_ns)
            batch.settings.apply(frontend)

    def _fail(self, indices: Iterable[int], cause: str, message: str) -> None:
        if rclpy.ok():  # else a signal came in mid-frame, and there is nobody to publish to
            for index in indices:
                self.channels[index].fail(cause, message)

    def _fall_back_to_cpu(self, error: EngineError) -> None:
        """Go on without a device that failed, but the CPU. Where that fails, too, the next image tries again."""
        failed = self._rig.detector
        if failed.engine.device.type == 'cpu':
            return
        for channel in self.channels:
            channel.problem = ''  # is the device's
        try:
            fallback = self._load('cpu')
        except Exception as cpu_error:  # of torch or OpenVINO, whatever they raise
            self._device_problem = f'{error}; and the CPU can not take over: {cpu_error}'
            self.channels[0].notice('no fallback', f'The CPU can not take over: {traceback.format_exc()}')
            return
        if self.detector is failed:  # else ~/reload_weights was faster
            self._device_problem = self._why_fallback = f'On the CPU, since: {error}'
            self.detector = self._fallback = fallback
            self._logger.error(f'The CPU takes over: {fallback.description}.')
