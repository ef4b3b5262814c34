"""`train`: one stage of SuperPoint's training, resumable; MagicPoint on shapes, or jointly on labelled frames."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from superpoint_ros.networks import SuperPoint, SuperPointConfig, WeightsError, load_network, save_network
from superpoint_training.allocator import keep_freed_memory
from superpoint_training.config import ConfigError, load_config
from superpoint_training.examples import PairExamples, ShapeExamples, batches
from superpoint_training.frames import Frames
from superpoint_training.labels import Labels
from superpoint_training.loop import LoopConfig, Outcome, pick_device, train
from superpoint_training.recipes.losses import constant_prediction_loss
from superpoint_training.recipes.superpoint import (
    JointConfig,
    MagicPointConfig,
    joint_losses,
    magicpoint_losses,
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='train', description=__doc__)
    parser.add_argument('stage', choices=('magicpoint', 'joint'))
    parser.add_argument('--config', required=True, help='YAML file, see config/training')
    parser.add_argument('--out', required=True, type=Path, help='weights to write (.safetensors)')
    parser.add_argument('--frames', help='joint: folder or tar of pictures')
    parser.add_argument('--labels', help='joint: labels of these frames, made by `label`')
    parser.add_argument('--start', help='weights to begin with, where the shapes agree; else fresh ones')
    parser.add_argument('--minutes', type=float, help='stop after so many, to be called again')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--set', nargs='*', default=[], metavar='KEY=VALUE', help='override the configuration')
    options = parser.parse_args(arguments)
    if options.stage == 'joint' and not (options.frames and options.labels):
        parser.error('joint training needs --frames and --labels')
    return options


def build_network(config: SuperPointConfig, seed: int, start: str | None) -> SuperPoint:
    """A network of that shape, with the weights of `start` wherever name and shape agree."""
    torch.manual_seed(seed)
    network = SuperPoint(config)
    if start:
        own = network.state_dict()
        given = load_network(start, fold=False).state_dict()
        fitting = {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
        print(f'{len(fitting)} of {len(own)} tensors start from {start}')
        network.load_state_dict(own | fitting)
    return network


def run(options: argparse.Namespace) -> Outcome:
    """Train one stage for as long as asked and write the weights."""
    device = pick_device(options.device)
    checkpoint = options.out.with_suffix('.checkpoint')
    if options.stage == 'magicpoint':
        shapes_config = load_config(MagicPointConfig, options.config, options.set)
        config: MagicPointConfig | JointConfig = shapes_config
        dataset: ShapeExamples | PairExamples = ShapeExamples(shapes_config.shapes, shapes_config.seed)
        compute_losses = magicpoint_losses
        data = 'Synthetic Shapes'
    else:
        joint_config = load_config(JointConfig, options.config, options.set)
        config = joint_config
        frames, labels = Frames(options.frames), Labels.load(options.labels)
        dataset = PairExamples(frames, labels, joint_config.pairs, joint_config.seed)
        compute_losses = partial(joint_losses, config=joint_config)
        data = f'{len(dataset.labelled)} labelled frames, {labels.density:.0f} labels a frame'
        frame_cells = frames[dataset.labelled[0]].size / 64
        print(f'{data}; a prediction blind to the picture has a detector loss of about '
              f'{constant_prediction_loss(labels.density, int(frame_cells)):.3f}')  # fmt: skip

    network = build_network(config.network, config.seed, options.start)
    outcome = train(
        network,
        lambda first, last: batches(dataset, config.loop.batch_size, first, last, config.loop.workers),
        compute_losses,
        config.loop,
        checkpoint,
        device=device,
        settings=repr(replace(config, loop=LoopConfig())),
        minutes=options.minutes,
        describe=f'{options.stage} {options.out.stem}',
    )
    losses = ', '.join(f'{name} {value:.4f}' for name, value in outcome.losses.items())
    about = {
        'recipe': options.stage,
        'data': data,
        'schedule': f'{outcome.steps} steps of {config.loop.batch_size}, {outcome.seconds / 60:.0f} minutes',
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU {platform.machine()}',
        'seed': str(config.seed),
        'losses': losses,
    }
    save_network(network, options.out, about)
    print(f'{options.out}: step {outcome.steps} of {config.loop.steps}, {outcome.seconds / 60:.1f} min, {losses}')
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when the schedule is finished, 3 when the call should be repeated to go on, 1 for an error."""
    options = parse(arguments)
    keep_freed_memory()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        return 0 if run(options).finished else 3
    except (ConfigError, WeightsError, ValueError, FloatingPointError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
