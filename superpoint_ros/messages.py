"""Features, matches and tracks -> ROS messages: one structured NumPy array is one PointCloud2. See `clouds`, too."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point32
from sensor_msgs.msg import ChannelFloat32, Image, PointCloud, PointCloud2, PointField
from std_msgs.msg import Header

from superpoint_ros.clouds import DATATYPES, MATCH, STEREO_MATCH
from superpoint_ros.clouds import FeatureCloud as FeatureCloud
from superpoint_ros.clouds import MatchCloud as MatchCloud
from superpoint_ros.clouds import MessageError as MessageError
from superpoint_ros.clouds import StereoMatchCloud as StereoMatchCloud
from superpoint_ros.clouds import dequantise as dequantise
from superpoint_ros.clouds import read_features as read_features
from superpoint_ros.clouds import read_matches as read_matches
from superpoint_ros.clouds import read_stereo_matches as read_stereo_matches
from superpoint_ros.clouds import serialized_stamp_ns as serialized_stamp_ns
from superpoint_ros.clouds import stamp_ns as stamp_ns

if TYPE_CHECKING:
    from superpoint_ros.frontend import Frame
    from superpoint_ros.stereo import StereoMatches

DESCRIPTOR_TYPES = ('float32', 'int8')


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
    return _to_cloud(cloud, header, is_dense=bool(np.isfinite(frame.rays).all()))


def encode_matches(frame: Frame, header: Header) -> PointCloud2:
    """The `matches` message of a frame; without points for the first frame of all."""
    matches = frame.matches
    cloud = np.zeros(len(matches.query), MATCH)
    if frame.previous_stamp_ns is not None:
        cloud['query'], cloud['train'] = matches.query, matches.train
        cloud['u'], cloud['v'] = frame.features.keypoints[matches.query].T
        cloud['u_prev'], cloud['v_prev'] = frame.previous_keypoints[matches.train].T
        cloud['similarity'] = matches.similarity
        cloud['id'] = frame.track_ids[matches.query]
        cloud['inlier'] = matches.inlier
        cloud['prev_sec'], cloud['prev_nanosec'] = divmod(frame.previous_stamp_ns, 1_000_000_000)
    return _to_cloud(cloud, header, is_dense=True)


def encode_stereo_matches(matches: StereoMatches, left: Frame, right: Frame, header: Header) -> PointCloud2:
    """The `stereo_matches` message of two frames of the same time, under the header of the left image."""
    cloud = np.zeros(len(matches), STEREO_MATCH)
    cloud['x'], cloud['y'], cloud['z'] = matches.points.T
    cloud['u'], cloud['v'] = left.features.keypoints[matches.left].T
    cloud['u_right'] = right.features.keypoints[matches.right, 0]
    cloud['disparity'] = matches.disparity
    cloud['similarity'] = matches.similarity
    cloud['left'], cloud['right'] = matches.left, matches.right
    cloud['id'] = left.track_ids[matches.left]
    return _to_cloud(cloud, header, is_dense=bool(np.isfinite(matches.points).all()))


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


def quantise(descriptors: np.ndarray) -> np.ndarray:
    """[N, D] float32 -> [N, D] int8, each row scaled to a largest component of ±127."""
    largest = np.abs(descriptors).max(axis=1, keepdims=True, initial=1e-12)
    return np.rint(descriptors * (127 / largest)).astype(np.int8)


def _feature_dtype(dimension: int, descriptor_type: str) -> np.dtype:
    if descriptor_type not in DESCRIPTOR_TYPES:
        raise ValueError(f"Descriptor type '{descriptor_type}' is none of {', '.join(DESCRIPTOR_TYPES)}.")
    descriptor = ('descriptor', 'i1' if descriptor_type == 'int8' else '<f4', (dimension,))
    numbers = [(name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'score')]
    return np.dtype([*numbers, ('id', '<u4'), ('age', '<u2'), ('level', 'u1'), descriptor], align=True)


def _to_cloud(cloud: np.ndarray, header: Header, is_dense: bool) -> PointCloud2:
    """The cloud of [N] structured, one point a row. is_dense: whether x, y and z are finite in all."""
    fields = []
    for name, (dtype, offset) in _fields(cloud.dtype):
        count = int(np.prod(dtype.shape, dtype=int))
        fields.append(PointField(name=name, offset=offset, datatype=DATATYPES[dtype.base.str[1:]], count=count))
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
