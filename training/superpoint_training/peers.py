"""The detectors people use today, behind the interface of ours: picture to `Features`, best first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from superpoint_ros.detector import Detector, Features

Detect = Callable[[np.ndarray], Features]
CANDIDATES = 5000


def _from_opencv(extractor: cv2.Feature2D, picture: np.ndarray, *, describe: bool) -> Features:
    if describe:
        points, descriptors = extractor.detectAndCompute(picture, None)
    else:
        points, descriptors = extractor.detect(picture, None), None
    scores = np.array([point.response for point in points], np.float32)
    order = np.argsort(-scores, kind='stable')
    keypoints = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    if descriptors is None:
        descriptors = np.zeros((len(points), 1), np.float32)
    if descriptors.dtype == np.uint8:  # binary: the dot product of +-1 bits falls linearly with Hamming distance
        descriptors = np.unpackbits(np.asarray(descriptors, np.uint8), axis=1).astype(np.float32) * 2 - 1
    length = np.linalg.norm(descriptors, axis=1, keepdims=True)
    unit = descriptors / np.maximum(length, 1e-9)
    return Features(keypoints[order], scores[order], unit[order].astype(np.float32))


def _corners(picture: np.ndarray, *, harris: bool) -> Features:
    cornerness = cv2.cornerHarris(picture, 4, 3, 0.04) if harris else cv2.cornerMinEigenVal(picture, 4, ksize=3)
    peaks = (cornerness == cv2.dilate(cornerness, np.ones((9, 9)))) & (cornerness > 0)
    rows, columns = np.nonzero(peaks)
    scores = cornerness[rows, columns]
    order = np.argsort(-scores, kind='stable')[:CANDIDATES]
    keypoints = np.stack([columns, rows], axis=1).astype(np.float32)[order]
    return Features(keypoints, scores[order].astype(np.float32), np.ones((len(order), 1), np.float32))


OPENCV: dict[str, Callable[[], Detect]] = {
    'sift': lambda: partial(_from_opencv, cv2.SIFT.create(CANDIDATES), describe=True),
    'orb': lambda: partial(_from_opencv, cv2.ORB.create(CANDIDATES), describe=True),
    'fast': lambda: partial(_from_opencv, cv2.FastFeatureDetector.create(10), describe=False),
    'harris': lambda: partial(_corners, harris=True),
    'shi-tomasi': lambda: partial(_corners, harris=False),
}


def make_detector(name: str, device: str = 'auto', nms_radius: int = 4, border: int = 4) -> Detect:
    """One of `OPENCV`, or the weights of that name or path, asked for as many keypoints as they have.

    Raises:
        WeightsError: neither.
    """
    if name.lower() in OPENCV:
        return OPENCV[name.lower()]()
    detector = Detector.load(
        name, device=device, max_keypoints=CANDIDATES, detection_threshold=0.0, nms_radius=nms_radius, border=border
    )
    return detector.detect
