"""The model card beside retrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superpoint_training.files import write_text
from superpoint_training.harvest.report import to_markdown
from superpoint_training.retraining.proof import AFTER, BEFORE

MEASURES = {
    'matching_score': 'matching score', 'repeatability': 'repeatability',
    'localization_error': 'localisation error, px', 'nn_map': 'nearest-neighbour mAP', 'coverage': 'coverage',
}  # fmt: skip


def describe_labels(round_: Mapping[str, Any]) -> str:
    """How many labels a round of training had, in words."""
    density = round_['labels']
    return 'without labels' if density is None else f'with {density:.0f} labels a frame'


def write_card(results: Mapping[str, Any], path: Path) -> None:
    """Data with hashes, how it was trained, all figures and the verdict, as Markdown.

    Raises:
        TrainingError: it can't be written.
    """
    weights, verdict = results['weights'], results['verdict']
    start = 'Trained' if weights['start'] == 'none' else f'Retrained from `{weights["start"]}`'
    lines = [
        f'# {Path(weights["out"]).stem}', '',
        f'{start} on own recordings, without labels, by', '',
        f'    {results["command"]}', '',
        f'{"Better" if verdict["is_better"] else "Not better"} than before, which is `{weights["before"]}`:', '',
        *(f'- {reason}' for reason in verdict['reasons']), '',
        f'{results["blend"]:.0%} of the way from the old weights to the trained ones; tried: '
        f'{", ".join(f"{float(share):.0%}" for share in results["blends_tried"])}.', '',
        f'## Figures, `{results["protocol"]}`, `levels` {results["levels"]}', '',
        '| | held out, before | after | general, before | after |', '|---|---:|---:|---:|---:|',
    ]  # fmt: skip
    for key, title in MEASURES.items():
        figures = [
            results['figures'][name][each].get(key) for name in ('held_out', 'general') for each in (BEFORE, AFTER)
        ]
        lines.append(f'| {title} | {" | ".join("–" if value is None else f"{value:.3f}" for value in figures)} |')
    for gap, real in results['figures']['real'].items():
        counts = f'{real[BEFORE]["inliers"]:.1f} before, {real[AFTER]["inliers"]:.1f} after'
        lines += ['', f'Inliers between real held-out frames {gap} apart: {counts}, {real[AFTER]["pairs"]} pairs.']
    lines += ['', '## Data', '', to_markdown(results['harvest']), '## Training', '']
    for index, each in enumerate(results['rounds'], 1):
        lines.append(
            f'- Round {index}: {each["steps"]} steps, {each["seconds"] / 60:.1f} minutes, {describe_labels(each)}; the '
            f'weights are those of step {each["step"]}; losses {each["losses"]}'
        )
    lines += [f'- {key}: `{value}`' for key, value in results['settings'].items()]
    lines += [f'- {results["machine"]}; ' + ', '.join(f'{k} {v}' for k, v in results['versions'].items() if v)]
    write_text(path, '\n'.join(lines) + '\n')
