"""Training and labelling in processes that are killed, interrupted, or several: the same result every time."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tiny import TINY, write_config

from superpoint_ros.networks import SuperPoint, save_network
from superpoint_training import label, train
from superpoint_training.frames import Frames
from superpoint_training.labels import Labels

TORCHRUN = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node')


def start(words, processes=1):
    """A command of the package as a process, or several, in a group of its own."""
    command = [sys.executable, *((*TORCHRUN, str(processes)) if processes > 1 else ()), '-m', *words]
    return subprocess.Popen(command, text=True, start_new_session=True, stderr=subprocess.PIPE)


def wait_until(condition, process, timeout=60):
    until = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def steps_done(checkpoint):
    return torch.load(checkpoint)['step'] if checkpoint.exists() else 0


@pytest.fixture
def joint(tmp_path, pictures):
    """Words of a training on four labelled frames, to be followed by `--out`."""
    rng = np.random.default_rng(0)
    names = Frames(pictures).names
    labels = {name: rng.uniform((10, 10, 0.1), (110, 110, 1), (30, 3)) for name in names}
    Labels(labels, {}).save(tmp_path / 'labels.npz')
    loop = {'steps': 80, 'batch_size': 4, 'micro_batch': 2, 'workers': 1, 'warm_up': 2, 'checkpoint_seconds': 0.0,
            'record_every': 1}  # fmt: skip
    config = write_config(tmp_path / 'c.yaml', loop=loop, pairs={'size': 64}, mix={'frames': 3, 'shapes': 1})
    words = ['superpoint', '--config', config, '--frames', str(pictures), '--device', 'cpu']
    return [*words, '--labels', str(tmp_path / 'labels.npz'), '--out']


def everything(checkpoint):
    """Weights, averages and the optimizer's memory, as one vector; and the curves."""
    state = torch.load(checkpoint)
    tensors = [*state['network'].values(), *state['average'].values()]
    tensors += [value for moments in state['optimizer']['state'].values() for value in moments.values()]
    return torch.cat([tensor.flatten() for tensor in tensors if tensor.is_floating_point()]), state['curves']


def test_stopped_or_killed_a_training_ends_with_the_weights_of_one_that_was_not(tmp_path, joint):
    """Ctrl-C in a terminal reaches the processes that make examples too."""
    assert train.main([*joint, str(tmp_path / 'whole.safetensors')]) == 0
    whole, curves = everything(tmp_path / 'whole.checkpoint')
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 3)):
        checkpoint = tmp_path / f'{number}.checkpoint'
        words = [*joint, str(checkpoint.with_suffix('.safetensors'))]
        process = start(['superpoint_training.train', *words])
        wait_until(lambda checkpoint=checkpoint: steps_done(checkpoint) >= 3, process)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == status, said
        assert 'Traceback' not in said
        assert 3 <= steps_done(checkpoint) < 80
        assert train.main(words) == 0
        resumed, resumed_curves = everything(checkpoint)
        assert torch.equal(whole, resumed)
        assert curves == resumed_curves


@pytest.mark.usefixtures('one_thread')
def test_two_processes_train_as_one(tmp_path, joint):
    """Losses step by step, and weights, to float32 rounding; also when they go on with what one process began."""
    assert train.main([*joint, str(tmp_path / 'one.safetensors')]) == 0
    assert train.main([*joint, str(tmp_path / 'two.safetensors'), '--minutes', '0']) == 3
    assert 1 <= steps_done(tmp_path / 'two.checkpoint') < 4
    process = start(['superpoint_training.train', *joint, str(tmp_path / 'two.safetensors')], processes=2)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    (one, curves), (two, two_curves) = (everything(tmp_path / f'{name}.checkpoint') for name in ('one', 'two'))
    assert len(curves['loss/total']) == 80
    for name, points in curves.items():
        np.testing.assert_allclose(two_curves[name], points, rtol=1e-5)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path, joint):
    """Rank 0 alone reads the checkpoint, which here is none."""
    (tmp_path / 'w.checkpoint').write_bytes(b'junk')
    process = start(['superpoint_training.train', *joint, str(tmp_path / 'w.safetensors')], processes=2)
    said = process.communicate(timeout=100)[1]
    assert process.returncode != 0
    assert 'not a readable checkpoint' in said


def test_no_thread_of_the_group_outlives_it(tmp_path):
    """One that does may abort a process that has done all its work. An optimizer's step imports much of PyTorch."""
    script = tmp_path / 'work.py'
    script.write_text(
        'import os, sys, torch\n'
        'from pathlib import Path\n'
        'from superpoint_training.distributed import join_world\n'
        'def threads():\n'
        "    return {path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')}\n"
        "with join_world('cpu') as world:\n"
        '    weights = torch.nn.Parameter(torch.zeros(3))\n'
        '    weights.grad = torch.ones(3)\n'
        '    torch.optim.AdamW([weights]).step()\n'
        '    world.sum([weights.grad])\n'
        '    during = threads()\n'
        "sys.exit(f'{during}, then {threads()}' if len(threads()) >= len(during) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, *TORCHRUN, '2', str(script)], capture_output=True, text=True, timeout=100,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_labels_are_the_same_whatever_the_number_of_processes(tmp_path, pictures):
    """Begun by three processes, which are killed; finished by two."""
    torch.manual_seed(0)
    save_network(SuperPoint(TINY), tmp_path / 'start.safetensors', {})
    (tmp_path / 'labels.yaml').write_text('{views: 5, scales: [1.0, 0.5], at_once: 3, threshold: 0.001, min_views: 1}')
    words = ['--config', str(tmp_path / 'labels.yaml'), '--weights', str(tmp_path / 'start.safetensors')]
    words += ['--frames', str(pictures), '--device', 'cpu', '--out']
    assert label.main([*words, str(tmp_path / 'alone.npz')]) == 0
    assert label.main([*words, str(tmp_path / 'shared.npz'), '--limit', '1']) == 0
    lost = Labels.load(tmp_path / 'alone.npz')
    lost.by_name = {'3.png': lost.by_name['3.png']}
    lost.save(tmp_path / 'shared.rank2.npz')  # what a process that was killed leaves behind
    process = start(['superpoint_training.label', *words, str(tmp_path / 'shared.npz')], processes=2)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert (tmp_path / 'alone.npz').read_bytes() == (tmp_path / 'shared.npz').read_bytes()
    assert sum(len(points) for points in Labels.load(tmp_path / 'alone.npz').by_name.values()) > 100
    assert not list(tmp_path.glob('*rank*'))
