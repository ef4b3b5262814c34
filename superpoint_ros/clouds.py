"""What the messages say, as NumPy arrays: PointCloud2s field by field. Needs no ROS.

Everything a back-end needs is in the fields of the clouds, so any language reads them with what each ROS
2 install has. Offsets are multiples of the field sizes; a C++ struct of the same order has the same layout.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

DATATYPES = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}
"""The constants INT8 to FLOAT64 of `sensor_msgs/PointField`, by NumPy's names."""
_NUMPY_TYPES = {datatype: np.dtype(f'<{name}') for name, datatype in DATATYPES.items()}

MATCH = np.dtype(
    [
        ('query', '<u4'),
        ('train', '<u4'),
        ('u', '<f4'),
        ('v', '<f4'),
        ('u_prev', '<f4'),
        ('v_prev', '<f4'),
        ('similarity', '<f4'),
        ('id', '<u4'),
        ('inlier', 'u1'),
        ('prev_sec', '<i4'),
        ('prev_nanosec', '<u4'),
    ],
    align=True,
)

STEREO_MATCH = np.dtype(
    [
        *((name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'u_right', 'disparity', 'similarity')),
        *((name, '<u4') for name in ('left', 'right', 'id')),
    ],
    align=True,
)


class MessageError(ValueError):
    """A cloud that does not hold what it should."""


@dataclass(frozen=True)
class FeatureCloud:
    """What a `features` message says of its N features; one row each, in the order of falling score.

    Attributes:
        stamp_ns: time of the image.
        keypoints: [N, 2] float32, pixels (x, y).
        scores: [N] float32.
        descriptors: [N, D] float32, unit norm; or int8, where they were read as they came.
        rays: [N, 3] float32, undistorted, z = 1; NaN without a calibration.
        track_ids: [N] uint32.
        track_ages: [N] uint16, frames tracked.
        levels: [N] uint8, in which of the image's sizes each was found: 0 is the image, and each is 0.71 of the one
            before, unless `levels_per_octave` is set. A keypoint covers `2**(level / 2)` times as much as one of
            level 0, and its position may be off by about as many times more pixels. All 0 where the message, of an
            older version, does not say.
    """

    stamp_ns: int
    keypoints: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    rays: np.ndarray
    track_ids: np.ndarray
    track_ages: np.ndarray
    levels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class MatchCloud:
    """What a `matches` message says of M matches between an image and the one before.

    Attributes:
        stamp_ns: time of the image.
        previous_stamp_ns: time of the image before; None when there are no matches.
        query, train: [M] uint32, row in this and in the previous `features`.
        keypoints, previous_keypoints: [M, 2] float32, pixels (x, y).
        similarity: [M] float32, see `matching.similarity_matrix`.
        track_ids: [M] uint32.
        inlier: [M] bool, whether the match agrees with the motion of the camera.
    """

    stamp_ns: int
    previous_stamp_ns: int | None
    query: np.ndarray
    train: np.ndarray
    keypoints: np.ndarray
    previous_keypoints: np.ndarray
    similarity: np.ndarray
    track_ids: np.ndarray
    inlier: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True)
class StereoMatchCloud:
    """What a `stereo_matches` message says of M matches between a left image and the right one of the same time.

    Attributes:
        stamp_ns: time of the left image.
        left, right: [M] uint32, row in `left/features` and in `right/features`.
        points: [M, 3] float32, metres in the rectified optical frame of the left camera; NaN: infinitely far.
        keypoints: [M, 2] float32, pixels (x, y) in the left image, as in `left/features`.
        right_x: [M] float32, pixels, x in the right image, as in `right/features`.
        disparity: [M] float32, rectified pixels, x on the left less x on the right.
        similarity: [M] float32, cosine of the descriptors' angle.
        track_ids: [M] uint32, of the left feature.
    """

    stamp_ns: int
    left: np.ndarray
    right: np.ndarray
    points: np.ndarray
    keypoints: np.ndarray
    right_x: np.ndarray
    disparity: np.ndarray
    similarity: np.ndarray
    track_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time`."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def serialized_stamp_ns(message: bytes) -> int:
    """Nanoseconds of a serialised message's stamp; whatever follows its header is not read."""
    order = '<' if message[1] & 1 else '>'  # 4 bytes say how the message is encoded
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', message, 4)
    return seconds * 1_000_000_000 + nanoseconds


def read_features(message: Any, *, dequantised: bool = True) -> FeatureCloud:
    """Arrays of a `features` message. They are views of the message where its types allow.

    dequantised: whether descriptors of int8 become float32; else they stay as they came.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    says_levels = any(field.name == 'level' for field in message.fields)
    names = 'x', 'y', 'z', 'u', 'v', 'score', 'id', 'age', 'descriptor'
    cloud = from_cloud(message, names + ('level',) * says_levels)
    descriptors = cloud['descriptor']
    if descriptors.ndim == 1:  # a single component
        descriptors = descriptors[:, None]
    if dequantised:
        descriptors = dequantise(descriptors)
    return FeatureCloud(
        stamp_ns=stamp_ns(message.header.stamp),
        keypoints=columns(cloud, 'u', 'v'),
        scores=cloud['score'],
        descriptors=descriptors,
        rays=columns(cloud, 'x', 'y', 'z'),
        track_ids=cloud['id'],
        track_ages=cloud['age'],
        levels=cloud['level'] if says_levels else np.zeros(len(cloud), np.uint8),
    )


def read_matches(message: Any) -> MatchCloud:
    """Arrays of a `matches` message. They are views of the message where its types allow.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    cloud = from_cloud(message, MATCH.names or ())
    previous = None
    if len(cloud):
        previous = int(cloud['prev_sec'][0]) * 1_000_000_000 + int(cloud['prev_nanosec'][0])
    return MatchCloud(
        stamp_ns=stamp_ns(message.header.stamp),
        previous_stamp_ns=previous,
        query=cloud['query'],
        train=cloud['train'],
        keypoints=columns(cloud, 'u', 'v'),
        previous_keypoints=columns(cloud, 'u_prev', 'v_prev'),
        similarity=cloud['similarity'],
        track_ids=cloud['id'],
        inlier=cloud['inlier'].astype(bool),
    )


def read_stereo_matches(message: Any) -> StereoMatchCloud:
    """Arrays of a `stereo_matches` message. They are views of the message where its types allow.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    cloud = from_cloud(message, STEREO_MATCH.names or ())
    return StereoMatchCloud(
        stamp_ns=stamp_ns(message.header.stamp),
        left=cloud['left'],
        right=cloud['right'],
        points=columns(cloud, 'x', 'y', 'z'),
        keypoints=columns(cloud, 'u', 'v'),
        right_x=cloud['u_right'],
        disparity=cloud['disparity'],
        similarity=cloud['similarity'],
        track_ids=cloud['id'],
    )


def dequantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] int8 -> [N, D] float32 of unit norm; of another type they are given back as they are."""
    if descriptors.dtype != np.int8:
        return descriptors
    values = descriptors.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def from_cloud(message: Any, names: Sequence[str]) -> np.ndarray:
    """[N] structured view of a cloud, with the named fields, wherever in a point they are.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    if message.is_bigendian:
        raise MessageError('The cloud is big-endian, which no supported machine writes.')
    fields = {field.name: field for field in message.fields}
    if missing := [name for name in names if name not in fields]:
        raise MessageError(f'The cloud has no field {", ".join(missing)}; it has {", ".join(fields) or "none"}.')
    points = message.width * message.height
    size = points * message.point_step
    if len(message.data) < size:
        raise MessageError(f'{points} points of {message.point_step} bytes are {size}, not {len(message.data)}.')
    layout: Any = {
        'names': list(names),
        'formats': [_format(fields[name]) for name in names],
        'offsets': [fields[name].offset for name in names],
    }
    needed = np.dtype(layout).itemsize
    if message.point_step < needed:
        raise MessageError(f'The fields take {needed} bytes, but the cloud says point_step {message.point_step}.')
    dtype = np.dtype(layout | {'itemsize': message.point_step})
    return np.frombuffer(message.data, dtype, points) if points else np.empty(0, dtype)


def _format(field: Any) -> Any:
    if field.datatype not in _NUMPY_TYPES:
        raise MessageError(f"Field '{field.name}' has the unknown datatype {field.datatype}.")
    dtype = _NUMPY_TYPES[field.datatype]
    return (dtype, (field.count,)) if field.count != 1 else dtype


def columns(cloud: np.ndarray, *names: str) -> np.ndarray:
    """[N, len(names)] of fields of one type; a view where they are evenly spaced, as in clouds made here."""
    return structured_to_unstructured(cloud[list(names)], copy=False)
