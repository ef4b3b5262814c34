"""What is left of storage files that were cut off or damaged, message after message, without their indexes.

A recorder that was killed, a full disk or a bad copy leaves files that have no end, or a hole. These readers go
through such a file from its start and give every message that is whole, in the order they lie in the file. No more
than a chunk of the file (about 1 MB) is in memory, and nothing is copied but SQLite's log and what belongs to it, out
of a folder that can't be written to.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from superpoint_ros.recordings.compression import inflate, unpack_message


class RawMessage(NamedTuple):
    """A message as recorded: serialized, with the time in nanoseconds at which it was recorded."""

    topic: str
    type: str
    time_ns: int
    data: bytes


def salvage(path: Path) -> Iterator[RawMessage]:
    """All messages of a storage file that can still be read; none of a file that is something else."""
    readers = {'.mcap': _salvage_mcap, '.db3': _salvage_sqlite, '.bag': _salvage_bag1, '.active': _salvage_bag1}
    reader = readers.get(path.suffix)
    for message in reader(path) if reader else ():
        yield message._replace(data=unpack_message(message.data))


def _salvage_mcap(path: Path) -> Iterator[RawMessage]:
    """MCAP: records of kind (1 byte), length (8) and content; chunks hold records, compressed."""
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with path.open('rb') as file:
        if file.read(8) != b'\x89MCAP0\r\n':
            return
        for kind, content in _mcap_records(file, path.stat().st_size - 8):
            if kind == 0x06:
                compression, data = _mcap_chunk(content)
                records = _records_within(inflate(compression, data))
            else:
                records = iter([(kind, content)])
            for inner, body in records:
                message = _mcap_record(inner, body, schemas, channels)
                if message:
                    yield message


def _mcap_records(file: BinaryIO, left: int) -> Iterator[tuple[int, bytes]]:
    """Records of a file; a chunk that is cut off comes with what there is of it, after which it is over."""
    while left >= 9:
        kind, length = struct.unpack('<BQ', file.read(9))
        left -= 9
        if not 0 < kind < 0x80 or (length > left and kind != 0x06):
            return
        if kind in (0x03, 0x04, 0x05, 0x06):
            yield kind, file.read(min(length, left))
        else:  # indexes, attachments
            file.seek(length, 1)
        left -= length


def _records_within(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start + 9 <= len(chunk):
        kind, length = struct.unpack_from('<BQ', chunk, start)
        start += 9
        if start + length > len(chunk):
            return
        yield kind, chunk[start : start + length]
        start += length


def _mcap_chunk(content: bytes) -> tuple[str, bytes]:
    """Compression and data of a chunk record."""
    if len(content) < 32:
        return '', b''
    (length,) = struct.unpack_from('<I', content, 28)
    return content[32 : 32 + length].decode(errors='replace'), content[32 + length + 8 :]


def _mcap_record(
    kind: int, content: bytes, schemas: dict[int, str], channels: dict[int, tuple[str, str]]
) -> RawMessage | None:
    """The message of a message record; notes what schemas and channels say."""
    try:
        if kind == 0x03:
            (number,) = struct.unpack_from('<H', content)
            schemas[number] = _mcap_string(content, 2)
        elif kind == 0x04:
            number, schema = struct.unpack_from('<HH', content)
            channels[number] = _mcap_string(content, 4), schemas.get(schema, '')
        elif kind == 0x05:
            number, _, time_ns = struct.unpack_from('<HIQ', content)
            if number in channels:
                return RawMessage(*channels[number], time_ns, content[22:])
    except (struct.error, UnicodeDecodeError):
        pass  # a spoilt record is passed over, as is what depends on it
    return None


def _mcap_string(content: bytes, start: int) -> str:
    (length,) = struct.unpack_from('<I', content, start)
    return content[start + 4 : start + 4 + length].decode()


def _salvage_sqlite(path: Path) -> Iterator[RawMessage]:
    """SQLite: rows in the order they were written, passing over pages that are missing or spoilt."""
    with _open_sqlite(path) as database:
        try:
            # Otherwise a file shorter than its header says is not opened at all.
            database.execute('PRAGMA writable_schema = ON')
            topics = {row[0]: (row[1], row[2]) for row in database.execute('SELECT id, name, type FROM topics')}
        except sqlite3.Error:
            return
        last, step = 0, 1
        while step < 1 << 24:
            try:
                rows = database.execute(
                    'SELECT id, topic_id, timestamp, data FROM messages WHERE id >= ? ORDER BY id', (last + step,)
                )
                for row, topic, time_ns, data in rows:
                    last, step = row, 1
                    if topic in topics and isinstance(data, bytes):
                        yield RawMessage(*topics[topic], time_ns, data)
                return
            except (sqlite3.Error, OverflowError):
                step *= 2


@contextmanager
def _open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that leaves the file as it is."""
    uri = f'{path.absolute().as_uri()}?mode=ro'
    log = Path(f'{path}-wal')
    if not log.exists():
        with closing(sqlite3.connect(f'{uri}&immutable=1', uri=True)) as database:
            yield database
        return
    # A recorder that was killed leaves its last rows in a log beside the file, which `immutable` would pass over, and
    # which is read by an index that SQLite writes beside both.
    if os.access(path.parent, os.W_OK):
        with closing(sqlite3.connect(uri, uri=True)) as database:
            yield database
        return
    with tempfile.TemporaryDirectory(prefix='superpoint_ros_') as folder:
        for file in (path, log):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as database:
            yield database


def _salvage_bag1(path: Path) -> Iterator[RawMessage]:
    """ROS 1: records of a header, which is a list of fields, and data; chunks hold records, compressed."""
    connections: dict[int, tuple[str, str]] = {}
    with path.open('rb') as file:
        if file.readline(20) != b'#ROSBAG V2.0\n':
            return
        for header, data in _bag1_records(file, path.stat().st_size - file.tell()):
            if header.get('op') == b'\x05':
                chunk = inflate(header.get('compression', b'').decode(errors='replace'), data)
                records = _bag1_records_within(chunk)
            else:
                records = iter([(header, data)])
            for fields, body in records:
                message = _bag1_record(fields, body, connections)
                if message:
                    yield message


def _bag1_records(file: BinaryIO, left: int) -> Iterator[tuple[dict[str, bytes], bytes]]:
    """Records of a file; a chunk that is cut off comes with what there is of it."""
    while left >= 4:
        (length,) = struct.unpack('<I', file.read(4))
        left -= 4
        if length + 4 > left:
            return
        header = _bag1_fields(file.read(length))
        (size,) = struct.unpack('<I', file.read(4))
        left -= length + 4
        if 'op' not in header or (size > left and header['op'] != b'\x05'):
            return
        yield header, file.read(min(size, left))
        left -= size


def _bag1_records_within(chunk: bytes) -> Iterator[tuple[dict[str, bytes], bytes]]:
    start = 0
    while start + 4 <= len(chunk):
        (length,) = struct.unpack_from('<I', chunk, start)
        data = start + 4 + length + 4
        if data > len(chunk):
            return
        (size,) = struct.unpack_from('<I', chunk, data - 4)
        if data + size > len(chunk):
            return
        yield _bag1_fields(chunk[start + 4 : data - 4]), chunk[data : data + size]
        start = data + size


def _bag1_fields(header: bytes) -> dict[str, bytes]:
    fields = {}
    start = 0
    while start + 4 <= len(header):
        (length,) = struct.unpack_from('<I', header, start)
        name, equals, value = header[start + 4 : start + 4 + length].partition(b'=')
        if not equals:
            break
        fields[name.decode(errors='replace')] = value
        start += 4 + length
    return fields


def _bag1_record(fields: dict[str, bytes], data: bytes, connections: dict[int, tuple[str, str]]) -> RawMessage | None:
    """The message of a message record; notes what connections say."""
    try:
        if fields.get('op') == b'\x07':
            package, _, name = _bag1_fields(data)['type'].decode().rpartition('/')
            topic = fields['topic'].decode()
            connections[struct.unpack('<I', fields['conn'])[0]] = topic, f'{package}/msg/{name}'
        elif fields.get('op') == b'\x02':
            (number,) = struct.unpack('<I', fields['conn'])
            sec, nanosec = struct.unpack('<II', fields['time'])
            if number in connections:
                return RawMessage(*connections[number], sec * 1_000_000_000 + nanosec, data)
    except (KeyError, struct.error, UnicodeDecodeError):
        pass  # a spoilt record is passed over, as is what depends on it
    return None
