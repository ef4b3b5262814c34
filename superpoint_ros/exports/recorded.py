"""Bags of `features` and `camera_info`, as `ros2 bag record` or the demo writes them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_ros.camera import Camera
from superpoint_ros.clouds import FeatureCloud, read_features, stamp_ns
from superpoint_ros.recordings import Bag, CutShortError, RecordingError, TopicSummary, calibration_topic
from superpoint_ros.recordings.bags import is_bag

_CLOUD, _INFO = 'sensor_msgs/msg/PointCloud2', 'sensor_msgs/msg/CameraInfo'
_SAME_RAY = 1e-3  # a pixel of a lens of 1000 pixels
_SAMPLE = 50  # frames, at most, that tell whether pictures were rectified


@dataclass(frozen=True)
class RecordedFeatures:
    """The features of one camera.

    Attributes:
        frames: by ascending stamps; those of the same stamp once. Descriptors are as they were recorded, of int8 or
            float32: see `clouds.dequantise`.
        camera: of the picture that the keypoints lie in; None where no calibration was recorded.
    """

    frames: list[FeatureCloud]
    camera: Camera | None


def read_recorded(
    path: Path, topic: str = '', info_topic: str = '', every: int = 1, *, calibrated: bool = True
) -> RecordedFeatures:
    """Read a bag; of one that is damaged, what there is.

    Args:
        path: the bag.
        topic: of the features; '' takes the one whose name ends in `features`.
        info_topic: of the calibration; '' takes the one that is the features' by its name.
        every: take each n-th frame.
        calibrated: whether the calibration is wanted.

    Raises:
        RecordingError: it is no bag, holds no features, several cameras' and none is named, or descriptors of several
            lengths.
        CameraError: the calibration can't be used.
    """
    if not path.exists() or not is_bag(path):
        raise RecordingError(f'{path} is no bag: expected is one of `features`, as `ros2 bag record` writes it.')
    bag = Bag(path)
    topics = bag.topics()
    found = [t.name for t in topics if t.type == _CLOUD and t.name.endswith('features')]
    topic = topic or _only(found, path, topics)
    infos = [t.name for t in topics if t.type == _INFO]
    info_topic = info_topic or calibration_topic(infos, topic, {topic, *found})
    frames: list[FeatureCloud] = []
    stamps: set[int] = set()
    info = None
    for name, message in _messages(bag, {topic, info_topic}):
        if name != topic:
            info = message if info is None and any(message.k) else info
        elif (stamp := stamp_ns(message.header.stamp)) not in stamps:
            if len(stamps) % every == 0:
                frames.append(read_features(message, dequantised=False))
            stamps.add(stamp)
    if not frames:
        others = ', '.join(name for name in found if name != topic)
        raise RecordingError(
            f'{path} holds no messages on {topic}{f"; others of features are {others}" * bool(others)}.'
        )
    lengths = sorted({frame.descriptors.shape[1] for frame in frames})
    if len(lengths) > 1:
        raise RecordingError(
            f'{path} holds descriptors of {" and ".join(map(str, lengths))} values, which do not compare: the weights '
            'were changed while it was recorded. Record those of each by themselves.'
        )
    frames.sort(key=lambda frame: frame.stamp_ns)
    camera = Camera.from_info(info) if calibrated and info is not None else None
    return RecordedFeatures(frames, camera and _seen_through(camera, frames))


def _messages(bag: Bag, topics: Collection[str]) -> Iterator[tuple[str, Any]]:
    with suppress(CutShortError):
        for record in bag.records(topics):
            try:
                message = record.load()
            except RecordingError as error:
                warnings.warn(f'{error}: it is left out', stacklevel=2)
                continue
            yield record.topic, message


def _only(found: list[str], path: Path, topics: list[TopicSummary]) -> str:
    """The only topic of features."""
    if len(found) != 1:
        held = ', '.join(found or [f'{t.name} ({t.type})' for t in topics]) or 'nothing'
        problem = 'several cameras: name the topic of one' if found else 'no topic that ends in features'
        raise RecordingError(f'{path} holds {problem}; it holds {held}.')
    return found[0]


def _seen_through(camera: Camera, frames: list[FeatureCloud]) -> Camera:
    """The camera itself, or the rectified one where the rays tell that the keypoints are in rectified pictures."""
    sample = frames[:: -(-len(frames) // _SAMPLE)]
    rays = np.concatenate([frame.rays for frame in sample])
    keypoints = np.concatenate([frame.keypoints for frame in sample])
    known = np.isfinite(rays).all(axis=1)
    if not known.any():
        warnings.warn(
            f'No feature has a ray: the node did not use this calibration of {camera.width} x {camera.height} pixels. '
            'Is it of another size or camera?',
            stacklevel=3,
        )
    off = [np.abs(c.rays(keypoints[known]) - rays[known]).max(axis=1) for c in (camera, camera.rectified)]
    raw, rectified = (np.nan_to_num(error, nan=np.inf) for error in off)
    if known.any() and (np.minimum(raw, rectified) <= _SAME_RAY).mean() < 0.5:
        warnings.warn(
            f'The rays of the features are of another calibration than the recorded one of {camera.width} x '
            f'{camera.height} pixels, which is what counts here: name the topic of theirs, or record it.',
            stacklevel=3,
        )
    return camera.rectified if (rectified < raw).sum() > (raw <= _SAME_RAY).sum() else camera
