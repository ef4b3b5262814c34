"""A node in a process of its own, and a client that talks to it over DDS as a robot would."""

import os
import signal
import subprocess
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger

PATIENCE = 60.0  # seconds; what takes longer is broken, even on a busy machine


class NodeProcess:
    """A node module run with `python -m`; its output goes to a file."""

    def __init__(self, module: str, folder: Path, *arguments: str, **parameters: object) -> None:
        self.log_path = folder / f'{module.rpartition(".")[2]}-{time.monotonic_ns()}.log'
        pairs = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
        with self.log_path.open('wb') as output:
            self.process = subprocess.Popen(
                [sys.executable, '-m', module, '--ros-args', *arguments, *pairs],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '2'},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors='replace')

    def interrupt(self) -> int:
        """Ctrl-C. Returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f'The process did not end:\n{self.log}') from None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.interrupt()


class Client(Node):
    """Hears what a front-end publishes, and calls its services."""

    def __init__(self, name: str, frontend: str) -> None:
        super().__init__(name)
        self._frontend = frontend
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self.heard: dict[str, list] = defaultdict(list)
        self.listen(DiagnosticArray, '/diagnostics')
        self._sent = 0

    def listen(self, kind: type, topic: str):
        qos = QoSProfile(depth=100)  # a test may send many images before it listens
        return self.create_subscription(kind, topic, self.heard[topic].append, qos)

    def spin_until(self, condition, what: str, patience: float = PATIENCE) -> None:
        """Receive messages until a condition holds; fails when it takes too long."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f'Waited in vain for {what}.'
            self._spinner.spin_once(timeout_sec=0.05)

    def spin_for(self, seconds: float) -> None:
        """Receive messages for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._spinner.spin_once(timeout_sec=0.05)

    def call(self, kind: type, service: str, request, meanwhile: Callable[[], object] = lambda: None):
        """The answer of one of the front-end's services; `meanwhile` is called again and again until it comes."""
        client = self.create_client(kind, f'{self._frontend}/{service}')
        self.spin_until(client.service_is_ready, f'the service {service}')
        future = client.call_async(request)
        self.spin_until(lambda: meanwhile() or future.done(), f'an answer of {service}')
        self.destroy_client(client)
        return future.result()

    def change_state(self, transition: str) -> bool:
        """'configure', 'activate', 'deactivate' or 'cleanup'; returns whether it worked."""
        number = getattr(Transition, f'TRANSITION_{transition.upper()}')
        return self.call(ChangeState, 'change_state', ChangeState.Request(transition=Transition(id=number))).success

    def activate(self) -> None:
        """From inactive to where images are heard."""
        raise NotImplementedError

    def begin_anew(self) -> None:
        """From whatever state to active, without memory of earlier images."""
        state = self.state()
        if state == 'unconfigured':
            assert self.change_state('configure')
        if state != 'active':
            self.activate()
        self.trigger('reset')

    def state(self) -> str:
        return self.call(GetState, 'get_state', GetState.Request()).current_state.label

    def set(self, **values: object) -> str:
        """Set parameters, '__' for '.'. Returns '' or the reason why not."""
        parameters = [
            Parameter(name.replace('__', '.'), value=value).to_parameter_msg() for name, value in values.items()
        ]
        answer = self.call(SetParameters, 'set_parameters', SetParameters.Request(parameters=parameters))
        return ' '.join(result.reason for result in answer.results if not result.successful)

    def trigger(self, service: str, meanwhile: Callable[[], object] = lambda: None) -> Trigger.Response:
        return self.call(Trigger, service, Trigger.Request(), meanwhile)

    def header(self, stamp_ns: int | None = None) -> Header:
        """A header later than all before, or with the stamp given."""
        self._sent += 1
        sec, nanosec = divmod(1_000_000_000_000 + self._sent * 33_000_000 if stamp_ns is None else stamp_ns, 10**9)
        header = Header(frame_id='optical')
        header.stamp.sec, header.stamp.nanosec = sec, nanosec
        return header

    def wait_for(self, topic: str, header: Header):
        """The message with this header, once it was heard."""

        def found() -> list:
            return [message for message in self.heard[topic] if message.header == header]

        self.spin_until(found, f'{topic} of the image at {header.stamp}')
        return found()[-1]

    def latest(self, topic: str):
        """The message heard last on a topic."""
        return self.heard[topic][-1]

    def warning_while(self, send: Callable[[], object], sign: str) -> str:
        """Send again and again until a warning on /diagnostics has this sign; returns it."""
        reports = self.heard['/diagnostics']
        reports.clear()

        def warnings() -> list[str]:
            messages = [report.status[0].message for report in reports if ord(report.status[0].level) == 1]
            return [message for message in messages if sign in message]

        def warned() -> list[str]:
            send()
            return warnings()

        self.spin_until(warned, f"a warning with '{sign}'")
        return warnings()[0]

    def diagnostics(self) -> tuple[int, str, dict[str, str]]:
        """The next level, message and values on /diagnostics that were made after this call."""
        before = len(self.heard['/diagnostics'])
        self.spin_until(lambda: len(self.heard['/diagnostics']) > before + 1, 'diagnostics')
        status = self.latest('/diagnostics').status[0]
        return ord(status.level), status.message, self.latest_values()

    def latest_values(self) -> dict[str, str]:
        """The values of the report on /diagnostics that was heard last."""
        return {pair.key: pair.value for pair in self.latest('/diagnostics').status[0].values}


class Camera(Client):
    """Publishes the images of one camera to a front-end."""

    def __init__(self, name: str = 'camera', frontend: str = '/superpoint_frontend') -> None:
        super().__init__(name, frontend)
        self.images = self.create_publisher(Image, 'image', 5)
        self.infos = self.create_publisher(CameraInfo, 'camera_info', 5)
        for topic, kind in (('features', PointCloud2), ('matches', PointCloud2), ('tracks', PointCloud)):
            self.listen(kind, topic)

    def activate(self) -> None:
        """From inactive to where images are heard."""
        assert self.change_state('activate')
        self.spin_until(self.images.get_subscription_count, 'the front-end to listen')
        self.spin_until(lambda: self.count_publishers('features'), 'the features topic')
        self.spin_for(0.5)  # the other side may know of this one a little later

    def send(self, image) -> PointCloud2:
        """Publish an image and return the features that come back; its matches have come, too."""
        for messages in self.heard.values():
            messages.clear()
        self.images.publish(image)
        self.wait_for('matches', image.header)
        return self.wait_for('features', image.header)


class Cameras(Client):
    """Publishes the images of several cameras, by their names, to a front-end."""

    def __init__(self, frontend: str, names: Sequence[str]) -> None:
        super().__init__('cameras', frontend)
        self.images = {name: self.create_publisher(Image, f'{name}/image', 5) for name in names}
        self.infos = {name: self.create_publisher(CameraInfo, f'{name}/camera_info', 5) for name in names}
        for name in names:
            self.listen(PointCloud2, f'{name}/features')

    def activate(self) -> None:
        """From inactive to where the images of all cameras are heard."""
        assert self.change_state('activate')
        for publisher in (*self.images.values(), *self.infos.values()):
            self.spin_until(publisher.get_subscription_count, 'the front-end to listen')
        self.spin_until(lambda: all(map(self.count_publishers, self.heard)), 'the topics of the front-end')
        self.spin_for(0.5)  # the other side may know of this one a little later


def image_message(pixels: np.ndarray, encoding: str, header: Header, /, **changes: object) -> Image:
    """Image of [H, W, ...] pixels; changes make it a wrong one."""
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    image = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    image.step, image.data = rows.shape[1], array('B', rows.tobytes())
    for name, value in changes.items():
        setattr(image, name, value)
    return image


def jpeg_message(pixels: np.ndarray, header: Header, cut: int = 0) -> CompressedImage:
    """JPEG of [H, W] pixels, without its last `cut` bytes."""
    data = cv2.imencode('.jpg', pixels)[1].tobytes()
    return CompressedImage(header=header, format='jpeg', data=array('B', data[: len(data) - cut]))


def scene(shift: int = 0, height: int = 120, width: int = 160) -> np.ndarray:
    """[H, W] uint8 of bright and dark boxes, moved to the left by a number of pixels."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width + 200), 128, np.uint8)
    for _ in range(150):
        x, y, side = rng.integers(0, width + 200), rng.integers(0, height), rng.integers(4, 24)
        picture[y : y + side, x : x + side] = rng.integers(0, 256)
    return np.ascontiguousarray(picture[:, shift : shift + width])


def ros() -> None:
    """Start rclpy in this process, once."""
    if not rclpy.ok():
        rclpy.init()
