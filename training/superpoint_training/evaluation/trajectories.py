"""Camera poses over time, from text files, at the times of frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superpoint_ros.recordings.pictures import nanoseconds

SAME_NS = 1_000_000
"""A pose this near in time is the frame's own where there is nothing to interpolate."""
LONGEST_STEP_NS = 110_000_000
"""Between poses further apart nothing is interpolated: recorders at 10 Hz and more pass."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses at ascending times.

    Attributes:
        stamps: `[N]` int64 nanoseconds.
        positions: `[N, 3]` metres, in the world.
        rotations: `[N, 4]` unit quaternions x, y, z, w, from the moving frame to the world.
    """

    stamps: np.ndarray
    positions: np.ndarray
    rotations: np.ndarray

    @classmethod
    def of(cls, stamps: np.ndarray, positions: np.ndarray, rotations: np.ndarray) -> Trajectory:
        """Put into order; rows that are not finite or have no rotation are left out."""
        norms = np.linalg.norm(rotations, axis=1)
        sound = np.isfinite(positions).all(axis=1) & np.isfinite(norms) & (norms > 0.5)
        order = np.flatnonzero(sound)[np.argsort(stamps[sound], kind='stable')]
        return cls(stamps[order], positions[order], rotations[order] / norms[order, None])

    def at(self, stamps: np.ndarray) -> np.ndarray:
        """`[M, 4, 4]` poses at these times, interpolated; NaN where the trajectory has none near enough."""
        poses = np.full((len(stamps), 4, 4), np.nan)
        if len(self.stamps) == 0:
            return poses
        after = np.clip(np.searchsorted(self.stamps, stamps), 1, max(1, len(self.stamps) - 1))
        before = after - 1
        after = np.minimum(after, len(self.stamps) - 1)
        for row, (stamp, i, j) in enumerate(zip(stamps.tolist(), before.tolist(), after.tolist(), strict=True)):
            share = self._share(stamp, i, j)
            if share is not None:
                poses[row] = self._between(i, j, share)
        return poses

    def _share(self, stamp: int, i: int, j: int) -> float | None:
        """How far between poses i and j a time lies, or None where neither they nor their line cover it."""
        first, second = int(self.stamps[i]), int(self.stamps[j])
        if first < stamp < second and second - first <= LONGEST_STEP_NS:
            return (stamp - first) / (second - first)
        if abs(stamp - first) <= SAME_NS:
            return 0.0
        return 1.0 if abs(stamp - second) <= SAME_NS else None

    def _between(self, i: int, j: int, share: float) -> np.ndarray:
        first, second = self.rotations[i], self.rotations[j]
        second = second if first @ second >= 0 else -second  # the shorter way round
        angle = np.arccos(np.clip(first @ second, -1, 1))
        if angle > 1e-6:
            weights = np.sin([(1 - share) * angle, share * angle]) / np.sin(angle)
        else:
            weights = np.array([1 - share, share])
        pose = np.eye(4)
        pose[:3, :3] = rotation_matrix(weights[0] * first + weights[1] * second)
        pose[:3, 3] = (1 - share) * self.positions[i] + share * self.positions[j]
        return pose


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    """`[3, 3]` of a quaternion x, y, z, w of any length but 0."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def read_tum(path: Path) -> Trajectory:
    """A file of `time tx ty tz qx qy qz qw` lines, seconds and metres; `#` begins a comment.

    Raises:
        ValueError: a line is none of these; the message names it.
    """
    stamps, rows = [], []
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        try:
            stamps.append(nanoseconds(words[0]))
            position_and_rotation = [float(word) for word in words[1:]]
        except ValueError:
            raise ValueError(f"'{path}', line {number}: '{line}' holds words that are not numbers") from None
        if len(position_and_rotation) != 7:
            raise ValueError(f"'{path}', line {number}: a pose is time tx ty tz qx qy qz qw, not {len(words)} numbers")
        rows.append(position_and_rotation)
    values = np.array(rows, float).reshape(-1, 7)
    return Trajectory.of(np.array(stamps, np.int64), values[:, :3], values[:, 3:])


def read_euroc(path: Path) -> Trajectory:
    """The body's states as EuRoC writes them: nanoseconds, position, quaternion w, x, y, z, and more.

    Raises:
        ValueError: a line is none of these; the message names it.
    """
    stamps, rows = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        words = line.split(',')
        try:
            stamps.append(int(words[0]))
            rows.append([float(word) for word in words[1:8]])
        except ValueError:
            raise ValueError(f"'{path}', line {number}: '{line[:60]}' holds words that are not numbers") from None
        if len(rows[-1]) != 7:
            raise ValueError(f"'{path}', line {number}: a state begins with a time and 7 numbers")
    values = np.array(rows, float).reshape(-1, 7)
    return Trajectory.of(np.array(stamps, np.int64), values[:, :3], values[:, [4, 5, 6, 3]])
