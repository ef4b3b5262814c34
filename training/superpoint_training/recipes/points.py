"""Keypoints of two views and which of them belong together, for recipes whose networks give a keypoint a cell.

Points of cells are `[B, N, 2]` (x, y) in pixels, N = h * w in raster order, and `valid` masks are `[B, N]` bool.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from superpoint_ros.networks import STRIDE, cell_centres, sample_at
from superpoint_training.recipes.geometry import FAR, is_inside, warp


class View(NamedTuple):
    """What a network of one keypoint a cell says about the pictures of a batch.

    Attributes:
        points: `[B, N, 2]`.
        scores: `[B, N]`.
        descriptor_map: `[B, D, H/s, W/s]` float32, not normalised.
        descriptor_stride: s.
        valid: `[B, N]` bool, cells that show the picture.
        size: height and width of the picture, pixels.
    """

    points: Tensor
    scores: Tensor
    descriptor_map: Tensor
    descriptor_stride: int
    valid: Tensor
    size: tuple[int, int]

    def describe(self, points: Tensor) -> Tensor:
        """Unit descriptors at points `[B, N, 2]`: `[B, N, D]`; gradients reach the points, too."""
        return normalize(sample_at(self.descriptor_map, points, self.descriptor_stride), dim=-1, eps=1e-6)


def view_of(scores: Tensor, offsets: Tensor, descriptors: Tensor, descriptor_stride: int, valid: Tensor) -> View:
    """A view from the output of a `CellNetwork`, its `descriptor_stride`, and the cells `[B, h, w]` that count."""
    rows, columns = scores.shape[1:]
    points = (offsets + cell_centres(rows, columns, offsets.device)).flatten(1, 2)
    size = (rows * STRIDE, columns * STRIDE)
    return View(points, scores.flatten(1), descriptors.float(), descriptor_stride, valid.flatten(1), size)


class Correspondences(NamedTuple):
    """The keypoints of a view and those of another that lie nearest to them.

    Attributes:
        moved: `[B, N, 2]` the view's keypoints in pixels of the other.
        visible: `[B, N]` bool, those that the other shows.
        nearest: `[B, N]` int64, the other's keypoint nearest to each.
        distances: `[B, N]` to it, pixels.
        together: `[B, N]` bool, visible and not farther apart than asked for.
    """

    moved: Tensor
    visible: Tensor
    nearest: Tensor
    distances: Tensor
    together: Tensor

    def of_other(self, values: Tensor) -> Tensor:
        """What belongs to the other's nearest keypoints, of values `[B, N]` or `[B, N, C]`."""
        if values.ndim == 2:
            return values.gather(1, self.nearest)
        return values.gather(1, self.nearest[..., None].expand(-1, -1, values.shape[-1]))


def correspond(view: View, other: View, homography: Tensor, radius: float) -> Correspondences:
    """Project a view's keypoints and find those of the other beside them (UnsuperPoint's point-pair correspondences).

    Args:
        view, other: N and M keypoints.
        homography: `[B, 3, 3]` float32, the view's pixels to the other's.
        radius: farthest that two keypoints lie apart which belong together, pixels.
    """
    moved = warp(view.points, homography)
    visible = view.valid & is_inside(moved, other.size)
    with torch.no_grad():
        nearest = separations(moved, other).argmin(dim=2)
    found = other.points.gather(1, nearest[..., None].expand(-1, -1, 2))
    distances = vector_norm(moved - found, dim=-1)
    together = visible & other.valid.gather(1, nearest) & (distances <= radius)
    return Correspondences(moved, visible, nearest, distances, together)


def separations(moved: Tensor, other: View) -> Tensor:
    """`[B, N, M]` pixels from points in the other view to its keypoints; those that do not count are far."""
    return torch.cdist(moved, other.points).masked_fill(~other.valid[:, None], FAR)
