"""How near the network comes to the rate at which the device multiplies: a batch against one large convolution."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from superpoint_ros.benchmark.pictures import SIZE
from superpoint_ros.engines import TorchEngine

REPEATS = 10
_PROBE = (128, 60, 80)
"""Channels, height and width of the convolution that is taken for the ceiling: 3 x 3, as the network's are."""


def measure_ceiling(engine: TorchEngine, batch: int) -> dict[str, Any]:
    """The engine's network alone, on a batch that is on the device already.

    Returns:
        'batch', 'gflop_an_image' (multiply and add are two), 'images_per_second', 'tflops' reached, 'ceiling_tflops'
        of the probe on as many images, 'share' of it, and 'eager_ms', one image through the network alone.
    """
    device = engine.device
    width, height = SIZE
    one = torch.zeros(1, 1, height, width, dtype=torch.uint8, device=device)
    many = one.expand(batch, -1, -1, -1).contiguous()
    operations = count_operations(engine.network.network)
    channels, rows, columns = _PROBE
    dtype = next(engine.network.parameters()).dtype
    probe = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype)
    probe.weight.data = probe.weight.data.contiguous(memory_format=torch.channels_last)
    maps = torch.zeros(batch, channels, rows, columns, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    seconds = _time(engine.network, many, device)
    ceiling = 2 * 9 * channels**2 * rows * columns * batch / _time(probe, maps, device) / 1e12
    reached = operations * batch / seconds / 1e12
    return {
        'batch': batch,
        'gflop_an_image': round(operations / 1e9, 2),
        'images_per_second': round(batch / seconds, 1),
        'tflops': round(reached, 5),
        'ceiling_tflops': round(ceiling, 5),
        'share': round(reached / ceiling, 3),
        'eager_ms': round(_time(engine.network, one, device) * 1e3, 3),
    }


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
    """Median seconds of a run, waited for."""
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS + 3):
            began = perf_counter()
            run(images)
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            times.append(perf_counter() - began)
    return float(np.median(times[3:]))
