"""The debug picture: what the front-end sees in an image, at a glance."""

from __future__ import annotations

import cv2
import numpy as np

from superpoint_ros.frontend import Frame

OLD = 30
"""Frames after which a track has the last colour of the scale."""
OUTLIER = (255, 60, 60)
NEW = (150, 150, 150)
TEXT = (255, 255, 255)
DIMMED = 0.6
"""Brightness left to the image, so that colours stand out."""
SUBPIXEL_BITS = 4
"""OpenCV draws at fractions of a pixel given as integers with so many binary places."""


def draw_frame(image: np.ndarray, frame: Frame) -> np.ndarray:
    """The image with its features and their motion since the previous frame: [H, W, 3] uint8 RGB.

    Tracked features are dots with a tail to where they were, from blue (young) to red (old); new ones are
    grey rings, half a dot larger for each level below the image's own; rejected matches are thin bright-red lines. A
    caption counts them all.
    image: [H, W] or [H, W, 3] RGB uint8, the one that `frame` was made from.
    """
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    picture = cv2.convertScaleAbs(picture, alpha=DIMMED)
    size = max(1, round(min(picture.shape[:2]) / 240))
    keypoints, matches, ages = frame.features.keypoints, frame.matches, frame.track_ages

    motion = np.stack([frame.previous_keypoints[matches.train], keypoints[matches.query]], axis=1)
    _draw_lines(picture, motion[~matches.inlier], OUTLIER, 1)
    radii = _fixed_point(size * (1 + frame.features.levels[ages == 1] / 2))
    for centre, radius in zip(_fixed_point(keypoints[ages == 1]).tolist(), radii.tolist(), strict=True):
        cv2.circle(picture, centre, radius, NEW, 1, cv2.LINE_AA, SUBPIXEL_BITS)

    match_ages = ages[matches.query]
    for age in np.unique(np.minimum(ages[ages > 1], OLD)).tolist():
        colour = _age_colour(age)
        _draw_lines(picture, motion[matches.inlier & (np.minimum(match_ages, OLD) == age)], colour, size)
        for centre in _fixed_point(keypoints[np.minimum(ages, OLD) == age]).tolist():
            cv2.circle(picture, centre, size << SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    _write_caption(picture, frame)
    return picture


def _age_colour(age: int) -> tuple[int, ...]:
    scale = np.array([[50 + 205 * age // OLD]], np.uint8)  # the scale begins too dark to be seen
    return tuple(cv2.applyColorMap(scale, cv2.COLORMAP_TURBO)[0, 0, ::-1].tolist())


def _draw_lines(picture: np.ndarray, lines: np.ndarray, colour: tuple[int, ...], thickness: int) -> None:
    """lines: [M, 2 (ends), 2 (x, y)]."""
    cv2.polylines(picture, list(_fixed_point(lines)), False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _write_caption(picture: np.ndarray, frame: Frame) -> None:
    """One line on a dark bar along the lower edge, as large as the picture's width allows."""
    inliers, total = int(frame.matches.inlier.sum()), sum(frame.timings.values())
    caption = f'{len(frame.features)} features   {len(frame.matches)} matches   {inliers} inliers   {total:.0f} ms'
    (width, height), baseline = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = min(0.9 * picture.shape[1] / width, 0.55 * max(1.0, picture.shape[0] / 480))
    bar = round(2 * (height + baseline) * scale)
    picture[-bar:] = picture[-bar:] // 3
    origin = (round(0.02 * picture.shape[1]), picture.shape[0] - round(bar / 2 - height * scale / 2))
    cv2.putText(picture, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT, 1, cv2.LINE_AA)
