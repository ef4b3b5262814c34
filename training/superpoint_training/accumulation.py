"""The gradient of a whole batch, from parts of it that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from superpoint_training.distributed import World
from superpoint_training.failures import first_line, halved, out_of_memory

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
ComputeLosses = Callable[[nn.Module, Batch], Losses]


class Accumulator:
    """Runs a batch through a network in micro-batches and leaves the whole batch's gradient in its parameters.

    A loss must be a mean over the examples of what it is given; then the gradient does not depend on the size of
    the micro-batches, to rounding. BatchNorm does: in training it normalises by the micro-batch's own statistics.
    All micro-batches of a step begin with the same running statistics, which then move by the mean over them. So a
    step is the same however its micro-batches are dealt out to processes, as long as they have the same size.

    Attributes:
        micro_batch: examples at a time; halved, with a message, whenever memory does not suffice.
    """

    def __init__(self, network: nn.Module, micro_batch: int, world: World) -> None:
        self.micro_batch = micro_batch
        self._network, self._world = network, world
        self.statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._before: list[Tensor] = []

    def run(self, batch: Batch, compute_losses: ComputeLosses, seed: int) -> Losses:
        """Compute this process's part of the batch's losses, gradients and statistics, to be summed over processes.

        Args:
            batch: this process's examples, the same number as every other's.
            compute_losses: see `train`.
            seed: of whatever the network draws, dropout say; of the first example of this batch.

        Raises:
            TrainingError: memory does not even suffice for one example.
        """
        self._before = [statistic.clone() for statistic in self.statistics]
        while True:
            try:
                return self._accumulate(batch, compute_losses, seed)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = first_line(error)
            self.micro_batch = halved(min(self.micro_batch, len(next(iter(batch.values())))), 'examples', message)

    def undo_statistics(self) -> None:
        """Set BatchNorm's statistics back to what they were before the last batch."""
        for statistic, before in zip(self.statistics, self._before, strict=True):
            statistic.copy_(before)

    def _accumulate(self, batch: Batch, compute_losses: ComputeLosses, seed: int) -> Losses:
        device, network = self._world.device, self._network
        network.zero_grad(set_to_none=True)
        own = len(next(iter(batch.values())))
        moved = [torch.zeros_like(statistic) for statistic in self.statistics]
        losses: Losses = {}
        for start in range(0, own, self.micro_batch):
            part = {
                name: tensor[start : start + self.micro_batch].to(device, non_blocking=True)
                for name, tensor in batch.items()
            }
            share = min(self.micro_batch, own - start) / (own * self._world.size)
            self.undo_statistics()
            torch.manual_seed(seed + start)
            with torch.autocast(device.type, torch.bfloat16):
                part_losses = compute_losses(network, part)
            (part_losses['total'] * share).backward()
            for total, statistic in zip(moved, self.statistics, strict=True):
                total.add_(statistic, alpha=share)
            for name, loss in part_losses.items():
                losses[name] = losses.get(name, 0) + loss.detach().float() * share
        for statistic, total in zip(self.statistics, moved, strict=True):
            statistic.copy_(total)
        return losses
