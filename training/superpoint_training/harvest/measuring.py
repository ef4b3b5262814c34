"""What is measured of each recorded image, so that all later decisions need no pixels."""

from __future__ import annotations

import cv2
import numpy as np

from superpoint_training.frames import fit

THUMBNAIL = (12, 16)
"""Height and width."""

MEASUREMENT = np.dtype(
    [
        ('topic', 'i2'),  # which of the topics that are read
        ('index', 'i4'),  # of the image among all of its topic
        ('time_ns', 'i8'),  # when it was recorded
        ('fault', 'S40'),  # why it can't be read; empty if it can
        ('height', 'i4'),
        ('width', 'i4'),
        ('sharpness', 'f4'),
        ('black', 'f4'),  # share of the picture
        ('white', 'f4'),
        ('contrast', 'f4'),  # grey levels from percentile 5 to 95
        ('thumbnail', 'u1', THUMBNAIL),
    ]
)
"""One row of a survey; 270 bytes, so an hour of 30 images a second takes 30 MB."""

_BLACK, _WHITE = 8, 247
_MEASURED_SIDE = 480
_EDGES = 0.02  # share of the picture, by its steepest steps


def measure(picture: np.ndarray, row: np.void) -> None:
    """Fill the fields of a row that the pixels tell. `picture` is [H, W] uint8."""
    row['height'], row['width'] = picture.shape
    small = fit(picture, _MEASURED_SIDE)
    shares = _shares_up_to(small)
    row['black'] = shares[_BLACK]
    row['white'] = 1 - shares[_WHITE - 1]
    low, high = np.searchsorted(shares, (0.05, 0.95))
    row['contrast'] = high - low
    row['sharpness'] = sharpness(small)
    row['thumbnail'] = cv2.resize(small, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)


def sharpness(picture: np.ndarray) -> float:
    """How much of its steepest steps a picture loses when it is blurred along them, from 0 (all blurred) to 1.

    A sharp edge loses most of its steepness to more blur, a blurred one little (Crété et al. 2007). Taken over the
    steepest 2 % of steps this hardly depends on how much texture there is, and, after a light smoothing, on noise.
    The lesser of both directions counts, since motion blurs along one.

    Args:
        picture: [H, W] uint8.
    """
    if min(picture.shape) < 2:
        return 0.0
    smooth = cv2.blur(picture, (3, 3))
    kept = []
    for blurred, axis in ((cv2.blur(smooth, (9, 1)), 1), (cv2.blur(smooth, (1, 9)), 0)):
        steps, left = _steps(smooth, axis), _steps(blurred, axis)
        threshold = max(int(np.searchsorted(_shares_up_to(steps), 1 - _EDGES)), 2)
        edges = (steps >= threshold).view(np.uint8)
        total = cv2.mean(steps, edges)[0]
        kept.append(cv2.mean(cv2.subtract(steps, left), edges)[0] / total if total else 0.0)
    return min(kept)


def _shares_up_to(levels: np.ndarray) -> np.ndarray:
    """[256] share of a uint8 array that is at most each level."""
    counts = cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel()
    return np.cumsum(counts, dtype=np.float64) / levels.size


def _steps(picture: np.ndarray, axis: int) -> np.ndarray:
    """Differences between neighbours, without their sign."""
    if axis == 1:
        return np.asarray(cv2.absdiff(picture[:, 1:], picture[:, :-1]))
    return np.asarray(cv2.absdiff(picture[1:], picture[:-1]))


def appearance(thumbnails: np.ndarray) -> np.ndarray:
    """[N, D] float32 whose distances tell how different pictures look, whatever their exposure.

    Each thumbnail gets mean 0 and deviation 1, or less if it is nearly flat, so that noise stays small; the root of
    the mean squared difference of two is their Euclidean distance here.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), 12.0)
    return flat / np.float32(np.sqrt(flat.shape[1]))
