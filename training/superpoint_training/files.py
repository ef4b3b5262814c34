"""Files of trainings, whole or not there, and the names of files in what is written and printed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

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


def print_any_name() -> None:
    """Let names of files that are not UTF-8 be printed as they are, as `ls` does; by default they end the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='surrogateescape')
