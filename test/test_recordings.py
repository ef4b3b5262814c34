"""Recordings of every kind, written here, are read back image by image."""

import shutil
import struct
import tarfile
from array import array
from pathlib import Path

import cv2
import drives
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='recordings are read as ROS messages')

import yaml
from ros_processes import scene
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image

from superpoint_ros.calibrations import CalibrationFileError
from superpoint_ros.clouds import stamp_ns
from superpoint_ros.images import to_array
from superpoint_ros.nodes.recordings import (
    CutShortError,
    Options,
    RecordingError,
    decompress,
    open_recording,
    read_camera_info,
)
from superpoint_ros.recordings import open_source

COUNT, PERIOD_NS, START_NS = 12, 50_000_000, 1_700_000_000_000_000_000
HEIGHT, WIDTH = 480, 640  # several MCAP chunks a bag
STORES = {'mcap': Stores.ROS2_JAZZY, 'sqlite3': Stores.ROS2_JAZZY, 'ros1': Stores.ROS1_NOETIC}


def picture(index: int = 0) -> np.ndarray:
    return scene(index, HEIGHT, WIDTH)


def write_bag(
    path: Path,
    storage: str = 'mcap',
    compressed: bool = False,
    extra_topic: str = '',
    first_stamp_ns: int = START_NS,
    stamp_step_ns: int = PERIOD_NS,
    only_info: int | None = None,
    spoilt_image: int | None = None,
) -> Path:
    """COUNT pictures on /cam/image_raw with a calibration before each; returns what a user would name.

    only_info: the picture before which the only calibration is, and that one damaged. spoilt_image: one of which the
    message can't be read.
    """
    store = get_typestore(STORES[storage])
    types = store.types
    is_ros1 = storage == 'ros1'
    if is_ros1:
        path = path.with_suffix('.bag')
    plugin = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}.get(storage)
    writer = Writer1(path) if is_ros1 else Writer(path, version=9, storage_plugin=plugin)
    serialize = store.serialize_ros1 if is_ros1 else store.serialize_cdr

    def header(index: int):
        stamp = first_stamp_ns + index * stamp_step_ns
        time = types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
        return types['std_msgs/msg/Header'](*([index] if is_ros1 else []), time, 'lens')

    def image(index: int):
        pixels = picture(index)
        if compressed:
            return types[kind](header(index), 'jpeg', cv2.imencode('.jpg', pixels)[1].ravel())
        return types[kind](header(index), HEIGHT, WIDTH, 'mono8', 0, WIDTH, pixels.ravel())

    def info(index: int):
        k = np.float64([150 + index, 0, 80, 0, 150, 60, 0, 0, 1])
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        matrices = (np.zeros(5), k, np.eye(3).ravel(), np.zeros(12))
        return types['sensor_msgs/msg/CameraInfo'](header(index), 120, 160, 'plumb_bob', *matrices, 0, 0, roi)

    kind = f'sensor_msgs/msg/{"Compressed" if compressed else ""}Image'
    with writer:
        options = {'typestore': store}
        images = writer.add_connection('/cam/image_raw', kind, **options)
        infos = writer.add_connection('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', **options)
        writer.add_connection('/other/camera_info', 'sensor_msgs/msg/CameraInfo', **options)
        extra = writer.add_connection(extra_topic, kind, **options) if extra_topic else None
        for index in range(COUNT):
            stamp = START_NS + index * PERIOD_NS
            if only_info is None:
                writer.write(infos, stamp, serialize(info(index), 'sensor_msgs/msg/CameraInfo'))
            elif only_info == index:
                writer.write(infos, stamp, b'damaged')
            writer.write(images, stamp + 1, b'damaged' if index == spoilt_image else serialize(image(index), kind))
            if extra and index % 2:
                writer.write(extra, stamp + 2, serialize(image(index), kind))
    return path


def play(path: Path) -> tuple[list, str]:
    """All shots of a recording, and how it says that it ends early, if it does."""
    shots: list = []
    try:
        for shot in open_recording(path, Options()):
            shots.append(shot)
    except CutShortError as error:
        return shots, str(error)
    return shots, ''


def check(shots: list, count: int = COUNT) -> None:
    """The shots are the first `count` pictures, exactly, in order."""
    assert [shot.stamp_ns for shot in shots] == [START_NS + index * PERIOD_NS for index in range(count)]
    for index, shot in enumerate(shots):
        image = decompress(shot.image) if isinstance(shot.image, CompressedImage) else shot.image
        assert stamp_ns(image.header.stamp) == shot.stamp_ns
        np.testing.assert_allclose(to_array(image), picture(index), atol=0 if image is shot.image else 40)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('compressed', [False, True])
def test_bags_of_all_kinds(tmp_path, storage, compressed):
    recording = open_recording(write_bag(tmp_path / 'bag', storage, compressed), Options())
    for _ in range(2):  # it can be played again
        shots = list(recording)
        check(shots)
        assert [shot.info.k[0] for shot in shots] == [150.0 + index for index in range(COUNT)]
        assert {shot.image.header.frame_id for shot in shots} == {'lens'}


@pytest.mark.parametrize('suffix', ['.mcap', '.db3'])
def test_a_storage_file_alone_is_a_bag(tmp_path, suffix):
    bag = write_bag(tmp_path / 'bag', {'.mcap': 'mcap', '.db3': 'sqlite3'}[suffix])
    check(list(open_recording(next(bag.glob(f'*{suffix}')), Options())))


def test_without_a_word_no_depth_is_taken_for_a_camera(tmp_path):
    depth = [picture(index).astype(np.uint16) * 20 for index in range(4)]
    bag = drives.write_bag(tmp_path / 'bag', {'/depth/image_rect_raw': depth, '/color/image_raw': [picture()] * 3})
    assert len(play(bag)[0]) == 3
    only = drives.write_bag(tmp_path / 'only', {'/depth/image_rect_raw': depth})
    assert len(play(only)[0]) == 4


def test_a_topic_can_be_chosen(tmp_path):
    bag = write_bag(tmp_path / 'bag', extra_topic='/another/image')
    check(list(open_recording(bag, Options())))  # the topic with the most images
    others = list(open_recording(bag, Options(topic='/another/image')))
    assert len(others) == COUNT // 2
    assert not any(shot.info for shot in others)  # not that of the other camera
    with pytest.raises(RecordingError, match='/cam/image_raw'):
        open_recording(bag, Options(topic='/nowhere'))
    with pytest.raises(RecordingError, match='/cam/camera_info, /other/camera_info'):
        open_recording(bag, Options(camera_info_topic='/nowhere'))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_truncated_bag_is_played_as_far_as_it_goes(tmp_path, storage, with_metadata):
    bag = write_bag(tmp_path / 'bag', storage)
    file = next(path for path in bag.iterdir() if path.suffix != '.yaml')
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 6 // 10])
    if not with_metadata:  # it is written last
        (bag / 'metadata.yaml').unlink()
    shots, error = play(bag)
    assert str(bag) in error
    assert 3 <= len(shots) < COUNT
    check(shots, len(shots))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_whose_recorder_was_killed_before_it_wrote_the_metadata(tmp_path, storage):
    bag = write_bag(tmp_path / 'bag', storage)
    (bag / 'metadata.yaml').unlink()
    check(play(bag)[0])


@pytest.mark.parametrize('storage', ['mcap', 'ros1'])
def test_images_without_stamps_have_the_times_of_their_recording(tmp_path, storage):
    bag = write_bag(tmp_path / 'bag', storage, first_stamp_ns=0, stamp_step_ns=0)
    assert [shot.stamp_ns for shot in play(bag)[0]] == [START_NS + index * PERIOD_NS + 1 for index in range(COUNT)]


def test_simulated_time_may_begin_at_0(tmp_path):
    shots, _ = play(write_bag(tmp_path / 'bag', first_stamp_ns=0))
    assert [shot.stamp_ns for shot in shots] == [index * PERIOD_NS for index in range(COUNT)]


def test_a_damaged_calibration_keeps_no_image_from_being_played(tmp_path):
    shots, error = play(write_bag(tmp_path / 'bag', only_info=3))
    check(shots)
    assert {shot.info for shot in shots} == {None}
    assert '1 messages were skipped' in error


def test_what_comes_after_a_spoilt_message_is_played(tmp_path):
    shots, error = play(write_bag(tmp_path / 'bag', spoilt_image=5))
    played = [(shot.stamp_ns - START_NS) // PERIOD_NS for shot in shots]
    assert played == [index for index in range(COUNT) if index != 5]
    assert f'{COUNT - 1} images could be played: 1 messages were skipped' in error


def test_a_folder_of_pictures_in_their_natural_order(tmp_path):
    for index in range(COUNT):
        cv2.imwrite(str(tmp_path / f'frame{index}.png'), picture(index))
    shots = list(open_recording(tmp_path, Options(fps=20.0, frame_id='mast')))
    assert [shot.stamp_ns for shot in shots] == [10**9 + index * PERIOD_NS for index in range(COUNT)]
    for index, shot in enumerate(shots):
        np.testing.assert_array_equal(to_array(decompress(shot.image)), picture(index))
    assert shots[0].image.header.frame_id == 'mast'
    assert shots[0].info is None


def test_pictures_of_floats_are_read_and_those_that_ros_has_no_name_for_refused():
    depth = np.linspace(1, 2, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    image = decompress(compressed(depth))
    assert image.encoding == '32FC1'
    np.testing.assert_array_equal(np.frombuffer(image.data, np.float32), depth.ravel())
    assert np.ptp(to_array(image)) == 255
    for pixels in (depth.astype(np.float64), depth.astype(np.int32)):
        with pytest.raises(RecordingError, match=f'1 x {pixels.dtype}'):
            decompress(compressed(pixels))


@pytest.mark.parametrize(
    ('format_', 'encoding'),
    [
        ('mono8; tiff compressed ', 'mono8'),
        ('bayer_grbg8; tiff compressed ', 'bayer_grbg8'),
        ('bayer_grbg16; tiff compressed', 'bayer_grbg8'),
    ],
)
def test_a_mosaic_stays_one_when_it_is_decompressed(format_, encoding):
    assert decompress(compressed(picture(0), format_)).encoding == encoding


def compressed(pixels: np.ndarray, format_: str = 'tiff') -> CompressedImage:
    return CompressedImage(format=format_, data=array('B', cv2.imencode('.tiff', pixels)[1].tobytes()))


def test_a_folder_whose_names_are_nanoseconds(tmp_path):
    for index in range(COUNT):
        cv2.imwrite(str(tmp_path / f'{START_NS + index * PERIOD_NS}.png'), picture(index))
    check(list(open_recording(tmp_path, Options())))


def test_an_archive_with_a_list_of_times_and_intrinsics(tmp_path):
    lines = ['# frame timestamp_s timestamp_ns left']
    with tarfile.open(tmp_path / 'frames.tar', 'w') as archive:
        for index in range(COUNT):
            name = f'left/{index:06d}.png'
            file = tmp_path / 'picture.png'
            cv2.imwrite(str(file), picture(index))
            archive.add(file, name)
            stamp = START_NS + index * PERIOD_NS
            lines.append(f'{index} {stamp * 1e-9:.9f} {stamp} {name}')
        file.unlink()
    (tmp_path / 'timestamps.txt').write_text('\n'.join(lines))
    camera = {'width': 160, 'height': 120, 'fx': 150, 'fy': 151, 'cx': 80, 'cy': 60}
    camera |= {'distortion_model': 'radial-tangential', 'distortion': [-0.2, 0.1, 0, 0]}
    (tmp_path / 'intrinsics.yaml').write_text(yaml.safe_dump({'cameras': [camera]}))
    shots = list(open_recording(tmp_path, Options()))
    check(shots)
    info = shots[0].info
    assert info.k.tolist() == [150, 0, 80, 0, 151, 60, 0, 0, 1]
    assert (info.distortion_model, list(info.d)) == ('plumb_bob', [-0.2, 0.1, 0, 0, 0])


def test_a_list_of_times_in_seconds_is_exact(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    (tmp_path / 'rgb.txt').write_text('# timestamp filename\n1305031102.175304 a.png\n')
    assert next(iter(open_recording(tmp_path, Options()))).stamp_ns == 1305031102_175304000


@pytest.mark.parametrize(
    ('times', 'has_clock'),
    [
        ('# timestamp filename\n1305031102.175304 a.png\n', True),
        ('# frame timestamp_s file\n0 2.5 a.png\n', False),
        ('', False),
    ],
    ids=['since 1970', 'since the start', 'none'],
)
def test_only_times_since_1970_are_of_a_clock_that_cameras_share(times, has_clock, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), picture())
    if times:
        (tmp_path / 'rgb.txt').write_text(times)
    assert open_source(tmp_path, 30.0).has_clock is has_clock


def test_a_video(tmp_path):
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (WIDTH, HEIGHT))
    for index in range(COUNT):
        writer.write(cv2.cvtColor(picture(index), cv2.COLOR_GRAY2BGR))
    writer.release()
    shots = list(open_recording(path, Options()))
    assert [shot.stamp_ns for shot in shots] == [10**9 + index * PERIOD_NS for index in range(COUNT)]
    assert isinstance(shots[0].image, Image)
    assert np.abs(to_array(shots[5].image).astype(int) - picture(5)).mean() < 10


@pytest.mark.parametrize(('claimed', 'missed'), [(200, False), (203, False), (210, True)])
def test_a_video_is_cut_short_where_far_less_comes_than_it_claims(tmp_path, claimed, missed):
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (64, 48))
    for level in range(200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    struct.pack_into('<I', content, content.index(b'avih') + 24, claimed)  # dwTotalFrames
    struct.pack_into('<I', content, content.index(b'strh') + 40, claimed)  # dwLength
    path.write_bytes(content)
    shots, error = play(path)
    assert len(shots) == 200 - missed  # the last may be cut
    assert (f'200 of {claimed} frames' in error) == missed


def test_a_calibration_file_of_ros(tmp_path):
    path = tmp_path / 'camera.yaml'
    numbers = {'camera_matrix': 9, 'rectification_matrix': 9, 'projection_matrix': 12, 'distortion_coefficients': 5}
    content = {name: {'rows': 1, 'cols': n, 'data': list(range(n))} for name, n in numbers.items()}
    content |= {'image_width': 160, 'image_height': 120, 'camera_name': 'lens', 'distortion_model': 'plumb_bob'}
    path.write_text(yaml.safe_dump(content))
    info = read_camera_info(path)
    assert (info.width, info.height) == (160, 120)
    assert (info.k.tolist(), info.p.tolist(), list(info.d)) == (list(range(9)), list(range(12)), list(range(5)))


@pytest.mark.parametrize('text', ['', '[', 'image_width: 3', 'cameras: []', 'cameras: [{fx: 1}]', 'just words'])
def test_a_calibration_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / 'camera.yaml'
    path.write_text(text)
    with pytest.raises(CalibrationFileError, match=str(path)):
        read_camera_info(path)


def test_what_can_not_be_played_is_refused_with_the_reason(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'noise.mp4').write_bytes(b'noise' * 100)
    (tmp_path / 'noise.mcap').write_bytes(b'noise' * 100)
    (tmp_path / 'noise.bag').write_bytes(b'noise' * 100)
    for name in ('missing', 'empty', 'noise.mp4', 'noise.mcap', 'noise.bag'):
        with pytest.raises(RecordingError, match=name):
            open_recording(tmp_path / name, Options())
    bag = write_bag(tmp_path / 'bag')
    shutil.rmtree(bag)
    with pytest.raises(RecordingError, match='bag'):
        open_recording(bag, Options())
