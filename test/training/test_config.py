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
        ('steps: 3', r'unknown key steps; known are loop, network, seed, shapes, loop\.steps$'),
        ('loop: {steps: many}', 'expected int'),
        ('loop: {steps: 0}', 'at least 1'),
        ('loop: 3', 'expected a mapping'),
        ('network: {widths: [1, 2]}', 'eight'),
        ('shapes: {photometric: {contrast: 1}}', 'expected a list'),
        ('shapes: {photometric: {contrast: []}}', 'expected 2 values'),
        ('shapes: {photometric: {contrast: [1.5, 0.5]}}', 'a smallest and a largest value'),
        ('shapes: {photometric: {jpeg: 0}}', 'jpeg from 1 to 100'),
        ('shapes: {photometric: {noise: -1}}', 'must not be negative'),
        ('loop: {warm_up: -5}', 'must not be negative'),
        ('loop: {gradient_norm: 0}', 'must be above 0'),
        ('loop: {learning_rate: fast}', 'expected float'),
        ('loop: {learning_rate: nan}', 'learning_rate: expected a finite number, got nan'),
        ('loop: {learning_rate: .inf}', 'learning_rate: expected a finite number, got inf'),
        ('shapes: {photometric: {contrast: [.nan, 1]}}', 'contrast: expected a finite number'),
        ('loop: [', 'cannot read'),
    ],
)
def test_wrong_configurations_are_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / 'c.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(MagicPointTraining, path)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('pairs.size=100', 'multiple of 8'),
        ('pairs.points=0', 'points must be at least 1'),
        ('pairs.label_sigma=-1', 'must not be negative'),
        ('pairs.random_share=2', 'from 0 to 1'),
        ('pairs.first.scale=[0.7]', 'expected 2 values'),
        ('pairs.first.scale=[1.4, 0.7]', 'smallest and a largest zoom'),
        ('pairs.second.rotation=-1', 'must not be negative'),
        ('temperature=0', 'must be above 0'),
    ],
)
def test_pairs_that_can_not_be_cut_are_refused_before_any_work(tmp_path, override, message):
    path = tmp_path / 'c.yaml'
    path.write_text('')
    with pytest.raises(ConfigError, match=message):
        load_config(SuperPointTraining, path, [override])


def test_a_configuration_that_is_not_utf_8_is_refused_by_name(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_bytes('# für drinnen'.encode('latin-1'))
    with pytest.raises(ConfigError, match=r"cannot read the configuration '.*c\.yaml'"):
        load_config(MagicPointTraining, path)


def test_numbers_are_read_in_every_way_that_python_reads_them(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('loop: {learning_rate: 1e-3, warm_up: 3}')
    loop = load_config(SuperPointTraining, path, ['loop.weight_decay=1e-5']).loop
    assert (loop.learning_rate, loop.weight_decay, loop.warm_up) == (0.001, 0.00001, 3)


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
