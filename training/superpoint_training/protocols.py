"""Evaluation protocols as data: what is fixed so that two figures can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from superpoint_training.homographies import rescaling, translation


@dataclass(frozen=True)
class Protocol:
    """One way to measure on homography pairs.

    Attributes:
        name: under which figures are reported.
        width, height: pictures are brought to this size, pixels.
        crop: keep the aspect ratio and crop the middle, or squash.
        keypoints: how many of the best count.
        correct_distance: pixels within which a point is repeated and a match is right.
        mutual_matching_score: whether the matching score counts mutual nearest neighbours only.
        ransac_threshold: pixels.
        ransac_iterations: at most.
    """

    name: str
    width: int
    height: int
    crop: bool
    keypoints: int
    correct_distance: float = 3.0
    mutual_matching_score: bool = False
    ransac_threshold: float = 3.0
    ransac_iterations: int = 5000

    def prepare(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture at this protocol's size, and the homography from its pixels to the prepared ones."""
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
        Protocol('superpoint-240', 320, 240, True, 300, mutual_matching_score=True, ransac_iterations=2000),
        Protocol('superpoint-480', 640, 480, True, 1000, mutual_matching_score=True, ransac_iterations=2000),
        Protocol('kp2d-320', 320, 240, False, 300),
        Protocol('kp2d-640', 640, 480, False, 1000),
    )
}
