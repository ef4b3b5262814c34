"""From image messages to published results: what a front-end node's worker does."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import rclpy

from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError
from superpoint_ros.frontend import Frame
from superpoint_ros.images import ImageError
from superpoint_ros.messages import stamp_ns
from superpoint_ros.nodes.channel import Arrival, Channel
from superpoint_ros.nodes.optics import View
from superpoint_ros.nodes.settings import Settings
from superpoint_ros.rig import Rig, Shot
from superpoint_ros.stopwatch import Stopwatch


@dataclass(frozen=True)
class Seen:
    """An image that was read."""

    arrival: Arrival
    view: View
    decode_ms: float

    @property
    def header(self) -> Any:
        """Of its message."""
        return self.arrival.message.header


@dataclass(frozen=True)
class Batch:
    """Images that are processed together, by the number of their camera."""

    images: Mapping[int, Seen]
    settings: Settings
    begun: float
    """When work on them began, seconds of the monotonic clock."""
    watch: Stopwatch


class Pipeline:
    """Processes the images of one camera or several; whatever is wrong with one is counted, and logged once.

    `see` belongs to one thread, `process` to one. Others may replace `settings` and `detector`, call the channels'
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

    @property
    def problem(self) -> str:
        """What keeps it from working, or from working as asked, for people."""
        return ' '.join(filter(None, (channel.problem for channel in self.channels))) or self._device_problem

    def see(self, arrivals: Mapping[int, Arrival]) -> dict[int, Seen]:
        """Read an Image or CompressedImage of some cameras, by their number; without those that can't be read."""
        seen, rectification = {}, self.settings.rectification
        for index, arrival in arrivals.items():
            watch = Stopwatch()
            try:
                view = self.channels[index].view(arrival.message, rectification)
            except ImageError as error:
                self._fail([index], error.cause, str(error))
            except Exception:
                self._fail([index], 'internal error', traceback.format_exc())
            else:
                watch.lap('decode')
                seen[index] = Seen(arrival, view, watch.laps['decode'])
        return seen

    def process(self, images: Mapping[int, Seen]) -> None:
        """Find, match, track and publish what images of one moment show. Never raises."""
        try:
            self._process(Batch(images, self.settings, monotonic(), Stopwatch()))
        except EngineError as error:
            self._fail(images, 'engine failure', str(error))
            self._fall_back_to_cpu(error)
        except Exception:  # a fault of ours in one image must not end the robot's sight
            self._fail(images, 'internal error', traceback.format_exc())

    def publish(self, frames: Mapping[int, Frame], batch: Batch) -> None:
        """Publish what was found, under the headers of the images."""
        for index, frame in frames.items():
            seen = batch.images[index]
            self.channels[index].outputs.publish(frame, seen.view.image, seen.header, batch.settings.descriptor_type)
        batch.watch.lap('publish')

    def _process(self, batch: Batch) -> None:
        shots = {
            index: Shot(seen.view.image, stamp_ns(seen.header.stamp), seen.view.mask)
            for index, seen in batch.images.items()
        }
        self._prepare(batch, shots)
        frames = self._rig.process(shots)
        batch.watch.lap('frontend')
        self.publish(frames, batch)
        self._device_problem = self._why_fallback if self._rig.detector is self._fallback else ''
        laps, now = batch.watch.laps, monotonic()
        after = {stage: laps[stage] for stage in laps if stage != 'frontend'}
        for index, frame in frames.items():
            seen = batch.images[index]
            waited = (batch.begun - seen.arrival.time) * 1e3 - seen.decode_ms
            times = {'waited': waited, 'decode': seen.decode_ms, **frame.timings, **after}
            self.channels[index].done(frame, (now - seen.arrival.time) * 1e3, times)

    def _prepare(self, batch: Batch, shots: Mapping[int, Shot]) -> None:
        """Let the front-ends follow what changed since the last images."""
        if self.reset_wanted:
            self.reset_wanted = False
            self._rig.reset()
        if self._rig.detector is not self.detector:
            self._rig.detector = self.detector
        for index, seen in batch.images.items():
            frontend = self._rig.frontends[index]
            self.channels[index].prepare(frontend, seen.view, shots[index].stamp_ns)
            batch.settings.apply(frontend)

    def _fail(self, indices: Iterable[int], cause: str, message: str) -> None:
        if rclpy.ok():  # else a signal came in mid-frame, and there is nobody to publish to
            for index in indices:
                self.channels[index].fail(cause, message)

    def _fall_back_to_cpu(self, error: EngineError) -> None:
        """Go on without the device that failed. Where that fails, too, the next image tries again."""
        failed = self._rig.detector
        if failed is self._fallback:
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
