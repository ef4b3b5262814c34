"""Keypoint selection and descriptor sampling against slow, obvious versions of themselves."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.functional import grid_sample, normalize

from superpoint_ros.keypoints import (
    KeypointSettings,
    find_peaks,
    sample_descriptors,
    select_keypoints,
    spread_evenly,
    subpixel_offsets,
)

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
# Few distinct values, so that ties and plateaus are the rule.
SCORE_MAPS = SHAPES.flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from(np.float32([0, 0.25, 0.5, 0.75, 1])))
)


def peaks_oracle(score_map, radius, threshold):
    """Pixel by pixel: (x, y) of window maxima in raster order, unless a kept one is within the radius."""
    height, width = score_map.shape
    kept = []
    for y in range(height):
        for x in range(width):
            window = score_map[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            near_kept = any(abs(x - u) <= radius and abs(y - v) <= radius for u, v in kept)
            if score_map[y, x] > threshold and score_map[y, x] == window.max() and not near_kept:
                kept.append((x, y))
    return kept


def select_oracle(score_map, settings, mask):
    height, width = score_map.shape
    points = [
        (x, y)
        for x, y in peaks_oracle(score_map, settings.nms_radius, settings.detection_threshold)
        if settings.border <= x < width - settings.border and settings.border <= y < height - settings.border
        if mask is None or mask[y, x]
    ]
    points.sort(key=lambda point: -score_map[point[1], point[0]])  # stable: equal scores stay in raster order
    if settings.spread:
        chosen = rounds_oracle(points, settings.spread, settings.max_keypoints)
        points = [point for point in points if point in chosen]
    return points[: settings.max_keypoints]


def rounds_oracle(points, cell, count):
    """Go round the cells, each time taking the best point that each still has, better points first."""
    waiting, chosen = list(points), []
    while waiting:
        seen, this_round = set(), []
        for x, y in waiting:
            if (x // cell, y // cell) not in seen:
                seen.add((x // cell, y // cell))
                this_round.append((x, y))
        chosen += this_round
        waiting = [point for point in waiting if point not in this_round]
    return chosen[:count]


@given(SCORE_MAPS, st.integers(0, 5), st.sampled_from([0, 0.25, 0.6]))
@example(np.ones((7, 9), np.float32), 2, 0.5)
@example(np.zeros((7, 9), np.float32), 2, 0.0)
def test_peaks_equal_those_of_the_oracle(score_map, radius, threshold):
    y, x = np.divmod(find_peaks(score_map, radius, threshold), score_map.shape[1])
    assert list(zip(x, y, strict=True)) == peaks_oracle(score_map, radius, threshold)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_peaks_without_ties_equal_those_of_the_oracle(seed, radius):
    score_map = np.random.default_rng(seed).random((13, 21), dtype=np.float32)
    y, x = np.divmod(find_peaks(score_map, radius, 0.3), 21)
    assert list(zip(x, y, strict=True)) == peaks_oracle(score_map, radius, 0.3)


def test_of_two_equal_peaks_in_one_window_the_first_in_raster_order_stays():
    score_map = np.zeros((9, 9), np.float32)
    score_map[2, 6] = score_map[4, 2] = score_map[4, 7] = 0.5
    assert find_peaks(score_map, 4, 0.1).tolist() == [2 * 9 + 6]
    assert find_peaks(score_map, 3, 0.1).tolist() == [2 * 9 + 6, 4 * 9 + 2]


def test_peaks_of_a_view_that_is_not_contiguous():
    score_map = np.random.default_rng(0).random((16, 24), dtype=np.float32)
    view = score_map[:11, :13]
    np.testing.assert_array_equal(find_peaks(view, 2, 0.1), find_peaks(view.copy(), 2, 0.1))


@given(
    SCORE_MAPS,
    st.builds(
        KeypointSettings,
        max_keypoints=st.integers(1, 12),
        detection_threshold=st.sampled_from([0, 0.25, 0.9]),
        nms_radius=st.integers(0, 3),
        border=st.integers(0, 3),
        subpixel=st.just(False),
        spread=st.integers(0, 6),
    ),
    st.none() | st.integers(0, 2**32 - 1),
)
def test_selection_equals_that_of_the_oracle(score_map, settings, mask_seed):
    mask = None
    if mask_seed is not None:
        mask = np.random.default_rng(mask_seed).integers(0, 2, score_map.shape, dtype=np.uint8) * 255
    keypoints, scores = select_keypoints(score_map, settings, mask)
    expected = select_oracle(score_map, settings, mask)
    assert [tuple(point) for point in keypoints] == expected
    assert scores.tolist() == [score_map[y, x] for x, y in expected]
    assert keypoints.shape == (len(expected), 2)
    assert (keypoints.dtype, scores.dtype) == (np.float32, np.float32)


def test_many_equal_scores_come_in_raster_order():
    score_map = np.full((30, 40), 0.25, np.float32)
    score_map[::2, ::2] = 0.5
    keypoints, scores = select_keypoints(score_map, KeypointSettings(nms_radius=0, border=0, subpixel=False))
    ranks = keypoints[:, 1] * 40 + keypoints[:, 0]
    assert (np.diff(ranks[scores == 0.5]) > 0).all()
    assert (np.diff(ranks[scores == 0.25]) > 0).all()


def test_a_keypoint_at_the_origin_is_a_keypoint():
    score_map = np.zeros((8, 8), np.float32)
    score_map[0, 0] = 0.5
    keypoints, scores = select_keypoints(score_map, KeypointSettings(border=0))
    assert keypoints.tolist() == [[0, 0]]
    assert scores.tolist() == [0.5]


def test_nothing_found_gives_well_shaped_empties():
    for spread in (0, 8):
        keypoints, scores = select_keypoints(np.zeros((8, 8), np.float32), KeypointSettings(spread=spread))
        assert (keypoints.shape, scores.shape) == ((0, 2), (0,))
        assert sample_descriptors(np.ones((1, 1, 5), np.float32), keypoints, 8).shape == (0, 5)


def test_a_masked_response_still_suppresses_its_neighbours():
    score_map = np.zeros((8, 8), np.float32)
    score_map[4, 4], score_map[4, 6] = 0.9, 0.5
    mask = np.ones((8, 8), bool)
    mask[4, 4] = False
    assert len(select_keypoints(score_map, KeypointSettings(border=0, nms_radius=2), mask)[0]) == 0
    assert len(select_keypoints(score_map, KeypointSettings(border=0, nms_radius=1), mask)[0]) == 1


def test_spread_serves_every_cell_before_any_cell_twice():
    rng = np.random.default_rng(0)
    # The crowded cell, listed first, scores higher than all others.
    crowded, sparse = rng.integers(0, 32, (500, 2)), rng.integers(32, 320, (100, 2))
    x, y = np.concatenate([crowded, sparse]).T
    chosen = spread_evenly(x, y, 32, 60)
    cells = {(u // 32, v // 32) for u, v in zip(x, y, strict=True)}
    assert {(x[row] // 32, y[row] // 32) for row in chosen} == cells
    assert (np.diff(chosen) > 0).all()
    assert 0 in chosen, 'the best point of all must stay'


CENTRES, WIDTHS = st.floats(-0.45, 0.45), st.floats(0.7, 3)


@given(CENTRES, CENTRES, WIDTHS, WIDTHS, st.floats(-0.5, 0.5))
def test_subpixel_fit_finds_the_centre_of_a_gaussian(dx, dy, width, height, shear):
    y, x = np.mgrid[-3:4, -3:4].astype(np.float64)
    x, y = (x - dx) / width, (y - dy) / height
    bump = np.exp(-(x**2 + y**2 + shear * x * y) / 2).astype(np.float32)
    offset = subpixel_offsets(bump, np.array([3]), np.array([3]))
    np.testing.assert_allclose(offset, [[dx, dy]], atol=2e-3)


@given(SCORE_MAPS)
@example(np.float32([[0.1, 0.1, 0.1], [1, 0.75, 0.25], [0.1, 0.1, 0.1]]))  # the fit peaks 0.85 pixels away
def test_subpixel_offsets_are_finite_and_at_most_half_a_pixel(score_map):
    y, x = np.indices(score_map.shape).reshape(2, -1)
    offsets = subpixel_offsets(score_map, x, y)
    assert np.isfinite(offsets).all()
    assert np.abs(offsets).max() <= 0.5
    height, width = score_map.shape
    outermost = (x == 0) | (y == 0) | (x == width - 1) | (y == height - 1)
    assert not offsets[outermost].any()


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 4, 8]), st.integers(0, 2**32 - 1))
def test_descriptors_are_sampled_as_grid_sample_does_at_the_pixel_convention(height, width, stride, seed):
    rng = np.random.default_rng(seed)
    descriptor_map = rng.normal(size=(height, width, 6)).astype(np.float32)
    size = np.array([width * stride, height * stride])
    keypoints = (rng.random((20, 2)) * size - 0.5).astype(np.float32)
    grid = torch.from_numpy((keypoints + 0.5) / size * 2 - 1).float()[None, None]
    channels_first = torch.from_numpy(descriptor_map).permute(2, 0, 1)[None]
    sampled = grid_sample(channels_first, grid, padding_mode='border', align_corners=False)
    expected = normalize(sampled[0, :, 0], dim=0).T.numpy()
    descriptors = sample_descriptors(descriptor_map, keypoints, stride)
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors, expected, atol=1e-3)


def test_a_keypoint_at_a_cell_centre_gets_that_cells_descriptor():
    descriptor_map = np.eye(12, dtype=np.float32).reshape(3, 4, 12)
    centres = np.array([[8 * (k % 4 + 0.5) - 0.5, 8 * (k // 4 + 0.5) - 0.5] for k in range(12)], np.float32)
    np.testing.assert_allclose(sample_descriptors(descriptor_map, centres, 8), np.eye(12), atol=1e-6)


def test_half_precision_maps_and_zero_descriptors():
    descriptor_map = np.zeros((1, 2, 4), np.float16)
    descriptor_map[0, 1] = 300  # its square overflows float16
    descriptors = sample_descriptors(descriptor_map, np.array([[0, 0], [15, 0]], np.float32), 8)
    np.testing.assert_array_equal(descriptors, [[0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('max_keypoints', 0),
        ('max_keypoints', 1.5),
        ('detection_threshold', 1.0),
        ('nms_radius', -1),
        ('border', -1),
        ('spread', -8),
        ('levels', 2.0),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        KeypointSettings(**{name: value})
