"""Sequences with poses as people have them on disk: TUM RGB-D and EuRoC as downloaded, and a plain layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from superpoint_ros.calibrations import read_yaml
from superpoint_ros.camera import Camera
from superpoint_ros.recordings.pictures import listed_times
from superpoint_training.evaluation.cameras import read_camera, tum_camera
from superpoint_training.evaluation.pictures import Pictures
from superpoint_training.evaluation.sequences import PosedFrames
from superpoint_training.evaluation.trajectories import read_euroc, read_tum
from superpoint_training.frames import PICTURES


def open_sequence(root: Path, intrinsics: Path | None = None) -> PosedFrames:
    """A folder in one of three layouts.

    - `timestamps.txt`, `poses.txt` (lines as TUM's, camera to world), `intrinsics.yaml`, pictures in the folder or in
      `frames.tar`;
    - TUM RGB-D: `rgb.txt`, `groundtruth.txt`, `rgb/`; the camera by the folder's name (freiburg1, 2 or 3);
    - EuRoC: `mav0/cam0/sensor.yaml`, `mav0/cam0/data.csv`, `mav0/cam0/data/`,
      `mav0/state_groundtruth_estimate0/data.csv`.

    Args:
        intrinsics: a calibration file in place of the sequence's own; see `cameras.read_camera`.

    Raises:
        ValueError: it is none of these, or one of its files can't be read.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100  a link keeps its name, which may say the camera
    body = root / 'mav0' if (root / 'mav0').is_dir() else root
    try:
        if (body / 'cam0' / 'data.csv').is_file():
            return _euroc(root, body, intrinsics)
        if (root / 'rgb.txt').is_file():
            return _tum(root, intrinsics)
        if (root / 'timestamps.txt').is_file():
            return _plain(root, intrinsics)
    except OSError as error:
        raise ValueError(f"sequence '{root}': '{error.filename}' could not be read: {error.strerror}") from error
    raise ValueError(
        f"'{root}' is no sequence: it has neither timestamps.txt (with poses.txt, intrinsics.yaml) "
        'nor rgb.txt (TUM RGB-D) nor mav0/cam0/data.csv (EuRoC)'
    )


def _plain(root: Path, intrinsics: Path | None) -> PosedFrames:
    return _listed(root / 'timestamps.txt', root / 'poses.txt', read_camera(intrinsics or root / 'intrinsics.yaml'))


def _tum(root: Path, intrinsics: Path | None) -> PosedFrames:
    camera = read_camera(intrinsics) if intrinsics else tum_camera(root.name)
    if camera is None:
        raise ValueError(
            f"the camera of '{root}' is not known: its name holds none of freiburg1, freiburg2, freiburg3; "
            'give a calibration with --intrinsics'
        )
    return _listed(root / 'rgb.txt', root / 'groundtruth.txt', camera)


def _listed(listing: Path, truth: Path, camera: Camera) -> PosedFrames:
    """Pictures that a file beside them lists with their times, and the poses of another, in TUM's format."""
    times = listed_times(listing, lambda word: word.lower().endswith(PICTURES))
    if not times:
        raise ValueError(f"'{listing}' names no picture")
    root, stamps = listing.parent, np.array(list(times.values()), np.int64)
    return PosedFrames.of(root.name, Pictures(root), list(times), stamps, read_tum(truth), camera)


def _euroc(root: Path, body: Path, intrinsics: Path | None) -> PosedFrames:
    lines = (body / 'cam0' / 'data.csv').read_text().splitlines()
    rows = [[cell.strip() for cell in line.split(',')] for line in lines if line.strip() and not line.startswith('#')]
    if not all(len(row) > 1 and row[0].isdecimal() for row in rows):
        raise ValueError(f"'{body / 'cam0' / 'data.csv'}' must have a time in nanoseconds and a picture in every line")
    sensor = body / 'cam0' / 'sensor.yaml'
    try:
        body_to_camera = np.array(read_yaml(sensor)['T_BS']['data'], float).reshape(4, 4)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the calibration '{sensor}' lacks T_BS: data") from error
    return PosedFrames.of(
        root.parent.name if root.name == 'mav0' else root.name,
        Pictures(body / 'cam0' / 'data'),
        [row[1] for row in rows],
        np.array([int(row[0]) for row in rows], np.int64),
        read_euroc(body / 'state_groundtruth_estimate0' / 'data.csv'),
        read_camera(intrinsics or sensor),
        body_to_camera,
    )
