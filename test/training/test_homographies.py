"""Homographies, photometric changes: geometry that is known, properties that hold."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_training.homographies import (
    HomographyConfig,
    inside,
    rescaling,
    sample_homography,
    smoothed,
    translation,
    valid_mask,
    warp_image,
    warp_points,
)
from superpoint_training.photometric import PhotometricConfig, augment


@given(st.integers(0, 10_000), st.sampled_from([(240, 320), (320, 240), (100, 100)]))
def test_rotation_alone_keeps_angles_of_a_picture_that_is_not_square(seed, size):
    height, width = size
    config = HomographyConfig((1.0, 1.0), np.pi, 0.0, 0.0)
    homography = sample_homography(np.random.default_rng(seed), height, width, config)
    x, y, origin = warp_points(np.array([[50.0, 0], [0, 50], [0, 0]]), homography)
    assert np.linalg.norm(x - origin) == pytest.approx(50)
    assert np.linalg.norm(y - origin) == pytest.approx(50)
    assert (x - origin) @ (y - origin) == pytest.approx(0, abs=1e-6)
    centre = np.array([[(width - 1) / 2, (height - 1) / 2]])
    np.testing.assert_allclose(warp_points(centre, homography), centre, atol=1e-6)


@given(st.integers(0, 10_000))
def test_zoom_and_shift_stay_in_their_ranges(seed):
    config = HomographyConfig((0.8, 1.3), 0.0, 0.0, 0.1)
    homography = sample_homography(np.random.default_rng(seed), 240, 320, config)
    assert 0.8 <= homography[0, 0] <= 1.3
    centre = np.array([[159.5, 119.5]])
    shift = np.abs(warp_points(centre, homography) - centre)[0]
    assert shift[0] <= 32 + 1e-9
    assert shift[1] <= 24 + 1e-9


def stretches(homography):
    """The largest and the smallest length that a homography gives to vectors of length 1 where it is affine."""
    return np.linalg.svd(homography[:2, :2])[1]


@given(st.integers(0, 10_000), st.floats(1, 4))
def test_tilt_keeps_areas_and_its_range(seed, tilt):
    config = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.0, tilt)
    homography = sample_homography(np.random.default_rng(seed), 240, 320, config)
    longest, shortest = stretches(homography)
    assert longest * shortest == pytest.approx(1)
    assert longest / shortest <= tilt + 1e-9
    centre = np.array([[159.5, 119.5]])
    np.testing.assert_allclose(warp_points(centre, homography), centre, atol=1e-6)


def test_tilt_goes_to_its_limit_and_to_all_sides():
    config = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.0, 2.5)
    drawn = [sample_homography(np.random.default_rng(seed), 100, 100, config) for seed in range(300)]
    ratios = [longest / shortest for longest, shortest in map(stretches, drawn)]
    assert max(ratios) > 2.3
    assert np.median(ratios) == pytest.approx(2.5**0.31, rel=0.1)  # of a half normal cut off at two sigma
    assert sum(homography[0, 0] > 1 for homography in drawn) == pytest.approx(150, abs=40)
    assert sum(homography[0, 1] > 0 for homography in drawn) == pytest.approx(150, abs=40)


def test_no_tilt_leaves_the_views_of_the_other_changes_as_they_were():
    """Training examples and the views of an evaluation are numbered: the same number is the same view for good."""
    rng = np.random.default_rng(5)
    homography = sample_homography(rng, 240, 320, HomographyConfig())
    expected = [[1.0927621, 0.8550092, -82.387573], [-0.6543205, 1.0581265, 115.411336]]
    np.testing.assert_allclose(homography[:2] / homography[2, 2], expected, rtol=1e-6)
    assert rng.random() == pytest.approx(0.4084732054, abs=1e-9)  # nor is any more drawn


def test_tilt_below_one_is_refused():
    with pytest.raises(ValueError, match='tilt must be at least 1'):
        HomographyConfig(tilt=0.5)


@given(st.integers(0, 10_000))
def test_points_return_through_the_inverse(seed):
    rng = np.random.default_rng(seed)
    homography = sample_homography(rng, 240, 320, HomographyConfig())
    points = rng.uniform(0, [319, 239], (20, 2))
    returned = warp_points(warp_points(points, homography), np.linalg.inv(homography))
    np.testing.assert_allclose(returned, points, atol=1e-6)


def test_points_and_pictures_move_alike():
    """A smooth blob drawn at p appears, in the warped picture, at H p."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:240, :320]
    for _ in range(20):
        homography = sample_homography(rng, 240, 320, HomographyConfig((0.9, 1.1), 0.5, 0.1, 0.05))
        point = rng.uniform([80, 60], [240, 180])
        blob = (255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 18)).astype(np.uint8)
        warped = warp_image(blob, homography, 240, 320).astype(float)
        centroid = np.array([(warped * x).sum(), (warped * y).sum()]) / warped.sum()
        np.testing.assert_allclose(centroid, warp_points(point[None], homography)[0], atol=0.15)


def test_rescaling_follows_the_pixel_convention():
    """Where `cv2.resize` puts a blob is where `rescaling` says."""
    y, x = np.mgrid[:200, :300]
    point = np.array([[143.0, 77.0]])
    blob = (255 * np.exp(-((x - 143) ** 2 + (y - 77) ** 2) / 50)).astype(np.float32)
    small = cv2.resize(blob, (150, 80), interpolation=cv2.INTER_AREA)
    rows, columns = np.mgrid[:80, :150]
    centroid = np.array([(small * columns).sum(), (small * rows).sum()]) / small.sum()
    np.testing.assert_allclose(centroid, warp_points(point, rescaling(0.5, 0.4))[0], atol=0.02)


def test_mask_is_where_the_warped_picture_is_not_black():
    white = np.full((60, 80), 255, np.uint8)
    homography = translation(10, -7)
    mask = valid_mask((60, 80), homography, 60, 80)
    np.testing.assert_array_equal(mask, warp_image(white, homography, 60, 80) > 0)
    eroded = valid_mask((60, 80), homography, 60, 80, erosion=3)
    assert mask[:, 10].any()
    assert not eroded[:, :13].any()
    assert not eroded[50:].any()
    assert eroded[4:49, 14:76].all()


def test_inside_counts_border_pixels_in():
    points = np.array([[0, 0], [79, 59], [79.1, 0], [-0.1, 5]])
    np.testing.assert_array_equal(inside(points, 60, 80), [True, True, False, False])
    np.testing.assert_array_equal(inside(points, 60, 80, 1), [False] * 4)


@given(st.integers(0, 1000))
def test_augmentation_keeps_shape_and_input(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (40, 56), dtype=np.uint8)
    kept = image.copy()
    changed = augment(rng, image, PhotometricConfig(motion_blur=7))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(image, kept)


def test_each_change_is_needed_and_bounded():
    rng = np.random.default_rng(0)
    grey = np.full((64, 64), 128, np.uint8)
    still = PhotometricConfig(0, (1, 1), 0, 0, (0, 0), 0, 1.0)
    np.testing.assert_array_equal(augment(rng, grey, still), grey)
    brighter = augment(rng, grey, PhotometricConfig(50, (1, 1), 0, 0, (0, 0), 0, 1.0)).astype(int)
    assert 0 < np.abs(brighter - 128).max() <= 50
    speckled = augment(rng, grey, PhotometricConfig(0, (1, 1), 0, 0.01, (0, 0), 0, 1.0))
    assert 0 < (speckled != 128).mean() <= 0.01


STILL = {'brightness': 0, 'contrast': (1, 1), 'noise': 0, 'speckle': 0, 'shade': (0, 0), 'motion_blur': 0}


def augmented(image, **changes):
    config = PhotometricConfig(**STILL, probability=1.0, **changes)
    return augment(np.random.default_rng(0), image, config).astype(float)


def test_defocus_spreads_a_point_evenly_to_all_sides():
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    spread = augmented(point, defocus=4.0)
    assert 0 < spread.max() < 200
    assert spread.sum() == pytest.approx(255, rel=0.35)  # whole grey levels lose some
    for turned in (spread.T, spread[::-1], spread[:, ::-1]):
        np.testing.assert_array_equal(spread, turned)


@pytest.mark.parametrize('longest', [2, 3, 5, 7])
def test_motion_blur_leaves_a_point_where_it_is(longest):
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    config, widest = PhotometricConfig(**STILL | {'motion_blur': longest}, probability=1.0), 0
    for seed in range(100):
        blurred = augment(np.random.default_rng(seed), point, config).astype(int)
        np.testing.assert_array_equal(blurred, blurred[::-1, ::-1])
        widest = max(widest, np.count_nonzero(blurred.any(axis=0)))
    assert widest == longest // 2 * 2 + 1


def test_gamma_keeps_black_white_and_the_order_of_grey_levels():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)
    levels = np.arange(256) / 255
    darker, brighter = 0, 0
    for seed in range(20):
        config = PhotometricConfig(**STILL, probability=1.0, gamma=2.0)
        curved = augment(np.random.default_rng(seed), ramp, config)[0].astype(int)
        assert (curved[0], curved[-1]) == (0, 255)
        assert (np.diff(curved) >= 0).all()
        assert (curved <= np.ceil(255 * levels**0.5)).all()
        assert (curved >= np.floor(255 * levels**2)).all()
        darker, brighter = min(darker, curved[128] - 128), max(brighter, curved[128] - 128)
    assert darker < -30
    assert brighter > 30


def test_jpeg_changes_what_is_busy_and_keeps_what_is_plain():
    busy = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert np.abs(augmented(busy, jpeg=1) - busy).mean() > 1
    plain = np.full((64, 64), 128, np.uint8)
    np.testing.assert_array_equal(augmented(plain, jpeg=1), plain)


def test_changes_that_are_off_leave_the_examples_of_the_others_as_they_were():
    """Training examples and the views of an evaluation are numbered: the same number is the same picture for good."""
    image = np.random.default_rng(1).integers(0, 256, (40, 56), np.uint8)
    stored = {
        PhotometricConfig(): [
            [87787, 87676, 89167, 87522], [94405, 95029, 98005, 94182], [71355, 71684, 75191, 71069],
        ],
        PhotometricConfig(probability=1): [
            [63568, 63427, 65951, 64122], [36282, 34619, 38643, 35430], [95491, 96756, 100489, 96091],
        ],
        PhotometricConfig(probability=1, defocus=2, gamma=1.6, jpeg=20): [
            [87450, 85991, 89348, 86095], [58694, 60276, 64280, 58548], [36601, 38145, 40015, 36772],
        ],
    }  # fmt: skip
    for config, expected in stored.items():
        views = [augment(np.random.default_rng(seed), image, config) for seed in range(len(expected))]
        quarters = [[int(part.sum()) for part in np.array_split(view, 4)] for view in views]
        np.testing.assert_allclose(quarters, expected, rtol=1e-3)  # libraries may round a pixel either way


@pytest.mark.parametrize('zoom', [0.25, 0.36, 0.45])  # at exactly a half bilinear samples are the means
def test_a_view_that_shrinks_a_picture_is_near_the_mean_over_its_pixels(zoom):
    """Nearer than without the blur, which keeps single pixels of what it should average."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    size = round(200 * zoom)
    view = rescaling(zoom, zoom)
    mean = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA).astype(float)
    plain, smooth = (
        warp_image(each, view, size, size).astype(float) for each in (picture, smoothed(picture, view, size, size))
    )
    inner = (slice(3, -3), slice(3, -3))
    assert np.std((smooth - mean)[inner]) < np.std((plain - mean)[inner])
    assert smooth[inner].std() < plain[inner].std()


@pytest.mark.parametrize('view', [np.eye(3), rescaling(1.7, 1.7), translation(5, 3)])
def test_a_view_that_shrinks_nothing_is_of_the_picture_itself(view):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    assert smoothed(picture, view, 40, 60) is picture
