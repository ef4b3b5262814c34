"""The ROS 2 nodes: thin shells around what the rest of the package does without ROS."""

from importlib.util import find_spec

if find_spec('rclpy') is None:
    raise ModuleNotFoundError(
        "The nodes need rclpy: source ROS 2's setup.bash, or `pip install 'superpoint_ros[ros]'` for rclpy as wheels",
        name='rclpy',
    )
