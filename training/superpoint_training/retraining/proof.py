"""Whether new weights are better: figures of both on frames that neither was trained on, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from superpoint_ros.detector import Detector
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.matching import MatchSettings, match, verify
from superpoint_ros.networks import fold_batch_norm
from superpoint_training.evaluation.pair_run import PairRun, PreparedPair
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.loop import Validate
from superpoint_training.peers import CANDIDATES, LEVELS, name_detector
from superpoint_training.protocols import Protocol
from superpoint_training.report.pictures import PairPicture

BEFORE, AFTER = 'before', 'after'
REAL_PAIRS = 60
"""Pairs of real frames of each gap that are matched, evenly spread."""

WATCHED = 'matching_score', 'repeatability'
"""Figures that a training is validated by."""

DRAWN = 3
"""Pairs of each set that are drawn before and after."""

Drawn = dict[str, list[tuple[PairPicture, PairPicture]]]


@dataclass(frozen=True)
class ProofConfig:
    """What new weights must reach to replace the old ones; shares are relative to the old figure.

    Attributes:
        least_gain: of the matching score on held-out frames, seen beside themselves under known homographies in
            another light.
        most_inlier_loss: of the inliers between real held-out frames, for every gap.
        most_general_loss: of the matching score on general pairs.
        gaps: recorded frames between the two of a real pair; those that the held-out blocks are too short for are
            not judged, which the verdict says.
    """

    least_gain: float = 0.0
    most_inlier_loss: float = 0.01
    most_general_loss: float = 0.02
    gaps: tuple[int, ...] = (1, 10)

    def __post_init__(self) -> None:
        if min(self.gaps, default=1) < 1:
            raise ValueError(f'gaps are recorded frames, at least 1, got {self.gaps}')


@dataclass(frozen=True, eq=False)
class Material:
    """What weights are judged on.

    Attributes:
        held_out: held-out frames beside views of themselves.
        real: by gap, pairs of held-out frames `[H, W]` uint8.
        general: pairs of anything else.
        protocol: of the first and the last.
        levels: sizes at which pictures are looked at.
    """

    held_out: Sequence[PreparedPair]
    real: Mapping[int, Sequence[tuple[np.ndarray, np.ndarray]]]
    general: Sequence[PreparedPair]
    protocol: Protocol
    levels: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What weights do on the material.

    Attributes:
        name: `before` or `after`.
        scores: by set (`held_out`, `general`), as `evaluate` gives them for a detector.
        real: by gap, matches, inliers and their ratio.
        runs: by set, which hold the network's features and draw its matches.
    """

    name: str
    scores: dict[str, dict[str, Any]]
    real: dict[str, dict[str, Any]]
    runs: dict[str, PairRun]


@dataclass(frozen=True)
class Verdict:
    """Whether new weights may replace old ones, with a sentence for each figure that was looked at."""

    is_better: bool
    reasons: list[str] = field(default_factory=list)


def make_detector(network: nn.Module, name: str, device: str, settings: KeypointSettings) -> Detector:
    """The network as the node would run it."""
    return Detector(fold_batch_norm(network), settings, name=name, device=device)  # type: ignore[arg-type]


def predictions(network: nn.Module, name: str, device: str, levels: int = LEVELS) -> Predictions:
    """The network behind the interface of the evaluation."""
    settings = KeypointSettings(max_keypoints=CANDIDATES, detection_threshold=0.0, levels=levels)
    detector = make_detector(network, name, device, settings)
    return Predictions(name_detector(name, detector, key=name))


def validation(pairs: Sequence[PreparedPair], protocol: Protocol, device: str, levels: int) -> Validate:
    """For `loop.train`: the figures `WATCHED` of a network on a few pairs."""

    def validate(network: nn.Module) -> dict[str, float]:
        detect = predictions(network, 'network', device, levels)
        scores = [PairRun(pairs, protocol, {'network': detect}).score('network', pair.name).values for pair in pairs]
        return {name: float(np.nanmean([score[name] for score in scores])) for name in WATCHED}

    return validate


def measure(network: nn.Module, name: str, material: Material, device: str, jobs: int) -> Measured:
    """All figures of a network, called `before` or `after`."""
    detect = predictions(network, name, device, material.levels)
    runs = {
        each: PairRun(pairs, material.protocol, {name: detect}, jobs)
        for each, pairs in (('held_out', material.held_out), ('general', material.general))
    }
    with_matcher = make_detector(network, name, device, KeypointSettings(levels=material.levels))
    return Measured(
        name,
        {each: run.results()[name] for each, run in runs.items()},
        {str(gap): real_figures(with_matcher, pairs) for gap, pairs in material.real.items()},
        runs,
    )


def compare(before: Measured, after: Measured) -> dict[str, Any]:
    """The figures of two networks beside each other: by set, and by gap under `real`, those of `before` and `after`."""
    both = (before, after)
    return {
        **{each: {network.name: network.scores[each] for network in both} for each in before.scores},
        'real': {gap: {network.name: network.real[gap] for network in both} for gap in before.real},
    }


def draw(before: Measured, after: Measured) -> Drawn:
    """By set, the pairs that gained most in matching score and the one that lost most."""
    drawn: Drawn = {}
    for each, runs in before.runs.items():
        old, new = before.scores[each]['per_pair'], after.scores[each]['per_pair']
        gain = {pair: (new[pair]['matching_score'] or 0) - (old[pair]['matching_score'] or 0) for pair in new}
        ordered = sorted(gain, key=lambda pair: -gain[pair])
        chosen = dict.fromkeys([*ordered[: DRAWN - 1], *ordered[-1:]])
        drawn[each] = [(runs.draw(before.name, pair), after.runs[each].draw(after.name, pair)) for pair in chosen]
    return drawn


def real_figures(detector: Detector, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Means over pairs of real frames of what the front-end's matcher finds: matches, inliers, their ratio."""
    settings = MatchSettings()
    matches, inliers = [], []
    for first, second in tqdm(
        pairs, desc=f'real pairs, {detector.description.split(",")[0]}', unit='pair', leave=False
    ):
        train, query = detector.detect(first), detector.detect(second)
        found = verify(match(query, train, settings), query.keypoints, train.keypoints, settings)
        matches.append(len(found))
        inliers.append(int(found.inlier.sum()))
    ratio = [good / max(1, count) for good, count in zip(inliers, matches, strict=True)]
    return {
        'pairs': len(pairs),
        'matches': float(np.mean(matches)),
        'inliers': float(np.mean(inliers)),
        'inlier_ratio': float(np.mean(ratio)),
        'inliers_per_pair': inliers,
    }


def judge(figures: Mapping[str, Any], config: ProofConfig) -> Verdict:
    """Compare the figures with what they must reach."""
    checks = [
        ('matching score on held-out frames', *_scores(figures['held_out']), config.least_gain, 3),
        *(
            (f'inliers between real frames {gap} apart', real[BEFORE]['inliers'], real[AFTER]['inliers'],
             -config.most_inlier_loss, 1)
            for gap, real in figures['real'].items()
        ),
        ('matching score on general pairs', *_scores(figures['general']), -config.most_general_loss, 3),
    ]  # fmt: skip
    verdicts, reasons = [], []
    for what, old, new, least, digits in checks:
        change = (new - old) / max(abs(old), 1e-9)
        enough = change > least if least >= 0 else change >= least
        verdicts.append(enough)
        wanted = '' if enough else f', wanted {"more than " if least >= 0 else ""}{least:+.1%}'
        reasons.append(f'{what}: {old:.{digits}f} to {new:.{digits}f} ({change:+.1%}{wanted})')
    for gap in config.gaps:
        if str(gap) not in figures['real']:
            reasons.append(f'inliers between real frames {gap} apart: there are no such pairs, not judged')
    return Verdict(all(verdicts), reasons)


def _scores(results: Mapping[str, Any]) -> tuple[float, float]:
    return results[BEFORE]['matching_score'], results[AFTER]['matching_score']
