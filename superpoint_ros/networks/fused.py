"""The same networks with fewer and larger steps, for GPUs, on which a step costs more than what it computes.

PyTorch adds a convolution's bias and cuts off what is below zero in two more passes over the map, which take longer
than the convolution. Here cuDNN does all three in one. What else touches whole maps is done by `kernels` where those
are usable.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from superpoint_ros import triton_runtime
from superpoint_ros.networks.family import KeypointNetwork
from superpoint_ros.networks.layers import STRIDE, CellLogits, ConvBlock
from superpoint_ros.networks.superpoint import SuperPoint
from superpoint_ros.networks.turning import Strongest

ALIGNED = 8
"""Tensor cores take half-precision channels by so many."""
_KERNEL_CHANNELS = (16, 32, 64, 128)
"""That `kernels.first_strided` can give."""


def fuse(network: KeypointNetwork) -> KeypointNetwork:
    """A copy that computes the same, to rounding, of grey levels in 0..255 instead of [0, 1]; fold BatchNorms before.

    Quick channels last, and in half precision.
    """
    fused = copy.deepcopy(network).eval()
    first = fused.encoder.first.convolution
    first.weight = nn.Parameter(first.weight.detach() / 255, requires_grad=False)
    fused.encoder.halve = _halve
    _fuse_within(fused)
    if isinstance(fused, SuperPoint) and isinstance(fused.skips, CellLogits):
        _add_up_biases(fused, fused.skips)
        fused.skips, fused.join = nn.ModuleList(map(_Skip, fused.skips)), _join_in_place
    return fused


def takes_bytes(network: KeypointNetwork) -> bool:
    """Whether a fused network on its device wants pictures as they are, rather than in its own type."""
    return any(isinstance(module, _FirstStrided) and module.kernels for module in network.modules())


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


def _add_up_biases(network: SuperPoint, skips: CellLogits) -> None:
    """Of all that makes the logits, in the last of them."""
    last = network.detector[-1]
    assert isinstance(last, _Pointwise)
    for convolution in skips:
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        last.bias[: STRIDE**2] += convolution.bias


def _join_in_place(skips: nn.Module, logits: Tensor, features: Sequence[Tensor]) -> Tensor:
    for skip, map_ in zip(skips.children(), features, strict=False):
        skip(logits, map_)
    return logits


class _Skip(nn.Module):
    """A convolution whose stride is a cell's side, added to all logits but "no keypoint here"."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        self.weight = convolution.weight
        self.stride, self.padding = convolution.stride[0], int(convolution.padding[0])
        taps = convolution.weight.detach().permute(2, 3, 1, 0).flatten(1, 2).contiguous()
        self.taps = nn.Parameter(taps, requires_grad=False)

    def forward(self, logits: Tensor, features: Tensor) -> None:
        kernels = triton_runtime.kernels_for(logits.device)
        if kernels and self.taps.shape[1] % kernels.AT_ONCE == 0:
            kernels.add_strided(logits, features, self.taps, self.stride, self.padding)
        else:
            logits[:, : STRIDE**2] += conv2d(features, self.weight, None, self.stride, self.padding)


def _halve(features: Tensor) -> Tensor:
    """The largest of each 2x2, of a map whose sides are even."""
    if kernels := triton_runtime.kernels_for(features.device):
        return kernels.halve(features)
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
        taps = convolution.weight.detach().flatten(1).T
        self.taps = nn.Parameter(pad(taps, (0, 0, 0, 64 - len(taps))).contiguous(), requires_grad=False)
        squares = convolution.weight.detach()[:, 0].unflatten(2, (3, 2)).unflatten(1, (3, 2))
        weight = squares.permute(0, 2, 4, 1, 3).flatten(1, 2)
        self.weight = nn.Parameter(pad(weight, (0, 0, 0, 0, 0, ALIGNED - 4)), requires_grad=False)
        self.stride, self.padding = (1, 1), [1, 1]

    @property
    def kernels(self) -> ModuleType | None:
        """If they can do it in one."""
        channels = self.taps.shape[1]
        return triton_runtime.kernels_for(self.taps.device) if channels in _KERNEL_CHANNELS else None

    def forward(self, picture: Tensor) -> Tensor:
        if kernels := self.kernels:
            return kernels.first_strided(picture, self.taps, self.bias)
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
        every = self.product(features)
        if kernels := triton_runtime.kernels_for(features.device):
            return kernels.strongest(every, self.answers, self.channels // self.answers).permute(0, 3, 1, 2)
        every = every[..., : self.channels]
        return every.unflatten(-1, (self.answers, -1)).amax(-2).permute(0, 3, 1, 2)
