"""The pieces of a page. Text is plain: whatever a block is written to escapes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

DASH = '–'
"""Stands for a figure that there isn't."""


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A figure for people: a dash for None and NaN; `sign` puts a + before positive ones."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return '∞' if value > 0 else '-∞'
    return f'{value:+.{digits}f}' if sign else f'{value:.{digits}f}'


class Block:
    """A piece of a page; `kind` names the macro of the template that draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    kind = 'text'
    text: str


@dataclass(frozen=True)
class Heading(Block):
    """Of a part of a section."""

    kind = 'heading'
    text: str


@dataclass(frozen=True)
class Items(Block):
    """A list of points; a pair is a term and what it means."""

    kind = 'items'
    items: Sequence[str | tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `tone` is 'best', 'better', 'worse' or nothing."""

    text: str
    tone: str = ''


@dataclass(frozen=True)
class Table(Block):
    """Rows of cells, of which the first names the row.

    Attributes:
        head: titles of the columns.
        rows: as many cells each.
        caption: what the table shows.
        groups: titles over several columns and how many each spans, from the second column on.
        words: how many columns, from the left, hold words rather than figures.

    Raises:
        ValueError: the rows or the groups don't have as many columns as the head.
    """

    kind = 'table'
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ''
    groups: Sequence[tuple[str, int]] = ()
    words: int = 1

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows}
        if self.groups:
            widths.add(1 + sum(span for _, span in self.groups))
        if widths - {len(self.head)}:
            raise ValueError(f'the head has {len(self.head)} columns, the rows or groups {sorted(widths)}')

    @classmethod
    def of_columns(
        cls,
        corner: str,
        names: Iterable[str],
        columns: Sequence[tuple[str, Sequence[Cell]]],
        caption: str = '',
        groups: Sequence[tuple[str, int]] = (),
    ) -> Table:
        """A row for each name, from columns of a title and as many cells; `corner` is the title of the names."""
        rows: list[list[str | Cell]] = [[name, *(cells[row] for _, cells in columns)] for row, name in enumerate(names)]
        return cls([corner, *(title for title, _ in columns)], rows, caption, groups)

    @property
    def starts(self) -> list[int]:
        """The columns that groups begin with."""
        spans = [1, *(span for _, span in self.groups)]
        return [sum(spans[:count]) for count in range(1, len(spans))]

    def cells(self) -> list[list[Cell]]:
        """The rows with every cell a `Cell`."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """The caption, and the table as GitHub's Markdown writes it; the best are bold."""
        rule = ['---' if column < self.words else '---:' for column in range(len(self.head))]
        head, *rows = self._lines(_escape_markdown, '**{}**')
        lines = [f'| {" | ".join(line)} |' for line in (head, rule, *rows)]
        return '\n'.join([_escape_markdown(self.caption), '', *lines] if self.caption else lines)

    def text(self) -> str:
        """In columns for a terminal; a star follows the best."""
        lines = self._lines(str, '{}*')
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligns = ['<' if column < self.words else '>' for column in range(len(self.head))]
        return '\n'.join(
            '  '.join(
                f'{cell:{align}{width}}' for cell, align, width in zip(line, aligns, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def _lines(self, escape: Callable[[str], str], best: str) -> list[list[str]]:
        over = ['', *(f'{title}: ' for title, span in self.groups for _ in range(span))]
        titles = map(''.join, zip(over, self.head, strict=True)) if self.groups else self.head
        rows = [
            [best.format(escape(cell.text)) if cell.tone == 'best' else escape(cell.text) for cell in row]
            for row in self.cells()
        ]
        return [[escape(title) for title in titles], *rows]


def _escape_markdown(text: str) -> str:
    for character, escaped in (('\\', '\\\\'), ('&', '&amp;'), ('<', '&lt;'), *((c, f'\\{c}') for c in '|*_`[]')):
        text = text.replace(character, escaped)
    return ' '.join(text.split())


@dataclass(frozen=True)
class Plot(Block):
    """A drawing.

    Attributes:
        svg: its <svg> element, in the page's colours.
        alt: what it shows, in words.
    """

    kind = 'plot'
    svg: str
    alt: str
    caption: str = ''


@dataclass(frozen=True)
class Grid(Block):
    """Blocks beside one another as far as there is room; `wide` ones are at most two in a row."""

    kind = 'grid'
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Details(Block):
    """Blocks that show when asked for."""

    kind = 'details'
    summary: str
    blocks: Sequence[Block]
