"""A run over sequences with poses: how well the motion between frames comes out of the matches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from superpoint_ros.features import Features
from superpoint_training.evaluation.pair_scores import mutual_rows
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.relative_pose import (
    estimate,
    pose_auc,
    relative,
    rotation_error,
    translation_error,
)
from superpoint_training.evaluation.sequences import FramePairs, PosedFrames
from superpoint_training.evaluation.summary import mean
from superpoint_training.evaluation.work import each
from superpoint_training.protocols import PoseProtocol


def score_frames(
    first: Features, second: Features, frames: PosedFrames, indices: tuple[int, int], protocol: PoseProtocol
) -> dict[str, float]:
    """Errors and inliers of the motion between two frames of a sequence.

    Returns:
        'rotation_error', 'translation_error', 'error' in degrees, infinite without an estimate, 'baseline' in metres,
        'matches', 'inliers', 'inlier_ratio'. 'error' is the larger of the two, or the rotation's alone where the
        camera moved by less than the protocol's shortest baseline.
    """
    rotation, translation = relative(*frames.poses[list(indices)])
    baseline = float(np.linalg.norm(translation))
    rows = mutual_rows(first.descriptors @ second.descriptors.T)
    start = frames.camera.rays(first.keypoints[rows[:, 0]])[:, :2]
    end = frames.camera.rays(second.keypoints[rows[:, 1]])[:, :2]
    finite = np.isfinite(start).all(axis=1) & np.isfinite(end).all(axis=1)
    found = estimate(
        start[finite], end[finite], protocol.ransac_threshold / frames.camera.focal,
        protocol.ransac_confidence, protocol.ransac_iterations, protocol.seed,
    )  # fmt: skip
    turned = moved = float('inf')
    if found is not None:
        turned = rotation_error(found.rotation, rotation)
        moved = translation_error(found.translation, translation)
    inliers = 0 if found is None else int(found.inlier.sum())
    return {
        'rotation_error': turned,
        'translation_error': moved,
        'error': turned if baseline < protocol.shortest_baseline else max(turned, moved),
        'baseline': baseline,
        'matches': float(len(rows)),
        'inliers': float(inliers),
        'inlier_ratio': inliers / max(1, len(rows)),
    }


def relative_poses(
    pairs: FramePairs, detectors: Mapping[str, Predictions], protocol: PoseProtocol, jobs: int = 1
) -> dict[str, dict[str, Any]]:
    """By detector, then by gap: the areas under the curve, inliers, their share of the matches, and every pair."""
    frames = pairs.frames
    work = [(gap, start) for gap, starts in pairs.starts.items() for start in starts]

    def score(item: tuple[int, int]) -> dict[str, dict[str, float]]:
        gap, start = item
        indices = (start, start + gap)
        first, second = (frames.pictures[frames.names[index]] for index in indices)
        return {
            name: score_frames(detect(first), detect(second), frames, indices, protocol)
            for name, detect in detectors.items()
        }

    scores = each(work, score, jobs, f'{frames.name}: poses', 'pair')
    results: dict[str, dict[str, Any]] = {name: {} for name in detectors}
    for gap in pairs.starts:
        of_gap = {start: values for (apart, start), values in zip(work, scores, strict=True) if apart == gap}
        for name in detectors:
            per_pair = {f'{start}-{start + gap}': values[name] for start, values in of_gap.items()}
            results[name][str(gap)] = _summary(per_pair, protocol)
    return results


def _summary(per_pair: Mapping[str, Mapping[str, float]], protocol: PoseProtocol) -> dict[str, Any]:
    errors = np.array([values['error'] for values in per_pair.values()])
    return {
        'pairs': len(per_pair),
        'pairs_by_rotation_only': sum(v['baseline'] < protocol.shortest_baseline for v in per_pair.values()),
        'auc': {str(angle): pose_auc(errors, angle) for angle in protocol.angles},
        'inliers': mean(values['inliers'] for values in per_pair.values()),
        'inlier_ratio': mean(values['inlier_ratio'] for values in per_pair.values()),
        'per_pair': per_pair,
    }
