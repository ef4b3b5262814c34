"""The README's tables and commands against the code that they describe."""

import re
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from superpoint_ros.demo.summary import Run, summarise
from superpoint_ros.nodes import replay, settings
from superpoint_ros.nodes.parameters import NEXT_IMAGE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    match = re.search(rf'^#+ {heading}\n(.*?)(?=^#+ |\Z)', README, re.MULTILINE | re.DOTALL)
    assert match, f'README.md has no section {heading}'
    return match.group(1)


def shown(value: object) -> str:
    """A default as the tables have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(('heading', 'module'), [('Parameters', settings), ('Replay', replay)])
def test_parameters_are_all_there_with_their_defaults_and_descriptions(heading: str, module) -> None:
    rows = re.findall(r'^\| `([\w.]+)`(?: \*)? \| (?:`(.*?)`)? *\| (.+) \|$', section(heading), re.MULTILINE)
    assert [(name, default, text.replace('`', '')) for name, default, text in rows] == [
        (each.name, shown(each.default), each.description.replace('`', '')) for each in module.PARAMETERS
    ]


def test_live_parameters_are_marked() -> None:
    marked = set(re.findall(r'^\| `([\w.]+)` \*', section('Parameters'), re.MULTILINE))
    assert marked == {parameter.name for parameter in settings.PARAMETERS if parameter.takes_effect == NEXT_IMAGE}


def test_every_figure_of_the_demo_is_explained() -> None:
    for figure in summarise(Run()):
        assert f'`{figure}`' in section('The demo')


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'^make (\w+)', README, re.MULTILINE)) <= targets
    assert {'demo', 'test'} <= targets


def test_files_that_the_readme_names_exist() -> None:
    prose = re.sub(r'^```.*?^```', '', README, flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r'\]\((?!http)([^)#]+)\)', prose):
        assert (ROOT / path).exists(), path
