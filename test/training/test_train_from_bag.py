"""The whole command on a tiny bag, in processes as a user has them: bag to weights, killed and resumed, refused."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import cv2
import pytest
import torch
from drives import drive, write_bag
from safetensors.torch import load_file

from superpoint_ros.networks import load_network
from superpoint_training import labels as labels_module
from superpoint_training import train_from_bag
from superpoint_training.distributed import World
from superpoint_training.evaluation.pair_run import PairRun
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.results import header
from superpoint_training.failures import TrainingError
from superpoint_training.files import write_whole
from superpoint_training.labels import Labels
from superpoint_training.peers import make_detector
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.retraining import proof, rounds
from superpoint_training.retraining import run as run_module
from superpoint_training.retraining.general import general_pairs
from superpoint_training.retraining.proof import AFTER, BEFORE, ProofConfig, Verdict, judge, predictions
from superpoint_training.retraining.workspace import Workspace
from superpoint_training.train_from_bag import DONE, ERROR, INTERRUPTED, NOT_BETTER, main

TINY = [
    '--from', 'superpoint_small', '--general-limit', '2', '--short-side', '120', '--jobs', '1', '--blend', '1',
    '--levels', '1',
    '--harvest', 'min_train_frames=4', 'held_out_run=8', 'gap_seconds=0.05', 'min_change=0.01',
    '--labels', 'views=2', 'min_views=1', 'threshold=0.012',
    '--set', 'loop.steps=12', 'loop.batch_size=4', 'loop.validate_every=6', 'loop.checkpoint_seconds=0.01',
    'loop.workers=0', "loop.watch=''", 'loop.patience=0', 'pairs.size=64', 'pairs.points=40', '--proof', 'gaps=[1]',
]  # fmt: skip


def command(*arguments):
    return [sys.executable, '-m', 'superpoint_training.train_from_bag', *map(str, arguments)]


def run(*arguments, **more):
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, timeout=300, **more)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', {'/camera/image_raw': drive(40)})


@pytest.fixture(scope='module')
def retrained(bag, tmp_path_factory):
    """Judged at four levels, the default. Forced, since so short a training may or may not help."""
    out = tmp_path_factory.mktemp('retrained') / 'my_robot.safetensors'
    done = run('--bag', bag, '--topic', '/camera/image_raw', '--out', out, *TINY, '--levels', '4', '--force')
    assert done.returncode == 0, done.stderr
    return out, done


def test_weights_card_report_and_results_are_written(retrained, bag):
    out, done = retrained
    work = out.with_suffix('.run')
    network = load_network(out)
    assert network.metadata['start'] == 'superpoint_small'
    assert network.metadata['recipe'] == 'superpoint'
    old = load_network('superpoint_small')
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), old.parameters(), strict=True))

    results = json.loads((work / 'results.json').read_text())
    recording = results['harvest']['recordings'][0]
    assert recording['path'] == str(bag)
    card = out.with_suffix('.md').read_text()
    assert recording['sha256'] in card
    for name in ('held_out', 'general'):
        figure = results['figures'][name][AFTER]['matching_score']
        assert f'{figure:.3f}' in card
    page = (work / 'report.html').read_text()
    for reason in results['verdict']['reasons']:
        assert reason in card
        assert reason in done.stdout
        assert reason in page
    assert list((work / 'logs').rglob('events.*'))
    assert 'reload_weights' in done.stdout


def test_the_figures_before_are_those_of_the_old_weights_and_after_of_the_new(retrained):
    results = json.loads((retrained[0].with_suffix('.run') / 'results.json').read_text())
    protocol = PROTOCOLS[results['protocol']]
    pairs = general_pairs(None, None, protocol, 1)
    for name, weights in ((BEFORE, 'superpoint_small'), (AFTER, retrained[0])):
        detect = predictions(load_network(weights, fold=False), name, 'cpu')
        own = PairRun(pairs, protocol, {name: detect}).results()[name]
        figures = results['figures']['general'][name]
        assert figures['matching_score'] == pytest.approx(own['matching_score'], abs=1e-4)
    held_out = results['figures']['held_out']
    assert held_out[BEFORE]['per_pair'] != held_out[AFTER]['per_pair']
    assert results['figures']['real']['1'][BEFORE]['pairs'] > 3
    assert results['rounds'][0]['curves']['validation/matching_score'][0][0] == 0
    is_better = results['verdict']['is_better']
    outcome = f'{"Better" if is_better else "Not better, but forced"}: the new weights are in place.'
    assert results['replaced']
    assert outcome in (retrained[0].with_suffix('.run') / 'report.html').read_text()
    assert 'the weights are those of step 12' in retrained[0].with_suffix('.md').read_text()
    assert results['general_frames'] == 2


def test_fresh_weights_in_two_rounds(bag, tmp_path):
    """Labels of the first round are those of shipped weights, of the second those of what the first trained.

    Judged as a front-end of one level sees it.
    """
    out = tmp_path / 'fresh.safetensors'
    network = ['network.widths=[8,8,8,8,8,8,8,8]', 'network.head_width=16', 'network.descriptor_dim=16']
    blend = TINY.index('--blend')
    options = [*TINY[:blend], *TINY[blend + 2 :], '--from', 'none', '--rounds', '2', '--force']
    settings = options.index('--set') + 1
    options[settings:settings] = network
    done = run('--bag', bag, '--topic', '/camera/image_raw', '--out', out, *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((out.with_suffix('.run') / 'results.json').read_text())
    first, second = results['rounds']
    assert first['steps'] == second['steps'] == 12
    assert first['labels'] != second['labels']
    assert (results['weights']['start'], results['weights']['before']) == ('none', 'superpoint')
    assert 'before, which is `superpoint`' in out.with_suffix('.md').read_text()
    assert load_network(out).config.descriptor_dim == 16
    shipped = Predictions(make_detector('superpoint', 'cpu', levels=1))
    protocol = PROTOCOLS[results['protocol']]
    own = PairRun(general_pairs(None, None, protocol, 1), protocol, {BEFORE: shipped}).results()[BEFORE]
    assert results['figures']['general'][BEFORE]['matching_score'] == pytest.approx(own['matching_score'], abs=1e-4)


@pytest.mark.parametrize(
    'mistyped',
    [
        ['--from', 'nowhere'],
        ['--general', 'nowhere'],
        ['--general-pairs', 'nowhere'],
        ['--topic', '/nowhere'],
        ['--set', 'mix.nowhere=1'],
    ],
)
def test_a_name_mistyped_is_missed_at_once_and_leaves_no_run_behind(bag, tmp_path, mistyped, capsys):
    out = tmp_path / 'out.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), *TINY, *mistyped]) == ERROR
    assert 'nowhere' in capsys.readouterr().err.splitlines()[-1]
    assert not out.with_suffix('.run').exists()


@pytest.mark.parametrize(
    ('together', 'complaint'),
    [
        (['--from', 'none', '--blend', '0.5'], '--from none'),
        (['--set', 'network.head_width=8'], '--from none'),
        (['--rounds', '2', '--recipe', 'kp2d'], 'without labels'),
        (['--work', os.fsdecode(b'K\xfcche')], 'must be UTF-8'),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, together, complaint, capsys):
    with pytest.raises(SystemExit):
        main(['--bag', 'x', '--out', str(tmp_path / 'w.safetensors'), *together])
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_commands_are_told_as_a_shell_takes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_from_bag, 'join_world', lambda _: nullcontext(World()))
    monkeypatch.setattr(train_from_bag, 'retrain', lambda *_: Verdict(True, ['better']))
    out = tmp_path / 'my robot' / "Ole's.safetensors"
    assert main(['--bag', 'x', '--out', str(out)]) == DONE
    told = [line for line in capsys.readouterr().out.splitlines() if 'param set' in line]
    assert [shlex.split(line)[-1] for line in told] == [str(out)]
    words = ['train_from_bag', '--bag', 'my drive', '--out', str(out)]
    assert shlex.split(header(words, [])['command']) == words


def test_a_recording_and_its_pictures_may_have_names_that_are_not_utf_8(tmp_path):
    recording, out = tmp_path / os.fsdecode(b'K\xfcche'), tmp_path / 'w.safetensors'
    recording.mkdir()
    for index, picture in enumerate(drive(40)):
        cv2.imwrite(str(tmp_path / 'picture.png'), picture)
        (tmp_path / 'picture.png').rename(recording / os.fsdecode(b'K\xfcche%02d.png' % index))
    listed = run('--bag', recording, '--list', errors='surrogateescape')
    assert listed.stdout.startswith(f'{recording}  ')
    settings = ['--set', 'loop.steps=2', 'loop.validate_every=0', '--general-limit', '1', '--force']
    done = run('--bag', recording, '--out', out, *TINY, *settings)
    assert done.returncode == DONE, done.stderr
    for page in (out.with_suffix('.md'), out.with_suffix('.run') / 'report.html'):
        assert r'K\udcfcche' in page.read_text()
    sums = subprocess.run('LC_ALL=C sha256sum * | sha256sum', shell=True, cwd=recording, capture_output=True, text=True)
    assert sums.stdout[:64] in out.with_suffix('.md').read_text()


def test_a_signal_to_end_stops_a_run_as_ctrl_c_does(tmp_path, monkeypatch, capsys):
    """In every stage; `timeout` and service managers send it."""

    def harvest_until_told_to_end(*_):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_from_bag, 'join_world', lambda _: nullcontext(World()))
    monkeypatch.setattr(train_from_bag, 'retrain', harvest_until_told_to_end)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert main(['--bag', 'x', '--out', str(tmp_path / 'w.safetensors')]) == INTERRUPTED
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert 'go on with the same command and --resume' in capsys.readouterr().err


@pytest.mark.parametrize('rank', [0, 1])
def test_a_plan_of_several_processes_is_printed_by_one(tmp_path, rank, monkeypatch, capsys):
    monkeypatch.setattr(train_from_bag, 'join_world', lambda _: nullcontext(World(rank, 2)))
    monkeypatch.setattr(train_from_bag, 'plan', lambda *_: [('rounds', '1')])
    assert main(['--bag', 'x', '--out', str(tmp_path / 'w.safetensors'), '--plan']) == DONE
    assert capsys.readouterr().out == ('rounds    1\n' if rank == 0 else '')


@pytest.mark.parametrize('plan', [[], ['--plan']])
def test_processes_that_the_batch_can_not_be_dealt_out_to_are_refused_at_once(bag, tmp_path, plan, monkeypatch, capsys):
    monkeypatch.setattr(train_from_bag, 'join_world', lambda _: nullcontext(World(0, 3)))
    out = tmp_path / 'w.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), *TINY, *plan]) == ERROR
    assert 'batch_size 4 is not a multiple of the 3 processes' in capsys.readouterr().err.splitlines()[-1]
    assert not out.with_suffix('.run').exists()


@pytest.mark.parametrize('in_the_way', ['w.safetensors/', 'w.md/', '.'])
def test_weights_that_could_not_be_written_are_missed_before_any_work(bag, tmp_path, in_the_way, monkeypatch, capsys):
    """There is a folder of the name, or a file instead of the folder that it would be in."""
    monkeypatch.setattr(run_module, '_harvest', lambda *_: pytest.fail('harvested'))
    folder = tmp_path / 'out'
    if in_the_way == '.':
        folder.touch()
    else:
        (folder / in_the_way).mkdir(parents=True)
    out = folder / 'w.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), '--work', str(tmp_path / 'work'), *TINY]) == ERROR
    assert f"cannot write '{folder}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'work').exists()


def test_weights_that_can_not_be_put_in_place_in_the_end_are_told_where_they_are(tmp_path):
    work, out = Workspace(tmp_path), tmp_path / 'mine.safetensors'
    for suffix in ('.safetensors', '.md'):
        work.rejected.with_suffix(suffix).write_text(suffix)
    out.with_suffix('.md').mkdir()
    with pytest.raises(TrainingError, match=rf"cannot write '.*mine\.md'.* The new weights are '{work.rejected}'"):
        run_module._publish(work, out)
    assert work.rejected.read_text() == '.safetensors'
    out.with_suffix('.md').rmdir()
    run_module._publish(work, out)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ['mine.md', 'mine.safetensors']


def test_a_running_front_end_takes_the_new_weights_without_losing_an_image(retrained, tmp_path):
    rclpy = pytest.importorskip('rclpy', reason='ROS is not installed')
    from ros_processes import Camera, NodeProcess, image_message, scene

    rclpy.try_shutdown()  # what an earlier test may have left
    rclpy.init()
    frontend = NodeProcess(
        'superpoint_ros.nodes.frontend', tmp_path, autostart='true', weights='superpoint_small',
        warm_up_width=160, warm_up_height=120, stale_after=30.0, image_reliability='reliable',
    )  # fmt: skip
    camera = Camera('reloading_camera')
    try:
        camera.spin_until(lambda: camera.images.get_subscription_count(), 'the front-end to listen')
        camera.spin_until(lambda: camera.count_publishers('features'), 'the features topic')
        camera.spin_for(0.5)
        old = camera.send(image_message(scene(), 'mono8', camera.header()))
        assert camera.set(weights=str(retrained[0])) == ''
        sent = []

        def send_another() -> None:
            sent.append(camera.header())
            camera.images.publish(image_message(scene(), 'mono8', sent[-1]))
            camera.wait_for('features', sent[-1])

        answer = camera.trigger('reload_weights', meanwhile=send_another)
        assert answer.success, answer.message
        new = camera.send(image_message(scene(), 'mono8', camera.header()))
        _, _, values = camera.diagnostics()
        assert 'my_robot' in values['detector']
        assert len(sent) > 1
        assert new.data != old.data
    finally:
        frontend.stop()
        camera.destroy_node()
        rclpy.try_shutdown()


def test_a_run_that_has_made_nothing_but_frames_may_be_begun_with_other_settings(tmp_path):
    work = Workspace(tmp_path / 'mine.run')
    (tmp_path / 'mine.run').mkdir()
    work.begin({'harvest': 'min_change=0.9'}, resume=False)
    for resume in (False, True):
        work.begin({'harvest': f'min_change={resume}'}, resume)
        assert work.settings() == {'harvest': f'min_change={resume}'}
    work.labels('robot', 1).touch()
    with pytest.raises(TrainingError, match='go on with it by --resume'):
        work.begin({'harvest': 'min_change=True'}, resume=False)
    with pytest.raises(TrainingError, match=r'harvest was min_change=True, is min_change=0\.5'):
        work.begin({'harvest': 'min_change=0.5'}, resume=True)


@pytest.mark.parametrize('resume', [False, True])
def test_labels_of_no_run_do_not_stand_in_the_way_of_one(tmp_path, resume):
    """Such as a plan of an earlier version left behind when it was killed."""
    work = Workspace(tmp_path)
    work.labels('plan', 0).touch()
    work.begin({'rounds': '1'}, resume)
    assert work.settings() == {'rounds': '1'}


def test_a_run_does_not_go_on_with_other_frames(tmp_path, monkeypatch, capsys):
    """Of a recording that was made anew under its name."""
    bag, out = tmp_path / 'drive', tmp_path / 'mine.safetensors'
    work = Workspace(out.with_suffix('.run'))

    def stop_labelling(*_, **__):
        work.labels('robot', 1).touch()
        return Labels({}, {}), False

    monkeypatch.setattr(rounds, 'label_frames', stop_labelling)
    write_bag(bag, {'/camera/image_raw': drive(40)})
    words = ['--bag', str(bag), '--out', str(out), *TINY]
    assert main(words) == INTERRUPTED
    assert main([*words, '--resume']) == INTERRUPTED
    shutil.rmtree(bag)
    write_bag(bag, {'/camera/image_raw': drive(40, seed=1)})
    capsys.readouterr()
    assert main([*words, '--resume']) == ERROR
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'was begun with other frames than its recordings give now. To go on, restore the recordings' in said
    work.labels('robot', 1).unlink()
    assert main(words) == INTERRUPTED


def test_a_killed_run_goes_on_to_the_same_weights(retrained, bag, tmp_path):
    out = tmp_path / 'my_robot.safetensors'
    arguments = ['--bag', bag, '--topic', '/camera/image_raw', '--out', out, *TINY, '--force']
    checkpoint = out.with_suffix('.run') / 'round_1.checkpoint'
    with subprocess.Popen(
        command(*arguments), env=os.environ | {'OMP_NUM_THREADS': '1'}, stderr=subprocess.DEVNULL
    ) as process:
        written = set()
        while len(written) < 4:  # several checkpoints into the training
            assert process.poll() is None, 'it ended before it could be killed'
            if checkpoint.exists():
                written.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()

    again = run(*arguments)
    assert again.returncode == 1
    assert '--resume' in again.stderr
    assert 'remove run.json, *.checkpoint and labels_*.npz there; frames/ may stay' in again.stderr
    other = run(*arguments, '--resume', '--minutes', '7')
    assert other.returncode == 1
    assert 'minutes was None, is 7.0' in other.stderr
    done = run(*arguments, '--resume')
    assert done.returncode == 0, done.stderr
    straight = load_file(retrained[0])
    for name, tensor in load_file(out).items():
        assert torch.equal(tensor, straight[name]), name


def test_weights_that_are_not_better_replace_nothing(retrained, bag, tmp_path):
    out = tmp_path / 'mine.safetensors'
    out.write_bytes(b'the old weights')
    done = run('--bag', bag, '--out', out, *TINY, 'least_gain=9.0', '--blend', '1', '0.5')
    assert done.returncode == NOT_BETTER
    assert out.read_bytes() == b'the old weights'
    assert 'wanted more than +900.0%' in done.stdout
    assert list(json.loads((out.with_suffix('.run') / 'results.json').read_text())['blends_tried']) == ['1', '0.5']
    assert_far_towards(1, out.with_suffix('.run') / 'rejected.safetensors', retrained[0])
    assert 'Not better: no weights are replaced.' in (out.with_suffix('.run') / 'report.html').read_text()


def assert_far_towards(share, weights, trained):
    """Weights lie so far from `superpoint_small` to the trained ones, all of them rounded to half precision."""
    old, new, actual = (load_network(each, fold=False).state_dict() for each in ('superpoint_small', trained, weights))
    for name in old:
        if old[name].is_floating_point():
            expected = torch.lerp(old[name], new[name], share)
            rounded = 2**-11 * (share * new[name].abs() + expected.abs())
            assert ((actual[name] - expected).abs() <= 1.01 * rounded + 1e-7).all(), name


@pytest.mark.usefixtures('one_thread')
def test_weights_go_back_towards_the_old_ones_until_they_are_better(retrained, bag, tmp_path, monkeypatch, capsys):
    verdicts = iter([Verdict(False, ['forgot']), Verdict(True, ['better'])])
    monkeypatch.setattr(proof, 'judge', lambda *_: next(verdicts))
    measure, measured = proof.measure, []
    monkeypatch.setattr(proof, 'measure', lambda *given: measured.append(given[1]) or measure(*given))
    out = tmp_path / 'out.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), *TINY, '--blend', '1', '0.5', '0.25']) == DONE
    assert '100% of the way to the trained weights is not better: forgot. Now 50%' in capsys.readouterr().out
    results = json.loads((out.with_suffix('.run') / 'results.json').read_text())
    assert results['blend'] == 0.5
    assert measured == [BEFORE, AFTER, AFTER]
    assert results['blends_tried'] == {'1': ['forgot'], '0.5': ['better']}
    assert_far_towards(0.5, out, retrained[0])
    page = (out.with_suffix('.run') / 'report.html').read_text()
    assert '50% of the way' in page
    assert 'forgot' in page


@pytest.mark.usefixtures('one_thread')
def test_a_training_that_never_passed_its_start_is_proved_once(bag, tmp_path, capsys):
    settings = TINY[TINY.index('--set') + 1 : TINY.index('--proof')]
    ruinous = ['--set', *settings, 'loop.watch=matching_score', 'loop.learning_rate=1.0']
    out = tmp_path / 'out.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), *TINY, *ruinous, '--blend', '1', '0.5']) == NOT_BETTER
    assert 'no validated weights were above those begun with' in capsys.readouterr().out
    results = json.loads((out.with_suffix('.run') / 'results.json').read_text())
    assert results['rounds'][0]['step'] == 0
    assert list(results['blends_tried']) == ['1']


def test_list_and_plan_say_what_there_is_and_write_no_weights(bag, tmp_path):
    listed = run('--bag', bag, '--list')
    assert listed.returncode == 0
    assert '/camera/image_raw  sensor_msgs/msg/Image  40 messages  20.0 Hz' in listed.stdout
    out = tmp_path / 'w.safetensors'
    planned = run('--bag', bag, '--out', out, *TINY, '--plan')
    assert planned.returncode == 0, planned.stderr
    assert '40 images' in planned.stdout
    assert 'topics    /camera/image_raw\n' in planned.stdout
    assert 'problem' not in planned.stdout
    assert '12 steps of 4' in planned.stdout
    refused = run('--bag', bag, '--out', out, *TINY, '--plan', '--general-pairs', tmp_path / 'nowhere')
    assert (refused.returncode, 'nowhere' in refused.stderr) == (1, True)
    assert not out.exists()
    assert not (out.with_suffix('.run') / 'run.json').exists()


@pytest.mark.usefixtures('one_thread')
def test_a_plan_is_made_without_a_general_picture_that_can_not_be_read(bag, tmp_path, pictures, capsys):
    for name in ('0.png', '1.png'):
        (pictures / name).write_bytes(b'nothing of a picture')
    words = ['--bag', str(bag), '--out', str(tmp_path / 'w.safetensors'), *TINY, '--general-limit', '4']
    assert main([*words, '--general', str(pictures), '--plan']) == DONE
    assert '12 steps of 4' in capsys.readouterr().out


@pytest.mark.usefixtures('one_thread')
def test_a_plan_that_is_killed_leaves_nothing_that_looks_like_a_run(bag, tmp_path, monkeypatch):
    """Such as labels, after which no run would be begun, nor gone on with."""

    def write_and_die(path, content):
        write_whole(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(labels_module, 'write_whole', write_and_die)
    out = tmp_path / 'w.safetensors'
    main(['--bag', str(bag), '--out', str(out), *TINY, '--plan'])
    assert not Workspace(out.with_suffix('.run')).is_begun


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['--topic', '/camera/image'], "Did you mean '/camera/image_raw'"),
        (['--topic', '/words'], 'no images'),
        (['--from', 'superpoint_huge'], 'shipped names'),
        (['--harvest', 'train_frams=3'], '--harvest: unknown key train_frams'),
        (['--harvest', 'min_train_frames=500'], 'Only'),
        (['--harvest', 'min_change=nan'], '--harvest: min_change: expected a finite number'),
        (['--proof', 'least_gain=nan'], '--proof: least_gain: expected a finite number'),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(bag, tmp_path, arguments, complaint):
    done = run('--bag', bag, '--out', tmp_path / 'w.safetensors', *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr


def figures(held_out, inliers, general):
    def scores(pair):
        return {name: {'matching_score': value} for name, value in zip((BEFORE, AFTER), pair, strict=True)}

    real = {'10': {name: {'inliers': value} for name, value in zip((BEFORE, AFTER), inliers, strict=True)}}
    return {'held_out': scores(held_out), 'general': scores(general), 'real': real}


@pytest.mark.parametrize(
    ('held_out', 'inliers', 'general', 'is_better'),
    [
        ((0.40, 0.41), (100, 100), (0.50, 0.50), True),
        ((0.40, 0.40), (100, 120), (0.50, 0.60), False),  # no gain on the robot's own frames
        ((0.40, 0.50), (100, 99.1), (0.50, 0.50), True),
        ((0.40, 0.50), (100, 98.9), (0.50, 0.50), False),
        ((0.40, 0.50), (100, 100), (0.50, 0.4901), True),
        ((0.40, 0.50), (100, 100), (0.50, 0.4899), False),
    ],
)
def test_new_weights_must_gain_and_may_not_lose(held_out, inliers, general, is_better):
    verdict = judge(figures(held_out, inliers, general), ProofConfig())
    assert verdict.is_better == is_better
    assert sum('wanted' in reason for reason in verdict.reasons) == (not is_better)


def test_what_could_not_be_judged_is_said():
    reasons = judge(figures((0.4, 0.5), (100, 100), (0.5, 0.5)), ProofConfig(gaps=(10, 100))).reasons
    assert [reason for reason in reasons if 'real frames' in reason] == [
        'inliers between real frames 10 apart: 100.0 to 100.0 (+0.0%)',
        'inliers between real frames 100 apart: there are no such pairs, not judged',
    ]


@pytest.mark.parametrize(('setting', 'there'), [('held_out_frames=1', 1), ('held_out_share=0', 0)])
def test_no_frame_both_watches_the_training_and_judges_it(bag, tmp_path, setting, there, monkeypatch, capsys):
    monkeypatch.setattr(run_module, 'train_round', lambda *_: pytest.fail('trained'))
    out = tmp_path / 'w.safetensors'
    assert main(['--bag', str(bag), '--out', str(out), *TINY, '--harvest', setting]) == ERROR
    assert f'{there} frames are held out, and 2 are needed' in capsys.readouterr().err.splitlines()[-1]


def test_two_processes_give_the_weights_of_one(retrained, bag, tmp_path):
    """Its options must also reach it through torchrun, which takes beginnings of its own options for them."""
    out = tmp_path / 'my_robot.safetensors'
    micro = ['--set', *TINY[TINY.index('--set') + 1 : TINY.index('--proof')], 'loop.micro_batch=2']
    arguments = ['--bag', bag, '--topic', '/camera/image_raw', '--out', out, *TINY, *micro, '--force']
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    done = subprocess.run(
        [*launcher, '-m', 'superpoint_training.train_from_bag', *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = tmp_path / 'alone' / 'my_robot.safetensors'
    assert run(*[alone if argument is out else argument for argument in arguments]).returncode == 0
    labels = [path.with_suffix('.run') / 'labels_robot_1.npz' for path in (out, alone)]
    assert labels[0].read_bytes() == labels[1].read_bytes()
    expected = load_file(alone)
    for name, tensor in load_file(out).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0.02, atol=2e-3)
