"""The chosen frames on disk: two folders of tar shards of PGM pictures, there as a whole or not at all.

PGM, because it is exact, and read in a tenth of a millisecond where PNG, half as large, takes four: a frame is read
thousands of times in training. Being plain tar files of pictures, the shards open with anything.

Frames are collected in a folder `<key>.partial`, each shard written under another name, brought to the disk, and
renamed; when all are there the folder is renamed. A shard that exists is whole, so a run that was killed goes on
after it.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from superpoint_training.files import try_lock
from superpoint_training.harvest.settings import HarvestError

SHARD_FRAMES = 64


class ShardWriter:
    """Writes the frames of one split into its shards, in order.

    Args:
        folder: of the split.
        count: how many frames there will be.
    """

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._count = count
        self._next = 0
        self._pending: list[tuple[str, bytes]] = []

    def wants(self) -> bool:
        """Whether the next frame is not in a shard yet; to be asked once for each frame, in order."""
        shard, self._next = self._next // SHARD_FRAMES, self._next + 1
        return not self._shard(shard).exists()

    def add(self, name: str, picture: np.ndarray) -> None:
        """Take the frame that `wants` was asked about. `picture` is [H, W] uint8.

        Raises:
            HarvestError: it can't be written.
        """
        self._pending.append((f'{name}.pgm', cv2.imencode('.pgm', picture)[1].tobytes()))
        if len(self._pending) == SHARD_FRAMES or self._next == self._count:
            self._write(self._shard((self._next - 1) // SHARD_FRAMES))
            self._pending = []

    def _shard(self, number: int) -> Path:
        return self._folder / f'frames-{number:04d}.tar'

    def _write(self, shard: Path) -> None:
        partial = shard.with_suffix('.partial')
        with explained(partial), partial.open('wb') as file:
            with tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as archive:
                for name, content in self._pending:
                    member = tarfile.TarInfo(name)  # with no time and no owner: equal frames make equal files
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(shard)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of a disk into ones for people."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise HarvestError(
                f"The disk is full, or a limit on its use is reached: '{path}' could not be written "
                f'({error.strerror}). What is written so far is kept; make room and call again, or take another '
                'folder for the cache, fewer train_frames, or a smaller short_side.'
            ) from error
        raise HarvestError(f"'{path}' could not be written: {error.strerror}.") from error


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what can't be finished.

    Raises:
        HarvestError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HarvestError(
            f"The frames take {needed / 1e6:.0f} MB, but '{folder}' has {free / 1e6:.0f} MB left. Make room, take "
            'another folder for the cache, fewer train_frames, or a smaller short_side.'
        )


def publish(partial: Path, final: Path) -> None:
    """Give a finished folder its name, once all that is in it is on the disk."""
    with explained(final):
        for folder in (*(path for path in partial.iterdir() if path.is_dir()), partial):
            _sync(folder)
        partial.rename(final)
        _sync(final.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Only one process at a time; the others wait. The lock of a process that dies is free."""
    with explained(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open('w')
    with file:
        said = False
        while not try_lock(file):
            if not said:
                print(f'Waiting for another process that fills {lock.parent}.', flush=True)
                said = True
            time.sleep(0.2)
        yield
