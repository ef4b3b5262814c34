"""Homography pairs: HPatches' layout, all that can be wrong with it, and the scores of a pair."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from superpoint_ros.features import Features
from superpoint_training.evaluation.pair_run import PairRun, PreparedPair, prepare_pairs
from superpoint_training.evaluation.pair_scores import evaluate_pair, mutual_rows, score_pair
from superpoint_training.evaluation.pairs import coarse_pairs, find_pairs, read_homography
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.problems import Skipped
from superpoint_training.evaluation.summary import curve, means
from superpoint_training.homographies import HomographyConfig, inside, sample_homography, warp_points
from superpoint_training.peers import NamedDetector, make_detector
from superpoint_training.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS['kp2d-320']
SHIFT = np.array([[1, 0.02, 5], [-0.02, 1, 3], [0, 0, 1]])


def texture(seed=0, size=(320, 240)):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (24, 32), dtype=np.uint8), size, interpolation=cv2.INTER_NEAREST)


def write_scene(root, name, others=(2,), suffix='png', homography=SHIFT):
    scene = root / name
    scene.mkdir(parents=True)
    picture = cv2.cvtColor(texture(), cv2.COLOR_GRAY2BGR)
    cv2.imwrite(str(scene / f'1.{suffix}'), picture)
    for k in others:
        cv2.imwrite(str(scene / f'{k}.{suffix}'), cv2.warpPerspective(picture, homography, (320, 240)))
        np.savetxt(scene / f'H_1_{k}', homography)
    return scene


def perfect_pair(count=80, seed=4):
    """Features that correspond exactly, with descriptors of their own, and the homography between them."""
    rng = np.random.default_rng(seed)
    homography = sample_homography(rng, 240, 320, HomographyConfig((0.8, 1.2), 0.4, 0.1, 0.05))
    points = rng.uniform(0, [319, 239], (count, 2))
    moved = warp_points(points, homography)
    shown = inside(moved, 240, 320)
    points, moved = points[shown], moved[shown]
    descriptors = np.linalg.qr(rng.normal(size=(128, 128)))[0][: len(points)].astype(np.float32)
    scores = np.linspace(1, 0.5, len(points), dtype=np.float32)
    return *(Features(each.astype(np.float32), scores, descriptors) for each in (points, moved)), homography


def test_hpatches_as_downloaded(tmp_path):
    for name in ('v_wall', 'i_dome'):
        write_scene(tmp_path, name, (2, 3, 4, 5, 6), 'ppm')
    (tmp_path / 'README').write_text('not a scene')
    (tmp_path / 'empty').mkdir()
    pairs, skipped = find_pairs(tmp_path)
    assert skipped == []
    assert [pair.name for pair in pairs] == [f'{scene} 1-{k}' for scene in ('i_dome', 'v_wall') for k in range(2, 7)]
    assert pairs[0].first.name == '1.ppm'
    assert pairs[0].second.name == '2.ppm'
    np.testing.assert_allclose(pairs[0].homography, SHIFT)


def test_the_tenth_picture_is_not_the_first(tmp_path):
    write_scene(tmp_path, 'scene', (2, 10))
    assert [pair.name for pair in find_pairs(tmp_path)[0]] == ['scene 1-2', 'scene 1-10']


def test_what_is_wrong_is_named_and_the_rest_is_used(tmp_path):
    write_scene(tmp_path, 'fine')
    (write_scene(tmp_path, 'eight') / 'H_1_2').write_text('1 0 0 0 1 0 0 0')
    (write_scene(tmp_path, 'flat') / 'H_1_2').write_text('1 2 3 2 4 6 0 0 1')
    (write_scene(tmp_path, 'words') / 'H_1_2').write_text('1 0 0 0 one 0 0 0 1')
    (write_scene(tmp_path, 'endless') / 'H_1_2').write_text('1 0 0 0 inf 0 0 0 1')
    (write_scene(tmp_path, 'headless') / '1.png').unlink()
    (write_scene(tmp_path, 'alone') / '2.png').unlink()
    (write_scene(tmp_path, 'untrue') / 'H_1_2').unlink()
    (write_scene(tmp_path, 'torn', (2, 3)) / '3.png').write_bytes(b'\x89PNG and no more')
    found, skipped = find_pairs(tmp_path)
    usable, unreadable = prepare_pairs(found, PROTOCOL)
    assert [pair.name for pair in usable] == ['fine 1-2', 'torn 1-2']
    why = {each.what: each.why for each in skipped + unreadable}
    assert len(why) == 8
    assert '8 numbers' in why['eight/H_1_2']
    assert 'singular' in why['flat/H_1_2']
    assert 'not numbers' in why['words/H_1_2']
    assert 'not finite' in why['endless/H_1_2']
    assert why['headless/H_1_2'] == 'there is no picture 1 beside it'
    assert why['alone/H_1_2'] == 'there is no picture 2 beside it'
    assert 'no homography' in why['untrue']
    assert '3.png' in why['torn 1-3']


def test_folders_without_pairs_are_errors(tmp_path):
    with pytest.raises(ValueError, match='no folder'):
        find_pairs(tmp_path / 'absent')
    with pytest.raises(ValueError, match='no homography pairs'):
        find_pairs(tmp_path)


@pytest.mark.parametrize('scale', [0.05, 1, 20])
def test_strong_homographies_are_not_singular(scale, tmp_path):
    homography = np.array([[scale, 0.3, 400], [-0.2, scale, -900], [1e-3, 2e-4, 1]]) * 1e-3
    np.savetxt(tmp_path / 'H', homography)
    np.testing.assert_allclose(read_homography(tmp_path / 'H'), homography)


def test_coarse_truth_is_read_from_the_checks_beside_the_pairs(tmp_path):
    assert coarse_pairs(tmp_path) == []
    (tmp_path / 'CHECKS.csv').write_text(
        'scene,k,kept,median_error_px_of_matches_within_12px\nbark,2,1,0.9\nbark,3,1,1.43\nbikes,6,1,1.0\nwall,2,1,\n'
    )
    assert coarse_pairs(tmp_path) == ['bark 1-3']


@pytest.mark.parametrize(
    'content',
    [
        'scene,median_error_px_of_matches_within_12px\nbark,3\n',
        'scene,k,median_error_px_of_matches_within_12px\nbark,2,n/a\n',
        'scene,k,median_error_px_of_matches_within_12px\nb\xe4rk,2,3\n',
    ],
)
def test_checks_that_say_something_else_are_named(tmp_path, content):
    (tmp_path / 'CHECKS.csv').write_bytes(content.encode('latin-1'))
    with pytest.raises(ValueError, match=r"CHECKS\.csv' must have columns scene, k and"):
        coarse_pairs(tmp_path)


def test_a_homography_that_can_not_be_opened_is_left_out(tmp_path):
    scene = tmp_path / 'wall'
    scene.mkdir()
    for name in ('1', '2', '3'):
        cv2.imwrite(str(scene / f'{name}.png'), np.zeros((8, 8), np.uint8))
    np.savetxt(scene / 'H_1_2', np.eye(3))
    (scene / 'H_1_3').symlink_to(scene / 'nowhere')
    found, skipped = find_pairs(tmp_path)
    assert [pair.name for pair in found] == ['wall 1-2']
    assert skipped == [Skipped('wall/H_1_3', 'it could not be read: No such file or directory')]


@pytest.mark.parametrize('name', sorted(PROTOCOLS))
def test_a_perfect_pair_scores_one_everywhere(name):
    first, second, homography = perfect_pair()
    protocol = PROTOCOLS[name]
    if protocol.width == 640:
        double = np.diag([2.0, 2.0, 1.0])
        homography = double @ homography @ np.linalg.inv(double)
        first, second = (Features(each.keypoints * 2, each.scores, each.descriptors) for each in (first, second))
    values = evaluate_pair(first, second, homography, protocol)
    for metric in ('repeatability', 'matching_score', 'matching_accuracy', 'nn_map'):
        assert values[metric] == 1, metric
    assert values['corner_error'] < 0.1
    assert values['matches'] == values['right_matches'] == len(first)


def test_one_wrong_descriptor_costs_its_share():
    first, second, homography = perfect_pair()
    n = len(first)
    broken = second.descriptors.copy()
    broken[[0, 1]] = broken[[1, 0]]
    values = evaluate_pair(first, Features(second.keypoints, second.scores, broken), homography, PROTOCOL)
    assert values['matching_accuracy'] == pytest.approx((n - 2) / n)
    assert values['right_matches'] == n - 2
    mutual = evaluate_pair(
        first, Features(second.keypoints, second.scores, broken), homography, PROTOCOLS['superpoint-240']
    )
    assert mutual['matching_score'] == pytest.approx((n - 2) / n)
    assert mutual['repeatability'] == 1


def test_only_the_best_count():
    first, second, homography = perfect_pair()
    interchanged = np.roll(second.descriptors[20:], 5, axis=0)
    mixed = Features(second.keypoints, second.scores, np.vstack([second.descriptors[:20], interchanged]))
    few = dataclasses.replace(PROTOCOL, keypoints=20)
    assert evaluate_pair(first, mixed, homography, few)['matching_accuracy'] == 1
    assert evaluate_pair(first, mixed, homography, PROTOCOL)['matching_accuracy'] == pytest.approx(20 / len(first))


def test_pairs_of_nothing():
    first, second, homography = perfect_pair()
    nothing = first.take(np.zeros(0, int))
    for pair in ((nothing, nothing), (first, nothing), (nothing, second)):
        values = evaluate_pair(*pair, homography, PROTOCOL)
        assert values['matching_score'] == values['coverage'] == values['matches'] == 0
        assert values['corner_error'] == np.inf
        assert np.isnan(values['nn_map']) if not len(pair[0]) + len(pair[1]) else values['nn_map'] == 0
    away = np.array([[1, 0, 1e4], [0, 1, 0], [0, 0, 1.0]])
    unseen = evaluate_pair(first, second, away, PROTOCOL)
    assert np.isnan(unseen['repeatability'])
    assert np.isnan(unseen['nn_map'])
    assert unseen['matching_score'] == 0


def test_all_points_wrong():
    first, *_ = perfect_pair()
    rng = np.random.default_rng(0)
    corner = Features(rng.uniform(0, 8, first.keypoints.shape).astype(np.float32), first.scores, first.descriptors)
    values = evaluate_pair(
        corner, Features(corner.keypoints + np.array([200, 150]), first.scores, first.descriptors), np.eye(3), PROTOCOL
    )
    assert values['repeatability'] == values['matching_score'] == values['nn_map'] == values['coverage'] == 0
    assert np.isnan(values['localization_error'])
    assert values['matching_accuracy'] == 0


def test_mutual_rows_against_brute_force():
    similarity = np.random.default_rng(3).integers(0, 6, (30, 25)).astype(np.float32)
    expected = [
        (i, j)
        for i in range(30)
        for j in range(25)
        if list(similarity[i]).index(max(similarity[i])) == j
        and list(similarity[:, j]).index(max(similarity[:, j])) == i
    ]
    assert [tuple(row) for row in mutual_rows(similarity).tolist()] == expected
    assert mutual_rows(np.zeros((0, 4))).shape == mutual_rows(np.zeros((4, 0))).shape == (0, 2)


def test_a_detector_without_descriptors_has_the_detector_s_figures_only():
    first, second, homography = perfect_pair()
    bare = [Features(each.keypoints, each.scores, np.zeros((len(each), 0), np.float32)) for each in (first, second)]
    assert evaluate_pair(*bare, homography, PROTOCOL).keys() == {'repeatability', 'localization_error'}


def test_means_leave_out_what_is_undefined_and_count_failures():
    pairs = {
        'a': {'repeatability': 0.5, 'localization_error': 1.0, 'corner_error': 0.5, 'coverage': 0.5,
              'matching_accuracy': 0.5, 'matching_score': 0.2, 'nn_map': 0.3},
        'b': {'repeatability': float('nan'), 'localization_error': float('nan'), 'corner_error': float('inf'),
              'coverage': 0.0, 'matching_accuracy': 0.0, 'matching_score': 0.0, 'nn_map': float('nan')},
    }  # fmt: skip
    summary = means(pairs, (1, 3))
    assert summary['pairs'] == 2
    assert summary['repeatability'] == 0.5
    assert summary['matching_score'] == 0.1
    assert summary['nn_map'] == 0.3
    assert summary['homography_accuracy'] == {'1': 0.5, '3': 0.5}
    assert summary['harmonic_mean'] == pytest.approx(3 / (1 / 0.5 + 1 / 0.25 + 1 / 0.25))
    assert np.isnan(means({}, (1,))['repeatability'])


def test_the_curve_is_of_all_rankings_together():
    first, second, homography = perfect_pair()
    rankings = score_pair(first, second, homography, PROTOCOL).rankings
    pooled = curve(rankings)
    assert pooled['recall'] == pytest.approx(np.linspace(0, 1, 101))
    assert set(pooled['precision']) == {1.0}
    half = curve([*rankings, *(type(each)(each.similarity - 5, ~each.right, each.findable) for each in rankings)])
    assert half['recall'][-1] == 0.5
    assert curve([]) == {'recall': [], 'precision': []}


def prepared(name, picture=None):
    picture = texture() if picture is None else picture
    return PreparedPair(name, name.split(' ')[0], picture, cv2.warpPerspective(picture, SHIFT, (320, 240)), SHIFT)


def test_splits_are_reported_where_there_are_both():
    sift = {'sift': Predictions(make_detector('sift'))}
    both = PairRun([prepared('i_dome 1-2'), prepared('v_wall 1-2'), prepared('v_wall 1-3', texture(1))], PROTOCOL, sift)
    splits = both.results()['sift']['splits']
    assert {split: figures['pairs'] for split, figures in splits.items()} == {'illumination': 1, 'viewpoint': 2}
    assert 'splits' not in PairRun([prepared('v_wall 1-2')], PROTOCOL, sift).results()['sift']


def test_accuracy_is_also_given_without_coarse_pairs():
    sift = {'sift': Predictions(make_detector('sift'))}
    run = PairRun([prepared('a 1-2'), prepared('b 1-2', np.zeros((240, 320), np.uint8))], PROTOCOL, sift)
    result = run.results(coarse=['b 1-2'])['sift']
    assert result['homography_accuracy']['3'] == 0.5
    assert result['homography_accuracy_without_coarse']['3'] == 1
    assert 'homography_accuracy_without_coarse' not in run.results()['sift']


def test_drawings_show_the_matches_that_were_counted():
    run = PairRun([prepared('a 1-2')], PROTOCOL, {'orb': Predictions(make_detector('orb'))})
    values = run.results()['orb']['per_pair']['a 1-2']
    drawn = run.draw('orb', 'a 1-2')
    assert len(drawn.points_first) == len(drawn.points_second) == values['matches']
    assert drawn.right.sum() == values['right_matches'] > 0
    errors = np.linalg.norm(warp_points(drawn.points_first, SHIFT) - drawn.points_second, axis=1)
    np.testing.assert_array_equal(errors <= 3, drawn.right)


def test_threads_change_nothing():
    pairs = [prepared(f'{k} 1-2', texture(k)) for k in range(4)]
    detectors = {name: Predictions(make_detector(name)) for name in ('sift', 'orb', 'fast')}
    results = [json.dumps(PairRun(pairs, PROTOCOL, detectors, jobs).results()) for jobs in (1, 3)]
    assert results[0] == results[1]


def test_every_picture_is_given_to_a_detector_once():
    seen = []

    def detect(picture):
        seen.append(picture)
        return make_detector('sift')(picture)

    counting = Predictions(NamedDetector('counting', 'counting', 'key', detect))
    first = texture()
    pairs = [PreparedPair(f'a 1-{k}', 'a', first, texture(k), SHIFT) for k in (2, 3)]
    PairRun(pairs, PROTOCOL, {'counting': counting}).results()
    assert len(seen) == 3
