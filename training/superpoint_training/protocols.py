"""Evaluation protocols as data: what is fixed so that two figures can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from superpoint_training.homographies import rescaling, translation


@dataclass(frozen=True)
class Protocol:
    """One way to measure on homography pairs.

    The `keypoints` best points count: for repeatability, homography and nearest-neighbour mAP the best of those that
    the other picture shows; so too for the matching score of `mutual` protocols, while `nearest` ones take the best
    of all. The homography comes of mutual nearest neighbours.

    Attributes:
        name: under which figures are reported.
        width, height: pictures are brought to this size, pixels.
        crop: keep the aspect ratio and crop the middle, or squash.
        keypoints: how many of the best count.
        coverage_radius: a rightly matched keypoint covers the pixels this near.
        matching_score: `nearest` is KP2D's (each point's nearest descriptor, no cross-check), `mutual` is SuperPoint's.
        correct_distance: pixels within which a point is repeated and a match is right.
        ransac_threshold: pixels.
        ransac_iterations: at most.
        seed: of RANSAC; see `metrics.homography_error`.
        homography_thresholds: mean corner errors up to which a homography counts as right, pixels.
    """

    name: str
    width: int
    height: int
    crop: bool
    keypoints: int
    coverage_radius: float
    matching_score: Literal['nearest', 'mutual']
    correct_distance: float = 3.0
    ransac_threshold: float = 3.0
    ransac_iterations: int = 5000
    seed: int = 0
    homography_thresholds: tuple[int, ...] = (1, 3, 5)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of prepared pictures."""
        return self.height, self.width

    def prepare(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture at this protocol's size, and the homography from its pixels to the prepared ones.

        Resized by pixel area, which does not alias; the sizes' ratio includes the half pixel.
        """
        height, width = picture.shape[:2]
        if not self.crop:
            resized = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA)
            return np.asarray(resized, np.uint8), rescaling(self.width / width, self.height / height)
        factor = max(self.width / width, self.height / height)
        large = (max(self.width, round(width * factor)), max(self.height, round(height * factor)))
        resized = cv2.resize(picture, large, interpolation=cv2.INTER_AREA)
        left, top = (large[0] - self.width) // 2, (large[1] - self.height) // 2
        cropped = resized[top : top + self.height, left : left + self.width]
        return np.ascontiguousarray(cropped, np.uint8), translation(-left, -top) @ rescaling(
            large[0] / width, large[1] / height
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # SuperPoint leaves RANSAC at OpenCV's defaults: 3 px, 2000 iterations.
        Protocol('superpoint-240', 320, 240, True, 300, 20, 'mutual', ransac_iterations=2000),
        Protocol('superpoint-480', 640, 480, True, 1000, 25, 'mutual', ransac_iterations=2000),
        Protocol('kp2d-320', 320, 240, False, 300, 20, 'nearest'),
        Protocol('kp2d-640', 640, 480, False, 1000, 25, 'nearest'),
    )
}


@dataclass(frozen=True)
class PoseProtocol:
    """How relative camera poses are measured on a sequence, at the size of its frames.

    Attributes:
        keypoints: the best of each frame that are matched, by mutual nearest neighbours.
        ransac_threshold: of the essential matrix, pixels at the camera's mean focal length.
        ransac_confidence, ransac_iterations: when RANSAC stops.
        seed: of RANSAC.
        pairs_per_gap: at most so many pairs of a gap, evenly spread over the sequence.
        shortest_baseline: metres; below it the direction of motion is noise, and rotation alone is judged.
        angles: degrees up to which the area under the curve of errors is taken.
    """

    keypoints: int = 1000
    ransac_threshold: float = 1.0
    ransac_confidence: float = 0.9999
    ransac_iterations: int = 5000
    seed: int = 0
    pairs_per_gap: int = 100
    shortest_baseline: float = 0.05
    angles: tuple[int, ...] = (5, 10, 20)


_CHANGEABLE: dict[str, tuple[Callable[[str], float], float]] = {  # its type and the most that makes sense
    'keypoints': (int, 1e6),
    'coverage_radius': (float, 1e4),
    'correct_distance': (float, 1e4),
    'ransac_threshold': (float, 1e4),
    'ransac_iterations': (int, 1e8),
    'seed': (int, 2**31 - 1),
}


def changed(protocol: Protocol, changes: Sequence[str]) -> Protocol:
    """The protocol with some `name=number` changes, which its new name tells.

    Raises:
        ValueError: no such number in a protocol, or one that is out of range.
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition('=')
        if name not in _CHANGEABLE:
            raise ValueError(f"'{change}' is none of {', '.join(f'{known}=NUMBER' for known in _CHANGEABLE)}")
        kind, most = _CHANGEABLE[name]
        try:
            values[name] = kind(text)
        except ValueError:
            what = 'a whole number' if kind is int else 'a number'
            raise ValueError(f"'{change}': {name} must be {what}") from None
        least = '0 or more' if name == 'seed' else 'more than 0'
        if not 0 <= values[name] <= most or (values[name] == 0 and name != 'seed'):
            raise ValueError(f"'{change}': {name} must be {least} and at most {most:.0f}")
    if not values:
        return protocol
    told = ((name, value if isinstance(value, int) else f'{value:g}') for name, value in values.items())
    described = ', '.join(f'{name} {value}' for name, value in told)
    return dataclasses.replace(protocol, **values, name=f'{protocol.name}, {described}')
