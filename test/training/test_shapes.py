"""Synthetic Shapes: the corners that are promised are the corners one sees."""

import cv2
import numpy as np
import pytest

from superpoint_training import shapes

WITH_CORNERS = [name for name in shapes.PRIMITIVES if name not in ('ellipses', 'noise')]


@pytest.mark.parametrize('name', shapes.PRIMITIVES)
def test_pictures_and_corners_are_well_formed(name):
    for seed in range(20):
        picture, corners = shapes.render(np.random.default_rng(seed), 120, 160, name)
        assert picture.shape == (120, 160)
        assert picture.dtype == np.uint8
        assert corners.shape[1:] == (2,)
        assert (corners >= -0.5).all()
        assert (corners <= [159.5, 119.5]).all()


def test_a_picture_is_a_function_of_its_seed():
    first, second = (shapes.render(np.random.default_rng(7)) for _ in range(2))
    other, _ = shapes.render(np.random.default_rng(8))
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
    assert (first[0] != other).any()


@pytest.mark.parametrize('name', ['ellipses', 'noise'])
def test_negatives_have_no_corners(name):
    assert all(len(shapes.render(np.random.default_rng(seed), primitive=name)[1]) == 0 for seed in range(30))


@pytest.mark.parametrize('name', WITH_CORNERS)
def test_every_corner_lies_at_a_change_of_grey(name):
    """No label on a flat patch: hidden, covered and colourless corners are dropped."""
    found = 0
    for seed in range(40):
        picture, corners = shapes.render(np.random.default_rng(seed), primitive=name)
        for x, y in np.round(corners).astype(int):
            patch = picture[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].astype(int)
            assert patch.max() - patch.min() >= 8, (seed, x, y)
        found += len(corners)
    assert found >= 40


def test_corners_of_a_checkerboard_are_where_opencv_finds_them():
    """An independent sub-pixel corner finder agrees: half a pixel of systematic shift would show."""
    offsets = []
    for seed in range(60):
        picture, corners = shapes.render(np.random.default_rng(seed), primitive='checkerboard')
        inner = corners[((corners > 8) & (corners < [151, 111])).all(axis=1)].astype(np.float32)
        if len(inner) == 0:
            continue
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.01)
        refined = cv2.cornerSubPix(picture, inner.reshape(-1, 1, 2).copy(), (3, 3), (-1, -1), criteria)[:, 0]
        offsets += [shift for shift in refined - inner if np.abs(shift).max() < 1]
    assert len(offsets) > 200
    assert np.abs(np.median(offsets, axis=0)).max() < 0.1


def test_a_covered_corner_is_dropped():
    hidden_ones = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        canvas = np.full((960, 1280), 100, np.uint8)
        corners = shapes.polygons(rng, canvas)
        inside = ((corners > 0) & (corners < [1279, 959])).all(axis=1)
        for x, y in corners[inside]:
            patch = canvas[max(0, int(y) - 12) : int(y) + 13, max(0, int(x) - 12) : int(x) + 13]
            hidden_ones += int(patch.min() == patch.max())
    assert hidden_ones == 0
