"""Configuration files: read, overridden, refused."""

from pathlib import Path

import pytest

from superpoint_training.config import ConfigError, load_config
from superpoint_training.labels import LabelConfig
from superpoint_training.recipes.superpoint import MagicPointTraining, SuperPointTraining

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        (MagicPointTraining, 'magicpoint'),
        (LabelConfig, 'labels'),
        (SuperPointTraining, 'teacher'),
        (SuperPointTraining, 'superpoint'),
        (SuperPointTraining, 'superpoint_small'),
        (SuperPointTraining, 'fine_tune'),
        (MagicPointTraining, 'comparison/magicpoint'),
        (SuperPointTraining, 'comparison/superpoint'),
    ],
)
def test_shipped_configurations_load(kind, name):
    load_config(kind, CONFIGS / f'{name}.yaml')


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
    with pytest.raises(ConfigError, match='unknown key stops'):
        load_config(MagicPointTraining, path, ['loop.stops=7'])
