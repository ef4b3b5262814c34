"""All inputs of a run, read and checked before anything is measured, so that what is wrong is known at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from superpoint_training.evaluation.layouts import open_sequence
from superpoint_training.evaluation.pair_run import PreparedPair, prepare_pairs
from superpoint_training.evaluation.pairs import coarse_pairs, find_pairs
from superpoint_training.evaluation.problems import Skipped
from superpoint_training.evaluation.recordings import RecordedFrames, read_frames
from superpoint_training.evaluation.sequences import FramePairs, frame_pairs
from superpoint_training.protocols import PoseProtocol, Protocol


@dataclass(frozen=True)
class Request:
    """What to evaluate on.

    Attributes:
        pairs: folder in HPatches' layout, or None.
        sequences: folders with poses; see `layouts.open_sequence`.
        gaps: of a sequence's frame pairs.
        intrinsics: calibration in place of the sequences' own, or None.
        recording: bag, video or folder, or None.
        topic: of a bag; empty takes the one with the most images.
        frames: how many of a recording's, from its start.
    """

    pairs: Path | None = None
    sequences: Sequence[Path] = ()
    gaps: Sequence[int] = (1, 10, 30)
    intrinsics: Path | None = None
    recording: Path | None = None
    topic: str = ''
    frames: int = 300


@dataclass
class Inputs:
    """What of it can be used, and what can't.

    Attributes:
        pairs: prepared.
        coarse: names of those whose ground truth is too coarse for 1 px.
        sequences: pairs of their frames.
        recording: its frames, or None.
        skipped: everything left out.
    """

    pairs: list[PreparedPair] = field(default_factory=list)
    coarse: list[str] = field(default_factory=list)
    sequences: list[FramePairs] = field(default_factory=list)
    recording: RecordedFrames | None = None
    skipped: list[Skipped] = field(default_factory=list)


def read_inputs(request: Request, protocol: Protocol, poses: PoseProtocol, jobs: int) -> Inputs:
    """Read all that was asked for.

    Raises:
        ValueError: a folder or recording is not there, is nothing of the kind, or nothing of it can be used.
    """
    inputs = Inputs()
    if request.pairs is not None:
        _read_pairs(request.pairs, inputs, protocol, jobs)
    for root in request.sequences:
        frames = open_sequence(root, request.intrinsics)
        if frames.name in (other.frames.name for other in inputs.sequences):
            raise ValueError(f"two sequences are called '{frames.name}': their results would overwrite each other")
        pairs, skipped = frame_pairs(frames, request.gaps, poses.pairs_per_gap, jobs)
        inputs.skipped += skipped
        _require(bool(pairs.starts), f"no pair of frames of the sequence '{root}' can be used", skipped)
        inputs.sequences.append(pairs)
    if request.recording is not None:
        inputs.recording, skipped = read_frames(request.recording, request.topic, request.frames)
        inputs.skipped += skipped
    return inputs


def _read_pairs(root: Path, inputs: Inputs, protocol: Protocol, jobs: int) -> None:
    found, skipped = find_pairs(root)
    inputs.pairs, unreadable = prepare_pairs(found, protocol, jobs)
    skipped += unreadable
    inputs.skipped += skipped
    _require(bool(inputs.pairs), f"no pair below '{root}' can be used", skipped)
    names = {pair.name for pair in inputs.pairs}
    inputs.coarse = [name for name in coarse_pairs(root) if name in names]


def _require(usable: bool, otherwise: str, skipped: Sequence[Skipped]) -> None:
    if not usable:
        reasons = '\n'.join(f'  {each.what}: {each.why}' for each in skipped)
        raise ValueError(f'{otherwise}:\n{reasons}')
