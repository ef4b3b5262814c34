"""The demo's other processes: started with a log file, watched, stopped as Ctrl-C would."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

STOP_SECONDS = 10.0


class ProcessError(RuntimeError):
    """A process ended that should have gone on, or ended badly."""


class Process:
    """A module run with `python -m` whose output goes to a file; a context manager that stops it."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.name = module.rpartition('.')[2]
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {'PYTHONUNBUFFERED': '1'},
                start_new_session=True,  # Ctrl-C comes to the demo alone, which stops them in order
            )

    def __enter__(self) -> 'Process':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it still runs.

        Raises:
            ProcessError: it ended with an error; the message has the end of its log.
        """
        status = self._process.poll()
        if status:
            raise ProcessError(f'The {self.name} process ended with status {status}. {self._tail()}')
        return status is None

    def require(self) -> None:
        """Raise ProcessError unless it still runs."""
        if not self.running():
            raise ProcessError(f'The {self.name} process ended too early. {self._tail()}')

    def stop(self) -> None:
        """Interrupt it and wait; kill it when it does not end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors='replace').rstrip().splitlines()[-20:]
        return f'The end of {self.log}:\n' + '\n'.join(f'    {line}' for line in lines)
