"""`tracks` for VINS-Fusion, which reads more channels than VINS-Mono does.

    python examples/vins_fusion.py --ros-args -r vins_tracks:=/feature_tracker/feature

VINS-Mono reads five channels: id, u, v and the velocity of the ray's x and y; that is `tracks`. VINS-Fusion reads
the camera's number after the id, and as soon as there are more than five channels, three more at the end: the true
position of the point, for debugging, here 0. This node passes `tracks` on as `vins_tracks` with these nine.
"""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import ChannelFloat32, PointCloud


def for_vins_fusion(tracks: PointCloud) -> PointCloud:
    """Nine channels of `tracks`' five; all points are of camera 0."""
    number, *motion = tracks.channels
    zeros = [0.0] * len(tracks.points)
    added = {name: ChannelFloat32(name=name, values=zeros) for name in ('camera', 'true_x', 'true_y', 'true_z')}
    camera, *truth = added.values()
    return PointCloud(header=tracks.header, points=tracks.points, channels=[number, camera, *motion, *truth])


class Relay(Node):
    """Hears `tracks` and publishes `vins_tracks`."""

    def __init__(self) -> None:
        super().__init__('vins_fusion_relay')
        publisher = self.create_publisher(PointCloud, 'vins_tracks', 10)
        self.create_subscription(PointCloud, 'tracks', lambda tracks: publisher.publish(for_vins_fusion(tracks)), 10)


def main() -> None:
    """Run until a signal comes."""
    rclpy.init()
    node = Relay()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
