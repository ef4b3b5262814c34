"""Grey training frames out of folders and tar shards, read from where they lie when asked for."""

from __future__ import annotations

import mmap
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from superpoint_ros.images import decode_grey

KEPT_BYTES = 100_000_000
"""Of shrunk pictures that a process keeps: some thousand, for which decoding would be half the work of an example."""

Item = TypeVar('Item')

PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.pgm', '.bmp', '.webp')


class _Place(NamedTuple):
    """Where the bytes of a picture are; `size` None for a whole file."""

    file: Path
    offset: int = 0
    size: int | None = None


class Frames:
    """Pictures by index, decoded when asked for.

    Only names and places are in memory. Shards are mapped, so what was read once stays in the page cache and is
    shared by all processes. Instances can be handed to worker processes, forked or spawned.

    Args:
        root: a folder of pictures and/or `.tar` files of pictures, searched recursively; or one `.tar`.
        limit: keep the first so many, in name order.

    Attributes:
        names: of each frame: its path under the root, for one in a shard that of the shard and then its own.

    Raises:
        ValueError: no picture found, or a `.tar` can't be read.
    """

    def __init__(self, root: str | Path, limit: int | None = None) -> None:
        self.root = Path(root).expanduser()
        found: dict[str, _Place] = {}
        paths = [self.root] if self.root.is_file() else sorted(self.root.rglob('*'))
        for path in paths:
            if limit is not None and len(found) >= limit:
                break
            name = path.name if path == self.root else str(path.relative_to(self.root))
            if path.suffix == '.tar':
                found.update((f'{name}/{inner}', place) for inner, place in _pictures_in(path))
            elif path.suffix.lower() in PICTURES:
                found[name] = _Place(path)
        if not found:
            raise ValueError(f"no pictures ({', '.join(PICTURES)}) and no .tar of pictures under '{self.root}'")
        self.names = list(found)[:limit]
        self._places = [found[name] for name in self.names]
        self._maps: dict[Path, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `[H, W]` uint8, grey.

        Raises:
            ValueError: it cannot be read or decoded; the message names it.
        """
        try:
            picture = decode_grey(self._encoded(self._places[index]))
        except (OSError, ValueError):
            picture = None
        if picture is None:
            raise ValueError(f"'{self.names[index]}' under '{self.root}' is not a readable picture")
        return picture

    def checksum(self, index: int) -> int:
        """CRC-32 of the picture's bytes as they are stored, by which it is told from others of its name.

        0 if they can't be read.
        """
        try:
            return zlib.crc32(self._encoded(self._places[index]).data)
        except (OSError, ValueError):
            return 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_maps': {}}

    def _encoded(self, place: _Place) -> np.ndarray:
        if place.size is None:
            return np.fromfile(place.file, np.uint8)
        if place.file not in self._maps:
            with place.file.open('rb') as file:
                self._maps[place.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._maps[place.file], np.uint8, place.size, place.offset)


class Shrunk:
    """Frames whose shorter side is brought down to so many pixels; smaller ones stay as they are.

    Networks learn from crops of a few hundred pixels, and labelling takes time by the pixel. The first `KEPT_BYTES` of
    pictures asked for stay in memory.

    Args:
        frames: to be looked at smaller.
        short_side: pixels.
    """

    def __init__(self, frames: Frames, short_side: int) -> None:
        self._frames, self._short_side = frames, short_side
        self.names = frames.names
        self._kept: dict[int, np.ndarray] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `[H, W]` uint8, grey, not to be written to. Raises ValueError as `Frames` does."""
        if index in self._kept:
            return self._kept[index]
        picture = fit(self._frames[index], self._short_side)
        if picture.nbytes <= self._room:
            picture.flags.writeable = False
            self._kept[index] = picture
            self._room -= picture.nbytes
        return picture

    def checksum(self, index: int) -> int:
        """As `Frames.checksum`, of the picture before it was shrunk."""
        return self._frames.checksum(index)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[row] for row in np.linspace(0, len(items) - 1, most).round().astype(int).tolist()]


def fit(picture: np.ndarray, short_side: int) -> np.ndarray:
    """[H, W] uint8 reduced until its shorter side is at most `short_side` pixels; never enlarged."""
    scale = short_side / min(picture.shape)
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _pictures_in(shard: Path) -> Iterator[tuple[str, _Place]]:
    try:
        with tarfile.open(shard, 'r:') as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(PICTURES):
                    yield member.name, _Place(shard, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"'{shard}' is not a readable tar of pictures: {error}") from error
