"""`label`: homographic adaptation over a set of frames, resumable; writes one labels file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from superpoint_ros.arguments import at_least, not_negative
from superpoint_ros.networks import load_network
from superpoint_training.adaptation import LabelConfig
from superpoint_training.allocator import keep_freed_memory
from superpoint_training.config import load_config
from superpoint_training.distributed import World, join_world
from superpoint_training.failures import TrainingError
from superpoint_training.files import print_any_name
from superpoint_training.frames import Frames
from superpoint_training.labels import label_frames


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='label', description=__doc__)
    parser.add_argument('--config', required=True, help='YAML file, see config/training')
    parser.add_argument('--weights', required=True, help='the detector to average')
    parser.add_argument('--frames', required=True, help='folder or tar of pictures')
    parser.add_argument('--out', required=True, type=Path, help='labels to write (.npz)')
    parser.add_argument('--limit', type=at_least(1), help='label only the first so many frames')
    parser.add_argument('--minutes', type=not_negative, help='stop after so many; the same call goes on')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N; default: %(default)s')
    parser.add_argument(
        '--set', nargs='*', action='extend', default=[], metavar='KEY=VALUE', help='override the configuration'
    )
    options = parser.parse_args(arguments)
    if options.out.suffix != '.npz':
        parser.error(f"--out must end in .npz, not '{options.out.suffix}'")
    return options


def run(options: argparse.Namespace, world: World) -> bool:
    """Label for as long as asked; true when every frame is done."""
    config = load_config(LabelConfig, options.config, options.set)
    frames = Frames(options.frames, options.limit)
    describe = f'label {options.out.stem}'
    labels, finished = label_frames(
        load_network(options.weights), frames, config, options.out,
        world=world, minutes=options.minutes, describe=describe,
    )  # fmt: skip
    if world.first:
        done = sum(name in labels.by_name for name in frames.names)
        print(f'{options.out}: {done} of {len(frames)} frames, {labels.density:.0f} labels a frame')
    return finished


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every frame is labelled, 3 when the call should be repeated to go on, 1 for an error."""
    options = parse(arguments)
    keep_freed_memory()
    print_any_name()
    try:
        with join_world(options.device) as world:
            return 0 if run(options, world) else 3
    except (ValueError, OSError, TrainingError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
