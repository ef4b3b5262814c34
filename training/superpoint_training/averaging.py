"""Averages of networks' weights, which are often better than any of the networks they average."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """An exponential moving average over steps, as a network of its own in eval mode.

    BatchNorm's running mean and variance are averaged with the weights: they describe activations under the weights
    of their time, so that those of the last step alone would belong to other weights than the averaged ones.

    Attributes:
        network: the average; a copy of the network at first.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        own, theirs = self.network.state_dict(), network.state_dict()
        self._pairs = [(own[name], theirs[name]) for name in own]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network as it is after `step` steps; faster in the beginning, to forget where it began."""
        weight = 1 - min(self._decay, step / (step + 9))
        for average, latest in self._pairs:
            if average.is_floating_point():
                average.lerp_(latest, weight)
            else:
                average.copy_(latest)


@torch.no_grad()
def blend(old: nn.Module, new: nn.Module, share: float) -> nn.Module:
    """A network between two of one shape, in eval mode: `old + share * (new - old)` for every weight and statistic.

    Of weights trained on from others it keeps most of what they gained and forgets less (Wortsman et al. 2022, robust
    fine-tuning). Counters are those of the new one.
    """
    between = copy.deepcopy(new).eval()
    before = old.state_dict()
    for name, tensor in between.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.lerp(before[name].to(tensor), tensor, share))
    return between
