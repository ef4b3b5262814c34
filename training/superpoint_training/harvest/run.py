"""A harvest from recordings to cached frames."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from superpoint_ros.images import ImageError, to_array
from superpoint_ros.recordings import CutShortError, RecordingError
from superpoint_training.files import write_whole
from superpoint_training.frames import Frames, fit
from superpoint_training.harvest.frame_cache import ShardWriter, alone, explained, publish, require_space
from superpoint_training.harvest.hashing import Hashes
from superpoint_training.harvest.measuring import MEASUREMENT, measure
from superpoint_training.harvest.report import explain_one_time, explain_too_few, make_report, to_markdown
from superpoint_training.harvest.selection import Fate, Selection, select
from superpoint_training.harvest.settings import HarvestConfig, HarvestError
from superpoint_training.harvest.survey import Survey, records_of, survey, why_unreadable
from superpoint_training.harvest.topics import Feed, open_feeds

FORMAT = 2
"""Of the cache and of how frames are chosen; frames of another format are harvested anew."""
_SPLITS = {'train': Fate.TRAIN, 'held_out': Fate.HELD_OUT}


class Harvest:
    """Frames of recordings, read from a cache.

    Attributes:
        folder: of the cache; its `train` and `held_out` are folders of tar shards, good for `Frames`.
        train: to train on.
        held_out: to judge by, from other stretches of time; None where none were held out.
        report: what was kept and why, as JSON holds it.

    Raises:
        HarvestError: the cache is damaged: something can't be read, or frames are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.report: dict[str, Any] = json.loads((folder / 'report.json').read_text())
            self.train = Frames(folder / 'train')
            self.held_out = Frames(folder / 'held_out') if (folder / 'held_out').exists() else None
            for split, frames in (('train', self.train), ('held_out', self.held_out or ())):
                if len(frames) != self.report['total'][split]:
                    raise ValueError(f'{len(frames)} of {self.report["total"][split]} frames are in {split}')
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = f'report.json has no {error}' if isinstance(error, KeyError) else error
            raise HarvestError(f"The cache '{folder}' is damaged ({why}): remove it and call again.") from error

    def held_out_pairs(self, gap: int) -> list[tuple[int, int]]:
        """Indices into `held_out` of real frames of one camera exactly `gap` recorded images apart, in time order."""
        if gap < 1:
            raise ValueError(f'the gap must be at least 1 recorded image, not {gap}')
        places = (
            {name.split('/', 1)[1]: index for index, name in enumerate(self.held_out.names)} if self.held_out else {}
        )
        pairs = []
        for name, first in places.items():
            camera, number = name.removesuffix('.pgm').rsplit('/', 1)
            second = places.get(f'{camera}/{int(number) + gap:06d}.pgm')
            if second is not None:
                pairs.append((first, second))
        return pairs

    def held_out_blocks(self) -> list[list[int]]:
        """Indices into `held_out` of the frames of each held-out stretch of time, in the order of time."""
        blocks = np.array(self.report['block_of_held_out_frames'], int)
        return [np.flatnonzero(blocks == number).tolist() for number in np.unique(blocks)]

    def markdown(self) -> str:
        """The report for people."""
        return to_markdown(self.report)


@dataclass(frozen=True)
class HarvestPlan:
    """What a harvest would take.

    Attributes:
        images: that would be read.
        seconds: to read and measure them on this machine, roughly; 0 if the frames are in the cache.
        cache_bytes: of frames, at most.
        is_cached: whether the very frames are in the cache.
        topics: that would be read, of all recordings.
        problem: what is wrong with the first of the images looked at that can't be decoded; '' where all can.
    """

    images: int
    seconds: float
    cache_bytes: int
    is_cached: bool
    topics: tuple[str, ...]
    problem: str


def harvest(
    recordings: Sequence[Path],
    topics: Sequence[str] | None,
    config: HarvestConfig,
    cache: Path,
    show_progress: bool = True,
) -> Harvest:
    """Choose frames out of recordings and store them, or find them stored.

    A call that was stopped, in whatever way, is gone on with by the same call. Processes may call at once; one
    works, the others wait for it.

    Args:
        recordings: rosbag2 (folder, .mcap, .db3), ROS 1 bags, videos, folders of pictures.
        topics: image topics; None takes of each bag the one with the most images.
        config: what to take.
        cache: folder for frames and measurements, which is made; may serve any number of harvests.
        show_progress: show progress bars.

    Raises:
        HarvestError: a recording can't be read, a topic has no images, too few frames are left, or the disk is full.
    """
    feeds, hashes, cache = _prepare(recordings, topics, cache, show_progress)
    with alone(cache / '.lock'):
        final = cache / _key(feeds, hashes, config)
        if final.exists():
            return Harvest(final)
        surveys = [
            survey(feed, content, config, cache / 'surveys', show_progress)
            for feed, content in zip(feeds, hashes, strict=True)
        ]
        rows = np.concatenate([surveyed.rows for surveyed in surveys])
        recording = np.repeat(np.arange(len(surveys)), [len(surveyed.rows) for surveyed in surveys])
        selection = select(rows, recording, [feed.source.has_clock for feed in feeds], config)
        report = make_report(feeds, hashes, surveys, selection, asdict(config))
        _require_frames(report, feeds, config)
        partial = final.with_name(final.name + '.partial')
        with explained(partial):
            partial.mkdir(exist_ok=True)
        _collect(feeds, surveys, selection, config, partial, show_progress)
        write_whole(partial / 'report.json', json.dumps(report, indent=1).encode())
        publish(partial, final)
    return Harvest(final)


def survey_share(
    recordings: Sequence[Path],
    topics: Sequence[str] | None,
    config: HarvestConfig,
    cache: Path,
    rank: int,
    ranks: int,
    show_progress: bool = True,
) -> None:
    """Measure one process's share of the recordings, which is most of the work of the `harvest` to follow.

    Args:
        rank: of this process, from 0.
        ranks: how many processes share the recordings.

    The others are as in `harvest`, which needs them all measured or measures them itself.

    Raises:
        HarvestError: as `harvest`.
    """
    feeds, hashes, cache = _prepare(recordings, topics, cache, show_progress)
    for feed, content in list(zip(feeds, hashes, strict=True))[rank::ranks]:
        survey(feed, content, config, cache / 'surveys', show_progress)


def plan_harvest(
    recordings: Sequence[Path], topics: Sequence[str] | None, config: HarvestConfig, cache: Path
) -> HarvestPlan:
    """What `harvest` would take; reads a few images only, and the recordings once where their hash is not known.

    Raises:
        HarvestError: as `harvest`, as far as can be told.
    """
    feeds, hashes, cache = _prepare(recordings, topics, cache, show_progress=True)
    images, seconds, largest, problem = 0, 0.0, 0, ''
    for feed in feeds:
        count = sum(min(topic.count, config.first_frames or topic.count) for topic in feed.summaries)
        sampled, began = 0, time.perf_counter()
        try:
            for _, _, record in islice(records_of(feed, config), 20):
                sampled += 1
                picture = to_array(record.load())
                measure(picture, np.zeros(1, MEASUREMENT)[0])
                largest = max(largest, fit(picture, config.short_side).size)
        except CutShortError:
            pass  # told by the harvest
        except (ImageError, RecordingError) as error:
            problem = problem or str(error)
        images += count
        seconds += count * (time.perf_counter() - began) / max(sampled, 1)
    if images < config.min_train_frames:
        raise HarvestError(f'Only {images} images are there, and {config.min_train_frames} to train on are needed.')
    is_cached = (cache / _key(feeds, hashes, config)).exists()
    frames = min(images, config.train_frames + config.held_out_frames)
    topics = tuple(dict.fromkeys(topic for feed in feeds for topic in feed.topics))
    return HarvestPlan(images, 0.0 if is_cached else seconds, frames * largest, is_cached, topics, problem)


def _prepare(
    recordings: Sequence[Path], topics: Sequence[str] | None, cache: Path, show_progress: bool
) -> tuple[list[Feed], list[str], Path]:
    """What is read, each recording's hash, and the folder of the cache; a copy of a recording is left out."""
    feeds = open_feeds(recordings, topics)
    cache = Path(cache).expanduser()
    by_hash: dict[tuple[str, tuple[str, ...]], Feed] = {}
    with alone(cache / '.lock'):
        hashes = Hashes(cache / 'hashes.json', show_progress)
        for feed in feeds:
            by_hash.setdefault((hashes.of(feed.source), feed.topics), feed)
    return list(by_hash.values()), [content for content, _ in by_hash], cache


def _key(feeds: list[Feed], hashes: list[str], config: HarvestConfig) -> str:
    """Name of the cache of these frames: the same recordings, topics and settings give the same."""
    what = [[content, feed.topics] for feed, content in zip(feeds, hashes, strict=True)]
    return 'frames-' + hashlib.sha256(json.dumps([FORMAT, what, asdict(config)]).encode()).hexdigest()[:16]


def _require_frames(report: dict[str, Any], feeds: list[Feed], config: HarvestConfig) -> None:
    total = report['total']
    if total['train'] < config.min_train_frames:
        few = config.min_train_frames, total['train'], 'to train on'
    elif config.held_out_frames and config.held_out_share and not total['held_out']:
        if one_time := explain_one_time(report):
            raise HarvestError(one_time)
        few = 1, 0, 'to hold out'
    else:
        return
    unreadable = next(filter(None, (why_unreadable(feed, config) for feed in feeds)), '')
    raise HarvestError(explain_too_few(report, *few, unreadable))


def _collect(
    feeds: list[Feed],
    surveys: list[Survey],
    selection: Selection,
    config: HarvestConfig,
    folder: Path,
    show_progress: bool,
) -> None:
    """Read the chosen images again and store those that are not yet."""
    fates = selection.fates
    counts = {split: int((fates == fate).sum()) for split, fate in _SPLITS.items()}
    rows = np.concatenate([surveyed.rows for surveyed in surveys])[np.isin(fates, list(_SPLITS.values()))]
    require_space(folder, _stored_bytes(rows, config.short_side) - _used(folder))
    writers = {fate: ShardWriter(folder / split, counts[split]) for split, fate in _SPLITS.items() if counts[split]}
    start = 0
    with tqdm(
        total=sum(counts.values()), desc='store frames', unit='frame', mininterval=1, disable=not show_progress
    ) as bar:
        for number, (feed, surveyed) in enumerate(zip(feeds, surveys, strict=True)):
            chosen = fates[start : start + len(surveyed.rows)]
            start += len(surveyed.rows)
            try:
                for fate, (topic, index, record) in zip(chosen, records_of(feed, config), strict=False):
                    writer = writers.get(Fate(fate))
                    if writer is None:
                        continue
                    if writer.wants():
                        writer.add(_name(number, feed, topic, index), fit(to_array(record.load()), config.short_side))
                    bar.update()
            except CutShortError:
                pass  # the survey has said so
            except (ImageError, RecordingError) as error:
                raise HarvestError(f'{feed.source} has changed while it was read: {error}') from error


def _name(number: int, feed: Feed, topic: int, index: int) -> str:
    """Name of a frame: recording, topic, and number among the recorded images of that topic.

    Recordings and topics are numbered, since two may read alike once they are fit for the name of a file in a tar,
    which has room for 60 bytes of each.
    """
    words = [f'{number:02d}-{feed.source.path.stem}', f'{topic:02d}-{feed.topics[topic].strip("/")}']
    recording, camera = (re.sub(r'[^\w.-]', '_', word).encode()[:60].decode(errors='ignore') for word in words)
    return f'{recording}/{camera}/{index:06d}'


def _stored_bytes(rows: np.ndarray, short_side: int) -> int:
    sides = np.stack([rows['height'], rows['width']]).astype(np.float64)
    scale = np.minimum(1.0, short_side / np.maximum(sides.min(axis=0), 1))
    return int((sides.prod(axis=0) * scale**2).sum() + 1024 * len(rows))


def _used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob('*.tar'))
