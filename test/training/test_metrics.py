"""Metrics against brute force, hand-made cases and geometry: points warped by a known H score exactly 1."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_training import metrics
from superpoint_training.homographies import HomographyConfig, inside, sample_homography, warp_points

SHAPE = (240, 320)
EMPTY = np.zeros((0, 2))
NO_ROWS = np.zeros((0, 2), int)
IDENTITY = np.eye(3)
AWAY = np.array([[1, 0, 1e4], [0, 1, 0], [0, 0, 1.0]])


def scene(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, the same seen through a homography, and the homography; only points both pictures show."""
    rng = np.random.default_rng(seed)
    homography = sample_homography(rng, *SHAPE, HomographyConfig((0.8, 1.2), 0.4, 0.1, 0.05))
    points = rng.uniform(0, [319, 239], (count, 2))
    moved = warp_points(points, homography)
    shown = inside(moved, *SHAPE)
    return points[shown], moved[shown], homography


def moved(point, homography):
    """One point through a homography, by hand."""
    x, y, w = homography @ [*point, 1]
    return np.array([x / w, y / w])


def shown(point):
    return 0 <= point[0] <= 319 and 0 <= point[1] <= 239


@given(st.integers(0, 10_000))
def test_perfect_points_repeat_fully(seed):
    first, second, homography = scene(seed)
    share, error = metrics.repeatability(first, second, homography, SHAPE, 300, 3)
    assert share == 1
    assert error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('sign', [1, -1])
def test_what_is_behind_the_other_camera_is_not_visible(sign):
    """A camera of 110 degrees that turns by 80."""
    rng = np.random.default_rng(0)
    focal = 160 / np.tan(np.radians(55))
    K = np.array([[focal, 0, 159.5], [0, focal, 119.5], [0, 0, 1]])
    turn = cv2.Rodrigues(np.array([0, np.radians(80), 0]))[0]
    homography = sign * K @ turn @ np.linalg.inv(K)
    points = rng.uniform(0, [319, 239], (300, 2))
    in_front = (np.column_stack([points, np.ones(300)]) @ np.linalg.inv(K).T @ turn.T)[:, 2] > 0
    visible = metrics.visible_in_other(points, homography, SHAPE)
    assert visible.any()
    np.testing.assert_array_equal(visible, in_front & inside(warp_points(points, homography), *SHAPE))
    share, _ = metrics.repeatability(points, warp_points(points[visible], homography), homography, SHAPE, 300, 3)
    assert share == 1


def test_a_mirrored_picture_is_seen():
    mirrored = np.array([[-1, 0, 319], [0, 1, 0], [0, 0, 1.0]])
    assert metrics.visible_in_other(np.array([[5.0, 5], [300, 200]]), mirrored, SHAPE).all()


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
        seen = [(point, moved(point, mapping)) for point in points]
        return [pair for pair in seen if shown(pair[1])][:count]

    a, b = kept(first, homography), kept(second, np.linalg.inv(homography))
    there = [min(np.linalg.norm(end - other) for other, _ in b) for _, end in a] if a and b else []
    back = [min(np.linalg.norm(point - end) for _, end in a) for point, _ in b] if a and b else []
    hits = [[d for d in side if d <= 8] for side in (there, back)]
    if len(a) + len(b):
        assert share == pytest.approx(sum(map(len, hits)) / (len(a) + len(b)))
    if any(hits):
        assert error == pytest.approx(np.mean([np.mean(side) for side in hits if side]))


def test_repeatability_of_nothing_and_of_one_point():
    assert np.isnan(metrics.repeatability(EMPTY, EMPTY, IDENTITY, SHAPE, 300, 3)).all()
    one = np.array([[5.0, 5.0]])
    share, error = metrics.repeatability(one, EMPTY, IDENTITY, SHAPE, 300, 3)
    assert share == 0
    assert np.isnan(error)
    assert metrics.repeatability(one, one + np.array([0, 2]), IDENTITY, SHAPE, 300, 3) == (1, 2)
    assert metrics.repeatability(one, one + np.array([0, 4]), IDENTITY, SHAPE, 300, 3)[0] == 0
    assert np.isnan(metrics.repeatability(np.ones((3, 2)), np.ones((3, 2)), AWAY, SHAPE, 300, 3)).all()


def test_a_point_just_within_the_distance_is_repeated():
    one = np.array([[50.0, 50.0]])
    assert metrics.repeatability(one, one + np.array([3, 0]), IDENTITY, SHAPE, 300, 3) == (1, 3)
    assert metrics.repeatability(one, one + np.array([3.001, 0]), IDENTITY, SHAPE, 300, 3)[0] == 0


def test_nearest_matching_score_counts_right_matches():
    first, second, homography = scene(2)
    rows = np.stack([np.arange(len(first))] * 2, axis=1)
    assert metrics.nearest_matching_score(first, second, rows, rows, homography, SHAPE, 3) == 1
    shifted = second.copy()
    shifted[0] = second[0] + [0, 30] if second[0, 1] < 120 else second[0] - [0, 30]
    rightful = metrics.nearest_matching_score(first, shifted, rows, rows, homography, SHAPE, 3)
    seen = int(inside(warp_points(shifted[:1], np.linalg.inv(homography)), *SHAPE)[0])
    n = len(first)
    assert rightful == pytest.approx(((n - 1) / (n - 1 + seen) + (n - 1) / n) / 2)


@given(st.integers(0, 10_000))
def test_nearest_matching_score_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    _, _, homography = scene(seed)
    inverse = np.linalg.inv(homography)
    first = rng.uniform(0, [319, 239], (30, 2))
    second = warp_points(first, homography)[rng.permutation(30)[:25]] + rng.normal(0, 3, (25, 2))
    matches = np.stack([np.arange(30), rng.integers(0, 25, 30)], axis=1)
    reverse = np.stack([rng.integers(0, 30, 25), np.arange(25)], axis=1)
    there = [(first[i], moved(second[j], inverse)) for i, j in matches]
    back = [(second[j], moved(first[i], homography)) for i, j in reverse]
    shares = []
    for side in (there, back):
        seen = [(start, end) for start, end in side if shown(end)]
        shares.append(sum(np.linalg.norm(start - end) < 10 for start, end in seen) / max(1, len(seen)))
    score = metrics.nearest_matching_score(first, second, matches, reverse, homography, SHAPE, 10)
    assert score == pytest.approx(np.mean(shares))


def test_nearest_matching_score_of_nothing_and_of_all_wrong():
    assert metrics.nearest_matching_score(EMPTY, EMPTY, NO_ROWS, NO_ROWS, IDENTITY, SHAPE, 3) == 0
    one, row = np.array([[5.0, 5.0]]), np.array([[0, 0]])
    assert metrics.nearest_matching_score(one, one, row, row, IDENTITY, SHAPE, 3) == 1
    assert metrics.nearest_matching_score(one, one + 30, row, row, IDENTITY, SHAPE, 3) == 0
    assert metrics.nearest_matching_score(one, one, row, row, AWAY, SHAPE, 3) == 0


def test_mutual_matching_score_divides_by_what_was_proposed():
    assert metrics.mutual_matching_score(np.array([True, True, False]), 4, 8) == pytest.approx((2 / 4 + 2 / 8) / 2)
    assert metrics.mutual_matching_score(np.array([True]), 1, 1) == 1
    assert metrics.mutual_matching_score(np.zeros(5, bool), 5, 5) == 0
    assert metrics.mutual_matching_score(np.zeros(0, bool), 0, 0) == 0


def test_matching_accuracy_divides_by_the_matches():
    assert metrics.matching_accuracy(np.array([True, False, False, True])) == 0.5
    assert metrics.matching_accuracy(np.zeros(0, bool)) == 0


def test_right_matches_end_where_the_homography_maps_their_start():
    shift = np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.0]])
    first = np.array([[0.0, 0], [0, 0], [5, 5]])
    second = np.array([[10.0, 3], [10, 3.1], [5, 5]])
    np.testing.assert_array_equal(metrics.right_matches(first, second, shift, 3), [True, False, False])
    assert len(metrics.right_matches(EMPTY, EMPTY, shift, 3)) == 0


def test_findable_counts_first_points_with_a_counterpart():
    first, second, homography = scene(3)
    assert metrics.findable(first, second, homography, 0.1) == len(first)
    assert metrics.findable(first, second[:4] + np.array([0, 0.05]), homography, 0.1) == 4
    assert metrics.findable(first, EMPTY, homography, 3) == metrics.findable(EMPTY, second, homography, 3) == 0


@given(st.integers(0, 1000), st.integers(0, 6), st.floats(0.5, 30))
def test_coverage_against_brute_force(seed, count, radius):
    shape = (24, 37)
    points = np.random.default_rng(seed).uniform(-3, [40, 27], (count, 2))
    covered = [
        any((x - px) ** 2 + (y - py) ** 2 <= radius**2 for px, py in points)
        for y in range(shape[0])
        for x in range(shape[1])
    ]
    assert metrics.coverage(points, shape, radius) == pytest.approx(np.mean(covered))


def test_coverage_by_hand():
    assert metrics.coverage(EMPTY, SHAPE, 20) == 0
    assert metrics.coverage(np.array([[5.0, 5.0]]), (11, 11), 1) == pytest.approx(5 / 121)
    assert metrics.coverage(np.array([[0.0, 0.0]]), (11, 11), 1) == pytest.approx(3 / 121)
    assert metrics.coverage(np.array([[5.0, 5.0]] * 3), (11, 11), 50) == 1
    assert metrics.coverage(np.array([[500.0, -90.0]]), (11, 11), 5) == 0


def test_harmonic_mean_by_hand():
    assert metrics.harmonic_mean([0.5, 1]) == pytest.approx(2 / 3)
    assert metrics.harmonic_mean([0.3, 0.3, 0.3]) == pytest.approx(0.3)
    assert metrics.harmonic_mean([0.9, 0, 0.9]) == 0
    assert math.isnan(metrics.harmonic_mean([0.5, math.nan]))


@given(st.integers(0, 1000))
def test_homography_error_of_exact_matches_is_nothing(seed):
    first, second, homography = scene(seed)
    assert metrics.homography_error(first, second, homography, SHAPE, 3, 5000) < 0.01


def test_homography_error_is_the_mean_over_corners():
    first, second, homography = scene(3)
    shift = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1.0]])
    error = metrics.homography_error(first, warp_points(second, shift), homography, SHAPE, 3, 5000)
    assert error == pytest.approx(5, abs=1e-3)
    # A zoom of 1.1 about the top-left corner leaves that corner where it is, and moves the others outwards.
    zoom = np.diag([1.1, 1.1, 1.0])
    points = scene(4)[0]
    expected = np.mean([0, 31.9, np.hypot(31.9, 23.9), 23.9])
    assert metrics.homography_error(points, warp_points(points, zoom), IDENTITY, SHAPE, 3, 5000) == pytest.approx(
        expected, abs=1e-3
    )


def test_homography_error_repeats_whatever_drew_random_numbers_before():
    first, second, homography = scene(3)
    noisy = second + np.random.default_rng(0).normal(0, 2, second.shape)
    errors = set()
    for _ in range(4):
        errors.add(metrics.homography_error(first, noisy, homography, SHAPE, 3, 5000))
        cv2.randu(np.zeros((3, 3), np.uint8), 0, 255)
    assert len(errors) == 1


def test_another_seed_draws_other_matches():
    first, second, homography = scene(3)
    noisy = second + np.random.default_rng(0).normal(0, 2, second.shape)
    errors = [[metrics.homography_error(first, noisy, homography, SHAPE, 3, 5000, s) for s in (1, 2)] for _ in range(2)]
    assert errors[0] == errors[1]
    assert errors[0][0] != errors[0][1]


def test_no_homography_is_infinitely_wrong():
    first, second, homography = scene(3)
    assert metrics.homography_error(first[:3], second[:3], homography, SHAPE, 3, 5000) == math.inf
    assert metrics.homography_error(EMPTY, EMPTY, homography, SHAPE, 3, 5000) == math.inf
    same = np.ones((10, 2))
    assert metrics.homography_error(same, same, homography, SHAPE, 3, 5000) > 5
    rng = np.random.default_rng(0)
    wrong = metrics.homography_error(first, rng.uniform(0, 239, first.shape), homography, SHAPE, 3, 5000)
    assert wrong > 5


def test_detections_take_each_truth_once_best_first():
    truth = np.array([[10.0, 10.0], [50, 50]])
    detections = np.array([[12.0, 10.0], [10, 10], [50, 53], [90, 90]])
    np.testing.assert_array_equal(metrics.match_detections(detections, truth, 4), [True, False, True, False])
    assert not metrics.match_detections(detections, EMPTY, 4).any()
    assert metrics.match_detections(EMPTY, truth, 4).shape == (0,)


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert metrics.average_precision(scores, np.array([True, True, False, False]), 2) == 1
    assert metrics.average_precision(scores, np.array([True, True, False, False]), 4) == 0.5
    assert metrics.average_precision(scores, np.array([False, True, False, True]), 2) == 0.5
    assert metrics.average_precision(scores, np.array([True, False, False, True]), 2) == pytest.approx(0.75)
    assert metrics.average_precision(scores, np.zeros(4, bool), 2) == 0
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
