"""Milliseconds per stage of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter


class Stopwatch:
    """Collects lap times: `laps` maps a stage's name to its time in ms, in the order the stages ran."""

    def __init__(self, laps: Mapping[str, float] | None = None) -> None:
        """laps: of stages before."""
        self.laps = dict(laps or {})
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap, or since the start, to a stage."""
        now = perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now
