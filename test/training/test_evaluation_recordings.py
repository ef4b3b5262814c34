"""Recordings without ground truth: frames of every kind of them, agreement with oneself, and lengths of tracks."""

import dataclasses

import cv2
import drives
import numpy as np
import pytest

from superpoint_ros.features import Features
from superpoint_training.evaluation.pair_run import PairRun
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.recording_run import track_lengths, track_results, warped_pairs
from superpoint_training.evaluation.recordings import read_frames
from superpoint_training.peers import NamedDetector, make_detector
from superpoint_training.protocols import PROTOCOLS

PROTOCOL = dataclasses.replace(PROTOCOLS['kp2d-320'], width=160, height=120)


def texture(seed=0, size=(160, 120)):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (15, 20), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)


def test_frames_of_a_folder(tmp_path):
    for index in range(4):
        cv2.imwrite(str(tmp_path / f'{index}.png'), texture(index))
    (tmp_path / '2.png').write_bytes(b'torn')
    recorded, skipped = read_frames(tmp_path, '', 100)
    assert len(recorded.frames) == 3
    np.testing.assert_array_equal(recorded.frames[2], texture(3))
    assert [each.what for each in skipped] == [f'{tmp_path.name}, 1 images']
    assert len(read_frames(tmp_path, '', 2)[0].frames) == 2


def test_frames_of_a_video(tmp_path):
    path = tmp_path / 'ride.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (160, 120))
    for index in range(5):
        writer.write(cv2.cvtColor(texture(index), cv2.COLOR_GRAY2BGR))
    writer.release()
    recorded, skipped = read_frames(path, '', 100)
    assert len(recorded.frames) == 5
    assert skipped == []
    assert np.abs(recorded.frames[4].astype(int) - texture(4)).mean() < 10


def write_bag(path, topics):
    """A rosbag2 whose topics hold so many grey images each."""
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    kinds = store.types
    with Writer(path, version=9) as writer:
        for topic, count in topics.items():
            connection = writer.add_connection(topic, 'sensor_msgs/msg/Image', typestore=store)
            for index in range(count):
                stamp = kinds['builtin_interfaces/msg/Time'](index, 0)
                header = kinds['std_msgs/msg/Header'](stamp, 'camera')
                image = kinds['sensor_msgs/msg/Image'](header, 120, 160, 'mono8', 0, 160, texture(index).ravel())
                writer.write(connection, index * 10**9, store.serialize_cdr(image, 'sensor_msgs/msg/Image'))


def test_frames_of_a_bag(tmp_path):
    write_bag(tmp_path / 'bag', {'/rear': 2, '/front': 4})
    recorded, _ = read_frames(tmp_path / 'bag', '', 100)
    assert (recorded.name, len(recorded.frames)) == ('bag /front', 4)
    np.testing.assert_array_equal(recorded.frames[3], texture(3))
    assert len(read_frames(tmp_path / 'bag', '/rear', 100)[0].frames) == 2
    with pytest.raises(ValueError, match=r"no images on '/left'.*/front, /rear"):
        read_frames(tmp_path / 'bag', '/left', 100)


def test_without_a_word_the_camera_is_the_one_that_a_retraining_takes(tmp_path):
    depth = [texture(index).astype(np.uint16) for index in range(5)]
    path = drives.write_bag(tmp_path / 'bag', {'/depth': depth, '/colour': [texture(index) for index in range(3)]})
    assert read_frames(path, '', 100)[0].name.endswith(' /colour')


def test_recordings_without_a_frame_are_errors(tmp_path):
    with pytest.raises(ValueError, match='no'):
        read_frames(tmp_path / 'absent', '', 100)
    (tmp_path / '1.png').write_bytes(b'torn')
    with pytest.raises(ValueError, match='can be read'):
        read_frames(tmp_path, '', 100)


def test_warped_frames_are_spread_evenly_and_the_same_every_time():
    frames = [texture(index) for index in range(120)]
    pairs = warped_pairs(frames, PROTOCOL)
    assert len(pairs) == 50
    assert [pairs[0].name, pairs[-1].name] == ['frame 0', 'frame 119']
    again = warped_pairs(frames, PROTOCOL)
    assert all(
        (a.second == b.second).all() and (a.homography == b.homography).all() for a, b in zip(pairs, again, strict=True)
    )
    assert len({pair.homography.tobytes() for pair in pairs}) == 50
    other = warped_pairs(frames, dataclasses.replace(PROTOCOL, seed=1))
    assert (other[0].homography != pairs[0].homography).any()


def test_the_warp_shows_the_frame_where_the_homography_says():
    y, x = np.mgrid[:120, :160]
    blob = (20 + 200 * np.exp(-((x - 75) ** 2 + (y - 62) ** 2) / 60)).astype(np.uint8)
    for pair in warped_pairs([blob] * 5, PROTOCOL):
        expected = pair.homography @ [75, 62, 1]
        smooth = cv2.GaussianBlur(pair.second, (9, 9), 0)
        peak = np.unravel_index(smooth.argmax(), smooth.shape)[::-1]
        np.testing.assert_allclose(peak, expected[:2] / expected[2], atol=4)


def test_agreement_with_oneself_is_measured_as_on_pairs():
    sift = {'sift': Predictions(make_detector('sift'))}
    result = PairRun(warped_pairs([texture(k, (320, 240)) for k in range(3)], PROTOCOL), PROTOCOL, sift).results()[
        'sift'
    ]
    assert result['pairs'] == 3
    assert result['repeatability'] > 0.3
    assert result['matching_accuracy'] > 0.5


def detector_of(points_of_frame):
    """A detector that finds given points, each with a descriptor of its own; frames are told apart by their grey."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0].astype(np.float32)

    def detect(picture):
        rows = points_of_frame[int(picture[0, 0])]
        names, positions = zip(*rows, strict=True)
        scores = np.linspace(1, 0.5, len(rows), dtype=np.float32)
        return Features(np.array(positions, np.float32), scores, basis[list(names)])

    return Predictions(NamedDetector('scripted', 'scripted', 'key', detect))


def test_track_lengths_by_hand():
    rng = np.random.default_rng(1)
    still = {name: tuple(rng.uniform(10, 110, 2)) for name in range(12)}
    frames = {0: list(range(12)), 1: list(range(12)), 2: list(range(8)), 3: list(range(12))}
    detect = detector_of({index: [(name, still[name]) for name in names] for index, names in frames.items()})
    pictures = [np.full((120, 160), index, np.uint8) for index in frames]
    lengths = track_lengths(pictures, detect, PROTOCOL)
    # Eight are seen in all four frames; four in two, not in the third, and are new in the fourth.
    assert lengths['frames'] == 4
    assert lengths['tracks'] == 16
    assert lengths['mean'] == pytest.approx((8 * 4 + 4 * 2 + 4 * 1) / 16)
    assert lengths['median'] == 3
    assert lengths['mean_of_points'] == pytest.approx((8 * 16 + 4 * 4 + 4 * 1) / (8 * 4 + 4 * 2 + 4))
    assert lengths['inliers'] == pytest.approx((12 + 8 + 8) / 3)
    assert lengths['inlier_ratio'] == 1


def test_tracks_of_nothing():
    nothing = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 8), np.float32))
    blind = Predictions(NamedDetector('blind', 'blind', 'key', lambda _: nothing))
    lengths = track_lengths([texture(0), texture(1)], blind, PROTOCOL)
    assert lengths['tracks'] == lengths['mean'] == lengths['inliers'] == 0
    assert np.isnan(track_lengths([texture(0)], blind, PROTOCOL)['inliers'])


def test_detectors_without_descriptors_have_no_tracks():
    detectors = {name: Predictions(make_detector(name)) for name in ('orb', 'fast')}
    assert track_results([texture(0), texture(0)], detectors, PROTOCOL).keys() == {'orb'}
