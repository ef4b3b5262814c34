"""Grey pictures by name, in a folder or in an archive."""

from __future__ import annotations

import tarfile
import threading
from pathlib import Path

import numpy as np

from superpoint_ros import images


class UnreadablePictureError(ValueError):
    """A picture is missing or can't be decoded."""


def read_grey(path: Path) -> np.ndarray:
    """`[H, W]` uint8.

    Raises:
        UnreadablePictureError: see there.
    """
    try:
        return decode_grey(path.read_bytes())
    except OSError as error:
        raise UnreadablePictureError(f'it could not be read: {error.strerror}') from error


def decode_grey(encoded: bytes) -> np.ndarray:
    """`[H, W]` uint8 of a picture file's content.

    Raises:
        UnreadablePictureError: see there.
    """
    picture = images.decode_grey(np.frombuffer(encoded, np.uint8))
    if picture is None:
        raise UnreadablePictureError(f'its {len(encoded)} bytes are no picture that OpenCV can read')
    return picture


class Pictures:
    """The pictures below a folder, or in the `frames.tar` there. May be used by several threads.

    Raises:
        ValueError: the `frames.tar` is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        archive = root / 'frames.tar'
        self._lock = threading.Lock()
        try:
            self._archive = tarfile.open(archive) if archive.is_file() else None  # noqa: SIM115, read for as long as this lives
            self._members = set(self._archive.getnames()) if self._archive else set()
        except tarfile.TarError as error:
            raise ValueError(f"'{archive}' is not a readable tar of pictures: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._members if self._archive else (self.root / name).is_file()

    def __getitem__(self, name: str) -> np.ndarray:
        """`[H, W]` uint8, grey.

        Raises:
            UnreadablePictureError: see there.
        """
        if self._archive is None:
            return read_grey(self.root / name)
        with self._lock:
            file = self._archive.extractfile(name) if name in self._members else None
            encoded = file.read() if file else b''
        return decode_grey(encoded)
