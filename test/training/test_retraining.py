"""Parts of a retraining: what is trained on and what judges, how far to step back, how many steps there is time for."""

import multiprocessing
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from superpoint_ros.photographs import FOLDER
from superpoint_training.distributed import World
from superpoint_training.failures import TrainingError
from superpoint_training.loop import LoopConfig
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.recipes import Recipe
from superpoint_training.retraining import run, schedule
from superpoint_training.retraining.general import general_frames, general_pairs
from superpoint_training.retraining.proof import Verdict
from superpoint_training.retraining.run import split_held_out
from superpoint_training.retraining.schedule import FEWEST_STEPS, fit_steps, seconds_a_step
from superpoint_training.retraining.workspace import Workspace

PROTOCOL = PROTOCOLS['superpoint-240']


def test_no_shipped_picture_both_trains_and_judges():
    frames = general_frames(None, None, 400)
    trained = [PROTOCOL.prepare(frames[index])[0] for index in range(len(frames))]
    judged = [pair.first for pair in general_pairs(None, None, PROTOCOL, 1)]
    assert (len(trained), len(judged)) == (6, 3)
    assert not any(np.array_equal(one, other) for one in trained for other in judged)


def test_all_shipped_pictures_are_used_where_the_user_gives_the_others():
    own = FOLDER
    assert len(general_frames(None, own, 400)) == len(general_pairs(own, None, PROTOCOL, 1)) == 9
    assert len(general_frames(own, None, 400)) == 9
    assert len(general_frames(None, None, 2)) == 2


@pytest.mark.parametrize(
    ('lengths', 'watching'),
    [([9], 3), ([2], 1), ([4, 5], 4), ([2, 2, 2, 3], 2), ([1, 8, 1], 1), ([10, 10, 10, 10], 10), ([30, 2], 30)],
)
def test_a_stretch_of_time_either_watches_the_training_or_judges_it(lengths, watching):
    """Unless there is but one: about a third of all frames watch."""
    blocks = [part.tolist() for part in np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])]
    assert split_held_out(blocks) == (list(range(watching)), list(range(watching, sum(lengths))))


@pytest.mark.parametrize(
    ('steps', 'tried'), [([0, 0], [1.0]), ([6, 0], [1.0, 0.5]), ([0, 6], [1.0, 0.5]), ([0], [1.0])]
)
def test_a_training_steps_back_if_any_of_its_rounds_got_anywhere(steps, tried, monkeypatch):
    monkeypatch.setattr(run, 'load_network', lambda *_, **__: nn.Linear(1, 1))
    monkeypatch.setattr(run, '_save', lambda *_: None)
    for name in ('measure', 'compare', 'draw'):
        monkeypatch.setattr(run.proof, name, lambda *_: {})
    monkeypatch.setattr(run.proof, 'judge', lambda *_: Verdict(False, ['worse']))
    request = SimpleNamespace(labeller='old', start='old', blend=(1.0, 0.5), jobs=1, proof=None)
    work = SimpleNamespace(rejected=None)
    rounds = [{'step': step} for step in steps]
    blends = run._try_blends(request, work, nn.Linear(1, 1), None, None, rounds, World())
    assert [blend.share for blend in blends] == tried


def test_steps_fit_into_the_minutes():
    assert fit_steps(600, 2.0, None) == 600
    assert fit_steps(600, 2.0, 10) == 300
    assert fit_steps(600, 0.1, 10) == 600
    assert fit_steps(600, 100.0, 1) == FEWEST_STEPS
    assert fit_steps(5, 100.0, 1) == 5


class Ones(Dataset):
    def __getitem__(self, index):
        return {'x': torch.ones(1)}


def test_a_step_takes_as_long_as_one_process_takes_for_its_part():
    sizes = []

    def losses(network, batch):
        sizes.append(len(batch['x']))
        return {'total': network(batch['x']).mean()}

    recipe = Recipe(object, lambda _: None, lambda *_: Ones(), lambda _: losses, 'linear')
    config = SimpleNamespace(loop=LoopConfig(batch_size=8, micro_batch=8))
    assert seconds_a_step(recipe, nn.Linear(1, 1), {}, config, World(0, 4)) > 0
    assert set(sizes) == {2}


@pytest.mark.parametrize(('workers', 'expected'), [(0, 21), (1, 16), (4, 5)])
def test_a_step_takes_as_long_as_its_examples_take_to_make_where_that_is_longer(monkeypatch, workers, expected):
    """Eight that take 2 each, beside 5 of training."""
    now = 0

    class Slow(Ones):
        def __getitem__(self, index):
            nonlocal now
            now += 2
            return super().__getitem__(index)

    def losses(network, batch):
        nonlocal now
        now += 5
        return {'total': network(batch['x']).mean()}

    monkeypatch.setattr(schedule, 'time', SimpleNamespace(perf_counter=lambda: now))
    recipe = Recipe(object, lambda _: None, lambda *_: Slow(), lambda _: losses, 'linear')
    config = SimpleNamespace(loop=LoopConfig(batch_size=8, micro_batch=8, workers=workers))
    assert seconds_a_step(recipe, nn.Linear(1, 1), {}, config, World()) == expected


def is_refused(folder):
    try:
        with Workspace(folder).locked():
            return False
    except TrainingError as error:
        return f"another process works in '{folder}'" in str(error)


def test_a_folder_is_worked_in_by_one_process_at_a_time(tmp_path):
    """Processes forked off it, which may outlive it by seconds, do not keep others out."""
    folder = tmp_path / 'mine.run'
    with Workspace(folder).locked():
        forked = multiprocessing.get_context('fork').Pool(1)
        assert forked.apply(is_refused, [folder])
    with forked:
        assert not forked.apply(is_refused, [folder])


def test_a_run_keeps_others_out_before_it_has_made_anything(tmp_path, monkeypatch):
    """While it harvests, which may take hours."""
    folder = tmp_path / 'mine.run'

    def harvest_for_hours(*_):
        with multiprocessing.get_context('fork').Pool(1) as forked:
            assert forked.apply(is_refused, [folder])
        raise KeyboardInterrupt

    monkeypatch.setattr(run, '_harvest', harvest_for_hours)
    for name in ('open_feeds', 'start_network', 'load_network', 'general_frames', 'general_pairs'):
        monkeypatch.setattr(run, name, lambda *_: None)
    request = MagicMock(protocol='superpoint-240', settings=dict, out=tmp_path / 'mine.safetensors')
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run.retrain(request, Workspace(folder), World(), [], resume)
