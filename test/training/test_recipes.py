"""Every recipe through the same commands: trained without labels, resumed, refused, its shipped configurations."""

from pathlib import Path

import pytest
import torch
import yaml
from pair_losses import batch_of
from torch import nn

from superpoint_ros.networks import SuperPoint, load_network, save_network
from superpoint_ros.networks.weights import parameter_count
from superpoint_training import label, train
from superpoint_training.config import load_config
from superpoint_training.recipe_run import load_start
from superpoint_training.recipes import RECIPES
from superpoint_training.recipes.superpoint import SuperPointTraining, superpoint_losses

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'
WITHOUT_LABELS = [name for name, recipe in RECIPES.items() if not recipe.needs_labels]
NETWORK = {'widths': [4, 4, 4, 4, 8, 8, 8, 8], 'head_width': 8, 'descriptor_dim': 8, 'detector_head': 'skip'}
PAIRS = {'size': 64, 'points': 40, 'photometric': {'probability': 0.0}}


def words(recipe, path, pictures, **loop):
    loop = {'steps': 30, 'batch_size': 4, 'micro_batch': 2, 'workers': 0, 'warm_up': 2, 'learning_rate': 0.01} | loop
    own = {'dropout': 0.0, 'outlier_width': 4} if recipe == 'kp2d' else {}
    settings = {'network': NETWORK | own, 'pairs': PAIRS, 'descriptor_loss': 'info_nce', 'loop': loop}
    config = path.with_suffix('.yaml')
    config.write_text(yaml.safe_dump(settings))
    out = ['--out', str(path.with_suffix('.safetensors')), '--device', 'cpu']
    return [recipe, '--config', str(config), '--frames', str(pictures), *out]


def losses_of(path):
    return dict(part.split() for part in load_network(path).metadata['losses'].split(', '))


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_a_network_learns_from_pictures_without_labels(recipe, pictures, tmp_path):
    assert train.main(words(recipe, tmp_path / 'early', pictures, steps=1)) == 0
    assert train.main(words(recipe, tmp_path / 'late', pictures, steps=60)) == 0
    early, late = (losses_of(tmp_path / f'{name}.safetensors') for name in ('early', 'late'))
    assert float(late['descriptor']) < float(early['descriptor'])
    assert float(late['total']) < float(early['total'])
    metadata = load_network(tmp_path / 'late.safetensors').metadata
    assert metadata['architecture'] == metadata['recipe'] == recipe
    assert metadata['data'].startswith('4 frames without labels, digest ')


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not(recipe, pictures, tmp_path):
    loop = {'steps': 6, 'checkpoint_seconds': 0.0}
    assert train.main(words(recipe, tmp_path / 'whole', pictures, **loop)) == 0
    again = [*words(recipe, tmp_path / 'parts', pictures, **loop), '--minutes', '0.0001']
    while train.main(again) == 3:
        pass
    whole, parts = (load_network(tmp_path / f'{name}.safetensors').state_dict() for name in ('whole', 'parts'))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_weights_of_another_network_to_begin_with_are_refused_by_name(recipe, pictures, tmp_path, capsys):
    start = ['--from', 'superpoint_small']
    assert train.main([*words(recipe, tmp_path / 'w', pictures), *start]) == 1
    assert f"'superpoint_small' are weights of superpoint, and this recipe trains {recipe}" in capsys.readouterr().err
    assert not (tmp_path / 'w.safetensors').exists()


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_a_training_begins_with_weights_of_its_own_network(recipe, pictures, tmp_path, capsys):
    assert train.main(words(recipe, tmp_path / 'first', pictures, steps=1)) == 0
    start = ['--from', str(tmp_path / 'first.safetensors')]
    assert train.main([*words(recipe, tmp_path / 'second', pictures, steps=1), *start]) == 0
    printed = capsys.readouterr().out
    count = len(load_network(tmp_path / 'second.safetensors', fold=False).state_dict())
    assert f'{count} of {count} tensors start from' in printed


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_labels_are_neither_needed_nor_taken(recipe, pictures, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main([*words(recipe, tmp_path / 'w', pictures), '--labels', 'labels.npz'])
    assert 'leave out --labels' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([word for word in words('superpoint', tmp_path / 'w', pictures) if word != '--labels'])
    assert 'superpoint needs --frames and --labels' in capsys.readouterr().err


def test_a_keypoint_a_cell_is_no_score_map_to_be_averaged(pictures, tmp_path, capsys):
    weights = tmp_path / 'kp2d.safetensors'
    assert train.main(words('kp2d', weights, pictures, steps=1)) == 0
    config = tmp_path / 'labels.yaml'
    config.write_text('views: 2')
    arguments = ['--config', str(config), '--weights', str(weights), '--frames', str(pictures)]
    assert label.main([*arguments, '--out', str(tmp_path / 'labels.npz'), '--device', 'cpu']) == 1
    assert 'score map' in capsys.readouterr().err


@pytest.mark.parametrize('recipe', WITHOUT_LABELS)
def test_shipped_configurations_load_and_are_small_enough_for_a_cpu(recipe):
    config = load_config(RECIPES[recipe].config, CONFIGS / f'{recipe}.yaml')
    assert parameter_count(RECIPES[recipe].build_network(config)) < 350_000
    fine_tune = load_config(RECIPES[recipe].config, CONFIGS / f'fine_tune_{recipe}.yaml')
    assert set(fine_tune.mix) == {'robot', 'general'}


def test_the_ablation_turns_on_one_thing_after_the_other():
    recipe = RECIPES['kp2d']
    made = {}
    for version in ('v0', 'v1', 'v2', 'v3', 'v4'):
        config = load_config(recipe.config, CONFIGS / 'kp2d_ablation' / f'{version}.yaml')
        network = recipe.build_network(config)
        has_outliers = network.outliers is not None
        assert has_outliers == bool(config.outlier_weight)
        made[version] = (
            config.network.cross_ratio > 1, network.descriptor_stride == 4, config.descriptor_weight > 0, has_outliers
        )  # fmt: skip
    assert made == {
        'v0': (False, False, True, False),
        'v1': (True, False, True, False),
        'v2': (True, True, True, False),
        'v3': (True, True, False, True),
        'v4': (True, True, True, True),
    }


def test_the_papers_networks_are_the_defaults():
    """SuperPoint has the 1,300,865 parameters of the one its authors gave away, and BatchNorm in place of 1,280 biases;
    GoodPoint lacks its channel of no keypoint."""
    defaults = {name: RECIPES[name].build_network(RECIPES[name].config()) for name in RECIPES}
    assert {name: parameter_count(network) for name, network in defaults.items()} == {
        'superpoint': 1_300_865 + 1_280,
        'goodpoint': 1_300_865 + 1_280 - 257,
        'unsuperpoint': 3_010_211,
        'kp2d': 3_586_084,
    }
    assert defaults['unsuperpoint'].config.widths == (32, 32, 64, 64, 128, 128, 256, 256)
    assert defaults['kp2d'].config.cross_ratio == 2
    assert all(network.config.detector_head == 'plain' for network in defaults.values())


def test_weights_of_a_start_that_is_no_recipes_are_of_the_architecture_they_name(tmp_path):
    save_network(SuperPoint(RECIPES['superpoint'].config().network), tmp_path / 'w.safetensors', {})
    assert load_start(str(tmp_path / 'w.safetensors'), RECIPES['superpoint']).architecture == 'superpoint'


class KnowsSizes(nn.Module):
    """Describes the first view and whatever is a level smaller by one vector, the second view by another."""

    def forward(self, pictures):
        rows, columns = pictures.shape[-2] // 8, pictures.shape[-1] // 8
        descriptors = torch.zeros(len(pictures), 2, rows, columns)
        descriptors[:1, 0] = descriptors[1:, 1] = 1
        return torch.zeros(len(pictures), 65, rows, columns), descriptors


@pytest.mark.parametrize(('magnified', 'is_like'), [(1.0, False), (1.15, False), (1.25, True), (1.4, True)])
def test_level_negatives_ask_for_the_level_of_like_size(magnified, is_like):
    batch = batch_of(*torch.zeros(2, 1, 1, 160, 160), torch.diag(torch.tensor([magnified, magnified, 1])))
    cells = torch.full((1, 20, 20), 64)
    loss = superpoint_losses(
        KnowsSizes(), batch | {'cells_a': cells, 'cells_b': cells}, SuperPointTraining(level_negatives=True)
    )['descriptor'].item()  # fmt: skip
    assert (loss < 3) == is_like  # the wrong one costs 1 / temperature, 14
