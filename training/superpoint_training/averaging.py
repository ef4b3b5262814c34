"""The running average of a network's weights, which is better than any of the networks it averages."""

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
