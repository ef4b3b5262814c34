"""Several processes, on one machine or many, that work as one; started by torchrun, through torch.distributed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed

# Before there is a group. PyTorch's optimizers import it later, when its functions' defaults would keep the group, and
# with it threads that may abort the process as it ends.
import torch.distributed.nn
from torch import Tensor

from superpoint_training.failures import TrainingError, first_line

LONGEST_WAIT = timedelta(hours=6)
"""For a rank that evaluates or labels while the others are done; PyTorch's default is minutes."""

Value = TypeVar('Value')


@dataclass(frozen=True)
class World:
    """This process among those that work together; alone by default.

    Attributes:
        rank: number of this process; 0 prints and writes.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, on `device`, by its sum over all processes; one exchange for all of them.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        with _others_may_be_gone():
            torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def from_first(self, value: Value) -> Value:
        """The value that rank 0 gave, which is whatever pickle can carry.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1:
            return value
        carried = [value]
        with _others_may_be_gone():
            torch.distributed.broadcast_object_list(carried, device=torch.device('cpu'))
        return carried[0]

    def wait(self) -> None:
        """Go on only when every process is here."""
        self.from_first(None)
        self.sum([torch.zeros(1, device=self.device)])


@contextmanager
def join_world(device: str = 'auto') -> Iterator[World]:
    """Work with the processes that torchrun started beside this one; without torchrun, alone.

    Messages between CPUs go by gloo, between GPUs by nccl.

    Args:
        device: as for `pick_device`; processes of one machine take its GPUs in turn.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    chosen = pick_device(device)
    size = int(os.environ.get('WORLD_SIZE', '1'))
    if size == 1:
        yield World(device=chosen)
        return
    backend = 'cpu:gloo,cuda:nccl' if chosen.type == 'cuda' else 'gloo'
    torch.distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    yield World(torch.distributed.get_rank(), size, chosen)
    # Not after an error: nccl would wait for messages that never come. The process ends, and torchrun ends the others.
    torch.distributed.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:1`; `auto` takes a GPU where there is one.

    Under torchrun `auto` and `cuda` mean the GPU of this process's number on its machine.

    Raises:
        ValueError: it is none of these, or CUDA was asked for and is not there.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cpu':
        return torch.device(name)
    if not re.fullmatch(r'cuda(:\d+)?', name):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<number>', not {name!r}")
    if not torch.cuda.is_available():
        raise ValueError(f"device '{name}' was asked for, but PyTorch sees no CUDA GPU here; use device=cpu or auto")
    if name == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count())
    else:
        device = torch.device(name)
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device '{name}' was asked for, but PyTorch sees {torch.cuda.device_count()} here, from cuda:0"
            )
    torch.cuda.set_device(device)
    return device


@contextmanager
def _others_may_be_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(f'another process ended; its own message says why ({first_line(error)})') from error
