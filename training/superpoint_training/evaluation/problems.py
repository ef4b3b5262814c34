"""What is wrong with an input, in words; the rest of it is still used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """Something left out.

    Attributes:
        what: a scene, pair, frame or file.
        why: a sentence.
    """

    what: str
    why: str


def listed(skipped: Sequence[Skipped]) -> str:
    """One line for each, under a count."""
    return '\n'.join([f'skipped: {len(skipped)}', *(f'  {each.what}: {each.why}' for each in skipped)])


def spans(indices: Iterable[int]) -> str:
    """Ascending numbers with runs drawn together: '0-4, 7, 9-10'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ', '.join(str(first) if first == last else f'{first}-{last}' for first, last in runs)
