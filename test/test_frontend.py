"""The chain for one camera, on a texture seen by a camera whose motion is known."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from superpoint_ros.camera import Camera
from superpoint_ros.detector import Detector
from superpoint_ros.frontend import LARGEST_RUN_ID, Frontend
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.matching import MatchSettings
from superpoint_ros.tracks import TrackSettings

SIZE = (320, 240)
FRAME_NS = 50_000_000


class PatchNetwork(nn.Module):
    """Needs no training: blobs are keypoints, random projections of a patch its descriptor."""

    stride = descriptor_stride = 8
    config = SimpleNamespace(descriptor_dim=64)

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        patches = torch.randn(64, 1, 40, 40, generator=random)
        self.patches = nn.Parameter(patches - patches.mean(dim=(2, 3), keepdim=True))
        blob = cv2.getGaussianKernel(9, 1.2) @ cv2.getGaussianKernel(9, 1.2).T - np.full((9, 9), 1 / 81)
        self.blob = nn.Parameter(torch.from_numpy(blob).float()[None, None])

    def forward(self, image):
        response = 40 * nn.functional.conv2d(image, self.blob, padding=4) - 8
        logits = nn.functional.pixel_unshuffle(response, 8)
        descriptors = nn.functional.conv2d(image, self.patches, stride=8, padding=16)
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], 1), descriptors


@pytest.fixture(scope='module')
def detector():
    return Detector(PatchNetwork(), KeypointSettings(max_keypoints=200, levels=1), device='cpu')


@pytest.fixture(scope='module')
def scene():
    rng = np.random.default_rng(5)
    corners = rng.integers(0, 256, (60, 80), dtype=np.uint8)
    return cv2.GaussianBlur(cv2.resize(corners, (640, 480), interpolation=cv2.INTER_NEAREST), (0, 0), 1)


def view(scene, x, y=100):
    """What a camera sees that looks at the scene from (x, y)."""
    return scene[y : y + SIZE[1], x : x + SIZE[0]]


def make_camera(focal=300.0):
    K = np.array([[focal, 0, 159.5], [0, focal, 119.5], [0, 0, 1]])
    return Camera(K=K, distortion=np.zeros(0), model='none', width=SIZE[0], height=SIZE[1])


def run(frontend, scene, positions):
    """Eight pixels a frame is one cell: the network sees the same thing again."""
    return [frontend.process(view(scene, x), n * FRAME_NS) for n, x in enumerate(positions)]


def test_matches_and_tracks_follow_a_known_motion(detector, scene):
    frames = run(Frontend(detector), scene, [100, 108, 116, 124])
    assert len(frames[0].matches) == 0
    assert frames[0].previous_stamp_ns is None
    assert frames[0].previous_keypoints.shape == (0, 2)
    for before, now in pairwise(frames):
        assert now.previous_stamp_ns == before.stamp_ns
        np.testing.assert_array_equal(now.previous_keypoints, before.features.keypoints)
        inlier = now.matches.inlier
        assert inlier.sum() > 50
        query, train = now.matches.query[inlier], now.matches.train[inlier]
        motion = now.features.keypoints[query] - before.features.keypoints[train]
        assert (np.abs(motion - [-8, 0]).max(axis=1) < 1).mean() > 0.95
        np.testing.assert_array_equal(now.track_ids[query], before.track_ids[train])
        np.testing.assert_array_equal(now.track_ages[query], before.track_ages[train] + 1)
    assert frames[-1].track_ages.max() == 4


def test_a_frame_says_everything_in_the_promised_shapes_and_types(detector, scene):
    frontend = Frontend(detector, camera=make_camera())
    frame = run(frontend, scene, [100, 108])[1]
    count = len(frame.features)
    assert frame.image_size == SIZE
    assert (frame.rays.shape, frame.rays.dtype) == ((count, 3), np.float32)
    assert (frame.track_ids.shape, frame.track_ids.dtype) == ((count,), np.uint32)
    assert (frame.track_ages.shape, frame.track_ages.dtype) == ((count,), np.uint16)
    assert (frame.run_ids.shape, frame.run_ids.dtype) == ((count,), np.uint32)
    assert (frame.velocities.shape, frame.velocities.dtype) == ((count, 2), np.float32)
    assert list(frame.timings) == [
        'network', 'keypoints', 'descriptors', 'matching', 'verification', 'tracks'
    ]  # fmt: skip


def test_velocities_are_of_the_rays_and_per_second(detector, scene):
    frame = run(Frontend(detector, camera=make_camera()), scene, [100, 108])[1]
    old = frame.track_ages > 1
    expected = -8 / 300 / (FRAME_NS * 1e-9)
    assert np.median(frame.velocities[old, 0]) == pytest.approx(expected, rel=0.02)
    assert np.median(frame.velocities[old, 1]) == pytest.approx(0, abs=0.01)
    assert not frame.velocities[~old].any()


def test_without_a_calibration_rays_are_nan_and_matches_are_verified_all_the_same(detector, scene):
    frame = run(Frontend(detector), scene, [100, 108])[1]
    assert np.isnan(frame.rays).all()
    assert not frame.velocities.any()
    assert frame.matches.inlier.sum() > 50


def test_a_calibration_that_arrives_late_serves_the_frame_before_as_well(detector, scene):
    frontend = Frontend(detector)
    frontend.process(view(scene, 100), 0)
    frontend.camera = make_camera()
    frame = frontend.process(view(scene, 108), FRAME_NS)
    assert frame.matches.inlier.sum() > 50
    assert frame.velocities[frame.track_ages > 1].any()


def test_each_frame_has_the_rays_of_the_camera_that_took_it(detector, scene):
    """A lens that zooms in on a scene at rest does not set it in motion."""
    near, far = make_camera(), make_camera(focal=330.0)
    frontend = Frontend(detector, camera=near)
    before = frontend.process(view(scene, 100), 0)
    frontend.camera = far
    now = frontend.process(view(scene, 100), FRAME_NS)
    query, train = now.matches.query[now.matches.inlier], now.matches.train[now.matches.inlier]
    moved = far.rays(now.features.keypoints[query]) - near.rays(before.features.keypoints[train])
    assert len(query) > 50
    np.testing.assert_allclose(now.velocities[query], moved[:, :2] / (FRAME_NS * 1e-9), rtol=1e-4, atol=1e-6)
    assert np.abs(now.velocities).max() > 0.1


def test_a_camera_at_rest_keeps_every_feature_an_inlier(detector, scene):
    for camera in (None, make_camera()):
        frame = run(Frontend(detector, camera=camera), scene, [100, 100])[1]
        assert len(frame.matches) == len(frame.features)
        assert frame.matches.inlier.mean() > 0.98


def test_unverified_matches_all_count_as_inliers(detector, scene):
    frontend = Frontend(detector, MatchSettings(verify=False))
    assert run(frontend, scene, [100, 108])[1].matches.inlier.all()


@pytest.mark.parametrize('change', ['size', 'time', 'detector'])
def test_a_break_in_the_stream_begins_anew_with_ids_never_used_before(detector, scene, change):
    frontend = Frontend(detector)
    frames = run(frontend, scene, [100, 108])
    used = max(int(frame.track_ids.max()) for frame in frames)
    image, stamp_ns = view(scene, 116), 2 * FRAME_NS
    if change == 'size':
        image = image[:200]
    elif change == 'time':
        stamp_ns = 0
    else:
        frontend.detector = detector
    frame = frontend.process(image, stamp_ns)
    assert frame.previous_stamp_ns is None
    assert len(frame.matches) == 0
    assert (frame.track_ages == 1).all()
    assert frame.track_ids.min() > used
    assert len(frontend.process(image, stamp_ns + FRAME_NS).matches) == len(frame.features)


def test_a_clock_that_stands_still_gives_matches_and_no_velocities(detector, scene):
    frontend = Frontend(detector, camera=make_camera())
    frontend.process(view(scene, 100), 0)
    frame = frontend.process(view(scene, 108), 0)
    assert frame.matches.inlier.sum() > 50
    assert not frame.velocities.any()


def test_reset_restarts_the_ids(detector, scene):
    frontend = Frontend(detector, track_settings=TrackSettings(max_missed=1))
    first = run(frontend, scene, [100, 108])[0]
    frontend.reset()
    assert frontend.track_settings.max_missed == 1
    again = run(frontend, scene, [100])[0]
    np.testing.assert_array_equal(again.track_ids, first.track_ids)
    assert again.previous_stamp_ns is None


def test_a_track_survives_a_frame_that_hides_its_feature(detector, scene):
    frontend = Frontend(detector)
    first, _ = (frontend.process(view(scene, 100), stamp) for stamp in (0, FRAME_NS))
    hidden = np.ones(SIZE[::-1], bool)
    hidden[:, 160:] = False
    frontend.process(view(scene, 100), 2 * FRAME_NS, hidden)
    last = frontend.process(view(scene, 100), 3 * FRAME_NS)
    assert (first.features.keypoints[:, 0] > 170).any()
    np.testing.assert_array_equal(last.track_ids, first.track_ids)


@pytest.mark.parametrize('verify', [True, False])
def test_a_run_has_no_gap_and_is_known_from_its_second_frame_on(detector, scene, verify):
    """The right half is hidden in frame 3, the left quarter has no rays in frame 6."""
    calibrated = make_camera()
    known_from = 0.0

    class PartlyKnown(Camera):
        def rays(self, keypoints):
            return np.where(keypoints[:, :1] < known_from, np.nan, calibrated.rays(keypoints))

    camera = PartlyKnown(**vars(calibrated))
    right_hidden = np.ones(SIZE[::-1], bool)
    right_hidden[:, 160:] = False
    frontend = Frontend(detector, MatchSettings(verify=verify), camera=camera)
    frames, seen_in = [], {}
    for number in range(9):
        known_from = 80.0 if number == 6 else 0.0
        mask = right_hidden if number == 3 else None
        frame = frontend.process(view(scene, 100 + 8 * number), number * FRAME_NS, mask)
        frames.append(frame)
        in_run = frame.run_ids > 0
        for run_id in frame.run_ids[in_run].tolist():
            seen_in.setdefault(run_id, []).append(number)
        assert np.isfinite(frame.rays[in_run]).all()
        assert frame.velocities[in_run].any(axis=1).all()
    assert all(numbers == list(range(numbers[0], numbers[-1] + 1)) for numbers in seen_in.values())
    assert sorted(seen_in) == list(range(1, len(seen_in) + 1))  # none is spent on what has no run
    assert not frames[0].run_ids.any()
    assert sum(numbers == list(range(1, 9)) for numbers in seen_in.values()) > 10
    assert np.isnan(frames[6].rays[:, 0]).sum() > 10
    returned = np.isin(frames[4].track_ids, frames[2].track_ids) & ~np.isin(frames[4].track_ids, frames[3].track_ids)
    assert returned.sum() > 10
    assert not frames[4].run_ids[returned].any()

    frontend.reset()
    again = run(frontend, scene, [100, 108])[1].run_ids
    assert again[again > 0].min() == 1


def test_run_ids_are_exact_in_float32_and_leave_out_those_in_use(detector, scene):
    frontend = Frontend(detector, camera=make_camera())
    old = run(frontend, scene, [100, 100])[1].run_ids
    frontend._run_ids._next = LARGEST_RUN_ID
    _, frame = (frontend.process(view(scene, 180), n * FRAME_NS) for n in (2, 3))
    ids = frame.run_ids[frame.run_ids > 0]
    assert np.isin(ids, old).sum() > 10
    assert len(np.unique(ids)) == len(ids)
    assert ids.max() == LARGEST_RUN_ID == int(np.float32(LARGEST_RUN_ID)) < int(np.float32(LARGEST_RUN_ID + 2))


def test_images_without_features_are_frames_too(detector, scene):
    blind = replace(detector.settings, detection_threshold=0.999)
    frontend = Frontend(detector)
    run(frontend, scene, [100, 100])
    settings, detector.settings = detector.settings, blind
    try:
        frames = [frontend.process(view(scene, 100), n * FRAME_NS) for n in (2, 3)]
    finally:
        detector.settings = settings
    assert [len(frame.features) for frame in frames] == [0, 0]
    assert [len(frame.matches) for frame in frames] == [0, 0]
    assert frontend.process(view(scene, 100), 4 * FRAME_NS).track_ages.max() == 3


def test_an_image_that_is_refused_leaves_the_chain_as_it_was(detector, scene):
    frontend = Frontend(detector)
    run(frontend, scene, [100])
    with pytest.raises(ValueError, match='uint8'):
        frontend.process(np.zeros((240, 320)), FRAME_NS)
    frame = frontend.process(view(scene, 108), 2 * FRAME_NS)
    assert frame.previous_stamp_ns == 0
    assert frame.matches.inlier.sum() > 50
