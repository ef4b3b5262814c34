"""The outputs of one evaluation: a Markdown table, a page and a picture."""

from __future__ import annotations

import json
from pathlib import Path

from superpoint_training.files import write_text
from superpoint_training.report.blocks import Details, Items, Table
from superpoint_training.report.caveats import add_caveats
from superpoint_training.report.measures import Results, figures_table
from superpoint_training.report.page import Page
from superpoint_training.report.pairs import Draw, add_pair_sections
from superpoint_training.report.published import published_pairs
from superpoint_training.report.sequences import add_sequence_sections, consistency_tables, pose_table, sequences
from superpoint_training.report.shapes import add_shapes_section, shapes_table, with_shapes
from superpoint_training.report.summary import describe, write_summary


def write_report(results: Results, out: Path, draw: Draw | None = None) -> None:
    """Write results.md, index.html and summary.png into a folder, which is made.

    Args:
        results: what results.json holds.
        draw: draws a detector's matches on a pair; None leaves drawn pairs out.

    Raises:
        TrainingError: one of them can't be written.
    """
    tables = '\n\n'.join(table.markdown() for table in summary_tables(results))
    write_text(out / 'results.md', f'{describe(results)}\n\n{tables}\n')
    evaluation_page(results, draw).write(out / 'index.html')
    write_summary(results, out / 'summary.png')


def summary_tables(results: Results) -> list[Table]:
    """The means: over pairs, over Synthetic Shapes, for each sequence; whichever there are."""
    with_pairs = {name: result for name, result in results['detectors'].items() if 'pairs' in result}
    shapes = with_shapes(results)
    return [
        *([figures_table(with_pairs)] if with_pairs else []),
        *([shapes_table(shapes)] if shapes else []),
        *(pose_table(sequence) for sequence in sequences(results)),
        *consistency_tables(results),
    ]


def evaluation_page(results: Results, draw: Draw | None = None) -> Page:
    """The page, of the sections that the results have figures for."""
    page = Page('Keypoint evaluation', describe(results), _facts(results))
    add_pair_sections(page, results, draw)
    add_sequence_sections(page, results)
    add_shapes_section(page, results)
    if skipped := results.get('skipped'):
        items = [(str(entry['what']), str(entry['why'])) for entry in skipped]
        page.section(f'Skipped input ({len(skipped)})', Items(items))
    add_caveats(page, results)
    if any('pairs' in result for result in results['detectors'].values()):
        page.section('Published figures', *published_pairs())
    _add_method(page, results)
    return page


def _facts(results: Results) -> dict[str, str]:
    source = results.get('source') or {}
    sources = [str(source[key]) for key in ('pairs', 'sequences', 'recording') if source.get(key)]
    sources += [f'{source["shapes"]} Synthetic Shapes'] if source.get('shapes') else []
    facts = {
        'source': ', '.join(sources),
        'made': str(results.get('created') or ''),
        'machine': str(results.get('machine') or ''),
        'seed': str(results.get('seed', '')),
    }
    return {name: value for name, value in facts.items() if value}


def _add_method(page: Page, results: Results) -> None:
    detectors = [(name, str(r['description'])) for name, r in results['detectors'].items() if r.get('description')]
    section = page.section('How it was measured')
    if detectors:
        section.add(Items(detectors))
    protocol = {'protocol': results.get('protocol')} | (results.get('protocol_settings') or {})
    for caption, settings in (
        ('The protocol', protocol),
        ('The poses of sequences', results.get('pose_protocol') or {}),
    ):
        rows = [
            [str(key).replace('_', ' '), value if isinstance(value, str) else json.dumps(value)]
            for key, value in settings.items()
        ]
        if rows:
            section.add(Table(['setting', 'value'], rows, caption, words=2))
    versions = [(name, str(version)) for name, version in (results.get('versions') or {}).items()]
    command = [('command', str(results['command']))] if results.get('command') else []
    if versions or command:
        section.add(Details('Command and versions', [Items([*command, *versions])]))
