"""The demo's figures, computed from runs whose figures are known."""

import json

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from superpoint_ros.clouds import MatchCloud
from superpoint_ros.demo.summary import Run, summarise, table

MS = 1_000_000


def shifted_by_ten(source_ns: int, target_ns: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth of a picture that moves ten pixels to the right in each frame of 100 ms."""
    shift = np.array([10 * (target_ns - source_ns) / (100 * MS), 0])
    return pixels + shift, np.ones(len(pixels), bool)


def matches(stamp_ns: int, previous_ns: int | None, errors: list[float], inlier: list[bool]) -> MatchCloud:
    """Matches of pixels that moved as `shifted_by_ten` says, off by some pixels in y."""
    count = len(errors)
    before = np.random.default_rng(0).uniform(0, 400, (count, 2)).astype(np.float32)
    after = before.copy()
    if previous_ns is not None:
        after, _ = shifted_by_ten(previous_ns, stamp_ns, before)
        after[:, 1] += errors
    rows = np.arange(count, dtype=np.uint32)
    return MatchCloud(
        stamp_ns,
        previous_ns,
        rows,
        rows,
        after,
        before,
        np.ones(count, np.float32),
        rows,
        np.array(inlier, bool),
    )


@pytest.fixture
def run() -> Run:
    """Four frames sent, the second of them dropped."""
    return Run(
        sent={0: 0, 100 * MS: 100 * MS, 200 * MS: 200 * MS, 300 * MS: 300 * MS},
        received={0: 20 * MS, 200 * MS: 230 * MS, 300 * MS: 340 * MS},
        keypoints=[10, 20, 30],
        matches=[
            matches(0, None, [], []),
            matches(200 * MS, 0, [0, 2.9, 3.1, 50], [True, True, False, False]),
            matches(300 * MS, 200 * MS, [0, 0, -3.5, 1], [True, True, True, False]),
        ],
    )


def test_figures_are_those_of_the_run(run: Run) -> None:
    summary = summarise(run, shifted_by_ten)
    assert (summary['frames_in'], summary['frames_processed'], summary['frames_dropped']) == (4, 3, 1)
    assert summary['fps'] == pytest.approx(2 / 0.320)
    assert summary['latency_ms']['p50'] == pytest.approx(30)
    assert summary['latency_ms']['p99'] == pytest.approx(39.8)
    assert summary['keypoints_mean'] == 20
    assert summary['matches_mean'] == 4
    assert summary['inlier_ratio_mean'] == pytest.approx((0.5 + 0.75) / 2)
    assert summary['ground_truth_precision'] == pytest.approx(5 / 8)
    assert summary['ground_truth_precision_inliers'] == pytest.approx(4 / 5)


def test_without_ground_truth_its_figures_are_null(run: Run) -> None:
    summary = json.loads(json.dumps(summarise(run)))
    assert summary['ground_truth_precision'] is None
    assert summary['matches_mean'] == 4


def test_a_pair_without_matches_counts_as_zero_matches(run: Run) -> None:
    run.matches[2] = matches(300 * MS, None, [], [])
    summary = summarise(run, shifted_by_ten)
    assert summary['matches_mean'] == 2
    assert summary['inlier_ratio_mean'] == 0.5


def test_an_empty_run_has_counts_and_no_means() -> None:
    summary = summarise(Run(sent={0: 0}), shifted_by_ten)
    assert (summary['frames_in'], summary['frames_dropped']) == (1, 1)
    assert summary['fps'] is summary['latency_ms']['p50'] is summary['ground_truth_precision'] is None
    assert 'frames in / processed / dropped   1 / 0 / 1' in table(summary)
