"""What is found in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Neighbours:
    """The most similar earlier features, where the device that found features has compared them already."""

    among: int
    """`Features.serial` of the earlier ones."""
    partner: np.ndarray
    """[N] int32, row of the most similar earlier feature; -1 where the two are not each other's."""
    similarity: np.ndarray
    """[N] float32, see `matching.similarity_matrix`."""
    second: np.ndarray
    """[N] float32, that of the second most similar; -inf where there is none."""


@dataclass(frozen=True)
class Features:
    """The keypoints of one image, best first. Counts differ from image to image, so these are not batched."""

    keypoints: np.ndarray
    """[N, 2] float32 (x, y) in pixels; (0, 0) is the centre of the top-left pixel."""
    scores: np.ndarray
    """[N] float32 in (0, 1], descending."""
    descriptors: np.ndarray
    """[N, D] float32, unit length."""
    levels: np.ndarray = None  # type: ignore[assignment]
    """[N] uint8, in which of the image's sizes each was found, see `pyramid`: 0, the image's own, unless given."""
    serial: int = 0
    """Tells the features apart that one detector found on a device; else 0."""
    neighbours: Neighbours | None = None
    """None where none were looked for yet."""

    def __post_init__(self) -> None:
        if self.levels is None:
            object.__setattr__(self, 'levels', np.zeros(len(self), np.uint8))

    def __len__(self) -> int:
        return len(self.keypoints)

    def take(self, rows: np.ndarray) -> Features:
        """The features in these rows, in their order."""
        return Features(self.keypoints[rows], self.scores[rows], self.descriptors[rows], self.levels[rows])

    def join(self, other: Features) -> Features:
        """These features and then the others."""
        return Features(
            np.concatenate([self.keypoints, other.keypoints]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.descriptors, other.descriptors]),
            np.concatenate([self.levels, other.levels]),
        )
