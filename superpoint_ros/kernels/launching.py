"""On which of several GPUs a kernel starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Result = TypeVar('Result')


def where_the_first_is(function: Callable[..., Result]) -> Callable[..., Result]:
    """Start its kernels on the GPU that its first argument, a tensor, is on: Triton takes the current one."""

    @wraps(function)
    def launch(first: torch.Tensor, *others: Any, **named: Any) -> Result:
        with torch.cuda.device_of(first):
            return function(first, *others, **named)

    return launch
