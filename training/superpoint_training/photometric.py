"""Changes of light, sensor and motion that leave every point where it is (reference: SuperPoint's training)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class PhotometricConfig:
    """Strengths; each change is drawn with probability `probability`.

    Attributes:
        brightness: largest shift, grey levels.
        contrast: smallest and largest factor about the mean.
        noise: largest sigma of additive Gaussian noise, grey levels.
        speckle: largest share of pixels set to black or white.
        shade: smallest and largest strength of soft dark or bright ellipses.
        motion_blur: longest blur, pixels; kernels have odd sides, an even one being taken for the next.
        probability: of each single change.
        least_variance: share of the picture's variance that a change must leave, or it is not made; GoodPoint's test
            is 0.1, and 0 leaves it out.
        defocus: largest sigma of a lens out of focus, pixels; 0 for none.
        gamma: largest exponent of the grey levels in [0, 1], or its inverse; 1 for none.
        jpeg: worst quality of a JPEG that the picture went through, 1 to 100; 100 for none.
    """

    brightness: float = 50
    contrast: tuple[float, float] = (0.5, 1.5)
    noise: float = 10
    speckle: float = 0.0035
    shade: tuple[float, float] = (-0.5, 0.5)
    motion_blur: int = 3
    probability: float = 0.5
    least_variance: float = 0.0
    defocus: float = 0.0
    gamma: float = 1.0
    jpeg: int = 100

    def __post_init__(self) -> None:
        for name in ('contrast', 'shade'):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f'{name} must be a smallest and a largest value, got {low} and {high}')
        if not 0 <= self.probability <= 1:
            raise ValueError(f'probability must be from 0 to 1, got {self.probability}')
        if self.gamma < 1 or not 1 <= self.jpeg <= 100:
            raise ValueError(f'gamma must be at least 1 and jpeg from 1 to 100, got {self.gamma} and {self.jpeg}')
        if min(self.brightness, self.noise, self.speckle, self.motion_blur, self.defocus) < 0:
            raise ValueError('brightness, noise, speckle, motion_blur and defocus must not be negative')


Change = Callable[[np.random.Generator, np.ndarray, PhotometricConfig], np.ndarray]


def augment(rng: np.random.Generator, image: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    """Apply a random subset of the changes to a grey picture `[H, W]` uint8; returns a new one of the same kind."""
    pixels = image.astype(np.float32)
    least = config.least_variance * pixels.var()
    for change in _changes(config):
        if rng.random() < config.probability:
            changed = change(rng, pixels, config)
            if not config.least_variance or np.clip(changed, 0, 255).var() >= least:
                pixels = changed
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _defocused(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0, config.defocus) + 0.1), np.float32)


def _curved(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    exponent = np.float32(config.gamma ** rng.uniform(-1, 1))
    return np.asarray((pixels.clip(0, 255) / 255) ** exponent * 255)


def _compressed(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    quality = int(rng.integers(config.jpeg, 101))
    _, file = cv2.imencode('.jpg', pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.float32)


def _shaded(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    return np.asarray(pixels * _shade(rng, pixels.shape, config.shade))


def _contrasted(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    mean = pixels.mean()
    return np.asarray((pixels - mean) * np.float32(rng.uniform(*config.contrast)) + mean)


def _brightened(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    return np.asarray(pixels + np.float32(rng.uniform(-config.brightness, config.brightness)))


def _motion_blurred(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    if config.motion_blur < 2:
        return pixels
    return np.asarray(cv2.filter2D(pixels, -1, _motion_kernel(rng, config.motion_blur)), np.float32)


def _with_noise(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    grain = rng.standard_normal(pixels.shape, np.float32)
    return np.asarray(pixels + grain * np.float32(rng.uniform(0, config.noise)))


def _speckled(rng: np.random.Generator, pixels: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    count = int(rng.uniform(0, config.speckle) * pixels.size)
    rows, columns = rng.integers(pixels.shape[0], size=count), rng.integers(pixels.shape[1], size=count)
    speckled = pixels.copy()
    speckled[rows, columns] = rng.choice(np.array([0, 255], np.float32), count)
    return speckled


CHANGES: tuple[Change, ...] = (_shaded, _contrasted, _brightened, _motion_blurred, _with_noise, _speckled)
"""The papers' six, in the order in which they are made."""


def _changes(config: PhotometricConfig) -> list[Change]:
    """Lens and sensor's curve, the six, the file. The first and the last draw nothing where they are not asked for."""
    before = [_defocused] * (config.defocus > 0) + [_curved] * (config.gamma > 1)
    return [*before, *CHANGES, *[_compressed] * (config.jpeg < 100)]


def _shade(rng: np.random.Generator, shape: tuple[int, ...], strength: tuple[float, float]) -> np.ndarray:
    """`[H, W]` factors: twenty soft ellipses, drawn at a quarter of the size since nothing in them is sharp."""
    height, width = -(-shape[0] // 4), -(-shape[1] // 4)
    mask = np.zeros((height, width), np.float32)
    for _ in range(20):
        axes = (int(rng.integers(1, max(2, width // 4))), int(rng.integers(1, max(2, height // 4))))
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 90)), 0, 360, 1.0, -1)
    soft = cv2.blur(mask, (15, 15))
    factors = 1 - np.float32(rng.uniform(*strength)) * soft
    return np.asarray(cv2.resize(factors, (shape[1], shape[0])), np.float32)


def _motion_kernel(rng: np.random.Generator, longest: int) -> np.ndarray:
    size = int(rng.integers(2, longest + 1)) // 2 * 2 + 1
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = (size - 1) / 2
    step = np.array([np.cos(angle), np.sin(angle)]) * reach
    start, end = (np.round(reach + sign * step).astype(int) for sign in (-1, 1))
    cv2.line(kernel, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 1.0)
    kernel = kernel + kernel[::-1, ::-1]  # a drawn line may lie beside the middle, and would move the picture
    return np.asarray(kernel / kernel.sum())
