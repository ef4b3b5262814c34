"""Runs the front-end on a rig of cameras and walks it to active."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from superpoint_ros.nodes.launching import describe_launch
from superpoint_ros.nodes.parameters import ParameterError
from superpoint_ros.nodes.rig import check_names
from superpoint_ros.share import share_directory


def generate_launch_description() -> LaunchDescription:
    """All arguments, then the node that follows from them."""
    topics = (
        DeclareLaunchArgument(
            'cameras',
            default_value='',
            description="Names of the cameras, with commas between them; '' leaves them to params_file.",
        ),
        DeclareLaunchArgument(
            'image',
            default_value='{camera}/image',
            description='Topics of the images; {camera} stands for the name of each camera.',
        ),
    )
    return describe_launch(
        'rig_frontend',
        'superpoint_rig',
        'rig.yaml',
        topics,
        cameras=names,
        parameters=lambda values: {'cameras': names(values)} if values['cameras'] else {},
    )


def names(values: dict[str, str]) -> list[str]:
    """The cameras that the argument names; without it those that params_file has for the node, or else the node's own.

    Raises:
        ParameterError: they are no names of cameras.
    """
    cameras: Any = [name.strip() for name in values['cameras'].split(',')]
    if not values['cameras']:
        node = '/'.join(['', *filter(None, values['namespace'].split('/')), 'superpoint_rig'])
        files = Path(values['params_file']), share_directory() / 'config' / 'rig.yaml'
        cameras = next(found for file in files for found in in_file(yaml.safe_load(file.read_text()), node)[-1:])
    if not isinstance(cameras, list):
        raise ParameterError(f'cameras must be a list of names, not {cameras!r}.')
    return list(check_names(cameras))


def in_file(content: Any, node: str) -> list[Any]:
    """Each `cameras` that a parameter file has for a node, by its full name: the last one counts, as for ROS."""
    return [values['cameras'] for name, values in sections(content) if name.fullmatch(node) and 'cameras' in values]


def sections(tree: Any, name: str = '') -> Iterator[tuple[re.Pattern[str], dict[str, Any]]]:
    """The parameters in a file, each time with what matches the full names of the nodes that they are for."""
    for key, below in (tree or {}).items():
        if key == 'ros__parameters':
            yield re.compile(name), below or {}
        elif isinstance(below, dict):
            yield from sections(below, name + pattern(str(key)))


def pattern(key: str) -> str:
    """Of node names, or parts of them, as parameter files have them: * is any part between slashes, ** any of them."""
    tokens = key.strip('/').split('/')
    return ''.join('(/[^/]+)*' if t == '**' else '/' + re.escape(t).replace(r'\*', '[^/]*') for t in tokens)
