"""ROS 1 and ROS 2 bags as recordings, also those whose recorder was cut off."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from superpoint_ros.messages import stamp_ns
from superpoint_ros.nodes.calibration_files import read_camera_info
from superpoint_ros.nodes.recordings import CutShortError, Options, RecordingError, Shot, time_of

_SUFFIXES = ('.bag', '.mcap', '.db3')
_IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
_CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder that rosbag2 wrote, or a file with a bag's suffix."""
    return path.suffix in _SUFFIXES or (path / 'metadata.yaml').exists() or bool(_storage_files(path))


class Bag:
    """The images of one topic, each with the calibration that was latest when it was recorded.

    Their times are their stamps; where their driver set none, when they were recorded.
    A bag without its end, as a full disk or a crash leaves it, is played as far as it goes.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._info = read_camera_info(options.camera_info) if options.camera_info else None
        with ExitStack() as stack:
            reader, _ = _open(path, stack)
            self.topic = _image_topic(reader.connections, options.topic)
            self.camera_info_topic = options.camera_info_topic or _info_topic(reader.connections, self.topic)

    def __str__(self) -> str:
        return f'{self.topic} of the bag {self._path}'

    def __iter__(self) -> Iterator[Shot]:
        with ExitStack() as stack:
            reader, damage = _open(self._path, stack)
            info = self._info or self._first_info(reader)
            stamped = self._is_stamped(reader)
            played = 0
            for connection, logged_ns, message in self._messages(reader, (self.topic, self.camera_info_topic)):
                if connection.topic == self.topic:
                    image = _to_image(message, connection.msgtype)
                    yield Shot(stamp_ns(image.header.stamp) if stamped else logged_ns, image, info)
                    played += 1
                elif self._info is None:
                    info = _to_info(message)
            if damage:
                raise CutShortError(f'{self} is cut off after {played} images: {damage}')

    def _first_info(self, reader: AnyReader) -> CameraInfo | None:
        """The first calibration, for images that were recorded just before it; None if damage comes first."""
        with suppress(CutShortError):
            for _, _, message in self._messages(reader, (self.camera_info_topic,)):
                return _to_info(message)
        return None

    def _is_stamped(self, reader: AnyReader) -> bool:
        """Whether images have stamps. One of 0 alone may be the first of simulated time."""
        with suppress(CutShortError):
            messages = islice(self._messages(reader, (self.topic,)), 2)
            return any(stamp_ns(message.header.stamp) for _, _, message in messages)
        return True

    def _messages(self, reader: AnyReader, topics: tuple[str, ...]) -> Iterator[tuple[Connection, int, Any]]:
        """Each message with its topic and the time in nanoseconds at which it was recorded."""
        connections = [connection for connection in reader.connections if connection.topic in topics]
        if not connections:
            return
        messages = reader.messages(connections)
        while True:
            try:
                connection, logged_ns, raw = next(messages)
                message = reader.deserialize(raw, connection.msgtype)
            except StopIteration:
                return
            except Exception as error:  # a damaged file fails in its storage library's own ways
                raise CutShortError(f'{self} is damaged from here on: {error}') from error
            yield connection, logged_ns, message


def _open(path: Path, stack: ExitStack) -> tuple[AnyReader, str]:
    """An open reader, and what is damaged about the bag: '' when nothing is.

    Raises:
        RecordingError: nothing of it can be read.
    """
    typestore = get_typestore(Stores.ROS2_HUMBLE)  # for sqlite3 bags, which older recorders wrote without types
    try:
        return stack.enter_context(AnyReader([path], default_typestore=typestore)), ''
    except Exception as error:  # see Bag._messages
        damage = str(error)
    try:
        files = [_mended(file, stack) for file in (_storage_files(path) or [path])]
        return stack.enter_context(AnyReader(files, default_typestore=typestore)), damage
    except Exception as error:
        raise RecordingError(f'The bag {path} could not be read: {damage}') from error


def _storage_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix in ('.mcap', '.db3'))


def _mended(path: Path, stack: ExitStack) -> Path:
    """A copy of what is whole of a storage file that was cut off; other files as they are."""
    mend = {'.mcap': _mend_mcap, '.db3': _mend_sqlite}.get(path.suffix)
    if mend is None:
        return path
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='superpoint_ros_'))
    mended = Path(folder) / path.name
    mend(path, mended)
    return mended


def _mend_mcap(path: Path, mended: Path) -> None:
    """Copy an MCAP file up to its last whole record, and write the end that is missing."""
    shutil.copyfile(path, mended)
    with mended.open('r+b') as file:
        end = _end_of_whole_records(file, path.stat().st_size)
        file.truncate(end)
        file.seek(end)
        file.write(struct.pack('<BQI', 0x0F, 4, 0))  # DataEnd
        file.write(struct.pack('<BQQQI', 0x02, 20, 0, 0, 0))  # Footer that says there is no summary
        file.write(b'\x89MCAP0\r\n')


def _end_of_whole_records(file: BinaryIO, size: int) -> int:
    """Where the last whole data record of an MCAP file ends. A record is kind, length, content."""
    end = 8
    while end + 9 <= size:
        file.seek(end)
        kind, length = struct.unpack('<BQ', file.read(9))
        if kind in (0x02, 0x0F) or end + 9 + length > size:
            break
        end += 9 + length
    return end


def _mend_sqlite(path: Path, mended: Path) -> None:
    """Copy the rows of an SQLite file, table by table, up to the first page that is missing."""
    padded = mended.with_suffix('.padded')
    shutil.copyfile(path, padded)
    with padded.open('r+b') as file:
        page_size, pages = struct.unpack('>16xH10xI', file.read(32))
        # At its full size the file opens, and reading fails at the first empty page.
        file.truncate(max(path.stat().st_size, page_size * pages))
    with closing(sqlite3.connect(padded)) as source, closing(sqlite3.connect(mended)) as target:
        for table, definition in source.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"):
            target.execute(definition)
            with suppress(sqlite3.DatabaseError):
                for row in source.execute(f'SELECT * FROM "{table}"'):
                    target.execute(f'INSERT INTO "{table}" VALUES ({",".join("?" * len(row))})', row)
        target.commit()


def _image_topic(connections: list[Connection], wanted: str) -> str:
    counts = {c.topic: c.msgcount for c in connections if c.msgtype in _IMAGES}
    if not counts:
        held = ', '.join(f'{c.topic} ({c.msgtype})' for c in connections) or 'nothing'
        raise RecordingError(f'The bag holds no images; it holds {held}.')
    if wanted and wanted not in counts:
        raise RecordingError(f"The bag holds no images on '{wanted}'; it does on {', '.join(sorted(counts))}.")
    return wanted or max(sorted(counts), key=counts.__getitem__)


def _info_topic(connections: list[Connection], image_topic: str) -> str:
    topics = sorted(c.topic for c in connections if c.msgtype == _CAMERA_INFO)
    return max(topics, key=lambda topic: _agreement(topic, image_topic), default='')


def _agreement(one: str, other: str) -> int:
    """How many levels two topic names share from the left."""
    levels = zip(one.split('/'), other.split('/'), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], levels)))


def _header(message: Any) -> Header:
    return Header(stamp=time_of(stamp_ns(message.header.stamp)), frame_id=message.header.frame_id)


def _to_image(message: Any, kind: str) -> Image | CompressedImage:
    data = array('B', message.data.tobytes())
    if kind.endswith('CompressedImage'):
        return CompressedImage(header=_header(message), format=message.format, data=data)
    return Image(
        header=_header(message),
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=message.step,
        data=data,
    )


def _to_info(message: Any) -> CameraInfo:
    """ROS 2's message of ROS 2's or ROS 1's, which writes the matrices' names large."""
    d, k, r, p = (getattr(message, name, None) for name in 'dkrp')
    if k is None:
        d, k, r, p = (getattr(message, name) for name in 'DKRP')
    roi = message.roi
    return CameraInfo(
        header=_header(message),
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model,
        d=np.asarray(d, np.float64).tolist(),
        k=np.asarray(k, np.float64),
        r=np.asarray(r, np.float64),
        p=np.asarray(p, np.float64),
        binning_x=message.binning_x,
        binning_y=message.binning_y,
        roi=RegionOfInterest(
            x_offset=roi.x_offset,
            y_offset=roi.y_offset,
            height=roi.height,
            width=roi.width,
            do_rectify=bool(roi.do_rectify),
        ),
    )
