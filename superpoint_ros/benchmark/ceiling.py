"""On a CUDA device: how near the network comes to the rate at which it multiplies, and what eager torch would take."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from superpoint_ros.benchmark.pictures import SIZE
from superpoint_ros.benchmark.stages import summarise, time_frontend
from superpoint_ros.detector import Detector
from superpoint_ros.device_sessions import Sessions
from superpoint_ros.engines import MapNetwork, TorchEngine
from superpoint_ros.networks import KeypointNetwork
from superpoint_ros.triton_runtime import torch_alone

REPEATS = 5
IN_A_ROW = 4
_PROBE = (128, 60, 80)
"""Channels, height and width of the convolution that is taken for the ceiling: 3 x 3, as the network's are."""


def measure_ceiling(engine: TorchEngine, network: KeypointNetwork, batch: int) -> dict[str, Any]:
    """The engine alone, on a batch that is on the device already; network: what it was made of.

    Returns:
        'batch', 'gflop_an_image' (multiply and add are two), 'images_per_second', 'tflops' reached, 'ceiling_tflops'
        of the probe on as many images, and 'share' of it.
    """
    device = engine.device
    width, height = SIZE
    images = torch.randint(0, 256, (batch, 1, height, width), dtype=torch.uint8, device=device)
    operations = count_operations(network)
    channels, rows, columns = _PROBE
    dtype = next(engine.network.parameters()).dtype
    probe = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype)
    probe.weight.data = probe.weight.data.contiguous(memory_format=torch.channels_last)
    maps = torch.randn(batch, channels, rows, columns, device=device, dtype=dtype)  # zeros are multiplied faster
    maps = maps.contiguous(memory_format=torch.channels_last)
    seconds = _time(engine.network, images, device)
    ceiling = 2 * 9 * channels**2 * rows * columns * batch / _time(probe, maps, device) / 1e12
    reached = operations * batch / seconds / 1e12
    return {
        'batch': batch,
        'gflop_an_image': round(operations / 1e9, 2),
        'images_per_second': round(batch / seconds, 1),
        'tflops': round(reached, 5),
        'ceiling_tflops': round(ceiling, 5),
        'share': round(reached / ceiling, 3),
    }


def time_eager(detector: Detector, network: KeypointNetwork, pictures: Sequence[np.ndarray]) -> dict[str, float]:
    """Percentiles in ms from image to matches with PyTorch's own layers and every step started by itself.

    The detector finds its features with them from now on. network: what its engine was made of.
    """
    engine = detector.engine
    assert isinstance(engine, TorchEngine)
    maps = MapNetwork(network, next(engine.network.parameters()).dtype).eval().to(engine.device)
    maps = maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.sessions = Sessions(maps, network.config.descriptor_dim, graphs=False)
    with torch_alone():
        times, _ = time_frontend(detector, pictures)
    return dict(summarise(times)['passage'])


def count_operations(network: nn.Module) -> float:
    """Of the convolutions on one image of SIZE; a multiplication and an addition are two."""
    counts: list[float] = []

    def note(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counts.append(2.0 * layer.weight[0].numel() * output.numel())

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    width, height = SIZE
    with torch.inference_mode():
        network(next(network.parameters()).new_zeros(1, 1, height, width))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _time(run: nn.Module, images: torch.Tensor, device: torch.device) -> float:
    """Median seconds of a run, of which several follow one another before the last is waited for."""
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            began = perf_counter()
            for _ in range(IN_A_ROW):
                run(images)
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            times.append((perf_counter() - began) / IN_A_ROW)
    return float(np.median(times[1:]))
