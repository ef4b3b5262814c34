"""The papers' metrics on keypoints and descriptors, as pure functions of arrays.

Points are `[N, 2]` (x, y), best first; homographies map the first picture's pixels to the second's; `shape` is
(height, width) of both.
"""

from __future__ import annotations

import cv2
import numpy as np

from superpoint_training.homographies import inside, warp_points


def visible_in_other(points: np.ndarray, homography: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which points the homography maps into the other picture."""
    return inside(warp_points(points, homography), *shape)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[N, M]` Euclidean distances."""
    return np.asarray(np.linalg.norm(first[:, None].astype(np.float64) - second[None], axis=-1))


def repeatability(
    first: np.ndarray, second: np.ndarray, homography: np.ndarray, shape: tuple[int, int], count: int, epsilon: float
) -> tuple[float, float]:
    """Repeatability and localisation error (SuperPoint, appendix; KP2D, section 4).

    Of the `count` best points of each picture that the other one shows, the share with a point of the other within
    `epsilon` pixels; and the mean distance of those pairs, both directions averaged.

    Returns:
        (repeatability in [0, 1], pixels); the error is NaN if no point is repeated, both are if none is visible.
    """
    inverse = np.linalg.inv(homography)
    first = first[visible_in_other(first, homography, shape)][:count]
    second = second[visible_in_other(second, inverse, shape)][:count]
    if len(first) + len(second) == 0:
        return float('nan'), float('nan')
    if len(first) == 0 or len(second) == 0:
        return 0.0, float('nan')
    apart = distances(warp_points(first, homography), second)
    found, errors = 0, []
    for nearest in (apart.min(axis=1), apart.min(axis=0)):
        repeated = nearest[nearest <= epsilon]
        found += len(repeated)
        errors.append(repeated.mean() if len(repeated) else np.nan)
    error = float(np.nanmean(errors)) if found else float('nan')
    return found / (len(first) + len(second)), error


def matching_score(
    first: np.ndarray,
    second: np.ndarray,
    matches: np.ndarray,
    reverse: np.ndarray,
    homography: np.ndarray,
    shape: tuple[int, int],
    epsilon: float,
) -> float:
    """Share of points whose nearest descriptor is also the right place, both directions averaged (KP2D's code).

    A direction counts the matches whose end the true homography maps into the picture of their start, and calls
    right those it maps within `epsilon` pixels of their start.

    Args:
        first, second: the points that were matched.
        matches: `[M, 2]` rows (first, second) of each first point's nearest second one.
        reverse: the same from second to first, as rows (first, second).
    """
    scores = []
    for start, end, to_start in (
        (first[matches[:, 0]], second[matches[:, 1]], np.linalg.inv(homography)),
        (second[reverse[:, 1]], first[reverse[:, 0]], homography),
    ):
        mapped = warp_points(end, to_start)
        shown = inside(mapped, *shape)
        right = np.linalg.norm(mapped - start, axis=1) < epsilon
        scores.append((right & shown).sum() / max(1, shown.sum()))
    return float(np.mean(scores))


def homography_error(
    first: np.ndarray,
    second: np.ndarray,
    homography: np.ndarray,
    shape: tuple[int, int],
    threshold: float,
    iterations: int,
) -> float:
    """Mean distance in pixels of the four corners under the RANSAC homography of matched points and the true one.

    Args:
        first, second: `[M, 2]` matched points.
        threshold: of RANSAC, pixels.
        iterations: of RANSAC, at most; the random state is fixed.

    Returns:
        infinity if there are fewer than four matches or no model.
    """
    if len(first) < 4:
        return float('inf')
    cv2.setRNGSeed(0)
    estimate, _ = cv2.findHomography(
        first.astype(np.float64), second.astype(np.float64), cv2.RANSAC, threshold, maxIters=iterations
    )
    if estimate is None:
        return float('inf')
    height, width = shape
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    error = np.linalg.norm(warp_points(corners, estimate) - warp_points(corners, homography), axis=1).mean()
    return float(error) if np.isfinite(error) else float('inf')


def match_detections(detections: np.ndarray, truth: np.ndarray, epsilon: float) -> np.ndarray:
    """Which detections, best first, take a true point within `epsilon` pixels that no better one took."""
    correct = np.zeros(len(detections), bool)
    if len(truth) == 0:
        return correct
    apart = distances(detections, truth)
    taken = np.zeros(len(truth), bool)
    for row, distance in enumerate(apart):
        free = np.where(taken, np.inf, distance)
        nearest = int(free.argmin())
        if free[nearest] <= epsilon:
            correct[row] = taken[nearest] = True
    return correct


def average_precision(scores: np.ndarray, correct: np.ndarray, positives: int) -> float:
    """Area under the precision-recall curve, precision made monotone (SuperPoint, appendix A).

    Args:
        scores: `[N]` of all detections of a data set.
        correct: `[N]` which of them are right.
        positives: true points in the data set.

    Returns:
        in [0, 1]; NaN without positives.
    """
    if positives == 0:
        return float('nan')
    ordered = correct[np.argsort(-scores, kind='stable')]
    hits = np.cumsum(ordered)
    precision = hits / np.arange(1, len(ordered) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * ordered).sum() / positives)
