"""The whole detector: on a network whose answer is known, and on the shipped weights."""

from functools import cache
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from textures import photograph
from torch import nn

from superpoint_ros.detector import Detector
from superpoint_ros.engines import openvino
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import WeightsError
from superpoint_ros.stopwatch import Stopwatch

ENGINES = [
    'torch',
    pytest.param('openvino', marks=pytest.mark.skipif(openvino is None, reason='no OpenVINO')),
]


class BrightnessNetwork(nn.Module):
    """Brighter pixels are likelier keypoints; the descriptor is the cell's mean brightness and a constant."""

    stride = descriptor_stride = 8
    config = SimpleNamespace(descriptor_dim=2)

    def forward(self, image):
        logits = nn.functional.pixel_unshuffle(image * 20 - 10, 8)
        brightness = nn.functional.avg_pool2d(image, 8)
        no_keypoint = torch.zeros_like(brightness)
        return torch.cat([logits, no_keypoint], 1), torch.cat([brightness, torch.ones_like(brightness)], 1)


@cache
def compiled_detector(engine):
    """Compiling takes longer than all that the tests do with it."""
    return Detector(BrightnessNetwork(), KeypointSettings(levels=1), engine=engine, device='cpu')


def make_detector(engine, **settings):
    detector = compiled_detector(engine)
    detector.settings = KeypointSettings(**({'levels': 1} | settings))
    return detector


def dots(height, width, points):
    image = np.zeros((height, width), np.uint8)
    for x, y in points:
        image[y, x] = 255
    return image


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('width', [3, 8, 16])
def test_half_precision_finds_in_a_narrow_image_what_float32_does(engine, width):
    image = cv2.resize(photograph(120, 160), (width, 64))
    settings = {'device': 'cpu', 'engine': engine, 'levels': 1, 'detection_threshold': 0.0, 'border': 0}
    exact, half = (
        Detector.load('superpoint_small', precision=precision, **settings).detect(image)
        for precision in ('float32', 'bfloat16')
    )
    best = exact.scores > 0.5 * exact.scores[0]
    distances = np.linalg.norm(exact.keypoints[best, None] - half.keypoints, axis=2)
    assert distances.min(axis=1).max() < 1
    np.testing.assert_allclose(half.scores[distances.argmin(axis=1)], exact.scores[best], rtol=0.2)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (50, 1), (7, 9), (8, 8), (61, 83)])
def test_dots_at_the_corners_of_an_image_of_any_size_are_found_exactly(engine, shape):
    height, width = shape
    corners = {(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)}
    features = make_detector(engine, border=0, nms_radius=3).detect(dots(height, width, corners))
    assert {tuple(point) for point in features.keypoints} == corners
    assert features.descriptors.shape == (len(corners), 2)


@pytest.mark.parametrize('engine', ENGINES)
def test_no_keypoint_lies_in_the_padding_nor_yields_to_it(engine):
    image = np.zeros((20, 20), np.uint8)
    image[-1, -1] = 200  # repeated twelve times by the padding
    features = make_detector(engine, border=0).detect(image)
    assert features.keypoints.tolist() == [[19, 19]]


@pytest.mark.parametrize('engine', ENGINES)
def test_features_are_sorted_normalised_and_typed(engine):
    image = np.random.default_rng(0).integers(0, 256, (100, 130), dtype=np.uint8)
    features = make_detector(engine, max_keypoints=50).detect(image)
    assert len(features) == 50
    assert (np.diff(features.scores) <= 0).all()
    arrays = features.keypoints, features.scores, features.descriptors
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize('engine', ENGINES)
def test_descriptors_belong_to_their_keypoints(engine):
    """Brightness grows linearly from cell to cell, so its bilinear samples are known."""
    ramp = np.repeat(np.arange(16, dtype=np.uint8) * 10, 8)
    image = np.repeat(ramp[None], 64, axis=0)
    detector = make_detector(engine, subpixel=False, border=8)
    features = detector.detect(image)
    brightness = ((features.keypoints[:, 0] + 0.5) / 8 - 0.5) * 10 / 255
    measured = features.descriptors[:, 0] / features.descriptors[:, 1]
    assert len(features) > 20
    np.testing.assert_allclose(measured, brightness, atol=2e-3)


@pytest.mark.parametrize('engine', ENGINES)
def test_a_batch_of_unequal_counts_and_sizes_equals_its_images_one_by_one(engine):
    detector = make_detector(engine)
    images = [
        dots(40, 56, [(8, 8), (30, 9), (41, 33)]),
        dots(40, 56, []),
        dots(40, 56, [(20, 20)]),
        dots(33, 31, [(15, 15)]),
        dots(40, 56, [(9, 30), (40, 8)]),
    ]
    masks = [None, None, np.zeros((40, 56), bool), None, None]
    batch = detector.detect_batch(images, masks)
    assert [len(features) for features in batch] == [3, 0, 0, 1, 2]
    for features, image, mask in zip(batch, images, masks, strict=True):
        alone = detector.detect(image, mask)
        for name in ('keypoints', 'scores', 'descriptors'):
            np.testing.assert_allclose(getattr(features, name), getattr(alone, name), atol=1e-5)
    assert detector.detect_batch([]) == []


def test_a_mask_removes_keypoints_where_it_is_zero():
    image = dots(40, 40, [(10, 10), (30, 10)])
    mask = np.full((40, 40), 255, np.uint8)
    mask[:, :20] = 0
    assert make_detector('torch').detect(image, mask).keypoints.tolist() == [[30, 10]]


def test_colour_is_read_as_rgb():
    """Red is 2.6 times as bright as blue, which lies below the threshold here."""
    detector = make_detector('torch')
    grey, black = dots(24, 24, [(10, 10)]), dots(24, 24, [])
    assert len(detector.detect(np.stack([grey, black, black], axis=2))) == 1
    assert len(detector.detect(np.stack([black, black, grey], axis=2))) == 0


def test_settings_can_change_between_images():
    detector = make_detector('torch')
    image = dots(40, 40, [(10, 10), (30, 10)])
    detector.settings = KeypointSettings(max_keypoints=1)
    assert len(detector.detect(image)) == 1


def test_the_stopwatch_gets_the_stages():
    stopwatch = Stopwatch()
    make_detector('torch').detect(dots(16, 16, []), stopwatch=stopwatch)
    assert list(stopwatch.laps) == ['network', 'keypoints', 'descriptors']
    assert min(stopwatch.laps.values()) > 0


@pytest.mark.parametrize(
    ('image', 'complaint'),
    [
        (np.zeros((8, 8), np.float32), 'uint8.*not float32'),
        (np.zeros((8, 8), np.uint16), 'uint8.*not uint16'),
        (np.zeros((0, 8), np.uint8), 'empty'),
        (np.zeros((8, 8, 4), np.uint8), r'\[H, W, 3\] RGB, not of shape \(8, 8, 4\)'),
        (np.zeros(8, np.uint8), r'not of shape \(8,\)'),
        (None, 'must be an array, not NoneType'),
    ],
)
def test_what_is_no_image_is_refused_by_name(image, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_detector('torch').detect(image)


def test_masks_of_the_wrong_shape_or_number_are_refused():
    detector, image = make_detector('torch'), np.zeros((16, 24), np.uint8)
    with pytest.raises(ValueError, match=r'\(16, 24\), not \(24, 16\)'):
        detector.detect(image, np.ones((24, 16), np.uint8))
    with pytest.raises(ValueError, match='1 images, 2 masks'):
        detector.detect_batch([image], [None, None])


@pytest.mark.parametrize('name', ['superpoint', 'superpoint_small'])
def test_shipped_weights_find_the_same_points_in_a_shifted_picture(name):
    """Shifted by whole cells, the interior of a picture must give the same keypoints and descriptors."""
    rng = np.random.default_rng(3)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (240, 320), dtype=np.uint8), (0, 0), 2)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    detector = Detector.load(name, 'cpu', max_keypoints=5000, precision='float32', detection_threshold=0.001, levels=1)
    detector.warm_up(192, 256)
    assert name in detector.description
    first, second = detector.detect_batch([scene[:192, :256], scene[16 : 16 + 192, 24 : 24 + 256]])
    moved = second.keypoints + np.array([24, 16])
    interior = ((first.keypoints > [96, 88]) & (first.keypoints < [184, 120])).all(axis=1)
    distances = np.linalg.norm(first.keypoints[interior, None] - moved[None], axis=2)
    assert interior.sum() > 3
    assert distances.min(axis=1).max() < 1e-2
    agreement = (first.descriptors[interior] * second.descriptors[distances.argmin(axis=1)]).sum(axis=1)
    assert agreement.min() > 0.999


def test_unknown_weights_and_settings_are_refused():
    with pytest.raises(WeightsError, match='superpoint_large'):
        Detector.load('superpoint_large')
    with pytest.raises(TypeError, match='nms_diameter'):
        Detector.load('superpoint_small', nms_diameter=3)
