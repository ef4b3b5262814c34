"""The benchmark's baseline finds what the detector finds, and its report holds every stage."""

import json

import numpy as np
import pytest

from superpoint_ros import benchmark
from superpoint_ros.baseline import Baseline, mutual_matches
from superpoint_ros.detector import Detector, Features
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.matching import MatchSettings, match
from superpoint_ros.networks import GoodPoint, GoodPointConfig, load_network, save_network
from superpoint_ros.stopwatch import Stopwatch


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    """No recorded data, so that the demo's photographs are used."""
    monkeypatch.setenv('SUPERPOINT_DATA', str(tmp_path))


def test_networks_that_the_plain_code_does_not_know_are_refused(tmp_path):
    weights = tmp_path / 'goodpoint.safetensors'
    save_network(GoodPoint(GoodPointConfig((4,) * 8, 8, 8)), weights, {})
    with pytest.raises(SystemExit, match="goodpoint, and the plain code is SuperPoint's alone"):
        benchmark.main(['--weights', 'superpoint_small', str(weights)])


def test_the_baseline_computes_the_same_features(photographs):
    """Without suppression, greedy and window-maximum rules agree, and all else must."""
    pictures, source = benchmark.load_pictures(1)
    assert 'photographs' in source
    image = benchmark.decode(pictures[0])[:240, :320]
    settings = KeypointSettings(max_keypoints=300, nms_radius=0, subpixel=False)
    network = load_network('superpoint_small')
    ours = Detector(network, settings, device='cpu', engine='torch', precision='float32').detect(image)
    plain = Baseline(network, settings).process(image, None, Stopwatch())
    np.testing.assert_allclose(plain.scores, ours.scores, rtol=1e-4)
    places = [{tuple(point) for point in features.keypoints.tolist()} for features in (ours, plain)]
    assert len(places[0] & places[1]) > 290  # neighbours in rank may swap at the last place
    row = {tuple(point): row for row, point in enumerate(ours.keypoints.tolist())}
    for point, descriptor in zip(plain.keypoints.tolist(), plain.descriptors, strict=True):
        if tuple(point) in row:
            np.testing.assert_allclose(descriptor, ours.descriptors[row[tuple(point)]], atol=1e-3)


def test_the_baselines_suppression_is_greedy():
    """A keypoint suppressed by another suppresses nobody itself."""
    scores = np.zeros((8, 16), np.float32)
    scores[4, 4], scores[4, 7], scores[4, 10] = 0.9, 0.8, 0.7
    plain = Baseline(load_network('superpoint_small'), KeypointSettings(nms_radius=4, border=0))
    assert plain.select(scores)[0].tolist() == [[4, 4], [10, 4]]


def test_the_baselines_matcher_agrees_with_ours():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(2, 60, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    query, train = (Features(np.zeros((60, 2)), np.ones(60), array) for array in descriptors)
    ours = match(query, train, MatchSettings(min_similarity=-1))
    np.testing.assert_array_equal(np.stack([ours.query, ours.train], axis=1), mutual_matches(*descriptors))


def test_the_report_holds_every_stage_of_both(photographs, capsys):
    benchmark.main(
        ['--weights', 'superpoint_small', '--frames', '3', '--baseline-frames', '2', '--device', 'cpu', '--json']
    )
    report = json.loads(capsys.readouterr().out)
    result = report['weights']['superpoint_small']
    stages = set(benchmark.STAGES) - ({'message'} if benchmark.Header is None else set())
    for side, missing in (('frontend', {'score map'}), ('baseline', set())):
        for stage in stages - missing:
            assert 0 < result[side]['stages'][stage]['p50'] <= result[side]['stages'][stage]['p95']
    assert result['speed_up'] > 0
    table = benchmark.format_report(report)
    assert all(f'\n{stage}' in table for stage in stages)
    assert 'times as fast as its baseline' in table
