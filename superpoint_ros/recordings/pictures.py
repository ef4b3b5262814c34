"""Folders of pictures, and the times that belong to them."""

from __future__ import annotations

import math
import re
import tarfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from superpoint_ros.recordings.source import (
    FIRST_STAMP_NS,
    IMAGE_TYPES,
    CutShortError,
    EncodedImage,
    Record,
    RecordingError,
    TopicSummary,
    rate_hz,
)

_FORMATS = {
    '.jpg': 'jpeg',
    '.jpeg': 'jpeg',
    '.png': 'png',
    '.bmp': 'bmp',
    '.tif': 'tiff',
    '.tiff': 'tiff',
    '.webp': 'webp',
    '.pgm': 'pgm',
    '.ppm': 'ppm',
}


_SINCE_1970_NS = 10**17
"""Times from here on are of the clock that all cameras share; smaller ones began with the recording."""


class Pictures:
    """A folder of pictures, or a folder with them in `frames.tar`.

    Times come from `timestamps.txt` (or TUM's `rgb.txt`), which may name pictures in folders beside it, else from file
    names that are nanoseconds (as EuRoC's) or seconds since 1970 (as TUM's), else from the given rate, with 1 s for the
    first.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._damage = ''
        archive = path / 'frames.tar'
        self._places = self._in_archive(archive) if archive.exists() else self._in_folder()
        names = sorted(self._places, key=natural)
        if not names:
            raise RecordingError(f'{path} is no bag and holds no pictures.')
        self._times = _listed_times(path, names) or _times_of_names(names, fps)
        self.has_clock = min(self._times.values()) >= _SINCE_1970_NS

    def __str__(self) -> str:
        return f'the {len(self._times)} pictures in {self.path}'

    def files(self) -> list[Path]:
        """The pictures, or their archive, and the list of their times."""
        listed = _list_in(self.path)
        return [*{file for file, _, _ in self._places.values()}, *([listed] if listed else [])]

    def topics(self) -> list[TopicSummary]:
        """The one camera."""
        first, last = min(self._times.values()), max(self._times.values())
        size = sum(self._places[name][2] for name in self._times)
        count = len(self._times)
        rate = rate_hz(count, first, last)
        return [TopicSummary(self.path, self.path.name, 'pictures', count, rate, size, first, last, self._damage)]

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """All pictures, in the order of their list or of their names."""
        for name, time_ns in self._times.items():
            yield Record(self.path.name, IMAGE_TYPES[1], time_ns, partial(self._load, name))
        if self._damage:
            raise CutShortError(f'{self} are not all: {self._damage}')

    def _load(self, name: str) -> EncodedImage:
        file, offset, size = self._places[name]
        try:
            with file.open('rb') as opened:
                opened.seek(offset)
                data = opened.read(size)
        except OSError as error:
            raise RecordingError(f"The picture {name} in {self.path} can't be read: {error.strerror}.") from error
        return EncodedImage(_FORMATS[Path(name).suffix.lower()], data)

    def _in_folder(self) -> dict[str, tuple[Path, int, int]]:
        """File, offset and size of each picture."""
        named = _list_in(self.path)
        words = set(named.read_text(errors='replace').split()) if named else set()
        files = {file.name: file for file in self.path.iterdir()}
        files |= {name: file for file in self.path.glob('*/*') if (name := f'{file.parent.name}/{file.name}') in words}
        return {
            name: (file, 0, file.stat().st_size)
            for name, file in files.items()
            if file.suffix.lower() in _FORMATS and file.is_file() and not file.name.startswith('._')  # macOS's
        }

    def _in_archive(self, archive: Path) -> dict[str, tuple[Path, int, int]]:
        places = {}
        end = archive.stat().st_size
        try:
            with tarfile.open(archive, 'r:') as opened:
                for member in opened:
                    is_whole = member.offset_data + member.size <= end
                    if Path(member.name).suffix.lower() in _FORMATS and is_whole:
                        places[member.name] = (archive, member.offset_data, member.size)
        except tarfile.TarError as error:
            self._damage = f'{archive} is cut off or damaged ({error}).'
        return places


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame2 comes before frame10."""
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', name)]


def _times_of_names(names: list[str], fps: float) -> dict[str, int]:
    stems = [Path(name).stem for name in names]
    if all(re.fullmatch(r'1\d{18}', stem, re.ASCII) for stem in stems):  # nanoseconds since 1970; others count, or date
        return {name: int(stem) for name, stem in zip(names, stems, strict=True)}
    if all(re.fullmatch(r'1?\d{9}\.\d+', stem, re.ASCII) for stem in stems):
        return {name: nanoseconds(stem) for name, stem in zip(names, stems, strict=True)}
    return {name: FIRST_STAMP_NS + round(index * 1e9 / fps) for index, name in enumerate(names)}


def _listed_times(folder: Path, names: list[str]) -> dict[str, int]:
    """Times of a list's files that are there, which may be a part of the folder's; empty without a list.

    Where the first picture of a line is missing none takes its place: what follows is of another camera, or depth.
    """
    path, there = _list_in(folder), set(names)
    times = listed_times(path, lambda word: Path(word).suffix.lower() in _FORMATS) if path else {}
    return {name: time for name, time in times.items() if name in there}


def _list_in(folder: Path) -> Path | None:
    return next((path for path in (folder / 'timestamps.txt', folder / 'rgb.txt') if path.exists()), None)


def listed_times(path: Path, is_picture: Callable[[str], bool]) -> dict[str, int]:
    """Nanoseconds by the name of a picture, the first of its line; lines without one are left out.

    The list is a table whose `#` line names the columns: `timestamp_ns` or `timestamp_s` and a file. Without such a
    line, or of TUM's `timestamp`, times are in seconds, right before the file.

    Raises:
        RecordingError: a time is no number.
    """
    lines = path.read_text(errors='replace').splitlines()
    heads = [line[1:].split() for line in lines if line.startswith('#') and 'timestamp' in line]
    columns = heads[-1] if heads else []
    named = [columns.index(name) for name in ('timestamp_ns', 'timestamp_s') if name in columns]
    times = {}
    for line in lines:
        row = line.split()
        place = next((index for index, cell in enumerate(row) if is_picture(cell)), None)
        if place is None or line.startswith('#'):
            continue
        try:
            time = row[named[0] if named else max(place - 1, 0)]
            times[row[place]] = int(time) if 'timestamp_ns' in columns else nanoseconds(time)
        except (ValueError, IndexError, OverflowError):
            where = f'in its column {columns[named[0]]}' if named else 'before the file'
            raise RecordingError(f"{path}: '{line}' has no time {where}.") from None
    return times


def nanoseconds(seconds: str) -> int:
    """Nanoseconds of decimal seconds, exactly: float64 can't hold them since 1970.

    Raises:
        ValueError: it is no decimal number.
    """
    whole, _, fraction = seconds.partition('.')
    if not (whole + fraction).isdigit():
        value = float(seconds)  # such as 1.3e9 or a negative one
        if not math.isfinite(value):
            raise ValueError(f"'{seconds}' is no time")
        return round(value * 1e9)
    return int(whole or '0') * 1_000_000_000 + int(fraction[:9].ljust(9, '0'))
