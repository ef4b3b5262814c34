"""The sections about homography pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from superpoint_training.report.blocks import Block, Cell, Details, Grid, Heading, Items, Plot, Table, Text, number
from superpoint_training.report.bootstrap import CONFIDENCE
from superpoint_training.report.differences import EXPLANATION, difference_table, differences, pose_differences
from superpoint_training.report.measures import (
    MATCHING,
    REPEATABILITY,
    Measure,
    Results,
    figures_table,
    main_measures,
    measures,
    scene_of,
    with_best,
)
from superpoint_training.report.page import Page
from superpoint_training.report.pictures import PairPicture
from superpoint_training.report.plots import Axis, Bars, bars, curves, dots

Draw = Callable[[str, str], PairPicture]
"""Draws what a detector, by name, made of a pair, by name."""

DRAWN = 2
"""Best and worst pairs drawn for each detector."""
FEW_SCENES = 40
"""Up to which a plot with a line for each is readable."""
FARTHEST = 10.0
"""Pixels at which the curve of corner errors ends."""

Detectors = Mapping[str, Mapping[str, Any]]


def add_pair_sections(page: Page, results: Results, draw: Draw | None) -> None:
    """Everything there is about pairs; nothing where there are none."""
    detectors = {name: result for name, result in results['detectors'].items() if 'pairs' in result}
    if not detectors:
        return
    _add_summary(page, detectors)
    _add_splits(page, detectors)
    _add_curves(page, detectors)
    _add_scenes(page, detectors)
    if draw:
        _add_drawn_pairs(page, detectors, draw)
    _add_noise(page, detectors)


def _add_summary(page: Page, detectors: Detectors) -> None:
    found = measures(list(detectors.values()))
    pairs = max(int(result['pairs']) for result in detectors.values())
    page.section(
        'Summary',
        figures_table(detectors, f'Means over {pairs} pairs; the best of each column is set off', found),
        Grid([bars(shown) for shown in measure_bars(detectors)]),
        Text(f'Thin lines are {CONFIDENCE:.0%} intervals over scenes: other scenes could have put the means there.'),
        Details('What the columns mean', [Items([(m.title, f'{m.meaning} ({m.note})') for m in found])]),
    )


def measure_bars(detectors: Detectors) -> list[Bars]:
    """What there is to draw: a group of bars for each measure."""
    shown = []
    for measure in measures(list(detectors.values())):
        intervals = {name: measure.interval(result) for name, result in detectors.items()}
        spreads = {name: (interval.low, interval.high) for name, interval in intervals.items() if interval.is_known}
        values = {name: measure.mean(result) for name, result in detectors.items()}
        shown.append(Bars(measure.title, values, measure.digits, measure.note, spreads))
    return shown


def _add_splits(page: Page, detectors: Detectors) -> None:
    names = dict.fromkeys(split for result in detectors.values() for split in result.get('splits') or {})
    if not names:
        return
    tables: list[Block] = []
    for split in names:
        there = {
            name: result['splits'][split] for name, result in detectors.items() if split in result.get('splits', {})
        }
        pairs = max(int(result.get('pairs', 0)) for result in there.values())
        tables.append(figures_table(there, f'{split}: {pairs} pairs'))
    page.section('Illumination and viewpoint', *tables)


def _add_curves(page: Page, detectors: Detectors) -> None:
    plots: list[Block] = []
    lines = {
        name: (curve['recall'], curve['precision'])
        for name, result in detectors.items() if (curve := result.get('precision_recall')) and curve['recall']
    }  # fmt: skip
    if lines:
        plots.append(
            curves(
                lines, 'Precision and recall', Axis('recall', 0, 1), Axis('precision', 0, 1.02),
                'Nearest-neighbour matches of all pairs, the most similar first: how many of the possible right '
                'matches are found, and how many of those found are right.',
            )
        )  # fmt: skip
    if plot := _corner_curves(detectors):
        plots.append(plot)
    if plots:
        page.section('Curves', Grid(plots))


def _corner_curves(detectors: Detectors) -> Plot | None:
    errors = {
        name: [math.inf if (error := pair['corner_error']) is None else error for pair in result['per_pair'].values()]
        for name, result in detectors.items()
        if (pairs := result.get('per_pair')) and all('corner_error' in pair for pair in pairs.values())
    }
    if not errors:
        return None
    allowed = np.linspace(0, FARTHEST, 101)
    lines = {
        name: (allowed.tolist(), np.mean(np.array(found)[:, None] <= allowed, axis=0).tolist())
        for name, found in errors.items()
    }
    return curves(
        lines, 'Homography accuracy', Axis('corner error allowed, px', 0, FARTHEST), Axis('share of pairs', 0, 1.02),
        'The share of pairs whose estimated homography is at most so far off at the corners. Where curves cross, the '
        'order of the detectors depends on the threshold.',
    )  # fmt: skip


def _add_scenes(page: Page, detectors: Detectors) -> None:
    shown = main_measures(list(detectors.values()))
    pairs = sorted({pair for result in detectors.values() for pair in result.get('per_pair') or {}})
    if not pairs:
        return
    scenes = {scene: list(members) for scene, members in groupby(pairs, scene_of)}
    blocks: list[Block] = []
    if len(scenes) <= FEW_SCENES:
        blocks.append(
            Grid([_scene_dots(detectors, m, scenes) for m in shown if m in (MATCHING, REPEATABILITY)], wide=True)
        )
    titled = {f'{scene} ({len(members)})' if len(members) > 1 else scene: members for scene, members in scenes.items()}
    blocks.append(_breakdown(detectors, shown, titled, 'Means of each scene; in brackets its pairs, if several'))
    single = _breakdown(detectors, shown, {pair: [pair] for pair in pairs}, 'Each pair')
    page.section('Scene by scene', *blocks, Details(f'Each of the {len(pairs)} pairs', [single]))


def _scene_mean(result: Mapping[str, Any], measure: Measure, members: list[str]) -> float:
    values = [measure.of_pair(pair) for name in members if (pair := result.get('per_pair', {}).get(name)) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _scene_dots(detectors: Detectors, measure: Measure, scenes: Mapping[str, list[str]]) -> Plot:
    values = {
        name: {scene: _scene_mean(result, measure, members) for scene, members in scenes.items()}
        for name, result in detectors.items()
    }
    return dots(values, f'{measure.title} by scene', measure.note)


def _breakdown(detectors: Detectors, shown: list[Measure], rows: Mapping[str, list[str]], caption: str) -> Table:
    """A row for each title with its pairs, a column for each measure and detector, the best of the detectors marked."""
    lines: list[list[str | Cell]] = []
    for title, members in rows.items():
        cells = [
            with_best([_scene_mean(r, m, members) for r in detectors.values()], m.digits, m.higher_is_better)
            for m in shown
        ]
        lines.append([title, *(cell for group in cells for cell in group)])
    head = ['scene', *(name for _ in shown for name in detectors)]
    return Table(head, lines, caption, [(measure.title, len(detectors)) for measure in shown])


def best_and_worst(result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The pairs with the highest and, apart from these, the lowest matching score, of a scene one at most.

    Each list begins with its extreme.
    """
    scores = {pair: MATCHING.of_pair(figures) for pair, figures in (result.get('per_pair') or {}).items()}
    ranked = sorted((pair for pair in scores if math.isfinite(scores[pair])), key=lambda pair: (-scores[pair], pair))
    best = _of_different_scenes(ranked, min(DRAWN, (len(ranked) + 1) // 2))
    return best, _of_different_scenes([pair for pair in reversed(ranked) if pair not in best], DRAWN)


def _of_different_scenes(pairs: list[str], count: int) -> list[str]:
    first_of_scene = {scene_of(pair): pair for pair in reversed(pairs)}
    return [pair for pair in pairs if first_of_scene[scene_of(pair)] == pair][:count]


def _add_drawn_pairs(page: Page, detectors: Detectors, draw: Draw) -> None:
    blocks: list[Block] = []
    for name, result in detectors.items():
        for word, pairs in zip(('best', 'worst'), best_and_worst(result), strict=True):
            if pairs:
                scores = [number(MATCHING.of_pair(result['per_pair'][pair])) for pair in pairs]
                drawn = [
                    replace(draw(name, pair), note=f'{MATCHING.title} {score}')
                    for pair, score in zip(pairs, scores, strict=True)
                ]
                blocks += [Heading(f'{name}, {word}'), Grid(drawn, wide=True)]
    if blocks:
        legend = (
            'By matching score, each of another scene. Blue unbroken lines are right matches, orange dashed ones wrong.'
        )
        page.section('Best and worst pairs', Text(legend), *blocks)


def _add_noise(page: Page, detectors: Detectors) -> None:
    first, *others = detectors
    pairs = [row for other in others for row in differences(other, detectors[first], detectors[other])]
    poses = [row for other in others for row in pose_differences(other, detectors[first], detectors[other])]
    if not pairs:
        return
    labels, caption = (first, 'other'), f'Differences from {first}'
    section = page.section(
        'Which differences are more than noise',
        Text(f'Every detector less {first}, on the same pairs. {EXPLANATION}'),
        difference_table(pairs, labels, caption),
    )
    if poses:
        section.add(Details('The same for relative poses', [difference_table(poses, labels, caption)]))
