"""The choice of frames: what holds for any recording, and what the thresholds do."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superpoint_training.harvest.measuring import MEASUREMENT, THUMBNAIL, appearance
from superpoint_training.harvest.selection import Fate, Selection, nearest, running_median, select, spread
from superpoint_training.harvest.settings import HarvestConfig
from superpoint_training.harvest.timeline import Timeline, mark, place_blocks

NS = 1_000_000_000
START = 1_700_000_000 * NS


def rows_of(count: int, hz: float = 30.0, start: int = START, topic: int = 0, seed: int = 0) -> np.ndarray:
    """Sound images that all differ."""
    rng = np.random.default_rng([seed, topic])
    rows = np.zeros(count, MEASUREMENT)
    rows['topic'] = topic
    rows['index'] = np.arange(count)
    rows['time_ns'] = start + (np.arange(count) * NS / hz).astype(np.int64)
    rows['height'], rows['width'] = 480, 640
    rows['sharpness'], rows['contrast'] = 0.6, 100
    rows['thumbnail'] = rng.integers(0, 256, (count, *THUMBNAIL))
    return rows


def merged(*topics: np.ndarray) -> np.ndarray:
    rows = np.concatenate(topics)
    return rows[np.argsort(rows['time_ns'], kind='stable')]


def choose(rows: np.ndarray, **settings: object) -> Selection:
    return select(rows, np.zeros(len(rows), np.int64), [True], HarvestConfig(**settings))


@st.composite
def drives(draw) -> tuple[np.ndarray, np.ndarray, list[bool], HarvestConfig]:
    """Recordings of any number, length, rate, flaws and order in time, and a configuration."""
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    parts, clocked = [], []
    for number in range(draw(st.integers(1, 3))):
        start = START + draw(st.sampled_from([0, 3, 100, 10**6])) * NS * number
        streams = [
            rows_of(draw(st.integers(1, 300)), draw(st.sampled_from([1.0, 10.0, 30.0])), start, topic, seed + number)
            for topic in range(draw(st.integers(1, 2)))
        ]
        rows = merged(*streams)
        still = rng.random(len(rows)) < draw(st.sampled_from([0.0, 0.5]))
        rows['thumbnail'][still] = rows['thumbnail'][0]
        rows['sharpness'][rng.random(len(rows)) < 0.1] = 0.1
        rows['fault'][rng.random(len(rows)) < 0.05] = b'undecodable image'
        parts.append(rows)
        clocked.append(draw(st.booleans()))
    config = HarvestConfig(
        train_frames=draw(st.integers(1, 200)),
        held_out_frames=draw(st.integers(0, 100)),
        held_out_share=draw(st.sampled_from([0.0, 0.1, 0.2, 0.5])),
        held_out_run=draw(st.integers(1, 40)),
        gap_seconds=draw(st.sampled_from([0.0, 0.5, 2.0])),
        seed=draw(st.integers(0, 5)),
    )
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts]), clocked, config


@settings(max_examples=80, deadline=None)
@given(drives())
def test_whatever_was_recorded(drive):
    rows, recording, clocked, config = drive
    chosen = select(rows, recording, clocked, config)
    again = select(rows, recording, clocked, config)
    np.testing.assert_array_equal(chosen.fates, again.fates)

    train, held_out = chosen.fates == Fate.TRAIN, chosen.fates == Fate.HELD_OUT
    assert train.sum() <= config.train_frames
    assert held_out.sum() <= config.held_out_frames
    assert held_out.sum() <= config.held_out_share * len(rows)
    assert not ((rows['fault'] != b'') & (chosen.fates != Fate.UNREADABLE)).any()
    assert (rows['sharpness'][train | held_out] > 0.2).all()

    # What was recorded at the same time, by whatever camera, is on one side, and the gap lies in between.
    session = np.empty(len(rows), np.int64)
    session[chosen.timeline.order] = chosen.timeline.session
    for block in chosen.blocks:
        inside = (session == block.session) & (rows['time_ns'] >= block.first_ns) & (rows['time_ns'] <= block.last_ns)
        assert not (inside & train).any()
    for time_ns, number in zip(rows['time_ns'][held_out], session[held_out], strict=True):
        apart = np.abs(rows['time_ns'][train & (session == number)] - time_ns)
        assert apart.min(initial=2**62) > chosen.gap_ns
    overlapping = [(a, b) for a in range(len(clocked)) for b in range(a) if clocked[a] and clocked[b]]
    for a, b in overlapping:
        times_a, times_b = rows['time_ns'][recording == a], rows['time_ns'][recording == b]
        if times_a.min() <= times_b.max() and times_b.min() <= times_a.max():
            assert session[recording == a][0] == session[recording == b][0]

    looks = appearance(rows['thumbnail'])
    assert nearest(looks[train], looks[held_out]).min(initial=np.inf) >= config.min_change


@pytest.mark.parametrize(('lone', 'moments', 'cameras'), [(1, 59, 2), (100, 2, 20)])
def test_images_of_one_moment_are_held_out_within_the_budget(lone, moments, cameras):
    """Also where parts of the time line would end between a moment's images, or lie within it."""
    times = np.concatenate([np.arange(lone), lone + np.repeat(np.arange(moments), cameras)]) * 100_000_000
    count = len(times)
    topic = np.concatenate([np.zeros(lone, int), np.tile(np.arange(cameras), moments)])
    recording = np.repeat([0, 1], [lone, count - lone]) if lone > 1 else np.zeros(count, int)
    timeline = Timeline.of(recording, topic, times, [False] * (recording.max() + 1), slack=0.0)
    for budget, run, seed in product(range(1, count // 2 + 1), (1, 2, 5), range(3)):
        config = HarvestConfig(held_out_frames=budget, held_out_share=0.5, held_out_run=run)
        blocks = place_blocks(timeline, np.ones(count, bool), config, np.random.default_rng(seed))
        assert mark(timeline, blocks, 0).sum() <= budget
        assert blocks or budget < 2 * cameras


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 120), st.integers(1, 119), st.integers(0, 2**16))
def test_a_spread_choice_takes_as_many_as_asked_from_all_parts_of_the_time(count, budget, seed):
    budget = min(budget, count - 1)
    rng = np.random.default_rng(seed)
    places = np.sort(rng.random(count))
    taken = spread(rng.random((count, 4)).astype(np.float32), places, budget)
    assert len(set(taken.tolist())) == budget
    assert (np.diff(taken) > 0).all()
    parts, available = (
        np.bincount((places[taken] * 32).astype(int), minlength=32),
        np.bincount((places * 32).astype(int), minlength=32),
    )
    # A part has less than another only where it has no more to give.
    assert (parts[available > parts] >= parts.max() - 1).all()


def test_within_a_time_the_choice_takes_what_looks_least_alike():
    looks = np.zeros((100, 2), np.float32)
    looks[37] = 3, 0
    looks[71] = 0, 3
    taken = spread(looks, np.full(100, 0.5), 3)
    assert {37, 71} <= set(taken.tolist())


def test_each_flaw_has_its_reason():
    rows = rows_of(40)
    rows['fault'][3] = b'empty image'
    rows['black'][5], rows['white'][6], rows['contrast'][7], rows['sharpness'][8] = 0.9, 0.9, 3, 0.3
    rows['thumbnail'][10] = rows['thumbnail'][9]
    rows['sharpness'][11] = 0.5
    fates = choose(rows, held_out_share=0.0).fates
    expected = {
        3: Fate.UNREADABLE,
        5: Fate.UNDER_EXPOSED,
        6: Fate.OVER_EXPOSED,
        7: Fate.NO_CONTRAST,
        8: Fate.BLURRED,
        10: Fate.NEAR_DUPLICATE,
    }
    assert {index: fate for index, fate in enumerate(fates) if fate != Fate.TRAIN} == expected


def test_a_soft_camera_is_no_blurred_one_and_a_floor_remains():
    rows = rows_of(200)
    rows['sharpness'] = 0.3  # a soft lens all along
    assert (choose(rows, held_out_share=0.0).fates == Fate.TRAIN).all()
    rows['sharpness'] = 0.15
    assert (choose(rows, held_out_share=0.0).fates == Fate.BLURRED).all()


def test_a_camera_that_stands_still_gives_one_frame_until_it_moves():
    rows = rows_of(300)
    rows['thumbnail'][50:250] = rows['thumbnail'][50]
    fates = choose(rows, held_out_share=0.0).fates
    assert (fates[:51] == Fate.TRAIN).all()
    assert (fates[51:250] == Fate.NEAR_DUPLICATE).all()
    assert (fates[250:] == Fate.TRAIN).all()


def test_each_camera_is_compared_with_itself():
    left, right = rows_of(50), rows_of(50, topic=1)
    right['thumbnail'] = left['thumbnail']  # as of a stereo pair
    assert (choose(merged(left, right), held_out_share=0.0).fates == Fate.TRAIN).all()


def test_blocks_avoid_a_camera_that_stands_still():
    rows = rows_of(2000)
    rows['thumbnail'][200:1800] = rows['thumbnail'][200]
    for seed in range(5):
        chosen = choose(rows, seed=seed, held_out_frames=25, held_out_run=25)
        held_out = np.flatnonzero(chosen.fates == Fate.HELD_OUT)
        assert (held_out < 202).all() or (held_out >= 1799).all()


def test_the_seed_moves_the_blocks():
    rows = rows_of(3000)
    firsts = {choose(rows, seed=seed).blocks[0].first_ns for seed in range(6)}
    assert len(firsts) > 3


@pytest.mark.parametrize('cameras', [1, 2])
def test_blocks_have_as_many_images_in_a_row_of_each_camera_as_asked_and_are_spread(cameras):
    rows = merged(*(rows_of(3600, topic=topic) for topic in range(cameras)))
    chosen = choose(rows, held_out_frames=200 * cameras, held_out_run=24)
    assert len(chosen.blocks) == 8
    assert chosen.gap_ns == pytest.approx(0.2 * 120 / 16 * NS)
    for number, block in enumerate(chosen.blocks):
        assert 15 * number <= (block.first_ns - START) / NS < 15 * (number + 1)
        inside = (rows['time_ns'] >= block.first_ns) & (rows['time_ns'] <= block.last_ns)
        for topic in range(cameras):
            indices = rows['index'][inside & (rows['topic'] == topic)]
            assert 20 <= len(indices) <= 25
            assert (np.diff(indices) == 1).all()
            assert (chosen.fates[inside] == Fate.HELD_OUT).all()


def test_on_a_short_recording_gaps_take_no_more_than_held_out_frames():
    chosen = choose(rows_of(250))
    in_gap, held_out = (int((chosen.fates == fate).sum()) for fate in (Fate.IN_GAP, Fate.HELD_OUT))
    assert held_out == 50
    assert 0.8 * held_out < in_gap <= held_out + 2


def test_a_train_frame_must_not_look_like_one_held_out():
    rows = rows_of(600)
    chosen = choose(rows)
    twin, original = np.flatnonzero(chosen.fates == Fate.TRAIN)[5], np.flatnonzero(chosen.fates == Fate.HELD_OUT)[3]
    rows['thumbnail'][twin] = rows['thumbnail'][original]
    assert choose(rows).fates[twin] == Fate.LIKE_HELD_OUT


def test_a_budget_is_spread_over_all_the_time():
    chosen = choose(rows_of(6000), train_frames=320, held_out_share=0.0)
    kept = np.flatnonzero(chosen.fates == Fate.TRAIN)
    assert len(kept) == 320
    np.testing.assert_array_equal(np.bincount(kept * 32 // 6000), np.full(32, 10))
    assert (chosen.fates[chosen.fates != Fate.TRAIN] == Fate.OVER_BUDGET).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=80), st.floats(0.1, 4))
def test_the_running_median_is_that_of_the_neighbours(values, seconds):
    values = np.array(values, np.float32)
    times = np.arange(len(values)) * NS // 10
    reach = int(np.clip(seconds * 10, 1, max(len(values) - 1, 1)))
    medians = running_median(values, times, seconds)
    if len(values) < 3:
        np.testing.assert_array_equal(medians, values)
    elif reach < 20:  # beyond, some are interpolated
        expected = [np.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
        np.testing.assert_allclose(medians, expected, atol=1e-6)
