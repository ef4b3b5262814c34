"""Changes of light, sensor and motion that leave every point where it is (reference: SuperPoint's training)."""

from __future__ import annotations

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
        motion_blur: longest blur, pixels.
        probability: of each single change.
    """

    brightness: float = 50
    contrast: tuple[float, float] = (0.5, 1.5)
    noise: float = 10
    speckle: float = 0.0035
    shade: tuple[float, float] = (-0.5, 0.5)
    motion_blur: int = 3
    probability: float = 0.5


def augment(rng: np.random.Generator, image: np.ndarray, config: PhotometricConfig) -> np.ndarray:
    """Apply a random subset of the changes to a grey picture `[H, W]` uint8; returns a new one of the same kind."""

    def wanted() -> bool:
        return rng.random() < config.probability

    pixels = image.astype(np.float32)
    if wanted():
        pixels *= _shade(rng, pixels.shape, config.shade)
    if wanted():
        mean = pixels.mean()
        pixels = (pixels - mean) * np.float32(rng.uniform(*config.contrast)) + mean
    if wanted():
        pixels += np.float32(rng.uniform(-config.brightness, config.brightness))
    if wanted() and config.motion_blur > 1:
        pixels = np.asarray(cv2.filter2D(pixels, -1, _motion_kernel(rng, config.motion_blur)), np.float32)
    if wanted():
        grain = rng.standard_normal(pixels.shape, np.float32)
        pixels += grain * np.float32(rng.uniform(0, config.noise))
    if wanted():
        share = rng.uniform(0, config.speckle)
        count = int(share * pixels.size)
        rows, columns = rng.integers(pixels.shape[0], size=count), rng.integers(pixels.shape[1], size=count)
        pixels[rows, columns] = rng.choice(np.array([0, 255], np.float32), count)
    return np.clip(pixels, 0, 255).astype(np.uint8)


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
    return kernel / kernel.sum()
