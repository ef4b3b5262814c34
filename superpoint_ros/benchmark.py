"""How long each stage takes, next to a plain implementation in the same run.

python -m superpoint_ros.benchmark [--json] [--weights superpoint_small ...] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tarfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from superpoint_ros.baseline import Baseline
from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.networks import SuperPoint, SuperPointConfig, load_network
from superpoint_ros.processor import processor_name
from superpoint_ros.stopwatch import Stopwatch

try:
    from std_msgs.msg import Header

    from superpoint_ros.messages import encode_features, encode_matches
except ImportError:
    Header = None

SIZE = (640, 480)
WARM_UP_FRAMES = 5
PAPER_FRAMES = 10
FRAME_NS = 33_333_333
STAGES = ('decode', 'network', 'score map', 'keypoints', 'descriptors', 'matching', 'message')
"""'keypoints' is NMS and top-k. The front-end has no 'score map': its engines compute that in 'network'."""
EXTRA_STAGES = ('verification', 'tracks')
"""Of the front-end, which the baseline lacks."""
SEQUENCE = 'sequences/7scenes_redkitchen_a/frames.tar'

Times = list[dict[str, float]]
"""Milliseconds per stage, frame by frame."""


def main(args: list[str] | None = None) -> None:
    """Time the front-end and the baseline; print a table, or JSON."""
    options = parse_arguments(args)
    networks = {weights: load_superpoint(weights) for weights in options.weights}
    pictures, source = load_pictures(options.frames)
    runs = []
    for weights in options.weights:
        print(f'timing {weights} ...', file=sys.stderr)
        detector = Detector.load(
            weights,
            options.device,
            engine=options.engine,
            precision=options.precision,
            max_keypoints=options.keypoints,
            detection_threshold=0.001,  # so that every picture has that many
        )
        runs.append((weights, detector, *time_frontend(detector, pictures)))
    # Only now, so that what the baseline leaves in caches and thread pools touches none of the figures above.
    print('timing the baselines ...', file=sys.stderr)
    results = {
        weights: compare(detector, times, frames, Baseline(networks[weights], detector.settings), pictures, options)
        for weights, detector, times, frames in runs
    }
    paper = time_paper_network(pictures[:PAPER_FRAMES])
    for result in results.values():
        plain = result['baseline']
        rest = plain['end_to_end']['p50'] - plain['stages']['network']['p50']
        result['speed_up_over_paper_baseline'] = (paper + rest) / result['frontend']['end_to_end']['p50']
    if 'superpoint' in results:
        reference = results['superpoint']['baseline']['end_to_end']['p50']
        for result in results.values():
            result['speed_up_over_superpoint_baseline'] = reference / result['frontend']['end_to_end']['p50']
    report = {
        'machine': describe_machine(),
        'pictures': source,
        'size': SIZE,
        'paper_network_ms': paper,
        'weights': results,
    }
    print(json.dumps(report, indent=2) if options.json else format_report(report))


def compare(
    detector: Detector,
    times: Times,
    frames: list[Frame],
    plain: Baseline,
    pictures: list[np.ndarray],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The front-end's times next to the baseline's on the same images."""
    frontend = summarise(times) | {
        'keypoints_mean': float(np.mean([len(frame.features) for frame in frames])),
        'matches_mean': float(np.mean([len(frame.matches) for frame in frames])),
        'inliers_mean': float(np.mean([frame.matches.inlier.sum() for frame in frames])),
    }
    plain_times, keypoints = time_baseline(plain, pictures[WARM_UP_FRAMES:], frames[: options.baseline_frames + 1])
    baseline = summarise(plain_times) | {'keypoints_mean': keypoints}
    return {
        'description': detector.description,
        'frontend': frontend,
        'baseline': baseline,
        'speed_up': baseline['end_to_end']['p50'] / frontend['end_to_end']['p50'],
    }


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


def parse_arguments(args: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='python -m superpoint_ros.benchmark', description=__doc__)
    parser.add_argument('--weights', nargs='+', default=['superpoint', 'superpoint_small'], help='names or files')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ...')
    parser.add_argument('--engine', default='auto', help='auto, torch or openvino')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16, float16 or int8')
    parser.add_argument('--keypoints', type=int, default=1000, help='at most this many an image')
    parser.add_argument('--frames', type=int, default=100, help='images to time')
    parser.add_argument('--baseline-frames', type=int, default=20, help='of these with the slow baseline')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser.parse_args(args)


def load_superpoint(weights: str) -> SuperPoint:
    """The network of some weights, which must be one that the baseline has code for; exits if it is not."""
    network = load_network(weights)
    if not isinstance(network, SuperPoint):
        raise SystemExit(f"error: '{weights}' is {network.architecture}, and the plain code is SuperPoint's alone")
    return network


def load_pictures(count: int) -> tuple[list[np.ndarray], str]:
    """JPEG files as [K] uint8 arrays, 640 x 480, of a moving camera, and where they are from.

    They are a recorded sequence under $SUPERPOINT_DATA (else ../shared/data beside the sources) where there is
    one, else windows that move over the demo's photographs.
    """
    here = Path(__file__).resolve().parent
    data = Path(os.environ.get('SUPERPOINT_DATA', here.parents[1] / 'shared' / 'data'))
    if (data / SEQUENCE).is_file():
        with tarfile.open(data / SEQUENCE) as archive:
            names = sorted(name for name in archive.getnames() if name.endswith('.jpg'))
            files = [archive.extractfile(name) for name in islice(cycle(names), count + WARM_UP_FRAMES)]
            return [np.frombuffer(file.read(), np.uint8) for file in files if file], str(SEQUENCE)
    photographs = sorted((here / 'demo' / 'photographs').glob('*.jpg'))
    frames = islice(moving_windows(photographs), count + WARM_UP_FRAMES)
    return [cv2.imencode('.jpg', frame)[1].ravel() for frame in frames], 'demo photographs'


def moving_windows(photographs: list[Path]) -> Iterator[np.ndarray]:
    """640 x 480 windows that move over each photograph in turn by 4 pixels a frame, for ever."""
    width, height = SIZE
    for path in cycle(photographs):
        photograph = decode(np.fromfile(path, np.uint8))
        picture = cv2.resize(photograph, (2 * width, 2 * height))
        for left in range(0, width, 4):
            yield picture[height // 2 : height // 2 + height, left : left + width]


def time_frontend(detector: Detector, pictures: list[np.ndarray]) -> tuple[Times, list[Frame]]:
    """Run the front-end as the node does."""
    frontend = Frontend(detector)
    times, frames = [], []
    for number, picture in enumerate(pictures):
        stopwatch = Stopwatch()
        image = decode(picture)
        stopwatch.lap('decode')
        frame = frontend.process(image, number * FRAME_NS)
        stopwatch.lap('frontend')
        encode(frame, stopwatch)
        times.append(stopwatch.laps | frame.timings)
        frames.append(frame)
    return times[WARM_UP_FRAMES:], frames[WARM_UP_FRAMES:]


def decode(picture: np.ndarray) -> np.ndarray:
    """Grey [H, W] of an image file's bytes."""
    return np.asarray(cv2.imdecode(picture, cv2.IMREAD_GRAYSCALE))


def encode(frame: Frame, stopwatch: Stopwatch) -> None:
    """Make the messages, where ROS is installed."""
    if Header is not None:
        encode_features(frame, Header())
        encode_matches(frame, Header())
        stopwatch.lap('message')


def time_baseline(baseline: Baseline, pictures: list[np.ndarray], frames: list[Frame]) -> tuple[Times, float]:
    """Run the baseline on the first images; the message is that of the front-end's frames, which is as large.

    Returns the times and the mean count of keypoints.
    """
    times, counts, features = [], [], None
    for picture, frame in zip(pictures, frames, strict=False):
        stopwatch = Stopwatch()
        image = decode(picture)
        stopwatch.lap('decode')
        features = baseline.process(image, features, stopwatch)
        encode(frame, stopwatch)
        times.append(stopwatch.laps)
        counts.append(len(features))
    return times[1:], float(np.mean(counts))  # the first has nothing to match


def summarise(times: Times) -> dict[str, Any]:
    """Median and 95th percentile of every stage and of their sum, in ms."""

    def percentiles(values: list[float]) -> dict[str, float]:
        p50, p95 = np.percentile(values, [50, 95])
        return {'p50': round(float(p50), 3), 'p95': round(float(p95), 3)}

    stages = {
        stage: percentiles([frame[stage] for frame in times]) if stage in times[0] else None
        for stage in STAGES + EXTRA_STAGES
    }
    end_to_end = percentiles([sum(frame.get(stage, 0.0) for stage in STAGES) for frame in times])
    return {'stages': stages, 'end_to_end': end_to_end}


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


def format_report(report: dict[str, Any]) -> str:
    """The report as text."""
    machine = report['machine']
    lines = [
        f'{machine["processor"]}, {machine["cores"]} cores, GPU: {machine["gpu"] or "none"}',
        f'{report["size"][0]} x {report["size"][1]}, {report["pictures"]}; messages {machine["messages"]}',
    ]
    for result in report['weights'].values():
        frontend, baseline = result['frontend'], result['baseline']
        means = [frontend[f'{name}_mean'] for name in ('keypoints', 'matches', 'inliers')]
        lines += [
            '',
            result['description'],
            '{:.0f} keypoints, {:.0f} matches, {:.0f} inliers a frame; '.format(*means)
            + f'baseline: {baseline["keypoints_mean"]:.0f} keypoints',
            f'{"ms":14}{"p50":>9}{"p95":>9}{"baseline p50":>15}{"p95":>9}',
        ]
        lines += [format_row(stage, frontend['stages'][stage], baseline['stages'][stage]) for stage in STAGES]
        lines.append(format_row('end to end', frontend['end_to_end'], baseline['end_to_end']))
        lines += [f'+ {format_row(stage, frontend["stages"][stage], None)}' for stage in EXTRA_STAGES]
        lines.append(f'{result["speed_up"]:.1f} times as fast as its baseline')
        if 'speed_up_over_superpoint_baseline' in result:
            lines.append(f"{result['speed_up_over_superpoint_baseline']:.1f} times as fast as superpoint's baseline")
        paper = f"its baseline with the paper's wider network, {report['paper_network_ms']:.0f} ms"
        lines.append(f'{result["speed_up_over_paper_baseline"]:.1f} times as fast as {paper}')
    return '\n'.join(lines)


def format_row(name: str, ours: dict[str, float] | None, baseline: dict[str, float] | None) -> str:
    """One line of the table; a dash where a stage is not run by itself."""
    cells = [f'{times[key]:.2f}' if times else '-' for times in (ours, baseline) for key in ('p50', 'p95')]
    return f'{name:14}{cells[0]:>9}{cells[1]:>9}{cells[2]:>15}{cells[3]:>9}'


if __name__ == '__main__':
    main()
