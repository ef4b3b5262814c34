"""`route`: everything that leads to the shipped weights, stage after stage, in pieces that continue one another.

    python -m superpoint_training.route --frames DIR --runs DIR --minutes 9

Each call goes on where the last one stopped and ends after the given minutes with exit status 3, or 0 when all is
done, so that a machine that is there for minutes at a time can be used; the README has the loop around it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from superpoint_ros.arguments import not_negative
from superpoint_ros.share import share_directory
from superpoint_training import label, train
from superpoint_training.frames import Frames


@dataclass(frozen=True)
class Stage:
    """One command of the route.

    Attributes:
        output: file in the runs folder; also names the stage.
        command: `magicpoint`, `superpoint` or `label`.
        config: file in the configuration folder.
        uses: option to file in the runs folder, of stages before.
        options: further words of the command line.
    """

    output: str
    command: str
    config: str
    uses: dict[str, str]
    options: tuple[str, ...] = ()


TRAININGS = {
    'superpoint': ('_frontal', '_tilted', '_strided', '_short'),
    'superpoint_small': ('_frontal', '_tilted', '_strided', '_levels', '_short'),
}
"""Of both networks, each from the weights of the one before: on views from the front, on tilted ones, with a first
convolution that strides; the small one's descriptors learn to tell sizes apart; and both have half as long ones."""
ROUTE = (
    Stage('magicpoint.safetensors', 'magicpoint', 'magicpoint.yaml', {}),
    Stage('labels_1.npz', 'label', 'labels.yaml', {'weights': 'magicpoint.safetensors'}, ('--limit', '2500')),
    Stage(
        'teacher.safetensors', 'superpoint', 'teacher.yaml',
        {'labels': 'labels_1.npz', 'from': 'magicpoint.safetensors'},
    ),
    Stage(
        'labels_2.npz', 'label', 'labels.yaml',
        {'weights': 'teacher.safetensors'}, ('--limit', '3000', '--set', 'views=10'),
    ),
    Stage('labeller.safetensors', 'superpoint', 'labeller.yaml', {'labels': 'labels_2.npz'}),
    Stage(
        'labels_3.npz', 'label', 'labels.yaml',
        {'weights': 'labeller.safetensors'}, ('--set', 'views=10', 'threshold=0.03'),
    ),
    *(
        Stage(
            f'{network}{training}.safetensors', 'superpoint', f'{network}{training}.yaml',
            {'labels': 'labels_3.npz'} | ({} if before is None else {'from': f'{network}{before}.safetensors'}),
        )
        for network, trainings in TRAININGS.items()
        for before, training in pairwise((None, *trainings))
    ),
    Stage(
        'labels_4.npz', 'label', 'graded_labels.yaml', {'weights': 'superpoint_short.safetensors'}, ('--limit', '1500'),
    ),
    *(
        Stage(
            f'{network}_graded.safetensors', 'superpoint', f'{network}_graded.yaml',
            {'labels': 'labels_4.npz', 'from': f'{network}_short.safetensors'},
        )
        for network in TRAININGS
    ),
    Stage('labels_5.npz', 'label', 'graded_labels.yaml', {'weights': 'superpoint_graded.safetensors'}),
    *(
        Stage(
            f'{network}.safetensors', 'superpoint', f'{network}.yaml',
            {'labels': 'labels_5.npz', 'from': f'{network}_graded.safetensors'},
        )
        for network in TRAININGS
    ),
)  # fmt: skip
"""MagicPoint, a first round of labels, a small SuperPoint as teacher, a second round, a better one, a third round, the
trainings of the two networks, a fourth round, of labels that say how sure they are, a training on those, and both again
with the better teacher that came out."""


def command_line(stage: Stage, options: argparse.Namespace, minutes: float) -> list[str]:
    """The words after `train` or `label` that run a stage."""
    words = [] if stage.command == 'label' else [stage.command]
    words += ['--config', str(options.configs / stage.config), '--out', str(options.runs / stage.output)]
    words += ['--device', options.device, '--minutes', f'{minutes:.2f}']
    if stage.command != 'magicpoint':
        words += ['--frames', options.frames]
    for option, name in stage.uses.items():
        words += [f'--{option}', str(options.runs / name)]
    return words + list(stage.options)


def fingerprint(stage: Stage, options: argparse.Namespace) -> str:
    """What a stage is made from: its configuration, options, and the files of earlier stages by their hashes."""
    files = [f'{name} {hashlib.sha256((options.runs / name).read_bytes()).hexdigest()}' for name in stage.uses.values()]
    return '\n'.join([(options.configs / stage.config).read_text(), *stage.options, *files])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='route', description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--frames', required=True, help='folder of pictures and/or .tar files of pictures')
    parser.add_argument(
        '--runs', type=Path, default=Path('runs'), help='folder of everything made on the way; default: %(default)s'
    )
    parser.add_argument(
        '--configs', type=Path, default=share_directory() / 'config' / 'training', help="the stages' YAML files"
    )
    parser.add_argument(
        '--minutes',
        type=not_negative,
        default=9.0,
        help='stop after so many; the same call goes on; default: %(default)g',
    )
    parser.add_argument('--until', choices=[stage.output for stage in ROUTE], help='last stage to run')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N; default: %(default)s')
    return parser.parse_args(arguments)


def open_inputs(options: argparse.Namespace) -> None:
    """Look for all that the stages are given, not hours later, when one of them needs it.

    Raises:
        ValueError: there are no pictures, or the configuration of a stage is missing.
    """
    Frames(options.frames)
    missing = [stage.config for stage in ROUTE if not (options.configs / stage.config).is_file()]
    if missing:
        raise ValueError(f"no '{missing[0]}' in '{options.configs}': --configs is the folder of the stages' YAML files")


def run(options: argparse.Namespace) -> int:
    """Run stages for as long as asked; exit status as of `main`."""
    began = time.monotonic()
    for stage in ROUTE:
        done = options.runs / f'{stage.output}.done'
        about = fingerprint(stage, options)
        left = options.minutes - (time.monotonic() - began) / 60
        if not done.exists():
            if left < 0.1:
                return 3
            print(f'-- {stage.output}', flush=True)
            command = label.main if stage.command == 'label' else train.main
            status = command(command_line(stage, options, left))
            if status:
                return status
            done.write_text(about)
        elif done.read_text() != about:
            print(
                f"error: '{done}' is of another {stage.config}, or of what earlier stages made before: remove it and "
                f"'{stage.output}' to run the stage anew",
                file=sys.stderr,
            )
            return 1
        if stage.output == options.until:
            break
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when the route is finished, 3 when the call should be repeated to go on, 1 for an error."""
    options = parse(arguments)
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        open_inputs(options)
        return run(options)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
