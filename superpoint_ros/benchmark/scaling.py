"""How the time grows with pixels, with keypoints, with levels, and with images in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from superpoint_ros.benchmark.pictures import decode
from superpoint_ros.benchmark.stages import WARM_UP_FRAMES, percentiles, summarise, time_frontend
from superpoint_ros.detector import Detector

SIZES = ((320, 240), (640, 480), (1280, 960))
KEYPOINTS = (500, 1000, 2000)
LEVELS = (1, 2, 3, 4)
BATCHES = (1, 2, 4, 8)
FRAMES = 20
"""Images timed for each figure."""


def time_sizes(detector: Detector, pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The front-end's times by image size and greatest number of keypoints."""
    settings, rows = detector.settings, []
    for width, height in SIZES:
        files = [_resized(picture, (width, height)) for picture in pictures[: FRAMES + WARM_UP_FRAMES]]
        for keypoints in KEYPOINTS:
            detector.settings = replace(settings, max_keypoints=keypoints)
            times, frames = time_frontend(detector, files)
            found = float(np.mean([len(frame.features) for frame in frames]))
            rows.append({'size': (width, height), 'keypoints': keypoints, 'found': found} | summarise(times))
    detector.settings = settings
    return rows


def time_levels(detector: Detector, pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The front-end's times by the number of sizes at which it looks at an image."""
    settings, rows = detector.settings, []
    for levels in LEVELS:
        detector.settings = replace(settings, levels=levels)
        times, _ = time_frontend(detector, pictures[: FRAMES + WARM_UP_FRAMES])
        rows.append({'levels': levels} | summarise(times))
    detector.settings = settings
    return rows


def time_batches(detector: Detector, pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Milliseconds an image of `Detector.detect_batch`, by the number of images it is given at once."""
    images = [decode(picture) for picture in pictures[: FRAMES + WARM_UP_FRAMES]]
    rows = []
    for size in BATCHES:
        batches = [list(islice(cycle(images), start, start + size)) for start in range(0, len(images), size)]
        times = []
        for batch in [batches[0], *batches]:  # the first once more, to warm up
            began = perf_counter()
            detector.detect_batch(batch)
            times.append((perf_counter() - began) * 1e3 / size)
        rows.append({'images': size, 'ms_an_image': percentiles(times[1:])})
    return rows


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.imencode('.jpg', cv2.resize(decode(picture), size))[1].ravel()
