"""Pictures of anything: mixed into a training they hold forgetting back, and afterwards they tell whether it did."""

from __future__ import annotations

from pathlib import Path

from superpoint_ros import photographs
from superpoint_training.evaluation.pair_run import PreparedPair, prepare_pairs
from superpoint_training.evaluation.pairs import find_pairs
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.frames import Frames
from superpoint_training.protocols import Protocol

TRAINED_ON = 6
"""Of the shipped photographs, by name; the others judge. Where the user gives one of the two, all are for the other."""


def general_frames(pictures: Path | None, pairs: Path | None, limit: int) -> Frames:
    """What is mixed in: the user's pictures, `limit` at most, or photographs that the package ships.

    Args:
        pictures, pairs: what the user gives to mix in, and to judge by.

    Raises:
        ValueError: there are no pictures.
    """
    if pictures is None and pairs is None:
        limit = min(limit, TRAINED_ON)
    return Frames(pictures or photographs.FOLDER, limit)


def general_pairs(pictures: Path | None, pairs: Path | None, protocol: Protocol, jobs: int) -> list[PreparedPair]:
    """What judges: the user's homography pairs in HPatches' layout, or shipped photographs beside views of themselves.

    Args:
        pictures, pairs: as for `general_frames`; no photograph is in both.

    Raises:
        ValueError: no pair is usable.
    """
    if pairs is None:
        frames = Frames(photographs.FOLDER)
        return warped_pairs([frames[index] for index in range(0 if pictures else TRAINED_ON, len(frames))], protocol)
    usable, skipped = prepare_pairs(find_pairs(pairs)[0], protocol, jobs)
    if not usable:
        raise ValueError(f"no pair below '{pairs}' can be used: {skipped[0].why if skipped else 'there is none'}")
    return usable
