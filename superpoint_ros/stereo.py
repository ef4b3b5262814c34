"""Which feature of the left image is which of the right one, and how far away it is. Knows no ROS.

Both cameras may have distortion and look in slightly different directions: keypoints are compared where the
rectified cameras would see them, so that matches lie in one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features
from superpoint_ros.matching import mutual_nearest

LEAST_PARALLAX = 0.25
"""Pixels; about the error of a keypoint. What has less is as good as infinitely far."""
_SWAPPED_DISPARITY = 1.0  # pixels, at least; see `count_swapped`
_FOCAL_TOLERANCE = 1e-3  # of the focal length; two calibrations of one rectification agree better
_ROW_TOLERANCE = 0.1  # pixels, of the centre rows


class StereoError(ValueError):
    """Two calibrations that are not those of a rectified pair."""


@dataclass(frozen=True)
class StereoSettings:
    """Where and how alike a match must be. Raises ValueError for a value outside its range.

    Disparities are here those of two cameras with the same principal point: 0 is infinitely far.
    """

    epipolar_tolerance: float = 1.5
    """Most pixels between the rows of the two keypoints, rectified."""
    min_disparity: float = -1.0
    """Least pixels that the left keypoint is to the right of the right one; below 0 for the keypoints' errors."""
    max_disparity: float = 128.0
    """Most pixels of the same; the nearest that is seen is at focal length times baseline over this."""
    min_similarity: float = 0.5
    """Least cosine similarity of the two descriptors."""
    max_ratio: float = 1.0
    """Most that the best descriptor's distance may be of the second best's in the row; 1 is no test."""

    def __post_init__(self) -> None:
        if not self.epipolar_tolerance > 0:
            raise ValueError(f'stereo.epipolar_tolerance must be more than 0 pixels, not {self.epipolar_tolerance}')
        if not self.min_disparity < self.max_disparity:
            raise ValueError(
                f'stereo.min_disparity, {self.min_disparity}, must be less than '
                f'stereo.max_disparity, {self.max_disparity}'
            )
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f'stereo.min_similarity must be in [-1, 1], not {self.min_similarity}')
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f'stereo.max_ratio must be in (0, 1], not {self.max_ratio}')


@dataclass(frozen=True)
class StereoMatches:
    """Pairs of features, in ascending order of `left`; no feature is in two pairs."""

    left: np.ndarray
    """[M] int32, row in the left image's features."""
    right: np.ndarray
    """[M] int32, row in the right image's features."""
    similarity: np.ndarray
    """[M] float32, cosine of the angle between the descriptors."""
    disparity: np.ndarray
    """[M] float32, rectified pixels, x in the left image less x in the right one."""
    residual: np.ndarray
    """[M] float32, rectified pixels, y in the left image less y in the right one; 0 without errors."""
    points: np.ndarray
    """[M, 3] float32, metres in the rectified optical frame of the left camera; NaN: infinitely far."""

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def empty(cls) -> StereoMatches:
        """No pairs."""
        rows, numbers = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return cls(rows, rows, numbers, numbers, numbers, np.zeros((0, 3), np.float32))


@dataclass(frozen=True, eq=False)
class StereoCamera:
    """Two cameras whose calibrations say how they stand to each other.

    Raises:
        StereoError: they are not rectified to one another, or swapped; the text says which.
    """

    left: Camera
    right: Camera

    def __post_init__(self) -> None:
        if self.left.baseline > 0 or self.right.baseline < 0:
            raise StereoError(
                'The calibrations seem swapped: P[3] must be 0 on the left and negative on the right, '
                f'which makes baselines of {self.left.baseline:g} and {self.right.baseline:g} m.'
            )
        if self.right.baseline == self.left.baseline:
            raise StereoError(
                'The calibrations are not those of a stereo pair side by side: P[3] of the right camera, which is '
                'minus focal length times baseline, is 0.'
            )
        left, right = self._intrinsics
        rows_differ = abs(left[1, 2] - right[1, 2]) > _ROW_TOLERANCE
        if rows_differ or not np.allclose(left[[0, 1], [0, 1]], right[[0, 1], [0, 1]], rtol=_FOCAL_TOLERANCE):
            raise StereoError(
                'The calibrations are not rectified to one another: focal lengths and centre row in P are '
                f'{_describe(left)} on the left and {_describe(right)} on the right.'
            )

    @property
    def baseline(self) -> float:
        """Metres between the cameras."""
        return self.right.baseline - self.left.baseline

    @property
    def zero_disparity(self) -> float:
        """The disparity of what is infinitely far: the difference of the principal points, pixels."""
        left, right = self._intrinsics
        return float(left[0, 2] - right[0, 2])

    def triangulate(self, keypoints: np.ndarray, disparity: np.ndarray) -> np.ndarray:
        """Points [N, 3] float32 in metres, in the rectified optical frame of the left camera.

        They are NaN where the disparity is within `LEAST_PARALLAX` of that of infinity, or less.

        Args:
            keypoints: [N, 2] rectified pixels of the left image.
            disparity: [N] rectified pixels.
        """
        K = self._intrinsics[0]
        parallax = np.asarray(disparity, np.float64) - self.zero_disparity
        depth = K[0, 0] * self.baseline / np.where(parallax >= LEAST_PARALLAX, parallax, np.nan)
        rays = (keypoints - K[[0, 1], [2, 2]]) / K[[0, 1], [0, 1]]
        return (np.insert(rays, 2, 1, axis=1) * depth[:, None]).astype(np.float32)

    @property
    def _intrinsics(self) -> tuple[np.ndarray, np.ndarray]:
        return self.left.rectified.K, self.right.rectified.K


def match_stereo(
    left: Features, right: Features, camera: StereoCamera, settings: StereoSettings | None = None
) -> StereoMatches:
    """Mutual nearest neighbours among the pairs that the geometry allows: one row, a disparity in range, and one level.

    Both cameras see a thing from about the same distance, so at the same size; across levels positions are less exact.
    """
    settings = settings or StereoSettings()
    left_points = camera.left.rectify_points(left.keypoints)
    right_points = camera.right.rectify_points(right.keypoints)
    limits = (camera.zero_disparity + settings.min_disparity, camera.zero_disparity + settings.max_disparity)
    rows, columns, similarity = _match(left, right, left_points, right_points, limits, settings)
    disparity, residual = (left_points[rows] - right_points[columns]).T
    return StereoMatches(
        left=rows.astype(np.int32),
        right=columns.astype(np.int32),
        similarity=similarity,
        disparity=disparity.astype(np.float32),
        residual=residual.astype(np.float32),
        points=camera.triangulate(left_points[rows], disparity),
    )


def count_swapped(left: Features, right: Features, camera: StereoCamera, settings: StereoSettings | None = None) -> int:
    """How many pairs match with disparities of the other sign: most do if the images are swapped."""
    settings = settings or StereoSettings()
    # Beyond the keypoints' errors: a scene that is far away must not look like a swapped one.
    nearest_to_0 = max(abs(settings.min_disparity), _SWAPPED_DISPARITY)
    points = camera.left.rectify_points(left.keypoints), camera.right.rectify_points(right.keypoints)
    limits = (camera.zero_disparity - settings.max_disparity, camera.zero_disparity - nearest_to_0)
    return len(_match(left, right, *points, limits, settings)[0])


def _match(
    left: Features,
    right: Features,
    left_points: np.ndarray,
    right_points: np.ndarray,
    limits: tuple[float, float],
    settings: StereoSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [M], columns [M] and similarities [M], with disparities within the limits.

    Points are rectified; NaN ones match nothing.
    """
    rows, columns = _candidates(left_points, right_points, limits, settings.epipolar_tolerance)
    of_one_size = left.levels[rows] == right.levels[columns]
    rows, columns = rows[of_one_size], columns[of_one_size]
    similarity = np.full((len(left), len(right)), -np.inf, np.float32)
    # There are a hundred times fewer of them than of all pairs: faster one by one than as a matrix product.
    similarity[rows, columns] = np.einsum('nd,nd->n', left.descriptors[rows], right.descriptors[columns])
    rows, columns = mutual_nearest(similarity, settings.min_similarity, settings.max_ratio)
    return rows, columns, similarity[rows, columns]


def _candidates(
    left_points: np.ndarray, right_points: np.ndarray, limits: tuple[float, float], tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs that the geometry allows: rows [K], ascending, and columns [K]."""
    order = np.argsort(right_points[:, 1])
    y = right_points[order, 1]
    first = np.searchsorted(y, left_points[:, 1] - tolerance, side='left')
    counts = np.searchsorted(y, left_points[:, 1] + tolerance, side='right') - first
    rows = np.repeat(np.arange(len(left_points)), counts)
    place_in_row = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = order[np.repeat(first, counts) + place_in_row]
    disparity = left_points[rows, 0] - right_points[columns, 0]
    allowed = (disparity >= limits[0]) & (disparity <= limits[1])
    return rows[allowed], columns[allowed]


def _describe(K: np.ndarray) -> str:
    return f'{K[0, 0]:.2f}, {K[1, 1]:.2f} and {K[1, 2]:.2f}'
