"""Which of the recorded images are trained on and which are held out, decided by their measurements alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from superpoint_training.harvest.measuring import appearance
from superpoint_training.harvest.settings import HarvestConfig
from superpoint_training.harvest.timeline import Block, Timeline, gap_ns, mark, place_blocks

_STRATA = 32
_CHOICE = 8  # candidates compared for each that is taken
_CHUNK = 8192


class Fate(IntEnum):
    """What becomes of a recorded image; the first that applies."""

    UNREADABLE = 0
    UNDER_EXPOSED = 1
    OVER_EXPOSED = 2
    NO_CONTRAST = 3
    BLURRED = 4
    HELD_OUT = 5
    IN_GAP = 6
    NEAR_DUPLICATE = 7
    LIKE_HELD_OUT = 8
    OVER_BUDGET = 9
    TRAIN = 10


@dataclass(frozen=True)
class Selection:
    """What was decided.

    Attributes:
        fates: [N] `Fate` of each row.
        blocks: what is held out.
        gap_ns: time on either side of each block that is not used.
        timeline: order of the rows.
    """

    fates: np.ndarray
    blocks: list[Block]
    gap_ns: int
    timeline: Timeline


def select(rows: np.ndarray, recording: np.ndarray, clocked: list[bool], config: HarvestConfig) -> Selection:
    """Decide for each image; the same rows and configuration always give the same.

    Args:
        rows: [N] `MEASUREMENT`, of each recording in the order they were recorded.
        recording: [N] number of the recording of each row.
        clocked: of each recording, whether its times can be compared with those of others.
        config: thresholds, budgets and seed.
    """
    timeline = Timeline.of(recording, rows['topic'], rows['time_ns'], clocked, slack=2 * config.gap_seconds)
    order = timeline.order
    looks = appearance(rows['thumbnail'][order])
    fates = _flaws(rows[order], timeline.stream, config)
    is_sound = fates == Fate.TRAIN
    worth = is_sound & ~_near_duplicates(looks, timeline.stream, is_sound, config.min_change)
    blocks = place_blocks(timeline, worth, config, np.random.default_rng(config.seed))
    gap = gap_ns(timeline, blocks, config)
    held_out = mark(timeline, blocks, 0)
    fates[is_sound & held_out] = Fate.HELD_OUT
    fates[is_sound & mark(timeline, blocks, gap) & ~held_out] = Fate.IN_GAP

    left = fates == Fate.TRAIN
    fates[left & _near_duplicates(looks, timeline.stream, left, config.min_change)] = Fate.NEAR_DUPLICATE
    candidates = np.flatnonzero(fates == Fate.TRAIN)
    distances = nearest(looks[candidates], looks[fates == Fate.HELD_OUT])
    fates[candidates[distances < config.min_change]] = Fate.LIKE_HELD_OUT
    candidates = np.flatnonzero(fates == Fate.TRAIN)
    if len(candidates) > config.train_frames:
        fates[candidates] = Fate.OVER_BUDGET
        # Of hours of images those that come right after each other are not worth comparing with all others.
        candidates = candidates[:: max(1, len(candidates) // (_CHOICE * config.train_frames))]
        chosen = spread(looks[candidates], candidates / len(timeline), config.train_frames)
        fates[candidates[chosen]] = Fate.TRAIN

    by_row = np.empty_like(fates)
    by_row[order] = fates
    return Selection(by_row, blocks, gap, timeline)


def _flaws(rows: np.ndarray, stream: np.ndarray, config: HarvestConfig) -> np.ndarray:
    """[N] fates of rows in the order of time, as far as each picture itself decides; TRAIN for sound ones."""
    fates = np.full(len(rows), Fate.TRAIN, np.int8)
    fates[_blurred(rows, stream, config)] = Fate.BLURRED
    fates[rows['contrast'] < config.min_contrast] = Fate.NO_CONTRAST
    fates[rows['white'] > config.max_clipped] = Fate.OVER_EXPOSED
    fates[rows['black'] > config.max_clipped] = Fate.UNDER_EXPOSED
    fates[rows['fault'] != b''] = Fate.UNREADABLE
    return fates


def _blurred(rows: np.ndarray, stream: np.ndarray, config: HarvestConfig) -> np.ndarray:
    """[N] bool: less sharp than the floor, or than a share of the median of the same camera's images around it."""
    blurred = rows['sharpness'] < config.min_sharpness_floor
    shows = (rows['fault'] == b'') & (rows['contrast'] >= config.min_contrast)
    for number in np.unique(stream):
        places = np.flatnonzero((stream == number) & shows)
        sharp = rows['sharpness'][places]
        around = running_median(sharp, rows['time_ns'][places], config.neighbourhood_seconds)
        blurred[places] |= sharp < config.min_sharpness * around
    return blurred


def running_median(values: np.ndarray, time_ns: np.ndarray, seconds: float) -> np.ndarray:
    """[N] median of the values up to so many seconds before and after each, by the usual distance of their times."""
    if len(values) < 3:
        return values
    period = max(float(np.median(np.diff(time_ns))), 1.0)
    reach = int(np.clip(seconds * 1e9 / period, 1, len(values) - 1))
    padded = np.pad(values.astype(np.float32), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    step = max(1, reach // 10)  # a median over so many moves little in between
    places = np.arange(0, len(values), step)
    medians = [np.nanmedian(windows[part], axis=1) for part in np.array_split(places, max(1, len(places) // 256))]
    return np.interp(np.arange(len(values)), places, np.concatenate(medians))


def _near_duplicates(looks: np.ndarray, stream: np.ndarray, considered: np.ndarray, min_change: float) -> np.ndarray:
    """[N] bool: looks nearly the same as the last image of its camera that does not."""
    duplicates = np.zeros(len(looks), bool)
    last: dict[int, np.ndarray] = {}
    for place in np.flatnonzero(considered):
        number = int(stream[place])
        if number in last and np.linalg.norm(looks[place] - last[number]) < min_change:
            duplicates[place] = True
        else:
            last[number] = looks[place]
    return duplicates


def nearest(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N] distance in appearance of each to the nearest of others; infinite where there are none."""
    distances = np.full(len(looks), np.inf, np.float32)
    if len(others):
        squares = (others**2).sum(axis=1)
        for start in range(0, len(looks), _CHUNK):
            part = looks[start : start + _CHUNK]
            squared = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ others.T
            distances[start : start + _CHUNK] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return distances


def spread(looks: np.ndarray, places: np.ndarray, budget: int) -> np.ndarray:
    """Choose images that are spread over time and over what they show.

    The time line is cut into equal parts which take turns; each takes the image that looks least like any taken so
    far. A part without images left passes its turn on.

    Args:
        looks: [N, D], N >= `budget`.
        places: [N] where each lies on the time line, from 0 to 1, rising.
        budget: how many to take.

    Returns:
        [budget] indices, rising.
    """
    edges = np.searchsorted(places, np.linspace(0, 1, _STRATA + 1)[1:-1])
    parts = [(int(a), int(b)) for a, b in zip([0, *edges], [*edges, len(looks)], strict=True) if a < b]
    squares = (looks**2).sum(axis=1)
    # Of each image, its squared distance to the nearest taken; -1 once it is taken itself.
    novelty = np.full(len(looks), np.inf, np.float32)
    taken: list[int] = []
    while len(taken) < budget:
        for low, high in parts:
            best = low + int(novelty[low:high].argmax())
            if novelty[best] < 0 or len(taken) == budget:
                continue
            taken.append(best)
            squared = np.maximum(squares + squares[best] - 2 * looks @ looks[best], 0)
            np.minimum(novelty, squared, out=novelty)
            novelty[best] = -1
    return np.sort(np.asarray(taken))
