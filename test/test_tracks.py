"""Tracks of features whose identity is known: descriptor k belongs to landmark k."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_ros.features import Features
from superpoint_ros.matching import Matches, match
from superpoint_ros.tracks import LARGEST_AGE, LARGEST_ID, Ids, Tracker, TrackSettings

LANDMARKS = 12


def see(landmarks, keypoints=None):
    """Features of these landmarks, in this order."""
    landmarks = np.asarray(landmarks, np.intp)
    keypoints = np.zeros((len(landmarks), 2)) if keypoints is None else keypoints
    descriptors = np.eye(LANDMARKS, dtype=np.float32)[landmarks]
    return Features(np.asarray(keypoints, np.float32), np.ones(len(landmarks), np.float32), descriptors)


class Sequence:
    """Feeds frames to a tracker as a front-end does; returns {landmark: (id, age)}."""

    def __init__(self, **settings):
        self.tracker = Tracker(TrackSettings(**settings))
        self.previous = None

    def frame(self, landmarks, keypoints=None):
        features = see(landmarks, keypoints)
        matches = match(features, self.previous) if self.previous else Matches.empty()
        ids, ages = self.tracker.update(features, matches)
        assert (ids.dtype, ages.dtype) == (np.uint32, np.uint16)
        self.previous = features
        return {landmark: (int(i), int(a)) for landmark, i, a in zip(landmarks, ids, ages, strict=True)}


def test_ids_count_from_one_and_follow_their_features():
    sequence = Sequence()
    assert sequence.frame([3, 5]) == {3: (1, 1), 5: (2, 1)}
    assert sequence.frame([7, 5, 3]) == {7: (3, 1), 5: (2, 2), 3: (1, 2)}
    assert sequence.frame([5, 7]) == {5: (2, 3), 7: (3, 2)}


@given(
    st.integers(0, 3),
    st.lists(st.lists(st.integers(0, LANDMARKS - 1), unique=True), min_size=1, max_size=12),
)
def test_ids_survive_exactly_max_missed_frames_and_never_repeat(max_missed, frames):
    """The oracle knows the landmarks: a gap within the limit keeps the id, a longer one or an age of 1 ends it."""
    sequence = Sequence(max_missed=max_missed)
    last_seen, current, given_out = {}, {}, 0
    for number, landmarks in enumerate(frames):
        observed = sequence.frame(landmarks)
        for landmark in landmarks:
            missed = number - last_seen.get(landmark, -np.inf) - 1
            if missed == 0 or (missed <= max_missed and current[landmark][1] > 1):
                current[landmark] = (current[landmark][0], current[landmark][1] + 1)
            else:
                given_out += 1
                current[landmark] = (given_out, 1)
            last_seen[landmark] = number
        assert observed == {landmark: current[landmark] for landmark in landmarks}


def test_only_inliers_go_on_and_a_track_lost_now_is_not_taken_up_now():
    tracker = Tracker()
    tracker.update(see([0, 1]), Matches.empty())
    rows = np.array([0, 1], np.int32)
    matches = Matches(rows, rows, np.ones(2, np.float32), np.array([True, False]))
    ids, ages = tracker.update(see([0, 1]), matches)
    assert (ids.tolist(), ages.tolist()) == ([1, 3], [2, 1])


def test_a_lost_track_goes_on_only_near_where_it_was_lost():
    for x, expected in ((140, 1), (160, 2)):
        sequence = Sequence(search_radius=50)
        sequence.frame([0], [[100, 100]])
        sequence.frame([0], [[100, 100]])
        sequence.frame([])
        assert sequence.frame([0], [[x, 100]])[0][0] == expected


def test_after_forget_ids_go_on_and_no_track_does():
    sequence = Sequence()
    sequence.frame([0, 1])
    sequence.tracker.forget()
    sequence.previous = None
    assert sequence.frame([0, 1]) == {0: (3, 1), 1: (4, 1)}


def test_ids_begin_again_after_the_largest():
    ids, nothing = Ids(5), np.zeros(0, np.uint32)
    assert ids.take(3, nothing).tolist() == [1, 2, 3]
    assert ids.take(0, nothing).tolist() == []
    assert ids.take(3, np.array([5, 1], np.uint32)).tolist() == [4, 2, 3]
    assert ids.take(2, nothing).tolist() == [4, 5]
    assert ids.take(1, nothing).tolist() == [1]


def test_ids_use_the_whole_uint32_and_leave_out_those_in_use():
    assert np.iinfo(np.uint32).max == LARGEST_ID
    sequence = Sequence()
    sequence.frame([0, 1])
    sequence.tracker._ids._next = LARGEST_ID - 1
    ids = [track for track, _ in sequence.frame([0, 1, 2, 3, 4, 5]).values()]
    assert ids == [1, 2, LARGEST_ID - 1, LARGEST_ID, 3, 4]
    assert [track for track, _ in sequence.frame([6]).values()] == [5]


def test_ages_stop_at_the_largest():
    sequence = Sequence()
    sequence.frame([0])
    sequence.tracker._seen.ages[:] = LARGEST_AGE - 1
    assert [sequence.frame([0])[0] for _ in range(2)] == [(1, LARGEST_AGE)] * 2


@pytest.mark.parametrize(('name', 'value'), [('max_missed', -1), ('min_similarity', 2.0), ('search_radius', -1.0)])
def test_settings_outside_their_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        TrackSettings(**{name: value})


@given(cameras=st.integers(1, 8), largest=st.integers(40, 60), counts=st.lists(st.integers(0, 4), max_size=30))
def test_cameras_of_a_rig_never_give_the_same_id_and_use_all_in_turn(cameras, largest, counts):
    given_ids = []
    for camera in range(cameras):
        ids = Ids(largest, camera, cameras)
        own = [int(i) for count in counts for i in ids.take(count, in_use=np.zeros(0, np.uint32))]
        every = list(range(camera + 1, largest + 1, cameras))
        assert own == [every[n % len(every)] for n in range(len(own))]
        given_ids.append(set(own))
    assert sum(map(len, given_ids)) == len(set().union(*given_ids))
