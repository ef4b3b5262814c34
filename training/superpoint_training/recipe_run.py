"""One training of a network by a recipe: what it begins with, its run, and what is said of it afterwards."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superpoint_ros.networks import KeypointNetwork, WeightsError, load_network, resolve_weights
from superpoint_training.distributed import World
from superpoint_training.examples import batches
from superpoint_training.loop import LoopConfig, Outcome, Validate, train
from superpoint_training.recipes import Recipe
from superpoint_training.sources import PairSource


def train_recipe(
    recipe: Recipe,
    network: nn.Module,
    sources: Mapping[str, PairSource],
    config: Any,
    checkpoint: Path,
    *,
    world: World,
    start: str,
    validate: Validate | None = None,
    minutes: float | None = None,
    logs: Path | None = None,
    describe: str = 'training',
) -> Outcome:
    """Train a network by a recipe, from the weights that it has; fresh or shipped makes no difference.

    Args:
        recipe: of `RECIPES`.
        network: trained in place; the result is the outcome's network.
        sources: frames, labelled if the recipe needs it, by the names that the configuration's mix knows.
        config: of the recipe's kind; `config/training/fine_tune.yaml` is for shipped weights and a robot's frames.
        start: fingerprint of the weights that the run began with; a checkpoint of a run from others is refused.
        checkpoint, world, validate, minutes, logs, describe: see `loop.train`, also for what is raised.
    """
    examples = recipe.make_examples(config, sources)
    return train(
        network,
        lambda first, last: batches(examples, config.loop.batch_size, first, last, config.loop.workers, world),
        recipe.make_losses(config),
        config.loop,
        checkpoint,
        world=world,
        settings=f'{replace(config, loop=LoopConfig())!r} on {dict(sources)!r} from {start}',
        validate=validate,
        minutes=minutes,
        logs=logs,
        describe=describe,
    )


def fingerprint(weights: str) -> str:
    """What tells stored weights, by name or path, from others of the same name; 'none' for 'none', fresh ones.

    Raises:
        WeightsError: there are none.
    """
    return weights if weights == 'none' else hashlib.sha256(resolve_weights(weights).read_bytes()).hexdigest()[:16]


def load_start(weights: str, recipe: Recipe) -> KeypointNetwork:
    """Weights to train on from, BatchNorm and all.

    Raises:
        WeightsError: they can't be read, or are of another network than the recipe trains.
    """
    network = load_network(weights, fold=False)
    if network.architecture != recipe.architecture:
        raise WeightsError(
            f"'{weights}' are weights of {network.architecture}, and this recipe trains {recipe.architecture}: begin "
            f'with weights of {recipe.architecture}, or with fresh ones'
        )
    return network


def describe_run(outcome: Outcome, config: Any, world: World) -> dict[str, str]:
    """What to keep with the weights of a run: schedule, hardware, seed and losses."""
    device = world.device
    hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU {platform.machine()}'
    return {
        'schedule': f'{outcome.steps} steps of {config.loop.batch_size}, {outcome.seconds / 60:.0f} minutes',
        'hardware': f'{f"{world.size} x " * (world.size > 1)}{hardware}, PyTorch {torch.__version__.partition("+")[0]}',
        'seed': str(config.seed),
        'losses': ', '.join(f'{name} {value:.4f}' for name, value in outcome.losses.items()),
    }
