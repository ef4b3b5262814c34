"""Stereo on real pictures: photographs that the package has, and recordings that `SUPERPOINT_DATA` points to."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from stereo_recordings import EUROC, KITTI, camera_infos, image_pairs, poses

from superpoint_ros.camera import Camera
from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frame
from superpoint_ros.photographs import photographs
from superpoint_ros.rig import Rig, Shot
from superpoint_ros.stereo import StereoCamera, StereoMatches, match_stereo


@pytest.mark.parametrize('disparity', [3.25, 40.5])
def test_a_photograph_hung_up_in_front_of_the_cameras_is_seen_at_its_distance(disparity):
    focal, baseline, size = 500.0, 0.2, (640, 480)
    K = np.array([[focal, 0, 319.5], [0, focal, 239.5], [0, 0, 1]])
    pair = StereoCamera(*(Camera(K, np.zeros(0), 'none', *size, baseline=b) for b in (0.0, baseline)))
    detector = Detector.load('superpoint_small', device='cpu', engine='torch', max_keypoints=500)
    for path in photographs()[:4]:
        picture = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (700, 480), interpolation=cv2.INTER_AREA)
        shift = np.float64([[1, 0, -disparity], [0, 1, 0]])
        left, right = (cv2.warpAffine(picture, m, size, flags=cv2.INTER_CUBIC) for m in (np.eye(2, 3), shift))
        features = detector.detect_batch([left, right])
        matches = match_stereo(*features, pair)
        assert len(matches) > 0.5 * len(features[0])
        levels = features[0].levels[matches.left]
        for level in range(4):
            errors = np.abs(matches.disparity - disparity)[levels == level]
            assert np.median(errors) < 0.35 * 2 ** (level / 2)  # pixels of a smaller image are larger
        assert np.nanmedian(matches.points[:, 2]) == pytest.approx(focal * baseline / disparity, rel=0.3 / disparity)


def needs(folder: Path):
    return pytest.mark.skipif(not folder.exists(), reason=f'no stereo sequence at {folder}; set SUPERPOINT_DATA')


def run(folder: Path, step: int, rectify: bool = False) -> tuple[StereoCamera, list[tuple[Frame, StereoMatches]]]:
    """The cameras, and the left frame and stereo matches of every so many pairs."""
    cameras = [Camera.from_info(info) for info in camera_infos(folder)]
    seen = [camera.rectified if rectify else camera for camera in cameras]
    pair = StereoCamera(*seen)
    rig = Rig(Detector.load('superpoint', device='cpu', max_keypoints=1000), 2)
    made = []
    for number, images in enumerate(image_pairs(folder)[::step]):
        if rectify:
            images = tuple(camera.rectify(image) for camera, image in zip(cameras, images, strict=True))
        frames = rig.process({index: Shot(image, number * 10**8) for index, image in enumerate(images)})
        made.append((frames[0], match_stereo(frames[0].features, frames[1].features, pair)))
    return pair, made


@needs(EUROC)
@pytest.mark.parametrize('rectify', [False, True])
def test_a_drone_at_rest_keeps_its_rows_and_its_distances(rectify):
    """The residual has the error of the calibration and of the keypoints; distances do not change."""
    _, made = run(EUROC, step=6, rectify=rectify)
    residuals = np.concatenate([matches.residual for _, matches in made])
    assert np.median(np.abs(residuals)) <= 0.5
    assert np.mean([len(matches) / len(frame.features) for frame, matches in made]) > 0.5
    distances: dict[int, list[float]] = {}
    for frame, matches in made:
        for track, point in zip(frame.track_ids[matches.left].tolist(), matches.points, strict=True):
            distances.setdefault(track, []).append(float(point[2]))
    long = [values for values in distances.values() if len(values) == len(made)]
    assert len(long) > 100
    spread = np.array([np.std(values) / np.mean(values) for values in long])
    assert np.median(spread) < 0.02


@needs(KITTI)
def test_a_car_drives_as_far_as_its_stereo_points_say():
    """The motion that turns the points of one pair into the pixels of the next has the length that the GPS measured."""
    pair, made = run(KITTI, step=1)
    truth = poses(KITTI)
    K, lengths, expected = pair.left.rectified.K, [], []
    for (before, matches), (now, _), *two_poses in zip(made, made[1:], truth, truth[1:], strict=False):
        row_of = {track: row for row, track in enumerate(before.track_ids[matches.left].tolist())}
        seen = [(row_of[track], row) for row, track in enumerate(now.track_ids.tolist()) if track in row_of]
        rows, now_rows = np.array(seen).T
        points, pixels = matches.points[rows].astype(np.float64), now.features.keypoints[now_rows].astype(np.float64)
        known = np.isfinite(points).all(axis=1)
        _, _, motion, inliers = cv2.solvePnPRansac(points[known], pixels[known], K, None, reprojectionError=1.5)
        assert len(inliers) > 100
        lengths.append(np.linalg.norm(motion))
        first, second = two_poses
        expected.append(np.linalg.norm(first[:3, 3] - second[:3, 3]))
    assert sum(lengths) == pytest.approx(sum(expected), rel=0.03)
