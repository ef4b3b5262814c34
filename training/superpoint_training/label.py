"""`label`: homographic adaptation over a set of frames, resumable; writes one labels file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from superpoint_ros.networks import WeightsError, load_network
from superpoint_training.allocator import keep_freed_memory
from superpoint_training.config import ConfigError, load_config
from superpoint_training.frames import Frames
from superpoint_training.labels import LabelConfig, Labels, adapt, find_labels
from superpoint_training.loop import Interruptible, pick_device

SAVE_SECONDS = 60


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='label', description=__doc__)
    parser.add_argument('--config', required=True, help='YAML file, see config/training')
    parser.add_argument('--weights', required=True, help='the detector to average')
    parser.add_argument('--frames', required=True, help='folder or tar of pictures')
    parser.add_argument('--out', required=True, type=Path, help='labels to write (.npz)')
    parser.add_argument('--limit', type=int, help='label only the first so many frames')
    parser.add_argument('--minutes', type=float, help='stop after so many, to be called again')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--set', nargs='*', default=[], metavar='KEY=VALUE', help='override the configuration')
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> bool:
    """Label what is not labelled yet, for as long as asked; True when every frame is done."""
    config = load_config(LabelConfig, options.config, options.set)
    device = pick_device(options.device)
    network = load_network(options.weights).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frames = Frames(options.frames, options.limit)
    labels = Labels({}, {'config': asdict(config), 'detector': network.metadata, 'weights': str(options.weights)})
    if options.out.exists():
        labels = Labels.load(options.out)
        if labels.about.get('config') != _as_stored(asdict(config)):
            raise ValueError(f"'{options.out}' was begun with another configuration: remove it or write elsewhere")

    began = saved_at = time.monotonic()
    todo = [index for index, name in enumerate(frames.names) if name not in labels.by_name]
    with (
        Interruptible() as interrupted,
        tqdm(
            total=len(frames),
            initial=len(frames) - len(todo),
            desc=f'label {options.out.stem}',
            unit='frame',
            mininterval=2,
        ) as progress,
    ):
        for index in todo:
            heat = adapt(network, frames[index], np.random.default_rng([0, index]), config, device)
            labels.by_name[frames.names[index]] = find_labels(heat, config)
            progress.update()
            if time.monotonic() - saved_at > SAVE_SECONDS:
                labels.save(options.out)
                saved_at = time.monotonic()
            if interrupted() or (options.minutes and time.monotonic() - began > 60 * options.minutes):
                break
    labels.save(options.out)
    print(f'{options.out}: {len(labels)} of {len(frames)} frames, {labels.density:.0f} labels a frame')
    return len(labels) == len(frames)


def _as_stored(value: object) -> object:
    """As JSON gives it back: tuples become lists."""
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    return [_as_stored(item) for item in value] if isinstance(value, (list, tuple)) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every frame is labelled, 3 when the call should be repeated to go on, 1 for an error."""
    options = parse(arguments)
    keep_freed_memory()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        return 0 if run(options) else 3
    except (ConfigError, WeightsError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
