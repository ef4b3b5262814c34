"""Calibration files -> `sensor_msgs/CameraInfo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from sensor_msgs.msg import CameraInfo

_MODELS = {
    'none': 'plumb_bob',
    'none (rectified)': 'plumb_bob',
    'radial-tangential': 'plumb_bob',
    'radtan': 'plumb_bob',
    'equi': 'equidistant',
}


class CalibrationFileError(ValueError):
    """A calibration file that can't be read."""


def read_camera_info(path: Path) -> CameraInfo:
    """Read a calibration as ROS's `camera_calibration` writes it, or the first of a file's `cameras` list.

    The entries of such a list have `width`, `height`, `fx`, `fy`, `cx`, `cy`, `distortion_model` and
    `distortion`.

    Raises:
        CalibrationFileError: no such file, no YAML, or a number is missing.
    """
    try:
        content = yaml.safe_load(path.read_text())
        if 'cameras' in content:
            return _from_list(content['cameras'][0])
        return _from_camera_calibration(content)
    except OSError as error:
        raise CalibrationFileError(f'The calibration {path} could not be read: {error.strerror}.') from error
    except yaml.YAMLError as error:
        raise CalibrationFileError(f'The calibration {path} is not YAML: {error}') from error
    except (KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
        raise CalibrationFileError(f'The calibration {path} lacks or garbles {error}.') from error


def _from_camera_calibration(content: dict[str, Any]) -> CameraInfo:
    return CameraInfo(
        width=content['image_width'],
        height=content['image_height'],
        distortion_model=content['distortion_model'],
        d=[float(value) for value in content['distortion_coefficients']['data']],
        k=np.array(content['camera_matrix']['data'], np.float64),
        r=np.array(content['rectification_matrix']['data'], np.float64),
        p=np.array(content['projection_matrix']['data'], np.float64),
    )


def _from_list(camera: dict[str, Any]) -> CameraInfo:
    fx, fy, cx, cy = (float(camera[name]) for name in ('fx', 'fy', 'cx', 'cy'))
    distortion = [float(value) for value in camera['distortion']]
    model = _MODELS.get(camera['distortion_model'], camera['distortion_model'])
    if model == 'plumb_bob':
        distortion += [0.0] * (5 - len(distortion))
    return CameraInfo(
        width=camera['width'],
        height=camera['height'],
        distortion_model=model,
        d=distortion,
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]),
    )
