"""Intrinsics of a sequence's camera, from its files or known by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from superpoint_ros.calibrations import read_calibration
from superpoint_ros.camera import Camera

# The benchmark's own calibrations of its colour cameras: fx, fy, cx, cy, then k1, k2, p1, p2, k3.
_TUM = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
}


def tum_camera(folder: str) -> Camera | None:
    """The TUM RGB-D benchmark's colour camera that a folder is named for; None for another name."""
    for name, (fx, fy, cx, cy, *distortion) in _TUM.items():
        if name in folder:
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
            bends = any(distortion)
            return Camera(K, np.array(distortion if bends else []), 'plumb_bob' if bends else 'none', 640, 480)
    return None


def read_camera(path: Path) -> Camera:
    """The camera of a calibration file; see `read_calibration`.

    Raises:
        ValueError: it can't be read, or says nothing.
    """
    camera = Camera.from_info(read_calibration(path))
    if camera is None:
        raise ValueError(f"the calibration '{path}' has zeros for focal lengths")
    return camera
