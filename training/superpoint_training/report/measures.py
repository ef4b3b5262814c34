"""What the figures in results.json are: their names, which way is better, where they stand for a run and for a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superpoint_training.report.blocks import Cell, Table, number
from superpoint_training.report.bootstrap import Interval, bootstrap_mean

Results = dict[str, Any]
"""What results.json holds: see docs/evaluation.md."""


def figure_or_nan(value: float | None) -> float:
    """results.json has no NaN: it writes null."""
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Measure:
    """A column.

    Attributes:
        key: in results.json.
        title: as people read it, with the unit.
        meaning: in a sentence.
        threshold: for the homography accuracy, its key below `homography_accuracy`: pixels.
    """

    key: str
    title: str
    meaning: str
    digits: int = 3
    higher_is_better: bool = True
    threshold: str | None = None

    def mean(self, result: Mapping[str, Any]) -> float:
        """Over a detector's pairs; NaN where there is none."""
        value = result.get(self.key)
        if self.threshold is not None:
            value = (value or {}).get(self.threshold)
        return figure_or_nan(value)

    def of_pair(self, pair: Mapping[str, Any]) -> float:
        """Of one pair, NaN where there is none; the homography is accurate (1) or not (0)."""
        if self.threshold is not None:
            if 'corner_error' not in pair:
                return math.nan
            error = pair['corner_error']  # None: no homography was found
            return float(error is not None and error <= float(self.threshold))
        return figure_or_nan(pair.get(self.key))

    def interval(self, result: Mapping[str, Any]) -> Interval:
        """The mean over the pairs that have a figure, and how far other scenes might have moved it: NaN of one."""
        values = {pair: self.of_pair(figures) for pair, figures in (result.get('per_pair') or {}).items()}
        known = {pair: value for pair, value in values.items() if math.isfinite(value)}
        interval = bootstrap_mean(np.array(list(known.values())), np.array([scene_of(pair) for pair in known]))
        return interval if len(set(map(scene_of, known))) > 1 else Interval(interval.mean, math.nan, math.nan)

    @property
    def note(self) -> str:
        """Which way is better, in words."""
        return 'higher is better' if self.higher_is_better else 'lower is better'


@dataclass(frozen=True)
class PoseMeasure(Measure):
    """A frame pair's share of the area under the curve of pose errors up to `threshold` degrees.

    The mean is the area under the curve drawn in steps; drawn with slopes, as in tables, it is larger by less than
    half a pair.
    """

    def of_pair(self, pair: Mapping[str, Any]) -> float:
        """1 for an exact pose, 0 from the threshold on and without an estimate."""
        error = pair.get(self.key)
        return 0.0 if error is None or self.threshold is None else max(0.0, 1 - error / float(self.threshold))


REPEATABILITY = Measure(
    'repeatability', 'repeatability',
    'share of keypoints that both pictures show for which the other picture has one at the same place',
)  # fmt: skip
LOCALIZATION = Measure(
    'localization_error', 'localisation error, px', 'mean distance between such keypoints', 2, higher_is_better=False
)
MATCHING = Measure(
    'matching_score', 'matching score', 'share of keypoints whose match, by descriptor, is in the right place'
)
ACCURACY = Measure('matching_accuracy', 'matching accuracy', 'share of mutual nearest neighbours that are right')
MEAN_PRECISION = Measure(
    'nn_map', 'NN mAP', 'area under the precision-recall curve of nearest-neighbour matches, sorted by distance'
)
COVERAGE = Measure('coverage', 'coverage', 'share of the picture that lies near a right match')
HARMONIC = Measure(
    'harmonic_mean', 'harmonic mean', 'of repeatability, matching accuracy and coverage; one bad figure pulls it down'
)


def homography_accuracy(threshold: str) -> Measure:
    """The share of pairs whose estimated homography is at most so many pixels off."""
    return Measure(
        'homography_accuracy', f'homography ≤ {threshold} px',
        f'share of pairs whose homography, estimated from the matches, is at most {threshold} px off at the corners',
        threshold=threshold,
    )  # fmt: skip


def measures(results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """The columns that at least one of the results, each of a detector, has a figure for."""
    thresholds = {str(key) for result in results for key in result.get('homography_accuracy') or {}}
    accuracies = [homography_accuracy(threshold) for threshold in sorted(thresholds, key=float)]
    every = [REPEATABILITY, LOCALIZATION, *accuracies, MATCHING, ACCURACY, MEAN_PRECISION, COVERAGE, HARMONIC]
    return [measure for measure in every if any(math.isfinite(measure.mean(result)) for result in results)]


def main_measures(results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """The few that plots and breakdowns show: the middle one of the thresholds stands for all."""
    found = measures(results)
    accuracies = [measure for measure in found if measure.threshold]
    chosen = {REPEATABILITY, LOCALIZATION, MATCHING, *accuracies[(len(accuracies) - 1) // 2 :][:1]}
    return [measure for measure in found if measure in chosen]


def with_best(values: Sequence[float], digits: int, higher_is_better: bool = True) -> list[Cell]:
    """The figures of a column as cells, the best marked: those that print alike, but none where all do."""
    printed = [number(value, digits) for value in values]
    finite = [value for value in values if math.isfinite(value)]
    differ = len({number(value, digits) for value in finite}) > 1
    best = number(max(finite) if higher_is_better else min(finite), digits) if differ else None
    return [Cell(text, 'best' if text == best else '') for text in printed]


def figures_table(
    results: Mapping[str, Mapping[str, Any]], caption: str = '', columns: Sequence[Measure] | None = None
) -> Table:
    """A row for each name (a detector; before and after), a column for each measure, the best of each marked."""
    columns = measures(list(results.values())) if columns is None else columns
    cells = [
        (m.title, with_best([m.mean(result) for result in results.values()], m.digits, m.higher_is_better))
        for m in columns
    ]
    return Table.of_columns('detector', results, cells, caption)


def scene_of(pair: str) -> str:
    """The scene in the name of a pair, '<scene> 1-<k>'."""
    return pair.rsplit(' ', 1)[0]
