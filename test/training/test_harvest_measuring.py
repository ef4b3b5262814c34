"""What is measured of an image tells blur, exposure and likeness, whatever it shows."""

import cv2
import numpy as np
import pytest
from drives import drive

from superpoint_training.frames import fit
from superpoint_training.harvest.measuring import MEASUREMENT, appearance, measure, sharpness


def motion_blur(picture: np.ndarray, pixels: int, angle: float) -> np.ndarray:
    kernel = np.zeros((pixels, pixels), np.float32)
    kernel[pixels // 2] = 1
    turn = cv2.getRotationMatrix2D(((pixels - 1) / 2, (pixels - 1) / 2), angle, 1)
    kernel = cv2.warpAffine(kernel, turn, (pixels, pixels))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def noisy(picture: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def measured(picture: np.ndarray) -> np.void:
    row = np.zeros(1, MEASUREMENT)[0]
    measure(picture, row)
    return row


VIEWS = [drive(1, height=480, width=640, seed=seed)[0] for seed in range(3)]
SPARSE = np.full((480, 640), 120, np.uint8)
cv2.rectangle(SPARSE, (200, 100), (420, 330), 60, -1)


@pytest.mark.parametrize('angle', [0, 45, 90])
@pytest.mark.parametrize(('view', 'deviation'), [(VIEWS[0], 0), (VIEWS[1], 4), (VIEWS[2], 8), (SPARSE, 0)])
def test_motion_blur_shows_whatever_its_direction_the_texture_and_the_noise(view, angle, deviation):
    sharp = sharpness(noisy(view, deviation))
    assert sharpness(noisy(motion_blur(view, 13, angle), deviation)) < 0.6 * sharp


@pytest.mark.parametrize('view', VIEWS)
def test_defocus_is_below_the_floor_and_half_the_resolution_is_not(view):
    assert sharpness(cv2.GaussianBlur(view, (0, 0), 5)) < 0.2
    half = cv2.resize(view, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert sharpness(cv2.resize(half, (640, 480))) > 0.2


@pytest.mark.parametrize('contrast', [0.3, 0.6])
def test_sharpness_does_not_depend_on_exposure(contrast):
    dull = (VIEWS[0] * contrast + 50).astype(np.uint8)
    assert sharpness(dull) == pytest.approx(sharpness(VIEWS[0]), rel=0.1)


def test_exposure_is_measured_in_shares_of_the_picture():
    picture = np.full((100, 200), 128, np.uint8)
    picture[:30] = 8
    picture[90:] = 247
    row = measured(picture)
    assert (row['black'], row['white']) == (pytest.approx(0.3), pytest.approx(0.1))
    assert row['contrast'] == 247 - 8
    assert (row['height'], row['width']) == (100, 200)
    assert measured(np.full((100, 200), 128, np.uint8))['contrast'] == 0


@pytest.mark.parametrize('shape', [(1, 1), (1, 700), (700, 1), (9, 9), (2000, 31)])
@pytest.mark.parametrize('level', [0, 255])
def test_pictures_of_any_shape_are_measured(shape, level):
    row = measured(np.full(shape, level, np.uint8))
    assert row['sharpness'] == 0
    assert (row['black'], row['white']) == (level == 0, level == 255)


def test_a_still_camera_looks_the_same_through_noise_and_exposure_and_a_moving_one_does_not():
    first, second = drive(2, step=4, height=480, width=640)
    exposed = noisy((first * 0.8 + 10).astype(np.uint8), 4)
    looks = appearance(np.stack([measured(picture)['thumbnail'] for picture in (first, exposed, second)]))
    assert np.linalg.norm(looks[0] - looks[1]) < 0.06 < np.linalg.norm(looks[0] - looks[2])


def test_noise_of_a_flat_picture_does_not_look_like_change():
    walls = [noisy(np.full((480, 640), 128, np.uint8), 6), np.full((480, 640), 140, np.uint8)]
    looks = appearance(np.stack([measured(picture)['thumbnail'] for picture in walls]))
    assert np.linalg.norm(looks[0] - looks[1]) < 0.06


SIZES = [((480, 640), (480, 640)), ((100, 900), (100, 900)), ((960, 1280), (480, 640)), ((1000, 700), (686, 480))]


@pytest.mark.parametrize(('shape', 'fitted'), SIZES)
def test_large_pictures_are_reduced_and_small_ones_stay(shape, fitted):
    picture = np.zeros(shape, np.uint8)
    assert fit(picture, 480).shape == fitted
    assert (fit(picture, 480) is picture) == (shape == fitted)
