"""The front-end node's worker with a real detector whose device fails, without topics."""

import copy
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

pytest.importorskip('rclpy', reason='needs rclpy')

import rclpy
from ros_processes import image_message, ros, scene
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from test_optics import camera_info

from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError, openvino
from superpoint_ros.nodes.channel import Arrival, Channel
from superpoint_ros.nodes.pipeline import Pipeline
from superpoint_ros.nodes.settings import PARAMETERS, Settings, load_detector
from superpoint_ros.nodes.statistics import Statistics

VALUES = {parameter.name: parameter.default for parameter in PARAMETERS}
VALUES |= {'weights': 'superpoint_small', 'engine': 'torch', 'warm_up_width': 160, 'warm_up_height': 120}


@cache
def detector() -> Detector:
    """Loading takes longer than all that the tests do with it."""
    return load_detector(VALUES)


class FailingEngine:
    """An engine whose device is gone for some images."""

    description = 'torch on a device that vanishes'

    def __init__(self, engine, failures: int, device: str | None) -> None:
        self.engine, self.failures, self.device = engine, failures, torch.device(device or 'cuda')

    def maps(self, images):
        if self.failures:
            self.failures -= 1
            raise EngineError('device lost')
        return self.engine.maps(images)


@pytest.fixture(scope='module', autouse=True)
def no_ros_is_left():
    """Later tests fork, which threads of DDS do not survive."""
    yield
    rclpy.try_shutdown()


class Run:
    """A pipeline, what it published, and what it logged. `loads` says how each load after the first goes."""

    def __init__(self, failures: int = 0, loads: tuple[Exception | int, ...] = ()) -> None:
        ros()
        self.frames, self.log, self.asked = [], [], []
        self.statistics = Statistics()
        self._loads = [failures, *loads]
        self.channel = Channel('', self, self.statistics, None, self)
        self.pipeline = Pipeline(self.load, Settings.of(VALUES), [self.channel], self)
        self._sent = 0

    def load(self, device: str | None):
        self.asked.append(device)
        outcome = self._loads.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        made = copy.copy(detector())
        made.engine, made.sessions = FailingEngine(made.engine, outcome, device), None
        return made

    def publish(self, frame, image, header, descriptor_type) -> None:
        self.frames.append(frame)

    def error(self, message: str) -> None:
        self.log.append(message)

    warning = error

    def send(self, count: int = 1) -> int:
        """Process as many images; returns how many came through."""
        before = len(self.frames)
        for _ in range(count):
            self._sent += 1
            header = Header()
            header.stamp.sec = self._sent
            self.pipeline.process({0: Arrival(image_message(scene(), 'mono8', header), 0.0)})
        return len(self.frames) - before


def test_the_cpu_takes_over_from_a_device_that_fails():
    run = Run(failures=1, loads=(0,))
    assert run.send(3) == 2
    assert run.asked == [None, 'cpu']
    assert run.pipeline.problem == 'On the CPU, since: device lost'
    report = run.statistics.report()
    assert (report['failed: engine failure'], report['processed']) == ('1', '2')


def test_a_cpu_that_fails_for_an_image_goes_on_and_is_not_loaded_again():
    run = Run(failures=1, loads=(1,))
    assert run.send(4) == 2
    assert run.asked == [None, 'cpu']
    assert run.pipeline.problem == 'On the CPU, since: device lost'


def test_a_cpu_that_fails_keeps_the_engine_that_was_asked_for():
    run = Run(loads=(0,))
    run.pipeline.detector = run.load('cpu')
    run.pipeline.detector.engine.failures = 1
    assert run.send(3) == 2
    assert run.asked == [None, 'cpu']
    assert run.pipeline.problem == ''


@pytest.mark.parametrize('error', [EngineError('no memory'), ValueError('no such file'), OSError('disk')])
def test_a_fallback_that_fails_is_tried_again_at_the_next_image(error):
    run = Run(failures=2, loads=(error, 0))
    assert run.send() == 0
    assert str(error) in run.pipeline.problem
    assert run.send(2) == 1
    assert run.asked == [None, 'cpu', 'cpu']
    assert run.pipeline.problem == 'On the CPU, since: device lost'


def test_good_weights_after_a_fallback_end_the_problem_and_a_later_failure_falls_back_again():
    run = Run(failures=1, loads=(0, 1, 0))
    run.send(2)
    run.pipeline.detector = run.load(None)
    run.pipeline.detector.engine.failures = 0
    assert run.send() == 1
    assert run.pipeline.problem == ''
    run.pipeline.detector.engine.failures = 1
    assert run.send(2) == 1
    assert run.asked == [None, 'cpu', None, 'cpu']


def test_a_reload_during_the_fallback_wins():
    run = Run(failures=1, loads=(0,))
    reloaded = detector()
    load = run.pipeline._load

    def slow_load(device):
        run.pipeline.detector = reloaded
        return load(device)

    run.pipeline._load = slow_load
    run.send(2)
    assert run.pipeline.detector is reloaded
    assert run.pipeline.problem == ''


@pytest.mark.parametrize('asked', [{'precision': 'float16'}, {'device': 'cuda:3'}])
def test_on_the_cpu_no_engine_or_precision_of_a_gpu_is_asked_for(asked):
    assert 'on cpu' in load_detector(VALUES | asked, 'cpu').description


@pytest.mark.skipif(openvino is None, reason='OpenVINO is not installed')
def test_nothing_is_compiled_anew_for_the_first_image_whatever_the_levels():
    values = VALUES | {'engine': 'openvino', 'precision': 'float32', 'levels': 2, 'levels_per_octave': 3}
    warm = load_detector(values)
    compiled = set(warm.engine.requests)
    warm.settings = Settings.of(values).keypoints
    warm.detect(scene())
    assert set(warm.engine.requests) == compiled


@pytest.mark.skipif(openvino is None, reason='OpenVINO is not installed')
def test_loading_again_and_again_takes_no_more_memory():
    """What PyTorch keeps of each network that is traced was 7 MB."""
    code = """
import gc
from pathlib import Path
from superpoint_ros.nodes.settings import PARAMETERS, load_detector

values = {parameter.name: parameter.default for parameter in PARAMETERS}
values |= {'weights': 'superpoint_small', 'engine': 'openvino', 'precision': 'float32', 'levels': 1, 'device': 'cpu'}
values |= {'warm_up_width': 96, 'warm_up_height': 64}

def resident():
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmRSS'))
    return int(line.split()[1]) / 1024

for number in range(8):
    if number == 3:
        before = resident()
    load_detector(values)
    gc.collect()
print(resident() - before)
"""
    grown = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert float(grown) < 15


def test_stamps_that_do_not_advance_are_noticed():
    run = Run()
    run.send(2)
    assert 'notice: time stood still' not in run.statistics.report()
    run._sent -= 1
    run.send()
    assert run.statistics.report()['notice: time stood still'] == '1'
    assert 'velocities between them are 0' in run.log[-1]
    assert run.statistics.lately['unsteady'] == 1


def test_rectifying_from_one_image_to_the_next_begins_anew():
    run = Run()
    run.channel.optics.set_info(camera_info())
    for rectification in ('raw', 'raw', 'rectify', 'rectify', 'raw', 'rectified'):
        run.pipeline.settings = Settings.of(VALUES | {'rectification': rectification})
        run.send()
    # From raw to rectified the same image is taken by another camera.
    assert [len(frame.matches) > 0 for frame in run.frames] == [False, True, False, True, False, True]
    ids = [set(run.frames[index].track_ids) for index in (1, 3, 5)]
    assert not (ids[0] | ids[2]) & ids[1]


def test_a_lens_that_zooms_is_rectified_without_beginning_anew():
    run = Run()
    run.pipeline.settings = Settings.of(VALUES | {'rectification': 'rectify'})
    for number in range(4):
        info = camera_info()
        info.k[0] += number % 2
        run.channel.optics.set_info(info)
        run.send()
    assert [len(frame.matches) > 0 for frame in run.frames] == [False, True, True, True]


def test_a_calibration_that_comes_while_rectifying_begins_anew():
    run = Run()
    run.pipeline.settings = Settings.of(VALUES | {'rectification': 'rectify'})
    run.send(2)
    run.channel.optics.set_info(camera_info())
    run.send(2)
    run.channel.optics.set_info(CameraInfo())
    run.send()
    assert [len(frame.matches) > 0 for frame in run.frames] == [False, True, False, True, False]
    assert np.isnan(run.frames[-1].rays).all()
