"""Relative poses: errors exactly, the area under the curve against its definition, estimates from known geometry."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features
from superpoint_training.evaluation.pose_run import score_frames
from superpoint_training.evaluation.relative_pose import (
    _turned,
    estimate,
    pose_auc,
    relative,
    rotation_error,
    translation_error,
)
from superpoint_training.evaluation.sequences import PosedFrames
from superpoint_training.protocols import PoseProtocol

PROTOCOL = PoseProtocol()


def turn(*degrees):
    return cv2.Rodrigues(np.radians(np.array(degrees, float)))[0]


def pose(rotation, position):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, position
    return matrix


@pytest.mark.parametrize('degrees', [0, 1e-5, 0.3, 45, 179.9, 180])
def test_rotation_error_is_the_angle_between(degrees):
    base = turn(20, -50, 70)
    assert rotation_error(turn(degrees, 0, 0) @ base, base) == pytest.approx(degrees, rel=1e-4, abs=1e-7)


def test_translation_error_knows_no_sign_and_no_length():
    assert translation_error(np.array([1.0, 0, 0]), np.array([5.0, 5, 0])) == pytest.approx(45)
    assert translation_error(np.array([-1.0, 0, 0]), np.array([5.0, 0, 0])) == pytest.approx(0, abs=1e-6)
    assert translation_error(np.array([0.0, 0, 1]), np.array([0.3, 0, 0])) == pytest.approx(90)
    assert translation_error(np.zeros(3), np.array([0.3, 0, 0])) == 90
    assert translation_error(np.array([-1.0, 0.1, 0]), np.array([1.0, 0, 0])) == pytest.approx(
        np.degrees(np.arctan(0.1))
    )


def test_area_under_the_curve_by_hand():
    assert pose_auc(np.zeros(4), 5) == 1
    assert pose_auc(np.array([math.inf, 7.0, 5.0]), 5) == 0
    assert math.isnan(pose_auc(np.zeros(0), 5))
    # One error of 2: the curve rises from (0, 0) to (2, 1) and stays there until 5.
    assert pose_auc(np.array([2.0]), 5) == pytest.approx((0.5 * 2 + 3) / 5)
    # Two pairs, one of them failed: up to (2, 1/2), then level.
    assert pose_auc(np.array([2.0, math.inf]), 5) == pytest.approx((0.5 * 2 * 0.5 + 3 * 0.5) / 5)
    assert pose_auc(np.array([1.0, 3.0]), 4) == pytest.approx((0.25 + (0.5 + 1) / 2 * 2 + 1) / 4)


@given(st.lists(st.floats(0.01, 30), max_size=12), st.sampled_from([5, 10, 20]))
def test_area_under_the_curve_against_integration(errors, limit):
    if not errors:
        return
    ordered = sorted(errors)
    corners = [(0.0, 0.0), *((e, (k + 1) / len(errors)) for k, e in enumerate(ordered) if e < limit)]
    corners.append((limit, corners[-1][1]))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(corners))
    assert pose_auc(np.array(errors), limit) == pytest.approx(area / limit)


def view(seed, count=80, noise=0.0):
    """Two posed cameras and their rays to the same points before both."""
    rng = np.random.default_rng(seed)
    first = pose(turn(*rng.uniform(-30, 30, 3)), rng.uniform(-2, 2, 3))
    second = first @ pose(turn(*rng.uniform(-8, 8, 3)), rng.uniform(-1, 1, 3))
    points = first[:3, :3] @ (rng.uniform([-2, -2, 4], [2, 2, 9], (count, 3))).T + first[:3, 3:]
    rays = []
    for camera in (first, second):
        seen = (np.linalg.inv(camera) @ np.vstack([points, np.ones(count)]))[:3]
        rays.append((seen[:2] / seen[2]).T + rng.normal(0, noise, (count, 2)))
    return first, second, *rays


@given(st.integers(0, 200))
def test_the_motion_of_exact_matches_comes_out(seed):
    first, second, start, end = view(seed)
    rotation, translation = relative(first, second)
    found = estimate(start, end, 1e-3, 0.9999, 5000)
    assert found is not None
    assert rotation_error(found.rotation, rotation) < 0.05
    assert translation_error(found.translation, translation) < 0.5
    assert found.inlier.all()


def test_wrong_matches_are_no_inliers():
    first, second, start, end = view(1, noise=5e-4)
    rng = np.random.default_rng(0)
    end = np.vstack([end, rng.uniform(-0.5, 0.5, (60, 2))])
    start = np.vstack([start, rng.uniform(-0.5, 0.5, (60, 2))])
    found = estimate(start, end, 2e-3, 0.9999, 5000)
    assert found is not None
    assert rotation_error(found.rotation, relative(first, second)[0]) < 1
    assert found.inlier[:80].mean() > 0.8
    assert found.inlier[80:].mean() < 0.3


def test_estimates_repeat_and_depend_on_the_seed_alone():
    *_, start, end = view(2, noise=3e-3)
    found = []
    for _ in range(3):
        found.append(estimate(start, end, 2e-3, 0.9999, 5000, seed=4))
        cv2.randu(np.zeros((3, 3), np.uint8), 0, 255)
    assert all((each.rotation == found[0].rotation).all() for each in found)


def test_too_few_matches_have_no_motion():
    *_, start, end = view(3)
    assert estimate(start[:5], end[:5], 1e-3, 0.9999, 5000) is None
    assert estimate(start[:0], end[:0], 1e-3, 0.9999, 5000) is None


@pytest.mark.parametrize('degrees', [0, 0.5])
def test_of_the_same_picture_or_one_turned_the_rotation_comes_out(degrees):
    """Frames that a recording has twice: any translation explains them, and no point is before or behind."""
    rng = np.random.default_rng(0)
    start = rng.uniform(-0.5, 0.5, (1000, 2))
    rotation = turn(degrees, 0, -degrees)
    seen = np.column_stack([start, np.ones(1000)]) @ rotation.T
    found = estimate(start, seen[:, :2] / seen[:, 2:], 2e-3, 0.9999, 5000)
    assert found is not None
    assert rotation_error(found.rotation, rotation) < 0.02
    assert found.inlier.all()


def test_a_rotation_that_explains_next_to_nothing_is_none():
    rng = np.random.default_rng(1)
    start, end = rng.uniform(-0.5, 0.5, (2, 40, 2))
    assert _turned(start, end, np.ones(40, bool), 1e-4) is None
    assert _turned(start, start, np.ones(40, bool), 1e-4).inlier.all()


def test_one_point_seen_again_and_again_has_no_pose():
    same = np.ones((40, 2))
    assert estimate(same, same, 1e-3, 0.9999, 5000) is None


def posed_features(seed, noise=0.0):
    """A sequence of two frames and features of both that a 500-pixel camera sees."""
    first, second, *rays = view(seed, noise=noise)
    camera = Camera(np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1.0]]), np.zeros(0), 'none', 640, 480)
    frames = PosedFrames('room', {}, ['a', 'b'], np.array([0, 1]), np.stack([first, second]), camera, (0, 1))
    descriptors = np.linalg.qr(np.random.default_rng(seed).normal(size=(80, 80)))[0].astype(np.float32)
    features = [
        Features((points * 500 + [320, 240]).astype(np.float32), np.ones(80, np.float32), descriptors)
        for points in rays
    ]
    return frames, features


def test_perfect_features_give_the_pose():
    frames, (first, second) = posed_features(5)
    scored = score_frames(first, second, frames, (0, 1), PROTOCOL)
    assert scored['error'] < 1
    assert scored['matches'] == scored['inliers'] == 80
    assert scored['inlier_ratio'] == 1


def test_features_that_match_nothing_fail():
    frames, (first, second) = posed_features(5)
    nothing = second.take(np.zeros(0, int))
    scored = score_frames(first, nothing, frames, (0, 1), PROTOCOL)
    assert scored['error'] == math.inf
    assert scored['matches'] == scored['inliers'] == scored['inlier_ratio'] == 0
    shuffled = Features(second.keypoints[::-1], second.scores, second.descriptors)
    wrong = score_frames(first, shuffled, frames, (0, 1), PROTOCOL)
    assert wrong['matches'] == 80
    assert wrong['inlier_ratio'] < 0.5


def test_without_motion_the_rotation_alone_counts():
    frames, (first, _) = posed_features(6)
    frames.poses[1] = frames.poses[0] @ pose(np.eye(3), [0.01, 0, 0])
    scored = score_frames(first, first, frames, (0, 1), PROTOCOL)
    assert scored['baseline'] == pytest.approx(0.01)
    assert scored['error'] == scored['rotation_error']
    frames.poses[1] = frames.poses[0] @ pose(np.eye(3), [0.2, 0, 0])
    scored = score_frames(first, first, frames, (0, 1), PROTOCOL)
    assert scored['error'] == max(scored['rotation_error'], scored['translation_error'])
