"""Training frames out of folders and tar files."""

import io
import multiprocessing
import tarfile
import tracemalloc

import cv2
import numpy as np
import pytest

from superpoint_training.evaluation.pictures import read_grey
from superpoint_training.frames import Frames, Shrunk, evenly


def test_frames_come_from_folders_and_tars_alike(pictures, tmp_path):
    with tarfile.open(tmp_path / 'shard.tar', 'w') as archive:
        for path in sorted(pictures.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    loose, packed = Frames(pictures), Frames(tmp_path / 'shard.tar')
    assert len(loose) == len(packed) == 4
    assert all((loose[i] == packed[i]).all() for i in range(4))
    assert len(Frames(pictures, limit=2)) == 2


def test_frames_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match='no pictures'):
        Frames(tmp_path)
    (tmp_path / 'broken.jpg').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match=r'broken\.jpg'):
        Frames(tmp_path)[0]


def test_pictures_are_seen_as_the_node_sees_them(tmp_path):
    """16 bits are stretched, and the orientation that a camera noted does not turn them."""
    deep = np.linspace(0, 4095, 20 * 40).reshape(20, 40).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    grey = np.tile(np.arange(40, dtype=np.uint8) * 6, (20, 1))
    encoded = cv2.imencode('.jpg', grey)[1].tobytes()
    tag = b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'  # EXIF: turn it by 90 degrees
    header = b'\xff\xe1' + (len(tag) + 8).to_bytes(2, 'big') + b'Exif\0\0' + tag
    (tmp_path / 'turned.jpg').write_bytes(encoded[:2] + header + encoded[2:])
    assert cv2.imread(str(tmp_path / 'turned.jpg'), cv2.IMREAD_GRAYSCALE).shape == (40, 20)
    frames = Frames(tmp_path)
    for read in (lambda name: frames[frames.names.index(name)], lambda name: read_grey(tmp_path / name)):
        stretched, upright = read('deep.png'), read('turned.jpg')
        assert stretched.dtype == np.uint8
        assert (stretched.min(), stretched.max()) == (0, 255)
        assert abs(upright.astype(int) - grey).max() < 10


def write_shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for name, picture in members.items():
            member = tarfile.TarInfo(name)
            content = cv2.imencode('.pgm', picture)[1].tobytes()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_shards_of_one_name_in_several_folders_are_all_there(tmp_path):
    for index, folder in enumerate(('a', 'b')):
        write_shard(tmp_path / folder / 'frames.tar', {'0.pgm': np.full((8, 8), index, np.uint8)})
    frames = Frames(tmp_path)
    assert frames.names == ['a/frames.tar/0.pgm', 'b/frames.tar/0.pgm']
    assert [frames[index][0, 0] for index in range(2)] == [0, 1]


def test_a_checksum_tells_a_picture_from_others_of_its_name_wherever_it_is(pictures, tmp_path):
    with tarfile.open(tmp_path / 'shard.tar', 'w') as archive:
        archive.add(pictures / '0.png', '0.png')
        archive.add(pictures / '1.png', '1.png')
    loose = Frames(pictures)
    sums = [loose.checksum(index) for index in range(4)]
    assert len(set(sums)) == 4
    assert [Frames(tmp_path / 'shard.tar').checksum(index) for index in range(2)] == sums[:2]
    assert [Shrunk(loose, 64).checksum(index) for index in range(4)] == sums
    (pictures / '0.png').write_bytes((pictures / '1.png').read_bytes())
    (pictures / '2.png').unlink()
    assert [loose.checksum(index) for index in range(4)] == [sums[1], sums[1], 0, sums[3]]


def test_shrunk_frames_keep_names_and_place(pictures):
    """A pixel of the smaller picture is the mean of those that it covers, and none is ever enlarged."""
    frames = Frames(pictures)
    half, as_before = Shrunk(frames, 64), Shrunk(frames, 200)
    assert half.names == frames.names
    assert len(half) == len(frames) == 4
    means = frames[1].reshape(64, 2, 80, 2).mean((1, 3))
    np.testing.assert_allclose(half[1], means, atol=0.51)
    assert (as_before[1] == frames[1]).all()


def test_shrunk_frames_are_read_once_while_there_is_room(pictures, monkeypatch):
    monkeypatch.setattr('superpoint_training.frames.KEPT_BYTES', 2 * 64 * 80)
    shrunk = Shrunk(Frames(pictures), 64)
    before = [shrunk[index].copy() for index in range(4)]
    for path in pictures.iterdir():
        path.unlink()
    for index in range(2):
        np.testing.assert_array_equal(shrunk[index], before[index])
    with pytest.raises(ValueError, match='not a readable picture'):
        shrunk[3]


def total(frames, index):
    return int(frames[index].sum())


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_worker_processes_read_the_same(pictures, tmp_path, method):
    rng = np.random.default_rng(0)
    write_shard(pictures / 'shard.tar', {f'{i}.pgm': rng.integers(0, 256, (40, 50), np.uint8) for i in range(20)})
    frames = Frames(pictures)
    expected = [total(frames, index) for index in range(len(frames))]  # opens the shard before the workers come
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(total, [(frames, index) for index in range(len(frames))]) == expected


def test_only_names_and_places_are_in_memory(tmp_path):
    write_shard(tmp_path / 'shard.tar', {f'{i}.pgm': np.full((480, 640), i, np.uint8) for i in range(60)})
    tracemalloc.start()
    try:
        frames = Frames(tmp_path)
        levels = [frames[index][0, 0] for index in range(60)]
        del levels[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert levels == list(range(1, 60))
    assert peak < 4 * 480 * 640


def test_a_shard_without_its_end_is_refused_by_name(tmp_path):
    write_shard(tmp_path / 'shard.tar', {f'{i}.pgm': np.zeros((40, 50), np.uint8) for i in range(9)})
    content = (tmp_path / 'shard.tar').read_bytes()
    (tmp_path / 'shard.tar').write_bytes(content[:9000])
    with pytest.raises(ValueError, match=r'shard\.tar'):
        Frames(tmp_path)


def test_a_picture_that_is_gone_is_named(pictures):
    frames = Frames(pictures)
    (pictures / '2.png').unlink()
    with pytest.raises(ValueError, match=r'2\.png'):
        frames[2]


def test_so_many_are_spread_evenly_from_the_first_to_the_last():
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly('abc', 3) == evenly('abc', 4) == ['a', 'b', 'c']
    assert evenly([], 4) == []
