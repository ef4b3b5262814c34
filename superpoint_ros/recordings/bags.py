"""Bags of ROS 2 and ROS 1, also those whose recorder was cut off and those with damage in the middle."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys import Stores, get_typestore

from superpoint_ros.recordings.compression import unpack_file, unpack_message
from superpoint_ros.recordings.pictures import natural
from superpoint_ros.recordings.salvage import RawMessage, salvage
from superpoint_ros.recordings.source import CutShortError, Record, RecordingError, TopicSummary, rate_hz

_SUFFIXES = ('.mcap', '.db3', '.bag', '.active')  # `.active`: a ROS 1 recorder did not come to rename it
_SAMPLE = 8  # messages at each of as many times that stand for the size of all


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder that rosbag2 wrote, or a file with a bag's suffix."""
    return _is_storage(path) or (path / 'metadata.yaml').exists() or bool(_storage_files(path))


class Bag:
    """A bag, read with rosbags; what that can't read goes to `salvage`.

    The few types of interest have been the same in all distributions, so the definitions that a bag may carry are
    not read, and none that is strange keeps the bag from opening.

    Raises:
        RecordingError: nothing of it can be read.
    """

    has_clock = True

    def __init__(self, path: Path) -> None:
        self.path = path
        is_ros1 = path.suffix in ('.bag', '.active') and not path.is_dir()
        self._typestore = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_HUMBLE)
        self._deserialize = self._typestore.deserialize_ros1 if is_ros1 else self._typestore.deserialize_cdr
        self._unpack = _Unpacker()
        with ExitStack() as stack:
            readers, damage = _open(path, self._unpack, stack)
            is_empty = damage and next(chain.from_iterable(_messages(reader, None) for reader in readers), None) is None
        if is_empty:
            raise RecordingError(f'The bag {path} could not be read: {damage}')

    def __str__(self) -> str:
        return f'the bag {self.path}'

    def files(self) -> list[Path]:
        """The bag, or all in its folder but SQLite's shared memory, which reading changes."""
        if not self.path.is_dir():
            return [self.path]
        return [file for file in self.path.iterdir() if file.is_file() and not file.name.endswith('-shm')]

    def topics(self) -> list[TopicSummary]:
        """All topics. Of a damaged bag they are counted, which takes reading all of it."""
        with ExitStack() as stack:
            readers, damage = _open(self.path, self._unpack, stack)
            if not damage:
                try:
                    return _summaries(self.path, readers)
                except Exception as error:  # see _all_messages
                    damage = _reason(error)
        return self._counted(damage)

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """The messages of some topics in the order they were recorded; see `Source`."""
        count = 0
        with ExitStack() as stack:
            readers, damage = _open(self.path, self._unpack, stack)
            try:
                for message in _all_messages(readers, topics, self._unpack):
                    yield Record(message.topic, message.type, message.time_ns, partial(self._load, message))
                    count += 1
            except CutShortError as error:
                damage = damage or str(error)
            if damage:
                raise CutShortError(f'{self} is damaged; {count} messages could be read: {damage}')

    def _load(self, message: RawMessage) -> Any:
        try:
            return self._deserialize(message.data, message.type)
        except Exception as error:  # whatever garbled bytes lead to
            where = f'{message.topic} of {self}'
            raise RecordingError(f'A message on {where} is damaged: {_reason(error)}') from error

    def _counted(self, damage: str) -> list[TopicSummary]:
        found: dict[tuple[str, str], list[int]] = {}
        with ExitStack() as stack:
            readers, _ = _open(self.path, self._unpack, stack)
            try:
                for message in _all_messages(readers, None, self._unpack):
                    count, size, first, _ = found.get(message[:2], (0, 0, message.time_ns, 0))
                    found[message[:2]] = [count + 1, size + len(message.data), first, message.time_ns]
            except CutShortError as error:
                damage = damage or str(error)
        return [
            TopicSummary(self.path, name, kind, count, rate_hz(count, first, last), size, first, last, damage)
            for (name, kind), (count, size, first, last) in sorted(found.items())
        ]


class _Unpacker:
    """Storage files without their compression: each is unpacked once, into a folder that goes when this does."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._unpacked: dict[Path, tuple[Path, bool]] = {}

    def __call__(self, file: Path) -> tuple[Path, bool]:
        """The file, or what it holds, and whether that is all there."""
        if file.suffix != '.zstd':
            return file, True
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix='superpoint_ros_'))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if file not in self._unpacked:
            unpacked = self._folder / file.stem
            self._unpacked[file] = unpacked, unpack_file(file, unpacked)
        return self._unpacked[file]


class _Salvaged:
    """A storage file that rosbags can't open."""

    def __init__(self, path: Path) -> None:
        self.path = path


def _open(path: Path, unpack: _Unpacker, stack: ExitStack) -> tuple[list[Any], str]:
    """Open readers of a bag, to be read one after the other, and what is damaged: '' when nothing is known to be."""
    if path.is_dir() and (path / 'metadata.yaml').exists() and not any(path.glob('*.db3-wal')):
        try:
            return [stack.enter_context(Reader2(path))], ''
        except Exception as error:  # see _all_messages
            damage = _reason(error)
    else:  # the recorder was killed before it wrote the metadata, which is no loss in itself
        damage = ''
    readers: list[Any] = []
    for packed in _storage_files(path) or [path]:
        file, is_whole = unpack(packed)
        if not is_whole:
            damage = damage or f'{packed.name} is cut off or damaged'
        try:
            if Path(f'{file}-wal').exists():
                raise RecordingError(f'{file.name} was not closed by its recorder')
            readers.append(stack.enter_context(Reader1(file) if file.suffix in ('.bag', '.active') else Reader2(file)))
        except Exception as error:  # see _all_messages
            damage = damage or _reason(error)
            readers.append(_Salvaged(file))
    return readers, damage


def _messages(reader: Any, topics: Collection[str] | None) -> Iterator[RawMessage]:
    if isinstance(reader, _Salvaged):
        yield from _salvaged(reader.path, topics)
        return
    connections = [c for c in reader.connections if topics is None or c.topic in topics]
    if not connections:  # rosbags would take that for all
        return
    for connection, time_ns, data in reader.messages(connections):
        yield RawMessage(connection.topic, connection.msgtype, time_ns, unpack_message(data))


def _all_messages(readers: list[Any], topics: Collection[str] | None, unpack: _Unpacker) -> Iterator[RawMessage]:
    """Messages of some topics, or of all; raises CutShortError at the end if a hole was met on the way."""
    damage = ''
    for reader in readers:
        last_ns = -1
        try:
            for message in _messages(reader, topics):
                yield message
                last_ns = message.time_ns
        except Exception as error:  # a damaged file fails in its storage library's own ways
            damage = damage or _reason(error)
            if isinstance(reader, _Salvaged):  # the disk itself fails
                continue
            for packed in _storage_files(reader.path) or [reader.path]:
                file, _ = unpack(packed)
                # What was recorded up to the hole has been given already.
                yield from (message for message in _salvaged(file, topics) if message.time_ns > last_ns)
    if damage:
        raise CutShortError(damage)


def _salvaged(file: Path, topics: Collection[str] | None) -> Iterator[RawMessage]:
    return (message for message in salvage(file) if topics is None or message.topic in topics)


def _summaries(path: Path, readers: list[Any]) -> list[TopicSummary]:
    """Topics as the indexes tell, with sizes guessed from some messages of each."""
    found: dict[tuple[str, str], list[int]] = {}
    for reader in readers:
        for name, topic in reader.topics.items():
            sample = _sample(reader, name)
            if not sample:
                count, size, first, last = 0, 0, 2**63 - 1, 0
            else:
                count = topic.msgcount
                size = sum(len(message.data) for message in sample) * count // len(sample)
                first, last = sample[0].time_ns, _last_ns(reader, name)
            before = found.get((name, sample[0].type if sample else str(topic.msgtype)), [0, 0, 2**63 - 1, 0])
            merged = [before[0] + count, before[1] + size, min(before[2], first), max(before[3], last)]
            found[name, sample[0].type if sample else str(topic.msgtype)] = merged
    return [
        TopicSummary(path, name, kind, count, rate_hz(count, first, last), size, first if count else 0, last)
        for (name, kind), (count, size, first, last) in sorted(found.items())
    ]


def _sample(reader: Any, topic: str) -> list[RawMessage]:
    """Some messages from the start on, and from times that are spread evenly, in their order."""
    connections = [connection for connection in reader.connections if connection.topic == topic]
    sample: dict[int, RawMessage] = {}
    for part in range(_SAMPLE):
        start = reader.start_time + reader.duration * part // _SAMPLE
        for connection, time_ns, data in islice(reader.messages(connections, start=start), _SAMPLE):
            sample[time_ns] = RawMessage(connection.topic, connection.msgtype, time_ns, data)
    return [sample[time_ns] for time_ns in sorted(sample)]


def _last_ns(reader: Any, topic: str) -> int:
    """When the last message of a topic was recorded, looking back from the end in growing steps."""
    connections = [connection for connection in reader.connections if connection.topic == topic]
    back_ns = 1_000_000_000
    while True:
        last = max((time for _, time, _ in reader.messages(connections, start=reader.end_time - back_ns)), default=0)
        if last or back_ns > reader.duration:
            return last
        back_ns *= 8


def _is_storage(path: Path) -> bool:
    name = path.name.removesuffix('.zstd')
    return Path(name).suffix in _SUFFIXES and not path.is_dir()


def _storage_files(path: Path) -> list[Path]:
    """The files of a folder that rosbag2 wrote, in the order they were written."""
    if not path.is_dir():
        return []
    files = [file for file in path.iterdir() if _is_storage(file) and '.bag' not in file.suffixes]
    return sorted(files, key=lambda file: natural(file.name))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
