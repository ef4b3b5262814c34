"""Calibration files -> `sensor_msgs/CameraInfo`."""

from __future__ import annotations

from pathlib import Path

from sensor_msgs.msg import CameraInfo

from superpoint_ros.calibrations import read_calibration


def read_camera_info(path: Path) -> CameraInfo:
    """The message of a calibration file, see `read_calibration`.

    Raises:
        CalibrationFileError: it can't be read.
    """
    read = read_calibration(path)
    return CameraInfo(
        width=read.width,
        height=read.height,
        distortion_model=read.distortion_model,
        d=read.d,
        k=read.k,
        r=read.r,
        p=read.p,
    )
