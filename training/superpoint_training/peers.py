"""Detectors to compare: our networks and those people use today, behind one interface: picture to `Features`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import superpoint_ros
from superpoint_ros.detector import Detector
from superpoint_ros.features import Features
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import resolve_weights
from superpoint_ros.pyramid import PER_OCTAVE
from superpoint_training.versions import installed

Detect = Callable[[np.ndarray], Features]
CANDIDATES = 5000
"""Keypoints that every detector is asked for; a protocol counts the best of them."""
LEVELS = KeypointSettings().levels
"""Sizes at which our networks look at a picture unless another number is asked for, as the node does."""


@dataclass(frozen=True)
class NamedDetector:
    """A detector that says what it is; may be called by several threads.

    Attributes:
        name: as it was asked for.
        description: for people, such as 'superpoint, openvino bfloat16 on cpu'.
        key: changes with whatever may change a prediction: weights, code, settings, versions.
        detect: `[H, W]` uint8 grey to `Features`, best first. A detector without descriptors gives them as `[N, 0]`.
        describes: whether there are descriptors.
    """

    name: str
    description: str
    key: str
    detect: Detect
    describes: bool = True

    def __call__(self, picture: np.ndarray) -> Features:
        """The features of a grey picture."""
        return self.detect(picture)


def _from_opencv(make: Callable[[], cv2.Feature2D], picture: np.ndarray, *, describe: bool) -> Features:
    extractor = make()  # OpenCV's extractors are not safe to share between threads
    if describe:
        points, found = extractor.detectAndCompute(picture, None)
        dtype = np.uint8 if extractor.descriptorType() == cv2.CV_8U else np.float32
        descriptors = _unit(np.zeros((0, extractor.descriptorSize()), dtype) if found is None else found)
    else:
        points = extractor.detect(picture, None)
        descriptors = np.zeros((len(points), 0), np.float32)
    scores = np.array([point.response for point in points], np.float32)
    order = np.argsort(-scores, kind='stable')[:CANDIDATES]
    keypoints = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    return Features(keypoints[order], scores[order], descriptors[order])


def _unit(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors `[N, D]`, or binary ones as bytes, as unit vectors."""
    if descriptors.dtype == np.uint8:  # the dot product of +-1 bits falls linearly with Hamming distance
        descriptors = np.unpackbits(descriptors, axis=1).astype(np.float32) * 2 - 1
    length = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return np.asarray(descriptors / np.maximum(length, 1e-9), np.float32)


def _corners(picture: np.ndarray, *, harris: bool) -> Features:
    # An even block would be centred half a pixel off.
    cornerness = cv2.cornerHarris(picture, 3, 3, 0.04) if harris else cv2.cornerMinEigenVal(picture, 3, ksize=3)
    peaks = (cornerness == cv2.dilate(cornerness, np.ones((9, 9)))) & (cornerness > 0)
    rows, columns = np.nonzero(peaks)
    scores = cornerness[rows, columns]
    order = np.argsort(-scores, kind='stable')[:CANDIDATES]
    keypoints = np.stack([columns, rows], axis=1).astype(np.float32)[order]
    return Features(keypoints, scores[order].astype(np.float32), np.zeros((len(order), 0), np.float32))


def _maker(name: str) -> Callable[..., cv2.Feature2D] | None:
    """How the installed OpenCV makes an extractor, if it has it; OpenCV 5 moved some to its contrib modules."""
    for module in (cv2, getattr(cv2, 'xfeatures2d', None)):
        for attribute in (f'{name}_create', name):
            found = getattr(module, attribute, None)
            if found is not None:
                return getattr(found, 'create', found)
    return None


_EXTRACTORS: dict[str, tuple[str, dict[str, int]]] = {
    'sift': ('SIFT', {'nfeatures': CANDIDATES}),
    'orb': ('ORB', {'nfeatures': CANDIDATES}),
    'akaze': ('AKAZE', {}),
    'brisk': ('BRISK', {}),
    'fast': ('FastFeatureDetector', {'threshold': 10}),
}
_CORNERS = {'harris': True, 'shi-tomasi': False}
PEERS = (*_EXTRACTORS, *_CORNERS)
"""Names of the detectors that are not ours; the installed OpenCV may lack some."""


def make_detector(
    name: str,
    device: str = 'auto',
    nms_radius: int = 4,
    border: int = 4,
    levels: int = KeypointSettings().levels,
    *,
    levels_per_octave: int = KeypointSettings().levels_per_octave,
    engine: str = 'auto',
    precision: str = 'auto',
) -> NamedDetector:
    """One of `PEERS`, or the weights of that name or path, asked for `CANDIDATES` keypoints.

    Args:
        device, engine, precision: of our networks, as in `Detector.load`.
        nms_radius, border: of our networks, pixels.
        levels, levels_per_octave: of our networks, see `KeypointSettings`.

    Raises:
        WeightsError: no such weights.
        ValueError: a peer that the installed OpenCV lacks.
    """
    peer = name.lower()
    if peer in _CORNERS:
        return _peer(name, partial(_corners, harris=_CORNERS[peer]), describes=False)
    if peer in _EXTRACTORS:
        class_name, settings = _EXTRACTORS[peer]
        make = _maker(class_name)
        if make is None:
            raise ValueError(
                f'OpenCV {cv2.__version__} as installed has no {class_name}: '
                'leave it out, or install opencv-contrib-python-headless'
            )
        describes = peer != 'fast'
        return _peer(name, partial(_from_opencv, partial(make, **settings), describe=describes), describes)
    detector = Detector.load(
        name, device, engine=engine, precision=precision,
        max_keypoints=CANDIDATES, detection_threshold=0.0, nms_radius=nms_radius, border=border, levels=levels,
        levels_per_octave=levels_per_octave,
    )  # fmt: skip
    return _ours(name, detector)


def _peer(name: str, detect: Detect, describes: bool) -> NamedDetector:
    description = f'{name}, OpenCV {cv2.__version__}'
    return NamedDetector(name, description, _key(description, _code([Path(__file__)])), detect, describes)


def _ours(name: str, detector: Detector) -> NamedDetector:
    weights = hashlib.sha256(resolve_weights(name).read_bytes()).hexdigest()
    package = Path(superpoint_ros.__file__).parent
    code = _code([*package.glob('*.py'), *package.glob('networks/*.py')])
    return name_detector(name, detector, _key(detector.description, weights, str(detector.settings), code))


def name_detector(name: str, detector: Detector, key: str) -> NamedDetector:
    """One of our detectors, for several threads by turns; key: see `NamedDetector`."""
    lock = threading.Lock()

    def detect(picture: np.ndarray) -> Features:
        with lock:
            return detector.detect(picture)

    levels, per_octave = detector.settings.levels, detector.settings.levels_per_octave
    description = detector.description + f', {levels} levels' * (levels > 1)
    description += f', {per_octave} an octave' * (levels > 1 and per_octave != PER_OCTAVE)
    return NamedDetector(name, description, key, detect)


def _code(files: Iterable[Path]) -> str:
    return hashlib.sha256(b''.join(path.read_bytes() for path in sorted(files))).hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256('\n'.join([*parts, str(installed())]).encode()).hexdigest()[:16]
