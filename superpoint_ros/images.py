"""ROS image messages of any usual encoding -> one grey uint8 array.

The network sees grey pictures only, so a colour image is converted once, here, and a luminance plane (YUV,
JPEG) is taken as it is. Fields are read by name and nothing of ROS is imported, so messages may come from
rclpy or rosbags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np


class ImageError(ValueError):
    """An image message that can't be read.

    Attributes:
        cause: a short name of what is wrong, the same for every image with that fault: a key to count by.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class _Layout:
    """How an encoding stores a pixel: samples of one type, and what OpenCV calls their way to grey."""

    dtype: np.dtype
    samples: int = 1
    conversion: int | None = None
    luminance: int | None = None  # the sample that is the luminance, where there is one


def _layouts() -> Iterator[tuple[str, _Layout]]:
    for bits in (8, 16):
        dtype = np.dtype(f'u{bits // 8}')
        yield f'mono{bits}', _Layout(dtype)
        yield f'rgb{bits}', _Layout(dtype, 3, cv2.COLOR_RGB2GRAY)
        yield f'bgr{bits}', _Layout(dtype, 3, cv2.COLOR_BGR2GRAY)
        yield f'rgba{bits}', _Layout(dtype, 4, cv2.COLOR_RGBA2GRAY)
        yield f'bgra{bits}', _Layout(dtype, 4, cv2.COLOR_BGRA2GRAY)
        # ROS names a mosaic by its first 2x2 pixels, OpenCV by the second row's second and third.
        yield f'bayer_rggb{bits}', _Layout(dtype, 1, cv2.COLOR_BayerBG2GRAY)
        yield f'bayer_bggr{bits}', _Layout(dtype, 1, cv2.COLOR_BayerRG2GRAY)
        yield f'bayer_gbrg{bits}', _Layout(dtype, 1, cv2.COLOR_BayerGR2GRAY)
        yield f'bayer_grbg{bits}', _Layout(dtype, 1, cv2.COLOR_BayerGB2GRAY)
    for name, dtype in (('8U', np.dtype('u1')), ('16U', np.dtype('u2')), ('32F', np.dtype('f4'))):
        yield f'{name}C1', _Layout(dtype)
        yield f'{name}C3', _Layout(dtype, 3, cv2.COLOR_BGR2GRAY)
        yield f'{name}C4', _Layout(dtype, 4, cv2.COLOR_BGRA2GRAY)
    byte = np.dtype('u1')
    for name in ('yuv422', 'uyvy'):
        yield name, _Layout(byte, 2, luminance=1)
    for name in ('yuv422_yuy2', 'yuyv'):
        yield name, _Layout(byte, 2, luminance=0)
    for name in (
        'nv12',
        'nv21',
        'nv24',
    ):  # the luminance plane comes first, the colours after it are not read
        yield name, _Layout(byte)


_LAYOUTS = dict(_layouts())


def to_array(message: Any) -> np.ndarray:
    """Grey picture of a `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

    `mono8` without row padding comes back as a view of the message's own buffer; all else is a new array.
    Pictures of 16 bits or floats are stretched (see `stretch`). The orientation tag of a JPEG is ignored,
    because `camera_info` describes the picture as the sensor took it.

    Returns:
        [H, W] uint8.

    Raises:
        ImageError: the message is empty, contradicts itself, is cut short, or has an unknown encoding.
    """
    return _from_compressed(message) if hasattr(message, 'format') else _from_raw(message)


def stretch(image: np.ndarray) -> np.ndarray:
    """Map [H, W] of uint16 or float to uint8, so that 10 to 16 bit cameras and thermal ones all show.

    The encoding does not tell how many of the bits are used, so the picture's own percentiles 0.5 and 99.5
    become 0 and 255. Integers are never magnified beyond one grey level a count: a flat picture's noise stays
    noise. Values that are not finite count as the darkest.
    """
    sample = image[:: max(1, image.shape[0] // 120), :: max(1, image.shape[1] // 160)]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (0.5, 99.5)) if sample.size else (0.0, 0.0)
    span = high - low
    if image.dtype.kind == 'u':
        span = max(span, 255.0)
    else:
        image = np.nan_to_num(image, nan=low, posinf=low, neginf=low)
    low = image.dtype.type(low)
    return cv2.convertScaleAbs(np.maximum(image, low) - low, alpha=255.0 / span if span > 0 else 0.0)


def _from_raw(message: Any) -> np.ndarray:
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise ImageError(
            'unknown encoding',
            f"Images of encoding '{message.encoding}' are not supported; known are {', '.join(_LAYOUTS)}.",
        )
    image = _samples(message, layout)
    if layout.luminance is not None:
        return np.ascontiguousarray(image[..., layout.luminance])
    return _to_grey(image, layout)


def _to_grey(image: np.ndarray, layout: _Layout) -> np.ndarray:
    if layout.conversion is not None:
        image = cv2.cvtColor(image, layout.conversion)
    return image if image.dtype == np.uint8 else stretch(image)


def _samples(message: Any, layout: _Layout) -> np.ndarray:
    """The message's samples, [H, W] or [H, W, samples], after its sizes were found to agree with its data."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError('empty image', f'The image is empty: {width}x{height} pixels.')
    row_bytes = width * layout.samples * layout.dtype.itemsize
    if step < row_bytes:
        raise ImageError(
            'wrong step',
            f'{width} pixels of {message.encoding} take {row_bytes} bytes, but the image says step {step}.',
        )
    if len(message.data) < height * step:
        raise ImageError(
            'short data',
            f'{height} rows of {step} bytes are {height * step}, but the image holds {len(message.data)}.',
        )
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)[:, :row_bytes]
    samples = np.ascontiguousarray(rows).view(layout.dtype.newbyteorder('>' if message.is_bigendian else '<'))
    samples = samples.astype(layout.dtype, copy=False)
    return samples if layout.samples == 1 else samples.reshape(height, width, layout.samples)


def _from_compressed(message: Any) -> np.ndarray:
    data = bytes(message.data)
    if not data:
        raise ImageError('empty image', 'The compressed image holds no bytes.')
    if 'compressedDepth' in message.format:
        raise ImageError('unknown encoding', f"Images of format '{message.format}' are not supported.")
    if _cut_short(data):
        raise ImageError('truncated image', f'The {message.format} image ends early, after {len(data)} bytes.')
    encoded = np.frombuffer(data, np.uint8)
    mosaic = mosaic_encoding(message.format)
    image = _decode_mosaic(encoded, mosaic) if mosaic else None
    image = decode_grey(encoded) if image is None else image
    if image is None:
        raise ImageError('undecodable image', f"OpenCV can't decode these {len(data)} bytes of '{message.format}'.")
    return image


def mosaic_encoding(format_: str) -> str:
    """Of which Bayer mosaic the pixels of a compressed image are by its `format`, as `bayer_rggb8`; else ''.

    `image_transport` compresses mosaics as they are into PNG and TIFF; into JPEG it did before 2021. It writes
    'ENCODING; png compressed PIXELS', without PIXELS where those are of ENCODING.
    """
    encoding, _, compression = format_.partition(';')
    *_, pixels = ['', *compression.split()]
    pixels = encoding.strip() if pixels in ('', 'compressed') else pixels
    return pixels if pixels.startswith('bayer_') and pixels in _LAYOUTS else ''


def _decode_mosaic(encoded: np.ndarray, encoding: str) -> np.ndarray | None:
    """Grey picture [H, W] uint8 of a file that holds a mosaic; None if it holds none."""
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        return None
    return _to_grey(image, _LAYOUTS[encoding])


def decode_grey(encoded: np.ndarray) -> np.ndarray | None:
    """Grey picture [H, W] uint8 of a file's bytes [K] uint8, as `to_array` has it; None if OpenCV can't decode it."""
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(encoded, flags) if encoded.size else None
    except cv2.error:
        return None
    return image if image is None or image.dtype == np.uint8 else stretch(image)


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which OpenCV would fill in grey without a word."""
    if data.startswith(b'\xff\xd8'):
        return not _has_jpeg_end(data)
    return data.startswith(b'\x89PNG') and data.rfind(b'IEND') < 0  # from the end, where it usually is


def _has_jpeg_end(data: bytes) -> bool:
    """Whether an end marker follows the first scan, whose data can hold none; thumbnails lie in segments before it."""
    start = 2
    while 0 <= (start := data.find(b'\xff', start)) <= len(data) - 4:
        kind = data[start + 1]
        if kind == 0xDA:
            return data.find(b'\xff\xd9', start) > 0
        start += 1 if kind == 0xFF else 2 + int.from_bytes(data[start + 2 : start + 4], 'big')
    return False
