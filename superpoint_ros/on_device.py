"""From an image's bytes to features and their nearest neighbours, as tensors whose shapes do not depend on the image.

The same rules as `keypoints` and `matching` have, written so that a CUDA graph can hold them and nothing waits for the
host in between. The one difference: where several pixels tie for a maximum, none but the first can be a keypoint, even
if the first is itself suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize, pad

from superpoint_ros.keypoints import LEAST_BESIDE, TINY, KeypointSettings
from superpoint_ros.networks import cell_centres
from superpoint_ros.pyramid import LEVEL_COST


class DeviceFeatures(NamedTuple):
    """The best K of each image; where it has fewer, the last rows have a score of 0 and mean nothing."""

    keypoints: Tensor
    """[B, K, 2] float32 (x, y), pixels."""
    scores: Tensor
    """[B, K] float32, descending."""
    descriptors: Tensor
    """[B, K, D], unit length."""
    levels: Tensor
    """[B, K] int64, in which of the image's sizes each was found."""


class DeviceNeighbours(NamedTuple):
    """For each query the most similar train feature."""

    partner: Tensor
    """[B, K] int64, the train row; -1 where the two are not each other's most similar."""
    similarity: Tensor
    """[B, K] float32, see `matching.similarity_matrix`."""
    second: Tensor
    """[B, K] float32, that of the second most similar; -inf where there is only one."""


def select_keypoints(
    scores: Tensor, allowed: Tensor, settings: KeypointSettings, beside: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Suppression, the best keypoints and their sub-pixel positions; see `keypoints.select_keypoints`.

    Args:
        scores: [B, H, W] float32.
        allowed: [B, H, W] bool, where keypoints may be.
        settings: `spread` is not looked at.
        beside: [B, H, W] float32 each, what the levels beside say of these pixels: `highest_around`, looked up.

    Returns:
        keypoints [B, K, 2] float32 and scores [B, K] float32, 0 where there are fewer.
    """
    width = scores.shape[-1]
    peaks = _are_peaks(scores, settings.nms_radius) & (scores > settings.detection_threshold) & allowed
    ranked = scores
    if beside:
        product = torch.stack([other.clamp(min=LEAST_BESIDE) for other in beside]).prod(0)
        ranked = (scores * product ** (1 / len(beside))).sqrt()
    best, index = _best((ranked * peaks).flatten(1), settings.max_keypoints)
    y, x = index // width, index % width
    keypoints = torch.stack([x, y], dim=-1).float()
    if settings.subpixel:
        keypoints = keypoints + _subpixel_offsets(scores, x, y)
    return keypoints, best


def highest_around(scores: Tensor) -> Tensor:
    """[B, H, W]: the highest score of each pixel and those that touch it."""
    return max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]


def select_cell_keypoints(
    scores: Tensor, offsets: Tensor, allowed: Tensor, settings: KeypointSettings
) -> tuple[Tensor, Tensor]:
    """As `select_keypoints`, of a network with a keypoint in every cell; see `keypoints.select_cell_keypoints`.

    Args:
        scores: [B, h, w] float32.
        offsets: [B, h, w, 2] float32 (x, y), pixels from the centres of the cells.
        allowed: [B, H, W] bool, looked up at the pixel that a keypoint lies in.
    """
    rows, columns = scores.shape[-2:]
    height, width = allowed.shape[-2:]
    positions = (cell_centres(rows, columns, scores.device) + offsets).flatten(1, 2)
    x, y = torch.floor(positions + 0.5).long().unbind(-1)
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    counted = scores.flatten(1)
    counted = counted * (
        within & allowed.flatten(1).gather(1, y * width + x) & (counted > settings.detection_threshold)
    )
    best, index = _best(counted, settings.max_keypoints)
    return positions.gather(1, index[..., None].expand(-1, -1, 2)), best


def _are_peaks(scores: Tensor, radius: int) -> Tensor:
    """[B, H, W] bool: the maximum of its window, the first in raster order of equal ones."""
    if radius == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    height, width = scores.shape[-2:]
    order = torch.arange(height * width, device=scores.device, dtype=torch.float64).reshape(height, width)
    # Less than what tells two float32 apart, so that only equal scores are put in order.
    ranked = scores.double() * (1 + 2.0**-30 * (1 - order / (height * width)))
    across = max_pool2d(ranked[:, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return max_pool2d(across, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[:, 0] == ranked


def _best(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The greatest of [B, N]: values and indices [B, count], zeros where N is less."""
    best, index = values.topk(min(count, values.shape[1]), dim=1)
    missing = count - best.shape[1]
    return pad(best, (0, missing)), pad(index, (0, missing))


def _subpixel_offsets(scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """See `keypoints.subpixel_offsets`: [B, K, 2]."""
    height, width = scores.shape[-2:]
    interior = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    steps = torch.arange(-1, 2, device=scores.device)
    rows = (y[..., None] + steps).clamp(0, height - 1)
    columns = (x[..., None] + steps).clamp(0, width - 1)
    index = (rows[..., :, None] * width + columns[..., None, :]).flatten(1)
    z = scores.flatten(1).gather(1, index).clamp(min=TINY).log().reshape(*x.shape, 3, 3)

    gx, gy = (z[..., 1, 2] - z[..., 1, 0]) / 2, (z[..., 2, 1] - z[..., 0, 1]) / 2
    gxx = z[..., 1, 2] - 2 * z[..., 1, 1] + z[..., 1, 0]
    gyy = z[..., 2, 1] - 2 * z[..., 1, 1] + z[..., 0, 1]
    gxy = (z[..., 2, 2] - z[..., 2, 0] - z[..., 0, 2] + z[..., 0, 0]) / 4
    determinant = gxx * gyy - gxy * gxy
    has_maximum = interior & (determinant > 1e-9) & (gxx < 0)
    peak = torch.stack([gxy * gy - gyy * gx, gxy * gx - gxx * gy], dim=-1)
    offsets = peak / torch.where(has_maximum, determinant, 1.0)[..., None]
    return torch.where(has_maximum[..., None], offsets, 0.0).clamp(-0.5, 0.5)


def sample_descriptors(descriptor_map: Tensor, keypoints: Tensor, stride: int) -> Tensor:
    """Bilinear samples of unit length, in the map's type; see `keypoints.sample_descriptors`.

    Args:
        descriptor_map: [B, h, w, D], each entry of stride x stride pixels.
        keypoints: [B, K, 2] (x, y), pixels.

    Returns:
        [B, K, D].
    """
    height, width, dimension = descriptor_map.shape[1:]
    x, y = ((keypoints + 0.5) / stride - 0.5).unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    wx, wy = x - x.floor(), y - y.floor()
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    weights = torch.stack([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy], dim=-1)
    index = torch.stack(
        [top * width + left, top * width + right, bottom * width + left, bottom * width + right], dim=-1
    )
    entries = index.flatten(1)[..., None].expand(-1, -1, dimension)
    corners = descriptor_map.flatten(1, 2).gather(1, entries).reshape(*index.shape, dimension)
    sampled = (weights[..., None, :] @ corners.float())[..., 0, :]
    return normalize(sampled, dim=-1, eps=TINY).to(descriptor_map.dtype)


def best_of(levels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The best of the keypoints [B, K, 2] and scores [B, K] of every level, and the levels [B, K] int64 of those."""
    keypoints, scores = (torch.cat(column, dim=1) for column in zip(*levels, strict=True))
    count = levels[0][1].shape[1]
    best, index = _best(scores, count)
    return keypoints.gather(1, index[..., None].expand(-1, -1, 2)), best, index // count


def blended(levels: Sequence[Tensor], numbers: Tensor, weights: Tensor) -> Tensor:
    """Descriptors of unit length, in the first's type, of those in every level; see `levels.describe`.

    Args:
        levels: [B, K, D] each, of the same keypoints.
        numbers: [B, K] int64, of the levels that the keypoints were found in.
        weights: [W] float32, by levels apart; those farther apart count for nothing.
    """
    total = torch.zeros_like(levels[0], dtype=torch.float32)
    for number, descriptors in enumerate(levels):
        apart = (numbers - number).abs()
        counted = weights[apart.clamp(max=len(weights) - 1)] * (apart < len(weights))
        total = total + counted[..., None] * descriptors.float()
    return normalize(total, dim=-1, eps=TINY).to(levels[0].dtype)


def allowed_pixels(shape: tuple[int, int], border: int, mask: np.ndarray | None) -> np.ndarray:
    """[H, W] bool: off the border of an image of that shape, and where the mask is not zero."""
    allowed = np.zeros(shape, bool)
    height, width = shape
    allowed[border : max(height - border, 0), border : max(width - border, 0)] = True
    return allowed if mask is None else allowed & (mask != 0)


def nearest_neighbours(query: DeviceFeatures, train: DeviceFeatures) -> DeviceNeighbours:
    """See `DeviceNeighbours`."""
    # In place, and levels as bytes: these are K x K values of each image.
    similarity = (query.descriptors @ train.descriptors.transpose(1, 2)).float()
    query_levels, train_levels = query.levels.to(torch.int8), train.levels.to(torch.int8)
    similarity.sub_((query_levels[:, :, None] - train_levels[:, None, :]).abs_(), alpha=LEVEL_COST)
    similarity.masked_fill_((query.scores == 0)[:, :, None], -torch.inf)
    similarity.masked_fill_((train.scores == 0)[:, None, :], -torch.inf)
    values, columns = similarity.topk(min(2, similarity.shape[2]), dim=2)
    best, second = pad(values, (0, 2 - values.shape[2]), value=-torch.inf).unbind(-1)
    partner = columns[..., 0]
    back = similarity.argmax(dim=1).gather(1, partner)
    itself = torch.arange(partner.shape[1], device=partner.device)
    mutual = (back == itself) & torch.isfinite(best)
    return DeviceNeighbours(torch.where(mutual, partner, -1), best, second)
