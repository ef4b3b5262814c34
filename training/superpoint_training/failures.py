"""What goes wrong in a long run through no fault of the code, and how to know it by the error that PyTorch raises."""

from __future__ import annotations

import re
import sys

import torch

from superpoint_ros import errors


class TrainingError(RuntimeError):
    """A run had to end: memory, disk, device or another process failed; the message says what to do."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory, of the host or of a GPU, did not suffice."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or 'DefaultCPUAllocator' in str(error)


def halved(tried: int, what: str, message: str) -> int:
    """Half of what was too much for memory at once; says so.

    Raises:
        TrainingError: it was one already.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if tried == 1:
        raise TrainingError(
            f'out of memory even with one of the {what} ({message}): use smaller pictures or a smaller network'
        )
    print(f'out of memory ({message}): going on with {tried // 2} instead of {tried} {what} at once', file=sys.stderr)
    return tried // 2


def what_failed(error: BaseException) -> str:
    """Which part of the machine an error says has failed, for people; empty if it says nothing of the kind.

    That is a GPU (off the bus, reset, or a fault that ends its context), or a process that makes examples: by an error
    of its own, which comes with its stack trace, or because it was killed, which PyTorch says unless the end of the
    connection to it is seen first.
    """
    said = str(error)
    if isinstance(error, RuntimeError) and any(sign in said for sign in ('CUDA error', 'CUDNN_STATUS')):
        return f'the GPU failed ({first_line(error)})'
    if 'DataLoader worker' in said:
        return f'a process that makes examples failed ({said.splitlines()[-1][:300]})'
    if isinstance(error, EOFError | ConnectionError):
        return 'a process that makes examples failed (it ended while it handed some over)'
    return ''


def first_line(error: BaseException) -> str:
    """The part of a message that is for people: without PyTorch's place in its sources and stack traces."""
    return re.sub(r'^\[enforce fail at .*?\] .*?\. ', '', errors.first_line(error))[:300]
