"""Recorded `features` -> a visual vocabulary as DBoW3 reads it: for loop closing and relocalisation by descriptors.

export_vocabulary features.mcap vocabulary.yml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from superpoint_ros.arguments import at_least
from superpoint_ros.clouds import dequantise
from superpoint_ros.exports.recorded import read_recorded
from superpoint_ros.files import write_whole

BRANCHES, LEVELS = 10, 4
STEPS = 10
"""Of k-means, at most."""
MOST = 300_000
"""Descriptors that the tree is made from, spread evenly over the images."""
_TF_IDF, _L1_NORM = 0, 0  # DBoW3's numbers


@dataclass(frozen=True)
class Vocabulary:
    """A tree of N nodes whose leaves are the words, by hierarchical k-means (Nister & Stewenius 2006).

    Attributes:
        branches, levels: most children of a node, and most steps from the root to a leaf.
        parents: [N] of each node, ascending; the root is node 0 and its own parent.
        descriptors: [N, D] float32, mean of what came to each node; 0 for the root.
        weights: [N] inverse document frequency of the words, ln(images / images with the word); 0 for other nodes.
    """

    branches: int
    levels: int
    parents: np.ndarray
    descriptors: np.ndarray
    weights: np.ndarray

    @property
    def words(self) -> np.ndarray:
        """[W] nodes without children, ascending: word w is node words[w]."""
        return np.setdiff1d(np.arange(len(self.parents)), self.parents)

    def nodes_of(self, descriptors: np.ndarray) -> np.ndarray:
        """[M] the leaf that each descriptor [M, D] comes to: at each node the nearest child."""
        nodes = np.zeros(len(descriptors), np.intp)
        for _ in range(self.levels):
            for node in np.unique(nodes):
                first, end = np.searchsorted(self.parents[1:], [node, node + 1]) + 1
                if first < end:
                    rows = np.flatnonzero(nodes == node)
                    nearest = _squared_distances(descriptors[rows], self.descriptors[first:end]).argmin(axis=1)
                    nodes[rows] = first + nearest
        return nodes


def build_vocabulary(
    images: Sequence[np.ndarray], branches: int = BRANCHES, levels: int = LEVELS, seed: int = 0
) -> Vocabulary:
    """The vocabulary of images' descriptors, each [M, D] float32 or int8. The same seed gives the same tree.

    Raises:
        ValueError: there are no descriptors, or those of one image alone, in which all words are as rare.
    """
    total = sum(map(len, images))
    if not total:
        raise ValueError('There are no descriptors to make a vocabulary of.')
    if len(images) < 2:
        raise ValueError('One image does not tell which words are rare: record more, of many places.')
    every = -(-total // MOST)
    ends = accumulate(map(len, images))
    chosen = [image[(len(image) - end) % every :: every] for image, end in zip(images, ends, strict=True)]
    descriptors = np.concatenate(list(map(dequantise, chosen)))
    rng = np.random.default_rng(seed)
    parents, means = [0], [np.zeros(descriptors.shape[1], np.float32)]
    level = [(0, np.arange(len(descriptors)))]
    for _ in range(levels):
        below = []
        for parent, rows in level:
            for members in _split(descriptors, rows, branches, rng) or ([rows] if parent == 0 else []):
                below.append((len(parents), members))
                parents.append(parent)
                means.append(descriptors[members].mean(axis=0))
        level = below
    tree = Vocabulary(branches, levels, np.array(parents), np.array(means), np.zeros(len(parents)))
    seen = np.zeros(len(parents), np.intp)  # images with each word
    for image in images:
        seen[np.unique(tree.nodes_of(dequantise(image)))] += 1
    weights = np.log(len(images) / np.maximum(seen, 1)) * (seen > 0)
    return Vocabulary(branches, levels, tree.parents, tree.descriptors, weights)


def write_dbow3(vocabulary: Vocabulary, path: Path) -> None:
    """Write the layout of DBoW3's `Vocabulary::save` to a .yml file: OpenCV's YAML, float descriptors, tf-idf, L1."""
    write_whole(path, ''.join(_yaml(vocabulary)).encode())


def _yaml(vocabulary: Vocabulary) -> Iterator[str]:
    yield '%YAML:1.0\n---\nvocabulary:\n'
    yield f'   k: {vocabulary.branches}\n   L: {vocabulary.levels}\n'
    yield f'   scoringType: {_L1_NORM}\n   weightingType: {_TF_IDF}\n   nodes:\n'
    for node, (parent, weight) in enumerate(zip(vocabulary.parents, vocabulary.weights, strict=True)):
        if node:
            # After a name for its own layout, OpenCV's number of the type CV_32F and the length.
            numbers = ' '.join(f'{value:.6g}' for value in vocabulary.descriptors[node])
            descriptor = f'dbw3 5 {vocabulary.descriptors.shape[1]} {numbers} '
            yield f'      - {{ nodeId:{node}, parentId:{parent}, weight:{weight:.8e},\n'
            yield f'          descriptor:"{descriptor}" }}\n'
    yield '   words:\n'
    for word, node in enumerate(vocabulary.words):
        yield f'      - {{ wordId:{word}, nodeId:{node} }}\n'


def _split(descriptors: np.ndarray, rows: np.ndarray, parts: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows [M] in up to `parts` clusters by k-means; none where all descriptors are the same."""
    members = descriptors[rows]
    centres = _spread_centres(members, parts, rng)
    if len(centres) < 2:
        return []
    labels = np.full(len(rows), -1)
    for _ in range(STEPS):
        nearest = _squared_distances(members, centres).argmin(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        for part in np.unique(labels):
            centres[part] = members[labels == part].mean(axis=0)
    return [rows[labels == part] for part in np.unique(labels)]


def _spread_centres(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` different members, each drawn by its squared distance to those before (k-means++)."""
    centres = [members[rng.integers(len(members))]]
    distances = ((members - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count and distances.max() > 1e-9:
        chosen = members[rng.choice(len(members), p=distances / distances.sum(dtype=np.float64))]
        centres.append(chosen)
        distances = np.minimum(distances, ((members - chosen) ** 2).sum(axis=1))
    return np.array(centres)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] between [A, D] and [B, D], less what is the same along a row."""
    return (b * b).sum(axis=1) - 2 * a @ b.T


def main(args: list[str] | None = None) -> None:
    """Export a bag's vocabulary; ends with status 1 and a message when it can't, and 130 when it is interrupted."""
    parser = argparse.ArgumentParser(prog='export_vocabulary', description=__doc__)
    parser.add_argument('bag', type=Path, help='bag with `features`')
    parser.add_argument('out', type=Path, help='file to write; DBoW3 wants its name to end in .yml')
    parser.add_argument('--topic', default='', help='of the features, where the bag has several cameras')
    parser.add_argument(
        '--branches', type=at_least(2), default=BRANCHES, help='children of a node; default: %(default)s'
    )
    parser.add_argument('--levels', type=at_least(2), default=LEVELS, help='of the tree; default: %(default)s')
    options = parser.parse_args(args)
    try:
        frames = read_recorded(options.bag, options.topic, calibrated=False).frames
        vocabulary = build_vocabulary([frame.descriptors for frame in frames], options.branches, options.levels)
        write_dbow3(vocabulary, options.out)
    except (ValueError, OSError) as error:
        sys.exit(f'export_vocabulary: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    print(f'{options.out}: {len(vocabulary.words)} words of {len(frames)} images.')


if __name__ == '__main__':
    main()
