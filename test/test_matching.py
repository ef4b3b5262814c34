"""Matching against a pair-by-pair oracle; the geometric check against scenes whose inliers are known."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features, Neighbours
from superpoint_ros.matching import (
    Matches,
    MatchSettings,
    epipolar_distances,
    match,
    mutual_nearest,
    similarity_matrix,
    verify,
)

FOCAL, CENTRE = 500.0, np.array([320.0, 240.0])
# Few distinct values, so that ties are the rule.
SIMILARITIES = st.tuples(st.integers(0, 6), st.integers(0, 6)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from(np.float32([-1, 0, 0.5, 0.75, 1, -np.inf])))
)


def mutual_nearest_oracle(similarity, min_similarity, max_ratio):
    pairs = []
    for row, values in enumerate(similarity.tolist()):
        if not values:
            continue
        column = values.index(max(values))
        rivals = [other[column] for other in similarity.tolist()]
        earlier = any(
            other[column] == values[column] and other.index(max(other)) == column for other in similarity[:row].tolist()
        )
        if max(rivals) > values[column] or earlier or values[column] < min_similarity:
            continue
        others = values[:column] + values[column + 1 :]
        second = max(others, default=-np.inf)
        nearest, next_nearest = (np.sqrt(max(2 - 2 * value, 0)) for value in (values[column], second))
        if max_ratio == 1 or nearest < max_ratio * next_nearest:
            pairs.append((row, column))
    return pairs


def make_features(descriptors, keypoints=None, levels=None):
    descriptors = np.asarray(descriptors, np.float32)
    if keypoints is None:
        keypoints = np.zeros((len(descriptors), 2))
    if levels is not None:
        levels = np.asarray(levels, np.uint8)
    return Features(np.asarray(keypoints, np.float32), np.ones(len(descriptors), np.float32), descriptors, levels)


@given(SIMILARITIES, st.sampled_from([-1.0, 0.5, 0.8]), st.sampled_from([1.0, 0.9, 0.5]))
@example(np.zeros((0, 3), np.float32), -1.0, 1.0)
@example(np.zeros((3, 0), np.float32), -1.0, 0.5)
@example(np.ones((3, 3), np.float32), -1.0, 1.0)
def test_mutual_nearest_equals_the_oracle(similarity, min_similarity, max_ratio):
    rows, columns = mutual_nearest(similarity, min_similarity, max_ratio)
    assert list(zip(rows, columns, strict=True)) == mutual_nearest_oracle(similarity, min_similarity, max_ratio)


@given(st.integers(0, 2**32 - 1))
def test_permuted_descriptors_are_matched_back(seed):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(40, 32))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = rng.permutation(40)
    matches = match(make_features(descriptors[order]), make_features(descriptors))
    np.testing.assert_array_equal(matches.query, np.arange(40))
    np.testing.assert_array_equal(matches.train, order)
    np.testing.assert_allclose(matches.similarity, 1, atol=1e-5)
    assert matches.inlier.all()
    assert [array.dtype for array in vars(matches).values()] == [np.int32, np.int32, np.float32, bool]


def test_empty_features_give_well_shaped_empty_matches():
    none, some = make_features(np.zeros((0, 4))), make_features(np.eye(4))
    for query, train in ((none, some), (some, none), (none, none)):
        matches = match(query, train, MatchSettings(search_radius=5, max_ratio=0.8))
        assert len(matches) == 0
        assert [array.dtype for array in vars(matches).values()] == [
            array.dtype for array in vars(Matches.empty()).values()
        ]


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 30))
def test_beyond_the_search_radius_nothing_is_similar(seed, radius):
    rng = np.random.default_rng(seed)
    query, train = (make_features(rng.normal(size=(9, 3)), rng.random((9, 2)) * 40) for _ in range(2))
    similarity = similarity_matrix(query, train, radius)
    for row in range(9):
        for column in range(9):
            distance = np.linalg.norm(query.keypoints[row] - train.keypoints[column])
            if distance > radius + 1e-3:
                assert similarity[row, column] == -np.inf
            elif distance < radius - 1e-3:
                expected = query.descriptors[row] @ train.descriptors[column]
                assert similarity[row, column] == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_each_level_between_features_takes_as_much_off_their_similarity(seed):
    rng = np.random.default_rng(seed)
    query, train = (
        make_features(rng.normal(size=(count, 3)), levels=rng.integers(0, rng.integers(1, 7), count))
        for count in (9, 7)
    )
    similarity = similarity_matrix(query, train)
    for row in range(9):
        for column in range(7):
            apart = abs(int(query.levels[row]) - int(train.levels[column]))
            expected = query.descriptors[row] @ train.descriptors[column] - 0.08 * apart
            assert similarity[row, column] == pytest.approx(expected, abs=1e-5)


def test_a_corner_of_several_levels_is_matched_level_by_level():
    corner = [[1, 0, 0], [0.999, 0.04, 0.02], [0.999, -0.04, 0.02]]
    query, train = make_features(corner, levels=[0, 1, 2]), make_features(corner[::-1], levels=[0, 1, 2])
    assert match(query, train).train.tolist() == [0, 1, 2]


def test_what_comes_nearer_is_matched_across_levels():
    things = np.eye(4)
    nearer = match(make_features(things, levels=[3, 3, 2, 1]), make_features(things, levels=[1, 0, 0, 0]))
    assert nearer.train.tolist() == [0, 1, 2, 3]


def test_a_far_twin_does_not_hide_a_near_one():
    query = make_features([[1, 0]], [[50, 50]])
    train = make_features([[1, 0], [0.8, 0.6]], [[300, 50], [52, 50]])
    assert match(query, train).train.tolist() == [0]
    assert match(query, train, MatchSettings(search_radius=10)).train.tolist() == [1]


@pytest.mark.parametrize('first', ['numpy', 'superpoint_ros'])
def test_blas_has_one_thread_for_the_product_and_all_of_them_afterwards(first):
    pytest.importorskip('threadpoolctl')
    code = f"""
import {first}, numpy, threadpoolctl
from superpoint_ros.matching import one_blas_thread

def threads():
    return [each['num_threads'] for each in threadpoolctl.threadpool_info() if each['internal_api'] == 'openblas']

before = threads()
with one_blas_thread():
    print(max(before), max(threads()))
assert threads() == before
"""
    done = subprocess.run(
        [sys.executable, '-c', code], env=os.environ | {'OPENBLAS_NUM_THREADS': '2'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.split()[:1] != ['2']:
        pytest.skip('NumPy computes on one thread here')
    assert done.stdout.split() == ['2', '1']


def views(motion, count=200, outliers=0.3, noise=0.3, seed=0):
    """Keypoints of a random scene before and after a motion, and which pairs are true."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(-3, 3, count), rng.uniform(-2, 2, count), rng.uniform(3, 8, count)], axis=1)
    rotation, translation = np.zeros(3), np.zeros(3)
    if motion in ('general', 'planar', 'rotation'):
        rotation = np.array([0.02, 0.05, -0.03])
    if motion in ('general', 'planar'):
        translation = np.array([0.2, 0.02, 0.05])
    if motion == 'sideways':
        translation = np.array([0.3, 0, 0])
    if motion == 'creeping':
        translation = np.array([0.004, 0, 0])
    if motion == 'planar':
        points[:, 2] = 5 + 0.1 * points[:, 0]
    moved = points @ cv2.Rodrigues(rotation)[0].T + translation
    before, now = (FOCAL * p[:, :2] / p[:, 2:] + CENTRE + rng.normal(0, noise, (count, 2)) for p in (points, moved))
    true = rng.random(count) >= outliers
    now[~true] = rng.uniform([0, 0], [640, 480], ((~true).sum(), 2))
    return before.astype(np.float32), now.astype(np.float32), true


def all_matched(count):
    rows = np.arange(count, dtype=np.int32)
    return Matches(rows, rows, np.ones(count, np.float32), np.ones(count, bool))


PINHOLE = Camera(np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]]), np.zeros(0), 'none', 640, 480)


def to_rays(keypoints):
    return np.column_stack([(keypoints - CENTRE) / FOCAL, np.ones(len(keypoints))]).astype(np.float32)


def verified(before, now, *, calibrated, settings=None):
    settings, matches = settings or MatchSettings(), all_matched(len(now))
    if calibrated:
        return verify(matches, to_rays(now), to_rays(before), settings, PINHOLE).inlier
    return verify(matches, now, before, settings).inlier


@pytest.mark.parametrize('calibrated', [True, False], ids=['essential', 'fundamental'])
@pytest.mark.parametrize('motion', ['general', 'planar', 'rotation', 'creeping', 'rest'])
@pytest.mark.parametrize('noise', [0.0, 0.3])
def test_true_matches_are_inliers_and_false_ones_are_not_under_every_motion(motion, calibrated, noise):
    before, now, true = views(motion, noise=noise)
    inlier = verified(before, now, calibrated=calibrated)
    assert inlier[true].mean() > 0.9
    # A false match may lie near its epipolar line by chance.
    assert inlier[~true].mean() < 0.2


@pytest.mark.parametrize('calibrated', [True, False], ids=['essential', 'fundamental'])
@pytest.mark.parametrize('threshold', [1.0, 2.0, 5.0])
def test_an_inlier_is_at_most_the_threshold_off_its_epipolar_line(calibrated, threshold):
    before, now, _ = views('sideways', count=400, outliers=0, noise=0.01)
    # Without rotation, moving to the right, all epipolar lines are rows.
    near, far = np.arange(0, 400, 20), np.arange(10, 400, 20)
    now[near, 1] += threshold * np.where(near % 40, 0.85, -0.85)
    now[far, 1] += threshold * np.where(far % 40 == 10, 1.15, -1.15)
    inlier = verified(before, now, calibrated=calibrated, settings=MatchSettings(inlier_threshold=threshold))
    assert not inlier[far].any()
    assert np.delete(inlier, far).all()


@pytest.mark.parametrize('calibrated', [True, False])
def test_the_same_seed_gives_the_same_inliers(calibrated):
    before, now, _ = views('general', outliers=0.6, noise=1.0)
    settings = MatchSettings(seed=7)
    first = verified(before, now, calibrated=calibrated, settings=settings)
    cv2.setRNGSeed(1234)
    np.testing.assert_array_equal(first, verified(before, now, calibrated=calibrated, settings=settings))


@pytest.mark.parametrize('calibrated', [True, False])
def test_too_few_matches_count_as_inliers_where_nothing_moved(calibrated):
    before = np.array([[10, 10], [300, 20], [20, 200], [310, 220]], np.float32)
    now = before + np.array([[1, 1], [0, 0], [5, 0], [0, -3]], np.float32)
    assert verified(before, now, calibrated=calibrated).tolist() == [True, True, False, False]
    assert verified(before[:0], now[:0], calibrated=calibrated).tolist() == []


@pytest.mark.parametrize('calibrated', [True, False])
@pytest.mark.parametrize('layout', ['one point', 'a line', 'two points'])
def test_degenerate_sets_at_rest_are_inliers(calibrated, layout):
    places = {
        'one point': np.full((12, 2), 100.0),
        'a line': np.stack([np.arange(12) * 20.0, np.arange(12) * 10.0], axis=1),
        'two points': np.repeat([[50.0, 60.0], [200.0, 100.0]], 6, axis=0),
    }
    keypoints = places[layout].astype(np.float32)
    assert verified(keypoints, keypoints, calibrated=calibrated).all()


def test_a_match_without_a_ray_is_no_inlier():
    before, now, _ = views('general', outliers=0)
    rays = to_rays(now)
    rays[::2] = np.nan
    inlier = verify(all_matched(len(now)), rays, to_rays(before), MatchSettings(), PINHOLE).inlier
    assert not inlier[::2].any()
    assert inlier[1::2].mean() > 0.9


def make_lens(model, distortion, focal, width, height):
    return Camera(
        np.array([[1.1 * focal, 0, width / 2], [0, 0.9 * focal, height / 2], [0, 0, 1]]),
        np.array(distortion),
        model,
        width,
        height,
    )


LENSES = {
    'fisheye': (make_lens('equidistant', [0.0, 0, 0, 0], 300.0, 800, 800), 74),
    'plumb_bob': (make_lens('plumb_bob', [-0.33, 0.11, 0, 0, -0.0167], 400.0, 640, 480), 50),
    'rational': (make_lens('rational_polynomial', [0.9, 0.05, 0, 0, 0, 1.3, 0.25, 0.01], 250.0, 640, 480), 60),
}
"""Cameras, and how many degrees off the axis points are put."""


@pytest.mark.parametrize('lens', LENSES)
def test_the_edge_of_a_wide_lens_is_judged_by_the_same_pixels_as_its_middle(lens):
    camera, widest = LENSES[lens]
    rng = np.random.default_rng(0)
    angle, around = rng.uniform(0, np.radians(widest), 2000), rng.uniform(0, 2 * np.pi, 2000)
    directions = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], axis=1)
    points = directions * rng.uniform(2, 8, (2000, 1))
    moved = points @ cv2.Rodrigues(np.array([0.02, 0.03, -0.02]))[0].T + np.array([0.2, 0.05, 0.1])
    false = rng.random(2000) < 0.2
    moved[false] = rng.permutation(moved[false])
    before, now = (
        camera.rays(camera.project(place[:, :2] / place[:, 2:]) + rng.normal(0, 0.5, (2000, 2)))
        for place in (points, moved)
    )
    seen = np.isfinite(before + now).all(axis=1)
    inlier = verify(all_matched(2000), now, before, MatchSettings(), camera).inlier
    edge = angle > np.radians(0.85 * widest)
    assert inlier[seen & ~false & edge].mean() > 0.97
    assert inlier[seen & ~false & ~edge].mean() > 0.97
    assert inlier[false].mean() < 0.15


@pytest.mark.parametrize('lens', LENSES)
def test_too_few_matches_at_the_edge_of_a_lens_are_inliers_if_they_moved_by_less_than_the_threshold(lens):
    camera, widest = LENSES[lens]
    tangent = np.tan(np.radians(widest))
    before = camera.project(tangent * np.array([[0.6, 0.8], [-1, 0], [0, -1], [0.8, -0.6]]))
    now = before + np.array([[1.3, 0], [0, -1.3], [2.7, 0], [0, 2.7]])
    rays_before, rays_now = camera.rays(before), camera.rays(now)
    inlier = verify(all_matched(4), rays_now, rays_before, MatchSettings(), camera).inlier
    assert inlier.tolist() == [True, True, False, False]


@pytest.mark.parametrize('lens', LENSES)
def test_distances_from_epipolar_curves_are_those_measured_along_the_curve(lens):
    """A curve drawn point by point: the epipolar line of the plane z = 1, projected."""
    camera, widest = LENSES[lens]
    rng = np.random.default_rng(1)
    angle, around = rng.uniform(0.1, np.radians(widest), 40), rng.uniform(0, 2 * np.pi, 40)
    before = np.tan(angle)[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1)
    rotation, shift = cv2.Rodrigues(np.array([0.002, 0.003, -0.002]))[0], np.array([0.06, 0.02, 0.01])
    essential = np.cross(np.eye(3), shift) @ rotation
    points = np.column_stack([before, np.ones(40)]) * rng.uniform(2, 8, (40, 1)) @ rotation.T + shift
    now = camera.rays(camera.project(points[:, :2] / points[:, 2:]) + rng.normal(0, 0.3, (40, 2)))[:, :2].astype(float)
    found = epipolar_distances(before, now, essential, camera)
    for row, distance in enumerate(found):
        nearest = []
        for ray, other, matrix in ((now, before, essential), (before, now, essential.T)):
            normal = matrix @ [*other[row], 1]
            foot = ray[row] - (normal @ [*ray[row], 1]) / (normal[:2] @ normal[:2]) * normal[:2]
            along = np.array([-normal[1], normal[0]]) / np.linalg.norm(normal[:2])
            curve = camera.project(foot + np.linspace(-0.5, 0.5, 20001)[:, None] * along)
            nearest.append(np.linalg.norm(curve - camera.project(ray[row : row + 1]), axis=1).min())
        assert distance == pytest.approx(max(nearest), rel=0.04, abs=0.005)


@pytest.mark.parametrize(('second', 'is_match'), [(1.0, False), (0.9, True)])
def test_a_tie_found_by_the_device_passes_no_ratio_test(second, is_match):
    one = np.float32([1])
    known = Neighbours(among=7, partner=np.zeros(1, np.int32), similarity=one, second=np.float32([second]))
    place, descriptor = np.zeros((1, 2), np.float32), np.eye(1, 8, dtype=np.float32)
    query = Features(place, one, descriptor, neighbours=known)
    found = match(query, Features(place, one, descriptor, serial=7), MatchSettings(max_ratio=0.8))
    assert len(found) == is_match


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('min_similarity', 1.1),
        ('max_ratio', 0.0),
        ('search_radius', -1.0),
        ('search_radius', float('nan')),
        ('inlier_threshold', 0.0),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        MatchSettings(**{name: value})


def test_descriptors_of_two_networks_do_not_compare():
    one, other = (
        Features(np.zeros((3, 2), np.float32), np.ones(3, np.float32), np.ones((3, values), np.float32))
        for values in (64, 128)
    )
    with pytest.raises(ValueError, match='of 64 and of 128 values'):
        match(one, other)
