"""A network's convolutions in 8 bits, for OpenVINO: no training, no labels, a second at start.

Fake quantisers are put on every convolution's input and weights, where the CPU plugin looks for them; it then runs
those convolutions on int8. What does not follow a ReLU, such as the first convolution, whose input is the image
itself, keeps the precision of the rest. So do the features finer than `FINEST`, which all others are made of, and
the convolutions that stride over cells to give each pixel its value.
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


class Seen(NamedTuple):
    """What a layer's channels were on some pictures."""

    maxima: np.ndarray
    """[C], the largest values."""
    means: list[np.ndarray]
    """[C] of each consumer, the mean of what it takes."""

    def scaled(self, factors: np.ndarray) -> Seen:
        """Of a layer whose channels are that many times as large."""
        return Seen(self.maxima * factors, [mean * factors for mean in self.means])


def quantise(graph: openvino.Model, pictures: Sequence[np.ndarray]) -> None:
    """Mark a graph's convolutions for execution on int8, in place.

    Activations are quantised per tensor and weights per output channel, to 8 bits, over the ranges that the
    activations have on the pictures. Before that channels are equalised (Nagel et al. 2019, section 4.1): a factor
    moved from the weights that make a channel to those that read it, which changes no output, as ReLU and max-pool
    commute with it. What rounding the weights adds to an output on average is taken off its bias (section 4.2).

    Args:
        graph: takes `[1, 1, H, W]` uint8, as `pictures` have it; convolutions with constant weights.
        pictures: `[H, W]` uint8, typical ones.
    """
    layers = _find_layers(graph)
    # All equalised before any is quantised: a convolution's weights are scaled for its input and for its output.
    equalised = [_equalise(layer, seen) for layer, seen in zip(layers, _observe(graph, layers, pictures), strict=True)]
    for layer, seen in zip(layers, equalised, strict=True):
        takers = [each for each in layer.relu.output(0).get_target_inputs() if not _strides(each.get_node())]
        bottom, top = np.float32(0), np.float32(seen.maxima.max(initial=1e-6))
        quantised = openvino.opset13.fake_quantize(layer.relu, bottom, top, bottom, top, STEPS + 1)
        for taker in takers:
            taker.replace_source_output(quantised.output(0))
        for convolution, mean in zip(layer.consumers, seen.means, strict=True):
            if not _strides(convolution):
                _quantise_weights(convolution, mean)
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


def _strides(node: openvino.Node) -> bool:
    return node.get_type_name() == 'Convolution' and max(node.get_attributes()['strides']) > 1


def _side(node: openvino.Node) -> int:
    """Pixels of the image along a side of an entry of a map."""
    side = 1
    while node.get_type_name() != 'Parameter':
        side *= max(node.get_attributes().get('strides', [1]))
        node = _before(node)
    return side


def _before(node: openvino.Node) -> openvino.Node:
    """The node that it takes features of, not a bias."""
    inputs = [value.get_node() for value in node.input_values()]
    return next((each for each in inputs if each.get_type_name() == 'Convolution'), inputs[0])


def _observe(graph: openvino.Model, layers: Sequence[Layer], pictures: Sequence[np.ndarray]) -> list[Seen]:
    """Of every layer, over the pictures."""
    inputs = [[each.input_value(0).get_node() for each in layer.consumers] for layer in layers]
    names = dict.fromkeys(
        node.get_friendly_name() for layer, taken in zip(layers, inputs, strict=True) for node in (layer.relu, *taken)
    )
    observed = graph.clone()
    by_name = {node.get_friendly_name(): node for node in observed.get_ops()}
    observed.add_outputs([by_name[name].output(0) for name in names])
    compiled = compile_for_cpu(observed, bfloat16=False)
    first = len(compiled.outputs) - len(names)
    maxima: dict[str, list[np.ndarray]] = {name: [] for name in names}
    means: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for picture in pictures:
        results = compiled([picture[None, None]])
        for index, name in enumerate(names, first):
            maxima[name].append(results[index][0].max(axis=(1, 2)))
            means[name].append(results[index][0].mean(axis=(1, 2)))
    return [
        Seen(
            np.max(maxima[layer.relu.get_friendly_name()], axis=0),
            [np.mean(means[node.get_friendly_name()], axis=0) for node in taken],
        )
        for layer, taken in zip(layers, inputs, strict=True)
    ]


def _equalise(layer: Layer, seen: Seen) -> Seen:
    """Scale the channels towards one range; returns what they are after that."""
    largest = max(seen.maxima.max(), np.float32(1e-6))
    scale = np.maximum(seen.maxima / largest, SMALLEST_SHARE) ** EQUALISATION
    makes = _before(layer.relu)
    if makes.get_type_name() != 'Convolution':
        makes = _before(makes)  # which adds the bias
    if bias := _bias(makes):
        _set_constant(*bias, _constant(*bias) / scale[:, None, None])
    _set_constant(makes, 1, _constant(makes, 1) / scale[:, None, None, None])
    for convolution in layer.consumers:
        _set_constant(convolution, 1, _constant(convolution, 1) * scale[:, None, None])
    return seen.scaled(1 / scale)


def _quantise_weights(convolution: openvino.Node, mean: np.ndarray) -> None:
    """mean: [C], of the convolution's input."""
    weights = _constant(convolution, 1)
    top = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    step = np.maximum(top, np.float32(1e-12)) * 2 / (STEPS - 1)
    added = ((weights / step).round() * step - weights).sum(axis=(2, 3)) @ mean
    if bias := _bias(convolution):
        _set_constant(*bias, _constant(*bias) - added[:, None, None])
    quantised = openvino.opset13.fake_quantize(convolution.input_value(1), -top, top, -top, top, STEPS)
    convolution.input(1).replace_source_output(quantised.output(0))


def _bias(convolution: openvino.Node) -> tuple[openvino.Node, int] | None:
    """Where a convolution's bias is: the node that adds it and the number of its input, if there is one."""
    (taker, *others) = convolution.output(0).get_target_inputs()
    if others or taker.get_node().get_type_name() != 'Add':
        return None
    number = 1 - taker.get_index()
    source = taker.get_node().input_value(number).get_node()
    if source.get_type_name() == 'Convert':  # of half-precision values
        source = source.input_value(0).get_node()
    return (taker.get_node(), number) if source.get_type_name() == 'Constant' else None


def _constant(node: openvino.Node, index: int) -> np.ndarray:
    """The value of a constant input, float32, of the shape it has there."""
    source = node.input_value(index).get_node()
    while source.get_type_name() != 'Constant':  # half-precision weights are converted
        source = source.input_value(0).get_node()
    return source.data.astype(np.float32).reshape(tuple(node.input_value(index).shape))


def _set_constant(node: openvino.Node, index: int, value: np.ndarray) -> None:
    node.input(index).replace_source_output(openvino.opset13.constant(value.astype(np.float32)).output(0))
