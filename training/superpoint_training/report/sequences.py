"""The sections about sequences: relative poses where these are known, consistency where they are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superpoint_training.report.blocks import Cell, Grid, Table, Text
from superpoint_training.report.measures import Results, figure_or_nan, figures_table, with_best
from superpoint_training.report.page import Page
from superpoint_training.report.plots import Axis, Bars, curves

TRACKS = (
    ('mean', 'mean length, frames', 2),
    ('mean_of_points', 'mean length of the track of a keypoint', 2),
    ('inliers', 'inliers of successive frames', 0),
    ('inlier_ratio', 'inlier ratio', 3),
)
"""Keys below `track_length`, what they are, and digits."""


@dataclass(frozen=True)
class Sequence:
    """A sequence's figures: detector, then gap in frames, then what results.json has for it."""

    name: str
    poses: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def gaps(self) -> list[str]:
        """Those of any detector, ascending."""
        return sorted({gap for by_gap in self.poses.values() for gap in by_gap}, key=int)

    @property
    def thresholds(self) -> list[str]:
        """Degrees up to which there is an area under the curve, ascending."""
        figures = [entry for by_gap in self.poses.values() for entry in by_gap.values()]
        return sorted({threshold for entry in figures for threshold in entry.get('auc') or {}}, key=float)

    @property
    def middle(self) -> str | None:
        """The threshold that plots show."""
        return self.thresholds[(len(self.thresholds) - 1) // 2] if self.thresholds else None

    def column(self, gap: str, key: str, threshold: str | None = None) -> list[float]:
        """A figure of each detector, NaN where it has none."""
        values = [by_gap.get(gap, {}).get(key) for by_gap in self.poses.values()]
        if threshold is not None:
            values = [(value or {}).get(threshold) for value in values]
        return [figure_or_nan(value) for value in values]


def sequences(results: Results) -> list[Sequence]:
    """The sequences with poses that any detector has figures for."""
    names = dict.fromkeys(
        name for result in results['detectors'].values() for name in result.get('relative_pose') or {}
    )
    return [
        Sequence(
            name,
            {
                d: r['relative_pose'][name]
                for d, r in results['detectors'].items()
                if name in r.get('relative_pose', {})
            },
        )
        for name in names
    ]


def add_sequence_sections(page: Page, results: Results) -> None:
    """Relative poses, and what can be said without ground truth; nothing where there is neither."""
    found = sequences(results)
    if found:
        section = page.section(
            'Relative pose',
            Text(
                'From the matches of two frames the essential matrix and so the relative pose are estimated. Its error '
                'is the larger of the angles by which rotation and direction of translation are off, the rotation '
                'alone where the camera hardly moved. AUC is the area under the curve of the share of frame pairs over '
                'the error allowed, up to so many degrees.'
            ),
        )
        for sequence in found:
            section.add(pose_table(sequence), pose_plots(sequence))
    if tables := consistency_tables(results):
        page.section(
            'Without ground truth',
            Text(
                'Frames warped by known homographies show whether a detector agrees with itself, and tracks how long '
                'it follows a point. Neither shows whether the motion between real frames comes out right.'
            ),
            *tables,
        )


def pose_table(sequence: Sequence) -> Table:
    """A row for each detector, a group of columns for each gap."""
    columns: list[tuple[str, list[Cell]]] = []
    groups = []
    for gap in sequence.gaps:
        areas = [(f'AUC {limit}°', with_best(sequence.column(gap, 'auc', limit), 3)) for limit in sequence.thresholds]
        columns += [
            *areas,
            ('inliers', with_best(sequence.column(gap, 'inliers'), 0)),
            ('inlier ratio', with_best(sequence.column(gap, 'inlier_ratio'), 3)),
        ]
        pairs = max(int(by_gap.get(gap, {}).get('pairs', 0)) for by_gap in sequence.poses.values())
        groups.append((f'{gap} apart, {pairs} pairs', len(areas) + 2))
    return Table.of_columns('detector', sequence.poses, columns, f'{sequence.name}: frames so many apart', groups)


def pose_plots(sequence: Sequence) -> Grid:
    """The area under the curve, and the inlier ratio, over the gap."""
    shown: list[tuple[str, str, str | None]] = [('inlier ratio', 'inlier_ratio', None)]
    if sequence.middle:
        shown.insert(0, (f'AUC up to {sequence.middle}°', 'auc', sequence.middle))
    x = [float(gap) for gap in sequence.gaps]
    plots = []
    for title, key, threshold in shown:
        columns = [sequence.column(gap, key, threshold) for gap in sequence.gaps]
        lines = {name: (x, [column[row] for column in columns]) for row, name in enumerate(sequence.poses)}
        axes = Axis('frames apart', 0), Axis(title, 0, 1.02)
        plots.append(curves(lines, title, *axes, caption=sequence.name, points=True))
    return Grid(plots)


def pose_bars(sequence: Sequence) -> list[Bars]:
    """What there is to draw of the area under the curve, at the middle threshold, for each gap."""
    return [
        Bars(f'AUC {sequence.middle}°, {gap} apart', dict(zip(sequence.poses, column, strict=True)), note=sequence.name)
        for gap in sequence.gaps
        if any(map(math.isfinite, column := sequence.column(gap, 'auc', sequence.middle)))
    ]


def consistency_tables(results: Results) -> list[Table]:
    """Agreement under known homographies and track lengths, a row for each detector that has them."""
    tables = []
    agreement = {name: r['self_consistency'] for name, r in results['detectors'].items() if r.get('self_consistency')}
    if agreement:
        frames = max(int(figures.get('pairs', 0)) for figures in agreement.values())
        tables.append(figures_table(agreement, f'{frames} frames beside themselves, warped and in another light'))
    tracks = {name: r['track_length'] for name, r in results['detectors'].items() if r.get('track_length')}
    if tracks:
        columns = [
            (title, with_best([figure_or_nan(figures.get(key)) for figures in tracks.values()], digits))
            for key, title, digits in TRACKS
        ]
        frames = max(int(figures.get('frames', 0)) for figures in tracks.values())
        tables.append(Table.of_columns('detector', tracks, columns, f'Tracks over {frames} frames'))
    return tables
