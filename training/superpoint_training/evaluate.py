"""`evaluate`: the papers' metrics on homography pairs or Synthetic Shapes, any weights next to classical detectors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from superpoint_ros.detector import Features
from superpoint_ros.networks import WeightsError
from superpoint_training import metrics, shapes
from superpoint_training.peers import Detect, make_detector
from superpoint_training.photometric import PhotometricConfig, augment
from superpoint_training.protocols import PROTOCOLS, Protocol

HOMOGRAPHY_THRESHOLDS = (1, 3, 5)
SHAPES_EPSILON = 4.0
SHAPES_NOISE = PhotometricConfig(75, (0.3, 1.8), 15, 0.0035, (-0.5, 0.8), 7)


def find_pairs(root: Path) -> list[tuple[str, Path, Path, np.ndarray]]:
    """The pairs below a folder in HPatches' layout: `<scene>/1.*`, `k.*` and `H_1_k`; name, pictures, homography.

    Raises:
        ValueError: there are none, or a homography is not nine numbers.
    """
    pairs = []
    for path in sorted(root.glob('*/H_1_*')):
        other = path.name.rsplit('_', 1)[1]
        pictures = [next(iter(sorted(path.parent.glob(f'{k}.*'))), None) for k in ('1', other)]
        if pictures[0] is None or pictures[1] is None:
            raise ValueError(f"'{path}' has no pictures 1.* and {other}.* beside it")
        numbers = path.read_text().split()
        if len(numbers) != 9:
            raise ValueError(f"'{path}' holds {len(numbers)} numbers, a homography has 9")
        homography = np.array(numbers, float).reshape(3, 3)
        pairs.append((f'{path.parent.name} 1-{other}', pictures[0], pictures[1], homography))
    if not pairs:
        raise ValueError(f"no homography pairs (<scene>/H_1_k) under '{root}'")
    return pairs


def nearest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[N, 2]` rows (i, nearest j) by largest dot product; empty if either side is."""
    if len(first) == 0 or len(second) == 0:
        return np.zeros((0, 2), np.int64)
    return np.stack([np.arange(len(first)), (first @ second.T).argmax(axis=1)], axis=1)


def evaluate_pair(first: Features, second: Features, homography: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """All metrics of one pair under a protocol."""
    shape = (protocol.height, protocol.width)
    count, epsilon = protocol.keypoints, protocol.correct_distance
    repeated, error = metrics.repeatability(first.keypoints, second.keypoints, homography, shape, count, epsilon)

    a, b = first.descriptors[:count], second.descriptors[:count]
    forward, backward = nearest(a, b), nearest(b, a)[:, ::-1]
    if protocol.mutual_matching_score:
        forward = backward = _mutual(forward, backward)
    score = metrics.matching_score(
        first.keypoints[:count], second.keypoints[:count], forward, backward, homography, shape, epsilon
    )

    shared_a = np.flatnonzero(metrics.visible_in_other(first.keypoints, homography, shape))[:count]
    shared_b = np.flatnonzero(metrics.visible_in_other(second.keypoints, np.linalg.inv(homography), shape))[:count]
    a, b = first.descriptors[shared_a], second.descriptors[shared_b]
    mutual = _mutual(nearest(a, b), nearest(b, a)[:, ::-1])
    corner_error = metrics.homography_error(
        first.keypoints[shared_a[mutual[:, 0]]], second.keypoints[shared_b[mutual[:, 1]]],
        homography, shape, protocol.ransac_threshold, protocol.ransac_iterations,
    )  # fmt: skip
    return {
        'repeatability': repeated,
        'localization_error': error,
        'matching_score': score,
        'corner_error': corner_error,
    }


def _mutual(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    agreed = set(map(tuple, forward.tolist())) & set(map(tuple, backward.tolist()))
    return np.array(sorted(agreed), np.int64).reshape(-1, 2)


def evaluate_pairs(root: Path, protocol: Protocol, detectors: dict[str, Detect]) -> dict[str, Any]:
    """Every pair and the means, for every detector."""
    per_pair: dict[str, dict[str, dict[str, float]]] = {name: {} for name in detectors}
    cache: dict[tuple[str, Path], Features] = {}
    for pair, *paths, homography in tqdm(find_pairs(root), desc=protocol.name, unit='pair'):
        prepared = [protocol.prepare(_read(path)) for path in paths]
        (_, to_first), (_, to_second) = prepared
        mapped = to_second @ homography @ np.linalg.inv(to_first)
        for name, detect in detectors.items():
            for path, (picture, _) in zip(paths, prepared, strict=True):
                if (name, path) not in cache:
                    cache[name, path] = detect(picture)
            per_pair[name][pair] = evaluate_pair(cache[name, paths[0]], cache[name, paths[1]], mapped, protocol)
    return {name: _means(results) | {'per_pair': results} for name, results in per_pair.items()}


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ValueError(f"'{path}' is not a readable picture")
    return np.asarray(picture, np.uint8)


def _means(results: dict[str, dict[str, float]]) -> dict[str, Any]:
    def values(key: str) -> np.ndarray:
        return np.array([result[key] for result in results.values()])

    corner_errors = values('corner_error')
    return {
        'pairs': len(results),
        **{key: float(np.nanmean(values(key))) for key in ('repeatability', 'localization_error', 'matching_score')},
        'homography_accuracy': {str(t): float((corner_errors <= t).mean()) for t in HOMOGRAPHY_THRESHOLDS},
    }


def evaluate_shapes(count: int, noisy: bool, detectors: dict[str, Detect], seed: int = 2_000_000) -> dict[str, Any]:
    """Average precision at 4 px on held-out Synthetic Shapes (SuperPoint, table 2).

    `mAP` is the mean over the primitives that have corners; `AP_all` pools all pictures, those without corners
    (ellipses, noise) included, so that false alarms there count.
    """
    found: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray, int]]]] = {
        name: {primitive: [] for primitive in shapes.PRIMITIVES} for name in detectors
    }
    for index in tqdm(range(count), desc='shapes', unit='picture'):
        rng = np.random.default_rng([seed, index])
        primitive = list(shapes.PRIMITIVES)[index % len(shapes.PRIMITIVES)]
        picture, corners = shapes.render(rng, primitive=primitive)
        picture = augment(rng, picture, SHAPES_NOISE) if noisy else picture
        for name, detect in detectors.items():
            features = detect(picture)
            correct = metrics.match_detections(features.keypoints, corners, SHAPES_EPSILON)
            found[name][primitive].append((features.scores, correct, len(corners)))
    results: dict[str, Any] = {}
    for name, by_primitive in found.items():
        pooled = [entry for entries in by_primitive.values() for entry in entries]
        precision = {primitive: _pooled_precision(entries) for primitive, entries in by_primitive.items()}
        scored = {primitive: value for primitive, value in precision.items() if np.isfinite(value)}
        mean = float(np.mean(list(scored.values())))
        results[name] = {'pictures': count, 'mAP': mean, 'AP_all': _pooled_precision(pooled), 'AP': scored}
    return results


def _pooled_precision(entries: list[tuple[np.ndarray, np.ndarray, int]]) -> float:
    scores, correct, positives = zip(*entries, strict=True)
    return metrics.average_precision(np.concatenate(scores), np.concatenate(correct), sum(positives))


def as_table(results: dict[str, Any]) -> str:
    """The means as a Markdown table."""
    first = next(iter(results.values()))
    if 'mAP' in first:
        rows = [f'| {name} | {r["mAP"]:.3f} | {r["AP_all"]:.3f} |' for name, r in results.items()]
        return '\n'.join(['| detector | mAP | AP, all pictures |', '|---|---|---|', *rows])
    rows = []
    for name, r in results.items():
        accuracy = ' / '.join(f'{r["homography_accuracy"][str(t)]:.2f}' for t in HOMOGRAPHY_THRESHOLDS)
        rows.append(
            f'| {name} | {r["repeatability"]:.3f} | {r["localization_error"]:.2f} | {accuracy} '
            f'| {r["matching_score"]:.3f} |'
        )
    head = '| detector | repeatability | localisation error, px | homography accuracy 1/3/5 px | matching score |'
    return '\n'.join([head, '|---|---|---|---|---|', *rows])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='evaluate', description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--pairs', type=Path, help="folder of homography pairs in HPatches' layout")
    source.add_argument('--shapes', type=int, metavar='N', help='evaluate on N held-out Synthetic Shapes')
    parser.add_argument('--clean', action='store_true', help='shapes without noise')
    parser.add_argument('--protocol', choices=sorted(PROTOCOLS), default='kp2d-320')
    parser.add_argument('--detectors', nargs='+', default=['superpoint', 'sift', 'orb'], help='weights or peers')
    parser.add_argument('--nms-radius', type=int, default=4, help='of our networks, pixels')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--out', required=True, type=Path, help='folder for results.json and results.md')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the results and print the table; exit status 1 for an error."""
    options = parse(arguments)
    border = 0 if options.shapes else 4  # shapes have corners up to the edge
    try:
        detectors = {
            name: make_detector(name, options.device, options.nms_radius, border) for name in options.detectors
        }
        if options.pairs:
            protocol = options.protocol
            results = evaluate_pairs(options.pairs, PROTOCOLS[protocol], detectors)
        else:
            protocol = 'synthetic-shapes' if options.clean else 'synthetic-shapes-noisy'
            results = evaluate_shapes(options.shapes, not options.clean, detectors)
    except (WeightsError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    table = as_table(results)
    (options.out / 'results.json').write_text(json.dumps({'protocol': protocol, 'detectors': results}, indent=1))
    (options.out / 'results.md').write_text(table + '\n')
    print(table)
    return 0


if __name__ == '__main__':
    sys.exit(main())
