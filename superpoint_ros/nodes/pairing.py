"""Pairs the images of two cameras by their stamps: with message_filters where it is installed, else without."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from superpoint_ros.clouds import stamp_ns

try:
    import message_filters
except ImportError:
    message_filters = None

QUEUE = 10
"""Images of each camera that wait for their partner, at most; the oldest gives way."""

OnPair = Callable[[Any, Any], None]
OnUnpaired = Callable[[int], None]


class Pairing(Protocol):
    """Two images make a pair when their stamps differ by the slop at most; no image is in two pairs."""

    description: str
    """For people."""

    def put(self, camera: int, message: Any) -> None:
        """Take the next image of camera 0 or 1; pairs are reported before this returns."""

    def clear(self) -> None:
        """Give up the images that wait; each is reported as unpaired."""

    @property
    def waiting(self) -> tuple[list[int], list[int]]:
        """Stamps in ns of the images of both cameras that wait."""


def make_pairing(slop_ns: int, on_pair: OnPair, on_unpaired: OnUnpaired) -> Pairing:
    """The pairing to use on this machine.

    slop_ns: most that stamps of one pair differ, nanoseconds; 0 pairs equal ones. on_pair: gets the message of
    camera 0 and that of camera 1. on_unpaired: gets the camera of an image that found no partner.
    """
    kind = StampPairing if message_filters is None else FilterPairing
    return kind(slop_ns, on_pair, on_unpaired)


class StampPairing:
    """Pairs each image with the one of the nearest stamp that the other camera has sent, of equally near ones the last.

    What waits is given up in the order of arrival, so that stamps that jump back, as in a bag that starts
    again, are paired like any others.
    """

    def __init__(self, slop_ns: int, on_pair: OnPair, on_unpaired: OnUnpaired) -> None:
        self._slop_ns = slop_ns
        self._on_pair = on_pair
        self._on_unpaired = on_unpaired
        self._queues: tuple[deque[tuple[int, Any]], deque[tuple[int, Any]]] = (deque(), deque())
        self.description = f'own pairing, {_describe(slop_ns)}'

    def put(self, camera: int, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        mine, others = self._queues[camera], self._queues[1 - camera]
        apart = [abs(other - stamp) for other, _ in others]
        nearest = min(reversed(range(len(apart))), key=apart.__getitem__, default=None)
        if nearest is not None and apart[nearest] <= self._slop_ns:
            _, partner = others[nearest]
            del others[nearest]
            pair = (message, partner) if camera == 0 else (partner, message)
            self._on_pair(*pair)
            return
        mine.append((stamp, message))
        if len(mine) > QUEUE:
            mine.popleft()
            self._on_unpaired(camera)

    def clear(self) -> None:
        for camera, queue in enumerate(self._queues):
            while queue:
                queue.popleft()
                self._on_unpaired(camera)

    @property
    def waiting(self) -> tuple[list[int], list[int]]:
        left, right = ([stamp for stamp, _ in queue] for queue in self._queues)
        return left, right


class FilterPairing:
    """message_filters' synchronizers, with what they give up counted.

    They give up the earliest stamp. After a jump back that would be each new image at once: then those that
    wait are given up instead.
    """

    def __init__(self, slop_ns: int, on_pair: OnPair, on_unpaired: OnUnpaired) -> None:
        self._on_pair = on_pair
        self._on_unpaired = on_unpaired
        self.description = f'message_filters, {_describe(slop_ns)}'
        self._inputs = (message_filters.SimpleFilter(), message_filters.SimpleFilter())
        if slop_ns:
            seconds = (slop_ns + 1) * 1e-9  # they pair what differs by less
            self._synchronizer = message_filters.ApproximateTimeSynchronizer(self._inputs, QUEUE, seconds)
        else:
            self._synchronizer = message_filters.TimeSynchronizer(self._inputs, QUEUE)
        self._synchronizer.registerCallback(self._pair)

    def put(self, camera: int, message: Any) -> None:
        if message.header.stamp.sec < 0:  # they would raise, with their lock held
            self._on_unpaired(camera)
            return
        stamps = self.waiting[camera]
        if len(stamps) == QUEUE and stamp_ns(message.header.stamp) < min(stamps):
            self._give_up(camera)
        self._paired, before = 0, len(self.waiting[camera])
        self._inputs[camera].signalMessage(message)
        for _ in range(before + 1 - self._paired - len(self.waiting[camera])):
            self._on_unpaired(camera)

    def clear(self) -> None:
        self._give_up(0)
        self._give_up(1)

    @property
    def waiting(self) -> tuple[list[int], list[int]]:
        left, right = (list(queue) for queue in self._synchronizer.queues)
        return left, right

    def _give_up(self, camera: int) -> None:
        queue = self._synchronizer.queues[camera]
        while queue:
            queue.popitem()
            self._on_unpaired(camera)

    def _pair(self, left: Any, right: Any) -> None:
        self._paired += 1
        self._on_pair(left, right)


def _describe(slop_ns: int) -> str:
    return f'stamps within {slop_ns * 1e-6:g} ms' if slop_ns else 'equal stamps'
