"""What every kind of recording gives: its topics, and their messages one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
# Of recordings without times. Not 0, which tf2 takes for "the newest", and others for "no time".
FIRST_STAMP_NS = 1_000_000_000
_ENCODINGS = {  # (samples, bytes a sample) as OpenCV decodes -> ROS's name
    (1, 1): 'mono8',
    (3, 1): 'bgr8',
    (4, 1): 'bgra8',
    (1, 2): 'mono16',
    (3, 2): 'bgr16',
    (4, 2): 'bgra16',
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
        """A picture as OpenCV decodes it: [H, W] or [H, W, 3 or 4] uint8 or uint16."""
        height, width = pixels.shape[:2]
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
        return cls(height, width, _ENCODINGS[samples, pixels.itemsize], 0, data.size // height, data)


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
