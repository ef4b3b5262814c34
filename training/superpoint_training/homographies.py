"""Random homographies in pixel coordinates, and points and pictures moved by them.

A homography is `[3, 3]` float64 and maps reference pixel to other pixel (x, y, pixel centres at integers).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SMOOTHING = 0.4
"""Sigma of the blur before shrinking by f, per `sqrt(f^2 - 1)` pixels; a pixel's area has 0.29."""


@dataclass(frozen=True)
class HomographyConfig:
    """Ranges of a random view.

    Attributes:
        scale: smallest and largest zoom; drawn from a normal about 1, cut off at the ends.
        rotation: largest in-plane turn to either side, radians.
        perspective: largest shift of a corner by perspective, as a share of half the picture's size.
        translation: largest shift of the centre, as a share of the picture's size.
        tilt: largest ratio of lengths along and across some direction, as a plane has it that is seen from the side:
            `1 / cos` of the angle; 1 for none. Perspective alone, within these limits, seldom comes to 1.3.
    """

    scale: tuple[float, float] = (0.8, 1.2)
    rotation: float = np.pi / 2
    perspective: float = 0.2
    translation: float = 0.1
    tilt: float = 1.0

    def __post_init__(self) -> None:
        if self.tilt < 1:
            raise ValueError(f'tilt must be at least 1, got {self.tilt}')
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f'scale must be a smallest and a largest zoom above 0, got {self.scale}')
        if min(self.rotation, self.perspective, self.translation) < 0 or self.perspective >= 1:
            raise ValueError('rotation, perspective and translation must not be negative, and perspective below 1')


def truncated_normal(rng: np.random.Generator, sigma: float, low: float, high: float) -> float:
    """A draw from a zero-mean normal restricted to [low, high], by rejection; `low` itself where they are equal."""
    while low < high:
        value = rng.normal(0, sigma)
        if low <= value <= high:
            return float(value)
    return low


def sample_homography(rng: np.random.Generator, height: int, width: int, config: HomographyConfig) -> np.ndarray:
    """A random view of a `height` x `width` picture: perspective, then tilt, zoom, turn and shift about its centre.

    Perspective is symmetric, as in SuperPoint's training: one draw tilts the top against the bottom, one the left
    against the right. Turn and zoom are done in pixels, not in a unit square, which would shear a picture that is
    not square.
    """
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    half = np.array([width, height]) / 2
    tilt_x, tilt_y = (
        truncated_normal(rng, config.perspective / 2, -config.perspective, config.perspective)
        if config.perspective > 0 else 0.0
        for _ in range(2)
    )  # fmt: skip
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    tilted = square * np.stack([1 + tilt_x * square[:, 1], 1 + tilt_y * square[:, 0]], axis=1)
    perspective = cv2.getPerspectiveTransform((square * half).astype(np.float32), (tilted * half).astype(np.float32))
    low, high = config.scale
    zoom = 1 + truncated_normal(rng, max(high - 1, 1 - low, 1e-9) / 2, low - 1, high - 1)
    angle = rng.uniform(-config.rotation, config.rotation)
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    x, y = centre + rng.uniform(-1, 1, 2) * config.translation * 2 * half
    turn = np.array([[cosine, -sine, x], [sine, cosine, y], [0, 0, 1]])
    return turn @ _tilt(rng, config.tilt) @ perspective @ translation(-centre[0], -centre[1])


def _tilt(rng: np.random.Generator, largest: float) -> np.ndarray:
    """Lengths along a random direction by so much larger than across it, areas as they were."""
    if largest == 1:
        return np.eye(3)
    ratio = np.exp(abs(truncated_normal(rng, np.log(largest) / 2, -np.log(largest), np.log(largest))))
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    stretch = np.eye(3)
    stretch[:2, :2] = (np.eye(2) + (ratio - 1) * np.outer(along, along)) / np.sqrt(ratio)
    return stretch


def translation(x: float, y: float) -> np.ndarray:
    """The shift by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def rescaling(factor_x: float, factor_y: float) -> np.ndarray:
    """Maps a pixel to where resizing by the factors puts it: `(k + 0.5) * factor - 0.5`."""
    return np.array([[factor_x, 0, factor_x / 2 - 0.5], [0, factor_y, factor_y / 2 - 0.5], [0, 0, 1]], np.float64)


def warp_points(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Points `[N, 2]` moved by a homography; a point on its horizon becomes infinite."""
    mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homography.T
    with np.errstate(divide='ignore', invalid='ignore'):
        return mapped[:, :2] / mapped[:, 2:]


def inside(points: np.ndarray, height: int, width: int, margin: float = 0) -> np.ndarray:
    """Which points `[N, 2]` lie in the picture, at least `margin` pixels from the centres of its border pixels."""
    limit = np.array([width - 1 - margin, height - 1 - margin])
    return np.asarray(((points >= margin) & (points <= limit)).all(axis=1))


def warp_image(image: np.ndarray, homography: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture seen through a homography, bilinear, black where it shows nothing."""
    return np.asarray(cv2.warpPerspective(image, homography, (width, height)), np.uint8)


def smoothed(image: np.ndarray, homography: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture, blurred as far as the middle of its `height` x `width` view shrinks it, so that nothing aliases."""
    middle = np.array([width - 1, height - 1]) / 2 + np.array([[0, 0], [1, 0], [0, 1]])
    origin, *sides = warp_points(middle, np.linalg.inv(homography))
    shrunk = abs(np.linalg.det(np.stack(sides) - origin))  # pixels of the picture that one of the view covers
    return np.asarray(cv2.GaussianBlur(image, (0, 0), SMOOTHING * np.sqrt(shrunk - 1))) if shrunk > 1 else image


def valid_mask(shape: tuple[int, int], homography: np.ndarray, height: int, width: int, erosion: int = 0) -> np.ndarray:
    """Where `warp_image` shows the picture of `shape` rather than black, shrunk by `erosion` pixels."""
    seen = cv2.warpPerspective(np.ones(shape, np.uint8), homography, (width, height), flags=cv2.INTER_NEAREST)
    if erosion:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * erosion + 1, 2 * erosion + 1))
        seen = cv2.erode(seen, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(seen > 0)
