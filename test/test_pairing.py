"""Both ways of pairing are held to the same promises."""

from itertools import count

import pytest

pytest.importorskip('rclpy', reason='needs the ROS messages')

from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from superpoint_ros.nodes import pairing
from superpoint_ros.nodes.pairing import QUEUE, FilterPairing, StampPairing, make_pairing

LEFT, RIGHT = 0, 1
PERIOD = 50_000_000  # nanoseconds
KINDS = [
    StampPairing,
    pytest.param(
        FilterPairing,
        marks=pytest.mark.skipif(
            pairing.message_filters is None, reason='message_filters is not installed: it comes with a ROS distribution'
        ),
    ),
]


class Desk:
    """A pairing and what it reported; messages are told apart by a number in their frame id."""

    def __init__(self, kind, slop_ns: int = 0) -> None:
        self.pairs, self.unpaired = [], [0, 0]
        self.pairing = kind(slop_ns, self.take_pair, self.take_unpaired)
        self._numbers = (count(), count())

    def put(self, camera: int, *stamps: int) -> None:
        for stamp in stamps:
            message = Image()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            message.header.frame_id = str(next(self._numbers[camera]))
            self.pairing.put(camera, message)

    def take_pair(self, left: Image, right: Image) -> None:
        self.pairs.append((int(left.header.frame_id), int(right.header.frame_id)))

    def take_unpaired(self, camera: int) -> None:
        self.unpaired[camera] += 1

    @property
    def waiting(self) -> tuple[int, int]:
        left, right = self.pairing.waiting
        return len(left), len(right)


@pytest.mark.parametrize('kind', KINDS)
class TestBoth:
    def test_a_stamp_before_1970_holds_nothing_up(self, kind):
        desk = Desk(kind)
        desk.put(LEFT, -PERIOD, PERIOD)
        desk.put(RIGHT, PERIOD)
        assert len(desk.pairs) == 1

    @pytest.mark.parametrize('late', [0, 1, 5, QUEUE - 1])
    def test_a_camera_that_comes_late_by_some_images_is_paired(self, kind, late):
        desk = Desk(kind)
        for number in range(30):
            desk.put(LEFT, number * PERIOD)
            if number >= late:
                desk.put(RIGHT, (number - late) * PERIOD)
        assert desk.pairs == [(number, number) for number in range(30 - late)]
        assert desk.waiting == (late, 0)
        assert desk.unpaired == [0, 0]

    def test_equal_stamps_out_of_order_are_paired(self, kind):
        desk = Desk(kind)
        desk.put(LEFT, *(n * PERIOD for n in (0, 1, 2, 3, 4)))
        desk.put(RIGHT, *(n * PERIOD for n in (2, 0, 1, 4, 3)))
        assert sorted(desk.pairs) == [(0, 1), (1, 2), (2, 0), (3, 4), (4, 3)]

    def test_stamps_that_never_pair_are_given_up_and_the_queue_is_bounded(self, kind):
        desk = Desk(kind)
        for number in range(100):
            desk.put(LEFT, number * PERIOD)
            desk.put(RIGHT, number * PERIOD + PERIOD // 2)
            assert max(desk.waiting) <= QUEUE
        assert desk.pairs == []
        assert desk.unpaired == [100 - QUEUE, 100 - QUEUE]

    def test_a_camera_that_stops_leaves_a_bounded_queue_and_is_paired_again(self, kind):
        desk = Desk(kind)
        desk.put(LEFT, *(n * PERIOD for n in range(40)))
        assert desk.waiting == (QUEUE, 0)
        assert desk.unpaired == [40 - QUEUE, 0]
        desk.put(RIGHT, 39 * PERIOD)
        desk.put(LEFT, 40 * PERIOD)
        desk.put(RIGHT, 40 * PERIOD)
        assert desk.pairs == [(39, 0), (40, 1)]

    @pytest.mark.parametrize('slop', [0, PERIOD // 4])
    @pytest.mark.parametrize('waiting', [0, 3, QUEUE])
    def test_after_a_jump_back_in_time_images_are_paired_as_before(self, kind, slop, waiting):
        desk = Desk(kind, slop)
        desk.put(LEFT, *(10**12 + n * PERIOD for n in range(waiting)))
        for number in range(30):
            desk.put(RIGHT, number * PERIOD)
            desk.put(LEFT, number * PERIOD + slop // 2)
        assert desk.pairs == [(waiting + number, number) for number in range(30)]
        assert desk.unpaired[RIGHT] == 0
        assert desk.unpaired[LEFT] + desk.waiting[LEFT] == waiting

    @pytest.mark.parametrize('apart', [-PERIOD // 4, -1, 0, 1, PERIOD // 4])
    def test_stamps_within_the_slop_are_paired_whoever_comes_first(self, kind, apart):
        for first in (LEFT, RIGHT):
            desk = Desk(kind, PERIOD // 4)
            for number in range(20):
                stamps = {LEFT: (number + 1) * PERIOD, RIGHT: (number + 1) * PERIOD + apart}
                desk.put(first, stamps[first])
                desk.put(1 - first, stamps[1 - first])
            assert desk.pairs == [(number, number) for number in range(20)]

    @pytest.mark.parametrize('slop', [0, PERIOD // 4])
    def test_stamps_beyond_the_slop_are_not_paired(self, kind, slop):
        desk = Desk(kind, slop)
        desk.put(LEFT, PERIOD)
        desk.put(RIGHT, PERIOD + slop + 1)
        assert desk.pairs == []
        assert desk.waiting == (1, 1)

    def test_of_several_that_wait_the_nearest_is_taken(self, kind):
        desk = Desk(kind, PERIOD)
        desk.put(LEFT, 100 * PERIOD, 100 * PERIOD + 30, 100 * PERIOD + 60)
        desk.put(RIGHT, 100 * PERIOD + 40, 100 * PERIOD + 41, 100 * PERIOD + 42)
        assert desk.pairs == [(1, 0), (2, 1), (0, 2)]

    def test_what_is_cleared_is_unpaired(self, kind):
        desk = Desk(kind)
        desk.put(LEFT, 1, 2, 3)
        desk.put(RIGHT, 4)
        desk.pairing.clear()
        assert desk.unpaired == [3, 1]
        assert desk.waiting == (0, 0)

    @settings(deadline=None, max_examples=60)
    @given(
        slop=st.sampled_from([0, 3, 10]),
        events=st.lists(st.tuples(st.sampled_from([LEFT, RIGHT]), st.integers(0, 60)), max_size=120, unique=True),
    )
    def test_no_image_is_used_twice_or_lost_without_a_word(self, kind, slop, events):
        desk = Desk(kind, slop)
        stamps = ([], [])
        for camera, stamp in events:
            desk.put(camera, stamp)
            stamps[camera].append(stamp)
            assert max(desk.waiting) <= QUEUE
        for camera in (LEFT, RIGHT):
            used = [pair[camera] for pair in desk.pairs]
            assert len(set(used)) == len(used)
            assert len(stamps[camera]) == len(used) + desk.unpaired[camera] + desk.waiting[camera]
        assert all(abs(stamps[LEFT][left] - stamps[RIGHT][right]) <= slop for left, right in desk.pairs)


def test_without_stamps_the_latest_images_are_paired_though_one_camera_paused():
    desk = Desk(StampPairing)
    desk.put(LEFT, *[0] * 30)
    for _ in range(5):
        desk.put(LEFT, 0)
        desk.put(RIGHT, 0)
    assert desk.pairs == [(30 + number, number) for number in range(5)]


def test_message_filters_is_used_where_it_is(monkeypatch):
    made = make_pairing(0, print, print)
    assert isinstance(made, StampPairing if pairing.message_filters is None else FilterPairing)
    monkeypatch.setattr(pairing, 'message_filters', None)
    made = make_pairing(5_000_000, print, print)
    assert isinstance(made, StampPairing)
    assert made.description == 'own pairing, stamps within 5 ms'
