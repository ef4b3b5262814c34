"""Counts and times of a running front-end. Knows no ROS."""

from __future__ import annotations

import threading
from collections import Counter, deque
from time import monotonic
from typing import Any

import numpy as np

_WINDOW_SECONDS = 10.0


class Statistics:
    """What became of a camera's images so far: each one received ends as processed, dropped or failed.

    Lost ones never came. Or unpaired, where the images of two cameras are paired. Safe to use from several threads.
    """

    def __init__(self, paired: bool = False) -> None:
        """paired: whether images are paired with those of another camera."""
        self._lock = threading.Lock()
        self._counts = Counter(lost=0, received=0, processed=0, dropped=0, failed=0)
        if paired:
            self._counts['unpaired'] = 0
        self._failures: Counter[str] = Counter()
        self._notices: Counter[str] = Counter()
        self._recent: deque[tuple[float, float]] = deque()  # (time, latency in ms) of each processed image
        self._lately: deque[tuple[float, str, int]] = deque()  # (time, what, how many)
        self._latest: dict[str, float] = {}
        self._last_received = monotonic()
        self._unanswered_since: float | None = None

    def on_received(self) -> None:
        """An image came."""
        with self._lock:
            self._count('received')
            self._last_received = monotonic()
            if self._unanswered_since is None:
                self._unanswered_since = self._last_received

    def on_lost(self, count: int) -> None:
        """Images that were published did not come."""
        with self._lock:
            self._count('lost', count)

    def on_dropped(self) -> None:
        """An image gave way to a newer one."""
        with self._lock:
            self._counts['dropped'] += 1

    def on_unpaired(self) -> None:
        """No image of the other camera came for this one."""
        with self._lock:
            self._counts['unpaired'] += 1

    def on_failed(self, cause: str) -> bool:
        """An image could not be processed. Returns whether this cause is new: worth a line in the log."""
        with self._lock:
            self._count('failed')
            self._failures[cause] += 1
            return self._failures[cause] == 1

    def on_unsteady(self) -> None:
        """The stamp of an image was not later than that of the one before."""
        with self._lock:
            self._note('unsteady')

    def on_noticed(self, cause: str) -> bool:
        """Something was odd, but the image was processed. Returns whether this cause is new."""
        with self._lock:
            self._notices[cause] += 1
            return self._notices[cause] == 1

    def on_processed(self, latency_ms: float, latest: dict[str, float]) -> None:
        """An image's results were published `latency_ms` after it came; `latest` is what to report of it."""
        now = monotonic()
        with self._lock:
            self._count('processed')
            self._unanswered_since = None
            self._latest = latest
            self._recent.append((now, latency_ms))
            _forget_before(now - _WINDOW_SECONDS, self._recent)

    def restart_clock(self) -> None:
        """Count the silence, and what happens lately, from now on: no image was expected before."""
        with self._lock:
            self._lately.clear()
            self._last_received = monotonic()
            self._unanswered_since = None

    @property
    def lately(self) -> Counter[str]:
        """How many images were `received`, `lost`, `processed`, `failed` and `unsteady` in the last 10 s."""
        with self._lock:
            _forget_before(monotonic() - _WINDOW_SECONDS, self._lately)
            counts: Counter[str] = Counter()
            for _, what, count in self._lately:
                counts[what] += count
            return counts

    @property
    def silence(self) -> float:
        """Seconds since the last image came."""
        return monotonic() - self._last_received

    @property
    def standstill(self) -> float:
        """Seconds since the first image that came after the last one processed; 0 when none did."""
        since = self._unanswered_since
        return 0.0 if since is None else monotonic() - since

    def _count(self, what: str, count: int = 1) -> None:
        self._counts[what] += count
        self._note(what, count)

    def _note(self, what: str, count: int = 1) -> None:
        now = monotonic()
        self._lately.append((now, what, count))
        _forget_before(now - _WINDOW_SECONDS, self._lately)

    def report(self) -> dict[str, str]:
        """Everything, as names and values for people. Rate and latency are those of the last 10 s."""
        with self._lock:
            _forget_before(monotonic() - _WINDOW_SECONDS, self._recent)
            times = np.array(self._recent).reshape(-1, 2)
            report = {name: str(count) for name, count in self._counts.items()}
            report |= {f'failed: {cause}': str(count) for cause, count in self._failures.items()}
            report |= {f'notice: {cause}': str(count) for cause, count in self._notices.items()}
            latest = dict(self._latest)
        report['rate_hz'] = f'{_rate(times[:, 0]):.1f}'
        for percent in (50, 95, 99):
            report[f'latency_p{percent}_ms'] = f'{np.percentile(times[:, 1], percent):.2f}' if len(times) else 'nan'
        return report | {name: f'{value:.6g}' for name, value in latest.items()}


def _rate(times: np.ndarray) -> float:
    """Images a second, of their times [N]; lower from when the next is due and does not come."""
    if len(times) < 2:
        return 0.0
    span = times[-1] - times[0]
    overdue = monotonic() - times[-1] - span / (len(times) - 1)
    span += max(0.0, overdue)
    return float((len(times) - 1) / span) if span > 0 else 0.0


def _forget_before(moment: float, timed: deque[Any]) -> None:
    """Of tuples that begin with their time."""
    while timed and timed[0][0] < moment:
        timed.popleft()
