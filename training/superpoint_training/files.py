"""Files of trainings, whole or not there."""

from __future__ import annotations

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
