"""What a harvest kept and why, for machines and for people."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np

from superpoint_training.harvest.selection import Fate, Selection
from superpoint_training.harvest.survey import Survey
from superpoint_training.harvest.timeline import mark
from superpoint_training.harvest.topics import Feed

_REASONS = {
    Fate.UNREADABLE: ('unreadable', 'could not be decoded', ''),
    Fate.UNDER_EXPOSED: ('under_exposed', 'nearly all black', 'raise max_clipped'),
    Fate.OVER_EXPOSED: ('over_exposed', 'nearly all white', 'raise max_clipped'),
    Fate.NO_CONTRAST: ('no_contrast', 'show nothing: too little contrast', 'lower min_contrast'),
    Fate.BLURRED: ('blurred', 'blurred', 'lower min_sharpness and min_sharpness_floor'),
    Fate.IN_GAP: ('in_gap', 'in the gap beside a held-out block', 'lower gap_seconds or held_out_share'),
    Fate.NEAR_DUPLICATE: ('near_duplicate', 'nearly the same as the one before', 'lower min_change'),
    Fate.LIKE_HELD_OUT: ('like_held_out', 'nearly the same as one held out', 'lower min_change'),
    Fate.OVER_BUDGET: ('over_budget', 'more than train_frames', 'raise train_frames'),
}
_SECOND = 1e9


def make_report(
    feeds: list[Feed], hashes: list[str], surveys: list[Survey], selection: Selection, settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything about a harvest as JSON holds it; times are nanoseconds."""
    recordings, start = [], 0
    for feed, content, surveyed in zip(feeds, hashes, surveys, strict=True):
        fates = selection.fates[start : start + len(surveyed.rows)]
        start += len(surveyed.rows)
        recordings.append(
            {
                'path': str(feed.source.path),
                'sha256': content,
                'damage': surveyed.damage,
                'topics': {
                    name: _topic(surveyed.rows[chosen], fates[chosen])
                    for number, name in enumerate(feed.topics)
                    for chosen in [surveyed.rows['topic'] == number]
                },
            }
        )
    return {
        'settings': settings,
        'recordings': recordings,
        'total': _counts(selection.fates),
        'held_out_blocks': [
            {'session': block.session, 'first_ns': block.first_ns, 'last_ns': block.last_ns}
            for block in selection.blocks
        ],
        'block_of_held_out_frames': _block_of_held_out_frames(selection),
        'train_blocks': _train_blocks(selection),
        'gap_ns': selection.gap_ns,
    }


def _counts(fates: np.ndarray) -> dict[str, Any]:
    return {
        'seen': len(fates),
        'train': int((fates == Fate.TRAIN).sum()),
        'held_out': int((fates == Fate.HELD_OUT).sum()),
        'dropped': {name: n for fate, (name, _, _) in _REASONS.items() if (n := int((fates == fate).sum()))},
    }


def _topic(rows: np.ndarray, fates: np.ndarray) -> dict[str, Any]:
    faults, counts = np.unique(rows['fault'][rows['fault'] != b''], return_counts=True)
    sizes = {f'{width}x{height}' for width, height in zip(rows['width'], rows['height'], strict=True) if width}
    return {
        **_counts(fates),
        'faults': {fault.decode(): int(count) for fault, count in zip(faults, counts, strict=True)},
        'sizes': sorted(sizes),
        'first_ns': int(rows['time_ns'].min(initial=2**63 - 1)) if len(rows) else 0,
        'last_ns': int(rows['time_ns'].max(initial=0)),
    }


def _block_of_held_out_frames(selection: Selection) -> list[int]:
    """The number of each held-out frame's block, in the order in which frames are stored."""
    line = selection.timeline
    numbers = np.zeros(len(line), np.int64)
    for number, block in enumerate(selection.blocks):
        numbers[line.order[mark(line, [block], 0)]] = number
    return [int(number) for number in numbers[selection.fates == Fate.HELD_OUT]]


def _train_blocks(selection: Selection) -> list[dict[str, int]]:
    """Spans of the frames to train on between the held-out blocks."""
    line = selection.timeline
    fates = selection.fates[line.order]
    is_train = fates == Fate.TRAIN
    # A span ends where a session does or a held-out block comes in between.
    starts = [(block.session, block.first_ns) for block in selection.blocks]
    part = np.zeros(len(line), np.int64)
    for session, first_ns in starts:
        part += (line.session > session) | ((line.session == session) & (line.time_ns >= first_ns))
    blocks = []
    for session, number in sorted(set(zip(line.session[is_train].tolist(), part[is_train].tolist(), strict=True))):
        times = line.time_ns[is_train & (line.session == session) & (part == number)]
        blocks.append({'session': session, 'first_ns': int(times[0]), 'last_ns': int(times[-1]), 'frames': len(times)})
    return blocks


def explain_too_few(report: dict[str, Any], wanted: int, kept: int, what: str, unreadable: str) -> str:
    """Why there are too few frames, and what to relax, the most effective first.

    unreadable: what is wrong with an image that could not be decoded.
    """
    total = report['total']
    by_name = {name: (words, remedy) for name, words, remedy in _REASONS.values()}
    dropped = sorted(total['dropped'].items(), key=lambda item: -item[1])
    reasons = '; '.join(f'{count} {by_name[name][0]}' for name, count in dropped) or 'none were dropped'
    remedies = [f'{by_name[name][1]} ({name})' for name, _ in dropped if by_name[name][1]]
    remedy = f'Record more, and move while recording; or {", ".join(remedies) or "lower min_train_frames"}.'
    if dropped and dropped[0][0] == _REASONS[Fate.UNREADABLE][0]:
        remedy = f'The first of these: {unreadable}'
    return (
        f'Only {kept} of {total["seen"]} recorded images are left {what}, and {wanted} are needed. Dropped: '
        f'{reasons}. {remedy}'
    )


def explain_one_time(report: dict[str, Any]) -> str:
    """Why nothing is held out of images that all have the same time, and what to do; '' where they have not."""
    topics = [topic for recording in report['recordings'] for topic in recording['topics'].values() if topic['seen']]
    times = {topic[end] for topic in topics for end in ('first_ns', 'last_ns')}
    if len(times) != 1 or report['total']['seen'] < 2:
        return ''
    return (
        f'All {report["total"]["seen"]} recorded images have the same time, {_moment(times.pop())}, and held out is '
        'a stretch of time: record with a clock that runs, or give the images as a video or a folder of pictures.'
    )


def to_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    total = report['total']
    lines = [
        f'{total["train"]} frames to train on and {total["held_out"]} held out, of {total["seen"]} recorded.',
        '',
        '| recording | topic | images | train | held out | dropped |',
        '|---|---|---|---|---|---|',
    ]
    words = {name: text for name, text, _ in _REASONS.values()}
    notes = []
    for recording in report['recordings']:
        for name, topic in recording['topics'].items():
            dropped = ', '.join(f'{count} {words[reason]}' for reason, count in topic['dropped'].items()) or 'none'
            faults = ', '.join(f'{count} {fault}' for fault, count in topic['faults'].items())
            dropped += f' ({faults})' if faults else ''
            kept = f'{topic["seen"]} | {topic["train"]} | {topic["held_out"]}'
            lines.append(f'| {recording["path"]} | {name} | {kept} | {dropped} |')
        if recording['damage']:
            notes.append(f'- Damaged: {recording["damage"]}')
        notes.append(f'- `{recording["path"]}` has SHA-256 `{recording["sha256"]}`.')
    gap = report['gap_ns'] / _SECOND
    for block in report['held_out_blocks']:
        seconds = (block['last_ns'] - block['first_ns']) / _SECOND
        notes.append(
            f'- Held out: {seconds:.2f} s from {_moment(block["first_ns"])}, with {gap:.2f} s on either side not used.'
        )
    return '\n'.join([*lines, '', *notes]) + '\n'


def _moment(time_ns: int) -> str:
    """A date, or seconds where the clock does not start in 1970."""
    if time_ns < 10**17:
        return f'{time_ns / _SECOND:.2f} s'
    return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime('%Y-%m-%d %H:%M:%S UTC')
