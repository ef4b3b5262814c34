"""What a recording without ground truth can tell: agreement under known homographies, and the length of tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from superpoint_ros.matching import MatchSettings, match, verify
from superpoint_ros.tracks import Tracker, TrackSettings
from superpoint_training.evaluation.pair_run import PreparedPair
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.frames import evenly
from superpoint_training.homographies import HomographyConfig, sample_homography
from superpoint_training.photometric import PhotometricConfig, augment
from superpoint_training.protocols import Protocol

VIEWS = HomographyConfig(scale=(0.7, 1.4), rotation=np.pi / 6, perspective=0.2, translation=0.1)
LIGHT = PhotometricConfig(brightness=25, contrast=(0.7, 1.3), noise=5, speckle=0, shade=(-0.2, 0.2), motion_blur=0)
WARPED = 50
"""Frames that are warped, evenly spread over those given."""
# Descriptors of different kinds do not compare by similarity, so neither matches nor tracks have a least one.
_MATCHING = MatchSettings(min_similarity=-1.0)
_TRACKING = TrackSettings(max_missed=0)


def warped_pairs(frames: Sequence[np.ndarray], protocol: Protocol) -> list[PreparedPair]:
    """Frames beside themselves seen from elsewhere in another light; the same frames give the same pairs.

    Beyond the frame's edge the view shows its mirror image: an edge to black would draw keypoints.
    """
    pairs = []
    for row in evenly(range(len(frames)), WARPED):
        rng = np.random.default_rng([protocol.seed, row])
        picture, _ = protocol.prepare(frames[row])
        homography = sample_homography(rng, *protocol.shape, VIEWS)
        view = cv2.warpPerspective(
            picture, homography, (protocol.width, protocol.height), borderMode=cv2.BORDER_REFLECT_101
        )
        view = augment(rng, np.asarray(view, np.uint8), LIGHT)
        pairs.append(PreparedPair(f'frame {row}', 'recording', picture, view, homography))
    return pairs


def track_lengths(frames: Sequence[np.ndarray], detect: Predictions, protocol: Protocol) -> dict[str, Any]:
    """How long keypoints are followed through successive frames, by the package's matcher and tracker.

    Matches are mutual nearest neighbours that agree with the epipolar geometry; a track ends with the first frame
    that has none for it.

    Returns:
        'frames', 'tracks'; 'mean' and 'median' frames a track is seen in; 'mean_of_points', over keypoints: the
        length of the track each belongs to; 'inliers' and 'inlier_ratio' between successive frames.
    """
    tracker = Tracker(_TRACKING)
    seen: Counter[int] = Counter()
    inliers, ratios = [], []
    previous = None
    for frame in frames:
        features = detect(protocol.prepare(frame)[0])
        features = features.take(np.arange(min(len(features), protocol.keypoints)))
        matches = match(features, previous or features.take(np.zeros(0, np.intp)), _MATCHING)
        if previous is not None:
            matches = verify(matches, features.keypoints, previous.keypoints, _MATCHING)
            inliers.append(int(matches.inlier.sum()))
            ratios.append(inliers[-1] / max(1, len(matches)))
        ids, _ = tracker.update(features, matches)
        seen.update(ids.tolist())
        previous = features
    lengths = np.array(list(seen.values()) or [0], float)
    return {
        'frames': len(frames),
        'tracks': len(seen),
        'mean': float(lengths.mean()),
        'median': float(np.median(lengths)),
        'mean_of_points': float((lengths**2).sum() / max(1.0, lengths.sum())),
        'inliers': float(np.mean(inliers)) if inliers else float('nan'),
        'inlier_ratio': float(np.mean(ratios)) if ratios else float('nan'),
    }


def track_results(
    frames: Sequence[np.ndarray], detectors: Mapping[str, Predictions], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """`track_lengths` by detector; those without descriptors are left out."""
    return {
        name: track_lengths(frames, detect, protocol)
        for name, detect in detectors.items() if detect.detector.describes
    }  # fmt: skip
