"""Grey training frames out of folders and tar shards, held in memory as encoded pictures."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np

PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.pgm', '.bmp', '.webp')


class Frames:
    """Pictures by index, decoded when asked for.

    They stay encoded in memory (about 20 kB each), so a shard is read once and every worker shares the bytes.

    Args:
        root: a folder of pictures and/or `.tar` files of pictures, searched recursively; or one `.tar`.
        limit: keep the first so many, in name order.

    Raises:
        ValueError: no picture found.
    """

    def __init__(self, root: str | Path, limit: int | None = None) -> None:
        self.root = Path(root).expanduser()
        found: dict[str, bytes] = {}
        paths = [self.root] if self.root.is_file() else sorted(self.root.rglob('*'))
        for path in paths:
            if limit is not None and len(found) >= limit:
                break
            if path.suffix == '.tar':
                found |= _read_tar(path)
            elif path.suffix.lower() in PICTURES:
                found[str(path.relative_to(self.root))] = path.read_bytes()
        if not found:
            raise ValueError(f"no pictures ({', '.join(PICTURES)}) and no .tar of pictures under '{self.root}'")
        self.names = list(found)[:limit]
        self._encoded = [found[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `[H, W]` uint8, grey.

        Raises:
            ValueError: it cannot be decoded; the message names it.
        """
        picture = cv2.imdecode(np.frombuffer(self._encoded[index], np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise ValueError(f"'{self.names[index]}' under '{self.root}' is not a readable picture")
        return np.asarray(picture, np.uint8)


def _read_tar(path: Path) -> dict[str, bytes]:
    pictures: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.lower().endswith(PICTURES) else None
            if file is not None:
                pictures[f'{path.name}/{member.name}'] = file.read()
    return pictures
