"""What a device does between a network's maps and the features' nearest neighbours, with shapes that never change.

The same rules as `keypoints`, `levels` and `matching` have, written so that a CUDA graph can hold them and nothing
waits for the host in between. The maps of an image's sizes lie flattened one behind the other, so that a step is taken
once for all of them: on a GPU a step costs more than what it computes. The one difference: where several pixels tie for
a maximum, none but the first can be a keypoint, even if the first is itself suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize, pad

from superpoint_ros import triton_runtime
from superpoint_ros.keypoints import LEAST_BESIDE, TINY, KeypointSettings
from superpoint_ros.networks import cell_centres
from superpoint_ros.pyramid import LEVEL_COST, blend_weights

_LARGEST_BLOCK = 3
"""Pixels along a side; of larger ones so few candidates are left that torch gives its `topk` to a single core."""


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


class Candidates(NamedTuple):
    """Among which all keypoints of a map are."""

    scores: Tensor
    """[B, M] float32; 0 where there is no keypoint."""
    places: Tensor
    """[B, M] int64, in the flattened map."""


class Beside(NamedTuple):
    """The score map of the level beside one."""

    scores: Tensor
    """[B, h, w] float32."""
    rows: Tensor
    """[H] int64, those that the level's own rows lie in."""
    columns: Tensor
    """[W] int64."""


class Chosen(NamedTuple):
    """The best K candidates of several maps, best first."""

    scores: Tensor
    """[B, K] float32, 0 where there are fewer."""
    places: Tensor
    """[B, K] int64, among the flattened maps."""
    maps: Tensor
    """[B, K] int64, numbers of the maps."""
    entries: Tensor
    """[B, K, 2] int64 (x, y), in those maps."""
    sizes: Tensor
    """[..., 2] int64 (width, height) of those maps."""


def precedence(shape: tuple[int, int], device: torch.device) -> Tensor:
    """[H, W] float64: factors that put equal scores in raster order, for `pixel_candidates`."""
    height, width = shape
    order = torch.arange(height * width, device=device, dtype=torch.float64).reshape(shape)
    # Less than what tells two float32 apart, so that only equal scores are put in order.
    return 1 + 2.0**-30 * (1 - order / (height * width))


def pixel_candidates(
    scores: Tensor, allowed: Tensor, first: Tensor, settings: KeypointSettings, beside: Sequence[Beside] = ()
) -> Candidates:
    """What suppression leaves; see `keypoints.select_keypoints`.

    Args:
        scores: [B, H, W] float32.
        allowed: [B, H, W] bool, where keypoints may be.
        first: [H, W], see `precedence`.
        settings: `spread` is not looked at.
        beside: one or two levels, whose highest around a pixel count, too.
    """
    radius, threshold = settings.nms_radius, settings.detection_threshold
    if kernels := triton_runtime.kernels_for(scores.device):
        left = kernels.peaks(scores, allowed, threshold, radius, beside, LEAST_BESIDE)
    else:
        left = _peaks(scores, allowed, first, threshold, radius, beside)
    # No two peaks are in one block: nothing is lost.
    block = min(radius + 1, _LARGEST_BLOCK)
    best, places = max_pool2d(left[:, None], block, ceil_mode=True, return_indices=True)
    return Candidates(best.flatten(1), places.flatten(1))


def _peaks(
    scores: Tensor, allowed: Tensor, first: Tensor, threshold: float, radius: int, beside: Sequence[Beside]
) -> Tensor:
    peaks = (scores > threshold) & allowed
    if radius:
        ranked = scores * first
        across = max_pool2d(ranked[:, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
        highest = max_pool2d(across, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[:, 0]
        peaks = peaks & (highest == ranked)
    if beside:
        product, *others = [
            _highest_around(other.scores)[:, other.rows[:, None], other.columns].clamp(min=LEAST_BESIDE)
            for other in beside
        ]
        for other in others:
            product = (product * other).sqrt()
        scores = (scores * product).sqrt()
    return scores * peaks


def _highest_around(scores: Tensor) -> Tensor:
    """[B, H, W]: the highest score of each pixel and those that touch it."""
    return max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]


def cell_candidates(
    scores: Tensor, offsets: Tensor, allowed: Tensor, settings: KeypointSettings
) -> tuple[Candidates, Tensor]:
    """Of a network with a keypoint in every cell; see `keypoints.select_cell_keypoints`.

    Args:
        scores: [B, h, w] float32.
        offsets: [B, h, w, 2] float32 (x, y), pixels from the centres of the cells.
        allowed: [B, H, W] bool, looked up at the pixel that a keypoint lies in.

    Returns:
        All cells, and where their keypoints are, [B, h * w, 2] (x, y), pixels.
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
    places = torch.arange(rows * columns, device=scores.device).expand_as(counted)
    return Candidates(counted, places), positions


class ScoreMaps:
    """The score maps of an image's levels, [B, h, w] each, flattened one behind the other."""

    def __init__(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> None:
        """shapes: (height, width) of each."""
        self._starts = [sum(height * width for height, width in shapes[:number]) for number in range(len(shapes))]
        self._begins = torch.tensor(self._starts, device=device)
        self._sizes = torch.tensor([(width, height) for height, width in shapes], device=device)
        self._fit = torch.from_numpy(_quadratic_fit()).to(device)

    def keypoints(
        self, candidates: Sequence[Candidates], maps: Sequence[Tensor], count: int, *, subpixel: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best: where they are, [B, K, 2] (x, y) in pixels of their maps, their scores and maps [B, K]."""
        kernels = triton_runtime.kernels_for(maps[0].device)
        if kernels is None:
            chosen = self.choose(candidates, count)
            keypoints = chosen.entries.float()
            if subpixel:
                keypoints = keypoints + self.subpixel_offsets(maps, chosen)
            return keypoints, chosen.scores, chosen.maps
        best, places, rows = self._best(candidates, count)
        flat = _joined([scores.flatten(1) for scores in maps])
        keypoints, numbers = kernels.locate(flat, places, rows, self._begins, self._sizes, TINY, subpixel=subpixel)
        return keypoints, best, numbers

    def _best(self, candidates: Sequence[Candidates], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the best [B, K]; places of all [B, M], in the flattened maps; and which of them the best have."""
        scores = _joined([each.scores for each in candidates])
        places = _joined([
            each.places + start if start else each.places
            for each, start in zip(candidates, self._starts, strict=True)
        ])  # fmt: skip
        best, rows = scores.topk(min(count, scores.shape[1]), dim=1)
        if missing := count - best.shape[1]:
            best, rows = pad(best, (0, missing)), pad(rows, (0, missing))
        return best, places, rows

    def choose(self, candidates: Sequence[Candidates], count: int) -> Chosen:
        """The best of those of every map."""
        best, places, rows = self._best(candidates, count)
        places = places.gather(1, rows)
        if len(candidates) == 1:
            numbers, within, sizes = torch.zeros_like(places), places, self._sizes
        else:
            numbers = torch.bucketize(places, self._begins[1:], right=True)
            within, sizes = places - self._begins[numbers], self._sizes[numbers]
        width = sizes[..., 0]
        y = within // width
        return Chosen(best, places, numbers, torch.stack([within - y * width, y], dim=-1), sizes)

    def subpixel_offsets(self, maps: Sequence[Tensor], chosen: Chosen) -> Tensor:
        """See `keypoints.subpixel_offsets`: [B, K, 2]."""
        scores = _joined([scores.flatten(1) for scores in maps])
        interior = ((chosen.entries > 0) & (chosen.entries < chosen.sizes - 1)).all(dim=-1)
        steps = torch.arange(-1, 2, device=scores.device)
        around = (steps[:, None] * chosen.sizes[..., :1, None] + steps).flatten(-2)
        # Beside the edge, where this is of no use, it may be outside.
        index = (chosen.places[..., None] + around).clamp(0, scores.shape[1] - 1)
        z = scores.gather(1, index.flatten(1)).clamp(min=TINY).log().view(index.shape)
        fitted = z @ self._fit
        slope, across, curvature, bend = fitted.split((2, 2, 2, 1), dim=-1)
        determinant = curvature.prod(dim=-1, keepdim=True) - bend * bend
        has_maximum = interior[..., None] & (determinant > 1e-9) & (curvature[..., :1] < 0)
        peak = (bend * across - curvature * slope) / torch.where(has_maximum, determinant, 1.0)
        return torch.where(has_maximum, peak, 0.0).clamp(-0.5, 0.5)


def _quadratic_fit() -> np.ndarray:
    """[9, 7] float32: from 3x3 values in raster order to (gx, gy), (gy, gx), (gyy, gxx), gxy."""
    slope, bend, middle = np.array([-0.5, 0, 0.5]), np.array([1, -2, 1]), np.array([0, 1, 0])
    gx, gy, gxx, gyy, gxy = (
        np.outer(down, across).ravel()
        for down, across in ((middle, slope), (slope, middle), (middle, bend), (bend, middle), (slope, slope))
    )
    return np.stack([gx, gy, gy, gx, gyy, gxx, gxy], axis=1).astype(np.float32)


class DescriptorMaps:
    """The descriptor maps of an image's levels, [B, h, w, D] each, flattened one behind the other."""

    def __init__(
        self, shapes: Sequence[tuple[int, int]], scales: Sequence[tuple[float, float]], per_octave: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        """shapes: (height, width) of each; scales: (x, y) entries of each for a pixel of the image."""
        count = len(shapes)
        weights = blend_weights(per_octave) if count > 1 else np.ones(1, np.float32)
        apart = np.arange(1 - len(weights), len(weights))
        beside = np.arange(count)[:, None] + apart
        exists = (beside >= 0) & (beside < count)
        beside = beside.clip(0, count - 1)
        sizes = np.array(shapes)[:, ::-1]
        starts = np.cumsum([0, *sizes.prod(axis=1)[:-1]])
        step_x, step_y = np.minimum(sizes - 1, 1).T * [np.ones(count, int), sizes[:, 0]]
        corners = np.stack([np.zeros(count, int), step_x, step_y, step_x + step_y], axis=1)

        def table(values: np.ndarray) -> Tensor:
            """[L, T, ...] of [L, ...]: for a keypoint's level what is said of each that its descriptor is made of."""
            return torch.from_numpy(values[beside]).to(device)

        self._is_one = count == 1
        self._shares = torch.from_numpy(weights[abs(apart)] * exists).to(device)
        self._scales = table(np.array(scales, np.float32))
        self._last = table((sizes - 1).astype(np.float32))
        self._corners = table(starts[:, None] + corners)
        self._widths = table(sizes[:, 0])

    def describe(self, maps: Sequence[Tensor], keypoints: Tensor, levels: Tensor) -> Tensor:
        """Bilinear samples of unit length, blended over the levels around, in the maps' type: [B, K, D].

        See `keypoints.sample_descriptors` and `levels.describe`.

        Args:
            maps: [B, h, w, D] of each level.
            keypoints: [B, K, 2] (x, y), pixels of the image.
            levels: [B, K] int64, that the keypoints were found in.
        """
        entries = _joined([each.flatten(1, 2) for each in maps])
        if kernels := triton_runtime.kernels_for(entries.device):
            return kernels.describe(
                entries, keypoints, levels, self._shares, self._scales, self._last, self._corners, self._widths, TINY
            )
        shares, scales, last, corners, widths = (
            table if self._is_one else table[levels]
            for table in (self._shares, self._scales, self._last, self._corners, self._widths)
        )
        position = torch.minimum(((keypoints[:, :, None] + 0.5) * scales - 0.5).clamp(min=0), last)
        corner = torch.minimum(position.floor(), (last - 1).clamp(min=0))
        beyond = position - corner
        x, y = torch.stack([1 - beyond, beyond], dim=-1).unbind(-2)
        weights = (y[..., :, None] * x[..., None, :]).flatten(-2)
        column, row = corner.long().unbind(-1)
        index = (row * widths + column)[..., None] + corners
        found = entries.gather(1, index.flatten(1)[..., None].expand(-1, -1, entries.shape[-1]))
        sampled = (weights[..., None, :] @ found.view(*index.shape, -1).float())[..., 0, :]
        sampled = normalize(sampled, dim=-1, eps=TINY)
        if not self._is_one:
            sampled = normalize(shares[..., None, :] @ sampled, dim=-1, eps=TINY)
        return sampled[..., 0, :].to(entries.dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    """Side by side, in one step or, if it is one, in none."""
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def allowed_pixels(shape: tuple[int, int], border: int, mask: np.ndarray | None) -> np.ndarray:
    """[H, W] bool: off the border of an image of that shape, and where the mask is not zero."""
    allowed = np.zeros(shape, bool)
    height, width = shape
    allowed[border : max(height - border, 0), border : max(width - border, 0)] = True
    return allowed if mask is None else allowed & (mask != 0)


def nearest_neighbours(query: DeviceFeatures, train: DeviceFeatures, *, of_one_level: bool = False) -> DeviceNeighbours:
    """See `DeviceNeighbours`. of_one_level: all features are, so that none costs anything."""
    similarity = query.descriptors @ train.descriptors.transpose(1, 2)
    if kernels := triton_runtime.kernels_for(similarity.device):
        return DeviceNeighbours(
            *kernels.nearest_neighbours(similarity, query.scores, train.scores, query.levels, train.levels, LEVEL_COST)
        )
    similarity = similarity.float()
    if not of_one_level:
        # In place, and levels as bytes: these are K x K values of each image.
        query_levels, train_levels = query.levels.to(torch.int8), train.levels.to(torch.int8)
        similarity.sub_((query_levels[:, :, None] - train_levels[:, None, :]).abs_(), alpha=LEVEL_COST)
    similarity.masked_fill_((query.scores == 0)[:, :, None], -torch.inf)
    similarity.masked_fill_((train.scores == 0)[:, None, :], -torch.inf)
    # Laid out anew, and twice a maximum: ten times as fast as the maxima of columns, and as `topk`.
    back = similarity.transpose(1, 2).contiguous().argmax(dim=2)
    best, partner = similarity.max(dim=2)
    second = similarity.scatter_(2, partner[..., None], -torch.inf).amax(dim=2)
    itself = torch.arange(partner.shape[1], device=partner.device)
    mutual = (back.gather(1, partner) == itself) & torch.isfinite(best)
    return DeviceNeighbours(torch.where(mutual, partner, -1), best, second)
