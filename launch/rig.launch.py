"""Runs the front-end on a rig of cameras and walks it to active."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from superpoint_ros.nodes.launching import describe_launch
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
        parameters=lambda values: {'cameras': names(values)},
    )


def names(values: dict[str, str]) -> list[str]:
    """The cameras that the argument names; without it those in params_file, or else the node's own."""
    if values['cameras']:
        return [name.strip() for name in values['cameras'].split(',')]
    files = Path(values['params_file']), share_directory() / 'config' / 'rig.yaml'
    return next(cameras for file in files for cameras in in_file(yaml.safe_load(file.read_text()) or {}))


def in_file(tree: dict[str, Any]) -> Iterator[list[str]]:
    """Each `cameras` in a parameter file, whatever its nodes are called."""
    for key, below in tree.items():
        if key == 'ros__parameters' and 'cameras' in below:
            yield below['cameras']
        elif isinstance(below, dict):
            yield from in_file(below)
