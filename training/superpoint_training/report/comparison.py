"""Two runs side by side: which differences are more than the luck of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from superpoint_training.files import write_text
from superpoint_training.report.blocks import Items, Table, Text
from superpoint_training.report.differences import (
    EXPLANATION,
    Difference,
    difference_plots,
    difference_table,
    differences,
    pose_differences,
)
from superpoint_training.report.measures import Results
from superpoint_training.report.page import Page


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        labels: of the first and the second run.
        protocol: both runs'.
        rows: for each detector of both and each measure.
        remarks: what was left out, in sentences.
    """

    labels: tuple[str, str]
    protocol: str
    rows: Sequence[Difference]
    remarks: Sequence[str] = ()

    def table(self) -> Table:
        """A row for each difference, those that are more than noise marked."""
        return difference_table(self.rows, self.labels, f'{self.labels[1]} less {self.labels[0]}, {self.protocol}')

    def markdown(self) -> str:
        """The table, how to read it and what was left out."""
        remarks = [f'- {remark}' for remark in self.remarks]
        return '\n'.join([self.table().markdown(), '', EXPLANATION, *([''] if remarks else []), *remarks]) + '\n'

    def text(self) -> str:
        """The table and what was left out, for a terminal."""
        return '\n'.join([self.table().text(), *self.remarks])

    def page(self) -> Page:
        """The table, the intervals drawn, and how to read them."""
        page = Page(
            'Two runs compared', f'{self.labels[0]} and {self.labels[1]}, protocol {self.protocol}',
            {'first': self.labels[0], 'second': self.labels[1]},
        )  # fmt: skip
        page.section('Differences', self.table(), *difference_plots(self.rows))
        page.section('How to read this', Text(EXPLANATION))
        if self.remarks:
            page.section('Left out', Items(list(self.remarks)))
        return page

    def write(self, out: Path) -> None:
        """comparison.md and comparison.html in a folder, which is made.

        Raises:
            TrainingError: one of them can't be written.
        """
        write_text(out / 'comparison.md', self.markdown())
        self.page().write(out / 'comparison.html')


def compare(first: Results, second: Results, labels: tuple[str, str] = ('first', 'second')) -> Comparison:
    """Compare two runs pair by pair.

    Detectors are compared with their namesakes; if each run has one only, these two are compared whatever their names.

    Raises:
        ValueError: the protocols differ, or both share no detector or no pair: nothing can be compared.
    """
    protocols = [str(run.get('protocol')) for run in (first, second)]
    settings = [run.get('protocol_settings') for run in (first, second)]
    if protocols[0] != protocols[1] or (all(settings) and settings[0] != settings[1]):
        raise ValueError(
            f'{labels[0]} was measured under {protocols[0]} {settings[0] or ""}, {labels[1]} under {protocols[1]} '
            f"{settings[1] or ''}: figures of different protocols or settings can't be compared. Evaluate both alike."
        )
    if all('pose_protocol' in run for run in (first, second)) and first['pose_protocol'] != second['pose_protocol']:
        raise ValueError(
            f'{labels[0]} took poses by {first["pose_protocol"]}, {labels[1]} by {second["pose_protocol"]}: these '
            "can't be compared. Evaluate both alike."
        )
    before, after = first['detectors'], second['detectors']
    names = [(name, name) for name in before if name in after]
    if not names and len(before) == len(after) == 1:
        names = [(next(iter(before)), next(iter(after)))]
    if not names:
        raise ValueError(
            f'{labels[0]} has {", ".join(before)}, {labels[1]} has {", ".join(after)}: no detector in common. '
            'Name the same ones for both runs, or one in each.'
        )
    rows: list[Difference] = []
    remarks = []
    for label, run, chosen in ((labels[0], before, {a for a, _ in names}), (labels[1], after, {b for _, b in names})):
        if alone := [name for name in run if name not in chosen]:
            remarks.append(f'Only in {label}: {", ".join(alone)}.')
    for one, other in names:
        name = one if one == other else f'{one} → {other}'
        rows += differences(name, before[one], after[other])
        rows += pose_differences(name, before[one], after[other])
        pairs = [set(run.get('per_pair') or {}) for run in (before[one], after[other])]
        if unshared := len(pairs[0] ^ pairs[1]):
            remarks.append(f'{name}: {unshared} pairs are in one run only and were left out.')
    if not rows:
        raise ValueError(f'{labels[0]} and {labels[1]} share no pair of pictures or frames, which is what is compared.')
    return Comparison(labels, protocols[0], rows, remarks)
