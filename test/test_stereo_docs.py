"""The tables of docs/stereo.md against the code that they describe."""

import re
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs the ROS messages')

from superpoint_ros.clouds import STEREO_MATCH
from superpoint_ros.nodes.parameters import NEXT_IMAGE
from superpoint_ros.nodes.settings import PARAMETERS, RIG_PARAMETERS, STEREO_PARAMETERS

DOCS = (Path(__file__).parents[1] / 'docs' / 'stereo.md').read_text()


def own(parameters) -> dict:
    """What a node has beside the parameters of the front-end for one camera, or otherwise."""
    return {parameter.name: parameter for parameter in parameters if parameter not in PARAMETERS}


def test_the_parameters_are_described_as_they_are():
    rows = re.findall(r'^\| `([\w.]+)`( \*)? \| (?:`(.*?)`)? *\| (.+) \|$', DOCS, re.MULTILINE)
    described = {name: (live, default, text) for name, live, default, text in rows if '.' in text}
    expected = own(STEREO_PARAMETERS) | own(RIG_PARAMETERS)
    assert set(described) == set(expected)
    for name, parameter in expected.items():
        live, default, text = described[name]
        assert bool(live) == (parameter.takes_effect == NEXT_IMAGE)
        assert default == str(parameter.default).replace("'", '')
        assert text.replace('an empty one is none', "'' is none") == parameter.description


def test_the_fields_of_stereo_matches_are_listed_in_their_order():
    layout = DOCS.partition('44 bytes each')[2].partition('read_stereo_matches')[0]
    rows = re.findall(r'^\| ((?:`\w+` ?)+)\| (\w+) \|', layout, re.MULTILINE)
    fields = [(name, kind) for names, kind in rows for name in re.findall(r'\w+', names)]
    kinds = {'f': 'float32', 'u': 'uint32'}
    assert fields == [(name, kinds[STEREO_MATCH[name].kind]) for name in STEREO_MATCH.names]
    assert STEREO_MATCH.itemsize == 44
