"""Bags of `features` and `camera_info`, as `ros2 bag record` or the demo writes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_ros.camera import Camera
from superpoint_ros.messages import FeatureCloud, read_features
from superpoint_ros.recordings import Bag, CutShortError, RecordingError, TopicSummary
from superpoint_ros.recordings.bags import is_bag

_CLOUD, _INFO = 'sensor_msgs/msg/PointCloud2', 'sensor_msgs/msg/CameraInfo'
_SAME_RAY = 1e-3  # a pixel of a lens of 1000 pixels


@dataclass(frozen=True)
class RecordedFeatures:
    """The features of one camera.

    Attributes:
        frames: by ascending stamps; those of the same stamp once.
        camera: of the picture that the keypoints lie in; None where no calibration was recorded.
    """

    frames: list[FeatureCloud]
    camera: Camera | None


def read_recorded(path: Path, topic: str = '', info_topic: str = '') -> RecordedFeatures:
    """Read a bag; of one that is cut off, what there is.

    Args:
        path: the bag.
        topic: of the features; '' takes the one whose name ends in `features`.
        info_topic: of the calibration; '' takes that beside the features, or the only one.

    Raises:
        RecordingError: it is no bag, holds no features, or several cameras' and none is named.
        CameraError: the calibration can't be used.
    """
    if not path.exists() or not is_bag(path):
        raise RecordingError(f'{path} is no bag: expected is one of `features`, as `ros2 bag record` writes it.')
    bag = Bag(path)
    topics = bag.topics()
    topic = topic or _features_topic(path, topics)
    info_topic = info_topic or _info_topic(topics, topic)
    frames: dict[int, FeatureCloud] = {}
    info = None
    for name, message in _messages(bag, {topic, info_topic}):
        if name == topic:
            cloud = read_features(message)
            frames.setdefault(cloud.stamp_ns, cloud)
        elif info is None:
            info = message
    if not frames:
        raise RecordingError(f'{path} holds no messages on {topic}.')
    ordered = [frames[stamp] for stamp in sorted(frames)]
    camera = Camera.from_info(info) if info is not None else None
    return RecordedFeatures(ordered, camera and _seen_through(camera, ordered))


def _messages(bag: Bag, topics: Collection[str]) -> Iterator[tuple[str, Any]]:
    with suppress(CutShortError):
        for record in bag.records(topics):
            yield record.topic, record.load()


def _features_topic(path: Path, topics: list[TopicSummary]) -> str:
    found = [t.name for t in topics if t.type == _CLOUD and t.name.endswith('features')]
    if len(found) != 1:
        held = ', '.join(found or [f'{t.name} ({t.type})' for t in topics]) or 'nothing'
        problem = 'several cameras: name the topic of one' if found else 'no topic that ends in features'
        raise RecordingError(f'{path} holds {problem}; it holds {held}.')
    return found[0]


def _info_topic(topics: list[TopicSummary], features: str) -> str:
    """The calibration in the features' namespace, or the only one; '' where neither is."""
    infos = [topic.name for topic in topics if topic.type == _INFO]
    beside = f'{features.rpartition("/")[0]}/camera_info'
    return beside if beside in infos else infos[0] if len(infos) == 1 else ''


def _seen_through(camera: Camera, frames: list[FeatureCloud]) -> Camera:
    """The camera itself, or the rectified one where the rays tell that the keypoints are in rectified pictures."""
    rays = np.concatenate([frame.rays for frame in frames])
    keypoints = np.concatenate([frame.keypoints for frame in frames])
    known = np.isfinite(rays).all(axis=1)
    off = [np.abs(c.rays(keypoints[known]) - rays[known]).max(axis=1) for c in (camera, camera.rectified)]
    raw, rectified = (np.nan_to_num(error, nan=np.inf) for error in off)
    return camera.rectified if (rectified < raw).sum() > (raw <= _SAME_RAY).sum() else camera
