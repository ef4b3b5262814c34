"""Recordings written for tests: what a camera sees that moves past a wall, in bags of all kinds. Needs no ROS."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

START_NS, PERIOD_NS = 1_700_000_000_000_000_000, 50_000_000
STORAGES = ('mcap', 'sqlite3', 'ros1')
PACKINGS = {
    'mcap': ('', 'message', 'file', 'storage'),
    'sqlite3': ('', 'message', 'file'),
    'ros1': ('', 'bz2', 'lz4'),
}


def wall(height: int = 120, width: int = 2400, seed: int = 0) -> np.ndarray:
    """[H, W] uint8 with blocks and lines of many sizes."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width), 90, np.uint8)
    for _ in range(width):
        x, y = int(rng.integers(-20, width)), int(rng.integers(-20, height))
        corner = x + int(rng.integers(3, 40)), y + int(rng.integers(3, 40))
        cv2.rectangle(picture, (x, y), corner, int(rng.integers(20, 236)), -1 if rng.random() < 0.7 else 1)
    return picture


def drive(count: int, step: int = 8, height: int = 120, width: int = 160, seed: int = 0) -> list[np.ndarray]:
    """Pictures of a camera that moves so many pixels each along a wall."""
    panorama = wall(height, width + step * count, seed)
    return [panorama[:, index * step : index * step + width].copy() for index in range(count)]


def write_bag(
    path: Path,
    cameras: Mapping[str, Sequence[np.ndarray]],
    storage: str = 'mcap',
    packing: str = '',
    jpeg: bool = False,
    period_ns: int = PERIOD_NS,
    start_ns: int = START_NS,
) -> Path:
    """Write grey pictures, one of each camera at a time, and one message on `/words`; returns the bag.

    cameras: pictures by topic; uint16 ones are depth.
    packing: of `PACKINGS`, how the bag is compressed.
    """
    is_ros1 = storage == 'ros1'
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_JAZZY)
    serialize = store.serialize_ros1 if is_ros1 else store.serialize_cdr
    kind = 'sensor_msgs/msg/CompressedImage' if jpeg else 'sensor_msgs/msg/Image'
    writer = _writer(path, storage, packing)

    def message(index: int, picture: np.ndarray) -> object:
        stamp = start_ns + index * period_ns
        time = store.types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
        header = store.types['std_msgs/msg/Header'](*([index] if is_ros1 else []), time, 'lens')
        if jpeg:
            return store.types[kind](header, 'jpeg', cv2.imencode('.jpg', picture)[1].ravel())
        height, width = picture.shape
        encoding = {1: 'mono8', 2: '16UC1'}[picture.itemsize]
        data = picture.reshape(-1).view(np.uint8)
        return store.types[kind](header, height, width, encoding, 0, width * picture.itemsize, data)

    with writer:
        topics = {name: writer.add_connection(name, kind, typestore=store) for name in cameras}
        words = writer.add_connection('/words', 'std_msgs/msg/String', typestore=store)
        text = store.types['std_msgs/msg/String']('hello')
        writer.write(words, start_ns, serialize(text, 'std_msgs/msg/String'))
        for index in range(max(map(len, cameras.values()))):
            for name, pictures in cameras.items():
                if index < len(pictures):
                    data = serialize(message(index, pictures[index]), kind)
                    writer.write(topics[name], start_ns + index * period_ns, data)
    return path


def storage_file(bag: Path) -> Path:
    """The one file of a bag that holds its messages."""
    return bag if bag.is_file() else next(file for file in bag.iterdir() if file.suffix != '.yaml')


def _writer(path: Path, storage: str, packing: str) -> Writer | Writer1:
    if storage == 'ros1':
        writer1 = Writer1(path)
        if packing:
            writer1.set_compression(Writer1.CompressionFormat[packing.upper()])
        return writer1
    plugin = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if packing:
        writer.set_compression(CompressionMode[packing.upper()], CompressionFormat.ZSTD)
    return writer
