"""Convolutions that turn with the picture: of a picture turned by 90 degrees they give the same, turned by 90 degrees.

A filter is learned once and applied in its four orientations (Cohen and Welling 2016, Group Equivariant Convolutional
Networks: the group p4). A feature map then is *oriented*: `[B, 4 * F, H, W]`, the answers of F filters in the first
orientation, then those of the same filters turned counter-clockwise by 90, 180 and 270 degrees. Turning the
picture turns the maps and moves each block of F channels on to the next. Nothing is added to what a network costs to
run: with the weights written out in all orientations it is made of plain convolutions, see `write_out`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

ORIENTATIONS = 4


class TurningConv2d(nn.Conv2d):
    """A convolution of an oriented map, or of a picture, to an oriented map; `weight` is `[F, in, k, k]`.

    Args:
        in_channels: of an oriented map, a multiple of 4; or 1, a picture's.
        out_channels: a multiple of 4.
        kernel_size: k, odd; the map keeps its size.
        bias: whether there is one, a value for each of the F filters.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> None:
        filters = out_channels // ORIENTATIONS
        super().__init__(in_channels, filters, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        # Cloned, for a picture's one channel looks channels-last already, and all that follows would be channels first.
        weight = self.all_orientations(self._turned()).clone(memory_format=torch.channels_last)
        return conv2d(features, weight, self._all_biases(), padding=self.padding)

    def written_out(self) -> nn.Conv2d:
        """The plain convolution that computes the same."""
        weight, bias, kernel = self.all_orientations(self._turned()), self._all_biases(), self.weight.shape[-1]
        plain = nn.Conv2d(self.in_channels, len(weight), kernel, padding=kernel // 2, bias=bias is not None)
        plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return plain

    def all_orientations(self, turned: Tensor) -> Tensor:
        """`[4, F, ...]` to the channels that come out, `[out_channels, ...]`."""
        return turned.flatten(0, 1)

    def _turned(self) -> Tensor:
        """`[4, F, in, k, k]`: turning a filter moves on, too, the orientation of what it looks for."""
        blocks = ORIENTATIONS if self.in_channels > 1 else 1
        filters = self.weight.unflatten(1, (blocks, -1))
        turned = [torch.rot90(filters, turns, (-2, -1)).roll(turns, 1) for turns in range(ORIENTATIONS)]
        return torch.stack(turned).flatten(2, 3)

    def _all_biases(self) -> Tensor | None:
        return None if self.bias is None else self.all_orientations(self.bias.expand(ORIENTATIONS, -1))


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


def strongest_orientation(features: Tensor) -> Tensor:
    """The largest of each filter's four answers: `[B, 4 * F, h, w]` to `[B, F, h, w]`, which only turns its places."""
    first, second, third, fourth = features.chunk(ORIENTATIONS, 1)
    return torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))


def write_out(network: nn.Module) -> None:
    """Put plain layers, which compute the same, in place of all that turn."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, TurningConv2d | TurningNorm):
                setattr(module, name, child.written_out())
