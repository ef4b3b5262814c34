"""Stereo matching against a search in loops, known points seen by known cameras, and calibrations that are wrong."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features
from superpoint_ros.stereo import (
    LEAST_PARALLAX,
    StereoCamera,
    StereoError,
    StereoMatches,
    StereoSettings,
    count_swapped,
    match_stereo,
)

WIDTH, HEIGHT = 640, 480
BASELINE = 0.12
DISTORTIONS = {
    'none': [],
    'plumb_bob': [-0.28, 0.07, 2e-4, 1.8e-5, 0.0],
    'equidistant': [-0.04, 0.01, -0.003, 0.001],
}


def pinhole(baseline: float, f: float = 400.0, centre: tuple[float, float] = (320.0, 240.0)) -> Camera:
    """A rectified camera."""
    K = np.array([[f, 0, centre[0]], [0, f, centre[1]], [0, 0, 1]])
    return Camera(K=K, distortion=np.zeros(0), model='none', width=WIDTH, height=HEIGHT, baseline=baseline)


PAIR = StereoCamera(pinhole(0.0), pinhole(BASELINE))


def features(keypoints: np.ndarray, descriptors: np.ndarray) -> Features:
    norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
    scores = np.linspace(1, 0.5, len(keypoints), dtype=np.float32)
    return Features(np.float32(keypoints).reshape(-1, 2), scores, np.float32(descriptors / norms))


def random_features(rng: np.random.Generator, count: int, dimension: int = 4) -> Features:
    """Crowded in a few rows and columns and of two levels, so that many pairs are possible."""
    crowded = features(rng.uniform([100, 100], [160, 112], (count, 2)), rng.normal(size=(count, dimension)))
    return replace(crowded, levels=rng.integers(0, 2, count, dtype=np.uint8))


def search_in_loops(left: Features, right: Features, camera: StereoCamera, limits: StereoSettings) -> list:
    """(left, right) of mutual nearest neighbours; pinhole cameras only."""
    shift = camera.left.K[0, 2] - camera.right.K[0, 2]

    def similarity(i: int, j: int) -> float:
        dx, dy = left.keypoints[i] - right.keypoints[j]
        if left.levels[i] != right.levels[j]:
            return -np.inf
        if abs(dy) > limits.epipolar_tolerance or not limits.min_disparity <= dx - shift <= limits.max_disparity:
            return -np.inf
        return float(left.descriptors[i] @ right.descriptors[j])

    table = [[similarity(i, j) for j in range(len(right))] for i in range(len(left))]
    pairs = []
    for i, row in enumerate(table):
        j = int(np.argmax(row)) if row else -1
        if j < 0 or row[j] < limits.min_similarity or row[j] == -np.inf:
            continue
        if max(range(len(left)), key=lambda k: table[k][j]) == i:
            pairs.append((i, j))
    return pairs


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    counts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    limits=st.builds(
        StereoSettings,
        epipolar_tolerance=st.floats(0.5, 8),
        min_disparity=st.floats(-5, 5),
        max_disparity=st.floats(6, 60),
        min_similarity=st.floats(-1, 0.8),
    ),
    centres=st.tuples(st.floats(300, 340), st.floats(300, 340)),
)
def test_matches_are_those_of_a_search_in_loops(seed, counts, limits, centres):
    rng = np.random.default_rng(seed)
    left, right = (random_features(rng, count) for count in counts)
    camera = StereoCamera(*(pinhole(b, centre=(c, 240.0)) for b, c in zip((0.0, BASELINE), centres, strict=True)))
    matches = match_stereo(left, right, camera, limits)
    assert list(zip(matches.left, matches.right, strict=True)) == search_in_loops(left, right, camera, limits)


def seen(points: np.ndarray, camera: Camera) -> np.ndarray:
    """[N, 2] pixels of points in the left rectified frame, by OpenCV's projection."""
    turned = (points - [camera.baseline, 0, 0]) @ camera.R
    K, d = camera.K, camera.distortion
    if camera.model == 'equidistant':
        return cv2.fisheye.projectPoints(turned[:, None], np.zeros(3), np.zeros(3), K, d)[0][:, 0]
    return cv2.projectPoints(turned, np.zeros(3), np.zeros(3), K, d)[0][:, 0]


def cameras(model: str) -> tuple[Camera, Camera]:
    """A left and a right camera that look in different directions, as before rectification."""
    made = []
    for baseline, turn, f in ((0.0, [0.02, -0.03, 0.05], 380.0), (BASELINE, [-0.03, 0.02, -0.04], 390.0)):
        K = np.array([[f, 0, 318.0], [0, f * 1.01, 243.0], [0, 0, 1]])
        P = np.array([[350.0, 0, 310.0], [0, 350.0, 236.0], [0, 0, 1]])
        R = cv2.Rodrigues(np.array(turn))[0]
        d = np.float64(DISTORTIONS[model])
        made.append(Camera(K, d, model, WIDTH, HEIGHT, R=R, P=P, baseline=baseline))
    return made[0], made[1]


@pytest.mark.parametrize('model', DISTORTIONS)
def test_points_in_space_come_back_in_metres_whatever_the_lens(model):
    rng = np.random.default_rng(1)
    left, right = cameras(model)
    points = rng.uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 3.0], (300, 3))
    descriptors = rng.normal(size=(300, 16))
    order = rng.permutation(300)
    left_features = features(seen(points, left), descriptors)
    right_features = features(seen(points, right)[order], descriptors[order])
    matches = match_stereo(left_features, right_features, StereoCamera(left, right))
    assert len(matches) > 290  # a few are within a pixel of a more similar one
    np.testing.assert_array_equal(order[matches.right], matches.left)
    assert np.abs(matches.residual).max() < 0.02
    np.testing.assert_allclose(matches.points, points[matches.left], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(matches.disparity, 350 * BASELINE / points[matches.left, 2], atol=0.02)


def test_principal_points_that_differ_move_disparity_but_not_depth():
    pair = StereoCamera(pinhole(0.0, centre=(330.0, 240.0)), pinhole(BASELINE, centre=(310.0, 240.0)))
    assert pair.zero_disparity == 20
    point = pair.triangulate(np.array([[330.0, 240.0]]), np.array([20 + 400 * BASELINE / 2]))
    np.testing.assert_allclose(point, [[0, 0, 2]], atol=1e-6)


def test_what_is_infinitely_far_has_a_match_and_no_place():
    descriptors = np.eye(4)
    left = features([[100, 50], [100, 100], [100, 150], [100, 200]], descriptors)
    disparity = np.array([-0.5, 0.0, LEAST_PARALLAX * 0.9, LEAST_PARALLAX * 1.1])
    right = features(left.keypoints - np.stack([disparity, 0 * disparity], axis=1), descriptors)
    matches = match_stereo(left, right, PAIR)
    np.testing.assert_array_equal(matches.left, [0, 1, 2, 3])
    np.testing.assert_array_equal(np.isfinite(matches.points).all(axis=1), [False, False, False, True])
    np.testing.assert_allclose(matches.points[3, 2], 400 * BASELINE / disparity[3], rtol=1e-3)


def test_a_pixel_that_no_ray_reaches_matches_nothing():
    K = np.array([[60.0, 0, 320], [0, 60, 240], [0, 0, 1]])
    wide = [
        Camera(K, np.float64(DISTORTIONS['equidistant']), 'equidistant', WIDTH, HEIGHT, P=K, baseline=baseline)
        for baseline in (0.0, BASELINE)
    ]
    corner = features([[0, 0], [320, 240]], np.eye(2))
    matches = match_stereo(corner, corner, StereoCamera(*wide))
    np.testing.assert_array_equal(matches.left, [1])


def test_without_features_there_are_no_matches():
    empty = features(np.zeros((0, 2)), np.zeros((0, 4)))
    for matches in (match_stereo(empty, empty, PAIR), StereoMatches.empty()):
        assert len(matches) == 0
        assert matches.points.shape == (0, 3)


def test_swapped_images_match_on_the_other_side():
    rng = np.random.default_rng(2)
    points = rng.uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 3.0], (100, 3))
    descriptors = rng.normal(size=(100, 16))
    left, right = (features(seen(points, camera), descriptors) for camera in (PAIR.left, PAIR.right))
    assert count_swapped(left, right, PAIR) < 5 < 90 < len(match_stereo(left, right, PAIR))
    assert len(match_stereo(right, left, PAIR)) < 5 < 90 < count_swapped(right, left, PAIR)


def test_a_scene_that_is_far_away_does_not_look_swapped():
    rng = np.random.default_rng(3)
    keypoints = rng.uniform([50, 50], [600, 400], (100, 2))
    descriptors = rng.normal(size=(100, 16))
    noise = rng.uniform(-0.9, 0.9, (100, 2))
    left, right = features(keypoints, descriptors), features(keypoints + noise, descriptors)
    assert count_swapped(left, right, PAIR) < 5
    assert len(match_stereo(left, right, PAIR)) > 90


@pytest.mark.parametrize(
    ('left', 'right', 'reason'),
    [
        (pinhole(BASELINE), pinhole(0.0), 'swapped'),
        (pinhole(0.0), pinhole(-BASELINE), 'swapped'),
        (pinhole(0.0), pinhole(0.0), 'side by side'),
        (pinhole(0.0), pinhole(BASELINE, f=200.0), '400.00, 400.00 and 240.00 on the left and 200.00'),
        (pinhole(0.0), pinhole(BASELINE, centre=(320.0, 250.0)), 'not rectified to one another'),
    ],
)
def test_calibrations_that_are_no_pair_are_refused_with_the_reason(left, right, reason):
    with pytest.raises(StereoError, match=reason):
        StereoCamera(left, right)


def test_the_baseline_is_that_of_camera_info_binned_and_cropped_or_not():
    def info(tx: float, **changes: object) -> SimpleNamespace:
        whole = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
        fields = {
            'width': WIDTH,
            'height': HEIGHT,
            'distortion_model': 'plumb_bob',
            'd': [],
            'k': [400.0, 0, 320, 0, 400, 240, 0, 0, 1],
            'r': np.eye(3).ravel(),
            'p': [400.0, 0, 320, tx, 0, 400, 240, 0, 0, 0, 1, 0],
            'binning_x': 1,
            'binning_y': 1,
            'roi': whole,
        }
        return SimpleNamespace(**(fields | changes))

    crop = SimpleNamespace(x_offset=40, y_offset=20, width=400, height=300)
    for changes in ({}, {'binning_x': 2, 'binning_y': 2}, {'roi': crop}):
        camera = Camera.from_info(info(-400 * BASELINE, **changes))
        for same in (camera, camera.rectified):
            assert same.baseline == pytest.approx(BASELINE)
    assert Camera.from_info(info(0.0)).baseline == 0


@pytest.mark.parametrize(
    ('name', 'value'),
    [('epipolar_tolerance', 0.0), ('min_disparity', 200.0), ('min_similarity', 1.5), ('max_ratio', 0.0)],
)
def test_settings_outside_their_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        replace(StereoSettings(), **{name: value})
