"""Two pictures side by side with the matches between them: the pictures as JPEG, the matches as lines on top."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from superpoint_training.report.blocks import Block

GAP = 8
"""Pixels between the two pictures."""
JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class PairPicture(Block):
    """A pair of pictures as a detector saw it.

    Attributes:
        detector, pair: their names.
        first, second: [H, W] uint8, the prepared pictures; their sizes may differ.
        points_first, points_second: [M, 2] (x, y) pixels of the matched keypoints.
        right: [M] bool, which matches the ground truth confirms.
        note: said after the counts in the caption.

    Raises:
        ValueError: the points and `right` differ in length, or a picture is not [H, W] uint8.
    """

    kind = 'pair'
    detector: str
    pair: str
    first: np.ndarray
    second: np.ndarray
    points_first: np.ndarray
    points_second: np.ndarray
    right: np.ndarray
    note: str = ''

    def __post_init__(self) -> None:
        counts = {len(self.points_first), len(self.points_second), len(self.right)}
        if len(counts) > 1:
            raise ValueError(f'{self.detector}, {self.pair}: points and right have {sorted(counts)} rows, not the same')
        for picture in (self.first, self.second):
            if picture.ndim != 2 or picture.dtype != np.uint8:
                raise ValueError(
                    f'{self.detector}, {self.pair}: a picture is {picture.dtype} {picture.shape}, not [H, W] uint8'
                )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the drawing, pixels."""
        height = max(len(self.first), len(self.second))
        return self.first.shape[1] + GAP + self.second.shape[1], height

    @property
    def offset(self) -> int:
        """Where the second picture begins, pixels from the left."""
        return int(self.first.shape[1]) + GAP

    @property
    def caption(self) -> str:
        """How many of the matches are right."""
        right, total = int(np.count_nonzero(self.right)), len(self.right)
        share = f' ({right / total:.0%})' if total else ''
        return f'{right} of {total} matches right{share}' + (f'; {self.note}' if self.note else '')

    def photographs(self) -> list[tuple[int, int, int, str]]:
        """Left edge, width, height and data URI of both pictures."""
        lefts = (0, self.offset)
        return [
            (left, picture.shape[1], picture.shape[0], data_uri(picture))
            for left, picture in zip(lefts, (self.first, self.second), strict=True)
        ]

    def paths(self, right: bool) -> tuple[str, str]:
        """The right or the wrong matches as SVG paths: the lines, and the keypoints at their ends.

        Pixel centres, being integers here, move by half a pixel.
        """
        chosen = np.asarray(self.right, bool) == right
        start = np.asarray(self.points_first, float).reshape(-1, 2)[chosen] + 0.5
        end = np.asarray(self.points_second, float).reshape(-1, 2)[chosen] + [self.offset + 0.5, 0.5]
        lines = ''.join(f'M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}' for a, b, c, d in np.hstack([start, end]).tolist())
        return lines, ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in np.vstack([start, end]).tolist())


def data_uri(picture: np.ndarray) -> str:
    """A picture ([H, W] grey or [H, W, 3] BGR, uint8) as a JPEG within its address."""
    _, encoded = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode('ascii')
