"""Int8 against the float32 network, and that it is int8 that runs."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from superpoint_ros.engines import MapNetwork, load_engine
from superpoint_ros.networks import SuperPoint, SuperPointConfig, load_network
from superpoint_ros.openvino_runtime import compile_for_cpu, openvino

if openvino is None:
    pytest.skip('OpenVINO is not installed', allow_module_level=True)

from superpoint_ros.quantisation import quantise

rng = np.random.default_rng(0)
PICTURES = [np.kron(rng.integers(0, 256, (8, 12), np.uint8), np.ones((8, 8), np.uint8)) for _ in range(4)]


class Uneven(nn.Module):
    """Two convolutions between which one channel is a thousand times as strong as another and one is dead."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)
        strength = torch.tensor([1000.0, 30.0, 1.0, 0.0])
        with torch.no_grad():
            self.first.weight *= strength[:, None, None, None]
            self.first.bias *= strength
            self.first.bias[3] = -1.0
            self.second.weight /= strength.clamp(min=1e-3)[:, None, None]

    def forward(self, image):
        hidden = nn.functional.max_pool2d(torch.relu(self.first(image.float() / 255)), 4)
        return self.third(torch.relu(self.second(hidden)))


class Brightness(nn.Module):
    """The grey level in [0, 1], through the middle convolution that is quantised."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(3))
        for convolution in (self.first, self.second, self.third):
            nn.init.ones_(convolution.weight)

    def forward(self, image):
        pooled = nn.functional.max_pool2d(torch.relu(self.first(image.float() / 255)), 4)
        return self.third(torch.relu(self.second(pooled)))


def convert(network):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        example = torch.zeros(1, 1, 64, 96, dtype=torch.uint8)
        return openvino.convert_model(network.eval(), example_input=example, input=[1, 1, 64, 96])


def run(graph, picture):
    return compile_for_cpu(graph, bfloat16=False)([picture[None, None]])[0]


def test_strong_weak_and_dead_channels_keep_their_share():
    graph = convert(Uneven())
    expected = [run(graph, picture) for picture in PICTURES]
    quantise(graph, PICTURES)
    for picture, exact in zip(PICTURES, expected, strict=True):
        error = run(graph, picture) - exact
        assert np.sqrt((error**2).mean()) < 0.1 * exact.std()


def test_what_is_brighter_than_the_calibration_is_cut_off_not_wrapped():
    """Beyond twice the range that was seen an 8-bit value that wrapped would be small again."""
    graph = convert(Brightness())
    quantise(graph, [np.minimum(picture, 100) for picture in PICTURES])
    levels = [run(graph, np.full((64, 96), level, np.uint8))[0, 0, 10, 10] for level in (50, 100, 150, 205, 255)]
    np.testing.assert_allclose(levels, np.array([50, 100, 100, 100, 100]) / 255, atol=0.02)


class Faint(nn.Module):
    """A strong weight beside fifteen that are rounded to nothing, which together give a fortieth of the output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 16, 1), nn.Conv2d(16, 1, 1)
        for module in (self.first, self.second, self.third):
            nn.init.ones_(module.weight)
            nn.init.constant_(module.bias, 0.25)  # one of 0 would not be there
        with torch.no_grad():
            self.second.weight[1:] *= 0.5
            self.second.bias[1:] *= 0.5
            self.third.weight[:, 1:] = 1 / 300

    def forward(self, image):
        pooled = nn.functional.max_pool2d(torch.relu(self.first(image.float() / 255)), 4)
        return self.third(torch.relu(self.second(pooled)))


def test_what_rounded_weights_take_away_is_given_back_on_average():
    graph = convert(Faint())
    expected = [run(graph, picture) for picture in PICTURES]
    quantise(graph, PICTURES)
    faint = (np.mean(expected) - 0.25) / (1 + 600 / 15)
    error = np.mean([run(graph, picture) - exact for picture, exact in zip(PICTURES, expected, strict=True)])
    assert abs(error) < 0.1 * faint


def test_features_of_a_quarter_of_the_resolution_and_coarser_run_on_int8():
    engine = load_engine(load_network('superpoint_small'), 'openvino', 'cpu', 'int8')
    list(engine.maps([np.zeros((64, 96), np.uint8)]))
    graph = engine.requests[64, 96].get_compiled_model().get_runtime_model()
    precisions = [
        node.rt_info['runtimePrecision'].astype(str)
        for node in graph.get_ordered_ops()
        if node.rt_info['layerType'].astype(str) == 'Convolution'
    ]
    assert len(precisions) == 17
    of_finer_ones = [precision for precision in precisions if precision in ('f32', 'bf16')]
    assert len(of_finer_ones) == 7  # the encoder's first five, and those that give pixels their values
    assert {precision for precision in precisions if precision not in of_finer_ones} <= {'i8', 'u8'}


def test_what_gives_pixels_their_values_takes_and_multiplies_nothing_that_was_rounded():
    graph = convert(MapNetwork(load_network('superpoint_small')))
    quantise(graph, PICTURES)
    convolutions = [node for node in graph.get_ordered_ops() if node.get_type_name() == 'Convolution']
    sources = {
        max(node.get_attributes()['strides']): [value.get_node().get_type_name() for value in node.input_values()]
        for node in convolutions
    }
    assert set(sources) == {1, 2, 4}
    assert 'FakeQuantize' not in sources[2] + sources[4]
    assert sources[1] == ['FakeQuantize', 'FakeQuantize']


def test_detections_and_descriptors_are_those_of_float32():
    network = SuperPoint(SuperPointConfig(widths=(8,) * 8, head_width=16, descriptor_dim=16, norm='none'))
    shipped = load_network('superpoint_small')
    picture = np.kron(rng.integers(0, 256, (15, 20), np.uint8), np.ones((16, 16), np.uint8))
    for case, most_wrong in ((network, 0.05), (shipped, 0.03)):
        exact, int8 = (next(load_engine(case, 'openvino', 'cpu', kind).maps([picture])) for kind in ('float32', 'int8'))
        a, b = (maps.descriptors.astype(np.float64) for maps in (exact, int8))
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.mean() > 1 - most_wrong
        likely = exact.scores > 0.5 * exact.scores.max()
        assert np.abs(int8.scores - exact.scores)[likely].mean() < 0.1 * exact.scores.max()
