"""The pictures that are timed: a recorded sequence where there is one, else windows over photographs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from superpoint_ros.photographs import photographs

SIZE = (640, 480)
SEQUENCE = 'sequences/7scenes_redkitchen_a/frames.tar'


def load_pictures(count: int) -> tuple[list[np.ndarray], str]:
    """JPEG files as [K] uint8 arrays, 640 x 480, of a moving camera, and where they are from.

    They are a recorded sequence under $SUPERPOINT_DATA where there is one, else windows that move over the package's
    photographs.
    """
    recorded = Path(os.environ.get('SUPERPOINT_DATA', '')) / SEQUENCE
    if recorded.is_file():
        with tarfile.open(recorded) as archive:
            names = sorted(name for name in archive.getnames() if name.endswith('.jpg'))
            files = [archive.extractfile(name) for name in islice(cycle(names), count)]
            return [np.frombuffer(file.read(), np.uint8) for file in files if file], str(SEQUENCE)
    frames = islice(moving_windows(photographs()), count)
    return [cv2.imencode('.jpg', frame)[1].ravel() for frame in frames], 'photographs of the package'


def moving_windows(paths: list[Path]) -> Iterator[np.ndarray]:
    """640 x 480 windows that move over each photograph in turn by 4 pixels a frame, for ever."""
    width, height = SIZE
    for path in cycle(paths):
        photograph = decode(np.fromfile(path, np.uint8))
        picture = cv2.resize(photograph, (2 * width, 2 * height))
        for left in range(0, width, 4):
            yield picture[height // 2 : height // 2 + height, left : left + width]


def decode(picture: np.ndarray) -> np.ndarray:
    """Grey [H, W] of an image file's bytes."""
    return np.asarray(cv2.imdecode(picture, cv2.IMREAD_GRAYSCALE))
