"""What every kind of recording gives: its topics, and their messages one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
# Of recordings without times. Not 0, which tf2 takes for "the newest", and others for "no time".
FIRST_STAMP_NS = 1_000_000_000
_DEPTH = ('16UC1', '32FC1')  # encodings
_ENCODINGS = {  # (samples, their type) as OpenCV decodes -> ROS's name
    (1, 'uint8'): 'mono8',
    (3, 'uint8'): 'bgr8',
    (4, 'uint8'): 'bgra8',
    (1, 'uint16'): 'mono16',
    (3, 'uint16'): 'bgr16',
    (4, 'uint16'): 'bgra16',
    (1, 'float32'): '32FC1',
}


class RecordingError(ValueError):
    """A recording, or a message of one, that can't be read."""


class CutShortError(RecordingError):
    """A recording lacks or spoils some of its messages; all that could be read came before this was raised."""


@dataclass(frozen=True)
class RawImage:
    """The fields of `sensor_msgs/Image` but its header; `data` is uint8."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> RawImage:
        """A picture as OpenCV decodes it: [H, W] or [H, W, 3 or 4] uint8 or uint16, or [H, W] float32.

        Raises:
            RecordingError: it is of another type, for which ROS has no name that is read here.
        """
        height, width = pixels.shape[:2]
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        encoding = _ENCODINGS.get((samples, pixels.dtype.name))
        if encoding is None:
            raise RecordingError(f"A picture of {samples} x {pixels.dtype.name} a pixel can't be read.")
        data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
        return cls(height, width, encoding, 0, data.size // height, data)


@dataclass(frozen=True)
class EncodedImage:
    """The fields of `sensor_msgs/CompressedImage` but its header."""

    format: str
    data: bytes


@dataclass(frozen=True)
class Record:
    """One message as it lies in a recording.

    Attributes:
        topic: its topic.
        type: name of the message type, as ROS 2 writes it.
        time_ns: when it was recorded.
        load: reads the message, which has the fields of its type. Raises RecordingError where it is spoilt.
    """

    topic: str
    type: str
    time_ns: int
    load: Callable[[], Any]


@dataclass(frozen=True)
class TopicSummary:
    """What a recording holds of one topic.

    Attributes:
        recording: the recording.
        name: the topic; for a video or pictures the name of their file or folder.
        type: name of the message type, 'video' or 'pictures'.
        count: number of messages.
        rate_hz: messages a second, 0 for fewer than two.
        bytes: of all messages, not compressed; of whole bags estimated from some of them.
        first_ns, last_ns: when the first and the last message were recorded.
        damage: what is wrong with the recording; '' when nothing is known to be.
    """

    recording: Path
    name: str
    type: str
    count: int
    rate_hz: float
    bytes: int
    first_ns: int
    last_ns: int
    damage: str = ''

    @property
    def has_images(self) -> bool:
        """Whether the messages are images."""
        return self.type in (*IMAGE_TYPES, 'video', 'pictures')


class Source(Protocol):
    """A recording, which can be read again and again.

    Attributes:
        path: where it is.
        has_clock: whether its times are those of a clock, by which recordings can be compared.
    """

    path: Path
    has_clock: bool

    def files(self) -> list[Path]:
        """The files that it is made of, by which it is told from others."""
        ...

    def topics(self) -> list[TopicSummary]:
        """All topics, in the order of their names."""
        ...

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """The messages of some topics in the order they were recorded.

        Raises:
            CutShortError: at the end, when the recording is damaged.
        """
        ...


def rate_hz(count: int, first_ns: int, last_ns: int) -> float:
    """Messages a second."""
    return (count - 1) * 1e9 / (last_ns - first_ns) if last_ns > first_ns else 0.0


def busiest(source: Source, topics: Sequence[TopicSummary]) -> TopicSummary:
    """Of image topics of a recording the one with the most images that are not depth, or with the most if all are."""
    by_count = sorted(topics, key=lambda topic: (-topic.count, topic.name))
    return next((topic for topic in by_count if not _is_depth(source, topic.name)), by_count[0])


def _is_depth(source: Source, topic: str) -> bool:
    try:
        message = next(iter(source.records([topic]))).load()
    except (RecordingError, StopIteration):
        return False
    return 'compressedDepth' in getattr(message, 'format', '') or getattr(message, 'encoding', '') in _DEPTH


def calibration_topic(infos: Collection[str], camera: str, cameras: Collection[str]) -> str:
    """The `camera_info` that is a camera's by its name; '' where none is, or several are.

    Its namespace shares more levels with that of the camera's topic than those of the other infos do, one at least
    unless there are no other cameras; and no topic of another camera shares more with it.

    Args:
        infos: topics of calibrations.
        camera: the topic, one of `cameras`.
        cameras: topics of all cameras.
    """
    shared = {info: _shared_levels(info, camera) for info in infos}
    own = [info for info in infos if shared[info] == max(_shared_levels(info, other) for other in cameras)]
    best = max((shared[info] for info in own), default=0)
    nearest = [info for info in own if shared[info] == best]
    return nearest[0] if len(nearest) == 1 and (best or len(cameras) == 1) else ''


def _shared_levels(one: str, other: str) -> int:
    """How many levels the namespaces of two topics share from the left, and one more where they are the same."""
    a, b = (topic.removesuffix('/compressed').strip('/').split('/')[:-1] for topic in (one, other))
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))) + (a == b)
