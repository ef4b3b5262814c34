"""Runs the front-end on one camera and walks it to active."""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from superpoint_ros.nodes.launching import describe_launch


def generate_launch_description() -> LaunchDescription:
    """All arguments, then the node that follows from them."""
    topics = [DeclareLaunchArgument('image', default_value='image', description='Topic of the images.')]
    return describe_launch('frontend', 'superpoint_frontend', 'frontend.yaml', topics)
