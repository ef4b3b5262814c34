"""Training examples: targets, pairs, and that they are functions of their number."""

import multiprocessing
import os
import signal

import cv2
import numpy as np
import pytest
import torch

from superpoint_training.distributed import World
from superpoint_training.examples import (
    PairExamples,
    PairsConfig,
    ShapeExamples,
    ShapesConfig,
    batches,
    cell_targets,
    expected_keypoints,
    workers_beside,
)
from superpoint_training.frames import Frames
from superpoint_training.homographies import HomographyConfig, inside, warp_points
from superpoint_training.labels import Labels
from superpoint_training.photometric import PhotometricConfig
from superpoint_training.recipes.superpoint import SuperPointTraining, pair_examples
from superpoint_training.sources import DrawnPicture, LabelledFrames, PlainFrames, RenderedShapes


def test_cell_targets_against_brute_force():
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(-5, [45, 29], (40, 2))
    targets = cell_targets(np.random.default_rng(1), keypoints, 24, 40)
    pixels = {tuple(np.round(k).astype(int)) for k in keypoints if inside(np.round(k)[None], 24, 40)[0]}
    for row in range(3):
        for column in range(5):
            here = {(y - 8 * row) * 8 + x - 8 * column for x, y in pixels if y // 8 == row and x // 8 == column}
            assert targets[row, column] in (here or {64})


def test_ties_in_a_cell_are_broken_by_lot():
    keypoints = np.array([[1.0, 1.0], [5.0, 6.0]])
    drawn = {int(cell_targets(np.random.default_rng(s), keypoints, 8, 8)[0, 0]) for s in range(40)}
    assert drawn == {1 * 8 + 1, 6 * 8 + 5}


def test_expected_keypoints_against_brute_force():
    rng = np.random.default_rng(0)
    keypoints, probabilities = rng.uniform(-4, [44, 28], (40, 2)), rng.uniform(0, 1, 40)
    expected = np.zeros((24, 40))
    for (x, y), probability in zip(keypoints, probabilities, strict=True):
        around = {
            (row, column): np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * 0.8**2))
            for row in range(round(y) - 2, round(y) + 3)
            for column in range(round(x) - 2, round(x) + 3)
        }
        for (row, column), share in around.items():
            if 0 <= row < 24 and 0 <= column < 40:
                expected[row, column] += probability * share / sum(around.values())
    found = expected_keypoints(keypoints, probabilities, 24, 40, 0.8)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert expected_keypoints(np.zeros((0, 2)), np.zeros(0), 24, 40, 0.8).tolist() == np.zeros((24, 40)).tolist()


def test_examples_depend_on_seed_and_number_alone(pictures):
    frames = Frames(pictures)
    labels = Labels({name: np.array([[30.0, 40, 1], [80, 60, 0.5]], np.float32) for name in frames.names}, {})
    sources = [(LabelledFrames(frames, labels), 1.0), (RenderedShapes(64), 1.0)]
    for dataset in (ShapeExamples(ShapesConfig(), 3), PairExamples(sources, PairsConfig(size=64), 3)):
        first, again, other = dataset[5], dataset[5], dataset[6]
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)


def test_pairs_show_their_points_at_the_same_texture(pictures):
    """Patches around corresponding points correlate: pictures, points and homographies tell one story."""
    frames = Frames(pictures)
    labels = Labels({name: np.zeros((0, 3), np.float32) for name in frames.names}, {})
    gentle = HomographyConfig((0.95, 1.05), 0.05, 0.0, 0.02)
    config = PairsConfig(96, gentle, gentle, UNSPOILT, 50, 1.0)
    dataset = PairExamples([(LabelledFrames(frames, labels), 1.0)], config, 0)
    correlations = []
    for index in range(8):
        example = dataset[index]
        a, b = (example[f'image_{v}'][0].numpy() for v in 'ab')
        points = zip(example['points_a'], example['points_b'], example['points_valid'], strict=True)
        for p, q, valid in points:
            if valid and min(p.min(), q.min()) > 8 and max(p.max(), q.max()) < 87:
                patches = [cv2.getRectSubPix(im, (11, 11), tuple(map(float, r))).ravel() for im, r in ((a, p), (b, q))]
                if min(np.std(patch) for patch in patches) > 10:
                    correlations.append(np.corrcoef(*patches)[0, 1])
    assert len(correlations) > 100
    assert np.median(correlations) > 0.95


class Still:
    """A source of one picture of any size with three keypoints."""

    labels = np.array([[70.0, 60, 1], [90, 70, 1], [60, 40, 1]])

    def __init__(self, picture):
        self.picture = picture

    def draw(self, rng):
        return DrawnPicture(self.picture, self.labels, True)


def grain(height, width):
    """A picture without a black pixel and in which every place looks different."""
    return np.random.default_rng(0).integers(1, 256, (height, width), dtype=np.uint8)


STILL = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.0)
UNSPOILT = PhotometricConfig(probability=0.0)


def test_pair_labels_move_with_the_view():
    shifted = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.05)
    example = PairExamples([(Still(grain(96, 96)), 1.0)], PairsConfig(96, STILL, shifted, points=10), 0)[0]
    cells = example['cells_a'].numpy()
    for x, y, _ in Still.labels.astype(int):
        assert cells[y // 8, x // 8] == y % 8 * 8 + x % 8
    assert (cells < 64).sum() == 3
    assert (example['cells_b'] < 64).sum() >= 2


def test_labels_that_are_spread_move_with_the_view_and_keep_their_probability():
    source = Still(grain(96, 96))
    source.labels = Still.labels * (0.8, 1, 0.4)
    shifted = HomographyConfig((1.0, 1.0), 0.0, 0.0, 0.05)
    example = PairExamples([(source, 1.0)], PairsConfig(96, STILL, shifted, points=10, label_sigma=0.5), 0)[0]
    assert 'cells_a' not in example
    for view, labels in (
        ('a', source.labels[:, :2]),
        ('b', warp_points(source.labels[:, :2], example['a_to_b'].numpy())),
    ):
        expected = example[f'expected_{view}'].numpy()
        assert expected.sum() == pytest.approx(1.2, abs=1e-5)
        for x, y in labels.round().astype(int):
            assert expected[y - 2 : y + 3, x - 2 : x + 3].sum() == pytest.approx(0.4, abs=1e-3)
            assert expected[y, x] == expected[y - 2 : y + 3, x - 2 : x + 3].max()


def test_sure_keypoints_are_described_rather_than_others():
    """In a picture larger than the views, in which these are bright and those are grey."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(10, 150, 8), np.arange(10, 150, 8)), -1).reshape(-1, 2)
    sure = rng.permutation(len(places)) % 2 == 0
    picture = np.zeros((160, 160), np.uint8)
    for (x, y), is_sure in zip(places, sure, strict=True):
        picture[y - 1 : y + 2, x - 1 : x + 2] = 250 if is_sure else 120
    source = Still(picture)
    source.labels = np.column_stack([places, np.where(sure, 0.9, 0.1)])
    examples = PairExamples([(source, 1.0)], PairsConfig(96, STILL, STILL, UNSPOILT, points=20, random_share=0.0), 0)
    seen = []
    for index in range(20):
        x, y = examples[index]['points_a'].round().int().T
        seen += examples[index]['image_a'][0, y, x].tolist()
    assert set(seen) == {250, 120}
    assert np.mean(np.equal(seen, 250)) > 0.8


def test_crops_come_from_everywhere_in_a_large_frame_and_hold_the_whole_of_a_small_one():
    config = PairsConfig(64, STILL, STILL, UNSPOILT, points=10)
    large, small = grain(100, 300), grain(40, 50)
    examples = PairExamples([(Still(large), 1.0)], config, 0)
    pictures = [examples[index]['image_a'][0].numpy() for index in range(60)]
    assert all((picture > 0).all() for picture in pictures)
    corners = [cv2.minMaxLoc(cv2.matchTemplate(large, picture, cv2.TM_CCOEFF_NORMED))[3] for picture in pictures]
    assert np.ptp([x for x, _ in corners]) > 0.8 * (300 - 64)
    assert np.ptp([y for _, y in corners]) > 0.8 * (100 - 64)
    alone = PairExamples([(Still(small), 1.0)], config, 0)[0]
    assert (alone['image_a'][0, 12:52, 7:57].numpy() == small).all()
    points = alone['points_a'][alone['points_valid']].numpy()
    assert len(points) > 3
    assert ((points >= (7, 12)) & (points < (57, 52))).all()
    assert alone['valid_a'].tolist() == [[2 <= r <= 5 and 2 <= c <= 5 for c in range(8)] for r in range(8)]


def test_sources_of_as_many_pictures_and_labels_are_told_apart(pictures):
    """By what they are written as, which a checkpoint keeps."""
    frames, others = Frames(pictures), Frames(pictures)
    others.names = [f'K\udcfcche/{name}' for name in frames.names]  # which is not UTF-8

    def labelled(each, moved):
        return LabelledFrames(each, Labels(dict.fromkeys(each.names, Still.labels + moved), {}))

    sources = [PlainFrames(frames), PlainFrames(others), labelled(frames, 0), labelled(frames, 1), labelled(others, 0)]
    assert len({repr(source) for source in sources}) == 5
    assert repr(labelled(Frames(pictures), 0)) == repr(sources[2])


def test_pictures_of_the_same_names_are_told_apart(pictures):
    frames = Frames(pictures)
    plain = repr(PlainFrames(frames))
    keypoints = dict.fromkeys(frames.names, Still.labels)
    labels = Labels(keypoints, {}, {name: frames.checksum(index) for index, name in enumerate(frames.names)})
    before = repr(LabelledFrames(frames, labels))
    assert before == repr(LabelledFrames(frames, Labels(keypoints, {})))
    cv2.imwrite(str(pictures / '2.png'), grain(40, 50))
    assert repr(PlainFrames(frames)) != plain
    with pytest.raises(ValueError, match=r"labels are of other pictures .*, '2\.png' for one: label these frames"):
        LabelledFrames(frames, labels)
    assert repr(LabelledFrames(frames, Labels(keypoints, {}))) == before


def test_a_picture_that_could_not_be_labelled_is_no_picture_without_keypoints(pictures):
    """But in files that know of no picture which it was there are only those."""
    frames = Frames(pictures)
    keypoints = dict.fromkeys(frames.names, Still.labels) | {'2.png': np.zeros((0, 3), np.float32)}
    known = {name: frames.checksum(index) for index, name in enumerate(frames.names)}
    assert len(LabelledFrames(frames, Labels(keypoints, {}, known))) == 4
    assert len(LabelledFrames(frames, Labels(keypoints, {}, known | {'2.png': 0}))) == 3
    assert len(LabelledFrames(frames, Labels(keypoints, {}, dict.fromkeys(frames.names, 0)))) == 4


def test_a_picture_that_can_not_be_read_leaves_its_place_to_others(pictures):
    (pictures / '2.png').write_bytes((pictures / '2.png').read_bytes()[:50])
    frames = Frames(pictures)
    labels = Labels(dict.fromkeys(frames.names, Still.labels), {})
    for source in (PlainFrames(frames), LabelledFrames(frames, labels)):
        with pytest.warns(UserWarning, match=r"'2\.png' .* is not a readable picture: others are taken for it"):
            drawn = [source.draw(np.random.default_rng(seed)).picture for seed in range(30)]
        assert len({picture.tobytes() for picture in drawn}) == 3
        again = [source.draw(np.random.default_rng(seed)).picture for seed in range(30)]
        assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    for file in pictures.iterdir():
        file.write_bytes(b'')
    with pytest.warns(UserWarning, match='others are taken'), pytest.raises(ValueError, match='not a readable picture'):
        PlainFrames(frames).draw(np.random.default_rng(0))


def test_sources_are_drawn_by_their_weights():
    dark, bright = (Still(np.full((64, 64), level, np.uint8)) for level in (10, 200))
    config = PairsConfig(64, STILL, STILL, UNSPOILT, points=10)
    examples = PairExamples([(dark, 1.0), (bright, 3.0)], config, 0)
    share = np.mean([int(examples[index]['image_a'].max()) == 200 for index in range(400)])
    assert share == pytest.approx(0.75, abs=0.07)
    with pytest.raises(ValueError, match='weight above 0'):
        PairExamples([(dark, 0.0)], config, 0)


def test_shapes_teach_the_detector_alone():
    examples = PairExamples([(RenderedShapes(96), 1.0)], PairsConfig(64, STILL, STILL, UNSPOILT, points=10), 0)
    drawn = [examples[index] for index in range(20)]
    assert any((example['cells_a'] < 64).any() for example in drawn)
    assert not any(example['points_valid'].any() or example['described'] for example in drawn)


def test_the_mix_of_a_recipe_names_its_sources(pictures):
    frames = Frames(pictures)
    source = LabelledFrames(frames, Labels(dict.fromkeys(frames.names, Still.labels), {}))
    config = SuperPointTraining(mix={'robot': 2.0, 'general': 1.0, 'shapes': 1.0})
    assert len(pair_examples(config, {'robot': source, 'general': source}).sources) == 3
    without = SuperPointTraining(mix={'robot': 2.0, 'general': 0.0})
    assert len(pair_examples(without, {'robot': source, 'general': source}).sources) == 1
    with pytest.raises(ValueError, match='no weight to frames'):
        pair_examples(config, {'frames': source})
    with pytest.raises(ValueError, match='names general, which is no source of pictures here; there are robot, shapes'):
        pair_examples(config, {'robot': source})


@pytest.mark.parametrize('weights', [(1.0, -0.1), (0.0, 0.0), (1.0, float('nan'))])
def test_weights_of_a_mix_are_not_negative_nor_all_nothing(pictures, weights):
    frames = PlainFrames(Frames(pictures))
    with pytest.raises(ValueError, match='must not be negative, nor all 0'):
        pair_examples(SuperPointTraining(mix=dict(zip(('robot', 'shapes'), weights, strict=True))), {'robot': frames})


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index


def test_ranks_share_a_batch_in_order():
    whole = list(batches(Numbers(), 6, 2, 4, 0, World()))
    parts = [list(batches(Numbers(), 6, 2, 4, 0, World(rank, 3))) for rank in range(3)]
    assert [batch.tolist() for batch in whole] == [list(range(12, 18)), list(range(18, 24))]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step] for part in parts]), batch)


@pytest.mark.parametrize(('device', 'together', 'expected'), [
    ('cpu', None, 1), ('cpu', 4, 1), ('cuda', None, 15), ('cuda', 4, 3), ('cuda', 16, 1),
])  # fmt: skip
def test_a_gpu_has_as_many_processes_make_examples_as_there_are_cores(monkeypatch, device, together, expected):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(16)))
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    if together:
        monkeypatch.setenv('LOCAL_WORLD_SIZE', str(together))
    assert workers_beside(torch.device(device)) == expected
    assert workers_beside(torch.device(device), 0) == 0


def test_ctrl_c_does_not_end_the_processes_that_make_examples():
    made = batches(Numbers(), 2, 0, 50, 1, World())
    next(made)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert [batch.tolist() for batch in made] == [[2 * step, 2 * step + 1] for step in range(1, 50)]
