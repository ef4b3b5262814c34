"""Layers the networks share, and the folding of BatchNorm into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pixel_shuffle, pixel_unshuffle

from superpoint_ros.networks.turning import ORIENTATIONS, TurningConv2d, TurningNorm, TurningPixels, write_out

STRIDE = 8
"""Pixels per cell: the encoder halves the image three times."""

NORMS = ('none', 'batch', 'batch_below_full')


class ConvBlock(nn.Sequential):
    """Convolution, optional BatchNorm, activation: shape `[B, in, H, W]` to `[B, out, H, W]`.

    `leak` is the slope below zero, 0 a plain ReLU; `dropout` the share of channels dropped in training. One that is
    `turning` gives an oriented map, of a picture or of an oriented map; see `turning`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: bool,
        kernel_size: int = 3,
        leak: float = 0.0,
        dropout: float = 0.0,
        turning: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            TurningConv2d(in_channels, out_channels, kernel_size, bias=not norm)
            if turning
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        ]
        if norm:
            layers.append(TurningNorm(out_channels // ORIENTATIONS) if turning else nn.BatchNorm2d(out_channels))
        layers.append(nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=not turning))
        if dropout:
            layers.append(nn.Dropout2d(dropout))
        super().__init__(*layers)


class Encoder(nn.ModuleList):
    """Eight 3x3 convolutions in four pairs, a 2x2 max-pool between: an image's features at four resolutions.

    Args:
        widths: channels of the eight convolutions.
        norm: of `NORMS`; see `SuperPointConfig`.
        leak: see `ConvBlock`.
        dropout: after each pair; see `ConvBlock`.
        turning: see `ConvBlock`.
    """

    def __init__(
        self, widths: Sequence[int], norm: str, leak: float = 0.0, dropout: float = 0.0, turning: bool = False
    ) -> None:
        channels = (1, *widths)
        super().__init__()
        for level in range(4):
            first, second, third = channels[2 * level : 2 * level + 3]
            normed = norm == 'batch' or (norm == 'batch_below_full' and level > 0)
            self.append(
                nn.Sequential(
                    ConvBlock(first, second, norm=normed, leak=leak, turning=turning),
                    ConvBlock(second, third, norm=normed, leak=leak, dropout=dropout, turning=turning),
                )
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 1, H, W]` to `[B, C, H / 2^k, W / 2^k]` for k = 0 to 3; H and W multiples of 8."""
        features: list[Tensor] = []
        for block in self:
            features.append(block(max_pool2d(features[-1], 2) if features else image))
        return features


class FineLogits(nn.ModuleList):
    """A value for each pixel from the full-, half- and quarter-resolution features: `[B, 64, H/8, W/8]`.

    What a detector on stride-8 features alone takes millions of samples to learn, where in its cell a corner is, is
    there from the first step. None of the papers has it.

    Args:
        channels: of the three feature maps.
        kernel: side of the convolutions.
        turning: whether the features are oriented maps.
    """

    def __init__(self, channels: Sequence[int], kernel: int = 3, turning: bool = False) -> None:
        super().__init__(
            TurningPixels(count, 2**level, kernel)
            if turning
            else nn.Conv2d(count, 4**level, kernel, padding=kernel // 2)
            for level, count in enumerate(channels)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features as `Encoder` gives them, to the pixels of each cell in raster order."""
        full, half, quarter = (pixel_shuffle(conv(features[level]), 2**level) for level, conv in enumerate(self))
        return pixel_unshuffle(full + half + quarter, STRIDE)


def make_head(
    in_channels: int, width: int, out_channels: int, *, norm: bool, leak: float = 0.0, dropout: float = 0.0
) -> nn.Sequential:
    """A 3x3 convolution with activation and a 1x1 convolution without: `[B, in, h, w]` to `[B, out, h, w]`."""
    block = ConvBlock(in_channels, width, norm=norm, leak=leak, dropout=dropout)
    return nn.Sequential(block, nn.Conv2d(width, out_channels, 1))


def check_encoder(widths: Sequence[int], norm: str) -> None:
    """Raise ValueError for what `Encoder` does not take."""
    if len(widths) != 8 or min(widths) < 1:
        raise ValueError(f'widths must be eight positive channel counts, got {tuple(widths)}')
    if norm not in NORMS:
        raise ValueError(f'norm must be one of {NORMS}, got {norm!r}')


Network = TypeVar('Network', bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network`, in eval mode, of plain convolutions, the BatchNorms after them merged into them.

    The copy computes the same function, to rounding: `w' = w * gamma / sqrt(var + eps)`,
    `b' = (b - mean) * gamma / sqrt(var + eps) + beta`, in float64. A BatchNorm that does not directly follow
    a convolution inside an `nn.Sequential` is left as it is.
    """
    folded = copy.deepcopy(network).eval()
    write_out(folded)
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
