"""A round of a retraining: labels for the frames, and a training on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from superpoint_training.distributed import World
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.frames import Frames, Shrunk
from superpoint_training.labels import label_frames
from superpoint_training.loop import Outcome
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.recipe_run import describe_run, fingerprint, load_start, train_recipe
from superpoint_training.recipes import RECIPES
from superpoint_training.retraining import proof, schedule
from superpoint_training.retraining.request import Request
from superpoint_training.retraining.workspace import Workspace
from superpoint_training.sources import LabelledFrames, PairSource, PlainFrames

VALIDATION_FRAMES = 16
"""Held-out frames that watch a training at most, evenly spread."""


def start_network(request: Request) -> nn.Module:
    """The weights to begin with; fresh ones by the configuration's seed.

    Raises:
        WeightsError: they can't be read, or are of another network than the recipe trains.
    """
    if request.start == 'none':
        torch.manual_seed(request.training.seed)
        return RECIPES[request.recipe].build_network(request.training)
    return load_start(request.start, RECIPES[request.recipe]).requires_grad_(True)


def train_round(
    request: Request, work: Workspace, world: World, number: int, network: nn.Module, labeller: nn.Module,
    train: Frames, watched: Sequence[np.ndarray], general: Frames,
) -> tuple[Outcome | None, dict[str, Any]]:  # fmt: skip
    """Label the frames, if the recipe needs it, and train on them.

    Args:
        request, work, world: see `run.retrain`.
        number: of the round, from 1.
        network: trained in place; the result is the outcome's network.
        labeller: weights that label.
        train: the recordings' frames.
        watched: held-out frames that watch the training.
        general: frames to mix in.

    Returns:
        The outcome, and what the record says of the round; None and nothing if it was stopped while labelling.
    """
    recipe, config = RECIPES[request.recipe], request.training
    sources: dict[str, PairSource] = {}
    density = None
    general_labels = replace(request.labels, threshold=request.general_threshold)
    for name, recorded, how in (('robot', train, request.labels), ('general', general, general_labels)):
        pictures = Shrunk(recorded, request.short_side)
        if not recipe.needs_labels:
            sources[name] = PlainFrames(pictures)
            continue
        labels, complete = label_frames(
            labeller, pictures, how, work.labels(name, number), world=world, seed=number,
            describe=f'label {name} frames',
        )  # fmt: skip
        if not complete:
            return None, {}
        sources[name] = LabelledFrames(pictures, labels)
        density = labels.density if name == 'robot' else density
    steps = _steps(request, work, world, number, network, sources)
    loop = replace(config.loop, steps=steps, warm_up=min(config.loop.warm_up, steps // 5))
    protocol = PROTOCOLS[request.protocol]
    outcome = train_recipe(
        recipe,
        network,
        sources,
        replace(config, loop=loop),
        work.checkpoint(number),
        world=world,
        start=fingerprint(request.start),
        validate=proof.validation(warped_pairs(watched, protocol), protocol, str(world.device), request.levels),
        logs=work.logs(number),
        describe=f'train, round {number}' if request.rounds > 1 else 'train',
    )
    return outcome, {'labels': density} | _summary(outcome) | describe_run(outcome, config, world)


def _steps(
    request: Request, work: Workspace, world: World, number: int, network: nn.Module, sources: dict[str, PairSource]
) -> int:
    """How many steps this round has: decided once, by the speed of this machine, and remembered."""
    key = f'steps_of_round_{number}'
    steps = 0
    if world.first:
        steps = work.settings().get(key, 0)
        if not steps:
            seconds = 0.0
            if request.minutes is not None:
                recipe = RECIPES[request.recipe]
                seconds = schedule.seconds_a_step(recipe, network, sources, request.training, world)
            steps = schedule.fit_steps(request.training.loop.steps, seconds, request.minutes)
            work.remember(**{key: steps})
    return world.from_first(steps)


def _summary(outcome: Outcome) -> dict[str, Any]:
    kept = ('step', 'figures', 'steps', 'seconds', 'curves')
    return {name: getattr(outcome, name) for name in kept}
