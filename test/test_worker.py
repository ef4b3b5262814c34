"""The newest item is handled, every other one is counted as dropped, and no error ends the thread."""

import threading
import time

from superpoint_ros.nodes.worker import NewestWins


class Desk:
    """A worker that takes its time: `handle` ends when it is told to."""

    def __init__(self) -> None:
        self.handled, self.dropped, self.errors = [], 0, []
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = NewestWins(self.handle, self.drop, self.errors.append)

    def handle(self, item) -> None:
        self.begun.release()
        self.may_end.acquire()
        self.handled.append(item)
        if isinstance(item, Exception):
            raise item

    def drop(self) -> None:
        self.dropped += 1


def test_what_waits_gives_way_to_the_newest():
    desk = Desk()
    for item in range(1, 6):
        desk.worker.put(item)
        if item == 1:
            desk.begun.acquire()
    desk.may_end.release(2)
    desk.begun.acquire()
    desk.worker.stop()
    assert desk.handled == [1, 5]
    assert desk.dropped == 3


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
    assert desk.handled == ['in hand']
    assert desk.dropped == 1


def test_an_error_is_reported_and_the_next_item_is_handled():
    desk = Desk()
    desk.may_end.release(2)
    for item in (ZeroDivisionError('first'), 'second'):
        desk.worker.put(item)
        desk.begun.acquire()
    desk.worker.stop()
    assert desk.handled[1] == 'second'
    (error,) = desk.errors
    assert error.startswith('Traceback')
    assert error.endswith('ZeroDivisionError: first\n')
