"""Selection, sampling and matching of fixed shapes against the NumPy ones, whose oracles are brute force."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superpoint_ros import keypoints as reference
from superpoint_ros import on_device
from superpoint_ros.engines import Maps
from superpoint_ros.features import Features, Neighbours
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.levels import Level, describe
from superpoint_ros.matching import MatchSettings, match, mutual_nearest, similarity_matrix
from superpoint_ros.on_device import DeviceFeatures
from superpoint_ros.pyramid import level_shape

examples = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def smooth_scores(rng, height, width):
    """Distinct values with peaks of several heights."""
    coarse = rng.random((height // 3 + 2, width // 3 + 2))
    fine = np.kron(coarse, np.ones((3, 3)))[:height, :width] + 0.3 * rng.random((height, width))
    return (fine / 1.31).astype(np.float32)


def select(scores, allowed, options):
    """Keypoints [B, K, 2] and scores [B, K] of one level."""
    device, shape = scores.device, scores.shape[1:]
    maps = on_device.ScoreMaps([shape], device)
    candidates = on_device.pixel_candidates(scores, allowed, on_device.precedence(shape, device), options)
    keypoints, values, numbers = maps.keypoints(
        [candidates], [scores], options.max_keypoints, subpixel=options.subpixel
    )
    assert not numbers.any()
    return keypoints, values


@examples(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 40),
    width=st.integers(1, 50),
    radius=st.integers(0, 5),
    border=st.integers(0, 6),
    count=st.integers(1, 200),
    threshold=st.sampled_from([0.0, 0.5, 0.9]),
    subpixel=st.booleans(),
    masked=st.booleans(),
)
def test_the_same_keypoints_as_numpy(device, seed, height, width, radius, border, count, threshold, subpixel, masked):
    rng = np.random.default_rng(seed)
    scores = smooth_scores(rng, height, width)
    options = KeypointSettings(
        max_keypoints=count, detection_threshold=threshold, nms_radius=radius, border=border, subpixel=subpixel
    )
    mask = (rng.random((height, width)) < 0.7).astype(np.uint8) if masked else None
    expected, best = reference.select_keypoints(scores, options, mask)
    allowed = on_device.allowed_pixels((height, width), border, mask)
    found, values = select(
        torch.from_numpy(scores)[None].to(device), torch.from_numpy(allowed)[None].to(device), options
    )
    assert found.shape == (1, count, 2)
    found, values = found[0].cpu().numpy(), values[0].cpu().numpy()
    assert (values[len(best) :] == 0).all()
    np.testing.assert_array_equal(values[: len(best)], best)
    np.testing.assert_allclose(found[: len(best)], expected, atol=1e-3)


def test_of_equal_neighbours_the_first_is_a_keypoint():
    scores = torch.zeros(1, 16, 16)
    scores[0, 8, 6:9] = 0.5
    found, values = select(
        scores, torch.ones(1, 16, 16, dtype=torch.bool), KeypointSettings(max_keypoints=5, subpixel=False)
    )
    assert found[0, 0].tolist() == [6, 8]
    assert values[0].tolist() == [0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(('x', 'y'), [(0, 4), (8, 4), (4, 0), (4, 8)])
def test_a_peak_at_an_edge_stays_on_its_pixel(device, x, y):
    """What lies beside it in memory is the other edge's."""
    scores = torch.full((1, 9, 9), 0.1)
    scores[0, y, x] = 0.5
    scores[0, min(y + 1, 8), x] += 0.2
    scores[0, y, min(x + 1, 8)] += 0.2
    options = KeypointSettings(max_keypoints=1, nms_radius=1, border=0, detection_threshold=0.2)
    found, _ = select(scores.to(device), torch.ones(1, 9, 9, dtype=torch.bool, device=device), options)
    assert found[0, 0].tolist() == [x, y]


@examples(max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_the_same_cell_keypoints_as_numpy(device, seed, count):
    rng = np.random.default_rng(seed)
    scores = rng.random((5, 7)).astype(np.float32)
    offsets = rng.uniform(-7, 7, (5, 7, 2)).astype(np.float32)
    options = KeypointSettings(max_keypoints=count, detection_threshold=0.3, border=2)
    shape, mask = (37, 52), (rng.random((37, 52)) < 0.8).astype(np.uint8)
    expected, best = reference.select_cell_keypoints(scores, offsets, 8, shape, options, mask)
    allowed = on_device.allowed_pixels(shape, 2, mask)
    candidates, positions = on_device.cell_candidates(
        torch.from_numpy(scores)[None].to(device),
        torch.from_numpy(offsets)[None].to(device),
        torch.from_numpy(allowed)[None].to(device),
        options,
    )
    chosen = on_device.ScoreMaps([(5, 7)], positions.device).choose([candidates], count)
    found, values = positions[0, chosen.places[0]][None], chosen.scores
    np.testing.assert_array_equal(values[0, : len(best)].cpu(), best)
    assert (values[0, len(best) :] == 0).all()
    np.testing.assert_allclose(found[0, : len(best)].cpu(), expected, atol=1e-4)


@pytest.mark.parametrize('stride', [4, 8])
def test_the_same_descriptors_as_numpy(device, stride):
    rng = np.random.default_rng(0)
    descriptor_map = rng.normal(size=(6, 9, 16)).astype(np.float32)
    points = rng.uniform(-2, [9 * stride + 2, 6 * stride + 2], (200, 2)).astype(np.float32)
    maps = on_device.DescriptorMaps([(6, 9)], [(1 / stride, 1 / stride)], 2, torch.device(device))
    sampled = maps.describe(
        [torch.from_numpy(descriptor_map)[None].to(device)],
        torch.from_numpy(points)[None].to(device),
        torch.zeros(1, len(points), dtype=torch.int64, device=device),
    )
    np.testing.assert_allclose(
        sampled[0].cpu(), reference.sample_descriptors(descriptor_map, points, stride), atol=1e-5
    )


@pytest.mark.parametrize('shape', [(96, 130), (7, 90), (90, 7)])
@pytest.mark.parametrize('per_octave', [1, 2, 3])
def test_the_same_blend_of_levels_as_numpy(device, shape, per_octave):
    """Down to levels whose maps are a single entry high or wide."""
    rng = np.random.default_rng(per_octave)
    chosen = KeypointSettings(levels=3, levels_per_octave=per_octave)
    shapes = [level_shape(shape, level, per_octave) for level in range(chosen.sizes)]
    maps = [rng.normal(size=(-(-h // 8), -(-w // 8), 16)).astype(np.float32) for h, w in shapes]
    levels = [Level(each, None, Maps(np.zeros((1, 1)), map_)) for each, map_ in zip(shapes, maps, strict=True)]
    keypoints = rng.uniform(-2, [shape[1] + 2, shape[0] + 2], (60, 2)).astype(np.float32)
    numbers = rng.integers(0, 3, 60)
    on_device_maps = on_device.DescriptorMaps(
        [map_.shape[:2] for map_ in maps],
        [(w / shape[1] / 8, h / shape[0] / 8) for h, w in shapes],
        per_octave,
        torch.device(device),
    )
    described = on_device_maps.describe(
        [torch.from_numpy(map_)[None].to(device) for map_ in maps],
        torch.from_numpy(keypoints)[None].to(device),
        torch.from_numpy(numbers)[None].to(device),
    )
    np.testing.assert_allclose(described[0].cpu(), describe(levels, keypoints, numbers, chosen, 8), atol=2e-5)


@examples(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4),
    radius=st.integers(0, 4),
    count=st.integers(1, 60),
)
def test_the_best_of_several_maps_are_the_best_of_each_together(device, seed, shapes, radius, count):
    rng = np.random.default_rng(seed)
    options = KeypointSettings(max_keypoints=count, nms_radius=radius, border=0, detection_threshold=0.4)
    scores = [smooth_scores(rng, *shape) for shape in shapes]
    each = [reference.select_keypoints(map_, options) for map_ in scores]
    best = np.concatenate([values for _, values in each])
    order = np.argsort(-best, kind='stable')[:count]
    places = np.concatenate([keypoints for keypoints, _ in each])[order]
    numbers = np.concatenate([np.full(len(values), number) for number, (_, values) in enumerate(each)])[order]
    maps = [torch.from_numpy(map_)[None].to(device) for map_ in scores]
    candidates = [
        on_device.pixel_candidates(
            map_, torch.ones_like(map_, dtype=torch.bool), on_device.precedence(shape, map_.device), options
        )
        for map_, shape in zip(maps, shapes, strict=True)
    ]
    flat = on_device.ScoreMaps(shapes, maps[0].device)
    found, values, of_maps = (each[0].cpu().numpy() for each in flat.keypoints(candidates, maps, count, subpixel=True))
    np.testing.assert_array_equal(values[: len(order)], best[order])
    assert (values[len(order) :] == 0).all()
    np.testing.assert_array_equal(of_maps[: len(order)], numbers)
    np.testing.assert_allclose(found[: len(order)], places, atol=1e-3)


@pytest.mark.parametrize(('queries', 'trains'), [(50, 40), (1, 3), (3, 1), (0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize('max_ratio', [1.0, 0.9])
def test_the_same_neighbours_as_numpy(device, queries, trains, max_ratio):
    rng = np.random.default_rng(queries + trains)
    size = 60

    def features(count):
        descriptors = rng.normal(size=(count, 8)).astype(np.float32)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        padded = np.zeros((size, 8), np.float32)
        padded[:count] = descriptors
        scores = (np.arange(size) < count).astype(np.float32)
        levels = rng.integers(0, 4, size)
        held = DeviceFeatures(
            torch.zeros(1, size, 2), torch.from_numpy(scores)[None], torch.from_numpy(padded)[None],
            torch.from_numpy(levels)[None],
        )  # fmt: skip
        points = np.zeros((count, 2), np.float32)
        known = Features(points, points[:, 0], descriptors, levels[:count].astype(np.uint8))
        return known, DeviceFeatures(*(tensor.to(device) for tensor in held))

    (query, ours), (train, theirs) = features(queries), features(trains)
    found = on_device.nearest_neighbours(ours, theirs)
    known = Neighbours(7, *(tensor[0, :queries].cpu().numpy() for tensor in found))
    matches = match(
        replace(query, serial=8, neighbours=known),
        # Not to be looked at again.
        replace(train, descriptors=np.full_like(train.descriptors, np.nan), serial=7),
        MatchSettings(min_similarity=0.1, max_ratio=max_ratio),
    )
    similarity = similarity_matrix(query, train)
    expected = mutual_nearest(similarity, 0.1, max_ratio)
    np.testing.assert_array_equal(matches.query, expected[0])
    np.testing.assert_array_equal(matches.train, expected[1])
    np.testing.assert_allclose(matches.similarity, similarity[expected], atol=1e-6)
