"""Makes the ROS tests run wherever rclpy does, apart from each other and from robots nearby."""

import gc
import os
import sys
from pathlib import Path

import pytest

# The wheels of rclpy have no setup script. Where a ROS distribution is sourced, its own setting stays.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
# Domains above 101 use ports that Linux gives out to others.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'


@pytest.fixture(scope='module', autouse=True)
def leaves_no_participant():
    """A participant of Fast DDS that outlives its tests shares memory with all later nodes, and with forked processes.

    That ended later tests in other modules by segmentation faults. What keeps one is a node that is not destroyed;
    a lifecycle node's handle goes with the object, which refers to itself.
    """
    yield
    gc.collect()
    threads = {file.read_text().strip() for file in Path('/proc/self/task').glob('*/comm')}
    assert not {name for name in threads if name.startswith('dds.')} - {'dds.shm.wdog'}  # which stays to the end
