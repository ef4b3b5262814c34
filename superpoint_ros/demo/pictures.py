"""The video and the still of a recorded run: its images with their matches drawn on them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from superpoint_ros.clouds import MatchCloud

Image = NDArray[np.uint8]

INLIER, OUTLIER = (90, 220, 60), (40, 40, 230)
"""Blue, green, red."""

JOINED = 12
"""One match in so many has a line in the still; with all of them, there would be nothing else to see."""

CODECS = (('mp4v', '.mp4'), ('MJPG', '.avi'))
"""In order of preference; OpenCV brings the second one itself, the first where it was built with FFmpeg."""


def write_video(path: Path, pictures: Iterable[Image], fps: float) -> Path | None:
    """Write pictures of one size to a video at `path`, whose suffix is the codec's; None without pictures.

    Raises:
        OSError: OpenCV has none of the codecs, or the file can't be written.
    """
    writer = None
    for picture in pictures:
        if writer is None:
            writer, path = _open_video(path, fps, (picture.shape[1], picture.shape[0]))
        writer.write(picture)
    if writer is None:
        return None
    writer.release()
    return path


def _open_video(path: Path, fps: float, size: tuple[int, int]) -> tuple[cv2.VideoWriter, Path]:
    for codec, suffix in CODECS:
        file = path.with_suffix(suffix)
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), fps, size)
        if writer.isOpened():
            return writer, file
    raise OSError(f'No video can be written to {path.parent}: OpenCV has none of {CODECS}, or the disk is full.')


def join(
    images: Iterable[tuple[int, Image]], clouds: Iterable[MatchCloud]
) -> Iterator[tuple[Image, Image, MatchCloud]]:
    """Join matches with the images [H, W, 3] before and after, by stamp; images come in their order."""
    awaited = {matches.stamp_ns: matches for matches in clouds if len(matches)}
    needed = {matches.previous_stamp_ns for matches in awaited.values()}
    kept: dict[int, Image] = {}
    for stamp, image in images:
        if (matches := awaited.get(stamp)) and (before := kept.get(matches.previous_stamp_ns or 0)) is not None:
            yield before, image, matches
            kept.clear()
        if stamp in needed:
            kept[stamp] = image


def draw_pair(before: Image, after: Image, matches: MatchCloud) -> Image:
    """Draw two images [H, W, 3] side by side; lines join one match in `JOINED`, circles mark all."""
    picture = np.hstack([before, after])
    shift = np.array([before.shape[1], 0])
    for row, colour in _outliers_last(matches):
        start = _fixed_point(matches.previous_keypoints[row])
        end = _fixed_point(matches.keypoints[row] + shift)
        for centre in (start, end):
            cv2.circle(picture, centre, 2 << _SHIFT, colour, 1, cv2.LINE_AA, _SHIFT)
        if row % JOINED == 0:
            cv2.line(picture, start, end, colour, 1, cv2.LINE_AA, _SHIFT)
    return picture


def draw_motion(after: Image, matches: MatchCloud) -> Image:
    """Draw on an image [H, W, 3] where each match is, with a line from where it was."""
    picture = after.copy()
    for row, colour in _outliers_last(matches):
        start, end = _fixed_point(matches.previous_keypoints[row]), _fixed_point(matches.keypoints[row])
        cv2.line(picture, start, end, colour, 1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, end, 2 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)
    return picture


def _outliers_last(matches: MatchCloud) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Rows and their colours; what is drawn last lies on top."""
    for row in np.argsort(~matches.inlier, kind='stable').tolist():
        yield row, INLIER if matches.inlier[row] else OUTLIER


_SHIFT = 4
"""Bits of a pixel's fraction that OpenCV draws with."""


def _fixed_point(point: NDArray) -> tuple[int, int]:
    x, y = np.rint(point * (1 << _SHIFT)).astype(int)
    return int(x), int(y)
