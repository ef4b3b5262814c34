"""Decompression that gives what it can of data that may be cut off or damaged."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any


def _module(*names: str) -> Any:
    """The first of some modules that is there. rosbags brings them along, which one depends on its version."""
    for name in names:
        with suppress(ImportError):
            return import_module(name)
    raise ImportError(f'none of {", ".join(names)}, which rosbags needs, is installed')


_lz4 = _module('lz4.frame')
_zstd = _module('compression.zstd', 'backports.zstd', 'zstandard')
_FILE_PIECE = 1 << 20
_PIECE = 1 << 12
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


def unpack_message(data: bytes) -> bytes:
    """A message as it was serialized: rosbag2 may have compressed each on its own.

    A serialized message starts with a 0, so the two can't be confused.
    """
    return inflate('zstd', data) if data.startswith(_ZSTD_MAGIC) else data


def unpack_file(packed: Path, unpacked: Path) -> bool:
    """Write what can be read of a file that rosbag2 compressed; returns whether that is all of it."""
    decompressor = _zstd_decompressor()
    with packed.open('rb') as source, unpacked.open('wb') as target:
        while piece := source.read(_FILE_PIECE):
            try:
                target.write(decompressor.decompress(piece))
            except OSError:  # no room for it
                raise
            except Exception:  # each zstd library has its own
                return False
    return bool(decompressor.eof)


def inflate(compression: str, data: bytes) -> bytes:
    """What can be decompressed of data: its start, up to the first damage; nothing of an unknown compression.

    Args:
        compression: as MCAP and ROS 1 bags name it: '', 'none', 'zstd', 'lz4' or 'bz2'.
        data: as it lies in the file.
    """
    makers: dict[str, Callable[[], Any]] = {
        'zstd': _zstd_decompressor,
        'lz4': _lz4.LZ4FrameDecompressor,
        'bz2': bz2.BZ2Decompressor,
    }
    if compression in ('', 'none'):
        return data
    if compression not in makers:
        return b''
    decompressor = makers[compression]()
    pieces = []
    # In pieces, because damage takes with it all that was handed over at once.
    for start in range(0, len(data), _PIECE):
        try:
            pieces.append(decompressor.decompress(data[start : start + _PIECE]))
        except Exception:  # each library has its own, among them EOFError after the end
            break
    return b''.join(pieces)


def _zstd_decompressor() -> Any:
    return _zstd.ZstdDecompressor().decompressobj() if _zstd.__name__ == 'zstandard' else _zstd.ZstdDecompressor()
