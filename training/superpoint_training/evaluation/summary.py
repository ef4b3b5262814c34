"""From pairs to means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from superpoint_training import metrics
from superpoint_training.evaluation.pair_scores import Ranking

AVERAGED = ('repeatability', 'localization_error', 'matching_score', 'matching_accuracy', 'nn_map', 'coverage')
HARMONIC = ('repeatability', 'matching_accuracy', 'coverage')
"""GoodPoint's three: is it found again, is it matched rightly, is the picture covered."""
RECALLS = np.linspace(0, 1, 101)

PairValues = Mapping[str, Mapping[str, float]]
"""Pair name to metric to number."""


def means(per_pair: PairValues, thresholds: Sequence[int]) -> dict[str, Any]:
    """Means over the pairs for which a metric is defined, NaN where it is for none, and shares of homographies."""
    summary: dict[str, Any] = {'pairs': len(per_pair)}
    for key in AVERAGED:
        summary[key] = mean(values[key] for values in per_pair.values() if key in values)
    summary['homography_accuracy'] = homography_accuracy(per_pair, thresholds)
    summary['harmonic_mean'] = metrics.harmonic_mean([summary[key] for key in HARMONIC])
    return summary


def homography_accuracy(per_pair: PairValues, thresholds: Sequence[int]) -> dict[str, float]:
    """Share of pairs whose corner error is at most so many pixels; no homography is a wrong one."""
    errors = np.array([values['corner_error'] for values in per_pair.values() if 'corner_error' in values])
    return {str(threshold): mean(errors <= threshold) for threshold in thresholds}


def mean(values: Iterable[float]) -> float:
    """Of those that are not NaN; NaN without any."""
    known = np.array([value for value in values if not np.isnan(value)], float)
    return float(known.mean()) if len(known) else float('nan')


def curve(rankings: Sequence[Ranking]) -> dict[str, list[float]]:
    """Precision at each percent of recall that is reached, all rankings pooled; empty if none is findable or found."""
    findable = sum(ranking.findable for ranking in rankings)
    similarity = np.concatenate([np.zeros(0), *(ranking.similarity for ranking in rankings)])
    if findable == 0 or len(similarity) == 0:
        return {'recall': [], 'precision': []}
    right = np.concatenate([ranking.right for ranking in rankings])
    precision, recall = metrics.precision_recall(similarity, right, findable)
    reached = RECALLS[recall[-1] >= RECALLS]
    return {'recall': reached.tolist(), 'precision': precision[np.searchsorted(recall, reached)].tolist()}
