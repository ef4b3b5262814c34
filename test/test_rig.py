"""Several cameras with one network find what each would find alone, under ids that no two of them share."""

import cv2
import numpy as np
import pytest
from test_frontend import FRAME_NS, PatchNetwork, make_camera, view

from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frontend
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.rig import Rig, Shot

STARTS = (100, 40, 180)  # where each camera looks


@pytest.fixture(scope='module')
def detector():
    return Detector(PatchNetwork(), KeypointSettings(max_keypoints=200, levels=1), device='cpu')


@pytest.fixture(scope='module')
def scene():
    corners = np.random.default_rng(7).integers(0, 256, (60, 80), dtype=np.uint8)
    return cv2.GaussianBlur(cv2.resize(corners, (640, 480), interpolation=cv2.INTER_NEAREST), (0, 0), 1)


def shots(scene, number: int, cameras=range(3)) -> dict[int, Shot]:
    return {index: Shot(view(scene, STARTS[index] + 8 * number), number * FRAME_NS + index) for index in cameras}


def test_each_camera_has_the_frames_that_it_has_alone_with_ids_of_its_own(detector, scene):
    rig = Rig(detector, 3)
    alone = [Frontend(detector) for _ in STARTS]
    given: list[set[int]] = [set(), set(), set()]
    for number in range(4):
        frames = rig.process(shots(scene, number))
        assert list(frames) == [0, 1, 2]
        for index, frame in frames.items():
            expected = alone[index].process(view(scene, STARTS[index] + 8 * number), number * FRAME_NS + index)
            np.testing.assert_array_equal(frame.features.keypoints, expected.features.keypoints)
            np.testing.assert_array_equal(frame.matches.train, expected.matches.train)
            np.testing.assert_array_equal(frame.track_ids, (expected.track_ids - 1) * 3 + 1 + index)
            np.testing.assert_array_equal(frame.track_ages, expected.track_ages)
            assert (frame.stamp_ns, frame.image_size) == (expected.stamp_ns, expected.image_size)
            assert list(frame.timings) == list(expected.timings)
            given[index] |= set(frame.track_ids.tolist())
    assert not given[0] & given[1] | given[1] & given[2] | given[0] & given[2]


def test_a_camera_that_stops_does_not_stop_the_others(detector, scene):
    rig = Rig(detector, 3)
    rig.process(shots(scene, 0))
    for number in (1, 2):
        frames = rig.process(shots(scene, number, cameras=(0, 2)))
        assert list(frames) == [0, 2]
        assert all(frame.track_ages.max() == number + 1 for frame in frames.values())
    back = rig.process(shots(scene, 3))[1]
    assert back.previous_stamp_ns == 1  # the last that this camera saw


def test_images_of_different_sizes_and_masks_are_one_batch(detector, scene):
    small, large = view(scene, 100)[:120, :160], view(scene, 100)
    mask = np.zeros_like(large)
    mask[:100] = 255
    frames = Rig(detector, 2).process({0: Shot(small, 0), 1: Shot(large, 0, mask)})
    assert [frame.image_size for frame in frames.values()] == [(160, 120), (320, 240)]
    assert frames[0].features.keypoints.max(axis=0).max() < 160
    assert frames[1].features.keypoints[:, 1].max() < 101 < frames[1].features.keypoints[:, 0].max()


def test_a_new_detector_is_every_cameras_and_begins_anew(detector, scene):
    rig = Rig(detector, 3)
    rig.process(shots(scene, 0))
    rig.detector = detector
    frames = rig.process(shots(scene, 1))
    assert [frame.previous_stamp_ns for frame in frames.values()] == [None] * 3
    rig.reset()
    frames = rig.process(shots(scene, 2))
    assert [frame.track_ids.min() for frame in frames.values()] == [1, 2, 3]


def test_no_images_make_no_frames(detector):
    assert Rig(detector, 2).process({}) == {}


@pytest.mark.parametrize('cameras', [1, 8])
def test_run_ids_too_are_of_one_camera_only(detector, scene, cameras):
    rig = Rig(detector, cameras)
    for frontend in rig.frontends:
        frontend.camera = make_camera()
    for number in range(2):
        frames = rig.process({i: Shot(view(scene, 100 + 8 * number), number * FRAME_NS) for i in range(cameras)})
    for index, frame in frames.items():
        ids = frame.run_ids[frame.run_ids > 0].astype(int)
        assert len(ids) > 20
        assert set(ids % cameras) == {(index + 1) % cameras}
