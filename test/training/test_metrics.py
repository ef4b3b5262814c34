"""Metrics against brute force, hand-made cases and geometry: points warped by a known H score exactly 1."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_ros.detector import Features
from superpoint_training import metrics
from superpoint_training.evaluate import evaluate_pair, find_pairs, main
from superpoint_training.homographies import HomographyConfig, inside, sample_homography, warp_points
from superpoint_training.protocols import PROTOCOLS

SHAPE = (240, 320)
EMPTY = np.zeros((0, 2))


def scene(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, the same seen through a homography, and the homography; only points both pictures show."""
    rng = np.random.default_rng(seed)
    homography = sample_homography(rng, *SHAPE, HomographyConfig((0.8, 1.2), 0.4, 0.1, 0.05))
    points = rng.uniform(0, [319, 239], (count, 2))
    moved = warp_points(points, homography)
    shown = inside(moved, *SHAPE)
    return points[shown], moved[shown], homography


@given(st.integers(0, 10_000))
def test_perfect_points_repeat_fully(seed):
    first, second, homography = scene(seed)
    share, error = metrics.repeatability(first, second, homography, SHAPE, 300, 3)
    assert share == 1
    assert error == pytest.approx(0, abs=1e-6)


def test_one_outlier_lowers_repeatability_by_its_share():
    first, second, homography = scene(1)
    lonely = np.array([[2.0, 2.0]])
    assert metrics.distances(lonely, second).min() > 3
    visible = int(metrics.visible_in_other(lonely, np.linalg.inv(homography), SHAPE).sum())
    share, _ = metrics.repeatability(first, np.concatenate([second, lonely]), homography, SHAPE, 300, 3)
    assert share == pytest.approx(2 * len(first) / (2 * len(first) + visible))


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_repeatability_against_brute_force(seed, count):
    rng = np.random.default_rng(seed)
    _, _, homography = scene(seed)
    first, second = (rng.uniform(0, [319, 239], (60, 2)) for _ in range(2))
    share, error = metrics.repeatability(first, second, homography, SHAPE, count, 8)

    def kept(points, mapping):
        chosen = []
        for point in points:
            x, y, w = mapping @ [*point, 1]
            if 0 <= x / w <= 319 and 0 <= y / w <= 239 and len(chosen) < count:
                chosen.append((point, np.array([x / w, y / w])))
        return chosen

    a, b = kept(first, homography), kept(second, np.linalg.inv(homography))
    there = [min(np.linalg.norm(moved - other) for other, _ in b) for _, moved in a] if a and b else []
    back = [min(np.linalg.norm(point - moved) for _, moved in a) for point, _ in b] if a and b else []
    hits = [[d for d in side if d <= 8] for side in (there, back)]
    if len(a) + len(b):
        assert share == pytest.approx(sum(map(len, hits)) / (len(a) + len(b)))
    if any(hits):
        assert error == pytest.approx(np.mean([np.mean(side) for side in hits if side]))


def test_repeatability_of_nothing():
    identity = np.eye(3)
    assert np.isnan(metrics.repeatability(EMPTY, EMPTY, identity, SHAPE, 300, 3)).all()
    share, error = metrics.repeatability(np.array([[5.0, 5.0]]), EMPTY, identity, SHAPE, 300, 3)
    assert share == 0
    assert np.isnan(error)
    away = np.array([[1, 0, 1e4], [0, 1, 0], [0, 0, 1.0]])
    assert np.isnan(metrics.repeatability(np.ones((3, 2)), np.ones((3, 2)), away, SHAPE, 300, 3)[0])


def test_matching_score_counts_right_matches():
    first, second, homography = scene(2)
    rows = np.stack([np.arange(len(first))] * 2, axis=1)
    assert metrics.matching_score(first, second, rows, rows, homography, SHAPE, 3) == 1
    shifted = second.copy()
    shifted[0] = second[0] + [0, 30] if second[0, 1] < 120 else second[0] - [0, 30]
    rightful = metrics.matching_score(first, shifted, rows, rows, homography, SHAPE, 3)
    mapped = warp_points(shifted[:1], np.linalg.inv(homography))
    seen = int(inside(mapped, *SHAPE)[0])
    n = len(first)
    assert rightful == pytest.approx(((n - 1) / (n - 1 + seen) + (n - 1) / n) / 2)
    none = np.zeros((0, 2), int)
    assert metrics.matching_score(EMPTY, EMPTY, none, none, homography, SHAPE, 3) == 0


@given(st.integers(0, 1000))
def test_homography_error_of_exact_matches_is_nothing(seed):
    first, second, homography = scene(seed)
    assert metrics.homography_error(first, second, homography, SHAPE, 3, 5000) < 0.01


def test_homography_error_is_the_mean_over_corners_and_repeats():
    first, second, homography = scene(3)
    shift = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1.0]])
    error = metrics.homography_error(first, warp_points(second, shift), homography, SHAPE, 3, 5000)
    assert error == pytest.approx(5, abs=1e-3)
    rng = np.random.default_rng(0)
    noisy = second + rng.normal(0, 2, second.shape)
    runs = {metrics.homography_error(first, noisy, homography, SHAPE, 3, 5000) for _ in range(5)}
    assert len(runs) == 1
    assert metrics.homography_error(first[:3], second[:3], homography, SHAPE, 3, 5000) == float('inf')


def test_detections_take_each_truth_once_best_first():
    truth = np.array([[10.0, 10.0], [50, 50]])
    detections = np.array([[12.0, 10.0], [10, 10], [50, 53], [90, 90]])
    np.testing.assert_array_equal(metrics.match_detections(detections, truth, 4), [True, False, True, False])
    assert not metrics.match_detections(detections, EMPTY, 4).any()


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert metrics.average_precision(scores, np.array([True, True, False, False]), 2) == 1
    assert metrics.average_precision(scores, np.array([True, True, False, False]), 4) == 0.5
    assert metrics.average_precision(scores, np.array([False, True, False, True]), 2) == 0.5
    assert metrics.average_precision(scores, np.array([True, False, False, True]), 2) == pytest.approx(0.75)
    assert np.isnan(metrics.average_precision(scores, np.zeros(4, bool), 0))
    assert metrics.average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


@given(st.integers(0, 10_000))
def test_average_precision_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    scores, correct = rng.permutation(50) / 50, rng.random(50) < 0.5
    positives = int(correct.sum()) + 3
    ordered = sorted(zip(scores, correct, strict=True), reverse=True)
    curve, hits = [], 0
    for rank, (_, right) in enumerate(ordered, 1):
        hits += right
        curve.append((hits / positives, hits / rank))
    area, last = 0.0, 0.0
    for recall, _ in curve:
        if recall > last:
            area += (recall - last) * max(p for r, p in curve if r >= recall)
            last = recall
    assert metrics.average_precision(scores, correct, positives) == pytest.approx(area)


@pytest.mark.parametrize('protocol', PROTOCOLS.values(), ids=lambda p: p.name)
def test_protocols_move_points_as_they_move_pixels(protocol):
    y, x = np.mgrid[:480, :600]
    point = np.array([[310.0, 230.0]])
    blob = (255 * np.exp(-((x - 310) ** 2 + (y - 230) ** 2) / 100)).astype(np.uint8)
    prepared, mapping = protocol.prepare(blob)
    assert prepared.shape == (protocol.height, protocol.width)
    rows, columns = np.mgrid[: protocol.height, : protocol.width]
    weights = prepared.astype(float)
    centroid = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    np.testing.assert_allclose(centroid, warp_points(point, mapping)[0], atol=0.05)


def test_a_perfect_pair_scores_one_everywhere():
    first, second, homography = scene(4)
    descriptors = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))[0][: len(first)].astype(np.float32)
    scores = np.linspace(1, 0.5, len(first), dtype=np.float32)
    pair = [Features(points.astype(np.float32), scores, descriptors) for points in (first, second)]
    for protocol in (PROTOCOLS['kp2d-320'], PROTOCOLS['superpoint-240']):
        result = evaluate_pair(*pair, homography, protocol)
        assert result['repeatability'] == result['matching_score'] == 1
        assert result['corner_error'] < 0.05


def write_pair(folder, homography):
    scene_folder = folder / 'scene'
    scene_folder.mkdir()
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (24, 32), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(scene_folder / '1.png'), picture)
    cv2.imwrite(str(scene_folder / '2.png'), cv2.warpPerspective(picture, homography, (320, 240)))
    np.savetxt(scene_folder / 'H_1_2', homography)
    return scene_folder


def test_command_reports_pairs(tmp_path, capsys):
    write_pair(tmp_path, np.array([[1, 0.02, 5], [-0.02, 1, 3], [0, 0, 1]]))
    status = main(['--pairs', str(tmp_path), '--detectors', 'sift', 'orb', '--out', str(tmp_path / 'out')])
    assert status == 0
    assert 'sift' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'results.json').exists()


def test_a_homography_of_eight_numbers_is_named(tmp_path, capsys):
    folder = write_pair(tmp_path, np.eye(3))
    (folder / 'H_1_2').write_text('1 0 0 0 1 0 0 0')
    with pytest.raises(ValueError, match='8 numbers'):
        find_pairs(tmp_path)
    assert main(['--pairs', str(tmp_path), '--detectors', 'sift', '--out', str(tmp_path / 'out')]) == 1
    assert 'H_1_2' in capsys.readouterr().err
