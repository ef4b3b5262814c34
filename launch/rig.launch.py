"""Runs the front-end on a rig of cameras and walks it to active."""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from superpoint_ros.nodes.launching import describe_launch


def generate_launch_description() -> LaunchDescription:
    """All arguments, then the node that follows from them."""
    topics = (
        DeclareLaunchArgument(
            'cameras',
            default_value='front,left,right,back',
            description='Names of the cameras, with commas between them, whatever params_file says.',
        ),
        DeclareLaunchArgument(
            'image',
            default_value='{camera}/image',
            description='Topics of the images; {camera} stands for the name of each camera.',
        ),
        DeclareLaunchArgument(
            'camera_info',
            default_value='{camera}/camera_info',
            description='Topics of the calibrations; {camera} stands for the name of each camera.',
        ),
    )
    return describe_launch(
        'rig_frontend',
        'superpoint_rig',
        'rig.yaml',
        topics,
        cameras=lambda values: names(values['cameras']),
        parameters=lambda values: {'cameras': names(values['cameras'])},
    )


def names(cameras: str) -> list[str]:
    """The names that are given with commas between them."""
    return [name.strip() for name in cameras.split(',')]
