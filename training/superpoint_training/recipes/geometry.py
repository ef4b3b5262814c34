"""Pictures and their pixels as tensors: where points of one view lie in another, what lies there, and blur.

Points are `[B, N, 2]` (x, y) in pixels, pixel centres are integers; a homography `[B, 3, 3]` leads from one view's
pixels to another's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from superpoint_ros.networks import STRIDE

FAR = 1e6  # pixels; where a point is that can't be met


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """`[1, height * width, 2]`, the pixels of a picture in raster order; type and device are those of `like`."""
    x, y = (torch.arange(count, device=like.device, dtype=like.dtype) for count in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).reshape(1, -1, 2)


def by_pixel(cells: Tensor) -> Tensor:
    """`[B, 8h, 8w]` of a value a cell."""
    return cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)


def warp(points: Tensor, homography: Tensor) -> Tensor:
    """Points `[B, N, 2]`, or `[1, N, 2]`, moved by `[B, 3, 3]`; those on or beyond its horizon become far away."""
    # Elementwise: of a matrix product autocast would make bfloat16, which is off by half a pixel at 200.
    x, y = points.unbind(-1)
    across, down, depth = (row[:, :1] * x + row[:, 1:2] * y + row[:, 2:] for row in homography.unbind(1))
    return torch.stack([across, down], dim=-1) / depth.clamp(min=1e-3)[..., None]


def magnification(points: Tensor, homography: Tensor) -> Tensor:
    """`[B, N]` how much larger a homography `[B, 3, 3]` makes what lies at points `[B, N, 2]`: the root of the area."""
    depth = (homography[:, None, 2, :2] * points).sum(dim=-1) + homography[:, None, 2, 2]
    return (torch.linalg.det(homography)[:, None] / depth**3).abs().sqrt()


def is_inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Which points `[B, N, 2]` lie between the centres of a picture's border pixels: `[B, N]` bool."""
    height, width = size
    limit = points.new_tensor([width - 1, height - 1])
    return ((points >= 0) & (points <= limit)).all(dim=-1)


def look_up(values: Tensor, points: Tensor) -> Tensor:
    """The value of the pixel each point lies in: `[B, H, W]` at `[B, N, 2]` to `[B, N]`; beyond the border its own."""
    height, width = values.shape[1:]
    x, y = points.round().long().unbind(-1)
    flat = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return values.flatten(1).gather(1, flat)


def gaussian(sigma: float, like: Tensor) -> Tensor:
    """`[2 r + 1]`, a Gaussian of height 1 out to r pixels, 3 sigma; type and device are those of `like`."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    return torch.exp(-offsets.square() / (2 * sigma**2))


def blur(maps: Tensor, profile: Tensor) -> Tensor:
    """`[B, H, W]` convolved with a profile of odd length down and across; beyond the border there are zeros."""
    reach = len(profile) // 2
    down = conv2d(maps[:, None], profile[None, None, :, None], padding=(reach, 0))
    return conv2d(down, profile[None, None, None], padding=(0, reach))[:, 0].to(maps.dtype)
