"""OpenCV's SIFT and ORB with its brute-force matcher: what the front-end replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from superpoint_ros.stopwatch import Stopwatch

NORMS = {'SIFT': cv2.NORM_L2, 'ORB': cv2.NORM_HAMMING}


@dataclass(frozen=True)
class ClassicalFeatures:
    """OpenCV's keypoints and their descriptors, an array [N, D], or None where there are none."""

    keypoints: Sequence[cv2.KeyPoint]
    descriptors: Any

    def __len__(self) -> int:
        return len(self.keypoints)


class Classical:
    """Detects, describes and matches: mutual nearest neighbours, by `crossCheck`."""

    def __init__(self, name: str, max_keypoints: int) -> None:
        """name: of NORMS."""
        self.extractor = getattr(cv2, f'{name}_create')(nfeatures=max_keypoints)
        self.matcher = cv2.BFMatcher(NORMS[name], crossCheck=True)

    def process(self, image: np.ndarray, previous: ClassicalFeatures | None, stopwatch: Stopwatch) -> ClassicalFeatures:
        """Find the features of a grey image and match them to the previous ones."""
        features = ClassicalFeatures(*self.extractor.detectAndCompute(image, None))
        stopwatch.lap('features')
        if previous and features:
            self.matcher.match(features.descriptors, previous.descriptors)
        stopwatch.lap('matching')
        return features
