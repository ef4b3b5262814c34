"""From recordings to cached frames: what is kept, how it is told, what is refused, and that it is found again."""

import json
import os
import shutil
import tracemalloc
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from drives import PERIOD_NS, START_NS, STORAGES, drive, storage_file, write_bag

from superpoint_training.frames import Frames
from superpoint_training.harvest import (
    HarvestConfig,
    HarvestError,
    harvest,
    list_topics,
    plan_harvest,
    survey,
    survey_share,
)

COUNT = 160
TOPIC = '/camera/image_raw'
PICTURES = drive(COUNT)
CONFIG = HarvestConfig(held_out_run=12)


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', {TOPIC: PICTURES})


def gather(recordings, cache, topics=None, **settings):
    settings = {'held_out_run': 12, **settings}
    return harvest(recordings, topics, HarvestConfig(**settings), cache, show_progress=False)


def numbers(frames: Frames) -> list[int]:
    """Which recorded images frames are, by their names."""
    return [int(Path(name).stem) for name in frames.names]


def check_pictures(frames: Frames, pictures: list[np.ndarray] = PICTURES) -> None:
    for index, number in enumerate(numbers(frames)):
        np.testing.assert_array_equal(frames[index], pictures[number])


@pytest.mark.parametrize('storage', STORAGES)
def test_frames_are_the_recorded_images_apart_in_time(tmp_path, storage):
    path = write_bag(tmp_path / f'drive{".bag" if storage == "ros1" else ""}', {TOPIC: PICTURES}, storage)
    found = gather([path], tmp_path / 'cache')
    check_pictures(found.train)
    check_pictures(found.held_out)
    train, held_out = numbers(found.train), numbers(found.held_out)
    assert train == sorted(train)
    assert len(train) == found.report['total']['train'] > 90
    assert len(held_out) == found.report['total']['held_out'] == 32
    gap = found.report['gap_ns'] / PERIOD_NS
    assert min(abs(a - b) for a in train for b in held_out) > gap >= 3


def test_held_out_pairs_are_real_frames_exactly_so_far_apart(bag, tmp_path):
    found = gather([bag], tmp_path)
    recorded = numbers(found.held_out)
    for gap in (1, 5, 10):
        pairs = found.held_out_pairs(gap)
        assert {recorded[b] - recorded[a] for a, b in pairs} == {gap}
        assert len(pairs) == 2 * (16 - gap)
        assert len(set(pairs)) == len(pairs)
    assert found.held_out_pairs(200) == []
    with pytest.raises(ValueError, match='at least 1'):
        found.held_out_pairs(0)


def test_pairs_are_of_one_camera_and_count_the_images_that_were_dropped(tmp_path):
    left, right = drive(120, seed=1), drive(120, seed=2)
    for index in range(0, 120, 7):
        left[index] = np.zeros_like(left[index])
    topics = {'/cam/left': left, '/cam_left': right}  # which are one word in a name
    path = write_bag(tmp_path / 'stereo', topics)
    found = gather([path], tmp_path / 'cache', list(topics), held_out_frames=60, held_out_share=0.4, held_out_run=10)
    names = found.held_out.names
    pairs = found.held_out_pairs(3)
    numbered = {name: f'{number:02d}-cam_left' for number, name in enumerate(found.report['recordings'][0]['topics'])}
    assert {Path(names[a]).parent.name for a, _ in pairs} == set(numbered.values())
    for a, b in pairs:
        assert Path(names[a]).parent.name == Path(names[b]).parent.name
        assert int(Path(names[b]).stem) - int(Path(names[a]).stem) == 3
    moments = {
        topic: {int(Path(name).stem) for name in names if f'/{folder}/' in name} for topic, folder in numbered.items()
    }
    assert not any(number % 7 == 0 for number in moments['/cam/left'])
    assert moments['/cam/left'] <= moments['/cam_left']
    spans = [[int(Path(names[index]).stem) for index in block] for block in found.held_out_blocks()]
    assert sorted(index for block in found.held_out_blocks() for index in block) == list(range(len(names)))
    assert len(spans) == 3
    assert all(max(before) < min(after) for before, after in pairwise(spans))


def test_the_report_accounts_for_every_image(tmp_path):
    pictures = [picture.copy() for picture in PICTURES]
    pictures[4] = np.full_like(pictures[4], 255)
    pictures[9] = np.zeros_like(pictures[9])
    pictures[20:30] = [pictures[20]] * 10
    pictures[40] = cv2.GaussianBlur(pictures[40], (0, 0), 6)
    path = write_bag(tmp_path / 'drive', {TOPIC: pictures}, jpeg=True)
    found = gather([path], tmp_path / 'cache', held_out_share=0.1, held_out_run=16, seed=1)
    report = json.loads(json.dumps(found.report))
    total = report['total']
    assert total['seen'] == COUNT == total['train'] + total['held_out'] + sum(total['dropped'].values())
    (recording,) = report['recordings']
    assert recording['path'] == str(path)
    topic = recording['topics'][TOPIC]
    assert topic['dropped'] == total['dropped']
    assert {'over_exposed': 1, 'under_exposed': 1, 'blurred': 1}.items() <= total['dropped'].items()
    assert total['dropped']['near_duplicate'] >= 8
    assert topic['first_ns'] == START_NS
    assert topic['sizes'] == ['160x120']
    for block in report['held_out_blocks'] + report['train_blocks']:
        assert START_NS <= block['first_ns'] <= block['last_ns'] <= START_NS + COUNT * PERIOD_NS
    spans = sorted((b['first_ns'], b['last_ns']) for b in report['held_out_blocks'] + report['train_blocks'])
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    assert sum(block['frames'] for block in report['train_blocks']) == total['train']
    text = found.markdown()
    for word in ('1 nearly all white', '1 blurred', TOPIC, recording['sha256'], f'{total["train"]} frames to train on'):
        assert word in text


def test_the_hash_is_that_of_the_file(tmp_path):
    path = write_bag(tmp_path / 'drive.bag', {TOPIC: PICTURES}, 'ros1')
    found = gather([path], tmp_path / 'cache')
    assert found.report['recordings'][0]['sha256'] == sha256(path.read_bytes()).hexdigest()


def test_pictures_in_folders_beside_their_list_tell_recordings_apart(tmp_path):
    folders = tmp_path / 'monday', tmp_path / 'tuesday'
    for day, folder in enumerate(folders):
        (folder / 'rgb').mkdir(parents=True)
        for index, picture in enumerate(drive(60, seed=day)):
            cv2.imwrite(str(folder / 'rgb' / f'{index:04d}.png'), picture)
        listed = [f'{index * 0.1:.1f} rgb/{index:04d}.png' for index in range(60)]
        (folder / 'timestamps.txt').write_text('\n'.join(listed))
    settings = {'held_out_share': 0.2, 'held_out_run': 6, 'min_train_frames': 10}
    found = gather(folders, tmp_path / 'cache', **settings)
    assert found.report['total']['seen'] == 120
    cv2.imwrite(str(folders[0] / 'rgb' / '0031.png'), PICTURES[0])
    assert gather(folders, tmp_path / 'cache', **settings).folder != found.folder


def test_what_is_unchanged_is_found_again_and_what_changed_is_made_anew(bag, tmp_path, monkeypatch):
    first = gather([bag], tmp_path)
    measured = []
    monkeypatch.setattr(survey, 'measure', lambda *args: measured.append(1))
    monkeypatch.setattr('superpoint_training.harvest.run.to_array', lambda message: pytest.fail('read again'))
    moved = shutil.copytree(bag, tmp_path / 'moved' / bag.name)
    for again in (gather([bag], tmp_path), gather([moved], tmp_path)):
        assert again.folder == first.folder
        assert again.report == first.report
    monkeypatch.undo()
    monkeypatch.setattr(survey, 'measure', lambda *args: measured.append(1))
    other = gather([bag], tmp_path, train_frames=50)
    assert other.folder != first.folder
    assert len(other.train) == 50
    assert not measured  # what was measured serves other settings too
    with storage_file(moved).open('ab') as file:
        file.write(b'changed')
    monkeypatch.undo()
    assert gather([moved], tmp_path).folder != first.folder
    assert len(gather([bag], tmp_path).train) == len(first.train)


def test_the_same_recording_gives_the_same_cache_byte_for_byte(bag, tmp_path):
    one, other = (gather([bag], tmp_path / name) for name in ('one', 'other'))
    files = sorted(path.relative_to(one.folder) for path in one.folder.rglob('*') if path.is_file())
    assert files == sorted(path.relative_to(other.folder) for path in other.folder.rglob('*') if path.is_file())
    assert {path.suffix for path in files} == {'.tar', '.json'}
    for path in files:
        assert (one.folder / path).read_bytes() == (other.folder / path).read_bytes()


@pytest.mark.parametrize('limit', [{'first_frames': 60}, {'first_seconds': 60 * PERIOD_NS / 1e9}])
def test_a_limit_is_kept_for_each_topic(tmp_path, limit):
    path = write_bag(tmp_path / 'drive', {'/left': PICTURES, '/right': drive(COUNT, seed=3)})
    found = gather([path], tmp_path / 'cache', ['/left', '/right'], **limit)
    assert max(numbers(found.train) + numbers(found.held_out)) <= 59
    assert found.report['total']['seen'] == 120
    assert found.report['recordings'][0]['topics']['/right']['seen'] == 60


def test_large_images_are_stored_smaller(tmp_path):
    path = write_bag(tmp_path / 'drive', {TOPIC: drive(60, height=300, width=400)})
    found = gather([path], tmp_path / 'cache', short_side=75)
    assert {found.train[index].shape for index in range(len(found.train))} == {(75, 100)}


def test_recordings_of_all_kinds_at_once(bag, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index, picture in enumerate(drive(60, seed=5)):
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    video = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (160, 120))
    for picture in drive(80, seed=6):
        writer.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    writer.release()
    copied = shutil.copytree(bag, tmp_path / 'copied')
    found = gather([bag, folder, video, copied, bag], tmp_path / 'cache', [TOPIC])
    assert [Path(r['path']).name for r in found.report['recordings']] == ['drive', 'pictures', 'drive.avi']
    assert found.report['total']['seen'] == COUNT + 60 + 80
    members = {name.split('/', 1)[1].rsplit('/', 1)[0] for name in found.train.names}
    assert members == {'00-drive/00-camera_image_raw', '01-pictures/00-pictures', '02-drive/00-drive.avi'}


def test_without_a_word_the_busiest_camera_that_is_not_depth_is_taken(tmp_path):
    depth = [picture.astype(np.uint16) * 20 for picture in PICTURES]
    path = write_bag(tmp_path / 'drive', {'/depth': depth, '/rear': PICTURES[:100], '/front': PICTURES[:120]})
    found = gather([path], tmp_path / 'cache')
    assert list(found.report['recordings'][0]['topics']) == ['/front']


def test_a_damaged_recording_gives_what_it_has_and_the_report_says_so(tmp_path):
    path = write_bag(tmp_path / 'drive', {TOPIC: PICTURES})
    os.truncate(storage_file(path), storage_file(path).stat().st_size * 2 // 3)
    found = gather([path], tmp_path / 'cache')
    check_pictures(found.train)
    assert 100 <= found.report['total']['seen'] < COUNT
    assert str(path) in found.report['recordings'][0]['damage']
    assert 'Damaged:' in found.markdown()


def test_topics_of_several_recordings_are_listed(bag, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), PICTURES[0])
    listed = [(topic.recording, topic.name, topic.count) for topic in list_topics([bag, tmp_path])]
    assert listed == [(bag, TOPIC, COUNT), (bag, '/words', 1), (tmp_path, tmp_path.name, 1)]


def test_processes_share_the_measuring(bag, tmp_path, monkeypatch):
    other = write_bag(tmp_path / 'other', {TOPIC: drive(60, seed=4)})
    whole = gather([bag, other], tmp_path / 'whole')
    for rank in (1, 0):
        survey_share([bag, other], None, CONFIG, tmp_path / 'cache', rank, 2, show_progress=False)
        assert len(list((tmp_path / 'cache' / 'surveys').iterdir())) == 2 - rank
    monkeypatch.setattr(survey, 'measure', lambda *arguments: pytest.fail('measured again'))
    assert gather([bag, other], tmp_path / 'cache').report == whole.report


def test_a_plan_says_what_a_harvest_takes_and_writes_no_frame(bag, tmp_path):
    plan = plan_harvest([bag], None, CONFIG, tmp_path)
    assert (plan.images, plan.cache_bytes, plan.is_cached) == (COUNT, COUNT * 120 * 160, False)
    assert plan.seconds > 0
    assert (plan.topics, plan.problem) == ((TOPIC,), '')
    assert not list(tmp_path.rglob('*.tar'))
    found = harvest([bag], None, CONFIG, tmp_path, show_progress=False)
    assert sum(file.stat().st_size for file in found.folder.rglob('*.tar')) < 1.2 * plan.cache_bytes
    assert plan_harvest([bag], None, CONFIG, tmp_path).is_cached


@pytest.mark.parametrize(
    ('topic', 'words'),
    [
        ('/camera/image', ["no topic|has a topic '/camera/image'", TOPIC, 'Did you mean']),
        ('/words', ['std_msgs/msg/String', 'no images', TOPIC]),
        ('/empty', ['holds no image', TOPIC]),
    ],
)
def test_a_topic_without_images_is_refused_with_those_that_have_some(tmp_path, topic, words):
    path = write_bag(tmp_path / 'drive', {TOPIC: PICTURES[:30], '/empty': []})
    with pytest.raises(HarvestError) as caught:
        gather([path], tmp_path / 'cache', [topic])
    for word in words:
        caught.match(word)


def test_a_topic_may_be_in_some_of_the_recordings_only(bag, tmp_path):
    other = write_bag(tmp_path / 'other', {'/rear': drive(60, seed=4)}, start_ns=START_NS + 10**12)
    assert [r['path'] for r in gather([bag, other], tmp_path / 'a', ['/rear']).report['recordings']] == [str(other)]
    assert len(gather([bag, other], tmp_path / 'b', ['/rear', TOPIC]).report['recordings']) == 2


def test_too_few_frames_are_refused_with_the_reasons_and_remedies(tmp_path):
    path = write_bag(tmp_path / 'still', {TOPIC: [PICTURES[0]] * 60})
    with pytest.raises(HarvestError, match=r'of 60 recorded images are left to train on, and 20 are needed') as caught:
        gather([path], tmp_path / 'cache')
    caught.match('nearly the same as the one before')
    caught.match('min_change')
    assert not list((tmp_path / 'cache').glob('frames-*'))
    assert len(gather([path], tmp_path / 'cache', min_change=0.0).train) > 20
    with pytest.raises(HarvestError, match='to hold out'):
        gather([write_bag(tmp_path / 'short', {TOPIC: PICTURES[:4]})], tmp_path / 'cache', min_train_frames=1)
    assert gather([path], tmp_path / 'cache', min_change=0.0, held_out_share=0.0).held_out is None


def test_images_of_one_and_the_same_time_are_refused_as_such(tmp_path):
    """As of a simulation whose clock was not recorded."""
    path = write_bag(tmp_path / 'stopped', {TOPIC: PICTURES[:40]}, period_ns=0)
    with pytest.raises(HarvestError, match=r'All 40 recorded images have the same time, 2023-11-14 22:13:20 UTC'):
        gather([path], tmp_path / 'cache')


def test_images_that_can_not_be_decoded_are_no_reason_to_record_more(tmp_path):
    for index in range(40):
        (tmp_path / f'{index}.png').write_bytes(b'no picture')
    with pytest.raises(HarvestError, match=r'40 could not be decoded\. The first of these: .*decode') as caught:
        gather([tmp_path], tmp_path / 'cache')
    assert 'Record more' not in str(caught.value)
    assert 'decode' in plan_harvest([tmp_path], None, CONFIG, tmp_path / 'cache').problem


def test_a_plan_of_too_few_images_says_so_as_the_harvest_does(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.full((64, 64), index, np.uint8))
    with pytest.raises(HarvestError, match=f'Only 3 images are there, and {CONFIG.min_train_frames} to train on'):
        plan_harvest([tmp_path], None, CONFIG, tmp_path / 'cache')


@pytest.mark.parametrize('letter', ['x', 'ü', '厨'])
def test_a_recording_may_have_the_longest_name_there_is(tmp_path, letter):
    folder = tmp_path / (letter * (255 // len(letter.encode())))
    folder.mkdir()
    for index, picture in enumerate(drive(40)):
        cv2.imwrite(str(folder / f'{index:02d}.png'), picture)
    found = gather([folder], tmp_path / 'cache', min_train_frames=4, held_out_run=8, gap_seconds=0.05, min_change=0.01)
    assert {name.split('/')[1] for name in found.train.names} == {f'00-{letter * (57 // len(letter.encode()))}'}
    assert found.held_out_pairs(1)


def test_what_can_not_be_read_is_refused_by_name(tmp_path):
    (tmp_path / 'noise.mcap').write_bytes(b'noise' * 1000)
    for name in ('missing', 'noise.mcap'):
        with pytest.raises(HarvestError, match=name):
            gather([tmp_path / name], tmp_path / 'cache')
    with pytest.raises(HarvestError, match='No recording'):
        gather([], tmp_path / 'cache')
    silent = write_bag(tmp_path / 'silent', {TOPIC: []})
    with pytest.raises(HarvestError, match='no images'):
        gather([silent], tmp_path / 'cache')


@pytest.mark.parametrize(
    'setting', [{'held_out_share': 1.0}, {'short_side': 3}, {'train_frames': 0}, {'first_frames': 0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        HarvestConfig(**setting)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    path = write_bag(tmp_path / 'drive', {TOPIC: drive(300, height=240, width=320)})  # 23 MB
    tracemalloc.start()
    try:
        found = gather([path], tmp_path / 'cache')
        assert len(found.train) > 150
        found.train[100]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6  # a shard of 64 frames is 5 MB
