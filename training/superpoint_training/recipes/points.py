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
from superpoint_training.recipes.losses import mean_of_means

FAR = 1e6  # pixels; where a point is that can't be met


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


def warp(points: Tensor, homography: Tensor) -> Tensor:
    """Points `[B, N, 2]` moved by `[B, 3, 3]`; those on or beyond its horizon become far away."""
    # Elementwise: of a matrix product autocast would make bfloat16, which is off by half a pixel at 200.
    homogeneous = (homography[:, None, :, :2] * points[:, :, None]).sum(dim=-1) + homography[:, None, :, 2]
    return homogeneous[..., :2] / homogeneous[..., 2:].clamp(min=1e-3)


def magnification(points: Tensor, homography: Tensor) -> Tensor:
    """`[B, N]` how much larger a homography `[B, 3, 3]` makes what lies at points `[B, N, 2]`: the root of the area."""
    depth = (homography[:, None, 2, :2] * points).sum(dim=-1) + homography[:, None, 2, 2]
    return (torch.linalg.det(homography)[:, None] / depth**3).abs().sqrt()


def is_inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Which points `[B, N, 2]` lie between the centres of a picture's border pixels: `[B, N]` bool."""
    height, width = size
    limit = points.new_tensor([width - 1, height - 1])
    return ((points >= 0) & (points <= limit)).all(dim=-1)


def location_loss(matches: Correspondences) -> Tensor:
    """How far keypoints that belong together lie apart, in pixels: `L = mean_k d_k`.

    UnsuperPoint, section 4.1, equation 6; KP2D, section 3.1.
    """
    return mean_of_means(matches.distances, matches.together)


def score_loss(scores: Tensor, other_scores: Tensor, together: Tensor) -> Tensor:
    """Keypoints that belong together have one score: `L = mean_k (s_a - s_b)^2`, `[B, N]` each.

    UnsuperPoint, section 4.1, equation 7; KP2D, section 3.1.
    """
    return mean_of_means((scores - other_scores).square(), together)


def unsupervised_point_loss(scores: Tensor, distances: Tensor, together: Tensor) -> Tensor:
    """A keypoint that is found again nearer than others should score higher (UnsuperPoint, section 4.1, equation 8).

        L = mean_k s_k (d_k - mean(d)),   s_k = (s_a + s_b) / 2

    Args:
        scores: `[B, N]` the mean scores s_k of pairs of keypoints.
        distances: `[B, N]` d_k, pixels.
        together: `[B, N]` bool, pairs that count.

    Returns:
        mean over the pictures; 0 for one without pairs. No pair's scores of 0 are its minimum: wherever some distances
        are below their mean, raising those scores makes it negative.
    """
    mean = (distances * together).sum(1, keepdim=True) / together.sum(1, keepdim=True).clamp(min=1)
    return mean_of_means(scores * (distances - mean), together)
