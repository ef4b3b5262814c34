"""What people look at: results as tables, plots and drawn pairs, on pages that open offline.

`blocks`, `plots` and `pictures` make the pieces of a `page.Page`, whatever it is about; `evaluation` and `comparison`
make the pages of one run and of two. Every table is written as Markdown, HTML and plain text from the same rows.
"""

from superpoint_training.report.blocks import Block, Cell, Details, Grid, Heading, Items, Plot, Table, Text
from superpoint_training.report.comparison import Comparison, compare
from superpoint_training.report.evaluation import evaluation_page, summary_tables, write_report
from superpoint_training.report.page import Page, Section
from superpoint_training.report.pictures import PairPicture
from superpoint_training.report.plots import Axis, Bars, bars, curves, dots, intervals

__all__ = [
    'Axis', 'Bars', 'Block', 'Cell', 'Comparison', 'Details', 'Grid', 'Heading', 'Items', 'Page', 'PairPicture', 'Plot',
    'Section', 'Table', 'Text', 'bars', 'compare', 'curves', 'dots', 'evaluation_page', 'intervals', 'summary_tables',
    'write_report',
]  # fmt: skip
