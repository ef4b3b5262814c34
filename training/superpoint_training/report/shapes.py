"""The section about Synthetic Shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from superpoint_training.report.blocks import Block, Grid, Table, Text
from superpoint_training.report.measures import Results, figure_or_nan, with_best
from superpoint_training.report.page import Page
from superpoint_training.report.plots import Axis, Bars, bars, curves
from superpoint_training.report.published import published_shapes

MEANS = (('mAP', 'mAP'), ('AP, all pictures', 'AP_all'))
"""Their titles and keys in results.json."""


def with_shapes(results: Results) -> dict[str, Mapping[str, Any]]:
    """The detectors that have figures for Synthetic Shapes."""
    return {name: result for name, result in results['detectors'].items() if 'mAP' in result}


def add_shapes_section(page: Page, results: Results) -> None:
    """Average precision of the corners; nothing where there is none."""
    detectors = with_shapes(results)
    if not detectors:
        return
    plots: list[Block] = [bars(shown) for shown in shapes_bars(detectors)]
    lines = {
        name: (curve['recall'], curve['precision'])
        for name, result in detectors.items() if (curve := result.get('precision_recall')) and curve['recall']
    }  # fmt: skip
    if lines:
        plots.append(curves(lines, 'Precision and recall', Axis('recall', 0, 1), Axis('precision', 0, 1.02)))
    page.section(
        'Synthetic Shapes',
        Text(
            'Pictures of lines, polygons and the like, rendered with their corners known. mAP is the mean over the '
            'shapes that have corners; "all pictures" pools them with those that have none, where every find is wrong.'
        ),
        shapes_table(detectors),
        Grid(plots),
        *published_shapes(),
    )


def shapes_bars(detectors: Mapping[str, Mapping[str, Any]]) -> list[Bars]:
    """What there is to draw of both means."""
    return (
        []
        if not detectors
        else [Bars(title, _figures(detectors, key), note='higher is better') for title, key in MEANS]
    )


def shapes_table(detectors: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each detector: both means, then each shape."""
    shapes = list(dict.fromkeys(shape for result in detectors.values() for shape in result.get('AP') or {}))
    columns = [(title, with_best(list(_figures(detectors, key).values()), 3)) for title, key in MEANS]
    for shape in shapes:
        values = [(result.get('AP') or {}).get(shape) for result in detectors.values()]
        cells = with_best([figure_or_nan(value) for value in values], 3)
        columns.append((shape.replace('_', ' '), cells))
    pictures = max(int(result.get('pictures', 0)) for result in detectors.values())
    return Table.of_columns('detector', detectors, columns, f'Average precision over {pictures} pictures')


def _figures(detectors: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """One figure of each detector, NaN where it has none."""
    return {name: figure_or_nan(result.get(key)) for name, result in detectors.items()}
