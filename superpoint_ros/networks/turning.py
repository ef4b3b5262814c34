"""Convolutions that turn with the picture: of a picture turned by 90 degrees they give the same, turned by 90 degrees.

A filter is learned once and applied in its four orientations (Cohen and Welling 2016, Group Equivariant Convolutional
Networks: the group p4). A feature map then is *oriented*: `[B, 4 * F, H, W]`, the answers of F filters in the first
orientation, then those of the same filters turned counter-clockwise by 90, 180 and 270 degrees. Turning the
picture turns the maps and moves each block of F channels on to the next. Nothing is added to what a network costs to
run: with the weights written out in all orientations (`written_out`) it is made of plain convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

ORIENTATIONS = 4


class TurningConv2d(nn.Conv2d):
    """A convolution of an oriented map, or of a picture, to an oriented map; `weight` is `[F, in, k, k]`.

    Args:
        in_channels: of an oriented map, a multiple of 4; or 1, a picture's.
        out_channels: a multiple of 4.
        kernel_size: k, odd with a stride of 1 and even with 2, which alone turn onto the same places.
        bias: whether there is one, a value for each of the F filters.
        stride: 1, the map keeps its size; or 2, which halves it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True, stride: int = 1
    ) -> None:
        filters, padding = out_channels // ORIENTATIONS, (kernel_size - 1) // 2
        super().__init__(in_channels, filters, kernel_size, stride=stride, padding=padding, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self._in_all_orientations()
        # Cloned, for a picture's one channel looks channels-last already, and all that follows would be channels first.
        weight = weight.clone(memory_format=torch.channels_last)
        return conv2d(features, weight, bias, stride=self.stride, padding=self.padding)

    def written_out(self) -> nn.Module:
        """The plain convolution that computes the same."""
        return frozen_convolution(*self._in_all_orientations(), self.stride[0], int(self.padding[0]))

    def all_orientations(self, turned: Tensor) -> Tensor:
        """`[4, F, ...]` to the channels that come out, `[out_channels, ...]`."""
        return turned.flatten(0, 1)

    def _turned(self) -> Tensor:
        """`[4, F, in, k, k]`: turning a filter moves on, too, the orientation of what it looks for."""
        blocks = ORIENTATIONS if self.in_channels > 1 else 1
        filters = self.weight.unflatten(1, (blocks, -1))
        turned = [torch.rot90(filters, turns, (-2, -1)).roll(turns, 1) for turns in range(ORIENTATIONS)]
        return torch.stack(turned).flatten(2, 3)

    def _in_all_orientations(self) -> tuple[Tensor, Tensor | None]:
        bias = None if self.bias is None else self.all_orientations(self.bias.expand(ORIENTATIONS, -1))
        return self.all_orientations(self._turned()), bias


class TurningPixels(TurningConv2d):
    """A convolution of an oriented map to values of the pixels in each cell: `[B, side^2, h, w]` in raster order.

    Args:
        in_channels: of an oriented map, a multiple of 4.
        side: pixels along a side of a cell, 1 or even.
        kernel_size: odd; the map keeps its size.
        rest: whether one more channel follows, which belongs to no pixel.

    Attributes:
        raster: `[side^2]`, which of the channels, orientation by orientation, is a pixel's.
    """

    raster: Tensor

    def __init__(self, in_channels: int, side: int, kernel_size: int, *, rest: bool = False) -> None:
        quadrant, unturned = (side // 2) ** 2, int(side == 1 or rest)
        super().__init__(in_channels, ORIENTATIONS * (quadrant + unturned), kernel_size)
        half = side // 2
        corner = torch.arange(quadrant).reshape(half, half)
        raster = sum(
            torch.rot90(pad(corner + turns * quadrant, (0, half, 0, half)), turns) for turns in range(ORIENTATIONS)
        )
        assert isinstance(raster, Tensor)
        self.register_buffer('raster', raster.flatten(), persistent=False)

    def all_orientations(self, turned: Tensor) -> Tensor:
        quadrant = len(self.raster) // ORIENTATIONS
        pixels = turned[:, :quadrant].flatten(0, 1)[self.raster]
        return torch.cat([pixels, turned[:, quadrant:].mean(0)])


class TurningNorm(nn.BatchNorm2d):
    """BatchNorm of an oriented map `[B, 4 * F, H, W]`, whose F filters are normalised in all orientations together."""

    def forward(self, features: Tensor) -> Tensor:
        # Channels last, the memory of [B, H, W, 4, F] is that of F channels of a picture four times as wide.
        batch, _, height, width = features.shape
        wide = features.permute(0, 2, 3, 1).reshape(batch, height, ORIENTATIONS * width, -1).permute(0, 3, 1, 2)
        normed = super().forward(wide).permute(0, 2, 3, 1)
        return normed.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def written_out(self) -> nn.BatchNorm2d:
        """The plain BatchNorm that computes the same, in eval mode."""
        plain = nn.BatchNorm2d(ORIENTATIONS * self.num_features, self.eps).eval()
        plain.load_state_dict(
            {name: value.repeat(ORIENTATIONS) if value.ndim else value for name, value in self.state_dict().items()}
        )
        return plain


class StrongestTurning(TurningConv2d):
    """A convolution of an oriented map, and the largest of each filter's four answers, which only turns its places.

    `[B, in, h, w]` to `[B, filters, h, w]`.
    """

    def __init__(self, in_channels: int, filters: int, kernel_size: int) -> None:
        super().__init__(in_channels, ORIENTATIONS * filters, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        return _largest(super().forward(features).chunk(ORIENTATIONS, dim=1))

    def written_out(self) -> nn.Module:
        """A plain convolution for each orientation: engines spend as long on splitting a map as on a convolution."""
        weight, bias = self._in_all_orientations()
        assert bias is not None
        parts = zip(weight.chunk(ORIENTATIONS), bias.chunk(ORIENTATIONS), strict=True)
        return Strongest(frozen_convolution(*part, padding=int(self.padding[0])) for part in parts)


class Strongest(nn.Module):
    """The largest of what its four convolutions answer."""

    def __init__(self, convolutions: Iterable[nn.Conv2d]) -> None:
        super().__init__()
        self.convolutions: Iterable[nn.Conv2d] = nn.ModuleList(convolutions)  # type: ignore[assignment]

    def forward(self, features: Tensor) -> Tensor:
        return _largest([convolution(features) for convolution in self.convolutions])


def frozen_convolution(weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution with these values, `[out, in, k, k]` and `[out]`, which are not trained."""
    out_channels, in_channels, kernel, _ = weight.shape
    plain = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias is not None)
    plain.load_state_dict({'weight': weight} if bias is None else {'weight': weight, 'bias': bias})
    return plain.requires_grad_(False)


def _largest(answers: Sequence[Tensor]) -> Tensor:
    first, second, third, fourth = answers
    return torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))
