"""`train_from_bag`: recordings of a robot in, better weights for it out; no labels.

    ros2 run superpoint_ros train_from_bag --bag my_drive --topic /camera/image_raw --out my_robot.safetensors

Beside the weights stands their model card; the folder my_robot.run gets report.html, results.json, TensorBoard's logs
and all that is needed to go on after an interruption (--resume). Weights that are not better on held-out frames do
not replace anything. On several GPUs or machines: torchrun --nproc-per-node=N -m superpoint_training.train_from_bag ...
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from superpoint_ros.arguments import at_least, not_negative
from superpoint_ros.engines import EngineError
from superpoint_ros.keypoints import MOST_LEVELS
from superpoint_ros.share import share_directory
from superpoint_training.adaptation import LabelConfig
from superpoint_training.allocator import keep_freed_memory
from superpoint_training.config import from_mapping, load_config, overridden
from superpoint_training.distributed import join_world
from superpoint_training.failures import TrainingError
from superpoint_training.files import print_any_name
from superpoint_training.harvest import SMALLEST_SIDE, HarvestConfig, list_topics
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.recipes import RECIPES
from superpoint_training.retraining.plan import plan
from superpoint_training.retraining.proof import ProofConfig
from superpoint_training.retraining.request import Request
from superpoint_training.retraining.run import Interrupted, retrain
from superpoint_training.retraining.workspace import Workspace

DONE, ERROR, INTERRUPTED, NOT_BETTER = 0, 1, 3, 4
"""Exit statuses."""
ONE_LEVEL_THRESHOLD = 0.006
"""Of labels for a front-end that looks at one level; several levels find such weak places by themselves."""
SURER = 1.5
"""How many times as sure labels of general pictures are, so that they hold on to what is known."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='train_from_bag', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--bag', nargs='+', action='extend', required=True, type=Path, metavar='PATH',
        help='rosbag2 folders or files, ROS 1 bags, videos, folders of pictures',
    )  # fmt: skip
    parser.add_argument(
        '--topic', nargs='+', action='extend', metavar='NAME', help='image topics; default: the one with most'
    )
    parser.add_argument('--out', type=Path, help='weights to write (.safetensors)')
    parser.add_argument('--list', action='store_true', help='show the topics of the recordings, and stop')
    parser.add_argument('--plan', action='store_true', help='show what would be done, how long, how much disk; stop')
    parser.add_argument('--resume', action='store_true', help='go on with the run that was stopped')
    parser.add_argument('--force', action='store_true', help='write the weights even if they are not better')
    parser.add_argument(  # not --start, which torchrun would take for its --start-method
        '--from',
        dest='start',
        metavar='WEIGHTS',
        help="name or file; 'none' for fresh ones; default: the shipped ones of the recipe's name",
    )
    parser.add_argument('--recipe', choices=sorted(RECIPES), default='superpoint', help='default: superpoint')
    parser.add_argument(
        '--rounds', type=at_least(1), default=Request.rounds, help='of labelling and training; default: %(default)s'
    )
    parser.add_argument(
        '--blend', nargs='+', action='extend', type=float, metavar='SHARE',
        help='of the way from the old weights to the trained ones, tried in this order until weights are better; '
        f'default: {" ".join(f"{share:g}" for share in Request.blend)}',
    )  # fmt: skip
    parser.add_argument(
        '--short-side', type=at_least(SMALLEST_SIDE), default=Request.short_side,
        help='of pictures trained on, pixels; default: %(default)s',
    )  # fmt: skip
    parser.add_argument('--minutes', type=not_negative, help='training time of a round; sets the number of steps')
    parser.add_argument(
        '--general', type=Path, metavar='DIR', help='pictures against forgetting; default: shipped ones'
    )
    parser.add_argument(
        '--general-limit', type=at_least(1), default=Request.general_limit,
        help='maximum number of these; default: %(default)s; to train without them --set mix.general=0',
    )  # fmt: skip
    parser.add_argument(
        '--general-threshold', type=float,
        help=f"of their labels: few and sure; default: {SURER:g} times that of the recordings' labels",
    )  # fmt: skip
    parser.add_argument(
        '--general-pairs', type=Path, metavar='DIR',
        help='homography pairs to judge forgetting by; default: views of shipped pictures that are not trained on',
    )  # fmt: skip
    parser.add_argument(
        '--protocol', choices=sorted(PROTOCOLS), default=Request.protocol, help='of the figures; default: %(default)s'
    )
    parser.add_argument(
        '--levels', type=int, default=Request.levels,
        help="of the figures: the front-end's, as it will run; default: %(default)s",
    )  # fmt: skip
    parser.add_argument('--work', type=Path, metavar='DIR', help='folder of the run; default: OUT with .run')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1')
    parser.add_argument(
        '--jobs', type=at_least(1), default=len(os.sched_getaffinity(0)), help='threads; default: all cores'
    )
    parser.add_argument(
        '--config', type=Path, help="the recipe's YAML; default: that for fine-tuning in config/training"
    )
    for name, what in (
        ('set', 'the recipe'), ('harvest', 'the choice of frames'), ('labels', 'the labels'), ('proof', 'the proof'),
    ):  # fmt: skip
        parser.add_argument(
            f'--{name}', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
            help=f'override settings of {what}',
        )  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.list and options.out is None:
        parser.error('--out is needed: where to write the weights')
    if options.out is not None and options.out.suffix != '.safetensors':
        parser.error(f"--out must end in .safetensors, not '{options.out.suffix}'")
    if any('\udc80' <= letter <= '\udcff' for letter in f'{options.out}{options.work}'):  # a byte that is not UTF-8
        parser.error('--out and --work must be UTF-8: weights can not be read from elsewhere')
    if options.rounds > 1 and not RECIPES[options.recipe].needs_labels:
        parser.error(f'--rounds are of labelling and training, and {options.recipe} trains without labels')
    if not 1 <= options.levels <= MOST_LEVELS:
        parser.error(f'--levels must be 1 to {MOST_LEVELS}')
    if options.minutes == 0:
        parser.error('--minutes must be more than 0')
    if options.general_threshold is not None and not 0 <= options.general_threshold < 1:
        parser.error('--general-threshold is a probability: at least 0 and less than 1')
    if not all(0 < share <= 1 for share in options.blend or ()):
        parser.error('--blend must be more than 0 and at most 1')
    if options.start == 'none' and options.blend:
        parser.error('--blend is of the way from old weights, and with --from none there are none: leave it out')
    if options.start != 'none' and any(setting.startswith('network') for setting in options.set):
        parser.error(
            '--set network... is of fresh weights, and others have their network: leave it out, or --from none'
        )
    return options


def make_request(options: argparse.Namespace) -> Request:
    """The options, their files read.

    Raises:
        ValueError: a setting is unknown or makes no sense.
    """
    config = share_directory() / 'config' / 'training'
    start = options.start or options.recipe
    dense = [f'threshold={ONE_LEVEL_THRESHOLD}'] if options.levels == 1 else []
    labels = load_config(LabelConfig, config / 'fine_tune_labels.yaml', [*dense, *options.labels])
    general_threshold = options.general_threshold
    if general_threshold is None:
        general_threshold = min(SURER * labels.threshold, 0.99)
    fine_tune = 'fine_tune.yaml' if options.recipe == 'superpoint' else f'fine_tune_{options.recipe}.yaml'
    return Request(
        recordings=options.bag,
        topics=options.topic,
        out=options.out,
        start=start,
        labeller='superpoint' if start == 'none' else start,
        recipe=options.recipe,
        training=load_config(RECIPES[options.recipe].config, options.config or config / fine_tune, options.set),
        harvest=from_mapping(HarvestConfig, overridden({}, options.harvest), '--harvest'),
        labels=labels,
        proof=from_mapping(ProofConfig, overridden({}, options.proof), '--proof'),
        blend=tuple(dict.fromkeys(options.blend or Request.blend)),
        short_side=options.short_side,
        rounds=options.rounds,
        minutes=options.minutes,
        general=options.general,
        general_limit=options.general_limit,
        general_threshold=general_threshold,
        general_pairs=options.general_pairs,
        protocol=options.protocol,
        levels=options.levels,
        jobs=options.jobs,
        force=options.force,
    )


def show_topics(recordings: Sequence[Path]) -> None:
    """Print a line for each topic."""
    for topic in list_topics(recordings):
        seconds = (topic.last_ns - topic.first_ns) / 1e9 if topic.count > 1 else 0.0
        print(
            f'{topic.recording}  {topic.name}  {topic.type}  {topic.count} messages  {topic.rate_hz:.1f} Hz  '
            f'{topic.bytes / 1e6:.1f} MB  {seconds:.1f} s' + (f'  DAMAGED: {topic.damage}' if topic.damage else '')
        )


def run(options: argparse.Namespace, command: Sequence[str]) -> int:
    """What the options ask for."""
    request = make_request(options)
    work = Workspace(options.work or options.out.with_suffix('.run'))
    with join_world(options.device) as world:
        if options.plan:
            stages = plan(request, work, world)
            if world.first:
                print('\n'.join(f'{name:10}{words}' for name, words in stages))
            return DONE
        verdict = retrain(request, work, world, command, options.resume)
        if not world.first:
            return DONE
        if isinstance(verdict, Interrupted):
            print(f'stopped in {verdict.stage}; go on with the same command and --resume', file=sys.stderr)
            return INTERRUPTED
        print('\n'.join(verdict.reasons))
        print(f'report: {work.report}')
        if not (verdict.is_better or options.force):
            print(f"not better: '{options.out}' is not written; the new weights are '{work.rejected}'", file=sys.stderr)
            return NOT_BETTER
        print(f'weights: {options.out}\nto a running front-end:')
        print(f'  ros2 param set /superpoint_frontend weights {shlex.quote(str(options.out.resolve()))}')
        print('  ros2 service call /superpoint_frontend/reload_weights std_srvs/srv/Trigger')
        return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 for an error, 3 when it was stopped and --resume goes on, 4 for weights not better.

    SIGTERM stops it as Ctrl-C does.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of which Python would die without a word
    keep_freed_memory()
    print_any_name()
    command = ['train_from_bag', *(sys.argv[1:] if arguments is None else arguments)]
    try:
        if options.list:
            show_topics(options.bag)
            return DONE
        return run(options, command)
    except (EngineError, TrainingError, ValueError, OSError, FloatingPointError) as error:
        print(f'error: {error}', file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print('stopped; go on with the same command and --resume', file=sys.stderr)
        return INTERRUPTED


if __name__ == '__main__':
    sys.exit(main())
