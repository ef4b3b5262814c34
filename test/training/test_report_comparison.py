"""Two runs side by side, and the bootstrap against brute force."""

import copy
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_results import PAIRS_A_SCENE, PageReader, make_shapes_results
from report_results import make_results as make_results_of

from superpoint_training.report import compare
from superpoint_training.report.bootstrap import bootstrap_mean, resamples
from superpoint_training.report.caveats import few_scenes
from superpoint_training.report.differences import differences
from superpoint_training.report.measures import REPEATABILITY

SCENES = ('i_wall', 'v_graffiti', 'v_bark', 'i_bikes', 'v_boat', 'i_ubc')  # as many as a verdict takes
make_results = partial(make_results_of, scenes=SCENES)


def brute_force(values: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """The interval from pooling, draw by draw, the values of every drawn group."""
    names = sorted(set(groups.tolist()))
    means = []
    for counts in resamples(len(names), draws, seed):
        pooled = []
        for name, count in zip(names, counts, strict=True):
            pooled += [value for value, group in zip(values, groups, strict=True) if group == name] * int(count)
        means.append(sum(pooled) / len(pooled))
    return tuple(np.percentile(means, [2.5, 97.5]))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.sampled_from('abcd')), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.booleans(),
)
def test_the_bootstrap_is_what_brute_force_finds(samples, seed, grouped):
    values = np.array([value for value, _ in samples])
    groups = np.array([group for _, group in samples]) if grouped else np.arange(len(samples))
    found = bootstrap_mean(values, groups if grouped else None, draws=50, seed=seed)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(brute_force(values, groups, 50, seed), abs=1e-9)


def test_draws_take_as_many_groups_as_there_are():
    counts = resamples(7, 1000, 0)
    assert counts.shape == (1000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


def test_intervals_of_a_known_distribution_have_the_known_width():
    values = np.random.default_rng(0).standard_normal(400)
    interval = bootstrap_mean(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 400**0.5, rel=0.05)


def test_pairs_of_one_scene_count_as_one():
    values = np.repeat(np.random.default_rng(0).standard_normal(20), 30)
    alone = bootstrap_mean(values)
    together = bootstrap_mean(values, np.repeat(np.arange(20), 30))
    assert together.high - together.low > 4 * (alone.high - alone.low)


def test_nothing_to_average_is_an_empty_interval():
    empty = bootstrap_mean(np.zeros(0))
    assert np.isnan(empty.mean)
    assert not empty.is_known
    assert not empty.excludes_zero
    assert bootstrap_mean(np.array([2.0])) == bootstrap_mean(np.array([2.0]), np.array(['a']))


def shifted(results: dict, name: str, key: str, change: float) -> dict:
    """The results with a figure of every pair, and its mean, changed."""
    results = copy.deepcopy(results)
    for pair in results['detectors'][name]['per_pair'].values():
        pair[key] = None if pair[key] is None else pair[key] + change
    results['detectors'][name][key] += change
    return results


def rows_of(comparison, detector: str) -> dict:
    return {row.measure.title: row for row in comparison.rows if row.detector == detector}


def test_a_run_compared_with_itself_differs_in_nothing():
    comparison = compare(make_results(), make_results())
    assert {row.verdict for row in comparison.rows} == {'noise'}
    assert {row.by_pair.mean for row in comparison.rows} == {0.0}
    assert comparison.remarks == []


@pytest.mark.parametrize(('key', 'title', 'change', 'verdict'), [
    ('repeatability', 'repeatability', 0.1, 'better'),
    ('repeatability', 'repeatability', -0.1, 'worse'),
    ('localization_error', 'localisation error, px', -0.2, 'better'),
    ('localization_error', 'localisation error, px', 0.2, 'worse'),
])  # fmt: skip
def test_a_change_of_every_pair_is_more_than_noise(key, title, change, verdict):
    before = make_results()
    comparison = compare(before, shifted(before, 'sift', key, change))
    row = rows_of(comparison, 'sift')[title]
    assert row.verdict == verdict
    assert row.by_pair.mean == pytest.approx(change)
    assert {other.verdict for other in comparison.rows if other is not row} == {'noise'}


def test_a_change_of_many_pairs_of_few_scenes_is_noise():
    before = make_results()
    after = copy.deepcopy(before)
    for name, pair in after['detectors']['sift']['per_pair'].items():
        pair['repeatability'] += 0.3 * name.startswith(SCENES[:2])
    row = rows_of(compare(before, after), 'sift')['repeatability']
    assert row.by_pair.excludes_zero  # some of these six of eighteen pairs are in nearly every draw
    assert not row.by_scene.excludes_zero
    assert row.verdict == 'noise'


def test_pairs_without_a_figure_on_both_sides_are_left_out():
    rows = rows_of(compare(make_results(), make_results()), 'superpoint')
    assert rows['localisation error, px'].pairs == len(SCENES) * PAIRS_A_SCENE - 1
    assert rows['repeatability'].pairs == rows['homography ≤ 3 px'].pairs == len(SCENES) * PAIRS_A_SCENE


def test_the_share_of_accurate_homographies_is_compared_pair_by_pair():
    before = make_results(('sift',))
    after = copy.deepcopy(before)
    for pair in before['detectors']['sift']['per_pair'].values():
        pair['corner_error'] = None
    for pair in after['detectors']['sift']['per_pair'].values():
        pair['corner_error'] = 2.0
    rows = rows_of(compare(before, after), 'sift')
    assert [rows[f'homography ≤ {t} px'].by_pair.mean for t in (1, 3, 5)] == [0, 1, 1]


def test_poses_are_compared_frame_pair_by_frame_pair():
    before = make_results(('sift',))
    after = copy.deepcopy(before)
    poses = after['detectors']['sift']['relative_pose']['kitchen']['10']['per_pair']
    for pair in poses.values():
        pair['error'] = 0.0
    rows = rows_of(compare(before, after), 'sift')
    row = rows['kitchen, 10 apart: AUC 10°']
    errors = [p['error'] for p in before['detectors']['sift']['relative_pose']['kitchen']['10']['per_pair'].values()]
    expected = np.mean([0 if error is None else max(0, 1 - error / 10) for error in errors])
    assert (row.first, row.second, row.verdict) == (pytest.approx(expected), 1, 'better')
    assert rows['kitchen, 1 apart: AUC 10°'].verdict == 'noise'


def test_only_common_pairs_and_detectors_count_and_the_rest_is_named():
    before, after = make_results(('sift', 'orb')), make_results(('sift', 'brisk'))
    del after['detectors']['sift']['per_pair']['i_wall 1-2']
    comparison = compare(before, after, ('old', 'new'))
    assert {row.detector for row in comparison.rows} == {'sift'}
    assert rows_of(comparison, 'sift')['repeatability'].pairs == len(SCENES) * PAIRS_A_SCENE - 1
    assert comparison.remarks == [
        'Only in old: orb.', 'Only in new: brisk.', 'sift: 1 pairs are in one run only and were left out.',
    ]  # fmt: skip


def test_one_detector_in_each_run_is_compared_whatever_its_name():
    comparison = compare(make_results(('before',)), make_results(('after',)))
    assert {row.detector for row in comparison.rows} == {'before → after'}


@pytest.mark.parametrize(('second', 'message'), [
    (make_results() | {'protocol': 'kp2d-640'}, 'kp2d-640'),
    (make_results() | {'protocol_settings': {'width': 640}}, 'settings'),
    (make_results(('brisk', 'akaze')), 'no detector in common'),
])  # fmt: skip
def test_runs_that_do_not_compare_are_refused(second, message):
    with pytest.raises(ValueError, match=message):
        compare(make_results(), second)


def test_the_three_writings_have_every_row(tmp_path):
    before = make_results()
    comparison = compare(before, shifted(before, 'orb', 'repeatability', 0.2), ('a.json', '<b>.json'))
    comparison.write(tmp_path / 'new')
    page = (tmp_path / 'new' / 'comparison.html').read_text()
    table = PageReader(page).tables[0]
    assert len(table) == 1 + len(comparison.rows)
    assert [row[-1] for row in table[1:]].count('better') == 1
    assert '<b>' not in page
    markdown = (tmp_path / 'new' / 'comparison.md').read_text()
    assert markdown.count('| orb |') == len(rows_of(comparison, 'orb'))
    assert 'interval' in markdown
    assert comparison.text().count('\norb ') == len(rows_of(comparison, 'orb'))
    assert comparison.page().html() == page


def test_runs_without_pairs_are_refused():
    with pytest.raises(ValueError, match='share no pair'):
        compare(make_shapes_results(), make_shapes_results())


def test_poses_taken_otherwise_are_refused():
    settings = {'keypoints': 1000, 'seed': 0}
    first, second = (make_results() | {'pose_protocol': settings | {'seed': seed}} for seed in (0, 1))
    with pytest.raises(ValueError, match='took poses by'):
        compare(first, second)


@pytest.mark.parametrize('scenes', [1, 2, 5, 6])
def test_of_few_scenes_there_is_no_verdict(scenes):
    before = make_results(('sift',))
    pairs = before['detectors']['sift']['per_pair']
    for name in list(pairs):
        if not name.startswith(SCENES[:scenes]):
            del pairs[name]
    row = rows_of(compare(before, shifted(before, 'sift', 'repeatability', 0.1)), 'sift')['repeatability']
    assert row.by_pair.excludes_zero
    if scenes == 1:  # then stretches of its pairs stand in for scenes
        assert (row.scenes, row.verdict) == (PAIRS_A_SCENE, 'too few')
    else:
        assert (row.scenes, row.verdict) == (scenes, 'better' if scenes >= 6 else 'too few')


def test_one_scene_tells_nothing_of_others():
    results = make_results_of(scenes=SCENES[:1])['detectors']
    assert not REPEATABILITY.interval(results['sift']).is_known
    assert REPEATABILITY.interval(results['sift']).mean == pytest.approx(results['sift']['repeatability'])
    assert REPEATABILITY.interval(make_results()['detectors']['sift']).is_known
    assert 'can not be told from one' in few_scenes('sift', results['sift'])[1]


def test_detectors_of_one_run_are_compared_too():
    results = make_results()['detectors']
    rows = differences('sift', results['superpoint'], results['sift'])
    assert rows[0].by_pair.mean == pytest.approx(rows[0].second - rows[0].first)


def test_frames_of_one_recording_are_grouped_by_stretches_of_time():
    """Drawn frame by frame, or as one scene, the intervals would claim more than neighbouring frames can tell."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.normal(size=10), 10)  # ten stretches, each with a change of its own
    before = {f'frame {row}': {'matching_score': 0.5} for row in range(100)}
    after = {f'frame {row}': {'matching_score': 0.5 + 0.01 * change} for row, change in enumerate(drift)}
    means = [float(np.mean([pair['matching_score'] for pair in run.values()])) for run in (before, after)]
    runs = [{'matching_score': mean, 'per_pair': run} for mean, run in zip(means, (before, after), strict=True)]
    (row,) = [row for row in differences('d', *runs) if row.measure.title == 'matching score']
    by_scene, by_pair = (interval.high - interval.low for interval in (row.by_scene, row.by_pair))
    assert by_scene > 2 * by_pair
