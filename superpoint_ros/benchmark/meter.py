"""What a process takes of the machine, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path


class Meter:
    """Processor time and memory of a process; this one by default."""

    def __init__(self, pid: int | None = None) -> None:
        self._folder = Path('/proc') / str(pid or os.getpid())

    def cpu_seconds(self) -> float:
        """Time on processors so far, of all its threads."""
        fields = (self._folder / 'stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def memory_mb(self) -> float:
        """Resident memory."""
        return self._status('VmRSS')

    def peak_memory_mb(self) -> float:
        """The most resident memory since `forget_peak`, or since it began."""
        return self._status('VmHWM')

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        (self._folder / 'clear_refs').write_text('5')

    def _status(self, name: str) -> float:
        lines = (self._folder / 'status').read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f'{name}:')).split()[1]) / 1024
