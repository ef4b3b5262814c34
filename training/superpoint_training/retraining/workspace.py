"""The folder of a retraining: where everything that it makes lies, and what it was begun with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superpoint_training.failures import TrainingError
from superpoint_training.files import try_lock, write_whole

BEGIN_ANEW = (
    'To begin anew, remove run.json, *.checkpoint and labels_*.npz there; frames/ may stay, and saves harvesting again.'
)


class Workspace:
    """Paths below one folder, and the settings of the run that the folder belongs to.

    Attributes:
        folder: made by `locked` or `begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = folder / 'run.json'

    @property
    def is_begun(self) -> bool:
        """Whether a run has left something here to go on with, besides frames."""
        return self._run.exists() and any(any(self.folder.glob(kind)) for kind in ('labels_*.npz', '*.checkpoint'))

    @property
    def frames(self) -> Path:
        """Cache of the harvest."""
        return self.folder / 'frames'

    @property
    def results(self) -> Path:
        """All figures."""
        return self.folder / 'results.json'

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / 'report.html'

    @property
    def rejected(self) -> Path:
        """Weights that are not better."""
        return self.folder / 'rejected.safetensors'

    def labels(self, source: str, round_number: int) -> Path:
        """Labels of a source's frames, made for a round of training."""
        return self.folder / f'labels_{source}_{round_number}.npz'

    def checkpoint(self, round_number: int) -> Path:
        """All that is needed to go on with a round of training."""
        return self.folder / f'round_{round_number}.checkpoint'

    def logs(self, round_number: int) -> Path:
        """TensorBoard's files."""
        return self.folder / 'logs' / f'round_{round_number}'

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock of a process that dies is free.

        Raises:
            TrainingError: another process works in the folder, or it can't be made.
        """
        lock = self.folder / '.lock'
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = lock.open('w')
        except OSError as error:
            raise TrainingError(f"cannot write '{lock}': {error.strerror}") from error
        with file:
            if not try_lock(file):
                raise TrainingError(
                    f"another process works in '{self.folder}': wait until it has ended, or take another --work"
                )
            yield

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or go on in it; where nothing but frames was made yet, with other settings, too.

        Raises:
            TrainingError: there is a run here and `resume` is False, or it had other settings.
        """
        settings = json.loads(json.dumps(settings, default=str))
        if self.is_begun:
            if not resume:
                raise TrainingError(f"'{self.folder}' has a run already: go on with it by --resume. {BEGIN_ANEW}")
            begun = self.settings()
            changed = [key for key in settings if settings[key] != begun.get(key)]
            if changed:
                was = '; '.join(f'{key} was {begun.get(key)}, is {settings[key]}' for key in changed)
                raise TrainingError(f"The run in '{self.folder}' was begun with other settings: {was}. {BEGIN_ANEW}")
            return
        write_whole(self._run, json.dumps(settings, indent=1).encode())

    def settings(self) -> dict[str, Any]:
        """What the run was begun with, and what it remembered since.

        Raises:
            TrainingError: the file is damaged.
        """
        try:
            settings: dict[str, Any] = json.loads(self._run.read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"'{self._run}' is not readable ({error}). {BEGIN_ANEW}") from error
        return settings

    def keep_to_frames(self, harvested: str) -> None:
        """Remember the frames of the run, by the name of their folder in `frames`.

        Raises:
            TrainingError: it was begun with others.
        """
        if self.settings().get('frames', harvested) != harvested:
            raise TrainingError(
                f"The run in '{self.folder}' was begun with other frames than its recordings give now. "
                f'To go on, restore the recordings. {BEGIN_ANEW}'
            )
        self.remember(frames=harvested)

    def remember(self, **values: Any) -> None:
        """Add values to the settings, for when the run goes on."""
        write_whole(self._run, json.dumps(self.settings() | values, indent=1).encode())
