"""`train`: one training of a network, resumable; MagicPoint on shapes, or a recipe on frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from superpoint_ros.arguments import not_negative
from superpoint_ros.networks import (
    STRIDE,
    KeypointNetwork,
    SuperPoint,
    save_network,
)
from superpoint_training.allocator import keep_freed_memory
from superpoint_training.config import load_config
from superpoint_training.distributed import World, join_world
from superpoint_training.failures import TrainingError
from superpoint_training.files import print_any_name, require_writable
from superpoint_training.frames import Frames
from superpoint_training.labels import Labels, NamedFrames
from superpoint_training.narrowing import narrow
from superpoint_training.recipe_run import describe_run, fingerprint, load_start, train_recipe
from superpoint_training.recipes import MAGICPOINT, RECIPES, Recipe
from superpoint_training.recipes.losses import constant_prediction_loss
from superpoint_training.sources import LabelledFrames, PairSource, PlainFrames, usable

MUCH_WAITING = 0.2
"""Share of the time above which a training says that it waited for examples."""


def start_from(network: KeypointNetwork, weights: str, recipe: Recipe, frames: NamedFrames | None) -> str:
    """Give a network the values of stored weights wherever name and shape agree; says how many did.

    Of longer descriptors those values stay that say most, see `narrowing`, if there are frames to see it by.

    Raises:
        WeightsError: see `load_start`.
    """
    own, start, narrowed = network.state_dict(), load_start(weights, recipe), ''
    kept, there = network.config.descriptor_dim, start.config.descriptor_dim
    if isinstance(start, SuperPoint) and kept < there and frames is not None:
        start, narrowed = narrow(start, kept, frames), f', with {kept} of {there} values of its descriptors'
    given = start.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    network.load_state_dict(own | fitting)
    return f'{len(fitting)} of {len(own)} tensors start from {weights}{narrowed}'


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='train', description=__doc__)
    parser.add_argument('recipe', choices=('magicpoint', *RECIPES))
    parser.add_argument('--config', required=True, help='YAML file, see config/training')
    parser.add_argument('--out', required=True, type=Path, help='weights to write at the end (.safetensors)')
    parser.add_argument('--frames', help='folder or tar of pictures; magicpoint draws its own')
    parser.add_argument('--labels', help='labels of these frames, made by `label`')
    # Not --start nor --logs: torchrun would take them for beginnings of options of its own.
    parser.add_argument(
        '--from', dest='start', metavar='WEIGHTS', help='to start from, where shapes agree; default: random'
    )
    parser.add_argument('--minutes', type=not_negative, help='stop after so many; the same call goes on')
    parser.add_argument('--tensorboard', dest='logs', metavar='DIR', type=Path, help="folder for TensorBoard's files")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N; default: %(default)s')
    parser.add_argument(
        '--set', nargs='*', action='extend', default=[], metavar='KEY=VALUE', help='override the configuration'
    )
    options = parser.parse_args(arguments)
    if options.out.suffix != '.safetensors':
        parser.error(f"--out must end in .safetensors, not '{options.out.suffix}'")
    if options.recipe in RECIPES:
        labels = RECIPES[options.recipe].needs_labels
        if not options.frames or (labels and not options.labels):
            parser.error(f'{options.recipe} needs --frames{" and --labels" * labels}')
        if options.labels and not labels:
            parser.error(f'{options.recipe} trains without labels: leave out --labels')
    return options


def _sources(
    options: argparse.Namespace, recipe: Recipe, config: Any, frames: Frames | None, world: World
) -> dict[str, PairSource]:
    if frames is None:
        return {}
    if not recipe.needs_labels:
        return {'frames': PlainFrames(frames)}
    labels = Labels.load(options.labels)
    source = LabelledFrames(frames, labels)
    if world.first:
        keypoints = labels.expected if config.pairs.label_sigma else labels.density
        _, first = next(usable(frames))
        blind = constant_prediction_loss(keypoints, first.size // STRIDE**2)
        print(f'{source!r}; a prediction blind to the picture has a detector loss of about {blind:.3f}')
    return {'frames': source}


def run(options: argparse.Namespace, world: World) -> bool:
    """Train for as long as asked; true when the schedule is over, and the weights are written."""
    recipe = RECIPES.get(options.recipe, MAGICPOINT)
    config: Any = load_config(recipe.config, options.config, options.set)
    if world.first:
        require_writable(options.out)
    frames = Frames(options.frames) if options.recipe in RECIPES else None
    sources = _sources(options, recipe, config, frames, world)
    data = repr(sources['frames']) if sources else 'Synthetic Shapes'
    torch.manual_seed(config.seed)
    network = recipe.build_network(config)
    checkpoint = options.out.with_suffix('.checkpoint')
    if options.start and not checkpoint.exists():
        started = start_from(network, options.start, recipe, frames)
        if world.first:
            print(started)
    outcome = train_recipe(
        recipe,
        network,
        sources,
        config,
        checkpoint,
        world=world,
        start=fingerprint(options.start or 'none'),
        minutes=options.minutes,
        logs=options.logs,
        describe=f'{options.recipe} {options.out.stem}',
    )
    if world.first:
        about = {'recipe': options.recipe, 'data': data} | describe_run(outcome, config, world)
        written = checkpoint
        # Not those of a run that was stopped: the file may be that of --from, which it needs to go on.
        if outcome.finished:
            assert isinstance(outcome.network, KeypointNetwork)
            save_network(outcome.network, options.out, about)
            written = options.out
        minutes, losses = outcome.seconds / 60, about['losses']
        print(f'{written}: step {outcome.steps} of {config.loop.steps}, {minutes:.1f} min, {losses}')
        if outcome.waited > MUCH_WAITING:
            print(
                f'{outcome.waited:.0%} of the time went into waiting for examples: loop.workers sets how many make them'
            )
    return outcome.finished


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when the schedule is finished, 3 when the call should be repeated to go on, 1 for an error."""
    options = parse(arguments)
    keep_freed_memory()
    print_any_name()
    try:
        with join_world(options.device) as world:
            return 0 if run(options, world) else 3
    except (ValueError, OSError, FloatingPointError, TrainingError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
