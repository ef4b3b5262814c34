"""The pages in a real browser: at a desk's and a phone's width, by day and by night, offline, by keyboard."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from report_results import draw, make_results

from superpoint_training.report import compare, write_report

sync_api = pytest.importorskip('playwright.sync_api', reason='playwright, which drives the browser, is not installed')
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
DESK, PHONE = 1280, 390

TEXTS = """() => {
    // [text, contrast ratio, font size in CSS pixels, bold] of every text that is shown.
    const channels = colour => {
        const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r, g, b].map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const background = element => {
        for (; element; element = element.parentElement) {
            const colour = channels(getComputedStyle(element).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, box = element.getBoundingClientRect();
        if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || box.width <= 1) continue;
        const style = getComputedStyle(element), drawn = element instanceof SVGElement;
        const [a, b] = [luminance(channels(drawn ? style.fill : style.color)), luminance(background(element))];
        const matrix = drawn ? element.getScreenCTM() : {a: 1, b: 0}, scale = Math.hypot(matrix.a, matrix.b);
        found.push([
            walker.currentNode.textContent.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
            parseFloat(style.fontSize) * scale, style.fontWeight >= 600,
        ]);
    }
    return found;
}"""

BROKEN_PICTURES = """async () => {
    const pictures = [...document.querySelectorAll('img, svg image')];
    const loads = uri => new Promise(resolve => {
        const picture = new Image();
        picture.onload = () => resolve(picture.naturalWidth > 0);
        picture.onerror = () => resolve(false);
        picture.src = uri;
    });
    const loaded = await Promise.all(pictures.map(each => loads(each.getAttribute('href') || each.src)));
    return [pictures.length, loaded.filter(each => !each).length];
}"""


@pytest.fixture(scope='module')
def pages(tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp('report')
    long_name = 'a_directory/with_a_very_long_name_without_a_space/superpoint_retrained_2026.safetensors'
    results = make_results(('superpoint', 'sift', 'orb', long_name))
    write_report(results, out, draw)
    compare(results, make_results(('superpoint', 'sift', 'orb', long_name), seed=1)).write(out)
    return {'evaluation': out / 'index.html', 'comparison': out / 'comparison.html'}


@pytest.fixture(scope='module')
def browser() -> Iterator[object]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f'none of {", ".join(BROWSERS)} is installed')
    with sync_api.sync_playwright() as playwright:
        arguments = ['--no-sandbox'] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


class Opened:
    """A page in the browser, and what it complained of or asked for."""

    def __init__(self, browser, path: Path, width: int, scheme: str = 'light') -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
        self.page.on('console', lambda message: self.complaints.append(message.text))
        self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


@pytest.fixture
def opened(browser, pages) -> Iterator:
    kept = []

    def open_page(name: str = 'evaluation', width: int = DESK, scheme: str = 'light') -> Opened:
        kept.append(Opened(browser, pages[name], width, scheme))
        return kept[-1]

    yield open_page
    for each in kept:
        each.page.close()


both_pages = pytest.mark.parametrize('name', ['evaluation', 'comparison'])
both_widths = pytest.mark.parametrize('width', [DESK, PHONE])


@both_pages
@both_widths
def test_it_opens_without_a_complaint_and_fetches_only_itself(opened, pages, name, width):
    found = opened(name, width)
    assert found.page.locator('h1').is_visible()
    assert found.page.locator('h2').count() >= 2
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith('data:')] == [pages[name].as_uri()]


@both_pages
@both_widths
def test_nothing_is_wider_than_the_window(opened, name, width):
    page = opened(name, width).page
    assert page.evaluate('document.documentElement.scrollWidth') == width
    beyond = page.evaluate(
        """width => [...document.querySelectorAll('main > section, main li, figure, .scroll, p, h1, h2')]
        .filter(each => each.getBoundingClientRect().right > width + 0.5).map(each => each.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []


def test_wide_tables_scroll_in_their_own_box_and_keep_their_names_in_sight(opened):
    page = opened(width=PHONE).page
    box = page.locator('.scroll').first
    before = box.locator('tbody th').first.bounding_box()
    assert box.evaluate('each => each.scrollWidth > each.clientWidth')
    box.evaluate('each => each.scrollLeft = 200')
    assert box.evaluate('each => each.scrollLeft') == 200
    assert box.locator('tbody th').first.bounding_box() == before


def test_pictures_and_drawings_are_there(opened):
    page = opened().page
    assert page.evaluate(BROKEN_PICTURES) == [2 * 4 * 4, 0]
    sizes = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(each => each.getBoundingClientRect().height)"
    )
    assert len(sizes) > 20
    assert min(sizes) > 80


def test_drawings_and_pictures_have_a_name_for_those_who_do_not_see_them(opened):
    page = opened().page
    assert page.evaluate("[...document.querySelectorAll('[role=img]')].every(each => each.ariaLabel.length > 20)")
    assert page.evaluate("[...document.querySelectorAll('figure svg')].every(each => each.closest('[role=img]'))")
    assert page.evaluate("[...document.querySelectorAll('th')].every(each => each.scope)")
    scrolling = "[...document.querySelectorAll('.scroll')].every(each => each.tabIndex === 0 && each.ariaLabel)"
    assert page.evaluate(scrolling)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@both_pages
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_texts_stand_out_from_their_ground(opened, name, scheme):
    texts = opened(name, scheme=scheme).page.evaluate(TEXTS)
    assert len(texts) > 100
    faint = [(text, round(ratio, 2)) for text, ratio, _, _ in texts if ratio < 4.5]
    assert faint == []


def test_night_is_dark_and_day_is_light(opened):
    def ground(scheme: str) -> str:
        return opened(scheme=scheme).page.evaluate('getComputedStyle(document.body).backgroundColor')

    assert ground('light') == 'rgb(245, 247, 249)'
    assert ground('dark') == 'rgb(14, 19, 25)'


@both_pages
def test_letters_can_be_read_on_a_phone(opened, name):
    texts = opened(name, PHONE).page.evaluate(TEXTS)
    small = [(text, round(size, 1)) for text, _, size, _ in texts if size < 9]
    assert small == []


def test_right_and_wrong_matches_differ_in_more_than_colour(opened):
    dashes = opened().page.evaluate("""['right', 'wrong'].map(
        each => getComputedStyle(document.querySelector(`.lines.${each}`)).strokeDasharray)""")
    assert dashes == ['none', '4px, 3px']


def test_the_keyboard_reaches_everything(opened):
    page = opened().page
    page.keyboard.press('Tab')
    skip = page.locator('.skip')
    assert skip.evaluate('each => each === document.activeElement')
    assert skip.bounding_box()['x'] >= 0
    page.keyboard.press('Enter')
    assert page.evaluate('location.hash') == '#main'
    reached = set()
    for _ in range(60):
        page.keyboard.press('Tab')
        reached.add(page.evaluate('document.activeElement.tagName + "." + document.activeElement.className'))
    assert {'DIV.scroll', 'SUMMARY.'} <= reached
    page.locator('summary').first.focus()
    page.keyboard.press('Enter')
    assert not page.locator('details').first.evaluate('each => each.open')
