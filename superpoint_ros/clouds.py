"""A structured NumPy array <-> a PointCloud2, field by field."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

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


class MessageError(ValueError):
    """A cloud that does not hold what it should."""


def to_cloud(cloud: np.ndarray, header: Header, is_dense: bool) -> PointCloud2:
    """The cloud of [N] structured, one point a row. is_dense: whether x, y and z are finite in all."""
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
