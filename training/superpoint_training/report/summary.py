"""The summary as one picture, for a README or a slide."""

from __future__ import annotations

import io
from pathlib import Path

from superpoint_training.files import write_whole
from superpoint_training.report.bootstrap import CONFIDENCE
from superpoint_training.report.measures import Results
from superpoint_training.report.pairs import measure_bars
from superpoint_training.report.plots import LIGHT, Bars, draw_bars, new_figure
from superpoint_training.report.sequences import pose_bars, sequences
from superpoint_training.report.shapes import shapes_bars, with_shapes

COLUMNS, PANELS = 3, 9
PANEL_WIDTH, DPI = 330, 130


def describe(results: Results) -> str:
    """The protocol and how much was measured, in a line."""
    source = results.get('source') or {}
    pairs = [int(result['pairs']) for result in results['detectors'].values() if 'pairs' in result]
    scenes = f' of {source["scenes"]} scenes' if source.get('scenes') else ''
    pictures = [int(result.get('pictures', 0)) for result in with_shapes(results).values()]
    counts = [f'{max(pairs)} pairs{scenes}'] if pairs else []
    counts += [f'{max(pictures)} pictures'] if pictures else []
    return ', '.join([str(results.get('protocol')), *counts])


def summary_bars(results: Results) -> list[Bars]:
    """What the picture shows of pairs, Synthetic Shapes and sequences, as far as there is room."""
    with_pairs = {name: result for name, result in results['detectors'].items() if 'pairs' in result}
    shown = [*measure_bars(with_pairs), *shapes_bars(with_shapes(results))]
    return [*shown, *(panel for sequence in sequences(results) for panel in pose_bars(sequence))][:PANELS]


def write_summary(results: Results, path: Path) -> None:
    """Write the bars of the main figures, in the colours of day, as a PNG; the same results give the same picture.

    Raises:
        TrainingError: it can't be written.
    """
    shown = summary_bars(results)
    columns = max(1, min(COLUMNS, len(shown)))
    rows = -(-len(shown) // columns)
    height = 66 + 24 * len(results['detectors'])
    figure = new_figure(PANEL_WIDTH * max(2, columns), 80 + rows * height, padding=9)
    figure.set_facecolor(LIGHT.ground)
    figure.suptitle(describe(results), x=0.012, ha='left', fontsize=16, fontweight='bold', color=LIGHT.ink)
    if any(panel.spreads for panel in shown):
        note = f'thin lines: {CONFIDENCE:.0%} intervals over scenes'
        figure.supxlabel(note, x=0.012, ha='left', fontsize=11, color=LIGHT.muted)
    for index, panel in enumerate(shown):
        draw_bars(figure.add_subplot(rows, columns, index + 1), panel, LIGHT)
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=DPI, metadata={'Software': None})
    write_whole(path, content.getvalue())
