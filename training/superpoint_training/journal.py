"""What a training tells about itself while it runs: a progress bar, curves, TensorBoard's files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

Curves = dict[str, list[tuple[int, float]]]
"""Points (step, value) by name."""


class Journal:
    """A progress bar with the time left, and a point on every curve from time to time.

    TensorBoard's files are given up when the disk is full, say, which ends no run.

    Args:
        curves: of the run so far; added to in place.
        steps: of the whole run.
        done: steps that are behind it.
        title: of the progress bar.
        logs: folder for TensorBoard; None for none.
        shown: False in processes that are to stay silent.
    """

    def __init__(self, curves: Curves, steps: int, done: int, title: str, logs: Path | None, shown: bool) -> None:
        self._curves = curves
        self._bar = tqdm(total=steps, initial=done, desc=title, unit='step', mininterval=2, disable=not shown)
        self._logs, self._writer = logs, None
        if logs and shown:
            with self._giving_up():
                self._writer = _tensorboard(logs, done)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writer:
            with self._giving_up():
                self._writer.close()

    def advance(self, losses: Mapping[str, float]) -> None:
        """Move the bar by a step and show the losses' running means."""
        self._bar.update()
        self._bar.set_postfix({name: f'{mean:.3f}' for name, mean in losses.items()}, refresh=False)

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of the curves named, `kind` being the beginning of their names."""
        for name, value in values.items():
            self._curves.setdefault(kind + name, []).append((step, value))
            if self._writer:
                with self._giving_up():
                    self._writer.add_scalar(kind + name, value, step)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Writes no more of TensorBoard's files once they can't be written, which is said."""
        try:
            yield
        except OSError as error:
            self._writer = None
            print(
                f"cannot write TensorBoard's files in '{self._logs}': {error.strerror}. Training goes on without them",
                file=sys.stderr,
            )


def _tensorboard(logs: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(f"no TensorBoard logs in '{logs}': pip install tensorboard", file=sys.stderr)
        return None
    return SummaryWriter(str(logs), purge_step=done)
