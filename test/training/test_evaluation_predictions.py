"""Detectors behind one interface, and their predictions: computed once, the same afterwards, whatever the disk does."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from superpoint_ros.features import Features
from superpoint_ros.networks import load_network, save_network
from superpoint_training.evaluation.predictions import Predictions, rounded
from superpoint_training.peers import PEERS, NamedDetector, make_detector


def texture(seed=0, size=(160, 120)):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def available():
    for name in PEERS:
        try:
            make_detector(name)
        except ValueError:
            continue
        yield name


AVAILABLE = list(available())


class Counting:
    """A detector of random features that counts its calls."""

    def __init__(self, key='key', dimensions=16):
        self.calls = 0
        self.named = NamedDetector('counting', 'counting', key, self.detect)
        self.dimensions = dimensions

    def detect(self, picture):
        self.calls += 1
        rng = np.random.default_rng(int(picture.sum()))
        descriptors = rng.normal(size=(30, self.dimensions)).astype(np.float32)
        keypoints = rng.uniform(0, 100, (30, 2)).astype(np.float32)
        return Features(keypoints, np.linspace(1, 0.1, 30, dtype=np.float32), descriptors)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ('keypoints', 'scores', 'descriptors')
    )


@pytest.mark.parametrize('name', [*AVAILABLE, 'superpoint_small'])
def test_detectors_give_features_best_first(name):
    detector = make_detector(name, device='cpu')
    features = detector(texture())
    assert len(features) > 5
    assert (np.diff(features.scores) <= 0).all()
    assert features.keypoints.shape == (len(features), 2)
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= [159.5, 119.5]).all()
    assert features.descriptors.shape[0] == len(features)
    assert (features.descriptors.shape[1] > 0) == detector.describes
    if detector.describes:
        np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize('name', AVAILABLE)
def test_a_picture_of_nothing_has_descriptors_of_the_right_width(name):
    detector = make_detector(name)
    blank, full = detector(np.full((120, 160), 127, np.uint8)), detector(texture())
    assert len(blank) == 0
    assert (blank.descriptors @ full.descriptors.T).shape == (0, len(full))


def test_binary_descriptors_compare_as_hamming_distances_do():
    picture = texture()
    _, bits = cv2.ORB_create(nfeatures=5000).detectAndCompute(picture, None)
    similarity = make_detector('orb')(picture).descriptors
    cosines = np.sort((similarity @ similarity.T).ravel())
    hamming = np.unpackbits(bits[:, None] ^ bits[None], axis=2).sum(axis=2)
    np.testing.assert_allclose(cosines, np.sort((1 - 2 * hamming / 256).ravel()), atol=1e-5)


def test_an_unknown_detector_is_an_error():
    with pytest.raises(ValueError, match='surf'):
        make_detector('surf')


def test_a_peer_that_opencv_lacks_is_named(monkeypatch):
    monkeypatch.delattr(cv2, 'ORB_create', raising=False)
    monkeypatch.delattr(cv2, 'ORB', raising=False)
    with pytest.raises(ValueError, match=r'has no ORB.*opencv-contrib'):
        make_detector('orb')


@pytest.mark.parametrize('on_disk', [True, False])
def test_predictions_are_computed_once(on_disk, tmp_path):
    counting = Counting()
    predict = Predictions(counting.named, tmp_path if on_disk else None)
    first = predict(texture())
    again = predict(texture())
    assert counting.calls == 1
    assert same(first, again)
    predict(texture(1))
    assert counting.calls == 2
    predict(np.ascontiguousarray(texture().reshape(60, 320)))  # the same bytes, another picture
    assert counting.calls == 3


def test_another_run_finds_them_and_another_key_does_not(tmp_path):
    first = Predictions(Counting().named, tmp_path)(texture())
    later, other = Counting(), Counting(key='other weights')
    assert same(Predictions(later.named, tmp_path)(texture()), first)
    assert later.calls == 0
    Predictions(other.named, tmp_path)(texture())
    assert other.calls == 1


def test_only_the_best_are_kept_where_no_more_are_needed(tmp_path):
    counting = Counting()
    everything, best = Predictions(counting.named, tmp_path), Predictions(counting.named, tmp_path, keypoints=10)
    assert len(everything(texture())) == 30
    assert same(best(texture()), everything(texture()).take(np.arange(10)))
    assert same(best(texture()), everything(texture()).take(np.arange(10)))


def test_a_prediction_is_the_same_before_and_after_it_was_kept(tmp_path):
    counting = Counting()
    kept = Predictions(counting.named, tmp_path)
    assert same(kept(texture()), kept(texture()))
    assert same(kept(texture()), rounded(counting.detect(texture())))


@pytest.mark.parametrize('name', AVAILABLE)
def test_kept_descriptors_rank_as_the_detector_s_own(name):
    features = make_detector(name)(texture())
    kept = rounded(features)
    assert np.array_equal(kept.keypoints, features.keypoints)
    assert kept.descriptors.shape == features.descriptors.shape
    np.testing.assert_allclose(kept.descriptors, features.descriptors, atol=1e-3)


def test_kept_features_know_their_levels(tmp_path):
    detector = make_detector('superpoint_small', 'cpu', levels=3)
    Predictions(detector, tmp_path)(texture())
    kept = Predictions(detector, tmp_path)(texture())
    assert np.array_equal(kept.levels, detector(texture()).levels)
    assert set(kept.levels) == {0, 1, 2}


def test_binary_descriptors_take_a_bit_a_value(tmp_path):
    Predictions(make_detector('orb'), tmp_path)(texture())
    (file,) = tmp_path.rglob('*.npz')
    count = len(make_detector('orb')(texture()))
    assert file.stat().st_size < count * (32 + 12) + 2000


def test_a_file_that_was_cut_off_is_computed_again(tmp_path):
    counting = Counting()
    first = Predictions(counting.named, tmp_path)(texture())
    (file,) = tmp_path.rglob('*.npz')
    for content in (file.read_bytes()[:200], b'', b'nonsense'):
        file.write_bytes(content)
        assert same(Predictions(counting.named, tmp_path)(texture()), first)
    assert counting.calls == 4
    assert not list(tmp_path.rglob('*.part'))


def test_a_cache_that_cannot_be_written_costs_a_warning_not_the_run(tmp_path):
    blocked = tmp_path / 'file'
    blocked.write_text('not a folder')
    counting = Counting()
    predict = Predictions(counting.named, blocked)
    with pytest.warns(UserWarning, match='not kept'):
        first = predict(texture())
    assert same(predict(texture()), first)
    assert counting.calls == 1


def test_a_disk_that_fills_under_two_threads_costs_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    """One of them fails to write while the other is about to."""
    writing, failed, written = threading.Event(), threading.Event(), np.savez

    def write(file, **arrays):
        written(file, **arrays)
        if threading.current_thread() is threading.main_thread():
            raise OSError(errno.ENOSPC, 'No space left on device')
        writing.set()
        failed.wait(10)

    monkeypatch.setattr(np, 'savez', write)
    predict = Predictions(Counting().named, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(predict, texture(1))
        assert writing.wait(10)
        with pytest.warns(UserWarning, match='No space left'):
            predict(texture(0))
        failed.set()
        assert len(other.result())
    assert [path.suffix for path in tmp_path.rglob('*') if path.is_file()] == ['.npz']
    assert not list(tmp_path.rglob('*.part'))


def test_keys_differ_by_settings_and_weights():
    keys = {
        make_detector('superpoint_small', 'cpu').key,
        make_detector('superpoint_small', 'cpu', nms_radius=2).key,
        make_detector('superpoint_small', 'cpu', border=0).key,
        make_detector('superpoint_small', 'cpu', levels=3).key,
        make_detector('superpoint_small', 'cpu', engine='torch', precision='float32').key,
        make_detector('superpoint', 'cpu').key,
        make_detector('sift').key,
        make_detector('orb').key,
    }
    assert len(keys) == 8
    assert make_detector('superpoint_small', 'cpu').key in keys


def test_levels_find_more_sizes_and_are_named():
    one, three = (make_detector('superpoint_small', 'cpu', levels=levels) for levels in (1, 3))
    assert three.description == one.description + ', 3 levels'
    closer = make_detector('superpoint_small', 'cpu', levels=3, levels_per_octave=3)
    assert closer.description == one.description + ', 3 levels, 3 an octave'
    assert closer.key != three.key
    assert len(three(texture())) > len(one(texture()))


def test_the_same_name_with_other_weights_has_another_key(tmp_path):
    network = load_network('superpoint_small', fold=False)
    path = tmp_path / 'mine.safetensors'
    keys = set()
    for factor in (1.0, 1.5):
        next(network.parameters()).data.mul_(factor)
        save_network(network, path, {})
        keys.add(make_detector(str(path), 'cpu').key)
    assert len(keys) == 2
