"""Protocols: pictures and points move alike, and changes say so in the name."""

import numpy as np
import pytest

from superpoint_training.homographies import warp_points
from superpoint_training.protocols import PROTOCOLS, changed


@pytest.mark.parametrize('protocol', PROTOCOLS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize('shape', [(480, 600), (500, 400), (240, 320), (130, 170)])
def test_protocols_move_points_as_they_move_pixels(protocol, shape):
    height, width = shape
    y, x = np.mgrid[:height, :width]
    centre = np.array([[0.52 * width, 0.48 * height]])
    spread = (width / 60) ** 2
    blob = (255 * np.exp(-((x - centre[0, 0]) ** 2 + (y - centre[0, 1]) ** 2) / spread)).astype(np.uint8)
    prepared, mapping = protocol.prepare(blob)
    assert prepared.shape == (protocol.height, protocol.width)
    rows, columns = np.mgrid[: protocol.height, : protocol.width]
    weights = prepared.astype(float)
    centroid = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    np.testing.assert_allclose(centroid, warp_points(centre, mapping)[0], atol=0.05)


@pytest.mark.parametrize('protocol', PROTOCOLS.values(), ids=lambda p: p.name)
def test_crops_keep_the_ratio_and_squashes_fill_the_picture(protocol):
    _, mapping = protocol.prepare(np.zeros((300, 900), np.uint8))
    corners = warp_points(np.array([[-0.5, -0.5], [899.5, 299.5]]), mapping)
    if protocol.crop:
        assert mapping[0, 0] == pytest.approx(mapping[1, 1], rel=1e-3)
        np.testing.assert_allclose(
            corners.mean(axis=0), [(protocol.width - 1) / 2, (protocol.height - 1) / 2], atol=0.5
        )
    else:
        np.testing.assert_allclose(corners, [[-0.5, -0.5], [protocol.width - 0.5, protocol.height - 0.5]])


def test_the_papers_numbers():
    table = {
        'superpoint-240': (240, 320, True, 300, 20, 'mutual', 2000),
        'superpoint-480': (480, 640, True, 1000, 25, 'mutual', 2000),
        'kp2d-320': (240, 320, False, 300, 20, 'nearest', 5000),
        'kp2d-640': (480, 640, False, 1000, 25, 'nearest', 5000),
    }
    for name, (height, width, crop, keypoints, radius, score, iterations) in table.items():
        protocol = PROTOCOLS[name]
        assert (protocol.shape, protocol.crop, protocol.keypoints) == ((height, width), crop, keypoints)
        assert (protocol.coverage_radius, protocol.matching_score) == (radius, score)
        assert (protocol.ransac_iterations, protocol.ransac_threshold, protocol.correct_distance) == (iterations, 3, 3)


def test_changes_are_told_by_the_name():
    protocol = PROTOCOLS['kp2d-320']
    other = changed(protocol, ['correct_distance=5', 'seed=0', 'keypoints=100'])
    assert (other.correct_distance, other.seed, other.keypoints) == (5, 0, 100)
    assert other.name == 'kp2d-320, correct_distance 5, seed 0, keypoints 100'
    assert changed(protocol, []) is protocol


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('width=5', 'is none of keypoints=NUMBER'),
        ('keypoints', 'must be a whole number'),
        ('keypoints=2.5', 'must be a whole number'),
        ('correct_distance=far', 'must be a number'),
        ('correct_distance=0', 'more than 0'),
        ('correct_distance=nan', 'more than 0'),
        ('seed=-1', '0 or more'),
        ('seed=99999999999999999999', 'at most 2147483647'),
        ('ransac_iterations=99999999999', 'at most'),
        ('coverage_radius=1e300', 'at most 10000'),
    ],
)
def test_changes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        changed(PROTOCOLS['kp2d-320'], [change])
