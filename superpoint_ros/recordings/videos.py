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
    """A video file. Its first frame is stamped 1 s, others as much later as the file says, at any rate."""

    has_clock = False

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        video = cv2.VideoCapture(str(path))
        self._period_ns = round(1e9 / (video.get(cv2.CAP_PROP_FPS) or fps))
        self._frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not video.isOpened() or not video.read()[0]:
            raise RecordingError(f'{path} is no bag, no folder of pictures, and no video that OpenCV can read.')
        if self._frames < 1:  # a stream that was written to a file as it came
            self._frames = 1 + sum(1 for _ in iter(video.grab, False))

    def __str__(self) -> str:
        return f'the video {self.path}'

    def files(self) -> list[Path]:
        """The file."""
        return [self.path]

    def topics(self) -> list[TopicSummary]:
        """The one camera, with the number of frames that the file claims."""
        first, last = FIRST_STAMP_NS, FIRST_STAMP_NS + (self._frames - 1) * self._period_ns
        rate = rate_hz(self._frames, first, last)
        size = self.path.stat().st_size
        return [TopicSummary(self.path, self.path.name, 'video', self._frames, rate, size, first, last)]

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """All frames; of a video that is cut short the last is left out, which may lack its lower part."""
        video = cv2.VideoCapture(str(self.path))
        read, pixels = video.read()
        start_ms = video.get(cv2.CAP_PROP_POS_MSEC)
        count, time_ns = 0, FIRST_STAMP_NS - self._period_ns
        while read:
            count += 1
            stamp_ns = FIRST_STAMP_NS + round((video.get(cv2.CAP_PROP_POS_MSEC) - start_ms) * 1e6)
            time_ns = stamp_ns if stamp_ns > time_ns else time_ns + self._period_ns
            record = Record(self.path.name, IMAGE_TYPES[0], time_ns, partial(RawImage.of, pixels))
            read, pixels = video.read()
            if read or not self._is_cut_short(count, time_ns):
                yield record
        if self._is_cut_short(count, time_ns):
            raise CutShortError(f'{self} ends after {count} of {self._frames} frames.')

    def _is_cut_short(self, count: int, last_ns: int) -> bool:
        """Whether both frames and time are missing; frames alone are where the rate varies."""
        expected = self._frames * (1 - _MISCOUNTED) - 1
        return count < expected and last_ns - FIRST_STAMP_NS < (expected - 1) * self._period_ns
