"""Layers the networks share, and the folding of BatchNorm into the convolution before it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Convolution, optional BatchNorm, activation: shape `[B, in, H, W]` to `[B, out, H, W]`."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool, kernel_size: int = 3) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        ]
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


Network = TypeVar('Network', bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network`, in eval mode, whose BatchNorms are merged into the convolutions before them.

    The copy computes the same function, to rounding: `w' = w * gamma / sqrt(var + eps)`,
    `b' = (b - mean) * gamma / sqrt(var + eps) + beta`, in float64. A BatchNorm that does not directly follow
    a convolution inside an `nn.Sequential` is left as it is.
    """
    folded = copy.deepcopy(network).eval()
    for sequential in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequential) - 1):
            convolution, norm = sequential[index], sequential[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold_into(convolution, norm)
                sequential[index + 1] = nn.Identity()
    return folded


def _fold_into(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = 0.0 if convolution.bias is None else convolution.bias.double()
    weight = convolution.weight.double() * scale[:, None, None, None]
    shifted = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shifted.to(convolution.weight.dtype), requires_grad=False)


def sample_at(feature_map: Tensor, keypoints: Tensor, stride: int) -> Tensor:
    """Bilinear samples of a map at image positions.

    Pixel centres are integers and the map's cell k is centred at `stride * (k + 0.5) - 0.5`, so pixel x has the
    normalised coordinate `(x + 0.5) / (w * stride) * 2 - 1` with `align_corners=False`. Outside the centres of
    the outermost cells the border value is held.

    Args:
        feature_map: `[B, C, h, w]`.
        keypoints: `[B, N, 2]` (x, y) in pixels of the `[h * stride, w * stride]` image.
        stride: pixels per cell.

    Returns:
        `[B, N, C]` in the map's dtype, not normalised.
    """
    height, width = feature_map.shape[-2:]
    size = keypoints.new_tensor([width * stride, height * stride])
    grid = ((keypoints + 0.5) / size * 2 - 1)[:, :, None].to(feature_map.dtype)
    sampled = nn.functional.grid_sample(feature_map, grid, mode='bilinear', padding_mode='border', align_corners=False)
    return sampled[..., 0].transpose(1, 2)
