"""Triton, which comes with PyTorch for NVIDIA GPUs on Linux, where it is usable."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch
from torch.nn.functional import max_pool2d

from superpoint_ros.errors import first_line

OLDEST = (3, 2)
"""Version of Triton that compiles all of them."""

_WANTED = ContextVar('wanted', default=True)


def kernels_for(device: torch.device) -> ModuleType | None:
    """The module `kernels` if what is on that device can be computed by it, else None, and torch has to."""
    return _tried(device) if device.type == 'cuda' and _WANTED.get() else None


@contextmanager
def torch_alone() -> Iterator[None]:
    """Within it nothing is computed by kernels, to compare."""
    before = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(before)


@cache
def _tried(device: torch.device) -> ModuleType | None:
    return try_kernels(device)


def try_kernels(device: torch.device) -> ModuleType | None:
    """The module, once one of its kernels was compiled and gave what torch gives; else None, and a warning says why.

    It takes a second unless Triton's cache has it.
    """
    try:
        import triton

        if tuple(map(int, triton.__version__.split('.')[:2])) < OLDEST:
            raise ImportError(f'Triton {triton.__version__} is too old, PyTorch 2.6 brings another')
        from superpoint_ros import kernels

        features = torch.rand(2, 24, 6, 10, device=device)
        same = torch.equal(kernels.halve(features), max_pool2d(features, 2))
        reason = '' if same else 'they compute something else'
    except Exception as error:  # no Triton, no C compiler, a GPU that it does not know: each its own kind
        reason = first_line(error)
    if not reason:
        return kernels
    warnings.warn(f'no kernels by Triton, so that an image takes longer: {reason}', stacklevel=3)
    return None
