"""The newest item of each source is handled, the others are counted as dropped, and no error ends the thread."""

import threading
import time

from superpoint_ros.nodes import worker
from superpoint_ros.nodes.worker import NewestWins


class Desk:
    """A worker that takes its time: `handle` ends when it is told to."""

    def __init__(self, gather: float = 0.0) -> None:
        self.handled, self.dropped, self.errors = [], [], []
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = NewestWins(self.handle, self.dropped.append, self.errors.append, gather)

    def handle(self, items) -> None:
        self.begun.release()
        self.may_end.acquire()
        self.handled.append(items)
        if isinstance(items.get(0), Exception):
            raise items[0]


def test_what_waits_gives_way_to_the_newest():
    desk = Desk()
    for item in range(1, 6):
        desk.worker.put(item)
        if item == 1:
            desk.begun.acquire()
    desk.may_end.release(2)
    desk.begun.acquire()
    desk.worker.stop()
    assert desk.handled == [{0: 1}, {0: 5}]
    assert desk.dropped == [0, 0, 0]


def test_stop_finishes_the_item_in_hand_and_counts_the_waiting_one_as_dropped():
    desk = Desk()
    desk.worker.put('in hand')
    desk.begun.acquire()
    desk.worker.put('waiting')
    stopping = threading.Thread(target=desk.worker.stop)
    stopping.start()
    while not desk.worker._stopped:
        time.sleep(0.001)
    desk.may_end.release()
    stopping.join()
    assert desk.handled == [{0: 'in hand'}]
    assert desk.dropped == [0]


def test_an_error_is_reported_and_the_next_item_is_handled():
    desk = Desk()
    desk.may_end.release(2)
    for item in (ZeroDivisionError('first'), 'second'):
        desk.worker.put(item)
        desk.begun.acquire()
    desk.worker.stop()
    assert desk.handled[1] == {0: 'second'}
    (error,) = desk.errors
    assert error.startswith('Traceback')
    assert error.endswith('ZeroDivisionError: first\n')


def test_what_waits_of_several_sources_is_handled_together_and_each_gives_way_to_its_own_newest():
    desk = Desk()
    desk.worker.put('in hand')
    desk.begun.acquire()
    for item, source in (('b', 2), ('a', 0), ('c', 2), ('d', 1)):
        desk.worker.put(item, source)
    desk.may_end.release(2)
    desk.begun.acquire()
    desk.worker.stop()
    assert desk.handled[1:] == [{0: 'a', 1: 'd', 2: 'c'}]
    assert list(desk.handled[1]) == [0, 1, 2]
    assert desk.dropped == [2]


def test_the_first_waits_for_the_others_that_are_alive_but_not_for_silent_ones(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(worker, 'monotonic', lambda: now[0])
    desk = Desk(gather=600.0)
    desk.may_end.release(9)
    desk.worker.put('0 at 0')  # knows of no other yet
    assert desk.begun.acquire(timeout=30)
    desk.worker.put('2 at 0', 2)
    desk.worker.put('1 at 0', 1)
    assert not desk.begun.acquire(timeout=0.1), 'It does not wait for source 0.'
    desk.worker.put('0 at 0.1')
    assert desk.begun.acquire(timeout=30)
    now[0] = 5.0  # now 1 and 2 have been silent for 5 s
    desk.worker.put('0 at 5')
    assert desk.begun.acquire(timeout=30)
    desk.worker.stop()
    assert desk.handled == [{0: '0 at 0'}, {0: '0 at 0.1', 1: '1 at 0', 2: '2 at 0'}, {0: '0 at 5'}]


def test_the_time_that_others_were_in_hand_is_time_that_the_first_has_waited(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(worker, 'monotonic', lambda: now[0])
    monkeypatch.setattr(worker, '_ALIVE', 1000.0)
    desk = Desk(gather=600.0)
    desk.worker.put('in hand')
    assert desk.begun.acquire(timeout=30)
    desk.worker.put('waits', 1)
    now[0] = 700.0
    desk.may_end.release(2)
    assert desk.begun.acquire(timeout=30), 'It waits for source 0 for 600 s from now on.'
    desk.worker.stop()
    assert desk.handled == [{0: 'in hand'}, {1: 'waits'}]


def test_who_does_not_come_is_waited_for_no_longer_than_said():
    desk = Desk(gather=0.01)
    desk.may_end.release(9)
    desk.worker.put('a', 0)
    assert desk.begun.acquire(timeout=30)
    desk.worker.put('b', 1)
    assert desk.begun.acquire(timeout=30)
    desk.worker.stop()
    assert desk.handled == [{0: 'a'}, {1: 'b'}]
