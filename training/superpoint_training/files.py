"""Files of trainings, whole or not there, and the names of files in what is written and printed."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

from superpoint_ros import files
from superpoint_training.failures import TrainingError


def write_whole(path: Path, content: bytes) -> None:
    """`superpoint_ros.files.write_whole`, with a message for people.

    Raises:
        TrainingError: it could not be written, for want of space say. The old file is untouched.
    """
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise TrainingError(
            f"cannot write '{path}', {len(content) / 1e6:.1f} MB: {error.strerror}; an older one, if any, is untouched"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write text whole, in UTF-8; of a file's name that is not, the bytes that are at fault are escaped.

    Raises:
        TrainingError: see `write_whole`.
    """
    write_whole(path, text.encode(errors='backslashreplace'))


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work that is to end in it. Its folder is made.

    Raises:
        TrainingError: it is a folder, or nothing can be written beside it.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name):
            pass
    except OSError as error:
        raise TrainingError(f"cannot write '{path}': {error.strerror}") from error


def try_lock(file: IO[str]) -> bool:
    """Lock a file, opened for writing, until it is closed or the process ends, in whatever way.

    Processes that are forked off this one, which may outlive it by seconds, do not hold the lock.

    Returns:
        Whether it is locked; not if another process has done so.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def print_any_name() -> None:
    """Let names of files that are not UTF-8 be printed as they are, as `ls` does; by default they end the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='surrogateescape')
