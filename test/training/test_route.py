"""The route to the shipped weights, and their publication."""

import json
from itertools import pairwise

import pytest
import torch
from tiny import TINY, write_config

from superpoint_ros.networks import SuperPoint, load_network, save_network
from superpoint_training import publish, route, train


def test_route_runs_its_stages_in_order_and_goes_on(tmp_path, pictures, capsys):
    """The whole route on tiny configurations, in pieces, from nothing to both networks."""
    configs = tmp_path / 'configs'
    configs.mkdir()
    loop = {'steps': 3, 'batch_size': 2, 'workers': 0}
    write_config(configs / 'magicpoint.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    for name in ('labels', 'graded_labels'):
        (configs / f'{name}.yaml').write_text('views: 2\nthreshold: 0.0001\nmin_views: 1')
    trainings = [network + training for network, every in route.TRAININGS.items() for training in every]
    for name in ('teacher', 'labeller', *trainings):
        write_config(configs / f'{name}.yaml', loop=loop, pairs={'size': 64})
    for name in (network + graded for network in route.TRAININGS for graded in ('', '_graded')):
        write_config(configs / f'{name}.yaml', loop=loop, pairs={'size': 64, 'label_sigma': 0.75})
    words = ['--frames', str(pictures), '--runs', str(tmp_path / 'runs'), '--configs', str(configs), '--device', 'cpu']
    assert route.main(['--frames', str(tmp_path / 'nowhere'), *words[2:]]) == 1
    assert not list((tmp_path / 'runs').iterdir())
    assert 'no pictures' in capsys.readouterr().err
    assert route.main([*words[:4], '--configs', 'nowhere']) == 1
    assert capsys.readouterr().err.startswith("error: no 'magicpoint.yaml' in 'nowhere': --configs is the folder")
    assert not list((tmp_path / 'runs').iterdir())
    assert route.main([*words, '--until', 'labels_1.npz']) == 0
    assert not (tmp_path / 'runs' / 'teacher.safetensors').exists()
    assert route.main([*words, '--minutes', '0.0']) == 3
    capsys.readouterr()
    assert route.main(words) == 0
    printed = capsys.readouterr().out
    for network, every in route.TRAININGS.items():
        for before, training in pairwise((*every, '_graded', '')):
            stage = printed.partition(f'-- {network}{training}.safetensors')[2].partition('\n-- ')[0]
            assert f'start from {tmp_path / "runs" / network}{before}.safetensors' in stage
    labels = tmp_path / 'runs' / 'labels_1.npz'
    content = labels.read_bytes()
    labels.write_bytes(content + b'made anew')
    assert route.main(words) == 1
    assert "teacher.safetensors.done' is of another teacher.yaml, or of what earlier" in capsys.readouterr().err
    labels.write_bytes(content)
    assert route.main(words) == 0
    write_config(configs / 'teacher.yaml', loop=loop, pairs={'size': 72})
    assert route.main(words) == 1
    assert 'teacher' in capsys.readouterr().err
    for name in route.TRAININGS:
        assert load_network(tmp_path / 'runs' / f'{name}.safetensors').metadata['recipe'] == 'superpoint'


def test_publish_writes_weights_and_a_card_with_their_figures(tmp_path, capsys):
    loop = {'steps': 2, 'batch_size': 2, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, shapes={'height': 64, 'width': 64})
    weights, package = tmp_path / 'mine.safetensors', tmp_path / 'new' / 'package'
    assert train.main(['magicpoint', '--config', config, '--out', str(weights), '--device', 'cpu']) == 0
    figures = {str(weights): {'mAP': 0.625, 'AP_all': 0.5}, 'fast': {'mAP': 0.25, 'AP_all': 0.125}}
    figures['mine'] = {'mAP': 0.375, 'AP_all': 0.375}  # those that the package ships under this name so far
    (tmp_path / 'results.json').write_text(json.dumps({'protocol': 'synthetic-shapes', 'detectors': figures}))
    words = [str(weights), '--results', str(tmp_path / 'results.json'), '--data', 'shapes; no terms']
    assert publish.main([*words, '--folder', str(package)]) == 0
    card = (package / 'mine.md').read_text()
    (row,) = [line for line in card.splitlines() if line.startswith('| mine ')]
    assert '0.625' in row
    assert '0.500' in row
    (row,) = [line for line in card.splitlines() if line.startswith('| mine, the earlier one ')]
    assert '0.375' in row
    assert 'shapes; no terms' in card
    assert '2 steps of 2' in card
    assert load_network(package / 'mine.safetensors').metadata['data_terms'] == 'shapes; no terms'
    (tmp_path / 'results.json').write_text('{"torn')
    assert publish.main([*words, '--folder', str(tmp_path / 'empty')]) == 1
    assert "results.json' is no results.json" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'empty').exists()
    assert load_network(weights).metadata['hardware'] in card
    assert f'PyTorch {torch.__version__.partition("+")[0]}' in load_network(weights).metadata['hardware']
    assert publish.main(['nowhere.safetensors', '--data', 'x', '--folder', str(package)]) == 1


@pytest.mark.parametrize(
    ('metadata', 'missing'),
    [
        ({}, 'recipe, data, schedule, hardware, seed, losses'),
        ({'recipe': 'superpoint', 'seed': '0'}, 'data, schedule, hardware, losses'),
    ],
)
def test_weights_that_do_not_say_how_they_were_trained_are_not_published(tmp_path, metadata, missing, capsys):
    package = tmp_path / 'package'
    package.mkdir()
    (package / 'mine.safetensors').write_bytes(b'the weights before')
    (package / 'mine.md').write_text('their card')
    save_network(SuperPoint(TINY), tmp_path / 'mine.safetensors', metadata)
    assert publish.main([str(tmp_path / 'mine.safetensors'), '--data', 'x', '--folder', str(package)]) == 1
    assert f"mine.safetensors' does not say its {missing}, which the card is to tell" in capsys.readouterr().err
    assert (package / 'mine.safetensors').read_bytes() == b'the weights before'
    assert (package / 'mine.md').read_text() == 'their card'
    assert len(list(package.iterdir())) == 2


def test_the_card_of_a_recipe_without_labels_says_how_its_weights_were_made(tmp_path, pictures):
    loop = {'steps': 2, 'batch_size': 2, 'workers': 0}
    config = write_config(tmp_path / 'c.yaml', loop=loop, pairs={'size': 64})
    weights, package = tmp_path / 'unsuperpoint.safetensors', tmp_path / 'package'
    package.mkdir()
    words = ['unsuperpoint', '--config', config, '--frames', str(pictures), '--out', str(weights), '--device', 'cpu']
    assert train.main(words) == 0
    assert publish.main([str(weights), '--data', 'blocks; no terms', '--folder', str(package)]) == 0
    card = (package / 'unsuperpoint.md').read_text()
    assert 'superpoint_training.train unsuperpoint --config config/training/unsuperpoint.yaml' in card
    assert 'Network `unsuperpoint`' in card
    assert '4 frames without labels' in card
