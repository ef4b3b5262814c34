"""The lifecycle node `superpoint_stereo`: pairs of images in; features of both, matches and points out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from superpoint_ros.camera import Camera
from superpoint_ros.frontend import Frame
from superpoint_ros.nodes.channel import Arrival
from superpoint_ros.nodes.command_line import check_arguments
from superpoint_ros.nodes.frontend import FrontendNode, serve
from superpoint_ros.nodes.optics import View
from superpoint_ros.nodes.outputs import Outputs, StereoOutput
from superpoint_ros.nodes.pairing import Pairing, make_pairing
from superpoint_ros.nodes.pipeline import Batch, Pipeline
from superpoint_ros.nodes.process import run
from superpoint_ros.nodes.settings import STEREO_PARAMETERS, Settings
from superpoint_ros.nodes.worker import NewestWins
from superpoint_ros.stereo import (
    StereoCamera,
    StereoError,
    StereoMatches,
    StereoSettings,
    count_swapped,
    match_stereo,
)

LEFT, RIGHT = 0, 1
_FEW = 0.2  # share of the left features; with fewer matches it is worth asking whether the images are swapped
_SURELY_SWAPPED = 20  # matches


class StereoPipeline(Pipeline):
    """Processes pairs, whole or not at all, and matches the two images of each."""

    def __init__(self, *args: Any, output: StereoOutput, info_topics: Sequence[str]) -> None:
        """info_topics: where the calibrations of both come."""
        super().__init__(*args)
        self._output = output
        self._info_topics = info_topics
        self._cameras: tuple[Camera | None, ...] = ()
        self._camera: StereoCamera | None = None
        self._why_no_camera = ''

    def see(self, arrivals: Mapping[int, Arrival], settings: Settings) -> dict[int, View]:
        """What the cameras saw, if both images can be read."""
        views = super().see(arrivals, settings)
        if len(views) == 2:
            return views
        for index in views:
            self.channels[index].statistics.on_dropped()
        return {}

    def publish(self, frames: Mapping[int, Frame], batch: Batch) -> None:
        """Match the two frames, and publish what was found under the headers of the images."""
        left, right, settings = frames[LEFT], frames[RIGHT], batch.settings.stereo
        self._follow(batch.views[LEFT].camera, batch.views[RIGHT].camera)
        matches = StereoMatches.empty()
        if self._camera is not None:
            matches = match_stereo(left.features, right.features, self._camera, settings)
        self.warning = self._why_no_camera or self._why_few(left, right, matches, settings)
        self.figures = _figures(left, matches)
        batch.watch.lap('stereo')
        self._output.publish(matches, left, right, batch.header(LEFT))
        super().publish(frames, batch)

    def _follow(self, left: Camera | None, right: Camera | None) -> None:
        """Take the cameras of the images at hand as the pair."""
        if (left, right) == self._cameras:
            return
        self._cameras, self._camera = (left, right), None
        if left is None or right is None:
            cameras = zip(self._info_topics, (left, right), strict=True)
            topics = ' and '.join(topic for topic, camera in cameras if not camera)
            self._why_no_camera = f'No stereo matches: no usable calibration has come on {topics}.'
            return
        try:
            self._camera, self._why_no_camera = StereoCamera(left, right), ''
        except StereoError as error:
            self._why_no_camera = f'No stereo matches: {error}'
            self._notice('wrong stereo calibration', self._why_no_camera)

    def _why_few(self, left: Frame, right: Frame, matches: StereoMatches, settings: StereoSettings) -> str:
        if self._camera is None or len(matches) >= _FEW * len(left.features):
            return ''
        swapped = count_swapped(left.features, right.features, self._camera, settings)
        if swapped < _SURELY_SWAPPED or swapped < 2 * len(matches):
            return ''
        warning = (
            f'{swapped} matches have negative disparities, {len(matches)} positive ones: '
            'the left and the right image seem to be swapped.'
        )
        self._notice('negative disparities', warning)
        return warning

    def _notice(self, cause: str, message: str) -> None:
        if self.channels[RIGHT].statistics.on_noticed(cause):
            self._logger.warning(message)


class StereoNode(FrontendNode):
    """A front-end for two cameras, whose images are paired by their stamps."""

    _depth = 5  # an image lost to a moment's delay would cost its partner, too
    _paired = True

    def __init__(self) -> None:
        super().__init__('superpoint_stereo', STEREO_PARAMETERS, ('left', 'right'))
        self._pairing: Pairing | None = None
        self._last_pair = monotonic()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the pairing and the worker, and listen."""
        slop_ns = round(self._values['pairing.slop'] * 1e9)
        self._pairing = make_pairing(slop_ns, self._on_pair, self._on_unpaired)
        self._last_pair = monotonic()
        self.get_logger().info(f'Pairs images by {self._pairing.description}.')
        return super().on_activate(state)

    def _make_outputs(self, name: str) -> Outputs:
        return Outputs(self, f'{name}/', motion_prefix='' if name == 'left' else None)

    def _make_pipeline(self) -> Pipeline:
        output = StereoOutput(self)
        self._outputs.append(output)
        info_topics = [self.resolve_topic_name(f'{name}/camera_info') for name in self._cameras]
        return StereoPipeline(
            self._load, self._settings, self._channels, self.get_logger(), output=output, info_topics=info_topics
        )

    def _make_worker(self) -> NewestWins[Any]:
        """Its one source are pairs."""
        pipeline = self._pipeline
        assert pipeline is not None
        return NewestWins(lambda pairs: pipeline.process(pairs[0]), self._on_dropped, self.get_logger().error)

    def _take(self, index: int, arrival: Arrival) -> None:
        if self._pairing is not None:
            self._pairing.put(index, arrival)

    def _on_pair(self, left: Arrival, right: Arrival) -> None:
        self._last_pair = monotonic()
        if self._worker is not None:
            self._worker.put({LEFT: left, RIGHT: right})

    def _on_unpaired(self, camera: int) -> None:
        self._channels[camera].statistics.on_unpaired()

    def _on_dropped(self, source: int) -> None:
        for channel in self._channels:
            channel.statistics.on_dropped()

    def _latest_warning(self) -> str:
        """What is odd about the latest pair, or about there being none."""
        since, stale_after = monotonic() - self._last_pair, self._settings.stale_after
        both_come = all(channel.statistics.silence <= stale_after for channel in self._channels)
        if self._pairing is None or since <= stale_after:
            return super()._latest_warning()
        left, right = self._pairing.waiting
        if not (both_come and left and right):
            return ''
        apart = min(abs(a - b) for a in left for b in right) * 1e-6
        return (
            f'No two images made a pair for {since:.1f} s: the stamps that wait differ by {apart:.3f} ms or more. '
            'Synchronise the cameras, or raise pairing.slop.'
        )

    def _stop(self) -> None:
        super()._stop()
        if self._pairing is not None:
            self._pairing.clear()
            self._pairing = None


def _figures(left: Frame, matches: StereoMatches) -> dict[str, float]:
    features = len(left.features)
    return {
        'stereo_matches': len(matches),
        'stereo_share': len(matches) / features if features else 0.0,
        'epipolar_residual_px': float(np.median(np.abs(matches.residual))) if len(matches) else float('nan'),
    }


def main(args: list[str] | None = None) -> None:
    """Run the node until a signal comes."""
    check_arguments('stereo_frontend', __doc__, STEREO_PARAMETERS, args)
    run('stereo_frontend', StereoNode, serve, args)


if __name__ == '__main__':
    main()
