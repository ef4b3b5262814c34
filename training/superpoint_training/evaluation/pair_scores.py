"""All metrics of one pair of pictures with a known homography, under a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from superpoint_ros.features import Features
from superpoint_training import metrics
from superpoint_training.protocols import Protocol


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is to be right, ranked, for precision-recall curves: nearest neighbours, or detections of known corners.

    Attributes:
        similarity: `[N]`, or a detector's scores: larger is better.
        right: `[N]` bool.
        findable: how many right ones there are to find.
    """

    similarity: np.ndarray
    right: np.ndarray
    findable: int


@dataclass(frozen=True, eq=False)
class PairScore:
    """What a detector does on a pair.

    Attributes:
        values: metric to number; those of descriptors are missing where the detector has none.
        rankings: of both directions.
        first, second: `[M, 2]` mutual nearest neighbours among the points that both pictures show.
        right: `[M]` bool.
    """

    values: dict[str, float]
    rankings: list[Ranking]
    first: np.ndarray
    second: np.ndarray
    right: np.ndarray


def score_pair(first: Features, second: Features, homography: np.ndarray, protocol: Protocol) -> PairScore:
    """All metrics of one pair.

    Args:
        first, second: features of the prepared pictures, best first.
        homography: from the first prepared picture's pixels to the second's.
    """
    shape, epsilon = protocol.shape, protocol.correct_distance
    repeated, error = metrics.repeatability(
        first.keypoints, second.keypoints, homography, shape, protocol.keypoints, epsilon
    )  # fmt: skip
    values = {'repeatability': repeated, 'localization_error': error}
    if first.descriptors.shape[1] == 0 or second.descriptors.shape[1] == 0:
        nothing = np.zeros((0, 2))
        return PairScore(values, [], nothing, nothing, np.zeros(0, bool))

    a = _shared(first, homography, protocol)
    b = _shared(second, np.linalg.inv(homography), protocol)
    similarity = a.descriptors @ b.descriptors.T
    rows = mutual_rows(similarity)
    start, end = a.keypoints[rows[:, 0]], b.keypoints[rows[:, 1]]
    right = metrics.right_matches(start, end, homography, epsilon)
    rankings = [
        _ranking(a.keypoints, b.keypoints, similarity, homography, epsilon),
        _ranking(b.keypoints, a.keypoints, similarity.T, np.linalg.inv(homography), epsilon),
    ]
    if protocol.matching_score == 'mutual':
        score = metrics.mutual_matching_score(right, len(a), len(b))
    else:
        score = _nearest_matching_score(first, second, homography, protocol)
    values |= {
        'matching_score': score,
        'matching_accuracy': metrics.matching_accuracy(right),
        'nn_map': _nn_map(rankings) if len(a) + len(b) else float('nan'),
        'coverage': metrics.coverage(start[right], shape, protocol.coverage_radius),
        'corner_error': metrics.homography_error(
            start, end, homography, shape, protocol.ransac_threshold, protocol.ransac_iterations, protocol.seed
        ),
        'matches': float(len(right)),
        'right_matches': float(right.sum()),
    }
    return PairScore(values, rankings, start, end, right)


def evaluate_pair(first: Features, second: Features, homography: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """The numbers of `score_pair`."""
    return score_pair(first, second, homography, protocol).values


def _shared(features: Features, homography: np.ndarray, protocol: Protocol) -> Features:
    """The best that the other picture shows too."""
    visible = metrics.visible_in_other(features.keypoints, homography, protocol.shape)
    return features.take(np.flatnonzero(visible)[: protocol.keypoints])


def nearest_rows(similarity: np.ndarray) -> np.ndarray:
    """`[N, 2]` rows (i, most similar j); of equals the first; empty if either side is."""
    if 0 in similarity.shape:
        return np.zeros((0, 2), np.int64)
    return np.stack([np.arange(len(similarity)), similarity.argmax(axis=1)], axis=1)


def mutual_rows(similarity: np.ndarray) -> np.ndarray:
    """`[M, 2]` rows (i, j), each the other's most similar; ascending i, that is best scores first."""
    forward, backward = nearest_rows(similarity), nearest_rows(similarity.T)
    if len(forward) == 0:
        return forward
    return forward[backward[forward[:, 1], 1] == forward[:, 0]]


def _nearest_matching_score(first: Features, second: Features, homography: np.ndarray, protocol: Protocol) -> float:
    best = slice(protocol.keypoints)
    similarity = first.descriptors[best] @ second.descriptors[best].T
    return metrics.nearest_matching_score(
        first.keypoints[best], second.keypoints[best], nearest_rows(similarity), nearest_rows(similarity.T)[:, ::-1],
        homography, protocol.shape, protocol.correct_distance,
    )  # fmt: skip


def _ranking(
    first: np.ndarray, second: np.ndarray, similarity: np.ndarray, homography: np.ndarray, epsilon: float
) -> Ranking:
    rows = nearest_rows(similarity)
    right = metrics.right_matches(first[rows[:, 0]], second[rows[:, 1]], homography, epsilon)
    return Ranking(similarity[rows[:, 0], rows[:, 1]], right, metrics.findable(first, second, homography, epsilon))


def _nn_map(rankings: list[Ranking]) -> float:
    """Average precision, both directions averaged; 0 where nothing is findable."""
    return float(np.mean([
        metrics.average_precision(ranking.similarity, ranking.right, ranking.findable) if ranking.findable else 0.0
        for ranking in rankings
    ]))  # fmt: skip
