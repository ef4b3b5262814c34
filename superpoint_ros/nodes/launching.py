"""What the launch files of the front-ends have in common. Needs `launch`, which comes with a ROS distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from superpoint_ros.nodes.middleware import fast_dds_environment
from superpoint_ros.share import share_directory

YES_NO = ['true', 'false']


def describe_launch(
    executable: str,
    node: str,
    params_file: str,
    topics: Iterable[DeclareLaunchArgument],
    cameras: Callable[[dict[str, str]], Sequence[str]] = lambda values: [''],
    parameters: Callable[[dict[str, str]], dict[str, Any]] = lambda values: {},
) -> LaunchDescription:
    """All arguments of a front-end's launch file, then the node that follows from them.

    params_file: name of a file in `config`. topics: the argument `image`, and those that only this launch file has.
    cameras, parameters: what follows from the values of the arguments: the cameras' names, '' for the only one, and
    parameters that only this node has.
    """
    arguments = _arguments(params_file, topics)

    def start(context: LaunchContext) -> list[Node]:
        values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}
        return [_node(executable, node, values, cameras(values), parameters(values))]

    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def _arguments(params_file: str, topics: Iterable[DeclareLaunchArgument]) -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of node and topics.'),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share_directory() / 'config' / params_file),
            description='Parameters (YAML). The arguments of this file win over it, where given.',
        ),
        *topics,
        DeclareLaunchArgument(
            'camera_info',
            default_value='',
            description="Topic of the calibration, {camera} as in image; '' takes camera_info beside image: "
            '/camera/camera_info for /camera/image_raw.',
        ),
        DeclareLaunchArgument(
            'image_transport',
            default_value='',
            choices=['', 'raw', 'compressed'],
            description="compressed takes CompressedImage from <image>/compressed; '' leaves it to params_file, "
            'and takes <image> as it is named.',
        ),
        DeclareLaunchArgument(
            'weights',
            default_value='',
            description='superpoint, superpoint_small, goodpoint, unsuperpoint, kp2d or a .safetensors file; '
            "'' leaves it to params_file.",
        ),
        DeclareLaunchArgument(
            'device',
            default_value='',
            description="auto, cpu, cuda or cuda:N; '' leaves it to params_file.",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            choices=['', *YES_NO],
            description="Take the time from /clock; '' leaves it to params_file.",
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=YES_NO,
            description='Configure and activate, also after a respawn, whatever params_file says; false: neither.',
        ),
        DeclareLaunchArgument(
            'respawn',
            default_value='false',
            choices=YES_NO,
            description='Start the node again 2 s after it ended unasked.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity that is logged.',
        ),
    ]


def _node(
    executable: str, name: str, values: dict[str, str], cameras: Sequence[str], parameters: dict[str, Any]
) -> Node:
    """The node that the arguments' values ask for; what is empty is left to params_file."""
    flags = {flag: values[flag] == 'true' for flag in ('autostart', 'use_sim_time') if values[flag]}
    given = {choice: values[choice] for choice in ('weights', 'device', 'image_transport') if values[choice]}
    return Node(
        package='superpoint_ros',
        executable=executable,
        name=name,
        namespace=values['namespace'],
        parameters=[values['params_file'], flags | given | parameters],
        remappings=[pair for camera in cameras for pair in remap(camera, values)],
        ros_arguments=['--log-level', values['log_level']],
        additional_env=fast_dds_environment(),
        respawn=values['respawn'] == 'true',
        respawn_delay=2.0,
        output='screen',
    )


def remap(camera: str, values: dict[str, str]) -> list[tuple[str, str]]:
    """From the node's topics of a camera to those that the arguments `image` and `camera_info` name.

    {camera} in them stands for the camera's name. Without `camera_info` it is that in the namespace of `image`.
    """
    image, info = (values[name].replace('{camera}', camera) for name in ('image', 'camera_info'))
    namespace, slash, _ = image.removesuffix('/compressed').rpartition('/')
    info = info or f'{namespace}{slash}camera_info'
    if values['image_transport'] == 'compressed' and not image.endswith('/compressed'):
        image += '/compressed'
    prefix = f'{camera}/' if camera else ''
    return [(f'{prefix}image', image), (f'{prefix}camera_info', info)]
