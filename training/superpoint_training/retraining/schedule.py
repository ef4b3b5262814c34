"""How long a training takes on this machine, and how many steps fit into the time there is."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from superpoint_training.accumulation import Accumulator
from superpoint_training.adaptation import Adaptation, LabelConfig
from superpoint_training.distributed import World
from superpoint_training.examples import batches, workers_beside
from superpoint_training.recipes import Recipe
from superpoint_training.sources import PairSource

TIMED_STEPS = 4
FEWEST_STEPS = 20


def seconds_a_step(
    recipe: Recipe, network: nn.Module, sources: Mapping[str, PairSource], config: Any, world: World
) -> float:
    """Time of a training step of one process's part of the batch, on copies.

    That is forward and backward or, if it is longer, as beside a GPU, the time in which the workers make the examples.
    """
    trial = copy.deepcopy(network).to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    alone = replace(world, size=1, rank=0)
    accumulator = Accumulator(trial, config.loop.examples_at_once(world), alone)
    losses = recipe.make_losses(config)
    examples = recipe.make_examples(config, sources)
    own = config.loop.batch_size // world.size
    workers = workers_beside(world.device, config.loop.workers)
    making, training = [], []
    began = time.perf_counter()
    for index, batch in enumerate(batches(examples, own, 0, TIMED_STEPS + 1, 0, alone)):
        made = time.perf_counter()
        float(accumulator.run(batch, losses, index)['total'])  # whose value a GPU must have
        making.append(made - began)
        began = time.perf_counter()
        training.append(began - made)
    train, make = (sorted(laps[1:])[TIMED_STEPS // 2] for laps in (training, making))
    return max(train, make / workers) if workers else train + make


def seconds_a_label(network: nn.Module, frame: np.ndarray, config: LabelConfig, world: World) -> float:
    """Time to label a frame `[H, W]` uint8."""
    adaptation = Adaptation(network.to(world.device).eval(), config, world.device)
    if world.device.type == 'cuda':
        adaptation.scores(frame, np.random.default_rng(0))  # the first takes a second or more to set up
    began = time.perf_counter()
    adaptation.scores(frame, np.random.default_rng(0))
    return time.perf_counter() - began


def fit_steps(steps: int, seconds: float, minutes: float | None) -> int:
    """As many of the steps as fit into the minutes, so that the learning rate still falls to its end.

    Where time is too short `FEWEST_STEPS` of them.
    """
    if minutes is None:
        return steps
    return min(steps, max(FEWEST_STEPS, int(60 * minutes / seconds)))
