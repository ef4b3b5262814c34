"""Ids that follow a feature from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from superpoint_ros.features import Features
from superpoint_ros.matching import Matches, mutual_nearest, similarity_matrix

LARGEST_ID = 2**32 - 1
LARGEST_AGE = 2**16 - 1


@dataclass(frozen=True)
class TrackSettings:
    """When a track goes on after frames without it. Raises ValueError for a value outside its range."""

    max_missed: int = 3
    """Frames in a row that a track of two or more survives without being seen; 0 ends it at once."""
    min_similarity: float = 0.8
    """Least similarity of a feature to the lost track that it continues, see `matching.similarity_matrix`."""
    search_radius: float = 50.0
    """Most pixels from where a lost track was last seen; 0 searches everywhere."""

    def __post_init__(self) -> None:
        if self.max_missed < 0:
            raise ValueError(f'max_missed must be 0 or more frames, not {self.max_missed}')
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f'min_similarity must be in [-1, 1], not {self.min_similarity}')
        if not self.search_radius >= 0:
            raise ValueError(f'search_radius must be 0 or more pixels, not {self.search_radius}')


@dataclass(frozen=True)
class _Tracks:
    """Tracks with the feature each was last seen as, row by row."""

    ids: np.ndarray
    ages: np.ndarray
    missed: np.ndarray
    features: Features

    @classmethod
    def none(cls, features: Features) -> _Tracks:
        """No tracks, with descriptors of the same length as these features'."""
        no_rows = np.zeros(0, np.intp)
        no_counts = no_rows.astype(np.uint16)
        return cls(no_rows.astype(np.uint32), no_counts, no_counts, features.take(no_rows))

    def take(self, rows: np.ndarray) -> _Tracks:
        return _Tracks(self.ids[rows], self.ages[rows], self.missed[rows], self.features.take(rows))

    def without(self, rows: np.ndarray) -> _Tracks:
        return self.take(np.delete(np.arange(len(self.ids)), rows))

    def join(self, other: _Tracks) -> _Tracks:
        return _Tracks(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.ages, other.ages]),
            np.concatenate([self.missed, other.missed]),
            self.features.join(other.features),
        )


class Ids:
    """Counts up from 1. After the largest it begins again at 1, leaving out those in use.

    As one of several cameras it counts from `camera` + 1 in steps of `cameras`: no two of them give the same id.
    """

    def __init__(self, largest: int, camera: int = 0, cameras: int = 1) -> None:
        self._first, self._step = camera + 1, cameras
        self._count = (largest - self._first) // self._step + 1
        self._next = self._first

    def take(self, count: int, in_use: np.ndarray) -> np.ndarray:
        """The next ids, [count] int64."""
        steps = (self._next - self._first) // self._step + np.arange(count + len(in_use))
        candidates = self._first + steps % self._count * self._step
        ids = candidates[~np.isin(candidates, in_use)][:count]
        if count:
            self._next = int(ids[-1]) + self._step
        return ids


class Tracker:
    """Gives every feature of every frame the id of its track.

    A feature that matches one of the previous frame, as an inlier, goes on with its track. Of the others, one
    goes on with a track that earlier frames lost where both are each other's most similar descriptors, within
    the settings' limits; the rest begin tracks of their own. What was seen in one frame only is not looked
    for again: most of it is noise, and looking costs time.

    Ids are those of `Ids` up to 2^32 - 1: they do not repeat before all of them were given out.
    """

    def __init__(self, settings: TrackSettings | None = None, camera: int = 0, cameras: int = 1) -> None:
        """camera: which one of so many cameras this is."""
        self.settings = settings or TrackSettings()
        self._ids = Ids(LARGEST_ID, camera, cameras)
        self._seen: _Tracks | None = None
        self._lost: _Tracks | None = None

    def forget(self) -> None:
        """End all tracks, as after a jump in time; the ids of later ones still differ from theirs."""
        self._seen = self._lost = None

    def update(self, features: Features, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        """Take the next frame's features and their matches to the features of the update before.

        Returns ids [N] uint32 and ages [N] uint16: the frames in which the track was seen, this one included.
        """
        seen, lost = self._seen or _Tracks.none(features), self._lost or _Tracks.none(features)
        ids, ages = np.zeros(len(features), np.uint32), np.ones(len(features), np.uint16)

        rows, seen_rows = matches.query[matches.inlier], matches.train[matches.inlier]
        ids[rows], ages[rows] = seen.ids[seen_rows], _older(seen.ages[seen_rows])

        rows, lost_rows = self._find_lost(features, np.flatnonzero(ids == 0), lost)
        ids[rows], ages[rows] = lost.ids[lost_rows], _older(lost.ages[lost_rows])

        ended = seen.without(seen_rows)
        lost = lost.without(lost_rows).join(ended.take(np.flatnonzero(ended.ages > 1)))
        lost = replace(lost, missed=lost.missed + np.uint16(1))
        self._lost = lost.take(np.flatnonzero(lost.missed <= self.settings.max_missed))

        new = np.flatnonzero(ids == 0)
        ids[new] = self._ids.take(len(new), in_use=np.concatenate([ids, self._lost.ids]))
        self._seen = _Tracks(ids, ages, np.zeros(len(ids), np.uint16), features)
        return ids, ages

    def _find_lost(self, features: Features, rows: np.ndarray, lost: _Tracks) -> tuple[np.ndarray, np.ndarray]:
        """Which of these rows of the features continue which lost tracks."""
        similarity = similarity_matrix(features.take(rows), lost.features, self.settings.search_radius)
        found, lost_rows = mutual_nearest(similarity, self.settings.min_similarity)
        return rows[found], lost_rows


def _older(ages: np.ndarray) -> np.ndarray:
    """One frame older; the oldest stay as they are."""
    return ages + (ages < LARGEST_AGE)
