"""Recorded cameras of all kinds -> one sequence of image messages, in the order they were taken."""

from __future__ import annotations

import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from superpoint_ros.messages import encode_image
from superpoint_ros.nodes.calibration_files import read_camera_info

_PICTURES = {'.jpg': 'jpeg', '.jpeg': 'jpeg', '.png': 'png', '.bmp': 'bmp', '.tif': 'tiff', '.tiff': 'tiff'}
# Of recordings without times. Not 0, which tf2 takes for "the newest", and others for "no time".
_FIRST_STAMP_NS = 1_000_000_000
_MISCOUNTED = 0.01  # share of its frames, plus one, by which a container's count, often an estimate, may be off
_ENCODINGS = {  # (samples, bytes a sample) as OpenCV decodes -> ROS's name
    (1, 1): 'mono8',
    (3, 1): 'bgr8',
    (4, 1): 'bgra8',
    (1, 2): 'mono16',
    (3, 2): 'bgr16',
    (4, 2): 'bgra16',
}


class RecordingError(ValueError):
    """A recording that can't be played."""


class CutShortError(RecordingError):
    """A recording is damaged from here on; what came before it is sound."""


@dataclass(frozen=True)
class Shot:
    """One recorded image, its time in nanoseconds, and the calibration that belongs to it, if any."""

    stamp_ns: int
    image: Image | CompressedImage
    info: CameraInfo | None


class Recording(Protocol):
    """Can be iterated again and again; raises CutShortError where a damaged recording stops."""

    def __iter__(self) -> Iterator[Shot]: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """What to read of a recording, and what to assume that it does not say.

    Attributes:
        topic: image topic of a bag; empty takes the one with the most images.
        camera_info_topic: calibration topic of a bag; empty takes the one named most like the image topic.
        camera_info: calibration file that stands in for a recorded calibration.
        frame_id: frame of pictures and videos, which have none.
        fps: rate of pictures that have no times.
    """

    topic: str = ''
    camera_info_topic: str = ''
    camera_info: Path | None = None
    frame_id: str = 'camera'
    fps: float = 30.0


def open_recording(path: Path, options: Options) -> Recording:
    """Open a rosbag2 (folder, .mcap or .db3), a ROS 1 bag, a folder of pictures, or a video.

    Raises:
        RecordingError: it is none of these, or holds no images.
        CalibrationFileError: the calibration file can't be read.
    """
    from superpoint_ros.nodes.bags import Bag, is_bag

    if not path.exists():
        raise RecordingError(f'There is no {path}.')
    if is_bag(path):
        return Bag(path, options)
    return Pictures(path, options) if path.is_dir() else Video(path, options)


def time_of(stamp_ns: int) -> Time:
    """A `builtin_interfaces/Time` of nanoseconds."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def to_image(pixels: np.ndarray, header: Header) -> Image:
    """Image message of a picture as OpenCV decodes it: [H, W] or [H, W, 3 or 4] uint8 or uint16."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    return encode_image(pixels, _ENCODINGS[samples, pixels.itemsize], header)


def decompress(message: CompressedImage) -> Image:
    """Image message of a compressed one.

    Raises:
        RecordingError: OpenCV can't decode it.
    """
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None:
        raise RecordingError(f"An image of format '{message.format}' and {data.size} bytes can't be decoded.")
    return to_image(pixels, message.header)


class Video:
    """A video file. Its first frame is stamped 1 s."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._frame_id = options.frame_id
        self._info = read_camera_info(options.camera_info) if options.camera_info else None
        video = cv2.VideoCapture(str(path))
        self._fps = video.get(cv2.CAP_PROP_FPS) or options.fps
        self._frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not video.isOpened() or not video.read()[0]:
            raise RecordingError(f'{path} is no bag, no folder of pictures, and no video that OpenCV can read.')

    def __str__(self) -> str:
        return f'the video {self._path}'

    def __iter__(self) -> Iterator[Shot]:
        video = cv2.VideoCapture(str(self._path))
        index = 0
        while True:
            read, pixels = video.read()
            if not read:
                break
            stamp_ns = _FIRST_STAMP_NS + round(index * 1e9 / self._fps)
            header = Header(stamp=time_of(stamp_ns), frame_id=self._frame_id)
            yield Shot(stamp_ns, to_image(pixels, header), self._info)
            index += 1
        if index < self._frames * (1 - _MISCOUNTED) - 1:
            raise CutShortError(f'{self} ends after {index} of {self._frames} frames.')


class Pictures:
    """A folder of pictures, or a folder with them in `frames.tar`.

    Times come from `timestamps.txt` (or TUM's `rgb.txt`), else from file names that are nanoseconds (as
    EuRoC's), else from the given rate, with 1 s for the first. A file `intrinsics.yaml` beside the pictures is
    their calibration.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._frame_id = options.frame_id
        self._archive = path / 'frames.tar'
        names = self._names()
        if not names:
            raise RecordingError(f'{path} is no bag and holds no pictures.')
        self._times = _listed_times(path, names) or _times_of_names(names, options.fps)
        intrinsics = options.camera_info or path / 'intrinsics.yaml'
        self._info = read_camera_info(intrinsics) if options.camera_info or intrinsics.exists() else None

    def __str__(self) -> str:
        return f'the {len(self._times)} pictures in {self._path}'

    def __iter__(self) -> Iterator[Shot]:
        archive = tarfile.open(self._archive) if self._archive.exists() else None  # noqa: SIM115
        try:
            for name, stamp_ns in self._times.items():
                data = self._read(name, archive)
                header = Header(stamp=time_of(stamp_ns), frame_id=self._frame_id)
                image = CompressedImage(header=header, format=_PICTURES[Path(name).suffix.lower()])
                image.data = array('B', data)
                yield Shot(stamp_ns, image, self._info)
        finally:
            if archive:
                archive.close()

    def _names(self) -> list[str]:
        if self._archive.exists():
            with tarfile.open(self._archive) as archive:
                names = archive.getnames()
        else:
            names = [path.name for path in self._path.iterdir()]
        return sorted((name for name in names if Path(name).suffix.lower() in _PICTURES), key=_natural)

    def _read(self, name: str, archive: tarfile.TarFile | None) -> bytes:
        if archive is None:
            return (self._path / name).read_bytes()
        member = archive.extractfile(name)
        return member.read() if member else b''


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame2 comes before frame10."""
    return [(int(part), '') if part.isdigit() else (-1, part) for part in re.split(r'(\d+)', name)]


def _times_of_names(names: list[str], fps: float) -> dict[str, int]:
    stems = [Path(name).stem for name in names]
    if all(stem.isdigit() and len(stem) >= 16 for stem in stems):  # nanoseconds since 1970
        return {name: int(stem) for name, stem in zip(names, stems, strict=True)}
    return {name: _FIRST_STAMP_NS + round(index * 1e9 / fps) for index, name in enumerate(names)}


def _listed_times(folder: Path, names: list[str]) -> dict[str, int]:
    """Times of a list's files, which may be a part of the folder's; empty without a list.

    The list is a table whose `#` line names the columns: `timestamp_ns` or `timestamp_s` and a file; without
    such a line, a time in seconds and a file.
    """
    for path in (folder / 'timestamps.txt', folder / 'rgb.txt'):
        if not path.exists():
            continue
        lines = path.read_text().splitlines()
        heads = [line[1:].split() for line in lines if line.startswith('#') and 'timestamp' in line]
        columns = heads[-1] if heads else ['timestamp']
        nanoseconds = 'timestamp_ns' in columns
        column = next(index for index, name in enumerate(columns) if name.startswith('timestamp'))
        if nanoseconds:
            column = columns.index('timestamp_ns')
        times = {}
        for row in (line.split() for line in lines if line and not line.startswith('#')):
            name = next((cell for cell in row if cell in names), None)
            if name is not None:
                times[name] = int(row[column]) if nanoseconds else _nanoseconds(row[column])
        return times
    return {}


def _nanoseconds(seconds: str) -> int:
    """Nanoseconds of decimal seconds, exactly: float64 can't hold them since 1970."""
    whole, _, fraction = seconds.partition('.')
    return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, '0'))
