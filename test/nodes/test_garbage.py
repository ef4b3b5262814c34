"""A garbage collection amid frames must not go through the network and all that was imported."""

import os
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

NODE = """
import gc
import rclpy
from superpoint_ros.nodes.frontend import FrontendNode

rclpy.init(args=['--ros-args', *'-p weights:=superpoint_small -p warm_up_width:=160 -p warm_up_height:=120'.split()])
node = FrontendNode()
node.trigger_configure()
configured = len(gc.get_objects())
node.trigger_activate()
active = len(gc.get_objects())
node.trigger_deactivate()
node.destroy_node()
rclpy.shutdown()
print(configured, active, gc.isenabled())
"""


def test_what_was_loaded_before_activation_is_not_gone_through():
    environment = os.environ | {'OMP_NUM_THREADS': '2'}
    output = subprocess.check_output([sys.executable, '-c', NODE], text=True, env=environment)
    configured, active, enabled = output.split()[-3:]
    assert int(active) < int(configured) / 20
    assert enabled == 'True'
