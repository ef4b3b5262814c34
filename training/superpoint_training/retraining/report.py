"""report.html: what was trained on, how the training went, and whether it helped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superpoint_training.report import (
    Axis,
    Block,
    Cell,
    Details,
    Grid,
    Items,
    Page,
    Table,
    Text,
    compare,
    curves,
)
from superpoint_training.report.blocks import number
from superpoint_training.report.differences import EXPLANATION, difference_plots
from superpoint_training.retraining.card import describe_labels
from superpoint_training.retraining.proof import AFTER, BEFORE, Drawn

SETS = {
    'held_out': 'Held-out frames beside views of themselves, in another light',
    'general': 'General pairs, which the robot may never see',
}


def write_report(results: Mapping[str, Any], drawn: Drawn, path: Path) -> None:
    """Write the page, which opens offline."""
    weights = results['weights']
    page = Page(
        'Training of fresh weights' if weights['start'] == 'none' else f'Retraining of {weights["start"]}',
        _outcome(results),
        {
            'made': results['created'],
            'machine': results['machine'],
            'weights': weights['out'],
            BEFORE: f'{weights["before"]}, whose figures are to be surpassed',
        },
    )
    page.section('Verdict', Items(list(results['verdict']['reasons'])), *_blends(results))
    for name, title in SETS.items():
        figures = results['figures'][name]
        before, after = (
            {'protocol': results['protocol'], 'detectors': {'weights': figures[each]}} for each in (BEFORE, AFTER)
        )
        comparison = compare(before, after, (BEFORE, AFTER))
        section = page.section(title, comparison.table(), *difference_plots(comparison.rows))
        section.add(*(Grid(list(pair), wide=True) for pair in drawn[name]))
    if results['figures']['real']:
        page.section('Real held-out frames', _real_table(results['figures']['real']))
    page.section('How the training went', *_training(results['rounds']))
    page.section('What it was trained on', Text(_sources(results)), _harvest_table(results['harvest']))
    page.section('How to read this', Text(EXPLANATION), Items(_caveats(results)))
    settings = [(key, str(value)) for key, value in results['settings'].items()]
    page.section('Command, settings and versions', Details('All of them', [Items([
        ('command', results['command']), *settings, *((k, str(v)) for k, v in results['versions'].items()),
    ])]))  # fmt: skip
    page.write(path)


def _outcome(results: Mapping[str, Any]) -> str:
    if not results['replaced']:
        return 'Not better: no weights are replaced.'
    better = 'Better' if results['verdict']['is_better'] else 'Not better, but forced'
    return f'{better}: the new weights are in place.'


def _blends(results: Mapping[str, Any]) -> list[Block]:
    """How far towards the trained weights was tried, if not only all of the way."""
    tried = results['blends_tried']
    if len(tried) == 1 and results['blend'] == 1:
        return []
    return [
        Text(f'These weights are {results["blend"]:.0%} of the way from the old to the trained ones. Tried, in order:'),
        Items([(f'{float(share):.0%}', '; '.join(reasons)) for share, reasons in tried.items()]),
    ]  # fmt: skip


def _real_table(real: Mapping[str, Any]) -> Table:
    rows: list[list[str | Cell]] = []
    for gap, figures in real.items():
        for name in (BEFORE, AFTER):
            each = figures[name]
            best = each['inliers'] == max(other['inliers'] for other in figures.values())
            rows.append([
                f'{gap} apart, {name}', str(each['pairs']), number(each['matches'], 0),
                Cell(number(each['inliers'], 1), 'best' if best else ''), number(each['inlier_ratio']),
            ])  # fmt: skip
    head = ['recorded frames', 'pairs', 'matches', 'inliers', 'inlier ratio']
    return Table(head, rows, "Matches of the front-end's matcher that agree with an epipolar geometry")


def _training(rounds: list[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    for index, each in enumerate(rounds, 1):
        title = f'Round {index}: ' if len(rounds) > 1 else ''
        blocks.append(Text(
            f'{title}{each["steps"]} steps in {each["seconds"] / 60:.1f} minutes; the weights are those of step '
            f'{each["step"]}, trained {describe_labels(each)}.'
        ))  # fmt: skip
        plots = []
        for beginning, name in (('loss/', 'Losses'), ('validation/', 'Validation on held-out frames')):
            lines = {
                curve.removeprefix(beginning): tuple(zip(*points, strict=True))
                for curve, points in each['curves'].items() if curve.startswith(beginning) and points
            }  # fmt: skip
            if lines:
                plots.append(curves(lines, name, Axis('step'), Axis(''), points=beginning == 'validation/'))  # type: ignore[arg-type]
        blocks.append(Grid(plots))
    return blocks


def _sources(results: Mapping[str, Any]) -> str:
    total = results['harvest']['total']
    return (
        f'{total["train"]} frames of {total["seen"]} recorded, and {results["general_frames"]} general pictures. '
        f'{total["held_out"]} frames of other stretches of time were held out: {results["watching"]} of the first of '
        f'them watched the training, the last {results["judging"]} are what the figures above are from.'
    )


def _harvest_table(harvest: Mapping[str, Any]) -> Table:
    rows: list[list[str | Cell]] = []
    for recording in harvest['recordings']:
        for name, topic in recording['topics'].items():
            dropped = ', '.join(f'{count} {why.replace("_", " ")}' for why, count in topic['dropped'].items())
            rows.append([
                recording['path'], name, str(topic['seen']), str(topic['train']), str(topic['held_out']),
                dropped or 'none', recording['damage'] or 'none', recording['sha256'][:16],
            ])  # fmt: skip
    head = ['recording', 'topic', 'images', 'train', 'held out', 'dropped', 'damage', 'SHA-256']
    return Table(head, rows, 'Recordings', words=2)


def _caveats(results: Mapping[str, Any]) -> list[str]:
    return [
        'The held-out frames are of the same recordings: another day, place or lens may tell otherwise.',
        'Known homographies are exact but flat; the real pairs are real, but only say how many matches agree with '
        'one another.',
        *(['How far to go was chosen by the figures above, which flatters them a little.']
          if len(results['blends_tried']) > 1 else []),
        f'One training with one seed ({results["settings"].get("seed", 0)}).',
    ]  # fmt: skip
