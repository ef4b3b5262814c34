"""What detectors found, computed once: kept on disk by what it depends on, so that metrics can run again and again."""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np

from superpoint_ros.features import Features
from superpoint_training.peers import NamedDetector


class Predictions:
    """A detector whose features of a picture are computed once and kept.

    They are kept under the hash of the picture's pixels, in a folder for the detector's key (weights, settings,
    versions). Descriptors are kept in half precision, and always come back so, whether or not they were kept before.
    May be used by several threads. A disk that is full or read-only costs time, not the run.
    """

    def __init__(self, detector: NamedDetector, cache: Path | None = None, keypoints: int | None = None) -> None:
        """cache: folder; None keeps them in memory. keypoints: keep the best so many; None keeps all."""
        self.detector = detector
        self._keypoints = keypoints
        self._memory: dict[str, Features] = {}
        self._lock = threading.Lock()
        self._folder: Path | None = None
        if cache is not None:
            plain = re.sub(r'[^A-Za-z0-9_-]+', '_', Path(detector.name).stem)
            count = '' if keypoints is None else f'-best{keypoints}'
            self._folder = cache / f'{plain}-{detector.key}{count}'

    def __call__(self, picture: np.ndarray) -> Features:
        """Features of a `[H, W]` uint8 picture, best first."""
        digest = hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()[:32]
        features = self._kept(digest)
        if features is None:
            features = rounded(self.detector.detect(picture))
            if self._keypoints is not None:
                features = features.take(np.arange(min(len(features), self._keypoints)))
            self._keep(digest, features)
        return features

    def _kept(self, digest: str) -> Features | None:
        folder = self._folder  # which another thread may give up
        if folder is None:
            return self._memory.get(digest)
        try:
            with np.load(folder / f'{digest}.npz', allow_pickle=False) as arrays:
                return unpacked({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or cut off by a crash
            return None

    def _keep(self, digest: str, features: Features) -> None:
        folder = self._folder
        if folder is None:
            self._memory[digest] = features
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, suffix='.part') as part:
                file = Path(part) / f'{digest}.npz'
                np.savez(file, **packed(features))  # type: ignore[arg-type]  # numpy's stub takes them for its flags
                file.replace(folder / file.name)
        except OSError as error:
            with self._lock:
                if self._folder is not None:
                    warnings.warn(f"predictions are not kept in '{folder}': {error.strerror}", stacklevel=2)
                self._folder = None
            self._memory[digest] = features


def rounded(features: Features) -> Features:
    """The features as they come back from disk."""
    return unpacked(packed(features))


def packed(features: Features) -> dict[str, np.ndarray]:
    """Arrays to store. Binary descriptors, all of one magnitude, take a bit a value."""
    descriptors = features.descriptors
    arrays = {'keypoints': features.keypoints, 'scores': features.scores, 'levels': features.levels}
    if descriptors.size and (np.abs(descriptors) == np.abs(descriptors.flat[0])).all():
        return arrays | {'bits': np.packbits(descriptors > 0, axis=1), 'length': np.array(descriptors.shape[1])}
    return arrays | {'descriptors': descriptors.astype(np.float16)}


def unpacked(arrays: dict[str, np.ndarray]) -> Features:
    """The features of stored arrays.

    Raises:
        KeyError: an array is missing.
    """
    if 'bits' in arrays:
        length = int(arrays['length'])
        signs = np.unpackbits(arrays['bits'], axis=1, count=length).astype(np.float32) * 2 - 1
        descriptors = signs / np.float32(np.sqrt(length))
    else:
        descriptors = arrays['descriptors'].astype(np.float32)
    return Features(arrays['keypoints'], arrays['scores'], descriptors, arrays['levels'])
