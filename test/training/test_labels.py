"""Homographic adaptation and the files of labels."""

import signal

import cv2
import numpy as np
import pytest
import torch
from tiny import TINY

from superpoint_ros.networks import SuperPoint, score_map
from superpoint_training import labels as labels_module
from superpoint_training.adaptation import Adaptation, LabelConfig, find_labels
from superpoint_training.distributed import World
from superpoint_training.frames import Frames, Shrunk
from superpoint_training.homographies import HomographyConfig, sample_homography, valid_mask, warp_image, warp_points
from superpoint_training.labels import Labels, label_frames


class CornerCounter(torch.nn.Module):
    """Stands for a detector: says 'keypoint' at each cell's brightest pixel when it is bright."""

    metadata: dict = {}  # noqa: RUF012

    def forward(self, image):
        per_pixel = torch.nn.functional.pixel_unshuffle(image.float(), 8)
        dustbin = torch.full_like(per_pixel[:, :1], 0.5)
        return torch.cat([per_pixel, dustbin], dim=1) * 40, None


def scores(network, frame, config, seed=0):
    return Adaptation(network, config, torch.device('cpu')).scores(frame, np.random.default_rng(seed))


def test_adaptation_averages_where_views_see_and_finds_the_dot():
    frame = np.zeros((64, 96), np.uint8)
    cv2.circle(frame, (50, 30), 2, 255, -1)
    config = LabelConfig(views=24, homographies=HomographyConfig((0.9, 1.1), 0.3, 0.05, 0.05), min_views=3)
    heat = scores(CornerCounter(), frame, config)
    assert heat.shape == frame.shape
    assert np.isfinite(heat).all()
    assert (heat >= 0).all()
    assert heat.max() <= 1
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert np.hypot(x - 50, y - 30) <= 2
    single = scores(CornerCounter(), frame, LabelConfig(views=1))
    assert single[30, 50] > 0.01
    assert single[5, 5] < 1e-3


def test_adaptation_un_warps_exactly():
    """With one view besides the identity, the score is the mean over both, sampled where the view shows the pixel."""
    frame = np.random.default_rng(1).integers(0, 256, (40, 48), dtype=np.uint8)
    config = LabelConfig(views=2, homographies=HomographyConfig((1, 1), 0.0, 0.0, 0.2), erosion=0, min_views=1)
    heat = scores(CornerCounter(), frame, config, seed=5)
    homography = sample_homography(np.random.default_rng(5), 40, 48, config.homographies)
    view = cv2.warpPerspective(frame, homography, (48, 40))
    detector = CornerCounter()
    plain, seen = (score_map(detector(torch.from_numpy(i)[None, None] / 255)[0])[0].numpy() for i in (frame, view))
    for y, x in ((20, 24), (15, 30), (25, 20)):
        u, v = warp_points(np.array([[x, y]], float), homography)[0]
        u0, v0 = int(np.floor(u)), int(np.floor(v))
        fu, fv = u - u0, v - v0
        sampled = sum(
            seen[v0 + j, u0 + i] * (fu if i else 1 - fu) * (fv if j else 1 - fv) for i in (0, 1) for j in (0, 1)
        )
        assert heat[y, x] == pytest.approx((plain[y, x] + sampled) / 2, abs=0.02)


class Certain(torch.nn.Module):
    """Gives every pixel of a picture of a given width the same probability, and other pictures another."""

    def __init__(self, width, here, elsewhere):
        super().__init__()
        self.width, self.here, self.elsewhere = width, here, elsewhere

    def forward(self, image):
        probability = self.here if image.shape[-1] == self.width else self.elsewhere
        odds = torch.full((len(image), 65, image.shape[2] // 8, image.shape[3] // 8), 1.0)
        odds[:, :64] = 64 * probability / (1 - 64 * probability) / 64
        return odds.log(), None


def test_a_view_counts_where_it_shows_the_frame_within_its_eroded_border():
    """The pixels that two views see are those of the second view's mask, made by OpenCV, warped back."""
    frame = np.full((96, 128), 128, np.uint8)
    config = LabelConfig(views=2, homographies=HomographyConfig((0.6, 0.8), 0.8, 0.2, 0.1), erosion=5, min_views=2)
    judged = scores(Certain(128, 0.01, 0.01), frame, config, seed=3) > 0
    homography = sample_homography(np.random.default_rng(3), 96, 128, config.homographies)
    seen = valid_mask(frame.shape, homography, 96, 128, erosion=5)
    back = warp_image(seen.astype(np.uint8) * 255, np.linalg.inv(homography), 96, 128) > 127
    assert 0.3 < back.mean() < 0.9
    border = cv2.morphologyEx(back.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    assert (judged == back)[~border].all()
    assert (judged == back).mean() > 0.97


def test_scales_are_averaged_by_their_size():
    frame = np.full((64, 96), 128, np.uint8)
    config = LabelConfig(views=1, scales=(1.0, 0.5), min_views=1)
    averaged = scores(Certain(96, 0.012, 0.003), frame, config)
    np.testing.assert_allclose(averaged[10:-10, 10:-10], (0.012 + 0.5 * 0.003) / 1.5, rtol=0.02)
    assert averaged.min() > 0.001  # the frame itself counts up to its border


@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_a_spot_stays_where_it_is_at_every_scale(scale):
    """Its centre is that of a cell at half the size, so that the detector sees it evenly."""
    frame = np.zeros((64, 96), np.uint8)
    frame[20:28, 52:60] = 255
    heat = scores(CornerCounter(), frame, LabelConfig(views=1, scales=(scale,)))
    heat[heat < 0.01] = 0
    x, y = (heat.sum(axis) @ np.arange(heat.shape[1 - axis]) / heat.sum() for axis in (0, 1))
    assert (x, y) == (pytest.approx(55.5, abs=0.02), pytest.approx(23.5, abs=0.02))
    moved = HomographyConfig((1.0, 1.0), 0.3, 0.0, 0.1)
    heat = scores(CornerCounter(), frame, LabelConfig(views=8, homographies=moved, scales=(scale,)))
    heat[heat < 0.005] = 0
    assert heat[14:34, 46:66].sum() > 0.98 * heat.sum()


def test_too_little_memory_halves_the_views_at_once(capsys):
    class Hungry(CornerCounter):
        def forward(self, image):
            if len(image) > 2:
                torch.empty(2**50)
            return super().forward(image)

    frame = np.random.default_rng(1).integers(0, 256, (40, 48), dtype=np.uint8)
    config = LabelConfig(views=6)
    np.testing.assert_allclose(scores(Hungry(), frame, config), scores(CornerCounter(), frame, config), atol=1e-6)
    assert '1 instead of 3 views' in capsys.readouterr().err


def test_frames_of_any_size_are_labelled_and_other_settings_refused(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (('a', (40, 50)), ('b', (64, 32)), ('c', (7, 70))):
        cv2.imwrite(str(folder / f'{name}.png'), rng.integers(0, 256, shape, dtype=np.uint8))
    config, frames, out = LabelConfig(views=3), Frames(folder), tmp_path / 'labels.npz'
    network = SuperPoint(TINY)
    labels, finished = label_frames(network, frames, config, out, world=World(), minutes=0.0)
    assert (len(labels), finished) == (1, False)
    labels, finished = label_frames(network, frames, config, out, world=World())
    assert (list(labels.by_name), finished) == (frames.names, True)
    assert len(labels.by_name['c.png']) == 0
    with pytest.raises(ValueError, match='another configuration, network, seed or version'):
        label_frames(SuperPoint(TINY), frames, config, out, world=World())


@pytest.mark.parametrize('opened', [Frames, lambda folder: Shrunk(Frames(folder), 64)])
def test_labels_of_other_pictures_of_the_same_names_are_not_gone_on_with(tmp_path, pictures, opened):
    network, config, out = SuperPoint(TINY), LabelConfig(views=2), tmp_path / 'l.npz'
    label_frames(network, opened(pictures), config, out, world=World(), minutes=0.0)
    before = out.read_bytes()
    for path in pictures.iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(ValueError, match=r"l\.npz' has labels of other pictures .*, '0\.png' for one: remove it"):
        label_frames(network, opened(pictures), config, out, world=World())
    assert out.read_bytes() == before


def test_labels_go_on_where_pictures_not_labelled_yet_have_changed(tmp_path, pictures):
    how = SuperPoint(TINY), Frames(pictures), LabelConfig(views=2), tmp_path / 'l.npz'
    label_frames(*how, world=World(), minutes=0.0)
    cv2.imwrite(str(pictures / '3.png'), np.zeros((40, 50), np.uint8))
    labels, finished = label_frames(*how, world=World())
    assert (len(labels), finished) == (4, True)
    assert Labels.load(tmp_path / 'l.npz').checksums == {f'{i}.png': how[1].checksum(i) for i in range(4)}


def test_labels_that_do_not_know_their_pictures_are_gone_on_with(tmp_path, pictures):
    """As those made before they did."""
    how = SuperPoint(TINY), Frames(pictures), LabelConfig(views=2), tmp_path / 'l.npz'
    label_frames(*how, world=World(), minutes=0.0)
    with np.load(tmp_path / 'l.npz') as file:
        np.savez(tmp_path / 'l.npz', **{name: file[name] for name in file if name != 'checksums'})
    labels, finished = label_frames(*how, world=World())
    assert (len(labels), finished) == (4, True)
    assert labels.checksums == {'0.png': 0} | {f'{i}.png': how[1].checksum(i) for i in range(1, 4)}


def test_a_name_is_no_pattern(tmp_path, pictures):
    how = SuperPoint(TINY), Frames(pictures), LabelConfig(views=2), tmp_path / 'labels[2].npz'
    labels, finished = label_frames(*how, world=World())
    assert (len(labels), finished) == (4, True)
    assert [path.name for path in tmp_path.glob('*.npz')] == ['labels[2].npz']


def test_a_frame_that_can_not_be_read_gets_no_labels_and_is_named(tmp_path, pictures):
    (pictures / '1.png').write_bytes(b'nothing of a picture')
    config = LabelConfig(views=3, threshold=1e-4, min_views=1)
    with pytest.warns(UserWarning, match=r"'1\.png' .*: it gets no labels"):
        labels, finished = label_frames(SuperPoint(TINY), Frames(pictures), config, tmp_path / 'l.npz', world=World())
    assert finished
    assert [len(points) > 0 for points in labels.by_name.values()] == [True, False, True, True]


@pytest.mark.parametrize('damaged', [['1.png'], ['0.png', '1.png', '2.png', '3.png']])
def test_a_picture_that_was_mended_is_labelled_when_it_is_asked_for_again(tmp_path, pictures, damaged):
    how = SuperPoint(TINY), Frames(pictures), LabelConfig(views=3, threshold=1e-4, min_views=1)
    whole, _ = label_frames(*how, tmp_path / 'whole.npz', world=World())
    content = {name: (pictures / name).read_bytes() for name in damaged}
    for name in damaged:
        (pictures / name).write_bytes(content[name][:50])
    with pytest.warns(UserWarning, match='it gets no labels'):
        label_frames(*how, tmp_path / 'l.npz', world=World())
    with pytest.warns(UserWarning, match='it gets no labels'):
        assert label_frames(*how, tmp_path / 'l.npz', world=World())[1]
    for name in damaged:
        (pictures / name).write_bytes(content[name])
    labels, finished = label_frames(*how, tmp_path / 'l.npz', world=World())
    assert finished
    assert labels.checksums == whole.checksums
    for name, points in whole.by_name.items():
        np.testing.assert_array_equal(labels.by_name[name], points)


def test_ctrl_c_at_the_last_frame_is_not_lost(tmp_path, pictures, monkeypatch):
    frames, seen = Frames(pictures), []

    def find(scores, config):
        seen.append(scores)
        if len(seen) == len(frames):
            signal.raise_signal(signal.SIGINT)
        return find_labels(scores, config)

    monkeypatch.setattr(labels_module, 'find_labels', find)
    how = (SuperPoint(TINY), frames, LabelConfig(views=2), tmp_path / 'l.npz')
    labels, finished = label_frames(*how, world=World())
    assert (len(labels), finished) == (4, False)
    assert label_frames(*how, world=World())[1]


def test_every_pixel_of_a_frame_may_have_a_label():
    """Also of one whose sides are no multiples of 8."""
    frame = np.zeros((61, 95), np.uint8)
    frame[54, 88] = 255
    heat = scores(CornerCounter(), frame, LabelConfig(views=1))
    assert heat.shape == frame.shape
    assert np.unravel_index(heat.argmax(), heat.shape) == (54, 88)
    assert heat.max() > 0.01
    assert find_labels(heat, LabelConfig(threshold=0.01)).tolist() == [[88, 54, 1]]


def test_a_label_is_as_sure_as_all_that_is_around_its_peak_and_in_the_middle_of_it():
    heat = np.zeros((40, 48), np.float32)
    heat[10, 20], heat[10, 21], heat[12, 20] = 0.3, 0.1, 0.1
    heat[10, 23] = 0.04  # too far
    heat[30:33, 30:33] = 0.2
    heat[31, 31] = 0.25
    heat[35, 43], heat[36, 43] = 0.2, 0.1
    found = find_labels(heat, LabelConfig(threshold=0.05))
    np.testing.assert_allclose(found, [[20.2, 10.4, 0.5], [31, 31, 1], [43, 35 + 1 / 3, 0.3]], atol=1e-6)
    assert find_labels(np.zeros((0, 5), np.float32), LabelConfig()).shape == (0, 3)


def test_labels_of_the_version_before_are_not_gone_on_with(tmp_path, pictures):
    frames, network, config = Frames(pictures), SuperPoint(TINY), LabelConfig(views=2)
    labels, _ = label_frames(network, frames, config, tmp_path / 'l.npz', world=World())
    about = {key: value for key, value in labels.about.items() if key != 'format'}
    Labels(labels.by_name, about).save(tmp_path / 'l.npz')
    with pytest.raises(ValueError, match=r"l\.npz' was begun with another .* version: remove it"):
        label_frames(network, frames, config, tmp_path / 'l.npz', world=World())


def test_labels_of_the_version_before_are_sure(tmp_path):
    keypoints, lengths = np.array([[3, 4], [5, 6], [7, 8]], np.uint16), np.array([2, 1])
    np.savez(tmp_path / 'l.npz', names=['a', 'b'], lengths=lengths, keypoints=keypoints, about=np.array('{}'))
    loaded = Labels.load(tmp_path / 'l.npz').by_name
    assert {name: points.tolist() for name, points in loaded.items()} == {'a': [[3, 4, 1], [5, 6, 1]], 'b': [[7, 8, 1]]}


def test_labels_survive_the_disk(tmp_path):
    two, none = np.array([[1.5, 2, 0.7], [3, 4, 1]], np.float32), np.zeros((0, 3), np.float32)
    labels = Labels({'a': two, 'b': none}, {'n': 1}, {'b': 2**32 - 1})
    assert labels.density == 1
    assert labels.expected == pytest.approx(0.85)
    labels.save(tmp_path / 'l.npz')
    loaded = Labels.load(tmp_path / 'l.npz')
    assert loaded.about == {'n': 1}
    assert loaded.checksums == {'a': 0, 'b': 2**32 - 1}
    assert list(loaded.by_name) == ['a', 'b']
    np.testing.assert_array_equal(loaded.by_name['a'], two)
    assert loaded.by_name['b'].shape == (0, 3)
    whole = bytearray((tmp_path / 'l.npz').read_bytes())
    at = whole.index(b'PK', 4) - 30  # within a compressed array
    for damaged in (
        b'junk',
        whole[:200],
        whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 8]) + whole[at + 8 :],
    ):
        (tmp_path / 'l.npz').write_bytes(damaged)
        with pytest.raises(ValueError, match='not a labels file'):
            Labels.load(tmp_path / 'l.npz')
