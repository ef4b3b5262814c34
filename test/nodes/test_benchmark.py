"""The benchmark's plain code finds what the detector finds, and its report holds every stage."""

import itertools
import json

import numpy as np
import pytest
import torch

from superpoint_ros.benchmark import ceiling, scaling
from superpoint_ros.benchmark.__main__ import main, parse_arguments
from superpoint_ros.benchmark.ceiling import count_operations, measure_ceiling, time_eager
from superpoint_ros.benchmark.classical import NORMS, Classical
from superpoint_ros.benchmark.meter import Meter
from superpoint_ros.benchmark.pictures import decode, load_pictures
from superpoint_ros.benchmark.plain import Plain, mutual_matches
from superpoint_ros.benchmark.report import format_node_report, format_report
from superpoint_ros.benchmark.scaling import time_batches
from superpoint_ros.benchmark.stages import EXTRA_STAGES, STAGES, WARM_UP_FRAMES, Header, percentiles, summarise
from superpoint_ros.detector import Detector
from superpoint_ros.engines import TorchEngine
from superpoint_ros.features import Features
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.matching import MatchSettings, match
from superpoint_ros.networks import GoodPoint, GoodPointConfig, load_network, save_network
from superpoint_ros.stopwatch import Stopwatch


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    """No recorded data, so that the package's photographs are used."""
    monkeypatch.setenv('SUPERPOINT_DATA', str(tmp_path))


def test_the_plain_code_computes_the_same_features(photographs):
    """Without suppression, greedy and window-maximum rules agree, and all else must."""
    pictures, source = load_pictures(1)
    assert 'photographs' in source
    image = decode(pictures[0])[:240, :320]
    settings = KeypointSettings(max_keypoints=300, nms_radius=0, subpixel=False, levels=1)
    network = load_network('superpoint_small')
    ours = Detector(network, settings, device='cpu', engine='torch', precision='float32').detect(image)
    plain = Plain(network, settings).process(image, None, Stopwatch())
    np.testing.assert_allclose(plain.scores, ours.scores, rtol=1e-4)
    places = [{tuple(point) for point in features.keypoints.tolist()} for features in (ours, plain)]
    assert len(places[0] & places[1]) > 290  # neighbours in rank may swap at the last place
    row = {tuple(point): row for row, point in enumerate(ours.keypoints.tolist())}
    for point, descriptor in zip(plain.keypoints.tolist(), plain.descriptors, strict=True):
        if tuple(point) in row:
            np.testing.assert_allclose(descriptor, ours.descriptors[row[tuple(point)]], atol=1e-3)


def test_the_plain_suppression_is_greedy():
    """A keypoint suppressed by another suppresses nobody itself."""
    scores = np.zeros((8, 16), np.float32)
    scores[4, 4], scores[4, 7], scores[4, 10] = 0.9, 0.8, 0.7
    plain = Plain(load_network('superpoint_small'), KeypointSettings(nms_radius=4, border=0, levels=1))
    assert plain.select(scores)[0].tolist() == [[4, 4], [10, 4]]


def test_the_plain_matcher_agrees_with_ours():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(2, 60, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    query, train = (Features(np.zeros((60, 2)), np.ones(60), array) for array in descriptors)
    ours = match(query, train, MatchSettings(min_similarity=-1))
    np.testing.assert_array_equal(np.stack([ours.query, ours.train], axis=1), mutual_matches(*descriptors))


@pytest.mark.parametrize('name', NORMS)
def test_classical_features_of_the_same_picture_are_all_found_again(photographs, name):
    image = decode(load_pictures(1)[0][0])
    classical = Classical(name, 200)
    features = classical.process(image, None, Stopwatch())
    assert 150 < len(features) <= 201  # SIFT keeps ties at the end
    matches = classical.matcher.match(features.descriptors, features.descriptors)
    assert all(match.distance == 0 for match in matches)
    stopwatch = Stopwatch()
    classical.process(np.zeros_like(image), features, stopwatch)  # finds nothing, and matches nothing
    assert set(stopwatch.laps) == {'features', 'matching'}


def test_operations_are_those_of_the_convolutions_one_by_one():
    network = load_network('superpoint_small')
    widths, head, values = network.config.widths, network.config.head_width, network.config.descriptor_dim
    pixels, cells, orientations = 480 * 640, 480 * 640 / 64, 4
    expected = 2 * 6 * 6 * widths[0] * pixels / 4  # the first strides
    for layer, (before, after) in enumerate(itertools.pairwise(widths), 1):
        expected += 2 * 9 * before * after * pixels / (4, 4, 16, 64)[layer // 2]
    for outputs in (65, orientations * values):  # of a descriptor's value the largest of four counts
        expected += 2 * cells * head * (9 * widths[-1] + outputs)
    for side, channels in ((2, widths[3]), (4, widths[5])):  # values of a cell's 64 pixels from all its entries
        expected += 2 * cells * 64 * channels * (8 / side + network.config.skip_kernel - 1) ** 2
    assert count_operations(network) == expected


def test_a_share_of_the_ceiling_is_the_rate_reached_over_the_probes(monkeypatch):
    monkeypatch.setattr(ceiling, 'REPEATS', 1)
    network = load_network('superpoint_small')
    result = measure_ceiling(TorchEngine(network, torch.device('cpu')), network, 2)
    assert result['share'] == pytest.approx(result['tflops'] / result['ceiling_tflops'], rel=0.05)
    assert result['tflops'] * 1e3 == pytest.approx(result['gflop_an_image'] * result['images_per_second'], rel=0.05)


def test_eager_torch_is_timed_on_the_same_pictures_one_step_after_another(photographs):
    detector = Detector.load('superpoint_small', 'cpu', engine='torch', levels=1)
    times = time_eager(detector, load_network('superpoint_small'), load_pictures(WARM_UP_FRAMES + 2)[0])
    assert 0 < times['p50'] <= times['p99']
    ((session, _),) = detector.sessions._sessions.values()
    assert not session.is_graph


def test_the_meter_sees_what_a_process_takes():
    meter = Meter()
    before = meter.cpu_seconds(), meter.memory_mb()
    meter.forget_peak()
    block = np.ones(50 << 20, np.uint8)
    assert meter.memory_mb() - before[1] > 45
    del block
    assert meter.peak_memory_mb() - meter.memory_mb() > 45
    meter.forget_peak()
    assert meter.peak_memory_mb() - meter.memory_mb() < 5
    while meter.cpu_seconds() - before[0] < 0.05:
        sum(range(10000))


def test_options_given_twice_are_all_that_was_given():
    options = parse_arguments(['--weights', 'a', '--weights', 'b', '--rates', '5', '--rates', '7'])
    assert (options.weights, options.rates) == (['a', 'b'], [5, 7])
    assert parse_arguments([]).rates == [10, 30, 60, 120]


def test_sums_are_of_the_stages_that_they_name():
    names = [stage for stage in (*STAGES, *EXTRA_STAGES) if stage != 'score map']
    frame = {stage: 2.0**number for number, stage in enumerate(names)} | {'frontend': 1e6}
    slow = {stage: 3 * ms for stage, ms in frame.items()}
    summary = summarise([frame, slow, frame])
    shared = sum(frame[stage] for stage in names if stage in STAGES)
    assert summary['passage']['p50'] == pytest.approx(shared - frame['decode'] - frame['message'])
    assert summary['end_to_end'] == pytest.approx({'p50': shared, 'p95': 2.8 * shared, 'p99': 2.96 * shared})
    assert summary['in_all']['p50'] == shared + frame['verification'] + frame['tracks']
    assert summary['beside_network'] == pytest.approx(1 - frame['network'] / shared, abs=1e-4)
    assert {name: times['p50'] for name, times in summary['stages'].items()} == {name: frame[name] for name in names}


def test_percentiles_lie_between_the_values():
    assert percentiles(list(range(101))) == {'p50': 50, 'p95': 95, 'p99': 99}


def test_the_time_of_a_batch_is_shared_by_its_images(monkeypatch):
    clock = itertools.count()

    class Detects:
        def detect_batch(self, images):
            next(clock)

    # Two looks at the clock, and what is done between them: each batch takes two seconds.
    monkeypatch.setattr(scaling, 'perf_counter', lambda: float(next(clock)))
    rows = time_batches(Detects(), load_pictures(10)[0])
    assert {row['images']: row['ms_an_image']['p50'] for row in rows} == {size: 2000 / size for size in scaling.BATCHES}


def test_what_can_not_be_measured_is_refused_in_a_line(capsys):
    for words, reason in {
        ('--frames', '1'): '--frames: must be 2 or more, not 1',
        ('--plain-frames', '0'): '--plain-frames: must be 1 or more, not 0',
        ('--levels', '0'): '--levels: must be 1 or more, not 0',
        ('--node', '--seconds', '0'): '--seconds must leave the camera time for 2 images',
        ('--node', '--rates', '30', '0.01'): '--seconds must leave the camera time for 2 images',
        ('--node', '--rates', '-5'): '--seconds must leave the camera time for 2 images',
        ('--weights', 'superpiont'): 'superpiont',
        ('--device', 'gpu'): "not 'gpu'",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert reason in f'{stopped.value.code} {capsys.readouterr().err}'


@pytest.mark.skipif(Header is None, reason='needs ROS 2')
def test_the_nodes_figures_are_of_what_was_sent_and_received():
    from superpoint_ros.benchmark.node import Measured, figures_of

    begin, period = 10**18, 50_000_000
    sent = {begin + number * period: 0 for number in range(101)}
    # One in a hundred takes 60 ms, the others 20; one never came, and one was not asked for.
    received = {stamp: stamp + (60_000_000 if number == 50 else 20_000_000) for number, stamp in enumerate(sent)}
    del received[begin + 7 * period]
    received[begin - period] = begin
    run = Measured(20.0, sent, received, memory=[300.0, 312.5], cpu=[5.0, 12.5], clock=[100.0, 105.0])
    figures = figures_of(run)
    assert figures['latency_ms'] == pytest.approx({'p50': 20, 'p95': 20, 'p99': 20.4}, abs=0.01)
    del figures['latency_ms']
    assert figures == {
        'rate': 20.0, 'camera_hz': 20.0, 'images': 101, 'dropped': 1, 'cpu_cores': 1.5, 'memory_mb': 312.5,
    }  # fmt: skip


def test_the_report_holds_every_stage_of_the_front_end_and_its_peers(photographs, monkeypatch, capsys):
    monkeypatch.setattr(scaling, 'FRAMES', 3)
    main(['--weights', 'superpoint_small', '--frames', '3', '--plain-frames', '2', '--device', 'cpu', '--json'])
    report = json.loads(capsys.readouterr().out)
    result = report['weights']['superpoint_small']
    stages = set(STAGES) - {'features'} - ({'message'} if Header is None else set())
    for side, missing in (('frontend', {'score map'}), ('plain', set())):
        for stage in stages - missing:
            percentiles = result[side]['stages'][stage]
            assert 0 < percentiles['p50'] <= percentiles['p95'] <= percentiles['p99']
    total = result['frontend']['end_to_end']['p50']
    peers = {'its plain code': result['plain']} | report['peers']
    for name, peer in peers.items():
        assert result['times_as_fast_as'][name] == pytest.approx(peer['end_to_end']['p50'] / total, abs=0.01)
    assert {tuple(row['size']) for row in result['sizes']} == set(scaling.SIZES)
    assert all(row['found'] <= row['keypoints'] for row in result['sizes'])
    assert [row['images'] for row in result['batches']] == list(scaling.BATCHES)
    table = format_report(report)
    assert all(f'\n{stage}' in table for stage in stages)
    assert 'times as fast as SIFT' in table


def test_a_network_without_plain_code_is_compared_with_the_others(photographs, tmp_path, capsys):
    weights = tmp_path / 'goodpoint.safetensors'
    save_network(GoodPoint(GoodPointConfig((4,) * 8, 8, 8)), weights, {})
    main(['--weights', str(weights), '--frames', '3', '--no-scaling', '--device', 'cpu'])
    table = capsys.readouterr().out
    assert 'times as fast as ORB' in table
    assert 'plain p50' not in table


@pytest.mark.skipif(Header is None, reason='needs ROS 2')
def test_the_node_answers_a_camera_in_another_process(photographs, monkeypatch, capsys):
    from superpoint_ros.benchmark import node

    monkeypatch.setattr(node, 'SETTLE_SECONDS', 1.0)
    how = ['--engine', 'torch', '--precision', 'float32', '--keypoints', '300', '--levels', '1']
    what = ['--node', '--weights', 'superpoint_small', '--frames', '20', '--rates', '5', '8', '--seconds', '3']
    main([*what, *how, '--json'])
    report = json.loads(capsys.readouterr().out)
    assert report['node']['superpoint_small']['parameters'] == {
        'device': 'auto', 'engine': 'torch', 'precision': 'float32', 'weights': 'superpoint_small',
        'max_keypoints': '300', 'levels': '1',
    }  # fmt: skip
    for run, rate in zip(report['node']['superpoint_small']['rates'], (5, 8), strict=True):
        assert run['rate'] == rate
        assert 2 * rate <= run['images'] <= 4 * rate
        assert run['dropped'] < run['images']
        assert 0 < run['latency_ms']['p50'] <= run['latency_ms']['p99']
        assert run['cpu_cores'] > 0
        assert run['memory_mb'] > 50
    assert 'memory grew by' in format_node_report(report)
