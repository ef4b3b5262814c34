"""Features, matches and tracks <-> ROS messages: one structured NumPy array is one PointCloud2.

Everything a back-end needs is in the fields of the two clouds, so any language reads them with what each ROS
2 install has. Offsets are multiples of the field sizes; a C++ struct of the same order has the same layout.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point32
from numpy.lib.recfunctions import structured_to_unstructured
from sensor_msgs.msg import ChannelFloat32, Image, PointCloud, PointCloud2, PointField
from std_msgs.msg import Header

if TYPE_CHECKING:  # a consumer of the clouds needs no torch
    from superpoint_ros.frontend import Frame

DESCRIPTOR_TYPES = ('float32', 'int8')

_DATATYPES = {
    'i1': PointField.INT8,
    'u1': PointField.UINT8,
    'i2': PointField.INT16,
    'u2': PointField.UINT16,
    'i4': PointField.INT32,
    'u4': PointField.UINT32,
    'f4': PointField.FLOAT32,
    'f8': PointField.FLOAT64,
}
_NUMPY_TYPES = {datatype: np.dtype(f'<{name}') for name, datatype in _DATATYPES.items()}

_MATCH = np.dtype(
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


class MessageError(ValueError):
    """A cloud that does not hold what it should."""


@dataclass(frozen=True)
class FeatureCloud:
    """What a `features` message says of its N features; one row each, in the order of falling score.

    Attributes:
        stamp_ns: time of the image.
        keypoints: [N, 2] float32, pixels (x, y).
        scores: [N] float32.
        descriptors: [N, D] float32, unit norm.
        rays: [N, 3] float32, undistorted, z = 1; NaN without a calibration.
        track_ids: [N] uint32.
        track_ages: [N] uint16, frames tracked.
    """

    stamp_ns: int
    keypoints: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    rays: np.ndarray
    track_ids: np.ndarray
    track_ages: np.ndarray

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
        similarity: [M] float32, cosine of the descriptors' angle.
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


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time`."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def encode_features(frame: Frame, header: Header, descriptor_type: str = 'float32') -> PointCloud2:
    """The `features` message of a frame.

    `int8` descriptors are each scaled so that their largest component is ±127 and rounded: their direction is
    what counts, and the reader normalises them again.
    """
    features = frame.features
    cloud = np.zeros(len(features), _feature_dtype(features.descriptors.shape[1], descriptor_type))
    cloud['x'], cloud['y'], cloud['z'] = frame.rays.T
    cloud['u'], cloud['v'] = features.keypoints.T
    cloud['score'] = features.scores
    cloud['id'] = frame.track_ids
    cloud['age'] = frame.track_ages
    if descriptor_type == 'int8':
        cloud['descriptor'] = quantise(features.descriptors)
    else:
        cloud['descriptor'] = features.descriptors
    return _to_cloud(cloud, header, is_dense=bool(np.isfinite(frame.rays).all()))


def encode_matches(frame: Frame, header: Header) -> PointCloud2:
    """The `matches` message of a frame; without points for the first frame of all."""
    matches = frame.matches
    cloud = np.zeros(len(matches.query), _MATCH)
    if frame.previous_stamp_ns is not None:
        cloud['query'], cloud['train'] = matches.query, matches.train
        cloud['u'], cloud['v'] = frame.features.keypoints[matches.query].T
        cloud['u_prev'], cloud['v_prev'] = frame.previous_keypoints[matches.train].T
        cloud['similarity'] = matches.similarity
        cloud['id'] = frame.track_ids[matches.query]
        cloud['inlier'] = matches.inlier
        cloud['prev_sec'], cloud['prev_nanosec'] = divmod(frame.previous_stamp_ns, 1_000_000_000)
    return _to_cloud(cloud, header, is_dense=True)


def encode_tracks(frame: Frame, header: Header) -> PointCloud:
    """The `tracks` message of a frame, as VINS-Mono's estimator reads it.

    The estimator takes the n-th observation of an id to be of the n-th message after its first. So ids are
    those of the frame's runs, whose messages have no gap, not those of its tracks. The first frame of a run,
    whose velocity is not known, is left out, as by VINS-Mono's own tracker. Velocities are those of the ray's
    x and y, in units of depth a second.
    """
    keep = np.flatnonzero(frame.run_ids)
    channels = {
        'id': frame.run_ids[keep],
        'u': frame.features.keypoints[keep, 0],
        'v': frame.features.keypoints[keep, 1],
        'velocity_x': frame.velocities[keep, 0],
        'velocity_y': frame.velocities[keep, 1],
    }
    return PointCloud(
        header=header,
        points=[Point32(x=x, y=y, z=z) for x, y, z in frame.rays[keep].tolist()],
        channels=[
            ChannelFloat32(name=name, values=values.astype(np.float32).tolist()) for name, values in channels.items()
        ],
    )


def encode_image(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Image message of [H, W] or [H, W, C], whose samples are as the encoding says."""
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        step=pixels.nbytes // height,
        data=array('B', pixels.tobytes()),
    )


def read_features(message: Any) -> FeatureCloud:
    """Arrays of a `features` message. They are views of the message where its types allow.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    cloud = _from_cloud(message, ('x', 'y', 'z', 'u', 'v', 'score', 'id', 'age', 'descriptor'))
    descriptors = cloud['descriptor']
    if descriptors.ndim == 1:  # a single component
        descriptors = descriptors[:, None]
    if descriptors.dtype == np.int8:
        descriptors = dequantise(descriptors)
    return FeatureCloud(
        stamp_ns=stamp_ns(message.header.stamp),
        keypoints=_columns(cloud, 'u', 'v'),
        scores=cloud['score'],
        descriptors=descriptors,
        rays=_columns(cloud, 'x', 'y', 'z'),
        track_ids=cloud['id'],
        track_ages=cloud['age'],
    )


def read_matches(message: Any) -> MatchCloud:
    """Arrays of a `matches` message. They are views of the message where its types allow.

    Raises:
        MessageError: the cloud lacks a field, is big-endian, or is shorter than it says.
    """
    cloud = _from_cloud(message, _MATCH.names or ())
    previous = None
    if len(cloud):
        previous = int(cloud['prev_sec'][0]) * 1_000_000_000 + int(cloud['prev_nanosec'][0])
    return MatchCloud(
        stamp_ns=stamp_ns(message.header.stamp),
        previous_stamp_ns=previous,
        query=cloud['query'],
        train=cloud['train'],
        keypoints=_columns(cloud, 'u', 'v'),
        previous_keypoints=_columns(cloud, 'u_prev', 'v_prev'),
        similarity=cloud['similarity'],
        track_ids=cloud['id'],
        inlier=cloud['inlier'].astype(bool),
    )


def quantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] float32 -> [N, D] int8, each row scaled to a largest component of ±127."""
    largest = np.abs(descriptors).max(axis=1, keepdims=True, initial=1e-12)
    return np.rint(descriptors * (127 / largest)).astype(np.int8)


def dequantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] int8 -> [N, D] float32 of unit norm."""
    values = descriptors.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _feature_dtype(dimension: int, descriptor_type: str) -> np.dtype:
    if descriptor_type not in DESCRIPTOR_TYPES:
        raise ValueError(f"Descriptor type '{descriptor_type}' is none of {', '.join(DESCRIPTOR_TYPES)}.")
    descriptor = ('descriptor', 'i1' if descriptor_type == 'int8' else '<f4', (dimension,))
    numbers = [(name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'score')]
    return np.dtype([*numbers, ('id', '<u4'), ('age', '<u2'), descriptor], align=True)


def _to_cloud(cloud: np.ndarray, header: Header, is_dense: bool) -> PointCloud2:
    fields = []
    for name, (dtype, offset) in _fields(cloud.dtype):
        count = int(np.prod(dtype.shape, dtype=int))
        fields.append(PointField(name=name, offset=offset, datatype=_DATATYPES[dtype.base.str[1:]], count=count))
    # rclpy copies an array('B') as a block, but looks at each byte of anything else.
    data = array('B')
    data.frombytes(cloud.view(np.uint8).data)
    return PointCloud2(
        header=header,
        height=1,
        width=len(cloud),
        fields=fields,
        is_bigendian=False,
        point_step=cloud.itemsize,
        row_step=cloud.nbytes,
        data=data,
        is_dense=is_dense,
    )


def _fields(dtype: np.dtype) -> list[tuple[str, tuple[np.dtype, int]]]:
    fields: Any = dtype.fields
    return [(name, fields[name][:2]) for name in dtype.names or ()]


def _from_cloud(message: Any, names: Sequence[str]) -> np.ndarray:
    """[N] structured view of a cloud, with at least the named fields, wherever in a point they are."""
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


def _columns(cloud: np.ndarray, *names: str) -> np.ndarray:
    """[N, len(names)] of fields of one type; a view where they are evenly spaced, as in clouds made here."""
    return structured_to_unstructured(cloud[list(names)], copy=False)
