"""The commands' options: each as often as one likes, and those refused that make no sense."""

import pytest

from superpoint_training import evaluate, label, publish, train, train_from_bag

NEEDED = {
    train_from_bag: ['--bag', 'a', '--out', 'w.safetensors'],
    train: ['superpoint', '--config', 'c.yaml', '--out', 'w.safetensors', '--frames', 'f', '--labels', 'l.npz'],
    label: ['--config', 'c.yaml', '--weights', 'w', '--frames', 'f', '--out', 'l.npz'],
    evaluate: ['--out', 'o', '--sequence', 'a'],
}


@pytest.mark.parametrize(
    ('command', 'option', 'first', 'second'),
    [
        (train_from_bag, 'bag', 'b', 'c'),
        (train_from_bag, 'topic', '/left', '/right'),
        (train_from_bag, 'blend', '1', '0.5'),
        *((train_from_bag, name, 'x=1', 'y=2') for name in ('set', 'harvest', 'labels', 'proof')),
        (train, 'set', 'x=1', 'y=2'),
        (label, 'set', 'x=1', 'y=2'),
        (evaluate, 'sequence', 'b', 'c'),
        (evaluate, 'gaps', '1', '10'),
        (evaluate, 'detectors', 'sift', 'orb'),
    ],
)
def test_an_option_given_twice_is_all_that_was_given(command, option, first, second):
    once, twice = (
        getattr(command.parse([*NEEDED[command], *words]), option)
        for words in ([f'--{option}', first, second], [f'--{option}', first, f'--{option}', second])
    )
    assert twice == once


def test_options_of_the_protocol_may_be_given_one_by_one():
    words = ['--pairs', 'p', '--set', 'keypoints=5', '--set', 'correct_distance=2', '--out', 'o']
    assert evaluate.parse(words).set == ['keypoints=5', 'correct_distance=2']


def test_a_share_of_the_way_is_tried_once():
    words = ['--bag', 'a', '--out', 'w.safetensors', '--blend', '1', '1', '0.5']
    assert train_from_bag.make_request(train_from_bag.parse(words)).blend == (1, 0.5)


def test_a_run_goes_on_with_its_recordings_and_pictures_however_their_paths_are_written(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path / 'here')

    def settings(folder):
        places = ['--bag', f'{folder}/b', f'{folder}/c', '--general', f'{folder}/g', '--general-pairs', f'{folder}/p']
        return train_from_bag.make_request(train_from_bag.parse([*places, '--out', 'w.safetensors'])).settings()

    expected = settings(tmp_path)
    assert [settings(folder) for folder in ('..', '~', '../link', '../here/..')] == [expected] * 4
    assert settings('.') != expected


@pytest.mark.parametrize(
    ('words', 'robot', 'general'),
    [
        ([], 0.012, 0.018),
        (['--levels', '1'], 0.006, 0.009),
        (['--levels', '1', '--labels', 'threshold=0.02'], 0.02, 0.03),
        (['--levels', '1', '--general-threshold', '0.5'], 0.006, 0.5),
        (['--labels', 'threshold=0.9'], 0.9, 0.99),
    ],
)
def test_labels_are_denser_for_one_level_and_surer_on_general_pictures(words, robot, general):
    request = train_from_bag.make_request(train_from_bag.parse([*NEEDED[train_from_bag], *words]))
    assert request.labels.threshold == robot
    assert request.general_threshold == pytest.approx(general)


@pytest.mark.parametrize(
    ('command', 'words', 'complaint'),
    [
        (train_from_bag, ['--short-side', '0'], '--short-side: must be 32 or more, not 0'),
        (train_from_bag, ['--short-side', '-5'], '--short-side: must be 32 or more, not -5'),
        (train_from_bag, ['--general-limit', '0'], '--general-limit: must be 1 or more, not 0'),
        (train_from_bag, ['--general-threshold', '5'], '--general-threshold is a probability'),
        (train_from_bag, ['--general-threshold', 'nan'], '--general-threshold is a probability'),
        (label, ['--limit', '0'], '--limit: must be 1 or more, not 0'),
        (label, ['--limit', 'all'], '--limit: must be a whole number, 1 or more, not all'),
        (label, ['--minutes', 'nan'], '--minutes: must be a number, 0 or more, not nan'),
        (label, ['--minutes', '-1'], '--minutes: must be a number, 0 or more, not -1'),
        (train_from_bag, ['--minutes', 'inf'], '--minutes: must be a number, 0 or more, not inf'),
        (train_from_bag, ['--minutes', '0'], '--minutes must be more than 0'),
        (label, ['--limit', '-1'], '--limit: must be 1 or more, not -1'),
    ],
)
def test_numbers_that_make_no_sense_are_refused(command, words, complaint, capsys):
    with pytest.raises(SystemExit):
        command.parse([*NEEDED[command], *words])
    assert complaint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['--set', 'loop.watch=foo'], "loop.watch must be '' or one of matching_score, repeatability, got 'foo'"),
        (['--labels', 'threshold=5'], 'threshold is a probability'),
        (['--set', 'mix.robot=-1'], 'must not be negative'),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_work(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        train_from_bag.make_request(train_from_bag.parse([*NEEDED[train_from_bag], *words]))


def test_results_are_published_of_every_file(monkeypatch, capsys):
    monkeypatch.setattr(publish, 'publish', lambda _weights, results, *_: results)
    assert publish.main(['superpoint', '--data', 'x', '--results', 'a', '--results', 'b']) == 0
    assert capsys.readouterr().out == "[PosixPath('a'), PosixPath('b')]\n"
