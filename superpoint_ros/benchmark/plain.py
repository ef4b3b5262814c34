"""What the benchmark compares with: the same network and rules as straightforward demo code has them.

Eager float32 torch, greedy suppression in a Python loop over the sorted candidates, NumPy matching both ways.
"""

from __future__ import annotations

import numpy as np
import torch

from superpoint_ros.features import Features
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import SuperPoint
from superpoint_ros.stopwatch import Stopwatch


class Plain:
    """Detects and matches; `settings.subpixel` and `settings.spread` are not used."""

    def __init__(self, network: SuperPoint, settings: KeypointSettings) -> None:
        self.network = network
        self.settings = settings

    def process(self, image: np.ndarray, previous: Features | None, stopwatch: Stopwatch) -> Features:
        """Find the features of a grey image whose sides are multiples of 8, and match them to the previous."""
        with torch.inference_mode():
            logits, descriptor_map = self.network(torch.from_numpy(image)[None, None].float() / 255)
        stopwatch.lap('network')
        scores = to_score_map(logits)
        stopwatch.lap('score map')
        keypoints, best = self.select(scores)
        stopwatch.lap('keypoints')
        descriptors = sample(descriptor_map, keypoints, image.shape)
        stopwatch.lap('descriptors')
        if previous:
            mutual_matches(descriptors, previous.descriptors)
        stopwatch.lap('matching')
        return Features(keypoints, best, descriptors)

    def select(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Greedy suppression, best first: keypoints [N, 2] (x, y) and scores [N]."""
        (height, width), radius, border = scores.shape, self.settings.nms_radius, self.settings.border
        y, x = np.nonzero(scores > self.settings.detection_threshold)
        order = np.argsort(-scores[y, x], kind='stable')
        free = np.ones((height + 2 * radius, width + 2 * radius), bool)
        kept = []
        for row, column in zip(y[order].tolist(), x[order].tolist(), strict=True):
            if free[row + radius, column + radius]:
                free[row : row + 2 * radius + 1, column : column + 2 * radius + 1] = False
                if border <= column < width - border and border <= row < height - border:
                    kept.append((column, row))
                    if len(kept) == self.settings.max_keypoints:
                        break
        keypoints = np.array(kept, np.float32).reshape(-1, 2)
        x, y = keypoints.astype(int).T
        return keypoints, scores[y, x]


def to_score_map(logits: torch.Tensor) -> np.ndarray:
    """[1, 65, h, w] -> [8 h, 8 w] probabilities."""
    exponentials = np.exp(logits[0].numpy())
    probabilities = exponentials[:-1] / exponentials.sum(axis=0)
    _, height, width = probabilities.shape
    cells = probabilities.transpose(1, 2, 0).reshape(height, width, 8, 8)
    return cells.transpose(0, 2, 1, 3).reshape(8 * height, 8 * width)


def sample(descriptor_map: torch.Tensor, keypoints: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bilinear samples of unit length: [N, D]."""
    height, width = shape
    grid = (torch.from_numpy(keypoints) + 0.5) / torch.tensor([width, height]) * 2 - 1
    sampled = torch.nn.functional.grid_sample(
        descriptor_map, grid[None, None], padding_mode='border', align_corners=False
    )
    return torch.nn.functional.normalize(sampled[0, :, 0].T, dim=1).numpy()


def mutual_matches(query: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Pairs of rows [M, 2] that are each other's nearest."""
    distances = np.sqrt(np.clip(2 - 2 * query @ train.T, 0, None))
    forth, back = distances.argmin(axis=1), distances.argmin(axis=0)
    rows = np.arange(len(query))
    mutual = back[forth] == rows
    return np.stack([rows[mutual], forth[mutual]], axis=1)
