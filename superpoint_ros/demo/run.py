"""One run of the demo: replay and front-end as processes, a recorder, then figures and pictures."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from superpoint_ros.demo.pictures import Image, draw_motion, draw_pair, join, write_video
from superpoint_ros.demo.recorder import Recorder
from superpoint_ros.demo.sequence import remove_recording
from superpoint_ros.demo.summary import Run, Transfer, read_run, summarise
from superpoint_ros.images import ImageError, to_array
from superpoint_ros.networks import STRIDE
from superpoint_ros.nodes.recordings import CutShortError, Options, Recording, open_recording
from superpoint_ros.processes import Process, isolate, ros_arguments

QUIET_SECONDS = 1.5
"""Without a message after the last image, the front-end is done."""


class DemoError(RuntimeError):
    """The demo can't go on; the message says why."""


@dataclass(frozen=True)
class Source:
    """What is played: a recording, its image topic ('' for that with most images), its truth if known.

    camera_info: calibration file that stands in for a recorded calibration.
    """

    path: Path
    topic: str = ''
    camera_info: Path | None = None
    transfer: Transfer | None = None

    def open(self) -> Recording:
        """Open the recording.

        Raises:
            RecordingError: it can't be played.
            CalibrationFileError: its calibration can't be read.
        """
        return open_recording(self.path, Options(topic=self.topic, camera_info=self.camera_info))

    def images(self) -> Iterator[tuple[int, Image]]:
        """Stamps and readable images [H, W, 3] of the recording, as far as it goes."""
        with suppress(CutShortError):
            for shot in self.open():
                try:
                    grey = to_array(shot.image)
                except ImageError:
                    continue
                yield shot.stamp_ns, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR).astype(np.uint8)


@dataclass(frozen=True)
class Settings:
    """How it is played; a rate of 0 sends an image when the one before was answered."""

    weights: str = 'superpoint'
    rate: float = 1.0
    domain: int = 1


def run(source: Source, output: Path, settings: Settings) -> dict[str, Any]:
    """Play a source to a front-end, and write bag, logs, pictures and figures to a folder.

    Returns:
        The figures, see `summarise`.

    Raises:
        RecordingError: the source can't be played, or something else is where the bag goes.
        CalibrationFileError: its calibration can't be read.
        ProcessError, DemoError: the front-end or the replay did not work.
    """
    source.open()
    output.mkdir(parents=True, exist_ok=True)
    bag = output / 'run'
    results = [output / name for name in ('matches.png', 'matches.mp4', 'matches.avi', 'summary.json')]
    played = source.path.resolve()
    if not {played, *played.parents}.isdisjoint(file.resolve() for file in (bag, *results)):
        raise DemoError(f'{source.path} is where the demo writes to: give another --output.')
    remove_recording(bag)
    for file in results:
        file.unlink(missing_ok=True)
    isolate(settings.domain)
    with Recorder(bag) as recorder:
        _play(recorder, source, output, settings)
    recorded = read_run(bag)
    summary = summarise(recorded, source.transfer)
    (output / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    _draw(recorded, source, output)
    return summary


def _play(recorder: Recorder, source: Source, output: Path, settings: Settings) -> None:
    # Reliable, because the figures shall count the frames that the front-end drops, not those that DDS loses.
    frontend_arguments = ros_arguments(
        autostart='true', weights=settings.weights, image_reliability='reliable', **_warm_up(source)
    )
    replay_arguments = ros_arguments(
        input=str(source.path.absolute()),
        topic=source.topic,
        camera_info=str(source.camera_info.absolute()) if source.camera_info else '',
        rate=str(settings.rate),
        wait_for_subscribers='2',  # the front-end and the recorder
    )
    with Process('superpoint_ros.nodes.frontend', frontend_arguments, output / 'frontend.log') as frontend:
        recorder.wait_for(lambda: _is_listening(recorder), frontend)
        with Process('superpoint_ros.nodes.replay', replay_arguments, output / 'replay.log') as replay:
            while replay.running():
                frontend.require()
                recorder.spin(0.2)
        while time.monotonic() - recorder.last_arrival < QUIET_SECONDS:
            recorder.spin(0.2)
        frontend.require()
    if not recorder.counts['features']:
        raise DemoError(f'The front-end published no features: see frontend.log and replay.log in {output}.')


def _warm_up(source: Source) -> dict[str, str]:
    """Parameters by which the front-end is ready for the source's size before the first image comes."""
    _, image = next(source.images(), (0, None))
    if image is None or min(image.shape[:2]) < STRIDE:
        return {}
    return {'warm_up_width': str(image.shape[1]), 'warm_up_height': str(image.shape[0])}


def _is_listening(recorder: Recorder) -> bool:
    """Raises DemoError for what keeps the front-end from it."""
    listens = recorder.hears('image', 'superpoint_frontend')
    if recorder.problem and not listens:
        raise DemoError(f'The front-end reports: {recorder.problem}')
    return listens


def _draw(recorded: Run, source: Source, output: Path) -> None:
    """Write the video, and the still: the pair with the median number of matches."""
    counts = sorted(len(matches) for matches in recorded.matches if len(matches))
    if not counts:
        return
    typical = next(matches for matches in recorded.matches if len(matches) == counts[len(counts) // 2])
    periods = np.diff(sorted(recorded.received)) / 1e9
    rate = float(np.clip(1 / max(np.median(periods), 1e-3), 1, 120))

    def motions() -> Iterator[Image]:
        for before, after, matches in join(source.images(), recorded.matches):
            if matches is typical:
                cv2.imwrite(str(output / 'matches.png'), draw_pair(before, after, matches))
            yield draw_motion(after, matches)

    write_video(output / 'matches.mp4', motions(), rate)
