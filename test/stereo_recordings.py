"""Recorded stereo sequences of the data that `SUPERPOINT_DATA` points to."""

import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import yaml

DATA = Path(os.environ.get('SUPERPOINT_DATA', Path(__file__).parents[1] / '../shared/data'))
EUROC = DATA / 'sequences' / 'euroc_v1_01_stereo'
KITTI = DATA / 'sequences' / 'kitti_stereo_1'


def camera_infos(folder: Path) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What `camera_info` would hold on the left and on the right; rectified by OpenCV where the images are not."""
    content = yaml.safe_load((folder / 'intrinsics.yaml').read_text())
    cameras = content['cameras']
    size = (cameras[0]['width'], cameras[0]['height'])
    K = [np.array([[c['fx'], 0, c['cx']], [0, c['fy'], c['cy']], [0, 0, 1]]) for c in cameras]
    d = [np.float64(c['distortion']) for c in cameras]
    if 'T_cam1_cam0' in content:
        T = np.array(content['T_cam1_cam0'])
        flags = {'flags': cv2.CALIB_ZERO_DISPARITY, 'alpha': 0}
        R1, R2, P1, P2, *_ = cv2.stereoRectify(K[0], d[0], K[1], d[1], size, T[:3, :3], T[:3, 3:], **flags)
    else:
        R1 = R2 = np.eye(3)
        P1 = P2 = np.hstack([K[0], np.zeros((3, 1))])
        P2 = P2.copy()
        P2[0, 3] = -K[0][0, 0] * content['baseline_m']
    infos = (
        SimpleNamespace(
            width=size[0],
            height=size[1],
            distortion_model='plumb_bob',
            d=d[side].tolist(),
            k=K[side].ravel().tolist(),
            r=R.ravel().tolist(),
            p=P.ravel().tolist(),
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        )
        for side, (R, P) in enumerate(((R1, P1), (R2, P2)))
    )
    return next(infos), next(infos)


def image_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Left and right images, grey, in the order of time."""
    pictures: dict[str, np.ndarray] = {}
    with tarfile.open(folder / 'frames.tar') as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file:
                pictures[member.name] = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
    names = sorted({Path(name).name for name in pictures})
    return [(pictures[f'left/{name}'], pictures[f'right/{name}']) for name in names]


def poses(folder: Path) -> list[np.ndarray]:
    """[4, 4] of the left camera in the world, for each image."""
    rows = np.loadtxt(folder / 'poses.txt')
    made = []
    for row in rows:
        x, y, z, w = row[4:]
        pose = np.eye(4)
        pose[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        pose[:3, 3] = row[1:4]
        made.append(pose)
    return made
