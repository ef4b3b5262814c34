"""A calibrated camera as in `sensor_msgs/CameraInfo`: rays of pixels, and rectification. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

_MODELS = {  # CameraInfo.distortion_model -> the name used here, and its possible numbers of coefficients
    '': ('plumb_bob', (4, 5)),
    'none': ('none', ()),
    'plumb_bob': ('plumb_bob', (4, 5)),
    'rational_polynomial': ('rational_polynomial', (8, 12, 14)),
    'equidistant': ('equidistant', (4,)),
    'fisheye': ('equidistant', (4,)),
}
# OpenCV's default of 5 steps leaves a pixel of error in the corners of a wide lens.
_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-9)
_NEWTON_STEPS = 20
_STEP = 1e-5  # of a ray, to see how fast its pixel moves
_NOWHERE = -30000  # a pixel of no picture
_FARTHEST = 20.0  # that a rectified picture looks off the axis, a tangent: 87 degrees
_FOLD_STEPS = 4000
_REPROJECTION_LIMIT = 0.1  # pixels; a ray that misses its pixel by more is no ray
_MASK_MARGIN = 8  # pixels; detections this near to the edge of a rectified picture answer to the edge


class CameraError(ValueError):
    """A calibration that contradicts itself or uses a model that is not known here."""


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of a picture as it arrives, binned and cropped. Pixel centres are integers.

    Attributes:
        K: [3, 3] float64, pixels.
        distortion: [n] float64, coefficients in OpenCV's order.
        model: 'none', 'plumb_bob', 'rational_polynomial' or 'equidistant'.
        width, height: size of the picture in pixels.
        R: [3, 3] float64, rotates a ray of this camera into the rectified camera.
        P: [3, 3] float64, intrinsics of the rectified camera.
        baseline: metres from the left camera of a rectified pair to this one, along the rectified x axis; 0 for
            the left one, and outside of pairs.
    """

    K: np.ndarray
    distortion: np.ndarray
    model: str
    width: int
    height: int
    R: np.ndarray = field(default_factory=lambda: np.eye(3))
    P: np.ndarray | None = None
    baseline: float = 0.0

    @classmethod
    def from_info(cls, info: Any) -> Camera | None:
        """Camera of a `sensor_msgs/CameraInfo`; None when its K is all zero: ROS's "not calibrated".

        K and P describe the full-resolution sensor; the region of interest and the binning are applied to
        them.

        Raises:
            CameraError: unknown distortion model, wrong count or impossible values of numbers.
        """
        K = np.array(info.k, np.float64).reshape(3, 3)
        if not K.any():
            return None
        P, shift = np.split(np.array(info.p, np.float64).reshape(3, 4), [3], axis=1)
        R = np.array(info.r, np.float64).reshape(3, 3)
        model, distortion = _distortion(info.distortion_model, np.array(info.d, np.float64))
        for name, values in (('k', K), ('r', R), ('p', np.hstack([P, shift]))):
            if not np.isfinite(values).all():
                raise CameraError(f'The {name} of camera_info has values that are not finite.')
        if not (K[0, 0] > 0 and K[1, 1] > 0):
            raise CameraError(f'camera_info has impossible focal lengths {K[0, 0]:g} and {K[1, 1]:g}.')
        if R.any() and not (np.allclose(R @ R.T, np.eye(3), atol=0.01) and np.linalg.det(R) > 0):
            raise CameraError('The r of camera_info is no rotation.')
        roi = info.roi
        binning = (max(1, info.binning_x), max(1, info.binning_y))
        camera = cls(
            K=_cropped_and_binned(K, roi.x_offset, roi.y_offset, binning),
            distortion=distortion,
            model=model,
            width=(roi.width or info.width) // binning[0],
            height=(roi.height or info.height) // binning[1],
        )
        if P[0, 0] > 0 and P[1, 1] > 0:  # drivers that know nothing of rectification leave P and R zero
            baseline = -float(shift[0, 0] / P[0, 0])
            P = _cropped_and_binned(P, roi.x_offset, roi.y_offset, binning)
            camera = replace(camera, P=P, R=R if R.any() else np.eye(3), baseline=baseline)
        return camera

    @property
    def focal(self) -> float:
        """Mean focal length in pixels."""
        return float(self.K[0, 0] + self.K[1, 1]) / 2

    @property
    def is_distorted(self) -> bool:
        """Whether straight lines are bent in the picture."""
        return self.model != 'none'

    @cached_property
    def rectified(self) -> Camera:
        """The pinhole camera that sees what `rectify` returns."""
        K = self.K if self.P is None else self.P
        return Camera(
            K=K,
            distortion=np.zeros(0),
            model='none',
            width=self.width,
            height=self.height,
            baseline=self.baseline,
        )

    def rays(self, keypoints: np.ndarray) -> np.ndarray:
        """Undistorted rays in the optical frame.

        Args:
            keypoints: [N, 2] pixels (x, y).

        Returns:
            [N, 3] float32 with z = 1; NaN where no ray in front of the camera reaches the pixel.
        """
        pixels = np.ascontiguousarray(keypoints, np.float64).reshape(-1, 1, 2)
        rays = np.ones((len(pixels), 3), np.float32)
        if not len(pixels):
            return rays
        if self.model == 'none':
            centre, focal = self.K[[0, 1], [2, 2]], self.K[[0, 1], [0, 1]]
            rays[:, :2] = (pixels[:, 0] - centre) / focal
            return rays
        ideal = self._undistort(pixels)
        error = np.linalg.norm(self._distort(ideal) - pixels[:, 0], axis=1)
        rays[:, :2] = ideal
        rays[~(error <= _REPROJECTION_LIMIT)] = np.nan
        return rays

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Rays [N, 2] (x, y) with z = 1 to the pixels that they reach: [N, 2] float64."""
        if not self.is_distorted:
            return np.asarray(rays * self.K[[0, 1], [0, 1]] + self.K[[0, 1], [2, 2]])
        return self._distort(rays) if len(rays) else np.zeros((0, 2))

    def pixels_per_ray(self, rays: np.ndarray) -> np.ndarray:
        """[N, 2, 2] float64: how fast the pixel (x, y), by rows, moves with a ray's x and y, rays as in `project`."""
        steps = (_STEP * (1 + np.abs(rays).max(axis=1, initial=0)))[:, None]
        here, *beside = np.split(self.project(np.concatenate([rays, rays + steps * [1, 0], rays + steps * [0, 1]])), 3)
        return np.stack([(there - here) / steps for there in beside], axis=2)

    def rectify_points(self, keypoints: np.ndarray) -> np.ndarray:
        """Where the `rectified` camera sees what this one sees at pixels [N, 2]: [N, 2] float64.

        NaN where `rays` has it, and where the rectified camera would look back.
        """
        rays = self.rays(keypoints).astype(np.float64) @ self.R.T
        rays[~(rays[:, 2] > 0)] = np.nan
        K = self.rectified.K
        return rays[:, :2] / rays[:, 2:] * K[[0, 1], [0, 1]] + K[[0, 1], [2, 2]]

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """[H, W] or [H, W, C] as the `rectified` camera sees it; 0 where this camera saw nothing."""
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR)

    @cached_property
    def rectified_mask(self) -> np.ndarray:
        """[H, W] uint8, 255 where rectified pictures hold the scene, away from the edges this makes."""
        seen = self.rectify(np.full((self.height, self.width), 255, np.uint8))
        size = 2 * _MASK_MARGIN + 1
        # The picture's own border is no such edge: erode treats what is outside as seen.
        return cv2.erode((seen == 255).astype(np.uint8) * 255, np.ones((size, size), np.uint8))

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        size = (self.width, self.height)
        make = cv2.fisheye.initUndistortRectifyMap if self.model == 'equidistant' else cv2.initUndistortRectifyMap
        pixels, fractions = make(self.K, self.distortion, self.R, self.rectified.K, size, cv2.CV_16SC2)
        fold = self._fold()
        corners = self._tangents(np.array([0, self.width - 1]), np.array([0, self.height - 1]))
        if (corners > fold).any():  # else no pixel looks so far off the axis
            pixels[self._tangents(np.arange(self.width), np.arange(self.height)) > fold] = _NOWHERE
        return pixels, fractions

    def _fold(self) -> float:
        """The tangent of the angle to the axis where the lens model turns back, at most `_FARTHEST`.

        A polynomial that was fitted to a narrower view does, and shows the scene a second time.
        """
        steps = np.linspace(0, _FARTHEST, _FOLD_STEPS)
        turns = np.flatnonzero(np.diff(self.project(np.outer(steps, [1, 0]))[:, 0]) < 0)
        return float(steps[turns[0]]) if len(turns) else _FARTHEST

    def _tangents(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Of the angles to this camera's axis at which the `rectified` one's pixels look: [len(y), len(x)].

        Infinite for those that look behind it. x, y: columns and rows.
        """
        x, y = np.meshgrid(x, y)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.rectified.K).T @ self.R
        with np.errstate(divide='ignore', invalid='ignore'):
            return np.where(rays[..., 2] > 0, np.linalg.norm(rays[..., :2], axis=-1) / rays[..., 2], np.inf)

    def _undistort(self, pixels: np.ndarray) -> np.ndarray:
        """[N, 1, 2] pixels -> [N, 2] normalised."""
        if self.model == 'equidistant':
            return self._undistort_fisheye(pixels[:, 0])
        if hasattr(cv2, 'undistortPointsIter'):  # OpenCV 4
            ideal = cv2.undistortPointsIter(pixels, self.K, self.distortion, np.eye(3), np.eye(3), _CRITERIA)
        else:
            ideal = cv2.undistortPoints(pixels, self.K, self.distortion, criteria=_CRITERIA)
        return ideal[:, 0]

    def _undistort_fisheye(self, pixels: np.ndarray) -> np.ndarray:
        """[N, 2] pixels -> [N, 2] normalised; OpenCV's own takes no criteria before 4.6, and stops too early."""
        bent = (pixels - self.K[[0, 1], [2, 2]]) / self.K[[0, 1], [0, 1]]
        radius = np.linalg.norm(bent, axis=1)
        k1, k2, k3, k4 = self.distortion
        radius_of = np.polynomial.Polynomial([0, 1, 0, k1, 0, k2, 0, k3, 0, k4])  # of the angle to the optical axis
        slope_of = radius_of.deriv()
        angle = radius
        with np.errstate(all='ignore'):  # what does not converge is no ray
            for _ in range(_NEWTON_STEPS):
                angle = angle - (radius_of(angle) - radius) / slope_of(angle)
            stretch = np.where(radius > 0, np.tan(angle) / radius, 1.0)
        return bent * stretch[:, None]

    def _distort(self, ideal: np.ndarray) -> np.ndarray:
        """[N, 2] normalised -> [N, 2] pixels."""
        points = cv2.convertPointsToHomogeneous(ideal)
        project = cv2.fisheye.projectPoints if self.model == 'equidistant' else cv2.projectPoints
        pixels, _ = project(points, np.zeros(3), np.zeros(3), self.K, self.distortion)
        return pixels.reshape(-1, 2)


def _distortion(model: str, coefficients: np.ndarray) -> tuple[str, np.ndarray]:
    """The model's name here and its coefficients, checked."""
    if model not in _MODELS:
        known = ', '.join(filter(None, _MODELS))
        raise CameraError(f"camera_info has distortion model '{model}', which is not supported; known are {known}.")
    name, counts = _MODELS[model]
    if not np.isfinite(coefficients).all():
        raise CameraError('camera_info has distortion coefficients that are not finite.')
    if not coefficients.any():
        # Without coefficients a fisheye is still no pinhole.
        return ('equidistant', np.zeros(4)) if name == 'equidistant' else ('none', np.zeros(0))
    if len(coefficients) not in counts:
        expected = ' or '.join(map(str, counts)) or 'no'
        raise CameraError(
            f"Distortion model '{model}' takes {expected} coefficients, camera_info has {len(coefficients)}."
        )
    return name, coefficients


def _cropped_and_binned(K: np.ndarray, left: int, top: int, binning: tuple[int, int]) -> np.ndarray:
    """Intrinsics after a crop and binning: a bin's centre is the mean of its pixels' centres."""
    shift = np.array([[1, 0, 0.5 - left], [0, 1, 0.5 - top], [0, 0, 1.0]])
    scale = np.diag([1 / binning[0], 1 / binning[1], 1.0])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    return back @ scale @ shift @ K
