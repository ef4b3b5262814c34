"""Intrinsics of a sequence's camera, from its files or known by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from superpoint_ros.camera import Camera

_MODELS = {
    'none': 'none',
    'none (rectified)': 'none',
    'plumb_bob': 'plumb_bob',
    'radtan': 'plumb_bob',
    'radial-tangential': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial',
    'equidistant': 'equidistant',
    'equi': 'equidistant',
    'fisheye': 'equidistant',
}
# The benchmark's own calibrations of its colour cameras: fx, fy, cx, cy, then k1, k2, p1, p2, k3.
_TUM = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
}


def pinhole(
    size: tuple[int, int], intrinsics: tuple[float, float, float, float], model: str, distortion: list[float]
) -> Camera:
    """A camera of (width, height), (fx, fy, cx, cy) in pixels, and a lens.

    Raises:
        ValueError: an unknown lens model.
    """
    if model not in _MODELS:
        raise ValueError(f"lens model '{model}' is not known; known are {', '.join(_MODELS)}")
    fx, fy, cx, cy = intrinsics
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    bends = any(distortion) or _MODELS[model] == 'equidistant'  # without coefficients a fisheye is still no pinhole
    return Camera(K, np.array(distortion if bends else [], float), _MODELS[model] if bends else 'none', *size)


def tum_camera(folder: str) -> Camera | None:
    """The TUM RGB-D benchmark's colour camera that a folder is named for; None for another name."""
    for name, (fx, fy, cx, cy, *distortion) in _TUM.items():
        if name in folder:
            return pinhole((640, 480), (fx, fy, cx, cy), 'plumb_bob', distortion)
    return None


def read_camera(path: Path) -> Camera:
    """A calibration file: ROS's `camera_calibration`, EuRoC's `sensor.yaml`, or the first of a list `cameras`.

    The entries of such a list have `width`, `height`, `fx`, `fy`, `cx`, `cy`, `distortion_model` and `distortion`.

    Raises:
        ValueError: it can't be read, is none of these, or a number is missing.
    """
    content = read_yaml(path)
    try:
        if 'cameras' in content:
            camera = content['cameras'][0]
            size, numbers = (camera['width'], camera['height']), [camera[name] for name in ('fx', 'fy', 'cx', 'cy')]
            model, distortion = camera['distortion_model'], camera['distortion']
        elif 'intrinsics' in content:
            size, numbers = tuple(content['resolution']), content['intrinsics']
            model, distortion = content['distortion_model'], content['distortion_coefficients']
        else:
            size = (content['image_width'], content['image_height'])
            matrix = content['camera_matrix']['data']
            numbers = [matrix[0], matrix[4], matrix[2], matrix[5]]
            model, distortion = content['distortion_model'], content['distortion_coefficients']['data']
        fx, fy, cx, cy = (float(number) for number in numbers)
        width, height = (int(length) for length in size)
        return pinhole((width, height), (fx, fy, cx, cy), str(model), [float(value) for value in distortion])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the calibration '{path}' lacks or garbles {error}") from error
    except ValueError as error:
        raise ValueError(f"the calibration '{path}': {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of names and values, OpenCV's `%YAML:1.0` at its beginning or not.

    Raises:
        ValueError: it can't be read or is none.
    """
    try:
        lines = path.read_text().splitlines()
        content = yaml.safe_load('\n'.join(line for line in lines if not line.startswith('%')))
    except OSError as error:
        raise ValueError(f"the calibration '{path}' could not be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"the calibration '{path}' is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the calibration '{path}' holds no names with values")
    return content
