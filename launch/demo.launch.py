"""Runs the front-end on a recording: a bag, a video, a folder of pictures, or the demo's own sequence."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from superpoint_ros.demo.sequence import Gallery
from superpoint_ros.nodes.launching import remap
from superpoint_ros.nodes.middleware import fast_dds_environment
from superpoint_ros.share import share_directory

ARGUMENTS = {
    argument.name: argument
    for argument in (
        DeclareLaunchArgument(
            'input', default_value='', description="Bag, video or folder; '' takes the demo's own sequence."
        ),
        DeclareLaunchArgument(
            'topic', default_value='', description="Image topic of a bag; '' takes the one with most images."
        ),
        DeclareLaunchArgument(
            'rate',
            default_value='1.0',
            description='Speed, 1 as recorded; 0 sends an image when the one before was answered.',
        ),
        DeclareLaunchArgument(
            'loop', default_value='true', choices=['true', 'false'], description='Start again at the end.'
        ),
        DeclareLaunchArgument(
            'frame_id',
            default_value='camera_optical_frame',
            description='Frame of pictures and videos, which have none, and that RViz shows: for a bag give its own.',
        ),
        DeclareLaunchArgument('rviz', default_value='false', choices=['true', 'false'], description='Show it in RViz.'),
        DeclareLaunchArgument(
            'cache',
            default_value=str(Path.home() / '.cache' / 'superpoint_ros'),
            description="Folder where the demo's own sequence is kept, once rendered.",
        ),
    )
}


def generate_launch_description() -> LaunchDescription:
    """The arguments of this file and of frontend.launch.py, then the nodes."""
    frontend = share_directory() / 'launch' / 'frontend.launch.py'
    return LaunchDescription(
        [
            *ARGUMENTS.values(),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(frontend))),
            OpaqueFunction(function=_replay),
        ]
    )


def _replay(context: LaunchContext) -> list[Node]:
    included = 'namespace', 'image', 'camera_info', 'image_transport', 'use_sim_time'
    values = {name: LaunchConfiguration(name).perform(context) for name in (*ARGUMENTS, *included)}
    given = {name: values[name] for name in ('topic', 'frame_id', 'image_transport') if values[name]}
    common = {'namespace': values['namespace'], 'additional_env': fast_dds_environment()}
    nodes = [
        Node(
            package='superpoint_ros',
            executable='replay',
            parameters=[
                given
                | {
                    'input': values['input'] or str(Gallery().bag(Path(values['cache']))),
                    'rate': float(values['rate']),
                    'loop': values['loop'] == 'true',
                    'clock': values['use_sim_time'] == 'true',
                }
            ],
            remappings=remap('', values),
            output='screen',
            **common,
        )
    ]
    if values['rviz'] == 'true':
        layout = share_directory() / 'config' / 'superpoint.rviz'
        arguments = ['-d', str(layout), '-f', values['frame_id']]
        nodes.append(Node(package='rviz2', executable='rviz2', arguments=arguments, **common))
    return nodes
