"""Recorded sequences with poses, of one camera or of two that are rectified to one another here."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from superpoint_ros.camera import Camera
from superpoint_ros.recordings.pictures import nanoseconds
from superpoint_training.evaluation.trajectories import read_tum


@dataclass(frozen=True, eq=False)
class Sequence:
    """N frames of one or two cameras.

    Attributes:
        name: of the folder.
        stamps: [N] int64 nanoseconds, from 1 s on.
        poses: [N, 4, 4] of the first camera, as its poses are measured: rectified, for two; camera to world, metres.
        cameras: one, or left and right.
        encoded: the pictures, by frame and camera.
    """

    name: str
    stamps: np.ndarray
    poses: np.ndarray
    cameras: tuple[Camera, ...]
    encoded: list[list[bytes]]

    def picture(self, index: int, camera: int) -> np.ndarray:
        """[H, W] uint8."""
        data = np.frombuffer(self.encoded[index][camera], np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def load(folder: Path) -> Sequence:
    """Read a sequence; two cameras get the calibration that OpenCV's rectification gives them."""
    calibration = yaml.safe_load((folder / 'intrinsics.yaml').read_text())
    rows = [line.split() for line in (folder / 'timestamps.txt').read_text().splitlines() if line[0] != '#']
    times = np.array([nanoseconds(row[1]) for row in rows], np.int64)
    poses = read_tum(folder / 'poses.txt').at(times)
    cameras = tuple(_camera(camera) for camera in calibration['cameras'])
    count = len(cameras)
    if count == 2:
        to_right = calibration.get('T_right_left') or calibration['T_cam1_cam0']
        cameras = rectified_pair(cameras, np.array(to_right, float))
        turn = np.eye(4)
        turn[:3, :3] = cameras[0].R.T  # a rectified ray, in the frame that the poses are of
        poses = poses @ turn
    with tarfile.open(folder / 'frames.tar') as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        encoded = [[_read(files[name]) for name in row[-count:]] for row in rows]
    return Sequence(folder.name, times - times[0] + 10**9, poses, cameras, encoded)


def rectified_pair(cameras: tuple[Camera, ...], to_right: np.ndarray) -> tuple[Camera, ...]:
    """The two cameras with R, P and baseline as `camera_info` of a calibrated stereo camera has them.

    to_right: [4, 4], left camera's coordinates to the right one's.
    """
    left, right = cameras
    size = (left.width, left.height)
    lenses = [np.pad(camera.distortion, (0, 5 - len(camera.distortion))) for camera in cameras]
    R_left, R_right, P_left, P_right = cv2.stereoRectify(
        left.K, lenses[0], right.K, lenses[1], size, to_right[:3, :3].copy(), to_right[:3, 3:].copy(), alpha=0
    )[:4]
    baseline = -P_right[0, 3] / P_right[0, 0]
    return tuple(
        Camera(camera.K, camera.distortion, camera.model, *size, R=R, P=P[:, :3], baseline=metres)
        for camera, R, P, metres in ((left, R_left, P_left, 0.0), (right, R_right, P_right, baseline))
    )


def _camera(entry: dict[str, Any]) -> Camera:
    K = np.array([[entry['fx'], 0, entry['cx']], [0, entry['fy'], entry['cy']], [0, 0, 1]], float)
    distortion = np.array(entry['distortion'], float)
    model = 'plumb_bob' if distortion.any() else 'none'
    return Camera(K, distortion if distortion.any() else np.zeros(0), model, entry['width'], entry['height'])


def _read(file: Any) -> bytes:
    return bytes(file.read())
