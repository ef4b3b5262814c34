"""A thread that always handles the newest item: what waits is at most one, so nothing queues."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')


class NewestWins(Generic[Item]):
    """Handles items one at a time in its own thread; a new item replaces one that still waits.

    Args:
        handle: called with each item that was not replaced.
        on_drop: called once for each item that was replaced, or still waited at `stop`.
        on_error: called with the traceback when `handle` raised; the next item is handled all the same.
    """

    def __init__(
        self, handle: Callable[[Item], None], on_drop: Callable[[], None], on_error: Callable[[str], Any]
    ) -> None:
        self._handle = handle
        self._on_drop = on_drop
        self._on_error = on_error
        self._waiting: Item | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='frontend worker', daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand an item over. Never blocks for longer than a swap."""
        with self._changed:
            replaced, self._waiting = self._waiting, item
            self._changed.notify()
        if replaced is not None:
            self._on_drop()

    def stop(self) -> None:
        """Finish the item in hand, drop the one that waits, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        if self._waiting is not None:
            self._waiting = None
            self._on_drop()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting is not None)
                if self._stopped:
                    return
                item, self._waiting = self._waiting, None
            if item is not None:
                try:
                    self._handle(item)
                except Exception:  # would end the thread without a word
                    self._on_error(traceback.format_exc())
