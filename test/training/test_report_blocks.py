"""The pieces of a page: tables in three writings, plots, drawn pairs, and what holds them."""

import base64
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_results import PageReader, draw

from superpoint_training.report import (
    Axis,
    Bars,
    Cell,
    Details,
    Grid,
    Heading,
    Items,
    Page,
    PairPicture,
    Table,
    Text,
    bars,
    curves,
    dots,
    intervals,
)
from superpoint_training.report.blocks import DASH, number

HOSTILE = '<script>alert(1)</script>"\'& $\\frac$ | `b` *c* {{ 7*7 }}'
TABLE = Table(['detector', 'a', 'b'], [['sift', Cell('0.5', 'best'), '1'], ['orb', DASH, '2']], 'Means')


def page_with(*blocks) -> Page:
    page = Page('Title', 'subtitle', {'made': 'today'})
    page.section('Part', *blocks)
    return page


def test_a_figure_that_is_not_there_is_a_dash():
    assert [number(None), number(float('nan'))] == [DASH, DASH]
    assert [number(0.12345), number(2, 0), number(0.5, 1, sign=True), number(float('inf'))] == [
        '0.123',
        '2',
        '+0.5',
        '∞',
    ]


def test_a_table_is_the_same_in_its_three_writings():
    assert TABLE.markdown().splitlines() == [
        'Means',
        '',
        '| detector | a | b |', '| --- | ---: | ---: |', '| sift | **0.5** | 1 |', '| orb | – | 2 |',
    ]  # fmt: skip
    assert TABLE.text().splitlines() == ['detector     a  b', 'sift      0.5*  1', 'orb          –  2']
    assert PageReader(page_with(TABLE).html()).tables == [
        [['detector', 'a', 'b'], ['sift', '0.5(best)', '1'], ['orb', DASH, '2']]
    ]


def test_groups_stand_over_the_columns_they_span():
    table = Table(['scene', 'sift', 'orb', 'sift'], [['wall', '1', '2', '3']], groups=[('score', 2), ('error', 1)])
    assert table.markdown().splitlines()[0] == '| scene | score: sift | score: orb | error: sift |'
    page = page_with(table).html()
    assert PageReader(page).tables[0] == [
        ['scene', 'score', 'error'], ['sift', 'orb', 'sift'], ['wall', '1', '2', '3'],
    ]  # fmt: skip
    assert 'scope="colgroup" colspan="2"' in page


def test_a_table_out_of_columns_has_a_row_for_each_name():
    table = Table.of_columns(
        'detector', ['sift', 'orb'], [('a', [Cell('1'), Cell('2')]), ('b', [Cell('3'), Cell('4')])]
    )
    assert [[cell.text for cell in row] for row in table.cells()] == [['sift', '1', '3'], ['orb', '2', '4']]


@pytest.mark.parametrize('wrong', [{'rows': [['a', 'b']]}, {'rows': [['a']], 'groups': [('x', 2)]}])
def test_columns_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match='1 columns'):
        Table(['one'], **wrong)


def test_rows_and_columns_have_headers_with_a_scope():
    reader = PageReader(page_with(TABLE).html())
    assert reader.attributes('th', 'scope') == ['col'] * 3 + ['row'] * 2


def test_every_kind_of_block_is_on_the_page():
    blocks = [
        Text('words'), Heading('a part'), Items(['point', ('term', 'meaning')]), TABLE, Grid([Text('beside')]),
        Details('more', [Text('hidden at first')]), bars(Bars('score', {'sift': 1.0})), draw('sift', 'wall 1-2'),
    ]  # fmt: skip
    reader = PageReader(page_with(*blocks).html())
    for expected in ('words', 'a part', 'point', 'term: meaning', 'beside', 'more', 'hidden at first', 'wall 1-2'):
        assert expected in reader.text
    assert {'h3', 'ul', 'table', 'details', 'summary', 'svg', 'figure'} <= {tag for tag, _ in reader.tags}


def test_nothing_hostile_leaves_its_place():
    rows = [[HOSTILE, HOSTILE]]
    named = {HOSTILE: 1.0}
    drawn = draw(HOSTILE, HOSTILE)
    page = Page(HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    page.section(
        HOSTILE, Text(HOSTILE), Heading(HOSTILE), Items([HOSTILE, (HOSTILE, HOSTILE)]), drawn,
        Table([HOSTILE, HOSTILE], rows, HOSTILE, [(HOSTILE, 1)]), Details(HOSTILE, [Text(HOSTILE)]),
        bars(Bars(HOSTILE, named, note=HOSTILE)), dots({HOSTILE: named}, HOSTILE),
        curves({HOSTILE: ([0, 1], [0, 1])}, HOSTILE, Axis(HOSTILE), Axis(HOSTILE), HOSTILE),
        intervals({HOSTILE: (1, 0, 2)}, HOSTILE),
    )  # fmt: skip
    reader = PageReader(page.html())
    assert not [tag for tag, _ in reader.tags if tag in ('script', 'b')]
    assert '49' not in reader.text
    assert HOSTILE in reader.text
    markdown = Table([HOSTILE], rows=[[HOSTILE]]).markdown()
    assert '<script' not in markdown
    assert len(re.findall(r'(?<!\\)\|', markdown)) == 3 * 2  # only the table's own bars


def test_two_sections_can_not_have_one_link():
    page = page_with()
    with pytest.raises(ValueError, match='already'):
        page.section('part')


def test_contents_link_to_the_sections():
    page = page_with()
    page.section('What these numbers do not say?')
    reader = PageReader(page.html())
    assert reader.attributes('section', 'id') == ['part', 'what-these-numbers-do-not-say']
    assert [f'#{anchor}' for anchor in reader.attributes('section', 'id')] == reader.attributes('a', 'href')[1:]


def test_drawings_of_a_page_share_no_ids():
    plot = curves({'a': ([0, 1], [0, 1])}, 'curve', Axis('x'), Axis('y'))
    page = page_with(plot, plot).html()
    ids = PageReader(page).attributes
    found = [value for tag in ('g', 'clippath', 'path', 'svg', 'rect') for value in ids(tag, 'id')]
    assert len(found) == len(set(found)) > 10
    used = re.findall(r'url\(#([^)]+)\)', page) + re.findall(r'xlink:href="#([^"]+)"', page)
    assert used
    assert set(used) <= set(re.findall(r'\bid="([^"]+)"', page))


def test_plots_tell_their_figures_in_words():
    shown = Bars('score', {'sift': 0.5, 'orb': float('nan')}, spreads={'sift': (0.4, 0.6)})
    assert bars(shown).alt == 'Bar plot of score: sift 0.500 (0.400 to 0.600), orb –.'
    assert (
        'before ends at 0.250' in curves({'before': ([0, 1, 2], [1, 0.25, None])}, 'loss', Axis('step'), Axis('l')).alt
    )
    assert 'sift from 0.100 to 0.300' in dots({'sift': {'a': 0.1, 'b': 0.3, 'c': float('nan')}}, 'score').alt
    assert 'sift +0.100 (-0.100 to +0.300)' in intervals({'sift': (0.1, -0.1, 0.3)}, 'score').alt


def test_plots_have_the_page_s_colours_and_letters():
    svg = bars(Bars('score', {'sift': 0.5, 'a_very_long_name_of_weights.safetensors': 0.7})).svg
    assert {'var(--series-0)', 'var(--series-1)', 'var(--ink)'} <= set(re.findall(r'var\(--[\w-]+\)', svg))
    assert not re.search(r'#fe00\w\w', svg)
    assert '>sift</text>' in svg
    assert '>…ights.safetensors</text>' in svg


def test_longer_bars_are_longer_and_a_missing_one_is_none():
    shown = Bars('score', {'half': 0.5, 'whole': 1.0, 'missing': float('nan')})
    widths = {}
    for colour, path in re.findall(r'd="([^"]+)"[^>]*style="fill: var\(--series-(\d)\)', bars(shown).svg):
        xs = [float(x) for x in re.findall(r'[ML] ([\d.]+)', colour)]
        widths[path] = max(xs) - min(xs)
    assert widths['1'] == pytest.approx(2 * widths['0'], rel=1e-4)
    assert widths['2'] == 0


def test_no_name_is_left_out_of_a_legend():
    svg = curves({'_mine': ([0, 1], [0, 1]), 'sift': ([0, 1], [1, 0])}, 'curve', Axis('x'), Axis('y')).svg
    assert [text.strip() for text in re.findall(r'>([^<>]*)</text>', svg) if not re.match(r'[\d.−]', text)] == [
        'x', 'y', 'curve', '_mine', 'sift',
    ]  # fmt: skip


def test_figures_stand_clear_of_their_spreads():
    def place(spreads: dict) -> tuple[float, float]:
        """Where the figure begins, and the farthest any line reaches."""
        svg = bars(Bars('score', {'sift': 0.5}, spreads=spreads)).svg
        lines = re.findall(r'd="([^"]+)"[^>]*style="fill: none; stroke: var\(--ink\)', svg)
        ends = [float(x) for path in lines for x in re.findall(r'[ML] ([\d.]+)', path)]
        figure = re.search(r'translate\(([\d.]+) [\d.]+\)[^>]*>0.500</text>|x="([\d.]+)"[^>]*>0.500</text>', svg)
        return float(figure[1] or figure[2]), max(ends, default=0)

    figure, end = place({'sift': (0.2, 0.9)})
    assert figure > end > 0
    assert place({})[1] == 0


@pytest.mark.parametrize('plot', [
    lambda: bars(Bars('nothing', {})),
    lambda: curves({}, 'nothing', Axis('x'), Axis('y')),
    lambda: dots({'sift': {}}, 'nothing'),
    lambda: dots({'sift': {'wall': float('nan')}}, 'nothing'),
    lambda: intervals({}, 'nothing'),
    lambda: curves({'a': ([], [])}, 'nothing', Axis('x'), Axis('y')),
])  # fmt: skip
def test_plots_of_nothing_are_drawn_all_the_same(plot):
    assert plot().svg.startswith('<svg')


def test_drawings_leave_matplotlib_as_it_was():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    bars(Bars('score', {'sift': 0.5}))
    assert dict(mpl.rcParams) == before


def test_matches_are_drawn_where_they_are():
    first, second = np.zeros((10, 20), np.uint8), np.zeros((8, 30), np.uint8)
    points, others = np.array([[0, 0], [1.25, 2]]), np.array([[3, 4], [29, 7]])
    picture = PairPicture('sift', 'wall 1-2', first, second, points, others, np.array([True, False]))
    assert picture.size == (20 + 8 + 30, 10)
    assert picture.paths(right=True) == ('M0.5 0.5L31.5 4.5', 'M0.5 0.5h0M31.5 4.5h0')
    assert picture.paths(right=False)[0] == 'M1.8 2.5L57.5 7.5'
    assert picture.caption == '1 of 2 matches right (50%)'


def test_drawn_pictures_are_the_ones_given():
    picture = draw('sift', 'wall 1-2')
    for (_, width, height, uri), given_picture in zip(
        picture.photographs(), (picture.first, picture.second), strict=True
    ):
        encoded = np.frombuffer(base64.b64decode(uri.removeprefix('data:image/jpeg;base64,')), np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        assert decoded.shape == (height, width) == given_picture.shape
        assert np.abs(decoded.astype(int) - given_picture).mean() < 3


def test_a_pair_without_matches_is_drawn():
    nothing, grey = np.zeros((0, 2)), np.zeros((4, 4), np.uint8)
    picture = PairPicture('orb', 'wall 1-2', grey, grey, nothing, nothing, np.zeros(0, bool))
    assert picture.caption == '0 of 0 matches right'
    assert '0 of 0 matches right' in page_with(picture).html()


@pytest.mark.parametrize(('changed', 'message'), [
    ({'right': np.zeros(3, bool)}, 'rows'),
    ({'first': np.zeros((4, 4, 3), np.uint8)}, 'not .H, W. uint8'),
    ({'second': np.zeros((4, 4))}, 'not .H, W. uint8'),
])  # fmt: skip
def test_pairs_that_can_not_be_drawn_are_refused(changed, message):
    points, grey = np.zeros((2, 2)), np.zeros((4, 4), np.uint8)
    parts = {'first': grey, 'second': grey, 'points_first': points, 'points_second': points, 'right': np.ones(2, bool)}
    with pytest.raises(ValueError, match=message):
        PairPicture('orb', 'wall 1-2', **parts | changed)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_stays_one_cell(name, value):
    lines = Table(['name', 'value'], [[name, value]], words=2).markdown().split('\n')
    assert len(lines) == 3
    assert len(re.findall(r'(?<!\\)(?:\\\\)*\|', lines[2])) == 3
