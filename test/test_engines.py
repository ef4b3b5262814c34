"""Engines against the network called by hand."""

import importlib
from functools import cache

import numpy as np
import pytest
import torch
from textures import photograph

from superpoint_ros import engines
from superpoint_ros.engines import EngineError, load_engine
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import load_network, score_map

needs_openvino = pytest.mark.skipif(engines.openvino is None, reason='OpenVINO is not installed')
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
CONFIGURATIONS = [
    pytest.param('torch', 'cpu', 'float32', 1e-4, id='torch-float32'),
    pytest.param('torch', 'cpu', 'bfloat16', 0.1, id='torch-bfloat16'),
    pytest.param('torch', 'cuda', 'float16', 0.02, marks=needs_cuda, id='cuda-float16'),
    pytest.param('openvino', 'cpu', 'float32', 1e-4, marks=needs_openvino, id='openvino-float32'),
    pytest.param('openvino', 'cpu', 'auto', 0.1, marks=needs_openvino, id='openvino-auto'),
]


@pytest.fixture(scope='module')
def network():
    return load_network('superpoint_small')


@cache
def shipped_engine(engine, device, precision):
    """Compiling takes longer than all that the tests do with it."""
    return load_engine(load_network('superpoint_small'), engine, device, precision)


@pytest.mark.parametrize(('engine', 'device', 'precision', 'tolerance'), CONFIGURATIONS)
def test_every_engine_gives_the_networks_own_maps_at_every_size(network, engine, device, precision, tolerance):
    runner = shipped_engine(engine, device, precision)
    images = [photograph(*size) for size in ((64, 96), (8, 16), (64, 96), (120, 160))]
    images[2] = images[2][:, ::-1]
    every = list(runner.maps(images))  # all at once: those of one size are not the same memory
    for image, maps in zip(images, every, strict=True):
        with torch.inference_mode():
            tensor = torch.from_numpy(image.copy())[None, None].float() / 255
            logits, descriptors = network(tensor)
        expected = score_map(logits)[0].numpy()
        height, width = image.shape
        assert maps.scores.dtype == np.float32
        assert maps.descriptors.shape == (height // 8, width // 8, network.config.descriptor_dim)
        most = max(expected.max(), KeypointSettings().detection_threshold)  # an 8x16 picture may hold nothing
        np.testing.assert_allclose(maps.scores, expected, atol=tolerance * most)
        cosine = torch.nn.functional.cosine_similarity(
            torch.from_numpy(maps.descriptors.astype(np.float32)), descriptors[0].permute(1, 2, 0), dim=-1
        )
        assert cosine.min() > 1 - tolerance


@pytest.mark.parametrize(('engine', 'device', 'precision', 'tolerance'), CONFIGURATIONS)
def test_half_precision_does_not_make_neighbouring_pixels_tie(engine, device, precision, tolerance):
    (maps,) = shipped_engine(engine, device, precision).maps([photograph(120, 160)])
    tied = (np.diff(maps.scores, axis=0) == 0).mean()
    assert tied < 0.05


def test_a_network_in_use_elsewhere_is_left_as_it_is(network):
    load_engine(network, 'torch', 'cpu', 'bfloat16')
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_without_a_device_says_so_and_what_to_do(network):
    with pytest.raises(EngineError, match=r'cuda:1 was asked for.*use device cpu'):
        load_engine(network, device='cuda:1')
    assert 'on cpu' in load_engine(network, 'torch', device='auto').description


def test_without_openvino_a_cpu_runs_torch(network, monkeypatch):
    monkeypatch.setattr(engines, 'openvino', None)
    assert load_engine(network, device='cpu').description == 'torch float32 on cpu'
    with pytest.raises(EngineError, match='not installed'):
        load_engine(network, 'openvino', device='cpu')


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        ({'engine': 'tensorrt'}, "engine must be one of auto, torch, openvino, not 'tensorrt'"),
        ({'precision': 'int4'}, "precision must be one of .*, not 'int4'"),
        ({'device': 'gpu'}, "device must be .*, not 'gpu'"),
        ({'device': 'meta'}, "device must be .*, not 'meta'"),
        ({'device': 'cpu', 'precision': 'float16'}, 'float16 needs a CUDA device'),
        ({'engine': 'torch', 'precision': 'int8'}, 'int8 needs engine openvino'),
    ],
)
def test_what_no_engine_supports_is_refused(network, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_engine(network, **arguments)


@pytest.mark.parametrize('engine', ['torch', pytest.param('openvino', marks=needs_openvino)])
def test_a_failing_network_raises_engine_error(engine):
    """An image smaller than a cell fails inside the engine, as a lost device does."""
    runner = shipped_engine(engine, 'cpu', 'float32')
    with pytest.raises(EngineError, match=engine):
        list(runner.maps([np.zeros((4, 4), np.uint8)]))
    assert len(list(runner.maps([np.zeros((16, 16), np.uint8)]))) == 1


@needs_openvino
def test_more_image_sizes_than_are_kept_still_run_and_those_in_use_stay(network, monkeypatch):
    monkeypatch.setattr(engines, 'MOST_SIZES', 3)
    runner = load_engine(network, 'openvino', 'cpu', 'float32')
    often = [np.zeros((8, 16), np.uint8)]
    list(runner.maps(often))
    first = runner.requests[8, 16]
    for side in range(16, 64, 8):
        (maps,) = runner.maps([np.zeros((side, 16), np.uint8)])
        assert maps.scores.shape == (side, 16)
        list(runner.maps(often))
        assert len(runner.requests) <= 3
    assert runner.requests[8, 16] is first  # not compiled anew


@needs_openvino
def test_graphs_of_large_images_are_not_all_kept_and_maps_outlive_them(network, monkeypatch):
    runner = load_engine(network, 'openvino', 'cpu', 'float32')
    large, middle, small = (photograph(height, 64) for height in (64, 48, 32))
    (expected,) = (maps.scores.copy() for maps in runner.maps([large]))
    monkeypatch.setattr(engines, 'MOST_PIXELS', middle.size + small.size)
    (before,) = runner.maps([large])
    assert len(list(runner.maps([middle, small]))) == 2
    assert list(runner.requests) == [middle.shape, small.shape]
    np.testing.assert_array_equal(before.scores, expected)


@needs_openvino
def test_the_graphs_of_one_call_stay_however_large_its_images_are(network, monkeypatch):
    monkeypatch.setattr(engines, 'MOST_PIXELS', 1)
    runner = load_engine(network, 'openvino', 'cpu', 'float32')
    pictures = [photograph(height, 64) for height in (64, 48, 32)]
    assert len(list(runner.maps(pictures))) == 3
    first = dict(runner.requests)
    assert len(list(runner.maps(pictures))) == 3
    assert runner.requests == first  # nothing was compiled anew
    assert len(list(runner.maps([photograph(24, 64)]))) == 1
    assert list(runner.requests) == [(24, 64)]


@needs_openvino
def test_auto_takes_int8_only_where_the_processor_multiplies_it(network, monkeypatch):
    for able in (True, False):
        monkeypatch.setattr(engines, 'multiplies_int8', lambda able=able: able)
        assert ('int8' in load_engine(network, 'openvino', 'cpu').description) == able


@needs_openvino
def test_an_openvino_that_cannot_start_raises_engine_error(network, monkeypatch):
    def no_plugins(*_, **__):
        raise RuntimeError('no plugins')

    monkeypatch.setattr(engines.openvino.Core, 'compile_model', no_plugins)
    with pytest.raises(EngineError, match='openvino float32 on cpu: no plugins'):
        list(load_engine(network, 'openvino', 'cpu', 'float32').maps([np.zeros((8, 8), np.uint8)]))


@needs_openvino
def test_openvino_sends_no_telemetry():
    """It would fork a process that computes in other threads, which can stop it for good."""
    telemetry = importlib.import_module('openvino.tools.ovc.telemetry_utils').tm
    assert telemetry.__name__ == 'openvino.tools.ovc.telemetry_stub'
