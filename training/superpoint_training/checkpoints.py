"""All that is needed to go on with a training, in one file."""

from __future__ import annotations

import io
import pickle
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from superpoint_training.distributed import World
from superpoint_training.failures import TrainingError
from superpoint_training.files import write_whole

FORMAT = 3
"""Raised whenever the content changes, so that an old file is refused rather than misread."""


State = dict[str, Any]


class CheckpointFile:
    """The checkpoint of a run: read when the run begins, replaced from time to time.

    Rank 0 alone touches the file.

    Args:
        path: the file.
        seconds: between two checkpoints.
        state: gives what to write, with `step` and `settings` in it.
        world: this process and those that share the state.

    Attributes:
        step: of the last checkpoint written.
    """

    def __init__(self, path: Path, seconds: float, state: Callable[[], State], world: World) -> None:
        self._path, self._seconds, self._state, self._world = path, seconds, state, world
        self._saved_at = time.monotonic()
        self.step = 0

    def open(self, settings: str) -> State:
        """The state to begin with, the same in all processes: the file's, or rank 0's own where there is no file.

        It is written at once where there is none, so that a disk without space shows before hours are spent.

        Raises:
            TrainingError: there is no file and none can be written.
            ValueError: the file is damaged, of another format, or from a run with other settings.
        """
        state: State = {}
        if self._world.first:
            if not self._path.exists():
                self.save()
            state = load_checkpoint(self._path, settings)
        state = self._world.from_first(state)
        self.step = state['step']
        return state

    def save(self) -> None:
        """Write the state.

        Raises:
            TrainingError: it can't be written; the checkpoint that was there is untouched.
        """
        if self._world.first:
            state = self._state()
            save_checkpoint(self._path, state)
            self._saved_at, self.step = time.monotonic(), state['step']

    def save_if_due(self) -> None:
        """As `try_to_save`, if the last checkpoint is old."""
        if time.monotonic() - self._saved_at > self._seconds:
            self.try_to_save()

    def try_to_save(self) -> None:
        """Write the state; a failure is said, and the run goes on."""
        try:
            self.save()
        except TrainingError as error:
            self._saved_at = time.monotonic()
            print(f'{error}. Training goes on; the last checkpoint is of step {self.step}', file=sys.stderr)


def save_checkpoint(path: Path, state: State) -> None:
    """Write tensors, numbers and strings, whole or not at all.

    Raises:
        TrainingError: the disk is full, say; the checkpoint that was there is untouched.
    """
    # By way of memory: PyTorch's own file writer can abort the process when the disk is full.
    content = io.BytesIO()
    torch.save({'format': FORMAT} | state, content)
    write_whole(path, content.getvalue())


def load_checkpoint(path: Path, settings: str) -> State:
    """Read what `save_checkpoint` wrote, onto the CPU.

    Args:
        settings: must be those under `settings` in the checkpoint.

    Raises:
        ValueError: damaged, of another format, or from a run with other settings.
    """
    try:
        # Of bytes that are no zip archive PyTorch's older reader makes errors of any kind.
        state = torch.load(path, map_location='cpu', weights_only=True) if zipfile.is_zipfile(path) else None
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError):
        state = None
    if state is None:
        raise ValueError(f"'{path}' is not a readable checkpoint: remove it to begin anew")
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise ValueError(
            f"'{path}' is a checkpoint of another version's format: remove it to begin anew, "
            'or finish the run with the version that began it'
        )
    if state['settings'] != settings:
        raise ValueError(
            f"'{path}' is from a run with other settings: remove it to begin anew, or restore them\n"
            f'it has  {state["settings"]}\nthis is {settings}'
        )
    return state
