"""One camera of a recording as ROS messages: each image with the calibration that belongs to it."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from superpoint_ros.calibrations import read_calibration
from superpoint_ros.clouds import stamp_ns
from superpoint_ros.images import mosaic_encoding
from superpoint_ros.recordings import (
    Bag,
    CutShortError,
    RawImage,
    RecordingError,
    Source,
    TopicSummary,
    busiest,
    calibration_topic,
    open_source,
)

__all__ = [
    'CutShortError',
    'Options',
    'Recording',
    'RecordingError',
    'Shot',
    'decompress',
    'open_recording',
    'read_camera_info',
    'time_of',
]

_CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'


@dataclass(frozen=True)
class Shot:
    """One recorded image, its time in nanoseconds, and the calibration that belongs to it, if any."""

    stamp_ns: int
    image: Image | CompressedImage
    info: CameraInfo | None


class Recording(Protocol):
    """Can be iterated again and again; raises CutShortError at the end of a damaged one.

    Attributes:
        calibration: topic or file that the calibration is from; '' where there is none.
    """

    calibration: str

    def __iter__(self) -> Iterator[Shot]: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """What to read of a recording, and what to assume that it does not say.

    Attributes:
        topic: image topic of a bag; empty takes the one with the most images that are not depth.
        camera_info_topic: calibration topic of a bag; empty takes the one that is the camera's by its name.
        camera_info: calibration file that stands in for a recorded calibration.
        frame_id: frame of pictures and videos, which have none.
        fps: rate of pictures that have no times.
    """

    topic: str = ''
    camera_info_topic: str = ''
    camera_info: Path | None = None
    frame_id: str = 'camera'
    fps: float = 30.0


def open_recording(path: Path, options: Options) -> Recording:
    """Open a rosbag2 (folder, .mcap or .db3), a ROS 1 bag, a folder of pictures, or a video.

    A folder of pictures is calibrated by a file `intrinsics.yaml` in it.

    Raises:
        RecordingError: it is none of these, or holds no images.
        CalibrationFileError: the calibration file can't be read.
    """
    source = open_source(path, options.fps)
    if isinstance(source, Bag):
        return BagCamera(source, options)
    intrinsics = options.camera_info or path / 'intrinsics.yaml'
    info = read_camera_info(intrinsics) if options.camera_info or intrinsics.exists() else None
    return PlainCamera(source, options.frame_id, info, calibration=str(intrinsics) if info else '')


def read_camera_info(path: Path) -> CameraInfo:
    """The message of a calibration file, see `read_calibration`.

    Raises:
        CalibrationFileError: it can't be read.
    """
    read = read_calibration(path)
    return CameraInfo(
        width=read.width,
        height=read.height,
        distortion_model=read.distortion_model,
        d=read.d,
        k=read.k,
        r=read.r,
        p=read.p,
    )


def time_of(stamp_ns: int) -> Time:
    """A `builtin_interfaces/Time` of nanoseconds."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def decompress(message: CompressedImage) -> Image:
    """Image message of a compressed one.

    Raises:
        RecordingError: OpenCV can't decode it, or its pixels are of a type that is not known here.
    """
    data = np.frombuffer(message.data, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise RecordingError(f"An image of format '{message.format}' and {data.size} bytes can't be decoded.")
    image = _to_image(RawImage.of(np.asarray(pixels)), message.header)
    mosaic = mosaic_encoding(message.format)
    if mosaic and image.encoding.startswith('mono'):
        image.encoding = mosaic.rstrip('0123456789') + image.encoding.removeprefix('mono')  # of as many bits
    return image


class PlainCamera:
    """A video, or a folder of pictures, seen as a camera."""

    def __init__(self, source: Source, frame_id: str, info: CameraInfo | None, calibration: str) -> None:
        self.calibration = calibration
        self._source = source
        self._frame_id = frame_id
        self._info = info

    def __str__(self) -> str:
        return str(self._source)

    def __iter__(self) -> Iterator[Shot]:
        for record in self._source.records(()):
            header = Header(stamp=time_of(record.time_ns), frame_id=self._frame_id)
            yield Shot(record.time_ns, _to_image(record.load(), header), self._info)


class BagCamera:
    """The images of one topic of a bag, each with the calibration that was latest when it was recorded.

    Their times are their stamps; where their driver set none, when they were recorded.
    A bag without its end, as a full disk or a crash leaves it, is played as far as it goes; messages that are spoilt
    are left out.
    """

    def __init__(self, bag: Bag, options: Options) -> None:
        self._bag = bag
        self._info = read_camera_info(options.camera_info) if options.camera_info else None
        topics = bag.topics()
        self.topic = _image_topic(bag, topics, options.topic)
        self.camera_info_topic = _info_topic(topics, options.camera_info_topic, self.topic)
        self.calibration = str(options.camera_info or self.camera_info_topic)

    def __str__(self) -> str:
        return f'{self.topic} of {self._bag}'

    def __iter__(self) -> Iterator[Shot]:
        info = self._info or self._first_info()
        stamped = self._is_stamped()
        played = 0
        try:
            for topic, time_ns, message in self._messages(self.topic, self.camera_info_topic):
                if topic == self.topic:
                    image = _to_image(message, _to_header(message))
                    yield Shot(stamp_ns(image.header.stamp) if stamped else time_ns, image, info)
                    played += 1
                elif self._info is None:
                    info = _to_info(message)
        except CutShortError as error:
            raise CutShortError(f'{self} is damaged; {played} images could be played: {error}') from error

    def _first_info(self) -> CameraInfo | None:
        """The first calibration, for images that were recorded just before it; None if damage comes first."""
        with suppress(CutShortError), closing(self._messages(self.camera_info_topic)) as messages:
            for _, _, message in messages:
                return _to_info(message)
        return None

    def _is_stamped(self) -> bool:
        """Whether images have stamps. One of 0 alone may be the first of simulated time."""
        with suppress(CutShortError), closing(self._messages(self.topic)) as messages:
            return any(stamp_ns(message.header.stamp) for _, _, message in islice(messages, 2))
        return True

    def _messages(self, *topics: str) -> Generator[tuple[str, int, Any], None, None]:
        """Topic, time in nanoseconds at which it was recorded, and content of each message that is whole."""
        spoilt: list[RecordingError] = []
        for record in self._bag.records(topics):
            try:
                message = record.load()
            except RecordingError as error:
                spoilt.append(error)
                continue
            yield record.topic, record.time_ns, message
        if spoilt:
            raise CutShortError(f'{len(spoilt)} messages were skipped. {spoilt[0]}')


def _image_topic(bag: Bag, topics: list[TopicSummary], wanted: str) -> str:
    images = [topic for topic in topics if topic.has_images]
    names = sorted(topic.name for topic in images)
    if not names:
        held = ', '.join(f'{topic.name} ({topic.type})' for topic in topics) or 'nothing'
        raise RecordingError(f'The bag holds no images; it holds {held}.')
    if wanted and wanted not in names:
        raise RecordingError(f"The bag holds no images on '{wanted}'; it does on {', '.join(names)}.")
    return wanted or busiest(bag, images).name


def _info_topic(topics: list[TopicSummary], wanted: str, image_topic: str) -> str:
    infos = [topic.name for topic in topics if topic.type == _CAMERA_INFO]
    if wanted and wanted not in infos:
        held = ', '.join(infos) or 'no topic'
        raise RecordingError(f"The bag holds no calibration on '{wanted}'; it does on {held}.")
    return wanted or calibration_topic(infos, image_topic, [topic.name for topic in topics if topic.has_images])


def _to_header(message: Any) -> Header:
    return Header(stamp=time_of(stamp_ns(message.header.stamp)), frame_id=message.header.frame_id)


def _to_image(message: Any, header: Header) -> Image | CompressedImage:
    """ROS's message of one with the same fields."""
    data = array('B', bytes(message.data))
    if hasattr(message, 'format'):
        return CompressedImage(header=header, format=message.format, data=data)
    return Image(
        header=header,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=message.step,
        data=data,
    )


def _to_info(message: Any) -> CameraInfo:
    """ROS 2's message of ROS 2's or ROS 1's, which writes the matrices' names large."""
    d, k, r, p = (getattr(message, name, None) for name in 'dkrp')
    if k is None:
        d, k, r, p = (getattr(message, name) for name in 'DKRP')
    roi = message.roi
    return CameraInfo(
        header=_to_header(message),
        height=message.height,
        width=message.width,
        distortion_model=message.distortion_model,
        d=np.asarray(d, np.float64).tolist(),
        k=np.asarray(k, np.float64),
        r=np.asarray(r, np.float64),
        p=np.asarray(p, np.float64),
        binning_x=message.binning_x,
        binning_y=message.binning_y,
        roi=RegionOfInterest(
            x_offset=roi.x_offset,
            y_offset=roi.y_offset,
            height=roi.height,
            width=roi.width,
            do_rectify=bool(roi.do_rectify),
        ),
    )
