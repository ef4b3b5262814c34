"""Layers the networks share, and the folding of BatchNorm into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pixel_shuffle, pixel_unshuffle

from superpoint_ros.networks.turning import ORIENTATIONS, TurningConv2d, TurningNorm, TurningPixels, frozen_convolution

STRIDE = 8
"""Pixels per cell: the encoder halves the image three times."""

NORMS = ('none', 'batch', 'batch_below_full')
DETECTOR_HEADS = ('plain', 'skip')

LEAK = 0.01
"""Slope below zero of the activations in networks with leaky ones."""


class ConvBlock(nn.Sequential):
    """Convolution, optional BatchNorm, activation: shape `[B, in, H, W]` to `[B, out, H, W]`.

    `leak` is the slope below zero, 0 a plain ReLU; `dropout` the share of channels dropped in training. One that is
    `turning` gives an oriented map, of a picture or of an oriented map; see `turning`. With a `stride` of 2, for which
    the kernel is even, it halves the map.
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
        stride: int = 1,
    ) -> None:
        layers: list[nn.Module] = [
            TurningConv2d(in_channels, out_channels, kernel_size, bias=not norm, stride=stride)
            if turning
            else nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=not norm
            )
        ]
        if norm:
            layers.append(TurningNorm(out_channels // ORIENTATIONS) if turning else nn.BatchNorm2d(out_channels))
        layers.append(nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=not turning))
        if dropout:
            layers.append(nn.Dropout2d(dropout))
        super().__init__(*layers)

    @property
    def convolution(self) -> nn.Conv2d:
        """The first of its layers."""
        convolution = self[0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution


class Encoder(nn.ModuleList):
    """Eight convolutions in four pairs, a 2x2 max-pool between: an image's features at four resolutions.

    They are 3x3. With a `first_stride` of 2 the first is 6x6 and takes every second pixel, which stands for the first
    pool: both of the first pairs then have half the image's resolution.

    Args:
        widths: channels of the eight convolutions.
        norm: of `NORMS`; see `SuperPointConfig`.
        leak: see `ConvBlock`.
        dropout: after each pair; see `ConvBlock`.
        turning: see `ConvBlock`.
        first_stride: 1 or 2.

    Attributes:
        sides: pixels of the image along a side of an entry of each of the four maps.
        halve: the 2x2 max-pool, of which another form may take the place.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: str,
        leak: float = 0.0,
        dropout: float = 0.0,
        turning: bool = False,
        first_stride: int = 1,
    ) -> None:
        channels = (1, *widths)
        super().__init__()
        self.sides = (first_stride, 2, 4, 8)
        self.halve: Callable[[Tensor], Tensor] = partial(max_pool2d, kernel_size=2)
        for level in range(4):
            first, second, third = channels[2 * level : 2 * level + 3]
            normed = norm == 'batch' or (norm == 'batch_below_full' and level > 0)
            strided = {'stride': 2, 'kernel_size': 6} if level == 0 and first_stride == 2 else {}
            self.append(
                nn.Sequential(
                    ConvBlock(first, second, norm=normed, leak=leak, turning=turning, **strided),
                    ConvBlock(second, third, norm=normed, leak=leak, dropout=dropout, turning=turning),
                )
            )

    @property
    def first(self) -> ConvBlock:
        """The block that sees the picture."""
        pair = self[0]
        assert isinstance(pair, nn.Sequential)
        assert isinstance(pair[0], ConvBlock)
        return pair[0]

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 1, H, W]` to `[B, C, H / s, W / s]` for each s of `sides`; H and W multiples of 8."""
        features, map_ = [], image
        for block, pooled in zip(self, (False, self.sides[0] == 1, True, True), strict=True):
            map_ = block(self.halve(map_) if pooled else map_)
            features.append(map_)
        return features


class FineLogits(nn.ModuleList):
    """A value for each pixel from the features of finer resolutions than a cell's: `[B, 64, H/8, W/8]`.

    What a detector on stride-8 features alone takes millions of samples to learn, where in its cell a corner is, is
    there from the first step. None of the papers has it.

    Args:
        channels: of the feature maps.
        kernel: side of the convolutions.
        turning: whether the features are oriented maps.
        sides: pixels along a side of an entry of each map.
    """

    def __init__(
        self, channels: Sequence[int], kernel: int = 3, turning: bool = False, sides: Sequence[int] = (1, 2, 4)
    ) -> None:
        super().__init__(
            TurningPixels(count, side, kernel) if turning else nn.Conv2d(count, side**2, kernel, padding=kernel // 2)
            for count, side in zip(channels, sides, strict=True)
        )
        self.sides = tuple(sides)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps to the sum of their values for the pixels of each cell, in raster order."""
        maps = zip(self, features, self.sides, strict=False)  # features of cells come last and are left out
        first, *others = [pixel_shuffle(conv(map_), side) for conv, map_, side in maps]
        return pixel_unshuffle(sum(others, first), STRIDE)

    def written_out(self) -> nn.Module:
        """The same by convolutions whose stride is a cell, once this one's are plain ones.

        They multiply more, most of it by 0, and take less time: no map of full resolution is made and moved about.
        """
        return CellLogits(_by_cells(conv, side) for conv, side in zip(self, self.sides, strict=True))


class CellLogits(nn.ModuleList):
    """`FineLogits` written out."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        first, *others = [conv(map_) for conv, map_ in zip(self, features, strict=False)]
        return sum(others, first)


def _by_cells(conv: nn.Module, side: int) -> nn.Conv2d:
    """What a convolution with `side * side` values an entry gives for all pixels of a cell: 64 channels."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    kernel, entries = conv.kernel_size[0], STRIDE // side
    extent = entries + kernel - 1
    weight = torch.zeros(STRIDE, STRIDE, conv.in_channels, extent, extent)
    bias = torch.zeros(STRIDE, STRIDE)
    for y, x in product(range(STRIDE), repeat=2):
        (row, down), (column, across) = divmod(y, side), divmod(x, side)
        channel = down * side + across
        weight[y, x, :, row : row + kernel, column : column + kernel] = conv.weight[channel].detach()
        bias[y, x] = conv.bias[channel].detach()
    return frozen_convolution(weight.flatten(0, 1), bias.flatten(), entries, kernel // 2)


def make_head(
    in_channels: int, width: int, out_channels: int, *, norm: bool, leak: float = 0.0, dropout: float = 0.0
) -> nn.Sequential:
    """A 3x3 convolution with activation and a 1x1 convolution without: `[B, in, h, w]` to `[B, out, h, w]`."""
    block = ConvBlock(in_channels, width, norm=norm, leak=leak, dropout=dropout)
    return nn.Sequential(block, nn.Conv2d(width, out_channels, 1))


def check_config(config: Any) -> None:
    """Raise ValueError for widths, a norm, a descriptor length or a detector head that no network can have."""
    if len(config.widths) != 8 or min(config.widths) < 1:
        raise ValueError(f'widths must be eight positive channel counts, got {tuple(config.widths)}')
    if config.norm not in NORMS:
        raise ValueError(f'norm must be one of {NORMS}, got {config.norm!r}')
    if config.head_width < 1 or config.descriptor_dim < 1:
        raise ValueError('head_width and descriptor_dim must be positive')
    if config.detector_head not in DETECTOR_HEADS:
        raise ValueError(f'detector_head must be one of {DETECTOR_HEADS}, got {config.detector_head!r}')


Network = TypeVar('Network', bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network`, in eval mode, of plain convolutions, the BatchNorms after them merged into them.

    The copy computes the same function, to rounding: `w' = w * gamma / sqrt(var + eps)`,
    `b' = (b - mean) * gamma / sqrt(var + eps) + beta`, in float64. A BatchNorm that does not directly follow
    a convolution inside an `nn.Sequential` is left as it is.
    """
    folded = copy.deepcopy(network).eval()
    _write_out(folded)
    for sequential in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequential) - 1):
            convolution, norm = sequential[index], sequential[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold_into(convolution, norm)
                sequential[index + 1] = nn.Identity()
    return folded


def _write_out(network: nn.Module) -> None:
    """Put in place of every module, innermost first, what it says computes the same faster."""
    for name, child in network.named_children():
        _write_out(child)
        if isinstance(child, TurningConv2d | TurningNorm | FineLogits):
            setattr(network, name, child.written_out())


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
