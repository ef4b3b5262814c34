"""The vocabulary file, read as DBoW3 reads it, and loops found with it."""

import math
import tracemalloc
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy and Fast DDS')

from feature_bags import Walk, camera_info, write_bag

from superpoint_ros.exports import vocabulary
from superpoint_ros.exports.vocabulary import build_vocabulary, main, write_dbow3

IMAGES, LANDMARKS, SEEN, DIMENSION = 300, 6000, 120, 32


class Reader:
    """What DBoW3's loader and transformer do, node by node: OpenCV's parser, links by ids, the nearest child."""

    def __init__(self, path: Path) -> None:
        file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        root = file.getNode('vocabulary')
        self.k, self.L, self.scoring, self.weighting = (
            int(root.getNode(name).real()) for name in ('k', 'L', 'scoringType', 'weightingType')
        )
        nodes = root.getNode('nodes')
        self.descriptor, self.weight, children = {}, {}, defaultdict(list)
        for index in range(nodes.size()):
            node = nodes.at(index)
            number = int(node.getNode('nodeId').real())
            self.weight[number] = node.getNode('weight').real()
            children[int(node.getNode('parentId').real())].append(number)
            magic, kind, columns, *values = node.getNode('descriptor').string().split()
            assert (magic, int(kind), int(columns)) == ('dbw3', cv2.CV_32F, len(values))
            self.descriptor[number] = np.array(values, np.float32)
        self.children = {
            parent: (numbers, np.array([self.descriptor[number] for number in numbers]))
            for parent, numbers in children.items()
        }
        words = root.getNode('words')
        self.word_of = {
            int(words.at(i).getNode('nodeId').real()): int(words.at(i).getNode('wordId').real())
            for i in range(words.size())
        }
        file.release()

    def word(self, feature: np.ndarray) -> tuple[int, float]:
        node = 0
        while node in self.children:
            children, descriptors = self.children[node]
            node = children[int(((descriptors - feature) ** 2).sum(axis=1).argmin())]
        return self.word_of[node], self.weight[node]

    def transform(self, features: np.ndarray) -> dict[int, float]:
        """The bag-of-words vector: tf-idf, of L1 norm 1."""
        vector = defaultdict(float)
        for feature in features:
            word, weight = self.word(feature)
            if weight > 0:
                vector[word] += weight
        norm = sum(vector.values())
        return {word: value / norm for word, value in vector.items()}


def l1_score(one: dict[int, float], other: dict[int, float]) -> float:
    """1 for equal vectors, 0 without a common word (Galvez-Lopez & Tardos 2012, equation 2)."""
    words = one.keys() | other.keys()
    return 1 - 0.5 * sum(abs(one.get(word, 0) - other.get(word, 0)) for word in words)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope='module')
def places() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two visits of 300 places along a route: neighbours share landmarks, and no descriptor is twice the same."""
    rng = np.random.default_rng(0)
    landmarks = unit(rng.normal(size=(LANDMARKS, DIMENSION)))
    visits = []
    for _ in range(2):
        images = []
        for place in range(IMAGES):
            first = place * (LANDMARKS - SEEN) // (IMAGES - 1)
            rows = first + rng.permutation(SEEN)[: SEEN * 3 // 4]
            images.append(unit(landmarks[rows] + rng.normal(0, 0.05, (len(rows), DIMENSION))))
        visits.append(images)
    return visits[0], visits[1]


@pytest.fixture(scope='module')
def reader(places, tmp_path_factory) -> Reader:
    path = tmp_path_factory.mktemp('vocabulary') / 'vocabulary.yml'
    write_dbow3(build_vocabulary(places[0], branches=8, levels=3), path)
    return Reader(path)


def test_the_tree_is_whole(reader):
    assert (reader.k, reader.L, reader.weighting, reader.scoring) == (8, 3, 0, 0)
    assert sorted(reader.descriptor) == list(range(1, len(reader.descriptor) + 1))
    leaves = {node for node in reader.descriptor if node not in reader.children}
    assert set(reader.word_of) == leaves
    assert sorted(reader.word_of.values()) == list(range(len(leaves)))
    assert max(len(children) for children, _ in reader.children.values()) <= 8
    depth = {0: 0}
    for parent in sorted(reader.children):
        depth.update(dict.fromkeys(reader.children[parent][0], depth[parent] + 1))
    assert max(depth.values()) == 3
    assert len(leaves) > 300


def test_weights_are_inverse_document_frequencies(places, reader):
    images_with = defaultdict(int)
    for image in places[0]:
        for word in {reader.word(feature)[0] for feature in image}:
            images_with[word] += 1
    for node, word in reader.word_of.items():
        assert reader.weight[node] == pytest.approx(math.log(IMAGES / images_with[word]), abs=0.05)


def test_the_same_place_is_found_again_among_all(places, reader):
    known = [reader.transform(image) for image in places[0]]
    again = range(0, IMAGES, 20)
    scores = np.array([[l1_score(reader.transform(places[1][place]), vector) for vector in known] for place in again])
    best = scores.argmax(axis=1)
    # Neighbours share 5 of 6 landmarks, so the next one may come first now and then.
    assert (np.abs(best - again) <= 2).all()
    assert (best == again).mean() > 0.5
    elsewhere = [np.delete(row, range(max(0, p - 9), p + 10)).max() for row, p in zip(scores, again, strict=True)]
    assert (scores.max(axis=1) > 1.3 * np.array(elsewhere)).all()


def test_few_and_equal_descriptors_are_words_too(tmp_path):
    one = unit(np.ones((5, 4)))
    vocabulary = build_vocabulary([one, np.eye(4, dtype=np.float32), one[:0]], branches=10, levels=4)
    write_dbow3(vocabulary, tmp_path / 'few.yml')
    reader = Reader(tmp_path / 'few.yml')
    assert len(reader.word_of) == 5
    words = [reader.word(feature) for feature in (*np.eye(4), one[0])]
    assert len({word for word, _ in words}) == 5
    np.testing.assert_allclose([weight for _, weight in words], math.log(3))


def test_descriptors_that_are_all_the_same_are_one_word():
    vocabulary = build_vocabulary([unit(np.ones((5, 4)))] * 2)
    assert len(vocabulary.words) == 1
    np.testing.assert_allclose(vocabulary.descriptors[vocabulary.words[0]], 0.5)


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match='no descriptors'):
        build_vocabulary([np.zeros((0, 8), np.float32)])
    with pytest.raises(ValueError, match='One image'):
        build_vocabulary([np.eye(8, dtype=np.float32)])


def test_the_same_seed_gives_the_same_tree(places):
    one, same, other = (build_vocabulary(places[0][:20], 4, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.descriptors, same.descriptors)
    assert one.descriptors.shape != other.descriptors.shape or (one.descriptors != other.descriptors).any()


def test_the_tree_does_not_depend_on_which_image_a_descriptor_is_of(places, monkeypatch):
    monkeypatch.setattr(vocabulary, 'MOST', 1000)
    apart, together = (
        build_vocabulary(images, 4, 2) for images in (places[0], [np.concatenate(places[0]), places[0][0][:0]])
    )
    np.testing.assert_array_equal(apart.parents, together.parents)
    np.testing.assert_array_equal(apart.descriptors, together.descriptors)


def test_more_descriptors_than_the_tree_is_made_from_take_no_more_memory(places, monkeypatch):
    monkeypatch.setattr(vocabulary, 'MOST', 1000)
    tracemalloc.start()
    build_vocabulary(places[0], 4, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < sum(image.nbytes for image in places[0]) / 2


def test_the_command_on_a_bag(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', {'/features': Walk(5, points=100).messages()}, {'/camera_info': [camera_info()]})
    main([str(bag), str(tmp_path / 'vocabulary.yml'), '--branches', '4', '--levels', '2'])
    assert len(Reader(tmp_path / 'vocabulary.yml').word_of) == 16
    assert '16 words of 5 images' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='is no bag'):
        main([str(tmp_path / 'vocabulary.yml'), str(tmp_path / 'other.yml')])
    odd = write_bag(
        tmp_path / 'odd', {'/features': Walk(5, points=100).messages()}, {'/camera_info': [camera_info('omni')]}
    )
    main([str(odd), str(tmp_path / 'odd.yml'), '--branches', '4', '--levels', '2'])
    assert (tmp_path / 'odd.yml').read_bytes() == (tmp_path / 'vocabulary.yml').read_bytes()
