"""What the front-end reports of itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='needs rclpy')

from superpoint_ros.nodes import statistics
from superpoint_ros.nodes.statistics import Statistics


class Clock:
    """The monotonic clock, set by hand."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(statistics, 'monotonic', lambda: self.now)


def test_latency_and_rate_are_those_of_the_last_10_seconds(monkeypatch):
    clock = Clock(monkeypatch)
    figures = Statistics()
    assert figures.report()['latency_p50_ms'] == 'nan'
    latencies = np.random.default_rng(0).permutation(200.0 * np.arange(1, 31))
    for latency in (1e6, *latencies):
        figures.on_processed(latency, {})
        clock.now += 0.5 if latency < 1e6 else 20.0
    clock.now -= 0.5
    recent = latencies[-21:]  # both ends of 10 s are in them
    report = figures.report()
    for percent in (50, 95, 99):
        assert float(report[f'latency_p{percent}_ms']) == np.round(np.percentile(recent, percent), 2)
    assert report['rate_hz'] == '2.0'
    clock.now += 60
    assert figures.report()['rate_hz'] == '0.0'


def test_what_was_lost_lately_is_told_beside_what_came(monkeypatch):
    clock = Clock(monkeypatch)
    figures = Statistics()
    for lost in (5, 2, 0):
        figures.on_lost(lost)
        figures.on_received()
        clock.now += 6.0
    assert figures.lately == {'received': 1, 'lost': 0}
    clock.now -= 3.0
    assert figures.lately == {'received': 1, 'lost': 0}
    figures.on_lost(3)
    figures.on_failed('wrong step')
    figures.on_unsteady()
    assert figures.lately == {'received': 1, 'lost': 3, 'failed': 1, 'unsteady': 1}
    assert figures.report()['lost'] == '10'
    clock.now += 20.0
    assert not figures.lately


def test_the_rate_falls_from_when_the_next_image_is_due(monkeypatch):
    clock = Clock(monkeypatch)
    figures = Statistics()
    for count in range(21):
        assert figures.report()['rate_hz'] == ('10.0' if count > 1 else '0.0')
        figures.on_processed(1.0, {})
        clock.now += 0.1
    for late, rate in ((0.0, '10.0'), (0.5, '8.0'), (2.0, '5.0')):
        clock.now += late
        assert figures.report()['rate_hz'] == rate
        clock.now -= late


@given(st.lists(st.sampled_from(['processed', 'dropped', 'wrong step', 'short data'])))
def test_each_image_received_is_processed_dropped_or_failed(fates):
    figures = Statistics()
    for fate in fates:
        figures.on_received()
        if fate == 'processed':
            figures.on_processed(1.0, {'keypoints': 7})
        elif fate == 'dropped':
            figures.on_dropped()
        else:
            assert figures.on_failed(fate) == (int(figures.report().get(f'failed: {fate}', 0)) == 1)
    report = figures.report()
    received, *ends = (int(report[name]) for name in ('received', 'processed', 'dropped', 'failed'))
    assert received == sum(ends) == len(fates)
    for cause in ('wrong step', 'short data'):
        assert int(report.get(f'failed: {cause}', 0)) == fates.count(cause)


def test_what_is_odd_is_counted_and_worth_a_line_once():
    figures = Statistics(paired=True)
    assert [figures.on_noticed('time went back') for _ in range(3)] == [True, False, False]
    assert figures.on_noticed('zero camera_info')
    figures.on_unpaired()
    report = figures.report()
    assert [report[name] for name in ('notice: time went back', 'notice: zero camera_info', 'unpaired')] == [
        '3',
        '1',
        '1',
    ]
    assert 'unpaired' not in Statistics().report()


def test_silence_and_standstill(monkeypatch):
    clock = Clock(monkeypatch)
    figures = Statistics()
    clock.now += 30
    assert (figures.silence, figures.standstill) == (30, 0)
    figures.on_received()
    assert (figures.silence, figures.standstill) == (0, 0)
    clock.now += 2
    figures.on_received()
    clock.now += 1
    figures.on_failed('wrong step')
    assert (figures.silence, figures.standstill) == (1, 3)
    figures.on_processed(1.0, {})
    assert figures.standstill == 0
    assert figures.lately == {'received': 2, 'failed': 1, 'processed': 1}
    figures.on_received()
    clock.now += 5
    figures.restart_clock()
    assert (figures.silence, figures.standstill) == (0, 0)
    assert not figures.lately
