"""train_from_bag with the recipes that need no labels: the same command, the same proof, the same report."""

import json

import pytest
import torch
from drives import drive, write_bag
from test_train_from_bag import TINY, run

from superpoint_ros.networks import load_network, save_network
from superpoint_training.recipes import RECIPES
from superpoint_training.retraining.proof import AFTER, BEFORE

RECIPES_WITHOUT_LABELS = [name for name, recipe in RECIPES.items() if not recipe.needs_labels]
SHORT = [word.replace('loop.steps=12', 'loop.steps=4').replace('validate_every=6', 'validate_every=4') for word in TINY]


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', {'/camera/image_raw': drive(40)})


def tiny_weights(recipe, path):
    torch.manual_seed(0)
    kind = type(RECIPES[recipe].config().network)
    config = kind(widths=(4, 4, 4, 4, 8, 8, 8, 8), head_width=8, descriptor_dim=8, detector_head='skip')
    save_network(type(RECIPES[recipe].build_network(RECIPES[recipe].config()))(config), path, {})
    return path


@pytest.mark.parametrize('recipe', RECIPES_WITHOUT_LABELS)
def test_weights_are_retrained_and_proved_without_labels(recipe, bag, tmp_path):
    start, out = tiny_weights(recipe, tmp_path / 'start.safetensors'), tmp_path / 'mine.safetensors'
    arguments = ['--bag', bag, '--topic', '/camera/image_raw', '--out', out, *SHORT, '--force']
    done = run(*arguments, '--recipe', recipe, '--from', start)
    assert done.returncode == 0, done.stderr
    trained, old = load_network(out), load_network(start)
    assert trained.metadata['architecture'] == trained.metadata['recipe'] == recipe
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), old.parameters(), strict=True))
    work = out.with_suffix('.run')
    assert not list(work.glob('labels*'))
    results = json.loads((work / 'results.json').read_text())
    assert results['rounds'][0]['labels'] is None
    assert {BEFORE, AFTER} <= set(results['figures']['held_out'])
    assert 'without labels' in out.with_suffix('.md').read_text()
    assert 'without labels' in (work / 'report.html').read_text()


def test_a_plan_says_that_there_are_no_labels(bag, tmp_path):
    start = tiny_weights('kp2d', tmp_path / 'start.safetensors')
    done = run('--bag', bag, '--out', tmp_path / 'w.safetensors', *SHORT, '--recipe', 'kp2d', '--from', start, '--plan')
    assert done.returncode == 0, done.stderr
    assert 'kp2d trains without' in done.stdout


def test_what_does_not_go_together_is_said_in_a_line(bag, tmp_path):
    arguments = ['--bag', bag, '--out', tmp_path / 'w.safetensors', *SHORT, '--recipe', 'kp2d']
    done = run(*arguments)  # SHORT begins with weights of SuperPoint
    assert done.returncode == 1
    assert 'weights of superpoint, and this recipe trains kp2d' in done.stderr.splitlines()[-1]
