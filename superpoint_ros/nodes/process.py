"""A node's life as a process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers

from superpoint_ros.nodes.parameters import ParameterError

AnyNode = TypeVar('AnyNode', bound=Node)


def run(
    name: str,
    make: Callable[[], AnyNode],
    work: Callable[[AnyNode], None],
    args: list[str] | None,
    refusals: tuple[type[Exception], ...] = (ParameterError,),
) -> None:
    """Make a node and let it work until it is done or a signal comes; then destroy it and leave ROS.

    refusals: errors that end the process with their message, without a traceback.
    """
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # rcl's, of several types
        sys.exit(f'{name}: {error}')
    node = None
    try:
        node = make()
        try:
            work(node)
        finally:
            # Ends the thread in which rclpy answers signals: it would go on to use the executor, which is about to go.
            uninstall_signal_handlers()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except refusals as error:
        sys.exit(f'{name}: {error}')
    except Exception:
        if rclpy.ok():  # else it is what a signal leads to, whatever it comes upon
            raise
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):  # a second one must not interrupt the tidying up
            signal.signal(each, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
