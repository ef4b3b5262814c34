"""Reads every image of a recording once and measures it; what was measured is kept on disk, also half-way."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from superpoint_ros.images import ImageError, to_array
from superpoint_ros.recordings import CutShortError, Record, RecordingError
from superpoint_training.files import write_whole
from superpoint_training.harvest.measuring import MEASUREMENT, measure
from superpoint_training.harvest.settings import HarvestConfig
from superpoint_training.harvest.topics import Feed

FORMAT = 1
"""Of what is measured; a survey of another format is made anew."""
_SAVE_SECONDS = 20.0
_GROWTH = 4096


@dataclass(frozen=True)
class Survey:
    """Measurements of all images of a feed, in the order they were recorded.

    Attributes:
        rows: `MEASUREMENT` each.
        damage: what is wrong with the recording; '' when nothing is.
    """

    rows: np.ndarray
    damage: str


def records_of(feed: Feed, config: HarvestConfig) -> Iterator[tuple[int, int, Record]]:
    """Topic number, index in the topic, and record of each image within the limits set, always in the same order.

    Raises:
        CutShortError: at the end, when the recording is damaged.
    """
    numbers = {name: number for number, name in enumerate(feed.topics)}
    counts = dict.fromkeys(feed.topics, 0)
    first_ns: dict[str, int] = {}
    over = set()
    with closing(feed.source.records(feed.topics)) as records:  # type: ignore[type-var]
        for record in records:
            topic, index = record.topic, counts[record.topic]
            counts[topic] += 1
            first_ns.setdefault(topic, record.time_ns)
            is_late = config.first_seconds and record.time_ns - first_ns[topic] >= config.first_seconds * 1e9
            if is_late or (config.first_frames and index >= config.first_frames):
                over.add(topic)
                if len(over) == len(numbers):
                    return
                continue
            yield numbers[topic], index, record


def survey(feed: Feed, content: str, config: HarvestConfig, folder: Path, show_progress: bool = True) -> Survey:
    """Measure a recording, or go on measuring where an earlier call was stopped.

    Args:
        feed: the recording and its topics.
        content: hash of the recording.
        config: its limits count.
        folder: where surveys are kept.
        show_progress: show a progress bar.
    """
    settings = [FORMAT, content, feed.topics, config.first_frames, config.first_seconds]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    file = folder / f'{name}.npz'
    table = _Table.load(file)
    if table.is_complete:
        return Survey(table.rows, table.damage)
    expected = sum(min(topic.count, config.first_frames or topic.count) for topic in feed.summaries)
    saved_at = time.monotonic()
    with tqdm(
        total=expected, initial=len(table), desc=f'survey {feed.source.path.name}', unit='image', mininterval=1,
        disable=not show_progress,
    ) as bar:  # fmt: skip
        try:
            for number, index, record in islice(records_of(feed, config), len(table), None):
                _measure(record, table.new_row(), number, index)
                bar.update()
                if time.monotonic() - saved_at > _SAVE_SECONDS:
                    table.save(file)
                    saved_at = time.monotonic()
        except CutShortError as error:
            table.damage = str(error)
        except KeyboardInterrupt:
            table.drop_last()  # it may be half measured
            table.save(file)
            raise
    table.is_complete = True
    table.save(file)
    return Survey(table.rows, table.damage)


def why_unreadable(feed: Feed, config: HarvestConfig) -> str:
    """What is wrong with the first image that can't be read, for people; '' where all can."""
    with suppress(CutShortError):
        for _, _, record in records_of(feed, config):
            try:
                to_array(record.load())
            except (ImageError, RecordingError) as error:
                return str(error)
    return ''


def _measure(record: Record, row: np.void, number: int, index: int) -> None:
    row['topic'], row['index'], row['time_ns'] = number, index, record.time_ns
    try:
        measure(to_array(record.load()), row)
    except ImageError as error:
        row['fault'] = error.cause.encode()
    except RecordingError:
        row['fault'] = b'damaged message'


class _Table:
    """Rows that grow in blocks, and the file that holds them."""

    def __init__(self, rows: np.ndarray, damage: str, is_complete: bool) -> None:
        self._rows = rows
        self._count = len(rows)
        self.damage = damage
        self.is_complete = is_complete

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: self._count]

    def new_row(self) -> np.void:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(max(_GROWTH, self._count // 2), MEASUREMENT)])
        self._count += 1
        return self._rows[self._count - 1]

    def drop_last(self) -> None:
        if self._count:
            self._count -= 1
            self._rows[self._count] = np.zeros((), MEASUREMENT)

    def save(self, file: Path) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, rows=self.rows, damage=np.array(self.damage), is_complete=np.array(self.is_complete))
        write_whole(file, buffer.getvalue())

    @classmethod
    def load(cls, file: Path) -> _Table:
        """What a file holds; nothing where there is none, or one that can't be read."""
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(file, allow_pickle=False) as stored:
            if stored['rows'].dtype == MEASUREMENT:
                return cls(stored['rows'], str(stored['damage']), bool(stored['is_complete']))
        return cls(np.zeros(0, MEASUREMENT), '', False)
