"""The replay node as a process: what it publishes, when, and how it ends."""

import re
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_processes import NodeProcess, scene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from test_recordings import COUNT, PERIOD_NS, START_NS, write_bag

from superpoint_ros.clouds import stamp_ns
from superpoint_ros.images import to_array

PATIENCE = 60.0


class Listener(Node):
    """Hears a replay; answers images with empty features where told to."""

    def __init__(self, kind: type = Image, answer: bool = False) -> None:
        # Of its own, because a DDS participant has one type a topic, also after the topic is gone.
        self._own = rclpy.Context()
        rclpy.init(context=self._own)
        super().__init__('listener', context=self._own)
        self.images: list = []
        self.clock: list[Clock] = []
        self.infos: list[CameraInfo] = []
        self._answers = self.create_publisher(PointCloud2, 'features', 5) if answer else None
        self.create_subscription(kind, 'image', self._on_image, 50)
        self.create_subscription(CameraInfo, 'camera_info', self.infos.append, 50)
        self.create_subscription(Clock, '/clock', self.clock.append, 50)
        self._spinner = SingleThreadedExecutor(context=self._own)
        self._spinner.add_node(self)

    def _on_image(self, image) -> None:
        self.images.append(image)
        if self._answers:
            self._answers.publish(PointCloud2(header=image.header))

    def set(self, node: str, name: str, **value) -> str:
        """Why a parameter of another node was not set; '' if it was."""
        client = self.create_client(SetParameters, f'{node}/set_parameters')
        assert client.wait_for_service(PATIENCE)
        change = Parameter(name, **value).to_parameter_msg()
        future = client.call_async(SetParameters.Request(parameters=[change]))
        self._spinner.spin_until_future_complete(future, PATIENCE)
        return future.result().results[0].reason

    def close(self) -> None:
        self.destroy_node()
        rclpy.shutdown(context=self._own)

    def listen_to(self, process: NodeProcess, images: int | None = None) -> None:
        """Until the replay ends, or has sent a number of images."""
        deadline = time.monotonic() + PATIENCE
        while process.process.poll() is None and (images is None or len(self.images) < images):
            assert time.monotonic() < deadline, process.log
            self._spinner.spin_once(timeout_sec=0.05)


@pytest.fixture
def listen():
    """Makes listeners; closes them after the test."""
    made = []

    def make(**options) -> Listener:
        made.append(Listener(**options))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture
def replay(tmp_path):
    """Starts a replay; ends it after the test."""
    started = []

    def start(**parameters) -> NodeProcess:
        started.append(NodeProcess('superpoint_ros.nodes.replay', tmp_path, **parameters))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def stamps(listener: Listener) -> list[int]:
    return [stamp_ns(image.header.stamp) for image in listener.images]


RECORDED = [START_NS + index * PERIOD_NS for index in range(COUNT)]


def test_a_bag_at_its_recorded_rate(replay, listen, tmp_path):
    process, listener = replay(input=write_bag(tmp_path / 'bag', 'sqlite3')), listen()
    listener.listen_to(process)
    assert process.wait() == 0
    assert stamps(listener) == RECORDED
    for index in (0, COUNT - 1):
        np.testing.assert_array_equal(to_array(listener.images[index]), scene(index, 480, 640))
    assert [info.header for info in listener.infos] == [image.header for image in listener.images]
    assert [info.k[0] for info in listener.infos] == [150.0 + index for index in range(COUNT)]
    # Never ahead of the recording, which lasts 0.55 s; how far behind is the machine's business.
    assert 'calibrated by /cam/camera_info' in process.log
    assert float(re.search(r'Played 12 images in ([\d.]+) s', process.log)[1]) >= 0.5


def test_the_fastest_rate_waits_for_each_answer_and_the_clock_goes_with_the_images(replay, listen, tmp_path):
    process = replay(input=write_bag(tmp_path / 'bag', compressed=True), rate=0, clock='true')
    listener = listen(answer=True)
    listener.listen_to(process)
    assert process.wait() == 0
    assert stamps(listener) == RECORDED
    assert {image.encoding for image in listener.images} == {'mono8'}
    assert [clock.clock for clock in listener.clock] == [image.header.stamp for image in listener.images]


def test_what_the_fastest_rate_waits_for_is_named(replay, listen, tmp_path):
    process, listener = replay(input=write_bag(tmp_path / 'bag'), rate=0), listen()
    deadline = time.monotonic() + PATIENCE
    while 'Waiting' not in process.log and time.monotonic() < deadline:
        time.sleep(0.1)
    assert re.search(r'Waiting for 1 to listen to /image, and for one to publish /features\.', process.log)
    assert not listener.images


def test_without_answers_the_fastest_rate_goes_on_and_stamps_may_be_of_now(replay, listen, tmp_path):
    bag = write_bag(tmp_path / 'bag')
    process = replay(input=bag, rate=0, answer_timeout=0.05, wait_for_subscribers=0, stamps='now')
    listener = listen()
    listener.listen_to(process)
    assert process.wait() == 0
    assert 'Played 12 images' in process.log
    assert all(abs(stamp * 1e-9 - time.time()) < PATIENCE for stamp in stamps(listener))


@pytest.mark.parametrize('jump', [1_700_000_000, -100], ids=['forth', 'back'])
def test_a_clock_that_was_set_while_recording_is_not_waited_for_and_the_rest_keeps_its_pace(
    replay, listen, tmp_path, jump
):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    times = [1000 + index * 0.1 + (jump if index >= 5 else 0) for index in range(10)]
    for index in range(10):
        cv2.imwrite(str(folder / f'{index}.png'), scene(index))
    (folder / 'timestamps.txt').write_text('\n'.join(f'{time:.1f} {index}.png' for index, time in enumerate(times)))
    process, listener = replay(input=folder), listen()
    began = time.monotonic()
    listener.listen_to(process)
    assert process.wait() == 0
    assert [round(stamp * 1e-9, 1) for stamp in stamps(listener)] == times
    assert 'jump by' in process.log
    assert time.monotonic() - began > 0.8  # 4 and 4 steps of 0.1 s


def test_looping_stamps_go_on_rising(replay, listen, tmp_path):
    process, listener = replay(input=write_bag(tmp_path / 'bag', 'ros1'), rate=4.0, loop='true'), listen()
    listener.listen_to(process, images=2 * COUNT + 3)
    assert 'read-only' in listener.set('/replay', 'loop', value=False)
    assert process.interrupt() == 0
    assert 'Traceback' not in process.log
    steps = np.diff(stamps(listener))
    assert (steps > 0).all()  # a slow listener may miss some
    assert not (steps % PERIOD_NS).any()
    assert stamps(listener)[-1] > RECORDED[-1] + COUNT * PERIOD_NS


def test_the_first_picture_of_the_next_round_waits_for_its_time(replay, listen, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f'{index}.png'), scene(index))
    process, listener = replay(input=folder, fps=2.0, loop='true', stamps='now'), listen()
    listener.listen_to(process, images=6)
    assert process.interrupt() == 0
    assert (np.diff(stamps(listener)) > 0.25e9).all()


def test_the_time_of_publishing_does_not_wait_for_the_clock_that_it_makes(replay, listen, tmp_path):
    before = time.time_ns()
    process = replay(input=write_bag(tmp_path / 'bag'), stamps='now', clock='true', use_sim_time='true')
    listener = listen()
    listener.listen_to(process)
    assert process.wait() == 0
    assert min(stamps(listener)) > before
    assert (np.diff(stamps(listener)) > 0).all()


def test_compressed_pictures_are_passed_on_as_they_are(replay, listen, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.jpg'), scene(index))
    process = replay(input=folder, image_transport='compressed', fps=20)
    listener = listen(kind=CompressedImage)
    listener.listen_to(process)
    assert [bytes(image.data) for image in listener.images] == [
        (folder / f'{index}.jpg').read_bytes() for index in range(3)
    ]


def test_a_picture_that_is_damaged_is_skipped_and_named(replay, listen, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.png'), scene(index))
    (folder / '1.png').write_bytes(b'no picture')
    process, listener = replay(input=folder, fps=20), listen()
    listener.listen_to(process)
    assert process.wait() == 0
    assert len(listener.images) == 2
    assert 'Skipped' in process.log
    assert 'Played 2 images' in process.log


def test_a_recording_of_which_nothing_can_be_read_fails_even_if_it_is_to_be_played_for_ever(replay, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    (folder / '1.png').write_bytes(b'no picture')
    process = replay(input=folder, rate=0.0, loop=True, wait_for_subscribers=0)
    assert process.wait() == 1
    assert process.log.splitlines()[-1].startswith('replay: No image of ')


def test_a_truncated_bag_is_played_as_far_as_it_goes(replay, listen, tmp_path):
    bag = write_bag(tmp_path / 'bag')
    file = bag / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:2_200_000])
    process, listener = replay(input=bag, rate=4.0), listen()
    listener.listen_to(process)
    assert process.wait() == 0
    assert stamps(listener) == RECORDED[: len(listener.images)]
    assert 3 <= len(listener.images) < COUNT
    assert f'is damaged; {len(listener.images)} images could be played' in process.log


@pytest.mark.parametrize(
    ('parameters', 'reason'),
    [
        ({}, 'input:='),
        ({'input': '/no/such/bag'}, '/no/such/bag'),
        ({'inputs': 'bag'}, 'inputs was given, but is no parameter of this node; input is'),
        ({'input': '.', 'rate': -1.0}, 'rate'),
        ({'input': '.', 'stamps': 'tomorrow'}, 'recorded, now'),
        ({'input': '.', 'camera_info': '/no/such.yaml'}, '/no/such.yaml'),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(replay, tmp_path, parameters, reason):
    cv2.imwrite(str(tmp_path / 'picture.png'), scene())
    if parameters.get('input') == '.':
        parameters = parameters | {'input': tmp_path}
    process = replay(**parameters)
    assert process.wait() == 1
    assert reason in process.log
    assert 'Traceback' not in process.log
