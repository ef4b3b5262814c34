"""The debug picture shows each kind of feature in its colour, where it is."""

from dataclasses import replace

import numpy as np
import pytest

from superpoint_ros.drawing import NEW, OUTLIER, draw_frame
from superpoint_ros.features import Features
from superpoint_ros.frontend import Frame
from superpoint_ros.matching import Matches


def make_frame(keypoints, ages, matches, previous_keypoints, size=(160, 120)):
    keypoints = np.array(keypoints, np.float32).reshape(-1, 2)
    count = len(keypoints)
    query, train, inlier = np.array(matches, np.int32).reshape(-1, 3).T
    return Frame(
        stamp_ns=1,
        image_size=size,
        features=Features(keypoints, np.ones(count, np.float32), np.ones((count, 1), np.float32)),
        rays=np.full((count, 3), np.nan, np.float32),
        track_ids=np.arange(1, count + 1, dtype=np.uint32),
        track_ages=np.array(ages, np.uint16),
        run_ids=np.zeros(count, np.uint32),
        velocities=np.zeros((count, 2), np.float32),
        matches=Matches(query, train, np.ones(len(query), np.float32), inlier.astype(bool)),
        previous_stamp_ns=0,
        previous_keypoints=np.array(previous_keypoints, np.float32).reshape(-1, 2),
        timings={'network': 1.0},
    )


@pytest.fixture
def frame():
    """A new feature at (20, 20), a tracked one that came from (60, 60), and an outlier from (20, 80)."""
    keypoints, previous = [[20, 20], [80, 60], [60, 90]], [[60, 60], [20, 80]]
    return make_frame(keypoints, [1, 30, 1], [[1, 0, True], [2, 1, False]], previous)


def test_each_kind_of_feature_has_its_colour_where_it_is(frame):
    picture = draw_frame(np.zeros((120, 160), np.uint8), frame)
    assert (picture.shape, picture.dtype) == ((120, 160, 3), np.uint8)
    # The colours are spread over neighbouring pixels by anti-aliasing.
    tracked, tail, outlier = picture[60, 80], picture[60, 70], picture[85, 40]
    assert tracked[0] > 2 * tracked[2], 'an old track is red'
    np.testing.assert_allclose(tail, tracked, atol=40)
    assert outlier[0] > 100
    assert abs(outlier[0] / max(outlier[1], 1) - OUTLIER[0] / OUTLIER[1]) < 1.5
    ring = picture[17:24, 17:24].reshape(-1, 3).max(axis=0)
    assert ring.tolist() == pytest.approx(NEW, abs=60)
    assert not picture[:15].any()
    assert not picture[30:55].any()


def test_a_new_feature_of_a_smaller_size_has_a_larger_ring(frame):
    widths = []
    for level in (0, 4):
        sized = replace(frame, features=replace(frame.features, levels=np.full(3, level, np.uint8)))
        drawn = draw_frame(np.zeros((480, 640), np.uint8), sized)[20].any(axis=1)
        widths.append(np.ptp(np.flatnonzero(drawn[:45])))
    assert widths[1] - widths[0] == pytest.approx(2 * (6 - 2), abs=1)  # radii of 2 and 6 pixels, and the lines' width


def test_the_image_is_seen_through_and_left_as_it_was(frame):
    for shape in ((120, 160), (120, 160, 3)):
        image = np.full(shape, 100, np.uint8)
        picture = draw_frame(image, frame)
        assert (image == 100).all()
        assert picture[5, 5].tolist() == [60, 60, 60]


@pytest.mark.parametrize('shape', [(1, 1), (8, 640), (480, 8), (1080, 1920)])
def test_every_size_and_the_empty_frame_can_be_drawn(frame, shape):
    image = np.zeros(shape, np.uint8)
    empty = make_frame([], [], [], [])
    for drawn in (frame, empty, replace(empty, previous_stamp_ns=None)):
        assert draw_frame(image, drawn).shape == (*shape, 3)
