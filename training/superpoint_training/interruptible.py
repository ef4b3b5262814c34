"""Ctrl-C that lets a step finish."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_AND_THE_SAME = 1.0
"""Seconds within which signals count as one: under torchrun a Ctrl-C comes from the terminal and from torchrun."""


class Interruptible:
    """Within it, the first SIGINT or SIGTERM is noted rather than raised; a later one does what it always does.

    Entering gives a function that tells whether one came. Outside the main thread, which gets no signals, it never
    does.
    """

    def __enter__(self) -> Callable[[], bool]:
        self._noted_at: float | None = None
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return lambda: self._noted_at is not None

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._noted_at is None:
            self._noted_at = now
        elif now - self._noted_at > ONE_AND_THE_SAME:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def leave_interrupts_to_parent(_worker: int) -> None:
    """For worker processes: Ctrl-C reaches all of them, and the one that trains decides when to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
