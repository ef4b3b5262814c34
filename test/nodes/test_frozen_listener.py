"""A listener that hangs over a message and takes no more does not hold up the front-end or the others."""

import subprocess
import sys
import threading

import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

from ros_processes import Camera, NodeProcess, image_message, ros, scene

LISTENER = """
import time
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

def hang(message):
    print('heard', flush=True)
    time.sleep(3600)

rclpy.init()
node = rclpy.create_node('listener')
node.create_subscription(PointCloud2, 'features', hang, QoSProfile(depth=1))
rclpy.spin(node)
"""


@pytest.fixture
def camera():
    ros()
    node = Camera()
    yield node
    node.destroy_node()


@pytest.fixture
def frontend(camera, tmp_path):
    process = NodeProcess(
        'superpoint_ros.nodes.frontend',
        tmp_path,
        weights='superpoint_small',
        warm_up_width=160,
        warm_up_height=120,
        descriptor_type='float32',
    )
    yield process
    process.stop()


def test_a_listener_that_hangs_holds_up_nobody(camera, frontend):
    assert camera.change_state('configure')
    camera.activate()
    with subprocess.Popen([sys.executable, '-c', LISTENER], stdout=subprocess.PIPE) as listener:
        try:
            camera.spin_until(lambda: camera.count_subscribers('features') == 2, 'the other listener')
            hangs = threading.Thread(target=listener.stdout.readline)
            hangs.start()

            def sends_until_it_hangs():
                camera.send(image_message(scene(), 'mono8', camera.header()))
                return not hangs.is_alive()

            camera.spin_until(sends_until_it_hangs, 'features at the other listener')
            for shift in range(40):
                camera.send(image_message(scene(shift), 'mono8', camera.header()))
            assert camera.diagnostics()[2]['dropped'] == '0'
        finally:
            listener.kill()
