"""Corner detection on Synthetic Shapes, where the truth is exact (SuperPoint, section 4 and appendix A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from superpoint_training import metrics, shapes
from superpoint_training.evaluation.pair_scores import Ranking
from superpoint_training.evaluation.summary import curve
from superpoint_training.evaluation.work import each
from superpoint_training.peers import NamedDetector
from superpoint_training.photometric import PhotometricConfig, augment

EPSILON = 4.0
"""Pixels within which a corner is found."""
NOISE = PhotometricConfig(75, (0.3, 1.8), 15, 0.0035, (-0.5, 0.8), 7)
SEED = 2_000_000
"""Of held-out pictures; training draws from other seeds."""


class Rendered(NamedTuple):
    """A picture of a primitive, `[H, W]` uint8, and its corners `[N, 2]`."""

    primitive: str
    picture: np.ndarray
    corners: np.ndarray


def render(index: int, noisy: bool) -> Rendered:
    """The held-out picture of that number; the primitives take turns."""
    rng = np.random.default_rng([SEED, index])
    primitive = list(shapes.PRIMITIVES)[index % len(shapes.PRIMITIVES)]
    picture, corners = shapes.render(rng, primitive=primitive)
    return Rendered(primitive, augment(rng, picture, NOISE) if noisy else picture, corners)


def shapes_results(
    count: int, noisy: bool, detectors: Mapping[str, NamedDetector], jobs: int = 1
) -> dict[str, dict[str, Any]]:
    """Average precision by detector.

    `mAP` is the mean over the primitives that have corners; `AP_all` pools all pictures, those without corners
    (ellipses, noise) included, so that false alarms there count.
    """

    def found(index: int) -> tuple[str, dict[str, Ranking]]:
        rendered = render(index, noisy)
        return rendered.primitive, {name: _found(detect, rendered) for name, detect in detectors.items()}

    by_primitive: dict[str, dict[str, list[Ranking]]] = {
        name: {primitive: [] for primitive in shapes.PRIMITIVES} for name in detectors
    }
    for primitive, rankings in each(range(count), found, jobs, 'shapes', 'picture'):
        for name, ranking in rankings.items():
            by_primitive[name][primitive].append(ranking)
    return {name: _summary(count, rankings) for name, rankings in by_primitive.items()}


def _found(detect: NamedDetector, rendered: Rendered) -> Ranking:
    features = detect(rendered.picture)
    correct = metrics.match_detections(features.keypoints, rendered.corners, EPSILON)
    return Ranking(features.scores, correct, len(rendered.corners))


def _summary(count: int, by_primitive: Mapping[str, list[Ranking]]) -> dict[str, Any]:
    pooled = [ranking for rankings in by_primitive.values() for ranking in rankings]
    precision = {primitive: _average_precision(rankings) for primitive, rankings in by_primitive.items()}
    scored = {primitive: value for primitive, value in precision.items() if np.isfinite(value)}
    return {
        'pictures': count,
        'mAP': float(np.mean(list(scored.values()))) if scored else float('nan'),
        'AP_all': _average_precision(pooled),
        'AP': scored,
        'precision_recall': curve(pooled),
    }


def _average_precision(rankings: list[Ranking]) -> float:
    if not rankings:
        return float('nan')
    return metrics.average_precision(
        np.concatenate([ranking.similarity for ranking in rankings]),
        np.concatenate([ranking.right for ranking in rankings]),
        sum(ranking.findable for ranking in rankings),
    )
