"""Runs the front-end on one camera and walks it to active."""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from superpoint_ros.nodes.middleware import fast_dds_environment
from superpoint_ros.share import share_directory

YES_NO = ['true', 'false']
ARGUMENTS = {
    argument.name: argument
    for argument in (
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of node and topics.'),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(share_directory() / 'config' / 'frontend.yaml'),
            description='Parameters (YAML). The arguments of this file win over it, where given.',
        ),
        DeclareLaunchArgument('image', default_value='image', description='Topic of the images.'),
        DeclareLaunchArgument('camera_info', default_value='camera_info', description='Topic of the calibration.'),
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
            description="superpoint, superpoint_small or a .safetensors file; '' leaves it to params_file.",
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
    )
}


def generate_launch_description() -> LaunchDescription:
    """All arguments, then the node that follows from them."""
    return LaunchDescription([*ARGUMENTS.values(), OpaqueFunction(function=_frontend)])


def _frontend(context: LaunchContext) -> list[Node]:
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    image = values['image']
    if values['image_transport'] == 'compressed' and not image.endswith('/compressed'):
        image += '/compressed'
    flags = {name: values[name] == 'true' for name in ('autostart', 'use_sim_time') if values[name]}
    given = {name: values[name] for name in ('weights', 'device', 'image_transport') if values[name]}
    return [
        Node(
            package='superpoint_ros',
            executable='frontend',
            name='superpoint_frontend',
            namespace=values['namespace'],
            parameters=[values['params_file'], flags | given],
            remappings=[('image', image), ('camera_info', values['camera_info'])],
            ros_arguments=['--log-level', values['log_level']],
            additional_env=fast_dds_environment(),
            respawn=values['respawn'] == 'true',
            respawn_delay=2.0,
            output='screen',
        )
    ]
