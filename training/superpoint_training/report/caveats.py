"""What the numbers don't say: said on the page, with the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from superpoint_training.report.blocks import Block, Items, Table, number
from superpoint_training.report.bootstrap import CONFIDENCE
from superpoint_training.report.measures import Results, homography_accuracy, scene_of, with_best
from superpoint_training.report.page import Page

GENERAL = (
    (
        'Repeatability on its own',
        'keypoints in dense clusters repeat by chance, and those of a detector that finds the same easy corner many '
        'times repeat many times. Read it with the matching score.',
    ),
    (
        'Localisation error',
        'is over repeated keypoints only, so it never exceeds the distance at which a keypoint counts as repeated, and '
        'a detector that loses its hard ones looks more precise.',
    ),
    (
        'Planes and still scenes',
        'a homography relates two views of a plane, or of anything from one place. Parallax, occlusion, motion blur '
        'and rolling shutter, which robots live with, are not in these pairs.',
    ),
    ('Speed', 'is not measured here.'),
)


def add_caveats(page: Page, results: Results) -> None:
    """The section "What these numbers do not say", where there are pairs."""
    detectors = {name: result for name, result in results['detectors'].items() if result.get('per_pair')}
    if not detectors:
        return
    name, result = next(iter(detectors.items()))
    items = [few_scenes(name, result), which_threshold(results)]
    coarse = [pair for pair in results.get('coarse_truth') or [] if pair in result['per_pair']]
    blocks: list[Block] = []
    if coarse:
        items.append((
            f'{len(coarse)} of the {len(result["per_pair"])} pairs have a ground truth too coarse for 1 px',
            ', '.join(coarse) + '. Where a figure needs 1 px they measure the ground truth, not the detector.',
        ))  # fmt: skip
        blocks = [without_coarse(detectors, coarse)] if '1' in (result.get('homography_accuracy') or {}) else []
    else:
        items.append((
            'How exact the ground truth is', 'is not known for these pairs. Figures at 1 px may measure its error.'
        ))  # fmt: skip
    page.section('What these numbers do not say', Items([*items, *GENERAL]), *blocks)


def few_scenes(name: str, result: Mapping[str, Any]) -> tuple[str, str]:
    """How few scenes there are, and how far that leaves one figure open."""
    pairs = list(result['per_pair'])
    scenes = Counter(map(scene_of, pairs))
    largest = scenes.most_common(max(1, len(scenes) // 3))
    title = f'{len(scenes)} scenes, {len(pairs)} pairs'
    words = f'{sum(count for _, count in largest)} of the pairs are of {len(largest)} scenes'
    accuracies = sorted(result.get('homography_accuracy') or {}, key=float)
    if not accuracies:
        return title, f'{words}.'
    measure = homography_accuracy(accuracies[(len(accuracies) - 1) // 2])
    words += f', and one pair more or less moves a homography accuracy by {1 / len(pairs):.3f}'
    if len(scenes) == 1:
        return title, f'{words}. How far other scenes would move it can not be told from one.'
    interval = measure.interval(result)
    return title, (
        f'{words}. Other scenes of the same kind would put that of {name} at {measure.threshold} px, '
        f'{number(interval.mean)} here, anywhere from {number(interval.low, 2)} to '
        f'{number(interval.high, 2)} ({CONFIDENCE:.0%} interval over scenes).'
    )


def which_threshold(results: Results) -> tuple[str, str]:
    """Which of the homography accuracies to read, and why."""
    settings = results.get('protocol_settings') or {}
    size = f' of {settings["width"]}×{settings["height"]}' if {'width', 'height'} <= set(settings) else ''
    return (
        'Which threshold matters',
        f'3 px, in pictures{size}. At 1 px the error of the ground truth itself counts; at 5 px, estimates that a '
        'person sees to be off still pass. Full-size pictures would need other thresholds.',
    )


def without_coarse(detectors: Mapping[str, Mapping[str, Any]], coarse: list[str]) -> Table:
    """Homography accuracy at 1 px over all pairs, and over those whose ground truth is good enough for it."""
    measure = homography_accuracy('1')
    columns = []
    for title, left_out in (('all pairs', []), (f'without the {len(coarse)}', coarse)):
        means = [
            float(
                np.mean(
                    [measure.of_pair(f) for pair, f in result['per_pair'].items() if pair not in left_out] or [np.nan]
                )
            )
            for result in detectors.values()
        ]
        columns.append((title, with_best(means, measure.digits)))
    return Table.of_columns('detector', detectors, columns, measure.title)
