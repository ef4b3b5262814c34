"""Clouds are written, read back, and read with plain struct as a program in another language would."""

import struct
from array import array
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and the common interfaces')

from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from superpoint_ros.clouds import DATATYPES, MessageError, serialized_stamp_ns
from superpoint_ros.features import Features
from superpoint_ros.messages import (
    encode_features,
    encode_matches,
    encode_stereo_matches,
    encode_tracks,
    read_features,
    read_matches,
    read_stereo_matches,
)
from superpoint_ros.stereo import StereoMatches

HEADER = Header(frame_id='camera', stamp=Time(sec=12, nanosec=345))
SIZES = {PointField.INT8: 1, PointField.UINT8: 1, PointField.UINT16: 2}
STAMP_NS = 12_000_000_345


def make_frame(count=5, dimension=8, matched=3, seed=0, calibrated=True, previous_stamp_ns=11_999_999_999):
    """What `Frontend.process` returns, of random numbers."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, dimension)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    rays = np.ones((count, 3), np.float32)
    rays[:, :2] = rng.normal(size=(count, 2)) if calibrated else np.nan
    rays[:, 2] = 1 if calibrated else np.nan
    return SimpleNamespace(
        features=Features(
            keypoints=rng.uniform(0, 640, (count, 2)).astype(np.float32),
            scores=np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1],
            descriptors=descriptors,
            levels=rng.integers(0, 6, count, dtype=np.uint8),
        ),
        rays=rays,
        track_ids=rng.integers(1, 2**32, count, dtype=np.uint32),
        track_ages=rng.integers(1, 60_000, count, dtype=np.uint16),
        run_ids=rng.integers(1, 2**24, count, dtype=np.uint32) * calibrated,
        velocities=rng.normal(size=(count, 2)).astype(np.float32),
        matches=SimpleNamespace(
            query=rng.permutation(count)[:matched].astype(np.int32),
            train=rng.permutation(count + 2)[:matched].astype(np.int32),
            similarity=rng.uniform(-1, 1, matched).astype(np.float32),
            inlier=rng.uniform(size=matched) > 0.5,
        ),
        previous_stamp_ns=previous_stamp_ns,
        previous_keypoints=rng.uniform(0, 640, (count + 2, 2)).astype(np.float32),
    )


def with_fields(message: PointCloud2, fields: list[PointField], **changes) -> PointCloud2:
    parts = {name: getattr(message, name) for name in ('header', 'height', 'width', 'point_step', 'row_step', 'data')}
    return PointCloud2(**(parts | {'fields': fields} | changes))


def test_types_have_the_numbers_of_point_field():
    kinds = {'i': 'INT', 'u': 'UINT', 'f': 'FLOAT'}
    expected = {name: getattr(PointField, f'{kinds[name[0]]}{8 * int(name[1])}') for name in DATATYPES}
    assert expected == DATATYPES
    assert len(DATATYPES) == 8


def test_fields_lie_where_a_struct_of_c_has_them():
    """Each at a multiple of its size, so that a program may read them without copying."""
    frame = make_frame(dimension=64)
    for cloud in (
        encode_features(frame, HEADER),
        encode_features(frame, HEADER, 'int8'),
        encode_matches(frame, HEADER),
    ):
        sizes = {number: int(name[1]) for name, number in DATATYPES.items()}
        assert all(field.offset % sizes[field.datatype] == 0 for field in cloud.fields)
        assert cloud.point_step % max(sizes[field.datatype] for field in cloud.fields) == 0


@settings(deadline=None)
@given(count=st.integers(0, 40), dimension=st.integers(1, 20), calibrated=st.booleans(), seed=st.integers(0, 99))
def test_features_come_back_as_they_were(count, dimension, calibrated, seed):
    frame = make_frame(count, dimension, matched=0, seed=seed, calibrated=calibrated)
    message = encode_features(frame, HEADER)
    message = deserialize_message(serialize_message(message), PointCloud2)
    cloud = read_features(message)
    assert message.header == HEADER
    assert message.is_dense == (calibrated or count == 0)
    assert cloud.stamp_ns == STAMP_NS
    assert len(cloud) == count
    assert cloud.descriptors.shape == (count, dimension)
    np.testing.assert_array_equal(cloud.keypoints, frame.features.keypoints)
    np.testing.assert_array_equal(cloud.scores, frame.features.scores)
    np.testing.assert_array_equal(cloud.descriptors, frame.features.descriptors)
    np.testing.assert_array_equal(cloud.rays, frame.rays)
    np.testing.assert_array_equal(cloud.track_ids, frame.track_ids)
    np.testing.assert_array_equal(cloud.track_ages, frame.track_ages)
    np.testing.assert_array_equal(cloud.levels, frame.features.levels)


def test_reading_copies_nothing():
    message = encode_features(make_frame(), HEADER)
    cloud = read_features(message)
    message.data[:] = array('B', bytes(len(message.data)))
    for values in (
        cloud.keypoints,
        cloud.scores,
        cloud.descriptors,
        cloud.rays,
        cloud.track_ids,
        cloud.track_ages,
        cloud.levels,
    ):
        assert not values.any()


@settings(deadline=None)
@given(dimension=st.integers(16, 256), seed=st.integers(0, 99))
def test_int8_descriptors_keep_their_direction(dimension, seed):
    frame = make_frame(6, dimension, seed=seed)
    descriptors = read_features(encode_features(frame, HEADER, 'int8')).descriptors
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    # Rounding moves each component by at most half a step of the largest one / 127.
    cosine = (descriptors * frame.features.descriptors).sum(axis=1)
    assert (cosine > 0.9995).all()


def test_an_all_zero_descriptor_stays_zero():
    frame = make_frame(2, 8)
    frame.features.descriptors[0] = 0
    assert not read_features(encode_features(frame, HEADER, 'int8')).descriptors[0].any()


def test_an_unknown_descriptor_type_is_refused():
    with pytest.raises(ValueError, match='float64'):
        encode_features(make_frame(), HEADER, 'float64')


@pytest.mark.parametrize(('descriptor_type', 'code', 'size'), [('float32', 'f', 4), ('int8', 'b', 1)])
def test_features_have_the_promised_fields(descriptor_type, code, size):
    frame = make_frame(3, 8)
    message = encode_features(frame, HEADER, descriptor_type)
    kinds = {f.name: (f.datatype, f.count) for f in message.fields}
    numbers = dict.fromkeys(('x', 'y', 'z', 'u', 'v', 'score'), (PointField.FLOAT32, 1))
    kind = PointField.FLOAT32 if descriptor_type == 'float32' else PointField.INT8
    assert kinds == numbers | {
        'id': (PointField.UINT32, 1),
        'age': (PointField.UINT16, 1),
        'level': (PointField.UINT8, 1),
        'descriptor': (kind, 8),
    }
    assert list(kinds) == ['x', 'y', 'z', 'u', 'v', 'score', 'id', 'age', 'level', 'descriptor']
    assert (message.height, message.width) == (1, 3)
    assert message.row_step == len(message.data) == 3 * message.point_step
    assert all(f.offset % SIZES.get(f.datatype, 4) == 0 for f in message.fields)
    offset = {f.name: f.offset for f in message.fields}
    point = bytes(message.data)[message.point_step : 2 * message.point_step]
    assert struct.unpack_from('<2f', point, offset['u']) == tuple(frame.features.keypoints[1])
    assert struct.unpack_from('<I', point, offset['id'])[0] == frame.track_ids[1]
    assert struct.unpack_from('<H', point, offset['age'])[0] == frame.track_ages[1]
    assert point[offset['level']] == frame.features.levels[1]
    values = struct.unpack_from(f'<8{code}', point, offset['descriptor'])
    assert offset['descriptor'] + 8 * size <= message.point_step
    cosine = np.dot(values, frame.features.descriptors[1]) / np.linalg.norm(values)
    assert cosine == pytest.approx(1, abs=1e-3)


@settings(deadline=None)
@given(matched=st.integers(0, 5), seed=st.integers(0, 99))
def test_matches_come_back_as_they_were(matched, seed):
    frame = make_frame(5, matched=matched, seed=seed)
    cloud = read_matches(deserialize_message(serialize_message(encode_matches(frame, HEADER)), PointCloud2))
    assert len(cloud) == matched
    assert cloud.stamp_ns == STAMP_NS
    assert cloud.previous_stamp_ns == (11_999_999_999 if matched else None)
    np.testing.assert_array_equal(cloud.query, frame.matches.query)
    np.testing.assert_array_equal(cloud.train, frame.matches.train)
    np.testing.assert_array_equal(cloud.keypoints, frame.features.keypoints[frame.matches.query])
    np.testing.assert_array_equal(cloud.previous_keypoints, frame.previous_keypoints[frame.matches.train])
    np.testing.assert_array_equal(cloud.similarity, frame.matches.similarity)
    np.testing.assert_array_equal(cloud.track_ids, frame.track_ids[frame.matches.query])
    np.testing.assert_array_equal(cloud.inlier, frame.matches.inlier)
    assert cloud.inlier.dtype == bool


def test_matches_have_the_promised_fields():
    fields = [(f.name, f.datatype, f.count) for f in encode_matches(make_frame(), HEADER).fields]
    u32, f32 = PointField.UINT32, PointField.FLOAT32
    assert fields == [
        ('query', u32, 1),
        ('train', u32, 1),
        ('u', f32, 1),
        ('v', f32, 1),
        ('u_prev', f32, 1),
        ('v_prev', f32, 1),
        ('similarity', f32, 1),
        ('id', u32, 1),
        ('inlier', PointField.UINT8, 1),
        ('prev_sec', PointField.INT32, 1),
        ('prev_nanosec', u32, 1),
    ]


def test_the_first_frame_has_an_empty_matches_message():
    frame = make_frame(matched=0, previous_stamp_ns=None)
    frame.previous_keypoints = np.zeros((0, 2), np.float32)
    assert len(read_matches(encode_matches(frame, HEADER))) == 0


def test_fields_are_found_by_name_in_clouds_of_others():
    """The same points in another order, with a field more and gaps."""
    frame = make_frame(4, 3)
    ours = encode_features(frame, HEADER)
    source = {f.name: f for f in ours.fields}
    fields, rows, offset = [], [b''] * 4, 0
    for name in ('descriptor', 'age', 'level', 'rgb', 'v', 'u', 'z', 'score', 'y', 'x', 'id'):
        field = source.get(name, PointField(name='rgb', offset=0, datatype=PointField.UINT32, count=1))
        size = {'descriptor': 12, 'age': 2, 'level': 1}.get(name, 4)
        fields.append(PointField(name=name, offset=offset, datatype=field.datatype, count=field.count))
        for row in range(4):
            start = row * ours.point_step + field.offset
            rows[row] += bytes(ours.data[start : start + size]) + b'gap'
        offset += size + 3
    data = array('B', b''.join(rows))
    cloud = read_features(with_fields(ours, fields, point_step=offset, row_step=4 * offset, data=data))
    np.testing.assert_array_equal(cloud.keypoints, frame.features.keypoints)
    np.testing.assert_array_equal(cloud.rays, frame.rays)
    np.testing.assert_array_equal(cloud.descriptors, frame.features.descriptors)
    np.testing.assert_array_equal(cloud.track_ages, frame.track_ages)
    np.testing.assert_array_equal(cloud.levels, frame.features.levels)


def test_features_recorded_before_there_were_levels_are_all_of_the_image_itself():
    frame = make_frame(4, 3)
    message = encode_features(frame, HEADER)
    cloud = read_features(with_fields(message, [field for field in message.fields if field.name != 'level']))
    np.testing.assert_array_equal(cloud.levels, [0, 0, 0, 0])
    np.testing.assert_array_equal(cloud.descriptors, frame.features.descriptors)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'is_bigendian': True}, 'big-endian'),
        ({'width': 6}, '6 points'),
        ({'fields': []}, 'no field x, y'),
        ({'point_step': 3}, 'point_step'),
        (
            {
                'fields': [
                    PointField(name=n, datatype=99, count=1)
                    for n in ['x', 'y', 'z', 'u', 'v', 'score', 'id', 'age', 'descriptor']
                ]
            },
            '99',
        ),
    ],
)
def test_a_cloud_of_something_else_is_refused_with_the_reason(changes, reason):
    message = encode_features(make_frame(5), HEADER)
    with pytest.raises(MessageError, match=reason):
        read_features(with_fields(message, **({'fields': message.fields} | changes)))


def test_tracks_have_the_layout_that_vins_reads():
    frame = make_frame(6)
    frame.run_ids[:] = [0, 7, 2**24 - 1, 0, 0, 8]
    message = encode_tracks(frame, HEADER)
    kept = [1, 2, 5]
    assert message.header == HEADER
    np.testing.assert_allclose([(p.x, p.y, p.z) for p in message.points], frame.rays[kept], rtol=1e-6)
    columns = [c.values for c in message.channels]
    assert [len(c) for c in columns] == [3] * 5
    np.testing.assert_array_equal(columns[0], frame.run_ids[kept])
    np.testing.assert_array_equal(np.transpose(columns[1:3]), frame.features.keypoints[kept])
    np.testing.assert_array_equal(np.transpose(columns[3:5]), frame.velocities[kept])


def test_without_a_calibration_tracks_are_empty():
    message = encode_tracks(make_frame(calibrated=False), HEADER)
    assert not message.points
    assert len(message.channels) == 5


def test_clouds_read_by_rosbags_are_read_too():
    from rosbags.typesys import Stores, get_typestore

    frame = make_frame()
    raw = serialize_message(encode_features(frame, HEADER))
    message = get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr(raw, 'sensor_msgs/msg/PointCloud2')
    np.testing.assert_array_equal(read_features(message).keypoints, frame.features.keypoints)


def make_stereo_matches(count: int, features: tuple[int, int], seed: int = 0) -> StereoMatches:
    rng = np.random.default_rng(seed)
    return StereoMatches(
        left=rng.permutation(features[0])[:count].astype(np.int32),
        right=rng.permutation(features[1])[:count].astype(np.int32),
        similarity=rng.uniform(-1, 1, count).astype(np.float32),
        disparity=rng.uniform(0, 100, count).astype(np.float32),
        residual=rng.normal(size=count).astype(np.float32),
        points=rng.uniform(-5, 5, (count, 3)).astype(np.float32),
    )


@settings(deadline=None)
@given(count=st.integers(0, 10), seed=st.integers(0, 99))
def test_stereo_matches_come_back_as_they_were(count, seed):
    left, right = make_frame(12, seed=seed), make_frame(15, seed=seed + 1)
    matches = make_stereo_matches(count, (12, 15), seed)
    message = encode_stereo_matches(matches, left, right, HEADER)
    message = deserialize_message(serialize_message(message), PointCloud2)
    cloud = read_stereo_matches(message)
    assert message.header == HEADER
    assert message.is_dense
    assert (cloud.stamp_ns, len(cloud)) == (STAMP_NS, count)
    for name in ('left', 'right', 'points', 'disparity', 'similarity'):
        np.testing.assert_array_equal(getattr(cloud, name), getattr(matches, name))
    np.testing.assert_array_equal(cloud.keypoints, left.features.keypoints[matches.left])
    np.testing.assert_array_equal(cloud.right_x, right.features.keypoints[matches.right, 0])
    np.testing.assert_array_equal(cloud.track_ids, left.track_ids[matches.left])


def test_stereo_matches_have_the_layout_that_is_documented():
    matches = make_stereo_matches(2, (5, 5))
    matches.points[1] = np.nan
    left, right = make_frame(5), make_frame(5, seed=1)
    message = encode_stereo_matches(matches, left, right, HEADER)
    names = ['x', 'y', 'z', 'u', 'v', 'u_right', 'disparity', 'similarity', 'left', 'right', 'id']
    assert [field.name for field in message.fields] == names
    assert [field.offset for field in message.fields] == list(range(0, 44, 4))
    types = {field.name: field.datatype for field in message.fields}
    assert {name for name in names if types[name] == PointField.UINT32} == {'left', 'right', 'id'}
    assert {name for name in names if types[name] == PointField.FLOAT32} == set(names[:8])
    assert (message.height, message.width, message.point_step, message.is_dense) == (1, 2, 44, False)
    first = struct.unpack_from('<8f3I', message.data)
    row, column = matches.left[0], matches.right[0]
    expected = [*matches.points[0], *left.features.keypoints[row], right.features.keypoints[column, 0]]
    np.testing.assert_array_equal(first[:6], expected)
    np.testing.assert_array_equal(first[8:], [row, column, left.track_ids[row]])


def test_the_stamp_of_a_serialised_message_of_either_byte_order():
    assert serialized_stamp_ns(serialize_message(PointCloud2(header=HEADER))) == STAMP_NS
    assert serialized_stamp_ns(bytes(4) + struct.pack('>iI', 12, 345)) == STAMP_NS
