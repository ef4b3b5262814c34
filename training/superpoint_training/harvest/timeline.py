"""One axis of time through all recordings, and the blocks on it that are held out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from superpoint_training.harvest.settings import HarvestConfig

_NS = 1_000_000_000


@dataclass(frozen=True)
class Timeline:
    """Recorded images in the order of time.

    Recordings whose times overlap, or nearly do, are one session: what one camera saw while another was held out
    would else be trained on. Sessions follow each other.

    Attributes:
        order: rows in the order of session and time.
        session, time_ns, stream: of the rows in that order; a stream is one topic of one recording.
    """

    order: np.ndarray
    session: np.ndarray
    time_ns: np.ndarray
    stream: np.ndarray

    @classmethod
    def of(
        cls, recording: np.ndarray, topic: np.ndarray, time_ns: np.ndarray, clocked: list[bool], slack: float
    ) -> Timeline:
        """Join recordings.

        Args:
            recording, topic, time_ns: of each row.
            clocked: of each recording, whether its times can be compared with those of others.
            slack: recordings so many seconds apart are one session.
        """
        spans = [
            (int(times.min()), int(times.max()), number)
            for number in range(len(clocked))
            if (times := time_ns[recording == number]).size
        ]
        session_of = np.zeros(len(clocked), np.int64)
        session, end_ns = -1, None
        for first, last, number in sorted(span for span in spans if clocked[span[2]]):
            if end_ns is None or first > end_ns + slack * _NS:
                session, end_ns = session + 1, last
            end_ns = max(end_ns, last)
            session_of[number] = session
        for _, _, number in (span for span in spans if not clocked[span[2]]):
            session += 1
            session_of[number] = session
        sessions = session_of[recording]
        stream = recording.astype(np.int64) * (int(topic.max(initial=0)) + 1) + topic
        order = np.lexsort((stream, time_ns, sessions))
        return cls(order, sessions[order], time_ns[order], stream[order])

    def __len__(self) -> int:
        return len(self.order)

    def moments(self) -> np.ndarray:
        """Places between which images are of one moment of a session, from 0 to N; such images stay together."""
        changes = (np.diff(self.session) != 0) | (np.diff(self.time_ns) != 0)
        return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(self)]])

    def seconds(self) -> float:
        """Time recorded, without pauses: images of the busiest stream of each session by their usual distance."""
        total = 0.0
        for session in np.unique(self.session):
            inside = self.session == session
            streams, counts = np.unique(self.stream[inside], return_counts=True)
            times = self.time_ns[inside & (self.stream == streams[counts.argmax()])]
            if len(times) > 1:
                total += float(np.median(np.diff(times))) * len(times) / _NS
        return total


@dataclass(frozen=True)
class Block:
    """A stretch of a session, ends included, in nanoseconds."""

    session: int
    first_ns: int
    last_ns: int


def place_blocks(timeline: Timeline, worth: np.ndarray, config: HarvestConfig, rng: np.random.Generator) -> list[Block]:
    """Choose what is held out: blocks of equal length, one in each of as many equal parts of the time line.

    In its part a block lies anywhere, but among the places where most frames are worth having.

    Args:
        timeline: N images.
        worth: [N] bool in the order of the time line: readable, sharp and not nearly the same as the one before.
        config: shares and budgets.
        rng: says where.
    """
    budget = min(config.held_out_frames, int(config.held_out_share * len(timeline)))
    if budget < 1:
        return []
    streams = _concurrent_streams(timeline)
    count = max(1, budget // (config.held_out_run * streams))
    moments = timeline.moments()
    ends = moments[np.searchsorted(moments, np.linspace(0, len(timeline), count + 1).round())]
    parts = pairwise(np.unique(ends).tolist())
    blocks = [_place_block(timeline, moments, worth, low, high, budget // count, rng) for low, high in parts]
    return [block for block in blocks if block]


def _concurrent_streams(timeline: Timeline) -> int:
    """How many images come for each of the busiest stream, in the largest session."""
    largest = timeline.session == np.bincount(timeline.session).argmax()
    return max(1, math.ceil(largest.sum() / np.bincount(timeline.stream[largest]).max()))


def _place_block(
    timeline: Timeline,
    moments: np.ndarray,
    worth: np.ndarray,
    low: int,
    high: int,
    length: int,
    rng: np.random.Generator,
) -> Block | None:
    """A block of at most `length` images between two of the moments' places, in one session."""
    sessions, starts, counts = np.unique(timeline.session[low:high], return_index=True, return_counts=True)
    widest = counts.argmax()
    low += int(starts[widest])
    high = low + int(counts[widest])
    length = min(length, high - low)
    edges = moments[(moments >= low) & (moments <= high)] - low
    ends = edges[np.searchsorted(edges, edges + length, side='right') - 1]
    longest = (ends - edges).max()
    if longest < 1:
        return None
    # Cut at both ends to whole moments, most places lose an image or two.
    fits = ends - edges >= 0.8 * longest
    begins, ends = edges[fits], ends[fits]
    total = np.concatenate([[0], np.cumsum(worth[low:high])])
    gain = total[ends] - total[begins]
    best = np.flatnonzero(gain >= 0.9 * gain.max())
    place = best[rng.integers(len(best))]
    first, last = low + begins[place], low + ends[place] - 1
    return Block(int(sessions[widest]), int(timeline.time_ns[first]), int(timeline.time_ns[last]))


def gap_ns(timeline: Timeline, blocks: list[Block], config: HarvestConfig) -> int:
    """Nanoseconds on either side of each block that are not used, see `HarvestConfig.gap_seconds`."""
    if not blocks:
        return 0
    affordable = config.held_out_share * timeline.seconds() / (2 * len(blocks))
    return int(min(config.gap_seconds, affordable) * _NS)


def mark(timeline: Timeline, blocks: list[Block], margin_ns: int) -> np.ndarray:
    """[N] bool in the order of the time line: inside a block made longer by a margin at both ends."""
    inside = np.zeros(len(timeline), bool)
    for block in blocks:
        inside |= (
            (timeline.session == block.session)
            & (timeline.time_ns >= block.first_ns - margin_ns)
            & (timeline.time_ns <= block.last_ns + margin_ns)
        )
    return inside
