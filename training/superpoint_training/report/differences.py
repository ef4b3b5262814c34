"""Paired differences of one detector between two results, measure by measure, and whether they are more than noise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superpoint_training.report.blocks import Block, Cell, Grid, Table, number
from superpoint_training.report.bootstrap import CONFIDENCE, DRAWS, Interval, bootstrap_mean
from superpoint_training.report.measures import Measure, PoseMeasure, measures, scene_of
from superpoint_training.report.plots import intervals

FEWEST = 6
"""Pairs, and scenes, from which a verdict can come: of fewer all may change alike by chance."""
EXPLANATION = (
    f'Means are over the pairs that both have a figure for. The {CONFIDENCE:.0%} intervals come from {DRAWS:,} draws '
    'with replacement, seeded: of pairs, and of whole scenes (tenths of a sequence), because pairs of one scene '
    'succeed and fail together. A difference counts as more than noise if both intervals leave out zero, and there are '
    f'at least {FEWEST} pairs of as many scenes. Of many rows without any true difference, about one in ten would '
    'still pass.'
)
STRETCHES = 10
"""Parts of a sequence that are drawn as one."""


@dataclass(frozen=True)
class Difference:
    """One measure of one detector, second result less first.

    Attributes:
        detector: its name.
        measure: what was measured.
        pairs: how many both have a figure for.
        scenes: of how many scenes.
        first, second: means over these pairs.
        by_pair, by_scene: the mean difference with the intervals from drawing pairs and scenes.
    """

    detector: str
    measure: Measure
    pairs: int
    scenes: int
    first: float
    second: float
    by_pair: Interval
    by_scene: Interval

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'noise', or 'too few'."""
        if self.scenes < FEWEST:
            return 'too few'
        if not (self.by_pair.excludes_zero and self.by_scene.excludes_zero):
            return 'noise'
        return 'better' if (self.by_pair.mean > 0) == self.measure.higher_is_better else 'worse'

    @property
    def wider(self) -> Interval:
        """The longer of the two intervals."""
        return max(self.by_pair, self.by_scene, key=lambda interval: interval.high - interval.low)


def differences(detector: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """For each measure that both results of a detector have for homography pairs."""
    before, after = first.get('per_pair') or {}, second.get('per_pair') or {}
    common = sorted(set(before) & set(after), key=_in_counting_order)
    sides = [before[pair] for pair in common], [after[pair] for pair in common]
    scenes = [scene_of(pair) for pair in common]
    if len(set(scenes)) == 1:  # frames of one recording, say
        scenes = _stretches(len(common))
    rows = [paired(detector, measure, *sides, scenes) for measure in measures([first, second])]
    return [row for row in rows if row is not None]


def pose_differences(detector: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """For the relative poses of each sequence and gap that both results of a detector have."""
    rows = []
    for sequence, by_gap in (first.get('relative_pose') or {}).items():
        others = (second.get('relative_pose') or {}).get(sequence, {})
        for gap in (gap for gap in by_gap if gap in others):
            before, after = by_gap[gap].get('per_pair') or {}, others[gap].get('per_pair') or {}
            common = sorted(set(before) & set(after), key=lambda pair: int(pair.split('-')[0]))
            sides = [before[pair] for pair in common], [after[pair] for pair in common]
            stretches = _stretches(len(common))
            for measure in _pose_measures(f'{sequence}, {gap} apart', by_gap[gap]):
                rows.append(paired(detector, measure, *sides, stretches))
    return [row for row in rows if row is not None]


def _in_counting_order(pair: str) -> list[str | int]:
    """For sorting: 'frame 9' before 'frame 10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', pair)]


def _stretches(pairs: int) -> list[str]:
    """Groups of neighbours in time, which succeed and fail together, in place of scenes."""
    return [str(row * STRETCHES // pairs) for row in range(pairs)]


def _pose_measures(where: str, figures: Mapping[str, Any]) -> list[Measure]:
    limits = sorted(figures.get('auc') or {}, key=float)
    middle = limits[(len(limits) - 1) // 2 :][:1]
    return [
        *(PoseMeasure('error', f'{where}: AUC {limit}°', '', threshold=limit) for limit in middle),
        Measure('inliers', f'{where}: inliers', '', 0),
        Measure('inlier_ratio', f'{where}: inlier ratio', ''),
    ]


def paired(
    detector: str,
    measure: Measure,
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    scenes: Sequence[str],
) -> Difference | None:
    """The difference over pairs in the same order, each of a scene; None where no pair has a figure on both sides."""
    values = np.array([[measure.of_pair(a), measure.of_pair(b)] for a, b in zip(first, second, strict=True)])
    values = values.reshape(-1, 2)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        return None
    change = values[known, 1] - values[known, 0]
    means = values[known].mean(axis=0).tolist()
    groups = np.array(scenes)[known]
    return Difference(
        detector, measure, len(change), len(np.unique(groups)), means[0], means[1],
        bootstrap_mean(change), bootstrap_mean(change, groups),
    )  # fmt: skip


def difference_table(rows: Sequence[Difference], labels: tuple[str, str], caption: str) -> Table:
    """Means of both, their difference, its two intervals, and the verdict."""
    lines: list[list[str | Cell]] = []
    for row in rows:
        digits, tone = row.measure.digits, row.verdict if row.verdict in ('better', 'worse') else ''
        lines.append([
            row.detector, row.measure.title, str(row.pairs), number(row.first, digits), number(row.second, digits),
            number(row.by_pair.mean, digits, sign=True), _ends(row.by_pair, digits), _ends(row.by_scene, digits),
            Cell(row.verdict, tone),
        ])  # fmt: skip
    head = ['detector', 'measure', 'pairs', *labels, 'difference', 'interval over pairs', 'over scenes', 'verdict']
    return Table(head, lines, caption, words=2)


def _ends(interval: Interval, digits: int) -> str:
    return f'{number(interval.low, digits, sign=True)} to {number(interval.high, digits, sign=True)}'


def difference_plots(rows: Sequence[Difference]) -> list[Block]:
    """For each measure the detectors' differences with the wider of their two intervals."""
    plots = []
    for measure in dict.fromkeys(row.measure for row in rows):
        wider = {row.detector: row.wider for row in rows if row.measure == measure}
        ends = {name: (interval.mean, interval.low, interval.high) for name, interval in wider.items()}
        plots.append(intervals(ends, measure.title, measure.note))
    return [Grid(plots)] if plots else []
