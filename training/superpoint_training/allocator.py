"""Keeping freed memory with the process: on a CPU half of a training step can be the kernel clearing pages."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to serve large blocks from its heap and never give them back; elsewhere do nothing.

    By default every tensor of a few MB is mapped anew and unmapped when freed, and the kernel must clear its pages
    each time. Measured on two cores: training the small network 116 to 313 images/s, the large one 40 to 64.
    """
    if sys.platform.startswith('linux'):
        libc = ctypes.CDLL(None)
        if hasattr(libc, 'mallopt'):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
