"""Features, matches and tracks <-> ROS messages: one structured NumPy array is one PointCloud2.

Everything a back-end needs is in the fields of the clouds, so any language reads them with what each ROS
2 install has. Offsets are multiples of the field sizes; a C++ struct of the same order has the same layout.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point32
from sensor_msgs.msg import ChannelFloat32, Image, PointCloud, PointCloud2
from std_msgs.msg import Header

from superpoint_ros.clouds import MessageError as MessageError
from superpoint_ros.clouds import columns, from_cloud, to_cloud

if TYPE_CHECKING:  # a consumer of the clouds needs no torch
    from superpoint_ros.frontend import Frame
    from superpoint_ros.stereo import StereoMatches

DESCRIPTOR_TYPES = ('float32', 'int8')

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

_STEREO_MATCH = np.dtype(
    [
        *((name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'u_right', 'disparity', 'similarity')),
        *((name, '<u4') for name in ('left', 'right', 'id')),
    ],
    align=True,
)


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
    cloud['level'] = features.levels
    if descriptor_type == 'int8':
        cloud['descriptor'] = quantise(features.descriptors)
    else:
        cloud['descriptor'] = features.descriptors
    return to_cloud(cloud, header, is_dense=bool(np.isfinite(frame.rays).all()))


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
    return to_cloud(cloud, header, is_dense=True)


def encode_stereo_matches(matches: StereoMatches, left: Frame, right: Frame, header: Header) -> PointCloud2:
    """The `stereo_matches` message of two frames of the same time, under the header of the left image."""
    cloud = np.zeros(len(matches), _STEREO_MATCH)
    cloud['x'], cloud['y'], cloud['z'] = matches.points.T
    cloud['u'], cloud['v'] = left.features.keypoints[matches.left].T
    cloud['u_right'] = right.features.keypoints[matches.right, 0]
    cloud['disparity'] = matches.disparity
    cloud['similarity'] = matches.similarity
    cloud['left'], cloud['right'] = matches.left, matches.right
    cloud['id'] = left.track_ids[matches.left]
    return to_cloud(cloud, header, is_dense=bool(np.isfinite(matches.points).all()))


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
    cloud = from_cloud(message, _MATCH.names or ())
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
    cloud = from_cloud(message, _STEREO_MATCH.names or ())
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


def quantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] float32 -> [N, D] int8, each row scaled to a largest component of ±127."""
    largest = np.abs(descriptors).max(axis=1, keepdims=True, initial=1e-12)
    return np.rint(descriptors * (127 / largest)).astype(np.int8)


def dequantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] int8 -> [N, D] float32 of unit norm; of another type they are given back as they are."""
    if descriptors.dtype != np.int8:
        return descriptors
    values = descriptors.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _feature_dtype(dimension: int, descriptor_type: str) -> np.dtype:
    if descriptor_type not in DESCRIPTOR_TYPES:
        raise ValueError(f"Descriptor type '{descriptor_type}' is none of {', '.join(DESCRIPTOR_TYPES)}.")
    descriptor = ('descriptor', 'i1' if descriptor_type == 'int8' else '<f4', (dimension,))
    numbers = [(name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'score')]
    return np.dtype([*numbers, ('id', '<u4'), ('age', '<u2'), ('level', 'u1'), descriptor], align=True)
