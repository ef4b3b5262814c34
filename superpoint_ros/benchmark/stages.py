"""Times of the stages between an image file and the messages of a frame: the front-end's and its peers'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from superpoint_ros.benchmark.pictures import decode
from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.stopwatch import Stopwatch

try:
    from std_msgs.msg import Header

    from superpoint_ros.messages import encode_features, encode_matches
except ImportError:
    Header = None

WARM_UP_FRAMES = 5
FRAME_NS = 33_333_333
NETWORK = ('network', 'score map')
STAGES = ('decode', *NETWORK, 'keypoints', 'descriptors', 'features', 'matching', 'message')
"""From the picture to its matches and the message. 'keypoints' is NMS and top-k. The front-end has no 'score map': its
engines compute that in 'network'; OpenCV finds and describes at once, its 'features'."""
PASSAGE = STAGES[1:-1]
"""From the image to its matches."""
EXTRA_STAGES = ('verification', 'tracks')
"""Of the front-end, which its peers lack."""
PERCENTS = (50, 95, 99)

Times = list[dict[str, float]]
"""Milliseconds per stage, frame by frame."""


class Peer(Protocol):
    """Another way from a picture to features that are matched to the picture before."""

    def process(self, image: np.ndarray, previous: Any, stopwatch: Stopwatch) -> Any:
        """Features, which have a length, of a grey image; `previous` are those before, or None."""


def time_frontend(detector: Detector, pictures: Sequence[np.ndarray]) -> tuple[Times, list[Frame]]:
    """Run the front-end as the node does; the first WARM_UP_FRAMES are not counted."""
    frontend = Frontend(detector)
    times, frames = [], []
    for number, picture in enumerate(pictures):
        stopwatch = Stopwatch()
        image = decode(picture)
        stopwatch.lap('decode')
        frame = frontend.process(image, number * FRAME_NS)
        stopwatch.lap('frontend')
        encode(frame, stopwatch)
        times.append(stopwatch.laps | frame.timings)
        frames.append(frame)
    return times[WARM_UP_FRAMES:], frames[WARM_UP_FRAMES:]


def time_peer(peer: Peer, pictures: Sequence[np.ndarray], frames: Sequence[Frame]) -> dict[str, Any]:
    """Run a peer on images; the messages are those of the front-end's frames, which are as large."""
    times, counts, features = [], [], None
    for picture, frame in zip(pictures, frames, strict=False):
        stopwatch = Stopwatch()
        image = decode(picture)
        stopwatch.lap('decode')
        features = peer.process(image, features, stopwatch)
        encode(frame, stopwatch)
        times.append(stopwatch.laps)
        counts.append(len(features))
    return summarise(times[1:]) | {'keypoints_mean': float(np.mean(counts))}  # the first has nothing to match


def encode(frame: Frame, stopwatch: Stopwatch) -> None:
    """Make the messages, where ROS is installed."""
    if Header is not None:
        encode_features(frame, Header())
        encode_matches(frame, Header())
        stopwatch.lap('message')


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, to the microsecond if the values are milliseconds."""
    return {f'p{percent}': round(float(np.percentile(values, percent)), 3) for percent in PERCENTS}


def summarise(times: Times) -> dict[str, Any]:
    """Percentiles in ms of every stage there is and of sums, and the share of the first that is not the network.

    'end_to_end' is the sum of STAGES, which peers have, too; 'passage' of PASSAGE; 'in_all' is with EXTRA_STAGES.
    """
    stages = {
        stage: percentiles([frame[stage] for frame in times]) for stage in STAGES + EXTRA_STAGES if stage in times[0]
    }
    sums = [sum(_times_of(frame, STAGES)) for frame in times]
    passage = [sum(_times_of(frame, PASSAGE)) for frame in times]
    in_all = [sum(_times_of(frame, STAGES + EXTRA_STAGES)) for frame in times]
    beside = [1 - sum(_times_of(frame, NETWORK)) / total for frame, total in zip(times, sums, strict=True)]
    return {
        'stages': stages,
        'end_to_end': percentiles(sums),
        'passage': percentiles(passage),
        'in_all': percentiles(in_all),
        'beside_network': round(float(np.median(beside)), 4),
    }


def _times_of(frame: dict[str, float], stages: Sequence[str]) -> Iterator[float]:
    return (frame.get(stage, 0.0) for stage in stages)
