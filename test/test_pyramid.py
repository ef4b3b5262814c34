"""Images at several sizes: against resizing by hand, with masks and batches, and what they are for."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import photograph

import superpoint_ros
from superpoint_ros.detector import Detector
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import SuperPointConfig
from superpoint_ros.pyramid import area_weights, enlarge, level_shape, shrink, shrink_mask

IMAGE = photograph(120, 168)


@pytest.fixture(scope='module')
def detector():
    return Detector.load('superpoint_small', engine='torch', precision='float32', max_keypoints=300)


def with_levels(detector, levels, **changes):
    detector.settings = replace(KeypointSettings(max_keypoints=300), levels=levels, **changes)
    return detector


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_levels_are_smaller_by_a_share_of_an_octave_and_never_empty(height, width, level, per_octave):
    shape = shrink(np.zeros((height, width), np.uint8), level, per_octave).shape
    assert min(shape) >= 1
    for small, large in zip(shape, (height, width), strict=True):
        assert abs(small - large / 2 ** (level / per_octave)) <= 0.5 + 1e-9 or small == 1
    assert shrink(np.zeros((height, width), np.uint8), level).shape == level_shape((height, width), level, 2)


@given(st.integers(40, 200), st.integers(40, 200), st.integers(1, 5), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_pixel_areas_as_weights_are_opencv_s(height, width, level, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    expected = shrink(image, level)
    down, across = (area_weights(count, onto) for count, onto in zip(image.shape, expected.shape, strict=True))
    difference = np.floor(down @ image.astype(np.float32) @ across.T + 0.5) - expected
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.05


def test_the_first_level_is_the_image_itself():
    assert shrink(IMAGE, 0) is IMAGE
    keypoints = np.random.default_rng(0).random((5, 2), np.float32)
    assert enlarge(keypoints, IMAGE.shape, IMAGE.shape) is keypoints


def test_a_picture_and_its_keypoints_shrink_alike():
    """A bright spot's middle is found where it was, whatever the level."""
    for level in range(1, 4):
        image = np.zeros((200, 300), np.float32)
        cv2.circle(image, (170, 90), 12, 255, -1)
        small = shrink(image.astype(np.uint8), level).astype(float)
        y, x = np.mgrid[: small.shape[0], : small.shape[1]]
        middle = np.array([[(x * small).sum(), (y * small).sum()]]) / small.sum()
        np.testing.assert_allclose(enlarge(middle, small.shape, image.shape), [[170, 90]], atol=0.05)


@pytest.mark.parametrize(('most', 'per_octave'), [(300, 2), (40, 2), (300, 3)])
def test_features_of_each_level_are_those_of_the_smaller_image(detector, most, per_octave):
    expected_keypoints, expected_scores, expected_descriptors, expected_levels = [], [], [], []
    for level in range(3):
        width, height = (round(side / 2 ** (level / per_octave)) for side in (168, 120))
        small = cv2.resize(IMAGE, (width, height), interpolation=cv2.INTER_AREA) if level else IMAGE
        features = with_levels(detector, 1).detect(small)
        expected_keypoints.append((features.keypoints + 0.5) * [168 / width, 120 / height] - 0.5)
        expected_scores.append(features.scores)
        expected_descriptors.append(features.descriptors)
        expected_levels += [level] * len(features)
    order = np.argsort(-np.concatenate(expected_scores), kind='stable')[:most]
    found = with_levels(detector, 3, max_keypoints=most, levels_per_octave=per_octave).detect(IMAGE)
    assert min(most, 101) <= len(found) <= most
    np.testing.assert_allclose(found.keypoints, np.concatenate(expected_keypoints)[order], atol=1e-3)
    np.testing.assert_allclose(found.scores, np.concatenate(expected_scores)[order], rtol=1e-4)
    np.testing.assert_allclose(found.descriptors, np.concatenate(expected_descriptors)[order], atol=1e-4)
    np.testing.assert_array_equal(found.levels, np.array(expected_levels)[order])
    assert len(found.levels) == len(found.take(np.arange(len(found))[::2]).levels) * 2 - len(found) % 2


def test_all_levels_together_have_no_more_than_was_asked_for(detector):
    found = with_levels(detector, 3, max_keypoints=20).detect(IMAGE)
    assert len(found) == 20
    assert (np.diff(found.scores) <= 0).all()


class Sure(torch.nn.Module):
    """A keypoint in every cell of which there is no doubt."""

    architecture, stride, config = 'sure', 8, SuperPointConfig(descriptor_dim=4)

    def forward(self, image):
        rows, columns = (side // 8 for side in image.shape[2:])
        logits = torch.zeros(len(image), 65, rows, columns)
        logits[:, 20] = 1000
        return logits, torch.ones(len(image), 4, rows, columns)


def test_of_keypoints_beyond_doubt_those_of_the_largest_level_come_first():
    found = Detector(Sure(), KeypointSettings(max_keypoints=50, levels=3), engine='torch').detect(IMAGE)
    assert (found.scores == 1).all()
    assert (found.levels == 0).all()
    assert len(found) == 50


def test_keypoints_of_all_levels_are_spread(detector):
    best = with_levels(detector, 3, max_keypoints=40).detect(IMAGE)
    spread = with_levels(detector, 3, max_keypoints=40, spread=24).detect(IMAGE)

    def cells(features):
        return len({tuple(cell) for cell in (features.keypoints // 24).astype(int)})

    assert cells(spread) > cells(best)


@given(st.integers(0, 100), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_shrunk_mask_hides_all_that_it_covers(seed, level):
    rng = np.random.default_rng(seed)
    mask = (cv2.resize(rng.random((6, 9)), (90, 61)) > 0.4).astype(np.uint8)
    small = shrink_mask(mask, level)
    assert shrink_mask(None, level) is None
    rows, columns = np.nonzero(small)
    for row, column in zip(rows, columns, strict=True):
        top, bottom = (row + np.array([0, 1])) * mask.shape[0] / small.shape[0]
        left, right = (column + np.array([0, 1])) * mask.shape[1] / small.shape[1]
        # A pixel of which only a hundredth lies under the edge may not count.
        inner = mask[int(top + 0.01) : int(np.ceil(bottom - 0.01)), int(left + 0.01) : int(np.ceil(right - 0.01))]
        assert inner.all()


def test_no_level_has_keypoints_where_the_mask_forbids_them(detector):
    mask = np.ones(IMAGE.shape, np.uint8)
    mask[:, :80] = 0
    found = with_levels(detector, 4).detect(IMAGE, mask)
    assert len(found) > 20
    assert found.keypoints[:, 0].min() > 79
    assert with_levels(detector, 4).detect(IMAGE).keypoints[:, 0].min() < 40


def test_batches_give_what_images_alone_give(detector):
    images = [IMAGE, photograph(120, 168, 1), photograph(90, 130, 2)]
    together = with_levels(detector, 3).detect_batch(images)
    for image, features in zip(images, together, strict=True):
        alone = detector.detect(image)
        np.testing.assert_allclose(features.keypoints, alone.keypoints, atol=1e-3)
        np.testing.assert_allclose(features.descriptors, alone.descriptors, atol=1e-4)


def test_pictures_are_found_again_at_less_than_half_the_size(detector):
    """What levels are for: mutual neighbours between photographs and their miniatures that are right to 3 pixels."""
    photographs = sorted((Path(superpoint_ros.__file__).parent / 'demo' / 'photographs').glob('*.jpg'))[:3]
    right = dict.fromkeys((1, 3), 0)
    for path in photographs:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        image, mini = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for size in ((480, 360), (200, 150)))
        for levels in right:
            a, b = (with_levels(detector, levels).detect(each) for each in (image, mini))
            similarity = a.descriptors @ b.descriptors.T
            partner = similarity.argmax(axis=1)
            mutual = similarity.argmax(axis=0)[partner] == np.arange(len(a))
            error = np.linalg.norm(a.keypoints - enlarge(b.keypoints[partner], mini.shape, image.shape), axis=1)
            right[levels] += np.count_nonzero(mutual & (error < 3))
    assert right[3] > 2 * right[1]


@pytest.mark.parametrize(
    ('name', 'value', 'most'), [(name, value, most) for name, most in (('levels', 8), ('levels_per_octave', 4))
                                for value in (0, most + 1)]
)  # fmt: skip
def test_levels_that_make_no_sense_are_refused(name, value, most):
    with pytest.raises(ValueError, match=f'{name} must be 1 to {most}'):
        KeypointSettings(**{name: value})
