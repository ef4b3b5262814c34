"""Training examples by number: example i is a function of (seed, i), so a run resumes exactly where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from superpoint_ros.networks import STRIDE
from superpoint_training import shapes
from superpoint_training.distributed import World
from superpoint_training.homographies import (
    HomographyConfig,
    inside,
    sample_homography,
    smoothed,
    translation,
    valid_mask,
    warp_image,
    warp_points,
)
from superpoint_training.interruptible import leave_interrupts_to_parent
from superpoint_training.photometric import PhotometricConfig, augment
from superpoint_training.sources import PairSource

Example = dict[str, Tensor]


def cell_targets(rng: np.random.Generator, keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[H/8, W/8]` targets: the keypoint's pixel in the cell, raster order, 64 for none; one of several by lot.

    A keypoint belongs to the pixel whose centre is nearest; those outside the picture are dropped.
    """
    pixels = np.round(keypoints).astype(np.int64)
    pixels = rng.permutation(pixels[inside(pixels, height, width)])
    targets = np.full((height // STRIDE, width // STRIDE), STRIDE**2, np.int64)
    x, y = pixels.T
    targets[y // STRIDE, x // STRIDE] = y % STRIDE * STRIDE + x % STRIDE
    return targets


def expected_keypoints(
    keypoints: np.ndarray, probabilities: np.ndarray, height: int, width: int, sigma: float
) -> np.ndarray:
    """`[H, W]` float32, how many keypoints each pixel is expected to have.

    Each keypoint `[N, 2]` (x, y) gives its probability `[N]`, spread over the 5x5 pixels around it by a Gaussian of
    sigma pixels; what falls outside the picture is lost.
    """
    reach = 2
    nearest = np.round(keypoints).astype(np.intp)
    near = inside(nearest, height, width, -reach)
    keypoints, probabilities, nearest = keypoints[near], probabilities[near], nearest[near]
    pixels = nearest[:, None] + np.arange(-reach, reach + 1)[:, None]
    across, down = np.moveaxis(np.exp(-((pixels - keypoints[:, None]) ** 2) / (2 * sigma**2)), 2, 0)
    shares = down[:, :, None] * across[:, None]
    shares *= (probabilities / shares.sum(axis=(1, 2)))[:, None, None]
    expected = np.zeros((height + 4 * reach, width + 4 * reach), np.float32)
    x, y = np.moveaxis(pixels + 2 * reach, 2, 0)
    np.add.at(expected, (y[:, :, None], x[:, None]), shares)
    return expected[2 * reach : -2 * reach, 2 * reach : -2 * reach]


def _as_image(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture)[None]


@dataclass(frozen=True)
class ShapesConfig:
    """Synthetic Shapes as training data: picture size in pixels and how it is spoilt."""

    height: int = 120
    width: int = 160
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)


class ShapeExamples(Dataset[Example]):
    """Pictures of shapes: `image [1, H, W]` uint8, `cells [H/8, W/8]` int64, `valid [H/8, W/8]` bool."""

    def __init__(self, config: ShapesConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    def __getitem__(self, index: int) -> Example:
        """Render example `index`."""
        rng = np.random.default_rng([self.seed, index])
        config = self.config
        picture, corners = shapes.render(rng, config.height, config.width)
        picture = augment(rng, picture, config.photometric)
        cells = cell_targets(rng, corners, config.height, config.width)
        return {
            'image': _as_image(picture),
            'cells': torch.from_numpy(cells),
            'valid': torch.ones(cells.shape, dtype=torch.bool),
        }


@dataclass(frozen=True)
class PairsConfig:
    """How two views are cut out of a frame.

    Attributes:
        size: side of the square crops, pixels.
        first: the view that the first crop shows, relative to a square of that size somewhere in the frame.
        second: the second view, relative to the first.
        photometric: applied to each crop on its own.
        points: correspondences drawn a pair for the sparse descriptor loss.
        random_share: of them, anywhere in the overlap rather than on keypoints.
        label_sigma: how far a label's probability is spread over the pixels around it; with 0 a label is a pixel of its
            cell, and sure.
    """

    size: int = 160
    first: HomographyConfig = field(default_factory=lambda: HomographyConfig((0.7, 1.3), np.pi / 12, 0.0, 0.1))
    second: HomographyConfig = field(default_factory=HomographyConfig)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    points: int = 200
    random_share: float = 0.25
    label_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.size < STRIDE or self.size % STRIDE:
            raise ValueError(f'size must be a multiple of {STRIDE} pixels, got {self.size}')
        if self.label_sigma < 0:
            raise ValueError(f'label_sigma must not be negative, got {self.label_sigma}')
        if self.points < 1:
            raise ValueError(f'points must be at least 1, got {self.points}')
        if not 0 <= self.random_share <= 1:
            raise ValueError(f'random_share must be from 0 to 1, got {self.random_share}')


class PairExamples(Dataset[Example]):
    """Two views of a picture from one of several sources, drawn by weight.

    For each of the views `a` and `b`: `image_* [1, S, S]` uint8, `valid_* [S/8, S/8]` bool, and the labels: `cells_*
    [S/8, S/8]` int64, see `cell_targets`, or with a `label_sigma` `expected_* [S, S]` float32, see
    `expected_keypoints`. For the descriptor losses `points_a`, `points_b [N, 2]` float32 with `points_valid [N]` bool,
    and `centres_in_b [S*S/64, 2]` float32, the cell centres of a in pixels of b, with `described`, a bool: whether the
    picture is for the descriptor at all. And `a_to_b [3, 3]` float32, the homography.

    Args:
        sources: each with its weight, which need not add up to 1.
        config: how views are cut.
        seed: of all examples.
    """

    def __init__(self, sources: Sequence[tuple[PairSource, float]], config: PairsConfig, seed: int) -> None:
        if not sources or min(weight for _, weight in sources) <= 0:
            raise ValueError('pairs need at least one source, and every source a weight above 0')
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources])
        self._shares = weights / weights.sum()
        self.config = config
        self.seed = seed

    def __getitem__(self, index: int) -> Example:
        """Cut out example `index`."""
        rng = np.random.default_rng([self.seed, index])
        config, size = self.config, self.config.size
        drawn = self.sources[rng.choice(len(self.sources), p=self._shares)].draw(rng)
        shape = drawn.picture.shape[0], drawn.picture.shape[1]
        # A picture smaller than the crop is centred in it, with a black margin that does not count.
        room = [max(n - size, 0) for n in shape]
        top, left = (rng.uniform(0, r) if r else (n - size) / 2 for n, r in zip(shape, room, strict=True))
        to_a = sample_homography(rng, size, size, config.first) @ translation(-left, -top)
        a_to_b = sample_homography(rng, size, size, config.second)

        example: Example = {}
        seen: dict[str, np.ndarray] = {}
        for name, view in (('a', to_a), ('b', a_to_b @ to_a)):
            smooth = smoothed(drawn.picture, view, size, size)
            picture = augment(rng, warp_image(smooth, view, size, size), config.photometric)
            seen[name] = valid_mask(shape, view, size, size, erosion=2)
            blocks = seen[name].reshape(size // STRIDE, STRIDE, size // STRIDE, STRIDE)
            example[f'image_{name}'] = _as_image(picture)
            example[f'valid_{name}'] = torch.from_numpy(blocks.all(axis=(1, 3)))
            moved = warp_points(drawn.labels[:, :2], view)
            if config.label_sigma:
                expected = expected_keypoints(moved, drawn.labels[:, 2], size, size, config.label_sigma)
                example[f'expected_{name}'] = torch.from_numpy(expected)
            else:
                example[f'cells_{name}'] = torch.from_numpy(cell_targets(rng, moved, size, size))
        points = self._correspondences(rng, drawn.labels, to_a, a_to_b)
        x, y = points['points_a'].round().astype(int).T
        points['points_valid'] &= drawn.described & seen['a'][y, x]
        example |= {name: torch.from_numpy(value) for name, value in points.items()}
        centres = (np.stack(np.meshgrid(*[np.arange(size // STRIDE)] * 2), axis=-1) + 0.5) * STRIDE - 0.5
        example['centres_in_b'] = torch.from_numpy(warp_points(centres.reshape(-1, 2), a_to_b)).float()
        example['a_to_b'] = torch.from_numpy(a_to_b).float()
        example['described'] = torch.tensor(drawn.described)
        return example

    def _correspondences(
        self, rng: np.random.Generator, labels: np.ndarray, to_a: np.ndarray, a_to_b: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Points seen in both crops: keypoints by lot, sure ones rather, then random places, as many as asked for."""
        size, count = self.config.size, self.config.points
        by_lot = np.argsort(rng.exponential(size=len(labels)) / labels[:, 2])
        keypoints = warp_points(labels[by_lot, :2], to_a)
        anywhere = rng.uniform(2, size - 3, (4 * count, 2))
        groups = []
        for points in (keypoints, anywhere):
            moved = warp_points(points, a_to_b)
            both = inside(points, size, size, 2) & inside(moved, size, size, 2)
            groups.append(points[both])
        on_keypoints = groups[0][: int(count * (1 - self.config.random_share))]
        points = np.concatenate([on_keypoints, groups[1]])[:count]
        padded = np.zeros((count, 2))
        padded[: len(points)] = points
        moved = np.zeros((count, 2))
        moved[: len(points)] = warp_points(points, a_to_b)
        valid = np.arange(count) < len(points)
        return {
            'points_a': padded.astype(np.float32),
            'points_b': moved.astype(np.float32),
            'points_valid': valid,
        }


def workers_beside(device: torch.device, given: int | None = None) -> int:
    """How many processes make examples: as many as are given or, if none are, what a device leaves room for.

    One beside a CPU, which has the rest to do for the training. Beside a GPU, which trains on more than they make, all
    cores but one, shared among the processes that torchrun started on this machine.
    """
    if given is not None:
        return given
    if device.type == 'cpu':
        return 1
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get('LOCAL_WORLD_SIZE', '1')) - 1)


def batches(
    dataset: Dataset[Example], batch_size: int, start: int, stop: int, workers: int | None, world: World
) -> Iterator[Example]:
    """This process's part of batches number `start` to `stop - 1` of numbered examples, made by worker processes.

    Their number is that of `workers_beside` if it is not given. Batch k is the examples `k * batch_size` and on, dealt
    out in runs of equal length, in the order of the ranks.
    """
    own = batch_size // world.size
    workers = workers_beside(world.device, workers)
    firsts = [step * batch_size + world.rank * own for step in range(start, stop)]
    loader = DataLoader(
        dataset,
        batch_sampler=[list(range(first, first + own)) for first in firsts],
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_interrupts_to_parent,
        pin_memory=world.device.type == 'cuda',
    )
    return iter(loader)
