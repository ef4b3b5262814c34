"""An image at several sizes."""

from __future__ import annotations

import cv2
import numpy as np

PER_OCTAVE = 2
"""Levels from one size of the image to half of it, unless another number is asked for."""
LEVEL_COST = 0.08
"""What each level between two features takes off their similarity. A corner is often found in several levels, with
descriptors that hardly differ; so it is the same ones of two images that match, and none stands in another's way."""


def blend_weights(per_octave: int) -> np.ndarray:
    """[per_octave + 1] float32: what a descriptor in a keypoint's own level counts, in one beside it, to an octave.

    Descriptors of several sizes of a place, added up, match better than any of them, for no two pictures show the place
    in just the sizes that the levels have (Dong and Soatto 2015, Domain-Size Pooling in Local Descriptors).
    """
    return (4.0 ** -(np.arange(per_octave + 1) / per_octave)).astype(np.float32)


def step(per_octave: int) -> float:
    """How much smaller each level is than the one before."""
    return float(2 ** (-1 / per_octave))


def level_shape(shape: tuple[int, ...], level: int, per_octave: int) -> tuple[int, int]:
    """(height, width) of level 0, 1, ... of an image's pyramid; level 0 is the image."""
    height, width = (max(1, round(side * step(per_octave) ** level)) for side in shape)
    return height, width


def shrink(image: np.ndarray, level: int, per_octave: int) -> np.ndarray:
    """[H, W], by pixel area, to a level; see `level_shape`."""
    if level == 0:
        return image
    height, width = level_shape(image.shape, level, per_octave)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray | None, level: int, per_octave: int) -> np.ndarray | None:
    """[H, W], zero where no keypoint is wanted, to a level: zero wherever a pixel covers such a place."""
    if mask is None or level == 0:
        return mask
    return shrink((mask != 0).astype(np.float32), level, per_octave) > 0.9999


def rescale(keypoints: np.ndarray, of: tuple[int, ...], onto: tuple[int, ...]) -> np.ndarray:
    """Keypoints [N, 2] float32 (x, y) of one level, or the image, to another's pixels; both shapes (height, width)."""
    if of == onto:
        return keypoints
    factor = np.array([onto[1] / of[1], onto[0] / of[0]], np.float32)
    return (keypoints + np.float32(0.5)) * factor - np.float32(0.5)


def covering_pixels(count: int, onto: int) -> np.ndarray:
    """[count] int64: for each of `count` pixels in a row that one of `onto` in the same row that covers its middle."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * onto // (2 * count)


def area_weights(count: int, onto: int) -> np.ndarray:
    """[onto, count] float32: what `count` pixels in a row give to each of `onto` larger ones, as `shrink` has it."""
    edges = np.arange(onto + 1)[:, None] * (count / onto)
    pixels = np.arange(count)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (covered.clip(min=0) * (onto / count)).astype(np.float32)
