"""What a recording is, whatever its name: the hash of its content."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tqdm import tqdm

from superpoint_ros.recordings import Source
from superpoint_training.files import write_whole
from superpoint_training.harvest.settings import HarvestError

_PIECE = 1 << 22


class Hashes:
    """SHA-256 of recordings, remembered in a file for as long as size and time of change stay.

    The hash of a folder is that of a list `<hash>  <name>` of the recording's files by name, a line each: what
    `sha256sum * | sha256sum` prints in it, where these are all that is there.

    Args:
        memory: the file; what can't be read of it is forgotten.
        show_progress: show a progress bar.
    """

    def __init__(self, memory: Path, show_progress: bool = True) -> None:
        self._memory = memory
        self._show_progress = show_progress
        try:
            known = json.loads(memory.read_text())
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, list[object]] = known if isinstance(known, dict) else {}

    def of(self, recording: Source) -> str:
        """Hash of a recording, 64 hexadecimal digits.

        Raises:
            HarvestError: it can't be read.
        """
        path = recording.path.resolve()
        try:
            names = sorted(file.relative_to(recording.path).as_posix() for file in recording.files())
            files = [path / name for name in names]
            with tqdm(
                total=sum(file.stat().st_size for file in files), desc=f'hash {path.name}', unit='B', unit_scale=True,
                disable=not self._show_progress, leave=False, delay=1,
            ) as bar:  # fmt: skip
                hashes = [self._of_file(file, bar) for file in files]
        except OSError as error:
            raise HarvestError(f'{path} could not be read: {error.strerror}.') from error
        write_whole(self._memory, json.dumps(self._known, indent=1).encode())
        if not path.is_dir():
            return hashes[0]
        listing = ''.join(f'{digest}  {name}\n' for digest, name in zip(hashes, names, strict=True))
        return hashlib.sha256(os.fsencode(listing)).hexdigest()

    def _of_file(self, file: Path, bar: tqdm) -> str:
        state = file.stat()
        signature = [state.st_size, state.st_mtime_ns, state.st_ino]
        known = self._known.get(str(file))
        if isinstance(known, list) and len(known) == 4 and known[:3] == signature:
            bar.update(state.st_size)
            return str(known[3])
        digest = hashlib.sha256()
        with file.open('rb') as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
                bar.update(len(piece))
        self._known[str(file)] = [*signature, digest.hexdigest()]
        return digest.hexdigest()
