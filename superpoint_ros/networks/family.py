"""What all networks have in common, and the two ways in which their output becomes keypoints."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from superpoint_ros.networks.layers import STRIDE, Encoder


class KeypointNetwork(nn.Module):
    """Image to keypoints and descriptors.

    A network of *score maps* (SuperPoint, GoodPoint) gives `(logits, descriptors)`: see `score_map`. One with *a
    keypoint in every cell* (UnsuperPoint, KP2D) is a `CellNetwork`.

    Attributes:
        architecture: the name under which weights ask for this class.
        stride: 8, pixels per cell; sides of an image must be multiples of it.
        descriptor_stride: pixels per entry of the descriptor map.
        config: what shapes the network; has `widths` and `descriptor_dim`.
        encoder: the features that all heads begin with.
        metadata: what is known of the weights (recipe, data, figures); filled by `load_network`.
    """

    architecture: ClassVar[str]
    stride = STRIDE
    descriptor_stride = STRIDE
    config: Any
    encoder: Encoder

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, str] = {}


class CellNetwork(KeypointNetwork):
    """Image to one keypoint a cell and a descriptor map.

    `forward` gives, for `[B, 1, H, W]` grey in [0, 1] with H and W multiples of 8:
    scores `[B, H/8, W/8]` float32 in (0, 1); offsets `[B, H/8, W/8, 2]` float32, the keypoints' (x, y) in pixels from
    the centres of their cells; and descriptors `[B, D, H/s, W/s]`, a map of stride s = `descriptor_stride`, not
    normalised, to be sampled at the keypoints.
    """


def cell_centres(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """`[rows, columns, 2]` float32 (x, y): where the centres of cells lie, in pixels."""
    y, x = (torch.arange(count, device=device) * STRIDE + (STRIDE - 1) / 2 for count in (rows, columns))
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)


SUREST = 8.0
"""Largest argument of the sigmoid that makes a score."""


def cell_scores(logits: Tensor) -> Tensor:
    """A sigmoid whose argument a scaled tanh keeps below `SUREST`, elementwise and in float32.

    The plain sigmoid of the papers is exactly 1 from 17 on: after a few hundred steps a quarter of the best keypoints
    would tie there, and the best of them could not be told.
    """
    return (SUREST * (logits.float() / SUREST).tanh()).sigmoid()


def soft_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """How high the values of a cell's pixels rise, and where.

    Args:
        values: `[B, 64, h, w]`, those of a cell in raster order.

    Returns:
        `[B, h, w]` log of the mean exponential; `[B, h, w, 2]` (x, y) in pixels from the centre of the cell, the mean
        position under their softmax, at most 3.5 either way. Both float32.
    """
    values = values.float()
    steps = (torch.arange(STRIDE, device=values.device) - (STRIDE - 1) / 2)[:, None, None]
    height = values.logsumexp(dim=1) - 2 * math.log(STRIDE)
    shares = values.softmax(dim=1).unflatten(1, (STRIDE, STRIDE))
    # Sums, not a matrix product, which autocast and engines would take to half precision.
    x, y = ((shares.sum(dim=other) * steps).sum(dim=1) for other in (1, 2))
    return height, torch.stack([x, y], dim=-1)


def score_map(logits: Tensor) -> Tensor:
    """Keypoint probability of every pixel: softmax over a cell's channels.

    Args:
        logits: `[B, 65, H/8, W/8]`, the last "no keypoint here", which is dropped (SuperPoint, section 3.2); or
            `[B, 64, H/8, W/8]` without it (GoodPoint), where a cell's probabilities add up to 1.

    Returns:
        `[B, H, W]` float32.
    """
    if logits.is_contiguous(memory_format=torch.channels_last):
        # A cell's lie side by side: on a GPU that takes a tenth of the time.
        cells = logits.permute(0, 2, 3, 1).float().softmax(dim=-1)[..., : STRIDE**2]
        return cells.unflatten(-1, (STRIDE, STRIDE)).transpose(2, 3).flatten(3).flatten(1, 2)
    probabilities = logits.float().softmax(dim=1)[:, : STRIDE**2]
    return pixel_shuffle(probabilities, STRIDE)[:, 0]
