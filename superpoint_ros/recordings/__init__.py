"""What cameras recorded, as messages in the order they were taken: bags of ROS 2 and ROS 1, videos, pictures.

Nothing of ROS is imported: bags are read with rosbags, and the messages have the fields of `sensor_msgs`.
"""

from __future__ import annotations

from pathlib import Path

from superpoint_ros.recordings.bags import Bag, is_bag
from superpoint_ros.recordings.pictures import Pictures
from superpoint_ros.recordings.source import (
    IMAGE_TYPES,
    CutShortError,
    EncodedImage,
    RawImage,
    Record,
    RecordingError,
    Source,
    TopicSummary,
    busiest,
    calibration_topic,
)
from superpoint_ros.recordings.videos import Video

__all__ = [
    'IMAGE_TYPES',
    'Bag',
    'CutShortError',
    'EncodedImage',
    'Pictures',
    'RawImage',
    'Record',
    'RecordingError',
    'Source',
    'TopicSummary',
    'Video',
    'busiest',
    'calibration_topic',
    'open_source',
]


def open_source(path: Path, fps: float = 30.0) -> Source:
    """Open a rosbag2 (folder, .mcap or .db3), a ROS 1 bag, a folder of pictures, or a video.

    Args:
        path: the recording.
        fps: rate of pictures and videos that do not say it, in images a second.

    Raises:
        RecordingError: it is none of these, or nothing of it can be read.
    """
    if not path.exists():
        raise RecordingError(f'There is no {path}.')
    if is_bag(path):
        return Bag(path)
    return Pictures(path, fps) if path.is_dir() else Video(path, fps)
