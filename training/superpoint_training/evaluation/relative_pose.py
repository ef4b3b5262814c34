"""Relative camera pose of two frames: estimate and errors, as pure functions of arrays.

A pose is a rotation R `[3, 3]` and a translation t `[3]` that take points of the first camera to the second:
x2 = R x1 + t.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

FEWEST = 6  # matches; five agree with an essential matrix whatever they are
_FAR = 1e9  # recoverPose drops points further away, in baselines: between successive frames most would be


@dataclass(frozen=True, eq=False)
class RelativePose:
    """An estimated motion.

    Attributes:
        rotation: `[3, 3]`.
        translation: `[3]` of length 1; 0 where nothing but a rotation is to be seen.
        inlier: `[M]` bool, which matches agree with it.
    """

    rotation: np.ndarray
    translation: np.ndarray
    inlier: np.ndarray


def relative(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and t between two `[4, 4]` camera-to-world poses."""
    motion = np.linalg.inv(second) @ first
    return motion[:3, :3], motion[:3, 3]


def estimate(
    first: np.ndarray, second: np.ndarray, threshold: float, confidence: float, iterations: int, seed: int = 0
) -> RelativePose | None:
    """The motion of matched rays, by the essential matrix in RANSAC; None without an estimate.

    It is RANSAC with local optimisation and MSAC's score, OpenCV's `USAC_DEFAULT`, with a seed. On our sequences its
    poses are as right as those of plain RANSAC, for a tenth of the time, and more often right than MAGSAC's.
    Where it puts no point before both cameras, as it may of two copies of one picture, the motion is the rotation that
    takes the rays onto each other, if one does.

    Args:
        first, second: `[M, 2]` x, y of undistorted rays with z = 1.
        threshold: most of an inlier's Sampson distance, 1 / sqrt(2) of that to its epipolar line, at z = 1.
    """
    if len(first) < FEWEST:
        return None
    first, second = np.ascontiguousarray(first, np.float64), np.ascontiguousarray(second, np.float64)
    parameters = cv2.UsacParams()
    parameters.threshold = threshold
    parameters.confidence = confidence
    parameters.maxIterations = iterations
    parameters.randomGeneratorState = seed
    parameters.score = cv2.SCORE_METHOD_MSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_INNER_AND_ITER_LO
    parameters.loIterations = 10
    parameters.loSampleSize = 50
    K, no_distortion = np.eye(3), np.zeros(4)
    try:
        essential, mask = cv2.findEssentialMat(first, second, K, K, no_distortion, no_distortion, parameters)
    except cv2.error:  # how OpenCV 5 reports some degenerate sets
        return None
    if essential is None or mask is None or essential.shape != (3, 3):
        return None
    in_front, rotation, translation, *_ = cv2.recoverPose(
        essential, first, second, K, distanceThresh=_FAR, mask=mask.copy()
    )
    if in_front == 0:
        return _turned(first, second, mask.ravel() != 0, threshold)
    return RelativePose(rotation, translation.ravel(), mask.ravel() != 0)


def _turned(first: np.ndarray, second: np.ndarray, rows: np.ndarray, threshold: float) -> RelativePose | None:
    """The rotation that fits these rows best, by least squares (Kabsch), and the rows of all that agree with it."""
    start, end = (np.column_stack([rays, np.ones(len(rays))]) for rays in (first, second))
    left, _, right = np.linalg.svd(end[rows].T @ start[rows])
    rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    seen = start @ rotation.T
    with np.errstate(divide='ignore', invalid='ignore'):
        inlier = np.linalg.norm(seen[:, :2] / seen[:, 2:] - second, axis=1) <= threshold
    return RelativePose(rotation, np.zeros(3), inlier) if inlier.sum() >= FEWEST else None


def rotation_error(estimated: np.ndarray, true: np.ndarray) -> float:
    """Angle between two rotations, degrees."""
    # By the length of the difference: the arc cosine of the trace loses angles below a hundredth of a degree.
    chord = np.linalg.norm(estimated - true) / (2 * np.sqrt(2))
    return float(np.degrees(2 * np.arcsin(min(1.0, chord))))


def translation_error(estimated: np.ndarray, true: np.ndarray) -> float:
    """Angle between two directions regardless of sign, degrees (SuperGlue, Sarlin et al. 2020, section 5.2).

    90 of an estimate of length 0, which has none.
    """
    if not estimated.any():
        return 90.0
    between = np.arctan2(np.linalg.norm(np.cross(estimated, true)), np.dot(estimated, true))
    degrees = float(np.degrees(between))
    return min(degrees, 180 - degrees)


def pose_auc(errors: np.ndarray, limit: float) -> float:
    """Area under the curve of the share of pairs over the error allowed, up to `limit`, in [0, 1].

    The curve runs straight from (0, 0) through (e_k, k / n) of the sorted errors below the limit, then level to the
    limit; its area by the trapezoidal rule is divided by the limit (as published tables do since SuperGlue). A pair
    without an estimate has an infinite error and counts in n. NaN without pairs.
    """
    if len(errors) == 0:
        return float('nan')
    within = np.sort(errors[errors < limit])
    shares = np.arange(len(within) + 1) / len(errors)
    x = np.concatenate([[0.0], within, [limit]])
    y = np.append(shares, shares[-1])
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / limit)
