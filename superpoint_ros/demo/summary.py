"""The figures of a recorded run: counts, latency, keypoints, matches, and how many of these are right."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from superpoint_ros.clouds import MatchCloud, read_matches, stamp_ns
from superpoint_ros.demo.recorder import IMAGE_HEADERS

CORRECT_WITHIN = 3.0
"""Pixels between a match and the ground truth up to which it counts as correct."""

Transfer = Callable[[int, int, NDArray], tuple[NDArray, NDArray[np.bool_]]]
"""Follows pixels [N, 2] from one stamp's image to another's; returns them and whether they are seen."""


@dataclass
class Run:
    """What a recorder's bag holds.

    Attributes:
        sent: arrival of each image by its stamp, both in nanoseconds.
        received: arrival of each frame's features by its stamp.
        keypoints: number of keypoints of each such frame, in order.
        matches: the matches of each such frame with the one before, in order; the first has none.
    """

    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    keypoints: list[int] = field(default_factory=list)
    matches: list[MatchCloud] = field(default_factory=list)


def read_run(bag: Path) -> Run:
    """Read a recorder's bag; messages are kept under the stamp of the image that they belong to."""
    types = get_typestore(Stores.ROS2_JAZZY)
    run = Run()
    with Reader(bag) as reader:
        for connection, arrival, data in reader.messages():
            message: Any = types.deserialize_cdr(data, connection.msgtype)
            if connection.topic == f'/{IMAGE_HEADERS}':
                run.sent[stamp_ns(message.stamp)] = arrival
            elif connection.topic == '/features':
                run.received[stamp_ns(message.header.stamp)] = arrival
                run.keypoints.append(message.width)
            elif connection.topic == '/matches':
                run.matches.append(read_matches(message))
    return run


def summarise(run: Run, transfer: Transfer | None = None) -> dict[str, Any]:
    """Compute the figures of summary.json.

    Latency is the time from the arrival of an image to that of its features, both at the recorder: transport,
    waiting and processing. Means are None where there is nothing to average.
    """
    latencies = [(run.received[s] - run.sent[s]) / 1e6 for s in run.received if s in run.sent]
    arrivals = sorted(run.received.values())
    seconds = (arrivals[-1] - arrivals[0]) / 1e9 if arrivals else 0.0
    pairs = run.matches[1:]
    found = [m for m in pairs if len(m)]
    every, inliers = (_precision(found, transfer, only_inliers) for only_inliers in (False, True))
    return {
        'frames_in': len(run.sent),
        'frames_processed': len(run.received),
        'frames_dropped': len(run.sent) - len(run.received),
        'fps': (len(arrivals) - 1) / seconds if seconds else None,
        'latency_ms': {f'p{p}': float(np.percentile(latencies, p)) if latencies else None for p in (50, 95, 99)},
        'keypoints_mean': _mean(run.keypoints),
        'matches_mean': _mean([len(m) for m in pairs]),
        'inlier_ratio_mean': _mean([m.inlier.mean() for m in found]),
        'ground_truth_precision': every,
        'ground_truth_precision_inliers': inliers,
    }


def _precision(runs: list[MatchCloud], transfer: Transfer | None, only_inliers: bool) -> float | None:
    """Share of all matches whose pixel is within CORRECT_WITHIN of where the previous one went."""
    if transfer is None:
        return None
    correct: list[NDArray[np.bool_]] = []
    for matches in runs:
        assert matches.previous_stamp_ns is not None
        truth, _ = transfer(matches.previous_stamp_ns, matches.stamp_ns, matches.previous_keypoints)
        right = np.linalg.norm(matches.keypoints - truth, axis=1) < CORRECT_WITHIN
        correct.append(right[matches.inlier] if only_inliers else right)
    return _mean(np.concatenate(correct)) if correct else None


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def table(summary: dict[str, Any]) -> str:
    """The figures as lines of text."""
    frames = ' / '.join(str(summary[f'frames_{kind}']) for kind in ('in', 'processed', 'dropped'))
    latency = ' / '.join(_text(value, 1) for value in summary['latency_ms'].values())
    rows = [
        ('frames in / processed / dropped', frames),
        ('frames per second', _text(summary['fps'], 1)),
        ('latency p50 / p95 / p99 (ms)', latency),
        ('keypoints per frame', _text(summary['keypoints_mean'], 0)),
        ('matches per pair', _text(summary['matches_mean'], 0)),
        ('inlier ratio', _text(summary['inlier_ratio_mean'], 3)),
        (f'correct within {CORRECT_WITHIN:g} px: matches', _text(summary['ground_truth_precision'], 3)),
        (
            f'correct within {CORRECT_WITHIN:g} px: inliers',
            _text(summary['ground_truth_precision_inliers'], 3),
        ),
    ]
    return '\n'.join(f'  {name:<34}{value}' for name, value in rows)


def _text(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
