"""How long each stage takes, next to plain code, SIFT and ORB in the same run; with --node, the node over DDS.

python -m superpoint_ros.benchmark [--json] [--weights superpoint_small ...] [--device cuda] [--node]

Pictures are windows that move over photographs of the package, or a recorded sequence, sequences/7scenes_redkitchen_a,
in the folder that SUPERPOINT_DATA names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from superpoint_ros.arguments import at_least
from superpoint_ros.benchmark.ceiling import measure_ceiling, time_eager
from superpoint_ros.benchmark.classical import NORMS, Classical
from superpoint_ros.benchmark.meter import Meter
from superpoint_ros.benchmark.pictures import SIZE, decode, load_pictures
from superpoint_ros.benchmark.plain import Plain
from superpoint_ros.benchmark.report import format_node_report, format_report
from superpoint_ros.benchmark.scaling import time_batches, time_levels, time_sizes
from superpoint_ros.benchmark.stages import WARM_UP_FRAMES, Header, summarise, time_frontend, time_peer
from superpoint_ros.detector import Detector
from superpoint_ros.engines import EngineError, TorchEngine
from superpoint_ros.frontend import Frame
from superpoint_ros.networks import SuperPoint, SuperPointConfig, load_network
from superpoint_ros.processor import processor_name
from superpoint_ros.stopwatch import Stopwatch

WEIGHTS = ['superpoint', 'superpoint_small']
RATES = [10, 30, 60, 120]
PAPER_FRAMES = 10
FEWEST_FRAMES = 2
"""The first of a peer's frames has nothing to match, and is not counted."""
FEWEST_IMAGES = 2
"""Of the camera of `--node`, between which there is a time."""
CEILING_BATCH = 64
"""Images at once, on CUDA, for the share of the convolution ceiling that the network reaches."""


def main(args: Sequence[str] | None = None) -> None:
    """Measure; print a table, or JSON."""
    options = parse_arguments(args)
    pictures, source = load_pictures(options.frames + WARM_UP_FRAMES)
    about = {'machine': describe_machine(), 'pictures': source, 'size': SIZE}
    try:
        measured = {'node': measure_node(pictures, options)} if options.node else measure_stages(pictures, options)
    except (EngineError, ValueError) as error:
        sys.exit(f'benchmark: {error}')
    report = about | measured
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(format_node_report(report) if options.node else format_report(report))


def measure_stages(pictures: list[np.ndarray], options: argparse.Namespace) -> dict[str, Any]:
    """'weights': by name, see `measure_frontend`; 'peers': SIFT and ORB; 'paper_network_ms'."""
    runs = {}
    for weights in options.weights:
        print(f'timing {weights} ...', file=sys.stderr)
        detector = Detector.load(
            weights,
            options.device,
            engine=options.engine,
            precision=options.precision,
            max_keypoints=options.keypoints,
            levels=options.levels or 1,
            detection_threshold=0.001,  # so that every picture has that many
        )
        result, frames = measure_frontend(detector, pictures, options.scaling)
        if isinstance(detector.engine, TorchEngine) and detector.engine.device.type == 'cuda':
            network = load_network(weights)
            result['ceiling'] = measure_ceiling(detector.engine, network, CEILING_BATCH)
            result['eager'] = time_eager(detector, network, pictures)
        runs[weights] = detector.settings, result, frames
        del detector  # lest the memory of the next one include it
    # Only now, so that what the peers leave in caches and thread pools touches none of the figures above.
    print('timing the peers ...', file=sys.stderr)
    results: dict[str, Any] = {}
    for weights, (settings, result, frames) in runs.items():
        results[weights] = result
        network = load_network(weights)
        if isinstance(network, SuperPoint):  # of which alone there is plain code
            plain, few = Plain(network, settings), pictures[WARM_UP_FRAMES:][: options.plain_frames + 1]
            result['plain'] = time_peer(plain, few, frames)
    peers = {}
    for name in NORMS:
        cv2.setRNGSeed(0)
        peers[name] = time_peer(Classical(name, options.keypoints), pictures[WARM_UP_FRAMES:], frames)
    paper = time_paper_network(pictures[:PAPER_FRAMES])
    for result in results.values():
        result['times_as_fast_as'] = compare(result, results, peers, paper)
    return {'paper_network_ms': paper, 'peers': peers, 'weights': results}


def measure_frontend(
    detector: Detector, pictures: list[np.ndarray], scaling: bool
) -> tuple[dict[str, Any], list[Frame]]:
    """The front-end's times, counts and memory, by size, levels and batch if asked for; and the frames that it made."""
    meter = Meter()
    meter.forget_peak()
    times, frames = time_frontend(detector, pictures)
    result = {
        'description': f'{detector.description}, levels: {detector.settings.levels}',
        'peak_memory_mb': round(meter.peak_memory_mb()),
        'frontend': summarise(times)
        | {
            'keypoints_mean': float(np.mean([len(frame.features) for frame in frames])),
            'matches_mean': float(np.mean([len(frame.matches) for frame in frames])),
            'inliers_mean': float(np.mean([frame.matches.inlier.sum() for frame in frames])),
        },
    }
    if scaling:
        result |= {
            'sizes': time_sizes(detector, pictures),
            'levels': time_levels(detector, pictures),
            'batches': time_batches(detector, pictures),
        }
    return result, frames


def compare(
    result: dict[str, Any], results: dict[str, Any], peers: dict[str, Any], paper_network_ms: float
) -> dict[str, float]:
    """Ratios of the medians from end to end, by what the front-end is compared with."""
    others = {}
    if 'plain' in result:
        plain = result['plain']['end_to_end']['p50']
        others['its plain code'] = plain
        network = result['plain']['stages']['network']['p50']
        others["plain code with the paper's wider network"] = paper_network_ms + plain - network
    if 'superpoint' in results:
        others["superpoint's plain code"] = results['superpoint']['plain']['end_to_end']['p50']
    others |= {name: peer['end_to_end']['p50'] for name, peer in peers.items()}
    return {name: round(ms / result['frontend']['end_to_end']['p50'], 2) for name, ms in others.items()}


def time_paper_network(pictures: list[np.ndarray]) -> float:
    """Median milliseconds of the paper's network (64 to 128 channels), eager float32, random weights."""
    network = SuperPoint(SuperPointConfig(norm='none')).eval()
    times = []
    for picture in pictures:
        stopwatch = Stopwatch()
        with torch.inference_mode():
            network(torch.from_numpy(decode(picture))[None, None].float() / 255)
        stopwatch.lap('network')
        times.append(stopwatch.laps['network'])
    return float(np.median(times))


def measure_node(pictures: list[np.ndarray], options: argparse.Namespace) -> dict[str, Any]:
    """By name of the weights, see `time_node`; ends the program with a message where that can't be measured."""
    try:
        from superpoint_ros.benchmark.node import time_node
        from superpoint_ros.processes import ProcessError
    except ImportError as error:
        sys.exit(f'benchmark: --node needs ROS 2, which is not installed here ({error}).')
    results = {}
    for weights in options.weights:
        print(f'running the node with {weights} ...', file=sys.stderr)
        try:
            parameters = {name: getattr(options, name) for name in ('device', 'engine', 'precision')}
            parameters |= {'weights': weights, 'max_keypoints': str(options.keypoints)}
            parameters |= {'levels': str(options.levels)} if options.levels else {}
            results[weights] = time_node(pictures, parameters, options.rates, options.seconds)
        except ProcessError as error:
            sys.exit(f'benchmark: {error}')
    return results


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='python -m superpoint_ros.benchmark', description=__doc__)
    parser.add_argument('--weights', nargs='+', action='extend', help=f'names or files; default: {" ".join(WEIGHTS)}')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ...')
    parser.add_argument('--engine', default='auto', help='auto, torch or openvino')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16, float16 or int8')
    parser.add_argument('--keypoints', type=at_least(1), default=1000, help='at most this many an image')
    parser.add_argument(
        '--levels', type=at_least(1), help='image sizes searched for keypoints; default: 1, or 4 with --node'
    )
    parser.add_argument('--frames', type=at_least(FEWEST_FRAMES), default=100, help='images to time')
    parser.add_argument('--plain-frames', type=at_least(1), default=20, help='of these with the slow plain code')
    parser.add_argument('--scaling', action=argparse.BooleanOptionalAction, default=True, help='also sizes and batches')
    parser.add_argument('--node', action='store_true', help='the node over DDS instead, with a camera process')
    parser.add_argument(
        '--rates', nargs='+', action='extend', type=float,
        help=f'of the camera, in Hz; default: {" ".join(map(str, RATES))}',
    )  # fmt: skip
    parser.add_argument('--seconds', type=float, default=20, help='for each rate')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    options = parser.parse_args(args)
    options.weights = options.weights or WEIGHTS
    options.rates = options.rates or RATES
    if options.node and min(options.rates) * options.seconds < FEWEST_IMAGES:
        parser.error(f'--seconds must leave the camera time for {FEWEST_IMAGES} images at each of --rates')
    return options


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        'processor': processor_name(),
        'cores': len(os.sched_getaffinity(0)),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'messages': 'timed' if Header is not None else 'not timed: ROS is not installed',
    }


if __name__ == '__main__':
    main()
