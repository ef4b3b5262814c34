"""A thread that always handles the newest item of each source: no more than one of each waits, so nothing queues."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')

_ALIVE = 1.0  # seconds; for a source that was silent for longer the others do not wait


class NewestWins(Generic[Item]):
    """Handles what waits in its own thread; a new item replaces one of the same source that still waits.

    Args:
        handle: called with the items that wait, by source in ascending order, one or more.
        on_drop: called with the source of each item that was replaced, or still waited at `stop`.
        on_error: called with the traceback when `handle` raised; the next items are handled all the same.
        gather: seconds that the first item waits for those of the other sources, to be handled together, the time
            included that others were in hand. It does not wait for sources that are silent. May be changed at any time.
    """

    def __init__(
        self,
        handle: Callable[[dict[int, Item]], None],
        on_drop: Callable[[int], None],
        on_error: Callable[[str], Any],
        gather: float = 0.0,
    ) -> None:
        self._handle = handle
        self._on_drop = on_drop
        self._on_error = on_error
        self.gather = gather
        self._waiting: dict[int, Item] = {}
        self._last_put: dict[int, float] = {}
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='frontend worker', daemon=True)
        self._thread.start()

    def put(self, item: Item, source: int = 0) -> None:
        """Hand an item over. Never blocks for longer than a swap."""
        with self._changed:
            replaces = source in self._waiting
            self._waiting[source] = item
            self._last_put[source] = monotonic()
            self._changed.notify()
        if replaces:
            self._on_drop(source)

    def stop(self) -> None:
        """Finish the items in hand, drop those that wait, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        for source in self._waiting:
            self._on_drop(source)
        self._waiting = {}

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self.gather and self._waiting:
                    waited = monotonic() - min(self._last_put[source] for source in self._waiting)
                    self._changed.wait_for(lambda: self._stopped or self._is_complete(), self.gather - waited)
                if self._stopped:
                    return
                items, self._waiting = self._waiting, {}
            try:
                self._handle(dict(sorted(items.items())))
            except Exception:  # would end the thread without a word
                self._on_error(traceback.format_exc())

    def _is_complete(self) -> bool:
        now = monotonic()
        return all(source in self._waiting for source, put in self._last_put.items() if now - put < _ALIVE)
