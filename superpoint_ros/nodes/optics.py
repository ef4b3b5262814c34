"""What is known of how a camera sees, its calibration and its mask, made ready for its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from superpoint_ros.calibrations import Calibration
from superpoint_ros.camera import Camera, CameraError
from superpoint_ros.nodes.parameters import ParameterError

RECTIFICATIONS = ('raw', 'rectify', 'rectified')
UNCALIBRATED = 'uncalibrated'


def read_mask(path: str) -> np.ndarray | None:
    """[H, W] uint8 of a picture file, 0 where it is rather dark, since JPEG's black is not quite; None for ''.

    Raises:
        ParameterError: it can't be read.
    """
    if not path:
        return None
    mask = cv2.imread(str(Path(path).expanduser()), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ParameterError(f"The mask '{path}' is no picture that can be read.")
    return np.uint8(255) * (mask > mask.max() / 2)


@dataclass(frozen=True)
class View:
    """A picture as the front-end takes it."""

    image: np.ndarray
    camera: Camera | None
    mask: np.ndarray | None
    """[H, W] uint8, 0 where nothing is wanted."""
    is_rectified: bool = False
    """Whether the distortion was undone here. Pixels of views that differ in it do not compare."""


class Optics:
    """Turns images into views with the latest `camera_info`.

    A calibration that is wrong, or of another size than the images, counts as none, and `notice` is called
    with a short name of the fault and a sentence about it.

    Attributes:
        status: the distortion model, or why there is no calibration, in a few words.
    """

    def __init__(
        self, mask: np.ndarray | None, notice: Callable[[str, str], None], calibration: Calibration | None = None
    ) -> None:
        """calibration: in place of what comes as `camera_info`."""
        self._raw_mask = mask
        self._notice = notice
        self._is_given = calibration is not None
        self._info: Any = calibration
        self._known: tuple[Any, ...] = ()
        self._camera: Camera | None = None
        self._mask_rectified_by: Camera | None = None
        self._joined_mask: Any = None
        self.status = UNCALIBRATED
        self._of_no_use = ''
        self._not_rectified = ''
        self._mask_ignored = ''

    @property
    def warning(self) -> str:
        """What is asked for but can't be done with the calibration and the mask that came, for people; else ''."""
        return ' '.join(filter(None, (self._of_no_use or self._not_rectified, self._mask_ignored)))

    @property
    def was_informed(self) -> bool:
        """Whether any calibration came, usable or not."""
        return self._info is not None

    def set_info(self, info: Any) -> None:
        """Take the latest `sensor_msgs/CameraInfo`; may be called from another thread than `view`."""
        if not self._is_given:
            self._info = info

    def view(self, image: np.ndarray, rectification: str) -> View:
        """The view of [H, W] uint8.

        rectification: 'raw' takes the image as the camera saw it; 'rectify' undoes its distortion, where the
        calibration is known; 'rectified' says that this was done before, with the P of `camera_info`.
        """
        camera = self._fitting_camera(image)
        mask = self._fitting_mask(image)
        self._not_rectified = ''
        if camera is None and rectification != 'raw':
            self._not_rectified = (
                f'There is no calibration, so images are taken as they come, though rectification is {rectification}.'
            )
            self._notice('no calibration to rectify by', self._not_rectified)
        if camera is None or rectification == 'raw':
            return View(image, camera, mask)
        if rectification == 'rectified':
            return View(image, camera.rectified, mask)
        return View(camera.rectify(image), camera.rectified, self._rectified_mask(camera, mask), is_rectified=True)

    def _rectified_mask(self, camera: Camera, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return camera.rectified_mask
        if self._mask_rectified_by is not camera:
            self._mask_rectified_by = camera
            self._joined_mask = cv2.bitwise_and(camera.rectified_mask, camera.rectify(mask))
        return self._joined_mask

    def _fitting_camera(self, image: np.ndarray) -> Camera | None:
        self._read_info()
        camera = self._camera
        if camera is None:
            return None
        if (camera.height, camera.width) != image.shape:
            self._refuse(
                'camera_info of another size',
                f'camera_info is for {camera.width}x{camera.height} pixels, the images have '
                f'{image.shape[1]}x{image.shape[0]}: they are taken as uncalibrated.',
            )
            return None
        self.status, self._of_no_use = 'pinhole' if camera.model == 'none' else camera.model, ''
        return camera

    def _read_info(self) -> None:
        info = self._info
        if info is None or (content := _content(info)) == self._known:
            return
        self._known = content
        try:
            self._camera = Camera.from_info(info)
        except CameraError as error:
            self._camera = None
            self._refuse('wrong camera_info', f'{error} The images are taken as uncalibrated.')
            return
        if self._camera is None:
            self.status, self._of_no_use = UNCALIBRATED, ''
            self._notice('zero camera_info', 'The K of camera_info is zero: the camera is not calibrated.')

    def _refuse(self, fault: str, why: str) -> None:
        self.status, self._of_no_use = fault, why
        self._notice(fault, why)

    def _fitting_mask(self, image: np.ndarray) -> np.ndarray | None:
        mask = self._raw_mask
        self._mask_ignored = ''
        if mask is not None and mask.shape != image.shape:
            self._mask_ignored = (
                f'The mask has {mask.shape[1]}x{mask.shape[0]} pixels, the images have '
                f'{image.shape[1]}x{image.shape[0]}: it is not used.'
            )
            self._notice('mask of another size', self._mask_ignored)
            return None
        return mask


def _content(info: Any) -> tuple[Any, ...]:
    """All of a CameraInfo but its header, to be compared."""
    roi = info.roi
    return (
        *(info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height),
        *(np.asarray(values, np.float64).tobytes() for values in (info.d, info.k, info.r, info.p)),
    )
