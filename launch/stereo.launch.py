"""Runs the front-end on a stereo camera and walks it to active."""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from superpoint_ros.nodes.launching import describe_launch


def generate_launch_description() -> LaunchDescription:
    """All arguments, then the node that follows from them."""
    topics = (
        DeclareLaunchArgument(
            'image',
            default_value='{camera}/image',
            description='Topics of the images; {camera} stands for left and for right.',
        ),
        DeclareLaunchArgument(
            'slop',
            default_value='',
            description="Maximum difference between the stamps of a pair, seconds; '' leaves it to params_file.",
        ),
    )
    return describe_launch(
        'stereo_frontend',
        'superpoint_stereo',
        'stereo.yaml',
        topics,
        cameras=lambda values: ['left', 'right'],
        parameters=lambda values: {'pairing.slop': float(values['slop'])} if values['slop'] else {},
    )
