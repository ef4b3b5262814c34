"""Video files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import cv2

from superpoint_ros.recordings.source import (
    FIRST_STAMP_NS,
    IMAGE_TYPES,
    CutShortError,
    RawImage,
    Record,
    RecordingError,
    TopicSummary,
    rate_hz,
)

_MISCOUNTED = 0.01  # share of its frames, plus one, by which a container's count, often an estimate, may be off


class Video:
    """A video file. Its first frame is stamped 1 s."""

    has_clock = False

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        video = cv2.VideoCapture(str(path))
        self._fps = video.get(cv2.CAP_PROP_FPS) or fps
        self._frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not video.isOpened() or not video.read()[0]:
            raise RecordingError(f'{path} is no bag, no folder of pictures, and no video that OpenCV can read.')

    def __str__(self) -> str:
        return f'the video {self.path}'

    def topics(self) -> list[TopicSummary]:
        """The one camera, with the number of frames that the file claims."""
        first, last = self._time_ns(0), self._time_ns(max(self._frames - 1, 0))
        rate = rate_hz(self._frames, first, last)
        size = self.path.stat().st_size
        return [TopicSummary(self.path, self.path.name, 'video', self._frames, rate, size, first, last)]

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """All frames; of a video that is cut short the last is left out, which may lack its lower part."""
        video = cv2.VideoCapture(str(self.path))
        read, pixels = video.read()
        count = 0
        while read:
            count += 1
            record = Record(self.path.name, IMAGE_TYPES[0], self._time_ns(count - 1), partial(RawImage.of, pixels))
            read, pixels = video.read()
            if read or not self._is_cut_short(count):
                yield record
        if self._is_cut_short(count):
            raise CutShortError(f'{self} ends after {count} of {self._frames} frames.')

    def _is_cut_short(self, count: int) -> bool:
        return count < self._frames * (1 - _MISCOUNTED) - 1

    def _time_ns(self, index: int) -> int:
        return FIRST_STAMP_NS + round(index * 1e9 / self._fps)
