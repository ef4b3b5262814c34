"""A page that opens offline: one file with its style, drawings and pictures inside, and no script."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from superpoint_training.files import write_text
from superpoint_training.report.blocks import Block, Plot

TEMPLATES = Path(__file__).parent / 'templates'


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What links to this section end with."""
        return re.sub(r'\W+', '-', self.title.lower()).strip('-') or 'section'

    def add(self, *blocks: Block) -> Section:
        """Append blocks; returns the section."""
        self.blocks.extend(blocks)
        return self


@dataclass
class Page:
    """A title, a line below it, facts (name and value) on how the page came to be, and sections in their order."""

    title: str
    subtitle: str = ''
    facts: dict[str, str] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    def section(self, title: str, *blocks: Block) -> Section:
        """Append a section and return it.

        Raises:
            ValueError: another one has that title, and links could not tell them apart.
        """
        section = Section(title, list(blocks))
        if section.anchor in {other.anchor for other in self.sections}:
            raise ValueError(f"the page has a section '{title}' already")
        self.sections.append(section)
        return section

    def html(self) -> str:
        """The whole page. The same content gives the same bytes."""
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        numbers = itertools.count()
        environment.filters['inline'] = lambda plot: _inline(plot, next(numbers))
        return environment.get_template('page.html.jinja').render(page=self)

    def write(self, path: Path) -> None:
        """Write the page to a file, whose folder is made.

        Raises:
            TrainingError: it can't be written.
        """
        write_text(path, self.html())


def _inline(plot: Plot, index: int) -> Markup:
    """The drawing with ids that no other drawing of the page has."""
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>plot{index}-', plot.svg))
