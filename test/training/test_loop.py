"""The training loop: schedule, guards, averaged weights, validation, checkpoints, memory."""

import copy
import multiprocessing
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny import TINY
from torch import nn
from torch.utils.data import Dataset

from superpoint_ros.networks import SuperPoint
from superpoint_training import loop
from superpoint_training.averaging import Average, blend
from superpoint_training.distributed import World
from superpoint_training.examples import batches
from superpoint_training.failures import TrainingError
from superpoint_training.loop import LoopConfig, learning_rate, train


class Regression(nn.Module):
    """A small network with BatchNorm; and numbered batches and losses to train it on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def numbered_batches(first, last, size=8):
    for step in range(first, last):
        x = torch.randn(size, 3, generator=torch.Generator().manual_seed(step))
        yield {'x': x, 'y': x.sum(1, keepdim=True)}


def squares(network, batch):
    return {'total': (network(batch['x']).float() - batch['y']).square().mean()}


def run(tmp_path, network=None, losses=squares, batches=numbered_batches, **options):
    """Train for 20 steps or as told; options of `train` and of its configuration alike."""
    given = {key: options.pop(key) for key in ('validate', 'minutes', 'logs', 'settings', 'world') if key in options}
    config = LoopConfig(**{'steps': 20, 'batch_size': 8, 'warm_up': 2, 'learning_rate': 0.01, 'workers': 0} | options)
    network = network or Regression()
    return train(network, batches, losses, config, tmp_path / 'c', **{'world': World()} | given)


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_learning_rate_rises_then_falls_to_nothing():
    config = LoopConfig(steps=100, warm_up=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(('makes', 'trains', 'waited'), [(3, 0, 1), (0, 3, 0), (1, 3, 0.25)])
def test_it_is_known_how_much_of_the_time_went_into_waiting_for_examples(tmp_path, monkeypatch, makes, trains, waited):
    """All but the first, which takes as long as the processes need to begin."""
    now = 0.0
    monkeypatch.setattr(loop, 'time', SimpleNamespace(monotonic=lambda: now))

    def slowly_made(first, last):
        nonlocal now
        now += 1000
        for batch in numbered_batches(first, last):
            yield batch
            now += makes

    def slowly_trained(network, batch):
        nonlocal now
        now += trains
        return squares(network, batch)

    assert run(tmp_path, steps=20, batches=slowly_made, losses=slowly_trained).waited == pytest.approx(waited, abs=1e-6)


def test_a_gradient_is_no_longer_than_allowed(tmp_path):
    """The first step of AdamW hides the gradient's length, so its memory of it is looked at."""
    run(tmp_path, steps=1, gradient_norm=0.001, weight_decay=0.0)
    moments = [state['exp_avg'] for state in torch.load(tmp_path / 'c')['optimizer']['state'].values()]
    assert torch.cat([moment.flatten() for moment in moments]).norm() == pytest.approx(0.1 * 0.001, rel=1e-3)


def test_a_loss_that_stays_infinite_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match='up to step 100'):
        run(tmp_path, losses=lambda *_: {'total': squares(*_)['total'] * torch.inf}, steps=500)


@pytest.mark.parametrize('rate', [1e30, 1e6])
def test_weights_that_became_no_numbers_are_told(tmp_path, rate):
    """Not even in half precision, in which they are stored."""
    with pytest.raises(
        FloatingPointError, match=rf"diverged: .* lower loop.learning_rate, and remove '{tmp_path / 'c'}'"
    ):
        run(tmp_path, learning_rate=rate)


def test_counts_may_be_larger_than_half_precision_holds(tmp_path):
    network = Regression()
    network.layers[1].num_batches_tracked += 70_000
    assert run(tmp_path, network).network.layers[1].num_batches_tracked > 70_000


@pytest.mark.parametrize('spoilt', ['loss', 'gradient'])
def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path, spoilt):
    """NaN in a batch reaches BatchNorm's statistics too; an infinite slope leaves the loss itself finite."""

    def some_spoilt(first, last):
        for step, batch in enumerate(numbered_batches(first, last), first):
            if step % 5 == 3:
                batch['x' if spoilt == 'loss' else 'edge'] = torch.full((8, 3), torch.nan if spoilt == 'loss' else 0.0)
            yield batch

    def losses(network, batch):
        edge = 0 * network(batch['edge']).sum().mul(0).abs().sqrt() if 'edge' in batch else 0
        return {'total': squares(network, batch)['total'] + edge}

    outcome = run(tmp_path, losses=losses, batches=some_spoilt)
    assert outcome.finished
    state = torch.load(tmp_path / 'c')
    assert all(bool(torch.isfinite(t).all()) for t in [*state['network'].values(), *state['average'].values()])
    assert outcome.losses['total'] < 5
    assert [path.name for path in tmp_path.iterdir()] == ['c']


def test_average_against_its_definition():
    """Weights and BatchNorm's statistics alike: (1 - d) * latest + d * average, d rising to the decay."""
    network = Regression()
    average = Average(network, 0.7)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(1, 30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 3))
        decay = min(0.7, step / (step + 9))
        for name, value in network.state_dict().items():
            latest = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if latest else value.clone()
        average.update(step)
    averaged = average.network.state_dict()
    assert all(torch.allclose(averaged[name], expected[name], atol=1e-5) for name in expected)
    assert not average.network.training


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_a_blend_lies_between_two_networks(share):
    old, new = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)) for _ in range(2))
    new(torch.randn(4, 1, 8, 8))
    expected = {name: tensor + share * (new.state_dict()[name] - tensor) for name, tensor in old.state_dict().items()}
    expected['1.num_batches_tracked'] = torch.tensor(1)
    between = blend(old, new, share)
    assert not between.training
    for name, tensor in between.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_averaged_network_is_what_a_run_gives(tmp_path):
    network = Regression()
    outcome = run(tmp_path, network, average=0.0)
    assert same(outcome.network.state_dict(), network.state_dict())
    other = Regression()
    (tmp_path / 'c').unlink()
    outcome = run(tmp_path, other, average=0.9)
    assert not same(outcome.network.state_dict(), other.state_dict())


def test_validation_keeps_the_best_weights_and_ends_a_run_that_gets_no_better(tmp_path):
    figures, seen = iter([0.1, 0.2, 0.7, 0.6, 0.7, 0.5]), []

    def validate(network):
        assert not network.training
        seen.append(copy.deepcopy(network.state_dict()))
        return {'score': next(figures), 'other': 0.0}

    outcome = run(tmp_path, validate=validate, steps=100, validate_every=3, watch='score', patience=2)
    assert outcome.finished
    assert (outcome.step, outcome.steps) == (6, 12)
    assert outcome.figures == {'score': 0.7, 'other': 0.0}
    assert same(outcome.network.state_dict(), seen[2])
    assert outcome.curves['validation/score'] == [(0, 0.1), (3, 0.2), (6, 0.7), (9, 0.6), (12, 0.7)]
    again = run(tmp_path, validate=validate, steps=100, validate_every=3, watch='score', patience=2)
    assert (again.step, again.steps) == (6, 12)
    assert same(again.network.state_dict(), seen[2])


@pytest.mark.parametrize('killed_at', [0, 6, 20])
def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path, killed_at):
    """At the start, on the way and at the end: the run that goes on is the one never stopped, curve and weights."""
    figures = {0: 0.1, 6: 0.4, 12: 0.2, 18: 0.3, 20: 0.9}
    watched = {'validate_every': 6, 'watch': 'score', 'checkpoint_seconds': 0.0}

    def validating(steps, cut_off):
        def validate(network):
            step = next(steps)
            if step == cut_off:
                raise KeyboardInterrupt
            return {'score': figures[step]}

        return validate

    whole = run(tmp_path / 'other', validate=validating(iter(figures), None), **watched)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, validate=validating(iter(figures), killed_at), **watched)
    left = [step for step in figures if step >= killed_at]
    resumed = run(tmp_path, validate=validating(iter(left), None), **watched)
    assert resumed.curves['validation/score'] == whole.curves['validation/score'] == list(figures.items())
    assert (resumed.step, resumed.figures) == (20, {'score': 0.9})
    assert same(resumed.network.state_dict(), whole.network.state_dict())
    again = run(tmp_path, validate=validating(iter(()), None), **watched)  # all is done: none is made twice
    assert again.curves == resumed.curves


def test_validation_must_give_what_is_watched(tmp_path):
    with pytest.raises(ValueError, match=r"'score'.*gives other"):
        run(tmp_path, validate=lambda network: {'other': 1.0}, validate_every=3, watch='score')
    with pytest.raises(ValueError, match='patience needs watch'):
        LoopConfig(patience=2)


@pytest.mark.parametrize('freeze_norm', [True, False])
def test_micro_batches_add_up_to_the_batch(tmp_path, freeze_norm):
    """To rounding in bfloat16 without BatchNorm in training, whose statistics are meant to differ."""
    gradients = {}
    for micro_batch in (8, 2, 3):
        network = Regression()
        (tmp_path / 'c').unlink(missing_ok=True)
        run(tmp_path, network, steps=1, micro_batch=micro_batch, freeze_norm=freeze_norm)
        gradients[micro_batch] = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        moved = (network.layers[1].running_mean != 0).any()
        assert bool(moved) != freeze_norm
    for micro_batch in (2, 3):
        error = (gradients[micro_batch] - gradients[8]).norm() / gradients[8].norm()
        assert (error < 0.02) == freeze_norm


def test_statistics_move_by_the_mean_over_the_micro_batches(tmp_path):
    network = Regression()
    (batch,) = numbered_batches(0, 1)
    expected = []
    for part in batch['x'].split(2):
        with torch.autocast('cpu', torch.bfloat16):
            activations = network.layers[0](part).float()
        expected.append(torch.stack([0.1 * activations.mean(0), 0.9 + 0.1 * activations.var(0)]))
    run(tmp_path, network, steps=1, micro_batch=2)
    moved = torch.stack([network.layers[1].running_mean, network.layers[1].running_var])
    assert torch.allclose(moved, torch.stack(expected).mean(0), atol=1e-3)


@pytest.mark.parametrize(
    ('device', 'size', 'given', 'at_once'),
    [('cpu', 1, None, 8), ('cpu', 2, None, 8), ('cuda', 1, None, 32), ('cuda', 2, None, 16), ('cuda', 2, 4, 4)],
)
def test_a_gpu_gets_all_examples_of_its_process_at_once_unless_told(device, size, given, at_once):
    world = World(0, size, torch.device(device))
    assert LoopConfig(batch_size=32, micro_batch=given).examples_at_once(world) == at_once


def test_too_little_memory_halves_the_micro_batch_and_changes_nothing_else(tmp_path, capsys):
    """The allocator itself refuses; a run that began with the smaller micro-batch ends with the very same weights."""

    def hungry(network, batch):
        if len(batch['x']) > 2:
            torch.empty(2**50)
        return squares(network, batch)

    small = run(tmp_path, micro_batch=2)
    (tmp_path / 'c').unlink()
    halved = run(tmp_path, losses=hungry, micro_batch=8)
    assert same(small.network.state_dict(), halved.network.state_dict())
    assert '4 instead of 8' in (said := capsys.readouterr().err)
    assert '2 instead of 4' in said
    run(tmp_path, losses=hungry, micro_batch=8, steps=25)
    assert 'instead of' not in capsys.readouterr().err  # a run that goes on has learned it
    (tmp_path / 'c').unlink()
    with pytest.raises(TrainingError, match='even with one'):
        run(tmp_path, losses=lambda *_: {'total': torch.empty(2**50)})


def test_what_a_network_draws_is_drawn_again_when_a_run_goes_on(tmp_path):
    def droppy():
        network = Regression()
        network.layers.append(nn.Dropout(0.5))
        return network

    whole = run(tmp_path, droppy())
    (tmp_path / 'c').unlink()
    while not (pieces := run(tmp_path, droppy(), minutes=0.0)).finished:
        torch.manual_seed(7)
    assert same(whole.network.state_dict(), pieces.network.state_dict())


def test_a_lost_gpu_is_said_and_the_checkpoint_is_whole(tmp_path):
    def lost_after_ten(network, batch):
        if float(batch['y'][0]) == ten:
            raise RuntimeError('CUDA error: unspecified launch failure\nCompile with ...')
        return squares(network, batch)

    ten = float(next(numbered_batches(10, 11))['y'][0])
    with pytest.raises(TrainingError, match=r'the GPU failed \(CUDA error: unspecified launch failure\).*step 10'):
        run(tmp_path, losses=lost_after_ten, checkpoint_seconds=0.0)
    how = {'validate': lambda _: {}, 'validate_every': 10}
    resumed, whole = run(tmp_path, **how), run(tmp_path / 'other', **how)
    assert same(resumed.network.state_dict(), whole.network.state_dict())


@pytest.mark.parametrize('step', [0, 10])
def test_a_gpu_that_is_lost_in_validation_is_said_too(tmp_path, step):
    seen = []

    def validate(_):
        seen.append(0)
        if len(seen) > step // 10:
            raise RuntimeError('CUDA error: unspecified launch failure')
        return {}

    with pytest.raises(TrainingError, match=f'the GPU failed.* of step {step} is whole'):
        run(tmp_path, validate=validate, validate_every=10)


class Failing(Dataset):
    """Examples up to one that can't be read, or that ends the process that makes it."""

    def __init__(self, killed):
        self.killed = killed

    def __getitem__(self, index):
        if index >= 24:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("'7.png' is not a readable picture")
        return {'x': torch.ones(3), 'y': torch.ones(1)}


@pytest.mark.parametrize(
    ('killed', 'why'),
    [
        (False, r"\(ValueError: '7\.png' is not a readable picture\)"),
        (True, r'\((DataLoader worker \(pid|it ended while).*'),
    ],
)
def test_a_failing_process_that_makes_examples_is_told_in_a_line(tmp_path, killed, why):
    def made(first, last):
        return batches(Failing(killed), 8, first, last, 1, World())

    with pytest.raises(TrainingError, match=f'makes examples failed .*{why}; .* of step . is whole') as error:
        run(tmp_path, batches=made)
    assert '\n' not in str(error.value)
    assert not multiprocessing.active_children()  # whose end this process would wait for


@pytest.mark.parametrize('error', [EOFError(), ConnectionResetError(104, 'Connection reset by peer')])
def test_a_process_that_ends_while_it_hands_over_examples_is_told_in_a_line(tmp_path, error):
    """The end of the connection may be seen before that of the process."""

    def broken_off(first, last):
        yield from numbered_batches(first, 6)
        raise error

    with pytest.raises(TrainingError, match=r'^a process that makes examples failed \(it ended .*\); .* is whole'):
        run(tmp_path, batches=broken_off)
    assert run(tmp_path).steps == 20


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'junk', 'not a readable checkpoint'), ({'step': 3}, "another version's format"), (None, 'other settings')],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(tmp_path, content, message):
    if content is None:
        run(tmp_path, settings='seed=1')
    elif isinstance(content, bytes):
        (tmp_path / 'c').write_bytes(content)
    else:
        torch.save(content, tmp_path / 'c')
    with pytest.raises(ValueError, match=message):
        run(tmp_path, settings='seed=2')


DISK_FULL = """
import resource, sys
from pathlib import Path
from test_loop import run, squares

steps = 0
def losses(network, batch):
    global steps
    steps += 1
    if steps == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return squares(network, batch)
try:
    run(Path(sys.argv[1]), losses=losses, checkpoint_seconds=0.0, validate=lambda _: {}, validate_every=10)
finally:
    print(steps, 'steps')
"""


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A process whose files may not grow beyond 1 kB from step 6 on."""
    process = subprocess.run(
        [sys.executable, '-c', DISK_FULL, str(tmp_path)], capture_output=True, text=True, cwd=sys.path[0], check=False
    )
    assert process.returncode == 1
    assert process.stdout == '20 steps\n'
    assert 'Training goes on; the last checkpoint is of step 5' in process.stderr
    assert 'TrainingError: cannot write' in process.stderr.strip().splitlines()[-1]
    assert torch.load(tmp_path / 'c')['step'] == 5
    assert [path.name for path in tmp_path.iterdir()] == ['c']
    resumed, whole = run(tmp_path), run(tmp_path / 'other')
    assert same(resumed.network.state_dict(), whole.network.state_dict())


def test_a_run_may_go_on_with_another_weight_decay(tmp_path):
    lengths = []
    for decay in (0.0, 1.0):
        folder = tmp_path / str(decay)
        folder.mkdir()
        assert not run(folder, minutes=0.0).finished
        weights = run(folder, weight_decay=decay).network.parameters()
        lengths.append(sum(value.square().sum().item() for value in weights))
    assert lengths[1] < 0.95 * lengths[0]


def test_no_room_for_a_checkpoint_is_known_before_the_first_step(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(TrainingError, match='cannot write'):
        run(tmp_path / 'file', losses=lambda *_: pytest.fail('a step was taken'))


def test_curves_reach_tensorboard_and_go_on_where_a_run_does(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    run(tmp_path, logs=tmp_path / 'logs', record_every=5, minutes=0.0)
    validation = {'validate': lambda _: {'score': 1.0}, 'validate_every': 10}
    outcome = run(tmp_path, logs=tmp_path / 'logs', record_every=5, **validation)
    events = accumulator.EventAccumulator(str(tmp_path / 'logs')).Reload()
    for name, points in outcome.curves.items():
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(step, pytest.approx(value)) for step, value in points]
    assert [step for step, _ in outcome.curves['loss/total']] == [5, 10, 15, 20]
    assert set(outcome.curves) == {'loss/total', 'learning_rate', 'validation/score'}


LOGS_FULL = """
import resource, sys
from pathlib import Path
from test_loop import run, squares

steps = 0
def losses(network, batch):
    global steps
    steps += 1
    room = 1000 if 6 <= steps < 19 else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    return squares(network, batch)
outcome = run(Path(sys.argv[1]), losses=losses, logs=Path(sys.argv[1]) / 'logs', record_every=1)
print(outcome.steps, 'steps,', len(outcome.curves['loss/total']), 'points')
"""


def test_a_full_disk_ends_the_logs_of_a_run_alone(tmp_path):
    """A process whose files may not grow beyond 1 kB from step 6 to step 18."""
    pytest.importorskip('tensorboard')
    process = subprocess.run(
        [sys.executable, '-c', LOGS_FULL, str(tmp_path)], capture_output=True, text=True, cwd=sys.path[0], check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == '20 steps, 20 points\n'
    said = f"cannot write TensorBoard's files in '{tmp_path / 'logs'}': File too large. Training goes on without them"
    assert process.stderr.count(said) == 1


def test_logs_that_can_not_be_begun_are_done_without(tmp_path, capsys):
    pytest.importorskip('tensorboard')
    (tmp_path / 'file').write_text('in the way')
    assert run(tmp_path, logs=tmp_path / 'file' / 'logs').finished
    assert 'Training goes on without them' in capsys.readouterr().err


def test_without_tensorboard_a_run_says_so_and_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    assert run(tmp_path, logs=tmp_path / 'logs').finished
    assert 'pip install tensorboard' in capsys.readouterr().err


def test_a_batch_must_go_evenly_over_the_processes(tmp_path):
    with pytest.raises(ValueError, match='8 is not a multiple of the 3 processes'):
        run(tmp_path, world=World(0, 3))


def test_bfloat16_training_of_the_real_network_moves_every_weight(tmp_path):
    """Both heads and all norms take part, and the network that comes out is not the one that went in."""
    network = SuperPoint(TINY)
    before = copy.deepcopy(network.state_dict())

    def losses(network, batch):
        logits, descriptors = network(batch['image'])
        return {'total': logits.float().square().mean() + descriptors.float().sin().mean()}

    batches = lambda first, last: iter([{'image': torch.rand(2, 1, 32, 32)}] * (last - first))  # noqa: E731
    run(tmp_path, network, losses, batches, steps=2, batch_size=2)
    after = network.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
