"""Makes the ROS tests run wherever rclpy does, apart from each other and from robots nearby."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

# The wheels of rclpy have no setup script. Where a ROS distribution is sourced, its own setting stays.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
# Domains above 101 use ports that Linux gives out to others.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # looked at when `superpoint_ros.kernels` is imported


@pytest.fixture
def kernels_on_cpu(monkeypatch):
    """All that asks for kernels gets them for the CPU, too, where Triton interprets them."""
    if torch.cuda.is_available():
        pytest.skip('Triton compiles the kernels for the CUDA device instead')
    pytest.importorskip('triton', reason='Triton is not installed')
    from superpoint_ros import kernels, triton_runtime

    monkeypatch.setattr(triton_runtime, 'kernels_for', lambda device: kernels if device.type == 'cpu' else None)


@pytest.fixture(params=['cpu', 'kernels', 'cuda'])
def device(request):
    """Where it is computed: by torch, by kernels that are interpreted, or by those on a GPU."""
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    if request.param == 'kernels':
        request.getfixturevalue('kernels_on_cpu')
        return 'cpu'
    return request.param


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
