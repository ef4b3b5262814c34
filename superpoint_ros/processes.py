"""What a program that tries out nodes needs: processes of theirs on this machine alone, and an ear for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from superpoint_ros.nodes.middleware import fast_dds_environment

START_SECONDS = 120.0
"""For loading and compiling the network on a slow machine."""
STOP_SECONDS = 10.0


class ProcessError(RuntimeError):
    """A process ended that should have gone on, or ended badly."""


def own_domain() -> int:
    """A ROS_DOMAIN_ID, 1 to 100, that keeps programs on one machine apart.

    Higher domains run into the ports that Linux hands out.
    """
    return 1 + os.getpid() % 100


def isolate(domain: int) -> None:
    """Keep this process, and those that it starts, to a domain on this machine, with Fast DDS as the launch files.

    SIGTERM, as `timeout` sends it, ends it like Ctrl-C from now on: not without those that it started.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST')
    os.environ.update(fast_dds_environment())


def ros_arguments(**parameters: str) -> list[str]:
    """A node's command line; a parameter without a value keeps its default."""
    given = [f'{name}:={value}' for name, value in parameters.items() if value]
    return ['--ros-args', *(word for pair in given for word in ('-p', pair))]


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
                start_new_session=True,  # Ctrl-C comes to the program alone, which stops them in order
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
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


class Listener:
    """A node that receives while it spins, in a ROS context of its own; a context manager.

    Attributes:
        node: to subscribe and publish with.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = Context()

    def __enter__(self) -> Listener:
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(self._name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        self.spin_until(time.monotonic() + seconds)

    def spin_until(self, moment: float) -> None:
        """Receive until `time.monotonic()` is so late."""
        while (left := moment - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait_for(self, is_ready: Callable[[], object], *processes: Process) -> None:
        """Receive until processes have made something ready.

        Raises:
            ProcessError: one of them ended, or START_SECONDS have passed.
        """
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            for process in processes:
                process.require()
            if time.monotonic() > deadline:
                logs = ' and '.join(str(process.log) for process in processes)
                raise ProcessError(f'Nothing was ready after {START_SECONDS:.0f} s: see {logs}.')
            self.spin(0.1)
