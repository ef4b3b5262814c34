"""Images at several sizes: against resizing by hand, with masks and batches, and what they are for."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import photograph

from superpoint_ros.detector import Detector
from superpoint_ros.keypoints import KeypointSettings, sample_descriptors
from superpoint_ros.levels import pad
from superpoint_ros.networks import SuperPointConfig
from superpoint_ros.photographs import photographs
from superpoint_ros.pyramid import area_weights, covering_pixels, level_shape, rescale, shrink, shrink_mask

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
    assert shape == level_shape((height, width), level, per_octave)


@given(st.integers(160, 300), st.integers(160, 300), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_pixel_areas_as_weights_are_opencv_s(height, width, level, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    expected = shrink(image, level, 2)
    down, across = (area_weights(count, onto) for count, onto in zip(image.shape, expected.shape, strict=True))
    difference = np.floor(down @ image.astype(np.float32) @ across.T + 0.5) - expected
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.05  # at a quarter of the size one pixel in 32 lies midway between two levels


@given(st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_a_pixel_s_middle_lies_in_the_pixel_that_covers_it(count, onto):
    for pixel, covering in enumerate(covering_pixels(count, onto)):
        assert 2 * count * covering <= (2 * pixel + 1) * onto < 2 * count * (covering + 1)


def test_the_first_level_is_the_image_itself():
    assert shrink(IMAGE, 0, 2) is IMAGE
    keypoints = np.random.default_rng(0).random((5, 2), np.float32)
    assert rescale(keypoints, IMAGE.shape, IMAGE.shape) is keypoints


def test_a_picture_and_its_keypoints_shrink_alike():
    """A bright spot's middle is found where it was, whatever the level."""
    for level in range(1, 4):
        image = np.zeros((200, 300), np.float32)
        cv2.circle(image, (170, 90), 12, 255, -1)
        small = shrink(image.astype(np.uint8), level, 2).astype(float)
        y, x = np.mgrid[: small.shape[0], : small.shape[1]]
        middle = np.array([[(x * small).sum(), (y * small).sum()]]) / small.sum()
        np.testing.assert_allclose(rescale(middle, small.shape, image.shape), [[170, 90]], atol=0.05)


def at_each_level(detector, levels, per_octave):
    """Of each level its size, the features of the small image alone, and the score and descriptor maps."""
    for level in range(levels):
        width, height = (round(side / 2 ** (level / per_octave)) for side in (168, 120))
        small = cv2.resize(IMAGE, (width, height), interpolation=cv2.INTER_AREA) if level else IMAGE
        alone = with_levels(detector, 1, subpixel=False).detect(small)
        (maps,) = detector.engine.maps([pad(small, 8)])
        yield width, height, alone, maps.scores[:height, :width], maps.descriptors


@pytest.mark.parametrize(('most', 'per_octave'), [(300, 2), (40, 2), (300, 1), (300, 3)])
def test_a_keypoint_s_score_and_descriptor_are_what_all_levels_around_say(detector, most, per_octave):
    """One by one: half the logarithm is the level's own, half the others'; descriptors count less by their distance."""
    levels = list(at_each_level(detector, 4 + per_octave, per_octave))
    expected = []
    for number, (width, height, alone, _, _) in enumerate(levels[:4]):
        for (x, y), score in zip(alone.keypoints.astype(float), alone.scores, strict=True):
            place = (x + 0.5) / width, (y + 0.5) / height
            beside, descriptor = [], 0
            for other, (columns, rows, _, scores, descriptors) in enumerate(levels):
                column, row = place[0] * columns - 0.5, place[1] * rows - 0.5
                if abs(other - number) == 1:
                    j, i = (int(middle + 0.5 + 1e-6) for middle in (column, row))
                    beside.append(max(scores[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max(), 1e-4))
                if abs(other - number) <= per_octave:
                    sampled = sample_descriptors(descriptors, np.array([[column, row]], np.float32), 8)[0]
                    descriptor = descriptor + sampled / 4 ** (abs(other - number) / per_octave)
            joint = np.exp(0.5 * np.log(score) + 0.5 * np.mean(np.log(beside)))
            keypoint = place[0] * 168 - 0.5, place[1] * 120 - 0.5
            expected.append((joint, number, *keypoint, *(descriptor / np.linalg.norm(descriptor))))
    expected.sort(key=lambda row: -row[0])
    best = np.array(expected)[:most]
    found = with_levels(detector, 4, max_keypoints=most, levels_per_octave=per_octave, subpixel=False).detect(IMAGE)
    assert min(most, 101) <= len(found) == len(best)
    np.testing.assert_allclose(found.scores, best[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(found.levels, best[:, 1])
    np.testing.assert_allclose(found.keypoints, best[:, 2:4], atol=1e-3)
    np.testing.assert_allclose(found.descriptors, best[:, 4:], atol=1e-4)


def test_positions_of_each_level_are_those_of_the_smaller_image(detector):
    found = with_levels(detector, 3).detect(IMAGE)
    for level in range(3):
        small = shrink(IMAGE, level, 2)
        alone = rescale(with_levels(detector, 1).detect(small).keypoints, small.shape, IMAGE.shape)
        ours = found.keypoints[found.levels == level]
        assert len(ours) > 10
        assert np.linalg.norm(ours[:, None] - alone, axis=2).min(axis=1).max() < 1e-3


def test_descriptors_that_levels_blend_match_better_than_each_level_s(detector):
    """What blending is for: the photograph once more, at a size between two levels."""
    image, other = IMAGE, cv2.resize(IMAGE, (141, 101), interpolation=cv2.INTER_AREA)
    similarity = {}
    for levels in (1, 4):
        a, b = (with_levels(detector, levels).detect(each) for each in (image, other))
        near = np.linalg.norm(a.keypoints[:, None] - rescale(b.keypoints, other.shape, image.shape), axis=2) < 1.5
        similarity[levels] = np.mean((a.descriptors @ b.descriptors.T)[near])
    assert similarity[4] > similarity[1] + 0.02


def test_all_levels_together_have_no_more_than_was_asked_for(detector):
    found = with_levels(detector, 3, max_keypoints=20).detect(IMAGE)
    assert len(found) == 20
    assert (np.diff(found.scores) <= 0).all()


class Sure(torch.nn.Module):
    """A keypoint in every cell of which there is no doubt."""

    architecture, config = 'sure', SuperPointConfig(descriptor_dim=4)
    stride = descriptor_stride = 8

    def forward(self, image):
        rows, columns = (side // 8 for side in image.shape[2:])
        logits = torch.zeros(len(image), 65, rows, columns)
        logits[:, 20] = 1000
        return logits, torch.ones(len(image), 4, rows, columns)


def test_of_equal_keypoints_those_of_the_largest_level_come_first():
    found = Detector(Sure(), KeypointSettings(max_keypoints=500, levels=3), engine='torch').detect(IMAGE)
    assert found.scores[0] == 1
    groups = [found.levels[found.scores == score].astype(int) for score in np.unique(found.scores)]
    assert max(len(set(levels)) for levels in groups) > 1
    assert all((np.diff(levels) >= 0).all() for levels in groups)


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
    small = shrink_mask(mask, level, 2)
    assert shrink_mask(None, level, 2) is None
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
    right = dict.fromkeys((1, 3), 0)
    for path in photographs()[:3]:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        image, mini = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for size in ((480, 360), (200, 150)))
        for levels in right:
            a, b = (with_levels(detector, levels).detect(each) for each in (image, mini))
            similarity = a.descriptors @ b.descriptors.T
            partner = similarity.argmax(axis=1)
            mutual = similarity.argmax(axis=0)[partner] == np.arange(len(a))
            error = np.linalg.norm(a.keypoints - rescale(b.keypoints[partner], mini.shape, image.shape), axis=1)
            right[levels] += np.count_nonzero(mutual & (error < 3))
    assert right[3] > 2 * right[1]


@pytest.mark.parametrize(
    ('name', 'value', 'most'), [(name, value, most) for name, most in (('levels', 8), ('levels_per_octave', 4))
                                for value in (0, most + 1)]
)  # fmt: skip
def test_levels_that_make_no_sense_are_refused(name, value, most):
    with pytest.raises(ValueError, match=f'{name} must be 1 to {most}'):
        KeypointSettings(**{name: value})
