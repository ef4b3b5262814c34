"""The outputs of an evaluation: everything in results.json reaches the page, whole, honest and offline."""

import copy
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from report_results import PAIRS_A_SCENE, SCENES, PageReader, draw, make_results, make_shapes_results

from superpoint_training.failures import TrainingError
from superpoint_training.report import evaluation_page, summary_tables, write_report
from superpoint_training.report.blocks import DASH
from superpoint_training.report.measures import REPEATABILITY, figures_table, homography_accuracy, with_best
from superpoint_training.report.pairs import best_and_worst

NAMES = ('superpoint', 'sift', 'orb')


@pytest.fixture(scope='module')
def reader() -> PageReader:
    return PageReader(evaluation_page(make_results(), draw).html())


def section(page: str, title: str) -> PageReader:
    found = [part for part in page.split('<section')[1:] if f'>{title}' in part.split('</h2>')[0]]
    assert found, f'no section {title}'
    return PageReader(f'<section{found[0]}')


def test_the_summary_has_every_detector_and_every_mean(reader):
    results = make_results()
    head, *rows = reader.tables[0]
    assert [row[0] for row in rows] == list(NAMES)
    column = head.index('matching score')
    for name, row in zip(NAMES, rows, strict=True):
        assert row[column].startswith(f'{results["detectors"][name]["matching_score"]:.3f}')
    assert [title for title in head if title.startswith('homography')] == [f'homography ≤ {t} px' for t in (1, 3, 5)]


def test_the_best_of_each_column_is_marked_whichever_way_is_better():
    results = {
        'a': {'repeatability': 0.5, 'localization_error': 1.0},
        'b': {'repeatability': 0.4, 'localization_error': 0.9},
    }
    rows = figures_table(results).cells()
    assert [[cell.tone for cell in row] for row in rows] == [['', 'best', ''], ['', '', 'best']]


@pytest.mark.parametrize(('values', 'best'), [
    ([0.5, 0.5001, 0.1], [0, 1]),  # what prints alike is alike
    ([0.5, 0.5], []),
    ([0.5], []),
    ([float('nan'), 0.5, 0.6], [2]),
    ([float('nan'), float('nan')], []),
    ([], []),
])  # fmt: skip
def test_ties_and_lone_figures(values, best):
    cells = with_best(values, 3)
    assert [row for row, cell in enumerate(cells) if cell.tone == 'best'] == best


def test_every_pair_and_scene_is_on_the_page(reader):
    names = {row[0] for table in reader.tables for row in table}
    for scene in SCENES:
        assert f'{scene} ({PAIRS_A_SCENE})' in names
        assert {f'{scene} 1-{k}' for k in range(2, 2 + PAIRS_A_SCENE)} <= names


def test_a_scene_s_figure_is_the_mean_of_its_pairs(reader):
    results = make_results()
    table = next(table for table in reader.tables if table[0][0] == 'scene')
    row = next(row for row in table if row[0].startswith('v_graffiti'))
    pairs = results['detectors']['sift']['per_pair']
    expected = np.mean([pairs[f'v_graffiti 1-{k}']['repeatability'] for k in (2, 3, 4)])
    assert row[1 + NAMES.index('sift')].startswith(f'{expected:.3f}')


def test_a_figure_that_lacks_is_a_dash_and_a_missing_homography_an_inaccurate_one():
    results = make_results()
    pair = results['detectors']['superpoint']['per_pair']['i_wall 1-2']
    assert pair['corner_error'] is None
    assert homography_accuracy('5').of_pair(pair) == 0
    page = PageReader(evaluation_page(results).html())
    head, titles, *rows = next(t for t in page.tables if t[0][0] == 'scene' and len(t) == 2 + len(pair_names(results)))
    row = next(row for row in rows if row[0] == 'i_wall 1-2')
    assert titles[:3] == list(NAMES)
    error = 1 + len(NAMES) * (head.index('localisation error, px') - 1)
    assert row[error] == DASH
    assert DASH not in row[error + 1 : error + len(NAMES)]


def pair_names(results) -> list[str]:
    return list(next(iter(results['detectors'].values()))['per_pair'])


def test_the_page_says_what_it_does_not_say():
    page = evaluation_page(make_results()).html()
    text = section(page, 'What these numbers do not say').text
    assert 'v_bark 1-3' in text
    assert '4 scenes, 12 pairs' in text
    assert '3 px, in pictures of 320×240' in text
    published = section(page, 'Published figures').text
    assert published.count('published, on HPatches (116 scenes)') >= 2
    assert '0.686' in published
    ours = page[: page.index('id="published-figures"')]
    assert 'UnsuperPoint' not in ours


def test_accuracy_at_1_px_is_also_given_without_coarse_pairs():
    results = make_results(('sift', 'orb'))
    for name, error in (('sift', 0.5), ('orb', 2.0)):
        for pair in results['detectors'][name]['per_pair'].values():
            pair['corner_error'] = error
    results['detectors']['sift']['per_pair']['v_bark 1-3']['corner_error'] = None
    table = section(evaluation_page(results).html(), 'What these numbers do not say').tables[0]
    assert table[0] == ['detector', 'all pairs', 'without the 1']
    assert [cell.replace('(best)', '') for cell in table[1]] == ['sift', f'{11 / 12:.3f}', '1.000']
    assert table[2] == ['orb', '0.000', '0.000']


def test_without_knowledge_of_the_ground_truth_the_page_says_so():
    results = make_results() | {'coarse_truth': []}
    assert 'is not known for these pairs' in section(evaluation_page(results).html(), 'What these numbers').text


def test_skipped_input_is_named_with_its_reason():
    found = section(evaluation_page(make_results()).html(), 'Skipped input (1)')
    assert 'v_broken/H_1_2: it holds 8 numbers' in found.text
    assert 'Skipped' not in evaluation_page(make_results() | {'skipped': []}).html()


def test_each_split_has_its_table():
    results = make_results()
    found = section(evaluation_page(results).html(), 'Illumination and viewpoint')
    assert 'illumination: 6 pairs' in found.text
    expected = results['detectors']['orb']['splits']['viewpoint']['repeatability']
    assert found.tables[1][3][1].startswith(f'{expected:.3f}')


def test_relative_poses_stand_by_gap():
    page = evaluation_page(make_results()).html()
    found = section(page, 'Relative pose')
    groups, titles, *rows = found.tables[0]
    assert groups == ['detector', '1 apart, 20 pairs', '10 apart, 20 pairs', '30 apart, 20 pairs']
    assert titles == ['AUC 5°', 'AUC 10°', 'AUC 20°', 'inliers', 'inlier ratio'] * 3
    assert rows[1][1 + 5 + 3] == f'{200 / 10**0.5:.0f}'
    assert [text for text in ('AUC up to 10°', 'inlier ratio') if f'>{text}</text>' not in page] == []


def test_figures_without_ground_truth_stand_apart():
    found = section(evaluation_page(make_results()).html(), 'Without ground truth')
    assert found.tables[1][1][:3] == ['superpoint', '7.50', '11.00']
    assert found.tables[1][1][-1] == DASH


def test_each_detector_s_best_and_worst_pairs_are_drawn():
    asked = []

    def recorded(detector, pair):
        asked.append((detector, pair))
        return draw(detector, pair)

    results = make_results()
    page = evaluation_page(results, recorded).html()
    for name in NAMES:
        scores = {pair: figures['matching_score'] for pair, figures in results['detectors'][name]['per_pair'].items()}
        assert (name, max(scores, key=scores.get)) in asked
        assert (name, min(scores, key=scores.get)) in asked
    assert len(asked) == len(set(asked)) == 4 * len(NAMES)
    pictures = section(page, 'Best and worst pairs')
    assert all(uri.startswith('data:image/jpeg;base64,') for uri in pictures.attributes('image', 'href'))
    assert len(pictures.attributes('image', 'href')) == 2 * len(asked)
    assert {'lines right', 'lines wrong'} <= set(pictures.attributes('path', 'class'))


@pytest.mark.parametrize(('scores', 'best', 'worst'), [
    ({}, [], []),
    ({'a 1-2': 0.5}, ['a 1-2'], []),
    ({'a 1-2': 0.5, 'a 1-3': 0.6}, ['a 1-3'], ['a 1-2']),
    ({'a 1-2': 0.9, 'a 1-3': 0.8, 'b 1-2': 0.7, 'c 1-2': 0.1, 'c 1-3': 0.2}, ['a 1-2', 'b 1-2'], ['c 1-2', 'a 1-3']),
    ({'a 1-2': None, 'b 1-2': 0.1, 'c 1-2': 0.2}, ['c 1-2'], ['b 1-2']),
])  # fmt: skip
def test_best_and_worst_pairs_are_of_different_scenes(scores, best, worst):
    result = {'per_pair': {pair: {'matching_score': score} for pair, score in scores.items()}}
    assert best_and_worst(result) == (best, worst)


def test_the_page_fetches_nothing():
    page = evaluation_page(make_results(), draw).html()
    assert 'http' not in page.replace('http-equiv', '')
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not re.search(r'@import|url\((?!#)', page)
    assert '<script' not in page


def test_names_of_detectors_and_pairs_are_only_text():
    name = '<img src=x onerror=alert(1)>'
    results = make_results(('sift', name))
    results['detectors'][name]['per_pair'] = {
        f'{name}{pair}': figures for pair, figures in results['detectors'][name]['per_pair'].items()
    }
    results['skipped'] = [{'what': name, 'why': name}]
    reader = PageReader(evaluation_page(results, draw).html())
    assert 'img' not in {tag for tag, _ in reader.tags}
    assert name in reader.text


def test_the_same_results_give_the_same_bytes(tmp_path):
    for folder in ('a', 'b'):
        write_report(make_results(), tmp_path / folder, draw)
    for file in ('index.html', 'results.md', 'summary.png'):
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes(), file


@pytest.mark.parametrize('name', ['index.html', 'results.md', 'summary.png'])
def test_what_a_full_disk_has_no_room_for_is_named(tmp_path, name):
    for path in (tmp_path / name, tmp_path / f'{name}.partial'):
        path.symlink_to('/dev/full')
    with pytest.raises(TrainingError, match=rf"cannot write '.*{name}'.*No space left"):
        write_report(make_results(), tmp_path)


def test_results_survive_json(tmp_path):
    results = make_results()
    write_report(json.loads(json.dumps(results, allow_nan=False)), tmp_path)
    assert (tmp_path / 'results.md').read_text().startswith('kp2d-320, 12 pairs of 4 scenes\n\n| detector | repeat')


def test_the_markdown_has_the_summary_of_every_kind():
    titles = [table.caption.split(':')[0] for table in summary_tables(make_results())]
    assert titles == [
        '',
        'kitchen',
        '12 frames beside themselves, warped and in another light',
        'Tracks over 30 frames',
    ]


def test_the_picture_shows_bars_in_the_detectors_colours(tmp_path):
    write_report(make_results(), tmp_path)
    picture = cv2.imread(str(tmp_path / 'summary.png'))
    assert picture.shape[1] > 1200
    for colour in ((178, 103, 11), (10, 74, 207), (92, 127, 10)):  # blue, green, red of LIGHT.series
        assert (picture == colour).all(axis=-1).sum() > 5000
    assert (picture[:3] == 255).all()


def minimal() -> dict:
    return {'protocol': 'kp2d-320', 'detectors': {'sift': {'pairs': 0, 'per_pair': {}}}}


def one_detector() -> dict:
    return make_results(('sift',))


def detection_only() -> dict:
    results = make_results(('fast',))
    fast = results['detectors']['fast']
    for key in ('matching_score', 'nn_map', 'coverage', 'harmonic_mean'):
        fast[key] = None
    fast['homography_accuracy'] = dict.fromkeys(('1', '3', '5'))
    for pair in fast['per_pair'].values():
        for key in ('matching_score', 'nn_map', 'coverage', 'corner_error'):
            del pair[key]
    fast['precision_recall'] = {'recall': [], 'precision': []}
    del fast['relative_pose'], fast['track_length']
    return results


def sequences_only() -> dict:
    results = make_results()
    for result in results['detectors'].values():
        for key in [key for key in result if key not in ('relative_pose', 'description')]:
            del result[key]
    return results


def undescribed() -> dict:
    results = make_results()
    for key in list(results):
        if key not in ('protocol', 'detectors'):
            del results[key]
    return results


@pytest.mark.parametrize('make', [
    minimal, one_detector, detection_only, sequences_only, undescribed, make_shapes_results,
])  # fmt: skip
def test_a_part_of_the_results_gives_a_page_of_that_part(make, tmp_path):
    results = make()
    before = copy.deepcopy(results)
    write_report(results, tmp_path, None if make is minimal else draw)
    assert results == before
    reader = PageReader((tmp_path / 'index.html').read_text())
    for name in results['detectors']:
        assert any(row[0] == name for table in reader.tables for row in table)
        assert name in (tmp_path / 'results.md').read_text()
    assert not re.search(r'\bnan\b|\bNone\b|\bnull\b', reader.text)
    assert cv2.imread(str(tmp_path / 'summary.png')) is not None


def test_shapes_have_their_table_their_bars_and_what_was_published():
    found = section(evaluation_page(make_shapes_results()).html(), 'Synthetic Shapes')
    assert found.tables[0][:2] == [
        ['detector', 'mAP', 'AP, all pictures', 'star', 'cube'],
        ['magicpoint', '0.944(best)', '0.933', '0.950(best)', '0.900'],
    ]  # fmt: skip
    assert found.tables[0][2] == ['fast', '0.180', DASH, '0.100', DASH]
    assert 'published, on Synthetic Shapes' in found.text
    assert len(found.attributes('svg', 'viewbox')) == 3


@pytest.mark.parametrize(('source', 'words'), [
    ({'pairs': 'hpatches', 'sequences': 'desk, room'}, 'hpatches, desk, room'),
    ({'recording': 'drive.mcap /image', 'frames': 3}, 'drive.mcap /image'),
    ({'shapes': 500}, '500 Synthetic Shapes'),
])  # fmt: skip
def test_the_page_says_what_was_measured(source, words):
    assert words in evaluation_page(minimal() | {'source': source}).html()


def test_intervals_of_the_bars_hold_the_means():
    results = make_results()
    interval = REPEATABILITY.interval(results['detectors']['sift'])
    assert interval.low < results['detectors']['sift']['repeatability'] < interval.high


def test_the_commands_answer_without_waiting_for_matplotlib():
    code = "import sys, superpoint_training.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)
