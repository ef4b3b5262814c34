"""An image at several sizes."""

from __future__ import annotations

import cv2
import numpy as np

PER_OCTAVE = 2
"""Levels from one size of the image to half of it, unless another number is asked for."""
LEVEL_COST = 0.05
"""What each level between two features takes off their similarity. A corner is often found in several levels, with
descriptors that hardly differ; so it is the same ones of two images that match, and none stands in another's way."""


def step(per_octave: int = PER_OCTAVE) -> float:
    """How much smaller each level is than the one before."""
    return float(2 ** (-1 / per_octave))


def level_shape(shape: tuple[int, ...], level: int, per_octave: int = PER_OCTAVE) -> tuple[int, int]:
    """(height, width) of level 0, 1, ... of an image's pyramid; level 0 is the image."""
    height, width = (max(1, round(side * step(per_octave) ** level)) for side in shape)
    return height, width


def shrink(image: np.ndarray, level: int, per_octave: int = PER_OCTAVE) -> np.ndarray:
    """[H, W], by pixel area, to a level; see `level_shape`."""
    if level == 0:
        return image
    height, width = level_shape(image.shape, level, per_octave)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray | None, level: int, per_octave: int = PER_OCTAVE) -> np.ndarray | None:
    """[H, W], zero where no keypoint is wanted, to a level: zero wherever a pixel covers such a place."""
    if mask is None or level == 0:
        return mask
    return shrink((mask != 0).astype(np.float32), level, per_octave) > 0.9999


def enlarge(keypoints: np.ndarray, level: tuple[int, ...], image: tuple[int, ...]) -> np.ndarray:
    """Keypoints [N, 2] (x, y) of a level to the image's pixels; both shapes are (height, width)."""
    if level == image:
        return keypoints
    factor = np.array([image[1] / level[1], image[0] / level[0]], np.float32)
    return (keypoints + np.float32(0.5)) * factor - np.float32(0.5)


def area_weights(count: int, onto: int) -> np.ndarray:
    """[onto, count] float32: what `count` pixels in a row give to each of `onto` larger ones, as `shrink` has it."""
    edges = np.arange(onto + 1)[:, None] * (count / onto)
    pixels = np.arange(count)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (covered.clip(min=0) * (onto / count)).astype(np.float32)
