"""`evaluate`: the papers' metrics under named protocols, any weights next to the detectors people use.

    python -m superpoint_training.evaluate --pairs PAIRS --protocol kp2d-320 --detectors superpoint sift orb --out OUT
    python -m superpoint_training.evaluate --sequence DIR --gaps 1 10 30 --out OUT
    python -m superpoint_training.evaluate --recording BAG_OR_VIDEO --out OUT
    python -m superpoint_training.evaluate --shapes 500 --detectors magicpoint.safetensors fast --out OUT
    python -m superpoint_training.evaluate --compare before/results.json after/results.json --out OUT

Inputs of the first three kinds may be given together. OUT gets results.json, results.md, index.html and summary.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from superpoint_ros.arguments import at_least
from superpoint_ros.engines import EngineError
from superpoint_ros.pyramid import PER_OCTAVE
from superpoint_training.evaluation import results as results_file
from superpoint_training.evaluation.inputs import Request, read_inputs
from superpoint_training.evaluation.pair_run import PairRun, prepare_pairs
from superpoint_training.evaluation.pair_scores import evaluate_pair
from superpoint_training.evaluation.pairs import find_pairs
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.problems import Skipped, listed
from superpoint_training.evaluation.run import Outcome, Setup, evaluate, evaluate_shapes
from superpoint_training.failures import TrainingError
from superpoint_training.files import print_any_name
from superpoint_training.peers import LEVELS, PEERS, NamedDetector, make_detector
from superpoint_training.protocols import PROTOCOLS, PoseProtocol, Protocol, changed
from superpoint_training.report import compare, write_report

__all__ = ['evaluate_pair', 'evaluate_pairs', 'main']

ERROR, SKIPPED = 1, 3
"""Exit statuses: nothing was measured; --strict, and some input was skipped."""
DETECTORS = ('superpoint', 'sift', 'orb')


def evaluate_pairs(
    root: Path, protocol: Protocol, detectors: Mapping[str, NamedDetector], cache: Path | None = None, jobs: int = 1
) -> dict[str, dict[str, Any]]:
    """Means and every usable pair, by detector; for use without a command line.

    Raises:
        ValueError: there are no pairs.
    """
    pairs, _ = prepare_pairs(find_pairs(root)[0], protocol, jobs)
    predictions = {name: Predictions(detector, cache) for name, detector in detectors.items()}
    return PairRun(pairs, protocol, predictions, jobs).results()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='evaluate', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs = parser.add_argument_group('inputs')
    inputs.add_argument('--pairs', type=Path, metavar='DIR', help="homography pairs in HPatches' layout")
    inputs.add_argument(
        '--sequence', type=Path, nargs='+', action='extend', default=[], metavar='DIR',
        help='frames with poses: TUM RGB-D or EuRoC as downloaded, or timestamps.txt, poses.txt, intrinsics.yaml',
    )  # fmt: skip
    inputs.add_argument(
        '--gaps',
        type=at_least(1),
        nargs='+',
        action='extend',
        help="frames between a sequence's pairs; default: 1 10 30",
    )
    inputs.add_argument('--intrinsics', type=Path, metavar='FILE', help="calibration in place of the sequences' own")
    inputs.add_argument('--recording', type=Path, metavar='PATH', help='bag, video or pictures without ground truth')
    inputs.add_argument(
        '--topic', default='', help='of a bag; default: the one with the most images that are not depth'
    )
    inputs.add_argument('--frames', type=at_least(1), help="of a recording's start; default: 300")
    inputs.add_argument('--shapes', type=at_least(1), metavar='N', help='N held-out Synthetic Shapes, with noise')
    inputs.add_argument('--clean', action='store_true', help='the shapes without noise')
    inputs.add_argument('--compare', type=Path, nargs=2, metavar='RESULTS', help='two results.json, side by side')

    parser.add_argument('--protocol', choices=sorted(PROTOCOLS), help='of pairs and recordings; default: kp2d-320')
    parser.add_argument(
        '--set', nargs='+', action='extend', default=[], metavar='NAME=NUMBER',
        help='change the protocol, such as correct_distance=5',
    )  # fmt: skip
    parser.add_argument(
        '--detectors', nargs='+', action='extend', metavar='NAME',
        help=f'names or files of weights, or {", ".join(PEERS)}; default: {" ".join(DETECTORS)}',
    )  # fmt: skip
    parser.add_argument('--nms-radius', type=int, default=4, help='of our networks, pixels; default: 4')
    parser.add_argument(
        '--levels',
        type=at_least(1),
        help=f'of our networks, as the node takes it; default: {LEVELS} as there, 1 for shapes',
    )
    parser.add_argument(
        '--levels-per-octave', type=int, default=PER_OCTAVE,
        help=f'of these, from one size to half of it; default: {PER_OCTAVE}',
    )  # fmt: skip
    for name in ('device', 'engine', 'precision'):
        parser.add_argument(f'--{name}', default='auto', help='of our networks, as the node takes it; default: auto')
    parser.add_argument(
        '--jobs', type=at_least(1), default=len(os.sched_getaffinity(0)), help='threads; default: all cores'
    )
    parser.add_argument('--cache', type=Path, metavar='DIR', help='for predictions; default: OUT/predictions')
    parser.add_argument('--strict', action='store_true', help=f'exit status {SKIPPED} if any input was skipped')
    parser.add_argument('--out', required=True, type=Path, metavar='DIR', help='for the results')
    options = parser.parse_args(arguments)
    measured = [options.pairs, options.sequence, options.recording]
    if sum([any(measured), options.shapes is not None, options.compare is not None]) != 1:
        parser.error('give --pairs, --sequence and --recording in any number, or --shapes, or --compare')
    for name, needed in (
        ('topic', 'recording'), ('frames', 'recording'), ('intrinsics', 'sequence'), ('gaps', 'sequence'),
        ('clean', 'shapes'),
    ):  # fmt: skip
        if getattr(options, name) and not getattr(options, needed):
            parser.error(f'--{name} is for --{needed}: give that, or leave it out')
    if options.sequence and (options.protocol or options.set) and not (options.pairs or options.recording):
        parser.error(
            '--protocol and --set are of pairs and recordings: the poses of sequences have a protocol of their own'
        )
    if options.shapes and (options.protocol or options.set):
        parser.error('--shapes has a protocol of its own: leave out --protocol and --set')
    return options


def measure(options: argparse.Namespace, command: Sequence[str]) -> Outcome:
    """What the options ask for; everything that is wrong with the inputs is said before it begins.

    Raises:
        ValueError: nothing of an input is usable, or an option makes no sense.
    """
    protocol, poses = changed(PROTOCOLS[options.protocol or 'kp2d-320'], options.set), PoseProtocol()
    setup = Setup(protocol, poses, options.cache or options.out / 'predictions', options.jobs, command)
    if options.shapes:
        return evaluate_shapes(options.shapes, not options.clean, _detectors(options, border=0, levels=1), setup)
    request = Request(
        options.pairs, options.sequence, sorted(set(options.gaps or Request.gaps)), options.intrinsics,
        options.recording, options.topic, options.frames or Request.frames,
    )  # fmt: skip
    inputs = read_inputs(request, protocol, poses, options.jobs)
    detectors = _detectors(options, border=4, levels=LEVELS)
    if inputs.sequences:
        blind = [each.name for each in detectors if not each.describes]
        if len(blind) == len(detectors) and not (inputs.pairs or inputs.recording):
            raise ValueError('none of the detectors has descriptors, so a sequence tells nothing of them')
        inputs.skipped.extend(Skipped(name, 'it has no descriptors, so there are no poses') for name in blind)
    if inputs.skipped:
        print(listed(inputs.skipped), file=sys.stderr)
    return evaluate(request, inputs, detectors, setup)


def _detectors(options: argparse.Namespace, border: int, levels: int) -> list[NamedDetector]:
    """Ours look at `levels` sizes unless another number is asked for: a corner of a shape counts but once.

    border: of our networks; shapes have corners up to the picture's edge, where others have artefacts.
    """
    return [
        make_detector(
            name,
            options.device,
            options.nms_radius,
            border,
            options.levels or levels,
            levels_per_octave=options.levels_per_octave,
            engine=options.engine,
            precision=options.precision,
        )
        for name in dict.fromkeys(options.detectors or DETECTORS)
    ]


def _compare(first: Path, second: Path, out: Path) -> None:
    """Write and print two runs side by side.

    Raises:
        ValueError: a file is no results.json, or the runs do not compare.
    """
    runs: list[dict[str, Any]] = []
    for path in (first, second):
        try:
            runs.append(json.loads(path.read_text()))
            dict(runs[-1]['detectors'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is no results.json of `evaluate`: {error}") from error
    labels = (str(first), str(second))
    comparison = compare(runs[0], runs[1], labels)
    comparison.write(out)
    print(comparison.text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the results and print the table. Exit status 1 for an error, 3 for skipped input with --strict."""
    options = parse(arguments)
    print_any_name()
    command = ['evaluate', *(sys.argv[1:] if arguments is None else arguments)]
    try:
        if options.compare:
            _compare(options.compare[0], options.compare[1], options.out)
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        outcome = measure(options, command)
        results_file.write(outcome.results, options.out / 'results.json')
        write_report(outcome.results, options.out, outcome.draw)
    except (EngineError, TrainingError, ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return ERROR
    print((options.out / 'results.md').read_text())
    return SKIPPED if options.strict and outcome.results['skipped'] else 0


if __name__ == '__main__':
    sys.exit(main())
