"""Calibration files of ROS, Kalibr, EuRoC, ORB-SLAM and VINS-Fusion. Knows no ROS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml  # type: ignore[import-untyped]

_MODELS = {  # as files name a lens -> as `CameraInfo` does
    'none': 'plumb_bob',
    'none (rectified)': 'plumb_bob',
    'plumb_bob': 'plumb_bob',
    'radtan': 'plumb_bob',
    'radial-tangential': 'plumb_bob',
    'PinHole': 'plumb_bob',
    'Rectified': 'plumb_bob',
    'PINHOLE': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial',
    'equidistant': 'equidistant',
    'equi': 'equidistant',
    'fisheye': 'equidistant',
    'KannalaBrandt8': 'equidistant',
    'KANNALA_BRANDT': 'equidistant',
}


class CalibrationFileError(ValueError):
    """A calibration file that can't be read."""


class Region(NamedTuple):
    """Part of the sensor that was read out; all of it."""

    x_offset: int = 0
    y_offset: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a `sensor_msgs/CameraInfo` says, under the names of its fields; see there, and `Camera.from_info`."""

    width: int
    height: int
    distortion_model: str
    d: list[float]
    k: np.ndarray
    """[9] float64."""
    r: np.ndarray
    """[9] float64."""
    p: np.ndarray
    """[12] float64."""
    binning_x: int = 0
    binning_y: int = 0
    roi: Region = field(default_factory=Region)


def read_calibration(path: Path) -> Calibration:
    """The first camera of a file, see `read_calibrations`, also for what is raised."""
    return read_calibrations(path)[0]


def read_calibration_of(name: str, names: Sequence[str], path: str) -> Calibration:
    """That of one of several cameras: of its own file, or in its place among all cameras'.

    name: of the camera; names: of all. path: of the file, in which {camera} stands for the name.

    Raises:
        CalibrationFileError: see `read_calibrations`; or the file is of another number of cameras.
    """
    found = read_calibrations(Path(path.replace('{camera}', name)).expanduser())
    if '{camera}' in path or len(names) == 1:
        return found[0]
    if len(found) != len(names):
        raise CalibrationFileError(
            f'The calibration {path} is of {len(found)}, and there are {len(names)} cameras: {", ".join(names)}. '
            'Name a file of each, with {camera} for its name.'
        )
    return found[names.index(name)]


def read_calibrations(path: Path) -> list[Calibration]:
    """Read the cameras of a calibration as Kalibr or ORB-SLAM write it, or ROS, EuRoC or VINS-Fusion of only one.

    Or those of a list `cameras`, whose entries have `width`, `height`, `fx`, `fy`, `cx`, `cy`, `distortion_model` and
    `distortion`.

    Raises:
        CalibrationFileError: no such file, none of these, a number is missing, or a lens is of another kind.
    """
    content = read_yaml(path)
    reader = next((reader for sign, reader in _READERS.items() if sign in content), None)
    if reader is None:
        raise CalibrationFileError(
            f'The calibration {path} is none of those that camera_calibration of ROS, Kalibr, EuRoC, ORB-SLAM and '
            'VINS-Fusion have.'
        )
    try:
        return reader(content)
    except (KeyError, IndexError, TypeError) as error:
        raise CalibrationFileError(f'The calibration {path} lacks or garbles {error}.') from error
    except ValueError as error:
        raise CalibrationFileError(f'The calibration {path} has something wrong: {error}.') from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of names and values, also OpenCV's, which begin with `%YAML:1.0` and tag their matrices.

    Raises:
        CalibrationFileError: it can't be read or is none.
    """
    try:
        lines = path.read_text(errors='replace').replace('!!opencv-matrix', '').splitlines()
        content = yaml.safe_load('\n'.join(line for line in lines if not line.startswith('%')))
    except OSError as error:
        raise CalibrationFileError(f'The calibration {path} could not be read: {error.strerror}.') from error
    except yaml.YAMLError as error:
        raise CalibrationFileError(f'The calibration {path} is not YAML: {error}') from error
    if not isinstance(content, dict):
        raise CalibrationFileError(f'The calibration {path} holds no names with values.')
    return content


def _pinhole(size: Sequence[Any], intrinsics: Sequence[Any], model: Any, distortion: Sequence[Any]) -> Calibration:
    """size: width, height; intrinsics: fx, fy, cx, cy, pixels."""
    _check_model(model)
    width, height = (int(side) for side in size)
    fx, fy, cx, cy = (float(number) for number in intrinsics)
    d = [float(value) for value in distortion]
    if _MODELS[model] == 'plumb_bob':
        d += [0.0] * (5 - len(d))
    return Calibration(
        width, height, _MODELS[model], d,
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]),
    )  # fmt: skip


def _check_model(model: Any) -> None:
    if model not in _MODELS:
        raise ValueError(f"lens model '{model}' is not known; known are {', '.join(_MODELS)}")


def _from_list(content: dict[str, Any]) -> list[Calibration]:
    cameras = content['cameras']
    if not cameras:
        raise ValueError('its list of cameras is empty')
    return [
        _pinhole(
            [camera['width'], camera['height']],
            [camera[name] for name in ('fx', 'fy', 'cx', 'cy')],
            camera['distortion_model'],
            camera['distortion'],
        )
        for camera in cameras
    ]


def _from_ros(content: dict[str, Any]) -> list[Calibration]:
    k = np.array(content['camera_matrix']['data'], np.float64).reshape(9)
    fx, _, cx, _, fy, cy, *_ = k
    d = content['distortion_coefficients']['data']
    size = content['image_width'], content['image_height']
    plain = _pinhole(size, (fx, fy, cx, cy), content['distortion_model'], d)
    r, p = (
        np.array(content[name]['data'], np.float64).reshape(default.shape) if name in content else default
        for name, default in (('rectification_matrix', plain.r), ('projection_matrix', plain.p))
    )
    return [Calibration(plain.width, plain.height, plain.distortion_model, plain.d, k, r, p)]


def _from_kalibr(content: dict[str, Any]) -> list[Calibration]:
    cameras = [content[name] for name in _numbered(content, 'cam{}', first=0)]
    for camera in cameras:
        if camera['camera_model'] != 'pinhole':
            raise ValueError(f"camera_model '{camera['camera_model']}' is no pinhole")
    return [
        _pinhole(camera['resolution'], camera['intrinsics'], camera['distortion_model'], camera['distortion_coeffs'])
        for camera in cameras
    ]


def _from_euroc(content: dict[str, Any]) -> list[Calibration]:
    return [
        _pinhole(
            content['resolution'],
            content['intrinsics'],
            content['distortion_model'],
            content['distortion_coefficients'],
        )
    ]


def _from_orb_slam(content: dict[str, Any]) -> list[Calibration]:
    size = content['Camera.width'], content['Camera.height']
    model = content.get('Camera.type', 'PinHole')
    names = ('k1', 'k2', 'k3', 'k4') if model == 'KannalaBrandt8' else ('k1', 'k2', 'p1', 'p2', 'k3')
    return [
        _pinhole(
            size,
            [content[f'{camera}.{name}'] for name in ('fx', 'fy', 'cx', 'cy')],
            model,
            [content.get(f'{camera}.{name}', 0.0) for name in names],
        )
        for camera in [name[: -len('.fx')] for name in _numbered(content, 'Camera{}.fx', first=1)] or ['Camera']
    ]


def _from_vins(content: dict[str, Any]) -> list[Calibration]:
    size, model = (content['image_width'], content['image_height']), content['model_type']
    _check_model(model)
    numbers = content['projection_parameters']
    if model == 'KANNALA_BRANDT':
        intrinsics = [numbers[name] for name in ('mu', 'mv', 'u0', 'v0')]
        return [_pinhole(size, intrinsics, model, [numbers[name] for name in ('k2', 'k3', 'k4', 'k5')])]
    distortion = [content['distortion_parameters'][name] for name in ('k1', 'k2', 'p1', 'p2')]
    return [_pinhole(size, [numbers[name] for name in ('fx', 'fy', 'cx', 'cy')], model, distortion)]


def _numbered(content: dict[str, Any], name: str, first: int) -> list[str]:
    """The names that are there, with a number in the place of {}, from the first on without a gap."""
    return list(takewhile(content.__contains__, map(name.format, count(first))))


_READERS: dict[str, Callable[[dict[str, Any]], list[Calibration]]] = {  # by a name that only their files have
    'cameras': _from_list,
    'cam0': _from_kalibr,
    'projection_parameters': _from_vins,
    'Camera1.fx': _from_orb_slam,
    'Camera.fx': _from_orb_slam,
    'intrinsics': _from_euroc,
    'camera_matrix': _from_ros,
}
