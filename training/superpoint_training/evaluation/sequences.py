"""Frames with camera poses, and what of them can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superpoint_ros.camera import Camera
from superpoint_training.evaluation.pictures import Pictures, UnreadablePictureError
from superpoint_training.evaluation.problems import Skipped, spans
from superpoint_training.evaluation.trajectories import Trajectory
from superpoint_training.evaluation.work import each
from superpoint_training.frames import evenly


@dataclass(frozen=True, eq=False)
class PosedFrames:
    """A recorded camera of which the motion is known.

    Attributes:
        name: of the folder.
        pictures: the frames by name.
        names: `N` of them, in the order of time.
        stamps: `[N]` int64 nanoseconds.
        poses: `[N, 4, 4]` camera to world, metres; NaN where the truth has none.
        camera: intrinsics of the frames.
        covered: (first, last) nanoseconds of the truth.
    """

    name: str
    pictures: Pictures
    names: list[str]
    stamps: np.ndarray
    poses: np.ndarray
    camera: Camera
    covered: tuple[int, int]

    @classmethod
    def of(
        cls, name: str, pictures: Pictures, names: list[str], stamps: np.ndarray, truth: Trajectory, camera: Camera,
        body_to_camera: np.ndarray | None = None,
    ) -> PosedFrames:  # fmt: skip
        """Frames with the poses that a trajectory has at their times.

        body_to_camera: `[4, 4]`, the camera's pose in the frame whose poses the truth has, if that is not the camera.
        """
        order = np.argsort(stamps, kind='stable')
        names, stamps = [names[index] for index in order], stamps[order]
        poses = truth.at(stamps)
        if body_to_camera is not None:
            poses = poses @ body_to_camera
        covered = (int(truth.stamps[0]), int(truth.stamps[-1])) if len(truth.stamps) else (0, 0)
        return cls(name, pictures, names, stamps, poses, camera, covered)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class FramePairs:
    """Pairs of a sequence's frames, `gap` frames apart.

    Attributes:
        frames: the sequence.
        starts: by gap, the first frames of the pairs.
    """

    frames: PosedFrames
    starts: dict[int, list[int]]


def frame_pairs(frames: PosedFrames, gaps: Sequence[int], most: int, jobs: int = 1) -> tuple[FramePairs, list[Skipped]]:
    """Pairs of frames that can be read and have a pose; at most so many of each gap, evenly spread.

    Returns:
        the pairs, and what had to be left out: frames without picture or pose, pictures that can't be read, gaps
        longer than the sequence.
    """
    absent = [index for index, name in enumerate(frames.names) if name not in frames.pictures]
    unposed = np.flatnonzero(~np.isfinite(frames.poses).all(axis=(1, 2))).tolist()
    skipped = []
    if absent:
        skipped.append(_frames(frames, absent, 'there are no such pictures'))
    if unposed:
        first, last = (stamp / 1e9 for stamp in frames.covered)
        truth = f'the truth covers {first:.3f} to {last:.3f} s' if frames.covered[1] else 'the truth has no poses'
        skipped.append(_frames(frames, unposed, f'no pose near their times; {truth}'))
    usable = set(range(len(frames))) - {*absent, *unposed}
    chosen = {gap: evenly([index for index in sorted(usable) if index + gap in usable], most) for gap in gaps}
    for gap in gaps:
        if gap >= len(frames):
            skipped.append(Skipped(f'{frames.name}, gap {gap}', f'the sequence has {len(frames)} frames only'))

    def unreadable(index: int) -> str:
        try:
            height, width = frames.pictures[frames.names[index]].shape
        except UnreadablePictureError as error:
            return str(error)
        camera = frames.camera
        if (width, height) != (camera.width, camera.height):
            return f'it is {width}x{height}, and the calibration is of {camera.width}x{camera.height}'
        return ''

    needed = sorted({index for gap, starts in chosen.items() for start in starts for index in (start, start + gap)})
    reasons = dict(zip(needed, each(needed, unreadable, jobs, frames.name, 'frame'), strict=True))
    skipped += [Skipped(f'{frames.name}/{frames.names[index]}', why) for index, why in reasons.items() if why]
    starts = {
        gap: [start for start in starts if not (reasons[start] or reasons[start + gap])]
        for gap, starts in chosen.items()
    }
    return FramePairs(frames, {gap: each for gap, each in starts.items() if each}), skipped


def _frames(frames: PosedFrames, indices: list[int], why: str) -> Skipped:
    return Skipped(f'{frames.name}, frames {spans(indices)} ({len(indices)} of {len(frames)})', why)
