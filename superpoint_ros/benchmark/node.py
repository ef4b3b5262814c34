"""The front-end node as a robot meets it: a camera in another process, features received in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, PointCloud2

from superpoint_ros.benchmark.meter import Meter
from superpoint_ros.benchmark.pictures import SIZE
from superpoint_ros.benchmark.stages import percentiles
from superpoint_ros.clouds import serialized_stamp_ns
from superpoint_ros.processes import Listener, Process, isolate, own_domain, ros_arguments

SETTLE_SECONDS = 5.0
"""At the start of each rate, not counted: caches fill, clocks and allocators settle."""
DRAIN_SECONDS = 1.0
CALIBRATION = """\
image_width: {width}
image_height: {height}
camera_name: camera
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
camera_matrix: {{rows: 3, cols: 3, data: [585, 0, {x}, 0, 585, {y}, 0, 0, 1]}}
rectification_matrix: {{rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}
projection_matrix: {{rows: 3, cols: 4, data: [585, 0, {x}, 0, 0, 585, {y}, 0, 0, 0, 1, 0]}}
"""


def time_node(
    pictures: Sequence[np.ndarray], parameters: Mapping[str, str], rates: Sequence[float], seconds: float
) -> dict[str, Any]:
    """Run the node on a camera of each rate in turn, over DDS.

    Args:
        pictures: JPEG files as [K] uint8 arrays, shown again and again.
        parameters: of the node.
        rates: images a second.
        seconds: that are counted, of each rate.

    Returns:
        'parameters' of the node, 'rates', see `figures_of`, and 'memory_growth_mb' of the node from the end of the
        first rate's settling to the end of the last.

    Raises:
        ProcessError: the front-end or the camera ended, or the front-end did not listen in time.
    """
    isolate(own_domain())
    with TemporaryDirectory() as name, _Receiver() as receiver:
        folder = Path(name)
        camera = _write_camera(folder, pictures)
        arguments = ros_arguments(autostart='true', **parameters)
        with Process('superpoint_ros.nodes.frontend', arguments, folder / 'frontend.log') as frontend:
            receiver.wait_for(lambda: receiver.node.count_subscribers('image'), frontend)
            meter = Meter(frontend.pid)
            runs = [_run(receiver, frontend, meter, camera, rate, seconds) for rate in rates]
    figures = [figures_of(run) for run in runs]
    return {
        'parameters': dict(parameters),
        'rates': figures,
        'memory_growth_mb': round(runs[-1].memory[-1] - runs[0].memory[0], 2),
    }


@dataclass
class Measured:
    """What happened at one rate: nanoseconds of the system's clock by stamp, CPU seconds and memory at both ends."""

    rate: float
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)


def figures_of(run: Measured) -> dict[str, Any]:
    """'rate' asked for, 'camera_hz' reached, 'images', 'dropped', 'latency_ms' from the stamp to the features'
    arrival here, 'cpu_cores' that the node keeps busy on average, 'memory_mb' at the end."""
    span = max(run.sent) - min(run.sent)
    latencies = [(arrival - stamp) / 1e6 for stamp, arrival in run.received.items() if stamp in run.sent]
    return {
        'rate': run.rate,
        'camera_hz': round((len(run.sent) - 1) / span * 1e9, 2),
        'images': len(run.sent),
        'dropped': len(run.sent) - len(latencies),
        'latency_ms': percentiles(latencies) if latencies else None,
        'cpu_cores': round((run.cpu[1] - run.cpu[0]) / (run.clock[1] - run.clock[0]), 3),
        'memory_mb': round(run.memory[-1], 1),
    }


def _run(
    receiver: _Receiver, frontend: Process, meter: Meter, camera: Mapping[str, str], rate: float, seconds: float
) -> Measured:
    """Measure one rate; images that are on their way at the end are waited for, and no others are counted."""
    run = Measured(rate)
    arguments = ros_arguments(**camera, fps=str(float(rate)))
    with Process('superpoint_ros.nodes.replay', arguments, Path(frontend.log).with_name('camera.log')) as replay:
        receiver.wait_for(lambda: receiver.infos, replay)
        receiver.spin(SETTLE_SECONDS)
        began = time.time_ns()
        _note(run, meter)
        while time.time_ns() - began < seconds * 1e9:
            receiver.spin(min(1.0, seconds))
            frontend.require()
            replay.require()
        _note(run, meter)
        ended = time.time_ns()
        receiver.spin(DRAIN_SECONDS)
    receiver.spin(DRAIN_SECONDS)
    run.sent = {stamp: arrival for stamp, arrival in receiver.infos.items() if began <= stamp < ended}
    run.received = {stamp: receiver.features[stamp] for stamp in run.sent if stamp in receiver.features}
    receiver.forget()
    return run


def _note(run: Measured, meter: Meter) -> None:
    run.memory.append(meter.memory_mb())
    run.cpu.append(meter.cpu_seconds())
    run.clock.append(time.monotonic())


def _write_camera(folder: Path, pictures: Sequence[np.ndarray]) -> dict[str, str]:
    """Write pictures and calibration; returns the parameters with which the replay node shows them."""
    shown = folder / 'pictures'
    shown.mkdir()
    # There and back, for at a jump to the first picture nothing matches, once every few seconds.
    for number, picture in enumerate([*pictures, *pictures[-2:0:-1]]):
        (shown / f'{number:04}.jpg').write_bytes(picture.tobytes())
    width, height = SIZE
    calibration = folder / 'camera.yaml'
    calibration.write_text(CALIBRATION.format(width=width, height=height, x=(width - 1) / 2, y=(height - 1) / 2))
    return {
        'input': str(shown), 'camera_info': str(calibration), 'loop': 'true', 'stamps': 'now',
        'wait_for_subscribers': '1',
    }  # fmt: skip


class _Receiver(Listener):
    """Notes when calibrations, one for each image, and features come.

    Attributes:
        infos, features: when each came, by its stamp; both in nanoseconds of the system's clock.
    """

    def __init__(self) -> None:
        super().__init__('superpoint_benchmark')
        self.infos: dict[int, int] = {}
        self.features: dict[int, int] = {}

    def __enter__(self) -> _Receiver:
        super().__enter__()
        subscriptions = (
            (CameraInfo, 'camera_info', _notes(self.infos)),
            (PointCloud2, 'matches', lambda serialized: None),  # made only for those who listen
            (PointCloud2, 'features', _notes(self.features)),
        )
        for kind, topic, note in subscriptions:
            self.node.create_subscription(kind, topic, note, QoSProfile(depth=100), raw=True)
        return self

    def forget(self) -> None:
        """All that came so far."""
        self.infos.clear()
        self.features.clear()


def _notes(arrivals: dict[int, int]) -> Callable[[bytes], None]:
    """A callback that notes under a serialised message's stamp when it came."""

    def note(serialized: bytes) -> None:
        arrivals[serialized_stamp_ns(serialized)] = time.time_ns()

    return note
