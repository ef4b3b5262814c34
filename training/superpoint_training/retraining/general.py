"""Pictures of anything: mixed into a training they hold forgetting back, and afterwards they tell whether it did."""

from __future__ import annotations

from pathlib import Path

import superpoint_ros
from superpoint_training.evaluation.pair_run import PreparedPair, prepare_pairs
from superpoint_training.evaluation.pairs import find_pairs
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.frames import Frames
from superpoint_training.protocols import Protocol

SHIPPED = Path(superpoint_ros.__file__).parent / 'demo' / 'photographs'


def general_frames(given: Path | None, limit: int) -> Frames:
    """The user's general pictures, `limit` at most, or the photographs that the package ships."""
    return Frames(given or SHIPPED, limit)


def general_pairs(given: Path | None, protocol: Protocol, jobs: int) -> list[PreparedPair]:
    """The user's homography pairs in HPatches' layout, or the shipped photographs beside views of themselves.

    Raises:
        ValueError: no pair is usable.
    """
    if given is None:
        frames = Frames(SHIPPED)
        return warped_pairs([frames[index] for index in range(len(frames))], protocol)
    pairs, skipped = prepare_pairs(find_pairs(given)[0], protocol, jobs)
    if not pairs:
        raise ValueError(f"no pair below '{given}' can be used: {skipped[0].why if skipped else 'there is none'}")
    return pairs
