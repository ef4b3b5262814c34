"""A network's convolutions in 8 bits, for OpenVINO: no training, no labels, a second at start.

Fake quantisers are put on every convolution's input and weights, where the CPU plugin looks for them; it then runs
those convolutions on int8. What does not follow a ReLU, such as the first convolution, whose input is the image
itself, keeps the precision of the rest. So do the features finer than `FINEST`, which tell keypoints to the pixel and
which all others are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from superpoint_ros.openvino_runtime import compile_for_cpu, openvino

FINEST = 4
"""Pixels along a side of an entry of the finest features on int8. With those of 2, one or two in a hundred more of
`superpoint`'s matches are others than float32's, for a sixth less time."""
EQUALISATION = 0.7
"""How far channels are brought to one range, 0 to 1: fully, weak channels would take the precision of the weights."""
SMALLEST_SHARE = 1e-3
"""Of the largest channel's range that a channel is taken to have; some are 0 on all pictures."""
STEPS = 255


class Layer(NamedTuple):
    """A tensor to be quantised: the ReLU that makes it, and the convolutions that take it, maybe through pools."""

    relu: openvino.Node
    consumers: list[openvino.Node]


def quantise(graph: openvino.Model, pictures: Sequence[np.ndarray]) -> None:
    """Mark a graph's convolutions for execution on int8, in place.

    Activations are quantised per tensor and weights per output channel, to 8 bits, over the ranges that the
    activations have on the pictures. Before that channels are equalised (Nagel et al. 2019, section 4.1): a factor
    moved from the weights that make a channel to those that read it, which changes no output, as ReLU and max-pool
    commute with it.

    Args:
        graph: takes `[1, 1, H, W]` uint8, as `pictures` have it; convolutions with constant weights.
        pictures: `[H, W]` uint8, typical ones.
    """
    layers = _find_layers(graph)
    maxima = _channel_maxima(graph, layers, pictures)
    # All equalised before any is quantised: a convolution's weights are scaled for its input and for its output.
    tops = [_equalise(layer, of_channels) for layer, of_channels in zip(layers, maxima, strict=True)]
    for layer, top in zip(layers, tops, strict=True):
        consumers = layer.relu.output(0).get_target_inputs()
        bottom = np.float32(0)
        quantised = openvino.opset13.fake_quantize(layer.relu, bottom, top, bottom, top, STEPS + 1)
        for consumer in consumers:
            consumer.replace_source_output(quantised.output(0))
        for convolution in layer.consumers:
            _quantise_weights(convolution)
    graph.validate_nodes_and_infer_types()


def _find_layers(graph: openvino.Model) -> list[Layer]:
    layers: dict[str, Layer] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() == 'Convolution':
            source = node.input_value(0).get_node()
            while source.get_type_name() == 'MaxPool':
                source = source.input_value(0).get_node()
            if source.get_type_name() == 'Relu' and _side(source) >= FINEST:
                layers.setdefault(source.get_friendly_name(), Layer(source, [])).consumers.append(node)
    return list(layers.values())


def _side(node: openvino.Node) -> int:
    """Pixels of the image along a side of an entry of a map."""
    side = 1
    while node.get_type_name() != 'Parameter':
        side *= max(node.get_attributes().get('strides', [1]))
        inputs = [value.get_node() for value in node.input_values()]
        node = next((each for each in inputs if each.get_type_name() == 'Convolution'), inputs[0])  # not its bias
    return side


def _channel_maxima(graph: openvino.Model, layers: Sequence[Layer], pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The largest value of every channel of every layer over the pictures: [C] each."""
    observed = graph.clone()
    by_name = {node.get_friendly_name(): node for node in observed.get_ops()}
    outputs = observed.add_outputs([by_name[layer.relu.get_friendly_name()].output(0) for layer in layers])
    compiled = compile_for_cpu(observed, bfloat16=False)
    first = len(compiled.outputs) - len(outputs)
    maxima = []
    for picture in pictures:
        results = compiled([picture[None, None]])
        maxima.append([results[first + index][0].max(axis=(1, 2)) for index in range(len(layers))])
    return [np.max(by_picture, axis=0) for by_picture in zip(*maxima, strict=True)]


def _equalise(layer: Layer, maxima: np.ndarray) -> np.float32:
    """Scale the channels towards one range; returns the largest value of the tensor after that."""
    largest = max(maxima.max(), np.float32(1e-6))
    scale = np.maximum(maxima / largest, SMALLEST_SHARE) ** EQUALISATION
    before = layer.relu.input_value(0).get_node()
    if before.get_type_name() == 'Add':
        bias = int(before.input_value(0).get_node().get_type_name() == 'Convolution')
        _set_constant(before, bias, _constant(before, bias) / scale[:, None, None])
        before = before.input_value(1 - bias).get_node()
    _set_constant(before, 1, _constant(before, 1) / scale[:, None, None, None])
    for convolution in layer.consumers:
        _set_constant(convolution, 1, _constant(convolution, 1) * scale[:, None, None])
    return np.float32((maxima / scale).max(initial=1e-6))


def _quantise_weights(convolution: openvino.Node) -> None:
    top = np.abs(_constant(convolution, 1)).max(axis=(1, 2, 3), keepdims=True)
    quantised = openvino.opset13.fake_quantize(convolution.input_value(1), -top, top, -top, top, STEPS)
    convolution.input(1).replace_source_output(quantised.output(0))


def _constant(node: openvino.Node, index: int) -> np.ndarray:
    """The value of a constant input, float32, of the shape it has there."""
    source = node.input_value(index).get_node()
    while source.get_type_name() != 'Constant':  # half-precision weights are converted
        source = source.input_value(0).get_node()
    return source.data.astype(np.float32).reshape(tuple(node.input_value(index).shape))


def _set_constant(node: openvino.Node, index: int, value: np.ndarray) -> None:
    node.input(index).replace_source_output(openvino.opset13.constant(value.astype(np.float32)).output(0))
