"""From what the network says about an image at each of its sizes to the image's keypoints and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from superpoint_ros.engines import Engine, Maps
from superpoint_ros.keypoints import (
    KeypointSettings,
    best_rows,
    highest_around,
    sample_descriptors,
    select_cell_keypoints,
    select_keypoints,
    unit,
)
from superpoint_ros.pyramid import blend_weights, rescale, shrink, shrink_mask


class Level(NamedTuple):
    """One of an image's sizes, see `pyramid`, and what the network says about it."""

    shape: tuple[int, ...]
    """(height, width), without the padding that the maps have."""
    mask: np.ndarray | None
    """[height, width], zero where no keypoint is wanted; None where any may be, or none is looked for."""
    maps: Maps

    @property
    def scores(self) -> np.ndarray:
        """Of the pixels: without the padding, lest anything there competes with the image."""
        height, width = self.shape
        return self.maps.scores[:height, :width]


def look(
    engine: Engine,
    greys: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    settings: KeypointSettings,
    stride: int,
) -> list[list[Level]]:
    """All levels of some images, those of each in their order.

    greys: [H, W] uint8. masks: [H, W] of each or None. stride: pixels per cell of the network.
    """
    per_octave = settings.levels_per_octave
    views = [  # level by level, so that images of one size follow one another
        (
            row,
            shrink(grey, level, per_octave),
            shrink_mask(mask if level < settings.levels else None, level, per_octave),
        )
        for level in range(settings.sizes)
        for row, (grey, mask) in enumerate(zip(greys, masks, strict=True))
    ]
    levels: list[list[Level]] = [[] for _ in greys]
    padded = [pad(view, stride) for _, view, _ in views]
    for (row, view, mask), maps in zip(views, engine.maps(padded), strict=True):
        levels[row].append(Level(view.shape, mask, maps))
    return levels


def pad(image: np.ndarray, stride: int) -> np.ndarray:
    """Repeat the last row and column as `padding` asks for: padding that makes no edge."""
    bottom, right = padding(image.shape, stride)
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


def padding(shape: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Rows and columns that an image of (height, width) lacks to multiples of the stride.

    A width of one stride becomes two: oneDNN, of which torch and OpenVINO are users, gets bfloat16 convolutions wrong
    that stride a whole map of that width.
    """
    height, width = shape
    return -height % stride, max(-width % stride, 2 * stride - width)


def find_keypoints(
    levels: Sequence[Level], settings: KeypointSettings, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best keypoints of all levels of an image, best first; of equal ones that of the larger level first.

    levels: `settings.sizes` of them, of which the last only support the others. stride: pixels per cell of the network.
    Returns keypoints [N, 2] float32 (x, y) in pixels of the image, scores [N] float32, and the numbers [N] uint8 of the
    levels that they were found in.
    """
    # What other levels say, only score maps tell: a keypoint in every cell is not in the same place of every level.
    are_asked = len(levels) > 1 and levels[0].maps.offsets is None
    around = [highest_around(level.scores) for level in levels[: settings.levels + 1]] if are_asked else []
    every = []
    for number, level in enumerate(levels[: settings.levels]):
        if level.maps.offsets is None:
            beside = around[max(number - 1, 0) : number] + around[number + 1 : number + 2]
            keypoints, scores = select_keypoints(level.scores, settings, level.mask, beside)
        else:
            keypoints, scores = select_cell_keypoints(
                level.maps.scores, level.maps.offsets, stride, level.shape, settings, level.mask
            )
        numbers = np.full(len(scores), number, np.uint8)
        every.append((rescale(keypoints, level.shape, levels[0].shape), scores, numbers))
    keypoints, scores, numbers = (np.concatenate(column) for column in zip(*every, strict=True))
    x, y = np.floor(keypoints + 0.5).astype(np.intp).T
    best = best_rows(x, y, scores, settings)
    return keypoints[best], scores[best], numbers[best]


def describe(
    levels: Sequence[Level], keypoints: np.ndarray, numbers: np.ndarray, settings: KeypointSettings, stride: int
) -> np.ndarray:
    """[N, D] float32, unit length: descriptors of what `find_keypoints` found, blended over the levels around.

    stride: pixels per entry of the descriptor maps. See `pyramid.blend_weights`.
    """
    if len(levels) == 1:
        return sample_descriptors(levels[0].maps.descriptors, keypoints, stride)
    weights = blend_weights(settings.levels_per_octave)
    blended = np.zeros((len(keypoints), levels[0].maps.descriptors.shape[-1]), np.float32)
    for number, level in enumerate(levels):
        apart = np.abs(numbers.astype(np.intp) - number)
        rows = np.flatnonzero(apart < len(weights))
        positions = rescale(keypoints[rows], levels[0].shape, level.shape)
        described = sample_descriptors(level.maps.descriptors, positions, stride)
        blended[rows] += weights[apart[rows], None] * described
    return unit(blended)
