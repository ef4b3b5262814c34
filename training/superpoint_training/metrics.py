"""The papers' metrics on keypoints and descriptors, as pure functions of arrays.

Points are `[N, 2]` (x, y) pixels, best first; homographies map the first picture's pixels to the second's; `shape` is
(height, width) of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from superpoint_training.homographies import inside, warp_points


def visible_in_other(points: np.ndarray, homography: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which points the homography maps into the other picture, and not from behind it.

    Behind is where w has the other sign than the determinant, if the homography's horizon crosses the picture.
    """
    height, width = shape
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    visible = inside(warp_points(points, homography), *shape)
    if np.ptp(np.sign(_depths(corners, homography))):
        visible &= _depths(points, homography) * np.linalg.det(homography) > 0
    return visible


def _depths(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """[N]: w of points mapped by the homography, before it is divided by."""
    return np.asarray(points @ homography[2, :2] + homography[2, 2])


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


def nearest_matching_score(
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
        shown = visible_in_other(end, to_start, shape)
        right = np.linalg.norm(warp_points(end, to_start) - start, axis=1) < epsilon
        scores.append((right & shown).sum() / max(1, shown.sum()))
    return float(np.mean(scores))


def right_matches(first: np.ndarray, second: np.ndarray, homography: np.ndarray, epsilon: float) -> np.ndarray:
    """Which matches `[M, 2]`, `[M, 2]` end within `epsilon` pixels of where the homography maps their start."""
    return np.asarray(np.linalg.norm(warp_points(first, homography) - second, axis=1) <= epsilon)


def mutual_matching_score(right: np.ndarray, first_count: int, second_count: int) -> float:
    """Right matches over the features proposed where both pictures look, both sides averaged (SuperPoint, appendix).

    Args:
        right: `[M]` bool, of mutual nearest neighbours.
        first_count, second_count: features that each picture proposes in the region that both show.

    Returns:
        in [0, 1]; 0 for a side without features.
    """
    found = int(right.sum())
    return (found / max(1, first_count) + found / max(1, second_count)) / 2


def matching_accuracy(right: np.ndarray) -> float:
    """Share of mutual nearest neighbours that are right (GoodPoint, section 4); 0 without a match."""
    return float(right.mean()) if len(right) else 0.0


def findable(first: np.ndarray, second: np.ndarray, homography: np.ndarray, epsilon: float) -> int:
    """How many first points have any second one within `epsilon` pixels of where the homography maps them."""
    if len(first) == 0 or len(second) == 0:
        return 0
    return int((distances(warp_points(first, homography), second).min(axis=1) <= epsilon).sum())


def coverage(points: np.ndarray, shape: tuple[int, int], radius: float) -> float:
    """Share of a picture's pixels within `radius` pixels of a point (GoodPoint, section 4).

    Args:
        points: `[M, 2]` the first picture's rightly matched keypoints.
    """
    height, width = shape
    covered = np.zeros(shape, bool)
    for x, y in points:
        left, top = max(0, int(np.floor(x - radius))), max(0, int(np.floor(y - radius)))
        columns = np.arange(left, min(width, int(np.ceil(x + radius)) + 1))
        rows = np.arange(top, min(height, int(np.ceil(y + radius)) + 1))
        near = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2 <= radius**2
        covered[top : top + len(rows), left : left + len(columns)] |= near
    return float(covered.mean())


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean; 0 as soon as one value is (GoodPoint, section 4, of repeatability, accuracy and coverage)."""
    if any(value <= 0 for value in values):
        return 0.0
    return len(values) / sum(1 / value for value in values)


def homography_error(
    first: np.ndarray,
    second: np.ndarray,
    homography: np.ndarray,
    shape: tuple[int, int],
    threshold: float,
    iterations: int,
    seed: int = 0,
) -> float:
    """Mean distance in pixels of the four corners under the RANSAC homography of matched points and the true one.

    Args:
        first, second: `[M, 2]` matched points.
        threshold: of RANSAC, pixels.
        iterations: of RANSAC, at most.
        seed: OpenCV's RANSAC draws the same rows every time, whatever its random state; 0 leaves the matches in their
            order, another seed shuffles them and so shows how much was luck.

    Returns:
        infinity if there are fewer than four matches or no model.
    """
    if len(first) < 4:
        return float('inf')
    rows = np.random.default_rng(seed).permutation(len(first)) if seed else np.arange(len(first))
    estimate, _ = cv2.findHomography(
        first[rows].astype(np.float64), second[rows].astype(np.float64), cv2.RANSAC, threshold, maxIters=iterations
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


def precision_recall(scores: np.ndarray, correct: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each detection or match, best first, precision made monotone (SuperPoint, app. A).

    Args:
        scores: `[N]`, larger is better.
        correct: `[N]` bool.
        positives: how many there are to find, at least 1.

    Returns:
        precision `[N]`, the best at this recall or a larger one; recall `[N]`.
    """
    hits = np.cumsum(correct[np.argsort(-scores, kind='stable')])
    precision = hits / np.arange(1, len(hits) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1], hits / positives


def average_precision(scores: np.ndarray, correct: np.ndarray, positives: int) -> float:
    """Area under the curve of `precision_recall`, in [0, 1]; NaN without positives (SuperPoint, appendix A).

    Of corners on Synthetic Shapes; and, of each point's nearest neighbour ranked by similarity, the paper's
    nearest-neighbour mAP.
    """
    if positives == 0:
        return float('nan')
    precision, recall = precision_recall(scores, correct, positives)
    return float((precision * np.diff(recall, prepend=0)).sum())
