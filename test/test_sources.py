"""Recordings without ROS: every kind is read back as it was written, and as far as it goes where it is damaged."""

import bz2
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from drives import PACKINGS, PERIOD_NS, START_NS, STORAGES, drive, storage_file, write_bag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superpoint_ros.images import to_array
from superpoint_ros.recordings import (
    CutShortError,
    RecordingError,
    calibration_topic,
    compression,
    open_source,
    salvage,
)

COUNT = 40
TOPIC = '/camera/image_raw'
NOISE = np.random.default_rng(0).integers(0, 20, (COUNT, 240, 320), np.uint8)  # else they are small when compressed
PICTURES = [picture + noise for picture, noise in zip(drive(COUNT, height=240, width=320), NOISE, strict=True)]
ALL_KINDS = [(storage, packing) for storage in STORAGES for packing in PACKINGS[storage]]


def read(path: Path, topics: tuple[str, ...] = (TOPIC,)) -> tuple[list[tuple[int, np.ndarray]], str]:
    """Times and pictures of a recording, and what it says is wrong with it."""
    found = []
    try:
        for record in open_source(path).records(topics):
            found.append((record.time_ns, np.array(to_array(record.load()))))
    except CutShortError as error:
        return found, str(error)
    return found, ''


def indices(found: list[tuple[int, np.ndarray]]) -> list[int]:
    """Which of `PICTURES` were found, each checked to be the one and to have its time."""
    numbers = [(time_ns - START_NS) // PERIOD_NS for time_ns, _ in found]
    for number, (_, picture) in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(picture, PICTURES[number])
    return numbers


@pytest.fixture(scope='module')
def bags(tmp_path_factory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp('bags')
    return {
        kind: write_bag(folder / ('-'.join(kind) + ('.bag' if kind[0] == 'ros1' else '')), {TOPIC: PICTURES}, *kind)
        for kind in ALL_KINDS
    }


@pytest.mark.parametrize('kind', ALL_KINDS, ids='-'.join)
def test_bags_of_all_kinds_are_read_as_written(bags, kind):
    found, problem = read(bags[kind])
    assert indices(found) == list(range(COUNT))
    assert problem == ''


@pytest.mark.parametrize('kind', ALL_KINDS, ids='-'.join)
def test_topics_are_listed_with_counts_rates_sizes_and_times(bags, kind):
    image, words = open_source(bags[kind]).topics()
    assert (image.name, image.type, image.count) == (TOPIC, 'sensor_msgs/msg/Image', COUNT)
    assert image.rate_hz == pytest.approx(1e9 / PERIOD_NS)
    assert 240 * 320 * COUNT < image.bytes < 240 * 320 * COUNT * 1.01
    assert (image.first_ns, image.last_ns) == (START_NS, START_NS + (COUNT - 1) * PERIOD_NS)
    assert (words.name, words.count, words.rate_hz, words.has_images) == ('/words', 1, 0.0, False)
    assert image.has_images
    assert image.damage == ''


@pytest.mark.parametrize('kind', ALL_KINDS, ids='-'.join)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_bag_cut_off_anywhere_gives_all_that_is_left_and_says_so(bags, tmp_path, kind, share):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    cut = copy(bags[kind], tmp_path)
    file = storage_file(cut)
    size = file.stat().st_size
    left = int(share * size)
    os.truncate(file, left)
    try:
        found, problem = read(cut)
    except RecordingError as error:
        found, problem = [], str(error)
    numbers = indices(found)
    assert numbers == list(range(len(numbers)))
    assert cut.stem in problem
    # All but what lies in the compressor's block, the chunk's or the page's remainder, and the index at the end.
    packed = kind[1] in ('file', 'storage', 'bz2', 'lz4')
    assert len(numbers) >= COUNT * share - (14 if packed else 5)


# Of a file that is compressed as a whole nothing can be decompressed after a hole.
@pytest.mark.parametrize('kind', [kind for kind in ALL_KINDS if kind[1] != 'file'], ids='-'.join)
def test_a_hole_in_a_bag_takes_what_is_in_it_only(bags, tmp_path, kind):
    spoilt = copy(bags[kind], tmp_path)
    file = storage_file(spoilt)
    with file.open('r+b') as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b'\xa5' * 3000)
    found, problem = read_sound(spoilt)
    lost = COUNT - len(found)
    assert problem
    assert found == sorted(found)
    assert 1 <= lost <= (4 if kind[0] == 'sqlite3' else 16)
    assert found[-1] == COUNT - 1


def read_sound(path: Path) -> tuple[list[int], str]:
    """Numbers of the pictures that come as they were, and what is said or seen to be wrong."""
    numbers, problem = [], ''
    try:
        for record in open_source(path).records([TOPIC]):
            number = (record.time_ns - START_NS) // PERIOD_NS
            try:
                is_sound = np.array_equal(to_array(record.load()), PICTURES[number])
            except ValueError:
                is_sound = False
            if is_sound:
                numbers.append(number)
            else:
                problem = 'spoilt pixels'
    except CutShortError as error:
        problem = str(error)
    return numbers, problem


def copy(bag: Path, folder: Path) -> Path:
    if bag.is_dir():
        return Path(shutil.copytree(bag, folder / bag.name))
    return Path(shutil.copy(bag, folder))


@pytest.mark.parametrize(
    ('camera', 'infos', 'others', 'expected'),
    [
        ('/front/image_raw', ['/thermal/camera_info', '/front/camera_info'], ['/thermal/image_raw'], 1),
        ('/front/image_raw', ['/thermal/camera_info'], ['/thermal/image_raw'], None),
        ('/robot/front/image', ['/robot/thermal/camera_info'], ['/robot/thermal/image'], None),
        ('/front/image', ['/camera_info'], ['/thermal/image'], None),
        ('/image', ['/front/camera_info', '/camera_info'], ['/front/image'], 1),
        ('/image/compressed', ['/camera_info'], ['/image'], 0),
        ('/camera/image_raw', ['/camera/camera_info', '/camera/depth/camera_info'], ['/camera/depth/image'], 0),
        ('/camera/rgb/image', ['/camera/camera_info'], ['/thermal/image'], 0),
        ('/superpoint/features', ['/camera/camera_info'], [], 0),
        ('/superpoint/features', ['/a/camera_info', '/b/camera_info'], [], None),
        ('/image', [], [], None),
    ],
)
def test_a_calibration_is_the_cameras_that_it_is_nearest_to(camera, infos, others, expected):
    assert calibration_topic(infos, camera, [camera, *others]) == ('' if expected is None else infos[expected])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('with_metadata', [True, False])
def test_split_files_are_read_in_the_order_they_were_written(tmp_path, storage, with_metadata):
    bag = tmp_path / 'bag'
    bag.mkdir()
    files = []
    for part in range(0, COUNT, 4):  # eleven would do: `bag_10` comes after `bag_9`
        start = START_NS + part * PERIOD_NS
        piece = write_bag(tmp_path / f'piece{part}', {TOPIC: PICTURES[part : part + 4]}, storage, start_ns=start)
        file = storage_file(piece)
        files.append(f'bag_{part // 4 + 2}{file.suffix}')
        shutil.move(file, bag / files[-1])
    if with_metadata:
        metadata = yaml.safe_load((piece / 'metadata.yaml').read_text())
        metadata['rosbag2_bagfile_information']['relative_file_paths'] = files
        for topic in metadata['rosbag2_bagfile_information']['topics_with_message_count']:
            topic['message_count'] = COUNT
        (bag / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    found, problem = read(bag)
    assert indices(found) == list(range(COUNT))
    assert problem == ''
    assert open_source(bag).topics()[0].count == COUNT


@pytest.mark.parametrize('kind', [('mcap', 'message'), ('sqlite3', 'message'), ('sqlite3', 'file')], ids='-'.join)
def test_compressed_bags_without_metadata(bags, tmp_path, kind):
    bag = copy(bags[kind], tmp_path)
    (bag / 'metadata.yaml').unlink()
    found, problem = read(bag)
    assert indices(found) == list(range(COUNT))
    assert problem == ''


def with_log(bags, tmp_path):
    """A bag as a killed recorder leaves it, half of its rows in SQLite's log."""
    live = copy(bags['sqlite3', ''], tmp_path)
    file = storage_file(live)
    killed = tmp_path / 'killed'
    killed.mkdir()
    with sqlite3.connect(file) as database:
        database.execute('PRAGMA journal_mode = WAL')
        database.execute('PRAGMA wal_autocheckpoint = 0')
        rows = database.execute('SELECT topic_id, timestamp, data FROM messages WHERE id > 20').fetchall()
        database.execute('DELETE FROM messages WHERE id > 20')
        database.commit()
        database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        database.executemany('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', rows)
        database.commit()
        for part in (file, Path(f'{file}-wal')):
            shutil.copy(part, killed)
    database.close()
    return killed


def test_a_compressed_file_is_unpacked_once_and_nothing_is_left_of_it(bags, tmp_path, monkeypatch):
    unpacked = []
    unpack_file = compression.unpack_file
    monkeypatch.setattr('superpoint_ros.recordings.bags.unpack_file', lambda *a: unpacked.append(a) or unpack_file(*a))
    bag, temporary = shutil.copytree(bags['mcap', 'file'], tmp_path / 'bag'), tmp_path / 'temporary'
    (bag / 'metadata.yaml').unlink()  # with it rosbags unpacks
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    source = open_source(bag)
    source.topics()
    assert sum(1 for _ in source.records((TOPIC,))) == COUNT
    assert len(unpacked) == 1 == len(list(temporary.iterdir()))
    del source
    gc.collect()
    assert not list(temporary.iterdir())


def test_rows_that_a_killed_recorder_left_in_the_log_of_sqlite_are_read(bags, tmp_path):
    assert indices(read(with_log(bags, tmp_path))[0]) == list(range(COUNT))


def test_a_log_of_sqlite_is_read_where_nothing_can_be_written(bags, tmp_path, monkeypatch):
    killed = with_log(bags, tmp_path)
    monkeypatch.setattr(salvage.os, 'access', lambda path, mode: False)
    assert indices(read(killed)[0]) == list(range(COUNT))
    assert {file.name.rpartition('.')[2] for file in killed.iterdir()} == {'db3', 'db3-wal'}


def test_a_bag_of_ros_2_may_be_called_as_one_of_ros_1(bags, tmp_path):
    shutil.copytree(bags['mcap', ''], tmp_path / 'drive.bag')
    assert indices(read(tmp_path / 'drive.bag')[0]) == list(range(COUNT))


def test_a_recorder_of_ros_1_that_did_not_finish(bags, tmp_path):
    active = tmp_path / 'drive.bag.active'
    content = bytearray(bags['ros1', ''].read_bytes())
    at = content.index(b'index_pos=') + len(b'index_pos=')
    content[at : at + 8] = bytes(8)  # as it is while recording
    active.write_bytes(content[: len(content) * 3 // 4])
    found, problem = read(active)
    assert len(indices(found)) >= COUNT * 3 // 4 - 3
    assert problem


def test_several_topics_come_in_the_order_they_were_recorded(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'/left': PICTURES, '/right': PICTURES[::2]})
    records = [(record.topic, record.time_ns) for record in open_source(bag).records(['/left', '/right'])]
    assert len(records) == COUNT * 3 // 2
    assert [time for _, time in records] == sorted(time for _, time in records)
    assert sum(topic == '/right' for topic, _ in records) == COUNT // 2
    assert list(open_source(bag).records(['/nowhere'])) == []


def test_the_topics_of_a_damaged_bag_are_counted(bags, tmp_path):
    bag = copy(bags['mcap', ''], tmp_path)
    os.truncate(storage_file(bag), storage_file(bag).stat().st_size // 2)
    topic = next(topic for topic in open_source(bag).topics() if topic.name == TOPIC)
    assert topic.count == len(read(bag)[0])
    assert topic.damage


def test_a_video_without_its_end_gives_its_start(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (320, 240))
    for picture in PICTURES:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    writer.release()
    (topic,) = open_source(path).topics()
    assert (topic.name, topic.type, topic.count, topic.rate_hz) == ('drive.avi', 'video', COUNT, pytest.approx(20))
    whole, problem = read(path)
    assert (len(whole), problem) == (COUNT, '')
    os.truncate(path, path.stat().st_size * 6 // 10)
    found, problem = read(path)
    assert COUNT * 0.5 <= len(found) < COUNT * 0.7
    assert str(path) in problem
    for (_, picture), original in zip(found, PICTURES, strict=False):
        assert np.abs(picture.astype(int) - original).mean() < 14


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_frames_of_a_video_come_at_the_times_that_it_says(tmp_path, suffix):
    """As of a phone, which takes every second frame in the dark: 30 a second, then 15."""
    path = tmp_path / f'phone{suffix}'
    motion_jpeg, raw = cv2.VideoWriter_fourcc(*'MJPG'), [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, motion_jpeg, 30.0, (320, 240), raw)
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no videos by FFmpeg')
    ticks = [*range(20), *range(20, 60, 2)]
    for tick, picture in zip(ticks, PICTURES, strict=True):
        writer.set(cv2.VIDEOWRITER_PROP_PTS, tick)
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.write(cv2.imencode('.jpg', picture)[1])
    writer.release()
    found, problem = read(path)
    times = np.array([time_ns for time_ns, _ in found]) / 1e9 - 1
    np.testing.assert_allclose(times, np.array(ticks) / 30, atol=2e-3)
    assert problem == ''


def test_frames_of_a_stream_without_a_container_are_counted(tmp_path):
    path = tmp_path / 'drive.mjpeg'
    path.write_bytes(b''.join(cv2.imencode('.jpg', picture)[1].tobytes() for picture in PICTURES))
    (topic,) = open_source(path).topics()
    assert topic.count == len(read(path)[0]) == COUNT
    assert topic.rate_hz > 0


def test_pictures_in_folders_beside_a_list_as_tum_has_them(tmp_path):
    (tmp_path / 'rgb').mkdir()
    (tmp_path / 'depth').mkdir()
    times = [f'{1305031102 + index * 0.03:.6f}' for index in range(5)]
    for time, picture in zip(times, PICTURES, strict=False):
        cv2.imwrite(str(tmp_path / 'rgb' / f'{time}.png'), picture)
        cv2.imwrite(str(tmp_path / 'depth' / f'{time}.png'), picture)
    (tmp_path / 'rgb' / f'._{times[0]}.png').write_bytes(b'macOS keeps something here')
    (tmp_path / 'rgb' / '2.png').symlink_to(tmp_path / 'nowhere.png')
    whole = [round(float(time) * 1e6) for time in times]
    (tmp_path / 'rgb.txt').write_text('# color images\n' + '\n'.join(f'{time} rgb/{time}.png' for time in times[1:]))
    for folder, expected in ((tmp_path, whole[1:]), (tmp_path / 'rgb', whole)):
        found, problem = read(folder)
        assert [time_ns // 1000 for time_ns, _ in found] == expected
        assert problem == ''
        assert open_source(folder).has_clock


@pytest.mark.parametrize('name', ['20230101123045033', '12345678901234567890', '1305031102175304000.5', '9' * 19])
def test_numbers_that_are_no_time_since_1970_are_counted(tmp_path, name):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{name[:-1]}{index}.png'), PICTURES[index])
    found, _ = read(tmp_path)
    assert [time_ns for time_ns, _ in found] == [1_000_000_000, 1_033_333_333, 1_066_666_667]


def test_names_and_lists_of_any_letters(tmp_path):
    for index, name in enumerate(['scan1²2.png', 'scan1²10.png', 'scan٣.png']):
        cv2.imwrite(str(tmp_path / name), PICTURES[index])
    assert len(read(tmp_path)[0]) == 3
    (tmp_path / 'a.png').write_bytes(cv2.imencode('.png', PICTURES[0])[1].tobytes())
    (tmp_path / 'timestamps.txt').write_bytes('# Zürich\n# timestamp_s file\n2.5 a.png\n'.encode('latin-1'))
    assert [time_ns for time_ns, _ in read(tmp_path)[0]] == [2_500_000_000]


@pytest.mark.parametrize(('others', 'head'), [('right', '# timestamp_s left right\n'), ('depth', '')])
def test_no_picture_takes_the_place_of_a_missing_one(tmp_path, others, head):
    """What follows in its line is of another camera, or depth."""
    for folder in ('left', others):
        (tmp_path / folder).mkdir()
        for index in range(3):
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), PICTURES[index])
    (tmp_path / 'left' / '1.png').unlink()
    lines = (f'{index}.0 left/{index}.png {f"{index}.0 " * (not head)}{others}/{index}.png\n' for index in range(3))
    (tmp_path / ('timestamps.txt' if head else 'rgb.txt')).write_text(head + ''.join(lines))
    assert [time_ns for time_ns, _ in read(tmp_path)[0]] == [0, 2_000_000_000]


def test_a_folder_of_a_bag_without_its_file_is_refused(tmp_path):
    (tmp_path / 'metadata.yaml').write_text('rosbag2_bagfile_information:\n  version: 5\n')
    with pytest.raises(RecordingError, match='could not be read'):
        open_source(tmp_path)


@pytest.mark.parametrize('share', [0.1, 0.55, 0.9])
def test_an_archive_without_its_end_gives_its_start(tmp_path, share):
    archive = tmp_path / 'frames.tar'
    with tarfile.open(archive, 'w') as opened:
        for index, picture in enumerate(PICTURES):
            file = tmp_path / f'{index}.png'
            cv2.imwrite(str(file), picture)
            opened.add(file, file.name)
            file.unlink()
    os.truncate(archive, int(archive.stat().st_size * share))
    found, problem = read(tmp_path)
    assert COUNT * share - 3 <= len(found) <= COUNT * share
    for (_, picture), original in zip(found, PICTURES, strict=False):
        np.testing.assert_array_equal(picture, original)
    assert 'frames.tar' in problem


def test_reading_needs_no_ros(bags):
    code = (
        'import sys\n'
        'for name in ("rclpy", "sensor_msgs", "std_msgs", "builtin_interfaces", "geometry_msgs"):\n'
        '    sys.modules[name] = None\n'
        'from pathlib import Path\n'
        'from superpoint_ros.images import to_array\n'
        'from superpoint_training.harvest import list_topics\n'
        'from superpoint_ros.recordings import open_source\n'
        'path = Path(sys.argv[1])\n'
        'pictures = [to_array(record.load()) for record in open_source(path).records([sys.argv[2]])]\n'
        'print(list_topics([path])[0].count, sum(len(picture) for picture in pictures))\n'
    )
    for storage in STORAGES:
        command = [sys.executable, '-c', code, str(bags[storage, '']), TOPIC]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == ['40', '9600']


COMPRESSORS = {'zstd': compression._zstd.compress, 'lz4': compression._lz4.compress, 'bz2': bz2.compress}


@pytest.mark.parametrize('name', COMPRESSORS)
def test_what_was_compressed_is_read_up_to_the_damage(name):
    data = np.random.default_rng(0).integers(0, 50, 4_000_000, np.uint8)
    packed = bytearray(COMPRESSORS[name](data.tobytes()))
    assert compression.inflate(name, bytes(packed)) == data.tobytes()
    damage = len(packed) * 7 // 10
    packed[damage : damage + 3000] = bytes(3000)
    left = np.frombuffer(compression.inflate(name, bytes(packed)), np.uint8)
    np.testing.assert_array_equal(left[:2_000_000], data[:2_000_000])
