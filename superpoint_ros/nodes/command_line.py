"""What a node says to --help, and to arguments that ROS would pass over without a word."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from rclpy.utilities import remove_ros_args

from superpoint_ros.nodes.parameters import Parameter


def check_arguments(name: str, about: str, parameters: Iterable[Parameter], args: list[str] | None) -> None:
    """End the process for --help, with status 0, and for arguments that are not ROS's or that it can't read, with 2.

    name: of the executable. about: what it does. parameters: which --help lists. args: the command line, the program
    first; None is this process's.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        usage='%(prog)s [-h] [--ros-args -p PARAMETER:=VALUE ... -r TOPIC:=TOPIC ... --params-file FILE]',
        description=f'{about} Parameters go after --ros-args -p:',
        epilog='\n'.join(f'  {each.name}:={_shown(each.default)}\n        {each.description}' for each in parameters),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument('-h', '--help', action='help', help=argparse.SUPPRESS)
    try:
        others = remove_ros_args(args)
    except RuntimeError as error:  # rcl's, of several types
        parser.error(str(error))
    parser.parse_args(others[1:])


def _shown(value: Any) -> str:
    """As it is written on a command line."""
    return str(value).lower() if isinstance(value, bool) else "''" if value == '' else str(value)
