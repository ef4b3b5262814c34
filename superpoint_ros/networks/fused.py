"""The same networks with fewer and larger steps, for GPUs, on which a step costs more than what it computes.

PyTorch adds a convolution's bias and cuts off what is below zero in two more passes over the map, which take longer
than the convolution. Here cuDNN does all three in one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from superpoint_ros.networks.family import KeypointNetwork
from superpoint_ros.networks.layers import ConvBlock
from superpoint_ros.networks.turning import Strongest

ALIGNED = 8
"""Tensor cores take half-precision channels by so many."""


def fuse(network: KeypointNetwork) -> KeypointNetwork:
    """A copy that computes the same, to rounding, of grey levels in 0..255 instead of [0, 1]; fold BatchNorms before.

    Quick channels last, and in half precision.
    """
    fused = copy.deepcopy(network).eval()
    first = fused.encoder.first.convolution
    first.weight = nn.Parameter(first.weight.detach() / 255, requires_grad=False)
    fused.encoder.halve = _halve
    _fuse_within(fused)
    return fused


def _fuse_within(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvBlock) and any(isinstance(layer, nn.ReLU) for layer in child):
            convolution = child.convolution
            of_squares = convolution.in_channels == 1 and convolution.kernel_size == (6, 6)
            setattr(module, name, (_FirstStrided if of_squares else _ConvolutionReLU)(convolution))
        elif isinstance(child, Strongest):
            setattr(module, name, _StrongestPointwise(list(child.convolutions)))
        elif isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            setattr(module, name, _Pointwise([child]))
        else:
            _fuse_within(child)


def _halve(features: Tensor) -> Tensor:
    """The largest of each 2x2, of a map whose sides are even."""
    rows = torch.maximum(features[:, :, ::2], features[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


class _ConvolutionReLU(nn.Module):
    """A convolution with bias, and zero for what is below."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.padding = convolution.stride, [int(side) for side in convolution.padding]

    def forward(self, features: Tensor) -> Tensor:
        if features.is_cuda:
            return torch.cudnn_convolution_relu(features, self.weight, self.bias, self.stride, self.padding, (1, 1), 1)
        return conv2d(features, self.weight, self.bias, self.stride, self.padding).relu_()


class _FirstStrided(_ConvolutionReLU):
    """That of a picture, 6x6 with a stride of 2, as 3x3 over squares of 2x2 pixels: four channels are more than one."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(convolution)
        squares = convolution.weight.detach()[:, 0].unflatten(2, (3, 2)).unflatten(1, (3, 2))
        weight = squares.permute(0, 2, 4, 1, 3).flatten(1, 2)
        self.weight = nn.Parameter(pad(weight, (0, 0, 0, 0, 0, ALIGNED - 4)), requires_grad=False)
        self.stride, self.padding = (1, 1), [1, 1]

    def forward(self, picture: Tensor) -> Tensor:
        batch, _, height, width = picture.shape
        squares = picture.new_zeros(batch, height // 2, width // 2, ALIGNED)
        pixels = picture.reshape(batch, height // 2, 2, width // 2, 2).transpose(2, 3)
        squares[..., :4].unflatten(-1, (2, 2)).copy_(pixels)
        return super().forward(squares.permute(0, 3, 1, 2))


class _Pointwise(nn.Module):
    """One or several 1x1 convolutions of the same map, as a matrix product: `[B, in, h, w]` to `[B, all out, h, w]`."""

    def __init__(self, convolutions: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        weights, biases = zip(*((each.weight.detach()[:, :, 0, 0], each.bias) for each in convolutions), strict=True)
        weight, bias = torch.cat(weights), torch.cat(biases).detach()
        self.channels = len(weight)
        missing = -self.channels % ALIGNED
        self.weight = nn.Parameter(pad(weight, (0, 0, 0, missing)), requires_grad=False)
        self.bias = nn.Parameter(pad(bias, (0, missing)), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.product(features)[..., : self.channels].permute(0, 3, 1, 2)

    def product(self, features: Tensor) -> Tensor:
        """`[B, h, w, out]`, a few channels more."""
        entries = features.permute(0, 2, 3, 1)
        # Of two dimensions: for more, torch adds the bias by itself.
        return linear(entries.flatten(0, 2), self.weight, self.bias).unflatten(0, entries.shape[:3])


class _StrongestPointwise(_Pointwise):
    def __init__(self, convolutions: Sequence[nn.Conv2d]) -> None:
        super().__init__(convolutions)
        self.answers = len(convolutions)

    def forward(self, features: Tensor) -> Tensor:
        every = self.product(features)[..., : self.channels]
        return every.unflatten(-1, (self.answers, -1)).amax(-2).permute(0, 3, 1, 2)
