"""The way that stays on a device, run on the CPU, against the way by maps; and on CUDA against the CPU in float32."""

from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch
from textures import photograph
from torch.utils._python_dispatch import TorchDispatchMode

from superpoint_ros import device_sessions
from superpoint_ros.detector import Detector
from superpoint_ros.device_path import DevicePath
from superpoint_ros.device_sessions import Sessions
from superpoint_ros.engines import FusedMapNetwork
from superpoint_ros.frontend import Frontend
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.matching import match
from superpoint_ros.networks import (
    KP2D,
    GoodPoint,
    GoodPointConfig,
    KP2DConfig,
    UnsuperPoint,
    UnsuperPointConfig,
    load_network,
)
from superpoint_ros.on_device import DeviceFeatures
from superpoint_ros.rig import Rig, Shot

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
NARROW = {'widths': (4, 4, 8, 8, 8, 8, 8, 8), 'head_width': 8, 'descriptor_dim': 16}


def make_network(name):
    if name == 'superpoint':
        return load_network('superpoint_small')
    torch.manual_seed(0)
    kinds = {'goodpoint': (GoodPoint, GoodPointConfig), 'unsuperpoint': (UnsuperPoint, UnsuperPointConfig),
             'kp2d': (KP2D, KP2DConfig)}  # fmt: skip
    network, config = kinds[name]
    return network(config(**NARROW)).eval()


def both_ways(network, **settings):
    """A detector that takes the way by maps, and one with the same engine that takes the other."""
    chosen = KeypointSettings(**({'levels': 1} | settings))
    by_maps, by_sessions = (
        Detector(network, chosen, device='cpu', engine='torch', precision='float32') for _ in range(2)
    )
    by_sessions.sessions = Sessions(by_sessions.engine.network, network.config.descriptor_dim)
    return by_maps, by_sessions


class MeetingsWithTheHost(TorchDispatchMode):
    """Within it, the operations whose values come from the host, or whose shapes or values go there, by name."""

    NAMES = ('aten::lift_fresh', 'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select')

    def __init__(self):
        super().__init__()
        self.found, self.operations = [], 0

    def __torch_dispatch__(self, operation, _types, arguments=(), options=None):
        self.operations += 1
        name = operation.name()
        by_mask = name == 'aten::index.Tensor' and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        if name in self.NAMES or by_mask:
            self.found.append(name)
        return operation(*arguments, **(options or {}))


def nearest(points, others):
    """Of each point [N, 2] the distance to the nearest of the others, and its row."""
    distances = np.linalg.norm(points[:, None] - others, axis=2)
    return distances.min(axis=1), distances.argmin(axis=1)


def assert_same(features, expected, pixels=3e-3, relative=1e-5, absolute=1e-4, share=1.0, alone=0):
    """But for the order of keypoints whose scores agree to rounding; tolerances of positions, scores, descriptors.

    share: of keypoints whose positions and scores keep to it: where a peak is flat a grey level more moves its middle,
    perhaps to the next pixel, which is another one of the levels beside, too. alone: how many may be found one way
    only, those that have just the score of the threshold.
    """
    if not len(expected):
        assert len(features) <= alone
        return
    ours, theirs = (np.column_stack([each.keypoints, 1000.0 * each.levels]) for each in (features, expected))
    distance, row = nearest(theirs, ours)
    found = distance < 0.5
    assert np.sum(~found) <= alone
    assert len(features) - np.sum(found) <= alone
    distance, row, expected = distance[found], row[found], expected.take(found)
    assert len(np.unique(row)) == len(row)
    assert np.mean(distance < pixels) >= share
    assert np.mean(np.isclose(features.scores[row], expected.scores, rtol=relative)) >= share
    np.testing.assert_allclose(features.descriptors[row], expected.descriptors, atol=absolute)
    np.testing.assert_array_equal(features.levels[row], expected.levels)


@pytest.mark.parametrize(('name', 'levels'), [('superpoint', 1), ('superpoint', 2), ('goodpoint', 2)])
def test_sizes_that_halve_exactly_give_the_same_features_both_ways(name, levels):
    by_maps, by_sessions = both_ways(
        make_network(name), detection_threshold=0.016, max_keypoints=1000, levels=levels, levels_per_octave=1
    )
    # Grey levels in steps of 16: the mean of four, and of 16, is a whole number, which nobody rounds.
    images = [image // 16 * 16 for image in (photograph(96, 128), photograph(96, 128, seed=1), photograph(64, 96))]
    mask = np.ones((96, 128), np.uint8)
    mask[:40, :30] = 0
    every = zip(*(way.detect_batch(images, [None, mask, None]) for way in (by_sessions, by_maps)), strict=True)
    for features, expected in every:
        assert_same(features, expected)
        assert set(features.levels) == set(range(levels))


@pytest.mark.parametrize(
    ('name', 'levels'), [('superpoint', 1), ('superpoint', 3), ('goodpoint', 1), ('unsuperpoint', 1), ('kp2d', 2)]
)
def test_both_ways_find_the_same_features(name, levels):
    threshold = {'superpoint': 0.01, 'goodpoint': 0.016, 'unsuperpoint': 0.1, 'kp2d': 0.1}[name]
    by_maps, by_sessions = both_ways(
        make_network(name), detection_threshold=threshold, max_keypoints=150, levels=levels
    )
    mask = np.ones((75, 101), np.uint8)
    mask[:40, :30] = 0
    images = [photograph(75, 101), photograph(75, 101, seed=1), photograph(64, 96), photograph(8, 8)]
    masks = [None, mask, None, None]
    for _ in range(2):  # again, with the buffers in use
        found = by_sessions.detect_batch(images, masks)
        for features, expected in zip(found, by_maps.detect_batch(images, masks), strict=True):
            # Of a level in the ratio of small numbers, one pixel in thirty lies between two grey levels.
            assert_same(features, expected, *((0.05, 0.03, 0.02, 0.9, 1) if levels > 1 else ()))
            assert len(np.unique(features.levels)) == levels or len(features) < 20
        masks = [mask, None, None, None]
    assert len(found[0]) > 20


@pytest.mark.parametrize('levels', [1, 2])
def test_kernels_find_the_same_features_and_neighbours(levels, request):
    network = make_network('superpoint')
    mask = np.ones((64, 96), np.uint8)
    mask[:30, :20] = 0

    def detect():
        _, detector = both_ways(network, detection_threshold=0.01, max_keypoints=80, levels=levels)
        detector.sessions = Sessions(FusedMapNetwork(network, torch.float32).eval(), network.config.descriptor_dim)
        return [detector.detect(photograph(64, 104)[:, shift : shift + 96], mask) for shift in (0, 8)]

    expected = detect()
    request.getfixturevalue('kernels_on_cpu')
    for features, same in zip(detect(), expected, strict=True):
        assert_same(features, same)
    np.testing.assert_array_equal(features.neighbours.partner, same.neighbours.partner)
    np.testing.assert_allclose(features.neighbours.similarity, same.neighbours.similarity, atol=1e-5)
    np.testing.assert_allclose(features.neighbours.second, same.neighbours.second, atol=1e-5)
    assert (features.neighbours.partner >= 0).sum() > 20
    assert set(features.levels) == set(range(levels))


@pytest.mark.parametrize('width', [5, 8, 13])
def test_images_of_a_cell_or_two_are_the_same_both_ways(width):
    by_maps, by_sessions = both_ways(
        make_network('superpoint'), detection_threshold=0.01, max_keypoints=50, levels=1, border=0
    )
    found, expected = (way.detect(photograph(96, width)) for way in (by_sessions, by_maps))
    assert len(expected) > 5
    assert_same(found, expected)


def test_levels_closer_together_are_the_same_both_ways():
    """Sizes a ninth of an octave off would move keypoints by pixels; rounded grey levels move one in twenty at most."""
    by_maps, by_sessions = both_ways(
        make_network('superpoint'), detection_threshold=0.01, max_keypoints=150, levels=4, levels_per_octave=3
    )
    image, mask = photograph(75, 101), np.ones((75, 101), np.uint8)
    mask[:40, :30] = 0
    found, expected = (detector.detect(image, mask) for detector in (by_sessions, by_maps))
    assert set(found.levels) == {0, 1, 2, 3}
    for level in range(4):
        ours, theirs = (features.keypoints[features.levels == level] for features in (found, expected))
        assert np.mean(nearest(theirs, ours)[0] < 0.05) > 0.9


def test_matches_to_the_frame_before_are_those_of_the_way_by_maps():
    pictures = [photograph(130, 200)[:, shift : shift + 160] for shift in (0, 3, 7, 12)]
    frontends = [Frontend(detector) for detector in both_ways(make_network('superpoint'))]
    for number, picture in enumerate(pictures):
        expected, frame = (frontend.process(picture, number) for frontend in frontends)
        assert_same(frame.features, expected.features)
        np.testing.assert_array_equal(frame.matches.query, expected.matches.query)
        np.testing.assert_array_equal(frame.matches.train, expected.matches.train)
        np.testing.assert_allclose(frame.matches.similarity, expected.matches.similarity, atol=1e-4)
        assert (frame.features.neighbours.among > 0) == (number > 0)
    assert len(frame.matches) > 50


@pytest.mark.parametrize('levels', [1, 4])
def test_neighbours_are_those_that_matching_finds_among_the_same_features(levels):
    _, detector = both_ways(make_network('superpoint'), levels=levels)
    picture = photograph(260, 340)
    train, query = (detector.detect(view) for view in (picture[:200, :280], picture[40:240, 30:310]))
    assert set(query.levels) == set(range(levels))
    found, expected = match(query, train), match(replace(query, neighbours=None), train)
    assert query.neighbours.among == train.serial
    np.testing.assert_array_equal(found.query, expected.query)
    np.testing.assert_array_equal(found.train, expected.train)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
    assert len(found) > 50
    # Something is to be seen of what levels cost.
    assert levels == 1 or not np.array_equal(query.levels[found.query], train.levels[found.train])


def test_a_frame_that_was_not_the_one_before_is_compared_anew():
    _, detector = both_ways(make_network('superpoint'))
    first, second, third = (detector.detect(photograph(96, 128, seed)) for seed in range(3))
    assert third.neighbours.among == second.serial != first.serial
    frontend = Frontend(detector)
    frontend.process(photograph(96, 128), 0)
    detector.detect(photograph(96, 128, seed=5))  # somebody else's image in between
    again = frontend.process(photograph(96, 128), 1)
    assert len(again.matches) == len(again.features)
    np.testing.assert_array_equal(again.matches.query, again.matches.train)


@pytest.mark.parametrize(('name', 'levels'), [('superpoint', 1), ('superpoint', 4), ('goodpoint', 2), ('kp2d', 2)])
def test_no_operation_of_a_session_has_values_from_the_host_or_waits_for_some_there(name, levels):
    """CUDA refuses to capture either."""
    _, detector = both_ways(make_network(name), levels=levels)
    detector.detect(photograph(96, 128))
    ((session, _),) = detector.sessions._sessions.values()
    with MeetingsWithTheHost() as meetings, torch.no_grad():
        session._step()
    assert not meetings.found
    assert meetings.operations > 100


@pytest.mark.parametrize('levels', [1, 4])
@pytest.mark.parametrize('name', ['superpoint', 'goodpoint', 'kp2d'])
def test_all_that_a_path_computes_with_is_on_its_device(name, levels):
    """On the `meta` device, which has no values but refuses to compute with what is elsewhere, as CUDA does."""
    maps = FusedMapNetwork(make_network(name)).to('meta')
    path = DevicePath(maps, KeypointSettings(max_keypoints=9, levels=levels), (75, 101))
    earlier = DeviceFeatures(
        torch.zeros(2, 9, 2, device='meta'),
        torch.zeros(2, 9, device='meta'),
        torch.zeros(2, 9, maps.network.config.descriptor_dim, device='meta', dtype=torch.float16),
        torch.zeros(2, 9, device='meta', dtype=torch.int64),
    )
    allowed = [torch.zeros(2, *shape, device='meta', dtype=torch.bool) for shape in path.shapes[:levels]]
    images = torch.zeros(2, 75, 101, device='meta', dtype=torch.uint8)
    features, neighbours = path(images, allowed, earlier)
    assert {tensor.device.type for tensor in (*features, *neighbours)} == {'meta'}
    with pytest.raises(RuntimeError, match='device'):
        path(torch.zeros(2, 75, 101, dtype=torch.uint8), allowed, earlier)


def test_meetings_with_the_host_are_noticed():
    numbers = torch.ones(2)
    with MeetingsWithTheHost() as meetings:
        numbers.new_tensor([1.0])
        assert numbers[0] > 0
        numbers[numbers > 0].sum()
    assert len(meetings.found) == 3


def test_features_of_one_detector_are_never_taken_for_those_of_another():
    detectors = [both_ways(make_network('superpoint'))[1] for _ in range(2)]
    detectors[0].detect(photograph(96, 128, seed=5))  # counts on
    left, right = ([detector.detect(photograph(96, 128, seed)) for seed in range(2)] for detector in detectors)
    for query, train in ((left[1], right[0]), (right[1], left[0]), (left[0], right[0])):
        found = match(query, train)
        expected = match(replace(query, neighbours=None), train)
        np.testing.assert_array_equal(found.query, expected.query)
        np.testing.assert_array_equal(found.train, expected.train)
    assert len(found) > 50


@pytest.mark.parametrize('sizes', [[160, 160, 160], [160, 120, 160]])
def test_each_camera_of_a_rig_is_compared_with_its_own_image_before(sizes):
    rigs = [Rig(detector, len(sizes)) for detector in both_ways(make_network('superpoint'))]
    serials = dict.fromkeys(range(len(sizes)), 0)
    for number, shift in enumerate((0, 3, 7)):
        pictures = [photograph(130, 200, seed)[:, shift : shift + size] for seed, size in enumerate(sizes)]
        shots = {camera: Shot(picture, number) for camera, picture in enumerate(pictures)}
        expected, frames = (rig.process(shots) for rig in rigs)
        for camera in range(len(sizes)):
            np.testing.assert_array_equal(frames[camera].matches.query, expected[camera].matches.query)
            np.testing.assert_array_equal(frames[camera].matches.train, expected[camera].matches.train)
            assert frames[camera].features.neighbours.among == serials[camera]
            serials[camera] = frames[camera].features.serial
    assert all(len(frame.matches) > 50 for frame in frames.values())


def test_settings_hold_from_the_next_image_on():
    _, detector = both_ways(make_network('superpoint'), max_keypoints=100)
    for count in (100, 20, 1):
        detector.settings = replace(detector.settings, max_keypoints=count)
        assert len(detector.detect(photograph(96, 128))) == count


@pytest.mark.parametrize('count', [1, 2])
def test_the_next_image_does_not_change_features_found(count):
    _, detector = both_ways(make_network('superpoint'), max_keypoints=count)
    features = detector.detect(photograph(96, 128))
    held = [array.copy() for array in (features.keypoints, features.scores, features.descriptors)]
    detector.detect(photograph(96, 128, seed=1))
    for array, before in zip((features.keypoints, features.scores, features.descriptors), held, strict=True):
        np.testing.assert_array_equal(array, before)


def test_spread_keypoints_take_the_way_by_maps():
    by_maps, by_sessions = both_ways(make_network('superpoint'), spread=16, max_keypoints=30)
    picture = photograph(96, 128)
    assert_same(by_sessions.detect(picture), by_maps.detect(picture))


def test_the_session_that_was_not_used_for_longest_gives_way(monkeypatch):
    monkeypatch.setattr(device_sessions, 'MOST_SESSIONS', 2)
    _, detector = both_ways(make_network('superpoint'))
    often, once, other = (photograph(*size) for size in ((64, 96), (64, 64), (96, 64)))
    for picture in (often, once, often, other):
        detector.detect(picture)
    assert detector.detect(often).neighbours.among  # the features before are still there
    assert not detector.detect(once).neighbours.among


@needs_cuda
def test_a_graph_is_captured_while_another_one_runs():
    running, loading = (Detector.load('superpoint_small', 'cuda') for _ in range(2))
    picture = photograph(480, 640)
    expected = running.detect(picture)
    loader = Thread(target=loading.warm_up, args=(480, 640))
    loader.start()
    while loader.is_alive():
        np.testing.assert_array_equal(running.detect(picture).keypoints, expected.keypoints)
    for detector in (running, loading):
        ((session, _),) = detector.sessions._sessions.values()
        assert session.is_graph


@needs_cuda
@pytest.mark.parametrize('name', ['superpoint', 'superpoint_small'])
def test_cuda_agrees_with_the_cpu_in_float32(name):
    reference = Detector.load(name, 'cpu', engine='torch', precision='float32')
    detector = Detector.load(name, 'cuda')
    for seed in range(3):
        picture = photograph(480, 640, seed)
        expected, found = reference.detect(picture), detector.detect(picture)
        distance, row = nearest(expected.keypoints, found.keypoints)
        assert (distance < 1).mean() >= 0.98
        near = distance < 1
        cosine = (expected.descriptors[near] * found.descriptors[row[near]]).sum(axis=1)
        assert np.median(cosine) >= 0.99
    ((session, _),) = detector.sessions._sessions.values()
    assert session.is_graph
