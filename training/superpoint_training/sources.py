"""Where the pictures come from that pairs are cut out of: frames with labels or without, and rendered shapes."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from superpoint_ros.networks import STRIDE
from superpoint_training import shapes
from superpoint_training.labels import Labels, NamedFrames

MOST_UNREADABLE = 20
"""Pictures drawn in a row that can't be read, after which the others are taken to be no better."""


class DrawnPicture(NamedTuple):
    """A picture `[H, W]` uint8 and what is known of it."""

    picture: np.ndarray
    labels: np.ndarray
    """[N, 3] (x, y, probability), keypoints."""
    described: bool
    """Whether it has texture to describe."""


class PairSource(Protocol):
    """Where pictures of pairs come from."""

    def draw(self, rng: np.random.Generator) -> DrawnPicture:
        """A picture by lot."""
        ...


class LabelledFrames:
    """Frames with their keypoints, as a source of pairs.

    Args:
        frames: of any sizes; those that were not labelled, or could not be read when they were to be, are left out.
        labels: keypoints by the frames' names.

    Raises:
        ValueError: no frame has labels, or one has those of another picture.
    """

    def __init__(self, frames: NamedFrames, labels: Labels) -> None:
        self.frames, self.labels = frames, labels
        unread = labels.not_made() if any(labels.checksums.values()) else set()  # older files know no pictures
        labelled = labels.by_name.keys() - unread
        self._labelled = [i for i, name in enumerate(frames.names) if name in labelled]
        if not self._labelled:
            raise ValueError('the labels name none of the frames: were they made from other frames?')
        others = labels.made_from_others(frames)
        if others:
            raise ValueError(
                f"the labels are of other pictures than the frames of the same names, '{others[0]}' for one: label "
                'these frames'
            )

    def __len__(self) -> int:
        return len(self._labelled)

    def __repr__(self) -> str:
        names = [self.frames.names[index] for index in self._labelled]
        digest = _digest(part for name in names for part in (os.fsencode(name), self.labels.by_name[name].tobytes()))
        return f'{len(self)} frames, {self.labels.density:.0f} labels a frame, digest {digest}'

    def draw(self, rng: np.random.Generator) -> DrawnPicture:
        """A frame by lot."""
        index, picture = _readable(self.frames, lambda: self._labelled[rng.integers(len(self))])
        return DrawnPicture(picture, self.labels.by_name[self.frames.names[index]], True)


class PlainFrames:
    """Frames without labels, as a source of pairs.

    Args:
        frames: of any sizes.
    """

    def __init__(self, frames: NamedFrames) -> None:
        self.frames = frames

    def __repr__(self) -> str:
        named = enumerate(self.frames.names)
        digest = _digest(part for i, name in named for part in (os.fsencode(name), b'%d' % self.frames.checksum(i)))
        return f'{len(self.frames.names)} frames without labels, digest {digest}'

    def draw(self, rng: np.random.Generator) -> DrawnPicture:
        """A frame by lot."""
        _, picture = _readable(self.frames, lambda: int(rng.integers(len(self.frames.names))))
        return DrawnPicture(picture, np.zeros((0, 3)), True)


@dataclass(frozen=True)
class RenderedShapes:
    """Synthetic Shapes as a source of pairs: sharp corners, for the detector alone.

    Most of a picture of shapes has no texture to describe, so the descriptor learns nothing from it.

    Attributes:
        size: side of the square pictures, pixels.
    """

    size: int

    def draw(self, rng: np.random.Generator) -> DrawnPicture:
        """A picture that was never seen before."""
        picture, corners = shapes.render(rng, self.size, self.size)
        return DrawnPicture(picture, np.column_stack([corners, np.ones(len(corners))]), False)


def usable(frames: NamedFrames) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and pictures of the frames that can be read and have a cell at least.

    Raises:
        ValueError: there are none.
    """
    none = True
    for index in range(len(frames)):
        try:
            picture = frames[index]
        except ValueError:
            continue
        if min(picture.shape) >= STRIDE:
            none = False
            yield index, picture
    if none:
        raise ValueError(
            f"none of the {len(frames)} pictures, of which '{frames.names[0]}' is the first, can be read and is at "
            f'least {STRIDE} pixels wide and high'
        )


def _readable(frames: NamedFrames, draw: Callable[[], int]) -> tuple[int, np.ndarray]:
    """A frame's number and picture by lot; for one that can't be read, which is said once, another.

    Raises:
        ValueError: `MOST_UNREADABLE` in a row could not be read.
    """
    for _ in range(MOST_UNREADABLE - 1):
        index = draw()
        try:
            return index, frames[index]
        except ValueError as error:
            warnings.warn(f'{error}: others are taken for it', stacklevel=2)
    index = draw()
    return index, frames[index]


def _digest(parts: Iterable[bytes]) -> str:
    """What tells data from other data of the same size."""
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()[:8]
