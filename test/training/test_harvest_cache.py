"""The cache is whole or not there: after kill -9, Ctrl-C, a full disk, and with two processes at once."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from drives import drive, write_bag

from superpoint_training.harvest import HarvestConfig, HarvestError, frame_cache, harvest, run, survey

TOPIC = '/camera/image_raw'
CONFIG = HarvestConfig(held_out_run=12)

# A harvest as a user calls it, on a machine that takes its time for each image, with shards of four frames.
SLOW_HARVEST = """
import signal, sys, time
from pathlib import Path
from superpoint_training.harvest import HarvestConfig, frame_cache, harvest, run, survey
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs begin without
frame_cache.SHARD_FRAMES, survey._SAVE_SECONDS = 4, 0.05
def slowly(function, seconds):
    def wrapped(*arguments):
        time.sleep(seconds)
        return function(*arguments)
    return wrapped
survey.measure = slowly(survey.measure, float(sys.argv[3]))
run.to_array = slowly(run.to_array, float(sys.argv[4]))
harvest([Path(sys.argv[1])], None, HarvestConfig(held_out_run=12), Path(sys.argv[2]))
"""


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', {TOPIC: drive(160)})


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(frame_cache, 'SHARD_FRAMES', 4)


def gather(bag: Path, cache: Path):
    return harvest([bag], None, CONFIG, cache, show_progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


@contextmanager
def slow_harvest(bag: Path, cache: Path, measuring: float = 0.0, storing: float = 0.0):
    """The process; it is killed in the end."""
    command = [sys.executable, '-c', SLOW_HARVEST, str(bag), str(cache), str(measuring), str(storing)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen, cache: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(cache.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_harvest_that_is_stopped_while_it_stores_is_gone_on_with(bag, tmp_path, end, monkeypatch):
    whole = gather(bag, tmp_path / 'whole')
    cache = tmp_path / 'cache'
    with slow_harvest(bag, cache, storing=0.02) as process:
        wait_for(process, cache, '*.partial/train/*.tar', 3)
        process.send_signal(end)
        process.wait(60)
    assert process.returncode != 0
    assert not (cache / whole.folder.name).exists()
    done = len(list(cache.glob('*.partial/*/*.tar')))
    assert 3 <= done < len(list(whole.folder.rglob('*.tar')))
    stored = []
    monkeypatch.setattr(run, 'fit', lambda picture, side: stored.append(1) or picture)
    monkeypatch.setattr(survey, 'measure', lambda *arguments: pytest.fail('measured again'))
    again = gather(bag, cache)
    assert contents(again.folder) == contents(whole.folder)
    assert len(stored) == len(whole.train) + len(whole.held_out) - 4 * done
    assert not list(cache.glob('*.partial'))


@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGINT])
def test_a_harvest_that_is_stopped_while_it_measures_is_gone_on_with(bag, tmp_path, end, monkeypatch):
    whole = gather(bag, tmp_path / 'whole')
    cache = tmp_path / 'cache'
    with slow_harvest(bag, cache, measuring=0.01) as process:
        wait_for(process, cache, 'surveys/*.npz', 1)
        process.send_signal(end)
        process.wait(60)
    measured = []
    original = survey.measure
    monkeypatch.setattr(survey, 'measure', lambda *arguments: measured.append(1) or original(*arguments))
    again = gather(bag, cache)
    assert 0 < len(measured) < 160
    assert contents(again.folder) == contents(whole.folder)


def test_a_shard_that_was_being_written_counts_as_not_there(bag, tmp_path):
    whole = gather(bag, tmp_path / 'whole')
    partial = tmp_path / 'cache' / f'{whole.folder.name}.partial' / 'train'
    partial.mkdir(parents=True)
    (partial / 'frames-0000.partial').write_bytes(b'half a shard')
    assert contents(gather(bag, tmp_path / 'cache').folder) == contents(whole.folder)


def test_two_processes_at_once_give_one_cache(bag, tmp_path):
    whole = gather(bag, tmp_path / 'whole')
    with slow_harvest(bag, tmp_path / 'cache', storing=0.005) as process:
        wait_for(process, tmp_path / 'cache', '*.partial/train/*.tar', 1)
        found = gather(bag, tmp_path / 'cache')
        assert process.wait(60) == 0
    assert contents(found.folder) == contents(whole.folder)


def limited(bag: Path, cache: Path, limit: str) -> subprocess.CompletedProcess:
    """A harvest in a process under some limit, which prints the error."""
    code = (
        f'{limit}\nimport sys\nfrom pathlib import Path\n'
        'from superpoint_training.harvest import HarvestConfig, HarvestError, harvest\n'
        'try:\n    harvest([Path(sys.argv[1])], None, HarvestConfig(held_out_run=12), Path(sys.argv[2]), False)\n'
        'except HarvestError as error:\n    print(error)\n'
    )
    return subprocess.run(
        [sys.executable, '-c', code, str(bag), str(cache)], capture_output=True, text=True, timeout=120, check=True
    )


def test_a_limit_on_writing_is_told_and_what_was_written_is_kept(bag, tmp_path):
    gather(bag, tmp_path)  # the survey; its file is small, but the limit below is for the shards
    for folder in tmp_path.glob('frames-*'):
        for file in folder.rglob('*.tar'):
            file.unlink()
        folder.rename(folder.with_name(folder.name + '.partial'))
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))'
    said = limited(bag, tmp_path, limit).stdout
    assert 'could not be written (File too large)' in said
    assert 'train_frames' in said
    assert not [path for path in tmp_path.glob('frames-*') if path.suffix != '.partial']
    assert len(gather(bag, tmp_path).train) > 80


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip('mounting needs a privilege')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_it_is_full(bag, small_disk):
    with pytest.raises(HarvestError, match=r'The frames take 2\.\d|The frames take \d+ MB, but'):
        gather(bag, small_disk)
    assert not list(small_disk.rglob('*.tar'))


def test_a_disk_that_fills_up_meanwhile_is_told_and_what_was_written_is_kept(bag, small_disk, monkeypatch):
    monkeypatch.setattr(run, 'require_space', lambda *arguments: None)
    with pytest.raises(HarvestError, match=r'The disk is full.* \(No space left on device\).*make room and call again'):
        gather(bag, small_disk)
    kept = contents(small_disk)
    shards = [name for name in kept if name.endswith('.tar')]
    assert len(shards) > 5
    assert not [path for path in small_disk.glob('frames-*') if path.suffix != '.partial']


def test_a_folder_that_can_not_be_made_is_told(bag, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(HarvestError, match='Not a directory'):
        gather(bag, tmp_path / 'file' / 'cache')


def test_a_recording_that_changes_while_it_is_read_is_told(bag, tmp_path, monkeypatch):
    def spoilt(message):
        raise run.ImageError('short data', 'gone')

    monkeypatch.setattr(run, 'to_array', spoilt)
    with pytest.raises(HarvestError, match='changed while it was read'):
        gather(bag, tmp_path)


def test_a_survey_that_was_spoilt_is_made_anew(bag, tmp_path):
    whole = gather(bag, tmp_path / 'whole')
    (file,) = (tmp_path / 'whole' / 'surveys').glob('*.npz')
    cache = tmp_path / 'cache' / 'surveys'
    cache.mkdir(parents=True)
    (cache / file.name).write_bytes(file.read_bytes()[:1000])
    assert contents(gather(bag, tmp_path / 'cache').folder) == contents(whole.folder)


def cut_at_a_frame(shard: Path) -> None:
    """As a disk does whose last blocks were never written: what is left is a tar."""
    content = shard.read_bytes()
    place = content.rindex(b'00-')
    shard.write_bytes(content[:place] + bytes(len(content) - place))


@pytest.mark.parametrize(
    'spoil', [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:30_000]), cut_at_a_frame]
)
@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_a_cache_that_was_spoilt_is_told(bag, tmp_path, split, spoil):
    spoil(max((gather(bag, tmp_path).folder / split).iterdir()))
    with pytest.raises(HarvestError, match=r'damaged .* remove it'):
        gather(bag, tmp_path)


@pytest.mark.parametrize('report', ['{}', '[1]', '{"total": {"train": 3'])
def test_a_report_that_was_spoilt_is_told(bag, tmp_path, report):
    (gather(bag, tmp_path).folder / 'report.json').write_text(report)
    with pytest.raises(HarvestError, match=r'damaged .* remove it'):
        gather(bag, tmp_path)
