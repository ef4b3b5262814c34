"""Bars, curves, dots and intervals, drawn by matplotlib: in the page's colours as SVG, or on the axes of a picture."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from superpoint_training.report.blocks import Plot, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 360
"""Of drawings, CSS pixels: about what a phone has, where letters then keep their size."""
MARKERS = 'osD^vPX*'
DASHES = ('-', (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
"""Lines differ in dashes and points in shape too: colour alone does not reach everyone."""


@dataclass(frozen=True)
class Theme:
    """The colours of a drawing; lines of more series than there are colours begin anew."""

    ink: str
    muted: str
    line: str
    ground: str
    series: tuple[str, ...]

    def colour(self, index: int) -> str:
        """Of a series."""
        return self.series[index % len(self.series)]


LIGHT = Theme(
    '#17202b', '#566270', '#d9dfe6', '#ffffff',
    ('#0b67b2', '#cf4a0a', '#0a7f5c', '#9a3d86', '#7a6500', '#0c7f96', '#b3203f', '#5c6470'),
)  # fmt: skip
"""As the style sheet has them by day; for pictures that stand on their own."""
PAGE = Theme('#fe0001', '#fe0002', '#fe0003', '#fe0004', tuple(f'#fe001{index}' for index in range(8)))
"""Place-holders, which give way to the style sheet's variables."""

VARIABLES = {
    PAGE.ink: 'ink', PAGE.muted: 'muted', PAGE.line: 'line', PAGE.ground: 'surface',
    **{colour: f'series-{index}' for index, colour in enumerate(PAGE.series)},
}  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """Something to draw as bars.

    Attributes:
        values: of each name; NaN leaves its place empty but for a dash.
        note: which way is better.
        spreads: low and high end of an interval around the values of the names that have one.
    """

    title: str
    values: Mapping[str, float]
    digits: int = 3
    note: str = ''
    spreads: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def bars(shown: Bars) -> Plot:
    """A horizontal bar for each name."""
    figure = new_figure(WIDTH, 64 + 24 * len(shown.values))
    draw_bars(figure.subplots(), shown, PAGE)
    told = []
    for name, value in shown.values.items():
        ends = [number(end, shown.digits) for end in shown.spreads.get(name, ())]
        told.append(f'{name} {number(value, shown.digits)}' + (f' ({" to ".join(ends)})' if ends else ''))
    return Plot(_svg(figure), f'Bar plot of {shown.title}: {", ".join(told)}.')


def draw_bars(axes: Axes, shown: Bars, theme: Theme) -> None:
    """Bars on axes, with a thin line over each spread."""
    values = shown.values
    rows = np.arange(len(values))
    lengths = np.nan_to_num(np.array(list(values.values()), float))
    colours = [theme.colour(index) for index in range(len(values))]
    axes.barh(rows, lengths, height=0.62, color=colours)
    ends = lengths.copy()
    for row, name in enumerate(values):
        low, high = shown.spreads.get(name, (np.nan, np.nan))
        if np.isfinite(high):
            axes.plot([low, high], [row, row], color=theme.ink, linewidth=1.4, marker='|', markersize=6)
            ends[row] = max(ends[row], high)
    longest = ends.max(initial=0) or 1.0
    for row, value in enumerate(values.values()):
        text = number(value, shown.digits)
        axes.text(ends[row] + 0.02 * longest, row, text, va='center', color=theme.ink, fontsize=11)
    axes.set_xlim(0, 1.22 * longest)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(rows, [_short(name) for name in values])
    _finish(axes, shown.title, theme, shown.note)
    axes.set_xticks([])
    axes.spines['bottom'].set_visible(False)
    axes.tick_params(axis='y', labelsize=11, labelcolor=theme.ink)


@dataclass(frozen=True)
class Axis:
    """Its title, and the ends it has whatever the data."""

    title: str
    low: float | None = None
    high: float | None = None


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    horizontal: Axis,
    vertical: Axis,
    caption: str = '',
    points: bool = False,
) -> Plot:
    """A curve (x, y) for each name: over training steps, over recall, over thresholds.

    Gaps stay where y is NaN or None. `points` marks each value, for curves of a few.
    """
    figure = new_figure(WIDTH, 290 + 18 * ((len(lines) + 2) // 3))
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(
            np.array(x, float), np.array(y, float), label=_short(name), color=PAGE.colour(index), linewidth=1.8,
            linestyle=DASHES[index % len(DASHES)], marker=MARKERS[index % len(MARKERS)] if points else None,
            markersize=5,
        )  # fmt: skip
    axes.set_xlim(horizontal.low, horizontal.high)
    axes.set_ylim(vertical.low, vertical.high)
    axes.set_xlabel(_plain(horizontal.title))
    axes.set_ylabel(_plain(vertical.title))
    axes.grid(color=PAGE.line, linewidth=0.7)
    _finish(axes, title, PAGE)
    if lines:
        _legend(axes, lines, 52)
    ends = ', '.join(f'{name} ends at {number(_last(y))}' for name, (_, y) in lines.items())
    return Plot(_svg(figure), f'{title}: {vertical.title} over {horizontal.title}. {ends}.', caption)


def _last(values: Sequence[float]) -> float | None:
    finite = [value for value in np.array(values, float).tolist() if np.isfinite(value)]
    return finite[-1] if finite else None


def dots(values: Mapping[str, Mapping[str, float]], title: str, note: str = '') -> Plot:
    """For each row (of the inner mappings, in the first one's order) a dot for each name on a common scale."""
    rows = list(dict.fromkeys(row for by_row in values.values() for row in by_row))
    figure = new_figure(WIDTH, 90 + 19 * len(rows))
    axes = figure.subplots()
    axes.hlines(range(len(rows)), 0, 1, color=PAGE.line, linewidth=0.7, transform=axes.get_yaxis_transform())
    for index, (name, by_row) in enumerate(values.items()):
        axes.plot(
            [by_row.get(row, np.nan) for row in rows], range(len(rows)), label=_short(name), linestyle='none',
            marker=MARKERS[index % len(MARKERS)], color=PAGE.colour(index), markersize=6.5,
            markeredgecolor=PAGE.ground, markeredgewidth=0.8,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_short(row, 24) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _finish(axes, title, PAGE, note)
    if values:
        _legend(axes, values, 42 if note else 22)
    ranges = ', '.join(f'{name} {_range(by_row.values())}' for name, by_row in values.items())
    return Plot(_svg(figure), f'Dot plot of {title} for {len(rows)} rows: {ranges}. The table has the figures.')


def _range(values: Iterable[float]) -> str:
    finite = [value for value in values if np.isfinite(value)]
    return f'from {min(finite):.3f} to {max(finite):.3f}' if finite else 'without a figure'


def intervals(rows: Mapping[str, tuple[float, float, float]], title: str, note: str = '') -> Plot:
    """For each name a value and the interval (low, high) around it, beside a line at zero."""
    figure = new_figure(WIDTH, 80 + 24 * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color=PAGE.muted, linewidth=1)
    for row, (value, low, high) in enumerate(rows.values()):
        clear = low > 0 or high < 0
        colour = PAGE.colour(0) if clear else PAGE.muted
        axes.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle='butt')
        axes.plot([value], [row], 'o', color=colour if clear else PAGE.ground, markeredgecolor=colour, markersize=7)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params(axis='x', nbins=4)
    axes.grid(axis='x', color=PAGE.line, linewidth=0.7)
    axes.set_axisbelow(True)
    _finish(axes, title, PAGE, note)
    told = ', '.join(f'{name} {value:+.3f} ({low:+.3f} to {high:+.3f})' for name, (value, low, high) in rows.items())
    return Plot(_svg(figure), f'{title}, with 95 % intervals: {told}.')


def new_figure(width: float, height: float, padding: float = 3) -> Figure:
    """A figure of so many CSS pixels, or points on paper, and as many around each of its axes."""
    from matplotlib import rc_context  # late: it takes a second that `--help` need not wait for
    from matplotlib.figure import Figure

    pad = padding / 72
    with rc_context({'figure.constrained_layout.w_pad': pad, 'figure.constrained_layout.h_pad': pad}):
        return Figure(figsize=(width / 72, height / 72), layout='constrained')


def _finish(axes: Axes, title: str, theme: Theme, note: str = '') -> None:
    """Title, note below, and colours."""
    axes.set_title(_plain(title), loc='left', fontsize=12, fontweight='bold', color=theme.ink)
    if note:
        axes.set_xlabel(_plain(note), loc='left')
    axes.set_facecolor('none')
    axes.tick_params(length=0, labelsize=11, labelcolor=theme.muted)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color(theme.line)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.muted, fontsize=11)


def _legend(axes: Axes, names: Iterable[str], below: float) -> None:
    """So many points below the axes, in as many columns as the names leave room for."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    figure = axes.get_figure()
    assert figure is not None
    entry = 40 + 6.8 * max(len(_short(name)) for name in names)  # a handle and letters, CSS pixels
    axes.legend(
        loc='upper center', ncol=max(1, int(WIDTH // entry)), frameon=False, labelcolor=PAGE.ink, fontsize=11,
        bbox_to_anchor=(0.5, 0), borderpad=0, borderaxespad=0, columnspacing=1.2, handlelength=2.2,
        bbox_transform=blended_transform_factory(figure.transFigure, axes.transAxes)
        + ScaledTranslation(0, -below / 72, figure.dpi_scale_trans),
    )  # fmt: skip


def _short(name: str, longest: int = 18) -> str:
    """The name as a label, or the end of it, as of a path; legends leave out what begins with `_`."""
    name = f' {name}' if name.startswith('_') else name
    return _plain(name if len(name) <= longest else f'…{name[1 - longest :]}')


def _plain(text: str) -> str:
    """The text with `$` as no more than a letter: it would begin a formula."""
    return text.replace('$', r'\$')


def _svg(figure: Figure) -> str:
    """The <svg> element: letters as text, colours as the page's variables, the same bytes whenever it is drawn."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'superpoint_ros'}):
        figure.savefig(
            file, format='svg', transparent=True, metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        )
    drawing = file.getvalue()[file.getvalue().index('<svg') :]
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', '', drawing)
    for colour, variable in VARIABLES.items():
        drawing = drawing.replace(colour, f'var(--{variable})')
    return drawing.strip()
