"""Configuration files: read, overridden, refused."""

from pathlib import Path

import pytest

from superpoint_training.config import ConfigError, load_config
from superpoint_training.labels import LabelConfig
from superpoint_training.recipes import RECIPES
from superpoint_training.recipes.superpoint import MagicPointTraining, SuperPointTraining

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*.yaml')), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configurations_load(path):
    words = [*path.stem.split('_'), *path.parent.name.split('_')]
    kinds = {'labels': LabelConfig, 'magicpoint': MagicPointTraining}
    kinds |= {name: RECIPES[name].config for name in ('goodpoint', 'kp2d', 'unsuperpoint')}
    load_config(next((kind for word, kind in kinds.items() if word in words), SuperPointTraining), path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('lop: {steps: 3}', 'unknown key lop'),
        ('loop: {step: 3}', 'unknown key step'),
        ('loop: {steps: many}', 'expected int'),
        ('loop: {steps: 0}', 'at least 1'),
        ('loop: 3', 'expected a mapping'),
        ('network: {widths: [1, 2]}', 'eight'),
        ('shapes: {photometric: {contrast: 1}}', 'expected a list'),
        ('loop: [', 'cannot read'),
    ],
)
def test_wrong_configurations_are_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / 'c.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(MagicPointTraining, path)


def test_overrides_reach_nested_keys(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('seed: 4')
    config = load_config(MagicPointTraining, path, ['loop.steps=7', 'network.detector_head=skip'])
    assert (config.seed, config.loop.steps, config.network.detector_head) == (4, 7, 'skip')
    for override, message in {
        'loop.stops=7': 'unknown key stops',
        'loop.steps=[1': r"the value of 'loop.steps=\[1' is not YAML",
        'seed.x=1': 'seed: expected int',
        'seed': 'not of the form key=value',
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_config(MagicPointTraining, path, [override])
    path.write_text('[1, 2]')
    with pytest.raises(ConfigError, match='expected a mapping'):
        load_config(MagicPointTraining, path, ['seed=3'])
