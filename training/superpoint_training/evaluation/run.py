"""One evaluation: inputs and detectors in, results.json's content out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superpoint_training.evaluation.inputs import Inputs, Request
from superpoint_training.evaluation.pair_run import PairRun
from superpoint_training.evaluation.pose_run import relative_poses
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.recording_run import track_results, warped_pairs
from superpoint_training.evaluation.results import finite, header
from superpoint_training.evaluation.shapes_run import SEED, shapes_results
from superpoint_training.peers import NamedDetector
from superpoint_training.protocols import PoseProtocol, Protocol
from superpoint_training.report.pictures import PairPicture


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gives.

    Attributes:
        results: what results.json holds.
        draw: draws what a detector, by name, made of a pair, by name; None where there are no pairs.
    """

    results: dict[str, Any]
    draw: Callable[[str, str], PairPicture] | None = None


@dataclass(frozen=True)
class Setup:
    """How to evaluate.

    Attributes:
        protocol: of pairs and recordings.
        poses: of sequences.
        cache: folder for predictions.
        jobs: threads.
        command: the command line, for the record.
    """

    protocol: Protocol
    poses: PoseProtocol
    cache: Path
    jobs: int
    command: Sequence[str]


def evaluate(request: Request, inputs: Inputs, detectors: Sequence[NamedDetector], setup: Setup) -> Outcome:
    """Measure every detector on every input."""
    results: dict[str, dict[str, Any]] = {each.name: {'description': each.description} for each in detectors}
    everything = {each.name: Predictions(each, setup.cache) for each in detectors}
    draw = None
    if inputs.pairs:
        run = PairRun(inputs.pairs, setup.protocol, everything, setup.jobs)
        _merge(results, run.results(inputs.coarse))
        draw = run.draw
    best = {
        each.name: Predictions(each, setup.cache, setup.poses.keypoints) for each in detectors if each.describes
    }  # fmt: skip
    for sequence in inputs.sequences:
        for name, poses in relative_poses(sequence, best, setup.poses, setup.jobs).items():
            results[name].setdefault('relative_pose', {})[sequence.frames.name] = poses
    if inputs.recording is not None:
        frames = inputs.recording.frames
        warped = PairRun(warped_pairs(frames, setup.protocol), setup.protocol, everything, setup.jobs)
        _merge(results, {name: {'self_consistency': each} for name, each in warped.results().items()})
        tracks = track_results(frames, everything, setup.protocol)
        _merge(results, {name: {'track_length': each} for name, each in tracks.items()})
    content = header(setup.command, inputs.skipped) | {
        'source': _source(request, inputs),
        'coarse_truth': inputs.coarse,
    }
    if inputs.pairs or inputs.recording is not None:
        content |= {'protocol': setup.protocol.name, 'protocol_settings': dataclasses.asdict(setup.protocol)}
        content |= {'pose_protocol': dataclasses.asdict(setup.poses)} if inputs.sequences else {}
    else:
        content |= {'protocol': 'relative-pose', 'protocol_settings': dataclasses.asdict(setup.poses)}
    content['seed'] = content['protocol_settings']['seed']
    return Outcome(finite(content | {'detectors': results}), draw)


def evaluate_shapes(count: int, noisy: bool, detectors: Sequence[NamedDetector], setup: Setup) -> Outcome:
    """Measure every detector on rendered shapes."""
    found = shapes_results(count, noisy, {each.name: each for each in detectors}, setup.jobs)
    content = header(setup.command, []) | {
        'seed': SEED,
        'protocol': 'synthetic-shapes-noisy' if noisy else 'synthetic-shapes',
        'source': {'shapes': count},
        'detectors': {each.name: {'description': each.description} | found[each.name] for each in detectors},
    }
    return Outcome(finite(content))


def _merge(results: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    for name, each in more.items():
        results[name] |= each


def _source(request: Request, inputs: Inputs) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if request.pairs is not None:
        scenes = {pair.scene for pair in inputs.pairs}
        source |= {'pairs': str(request.pairs), 'scenes': len(scenes), 'pairs_count': len(inputs.pairs)}
    if request.sequences:
        source |= {'sequences': ', '.join(map(str, request.sequences)), 'gaps': list(request.gaps)}
    if inputs.recording is not None:
        source |= {'recording': f'{request.recording} {inputs.recording.name}', 'frames': len(inputs.recording.frames)}
    return source
