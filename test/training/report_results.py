"""Results as an evaluation writes them, made up but plausible, for the tests of the report."""

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np

from superpoint_training.report import PairPicture

SCENES = ('i_wall', 'v_graffiti', 'v_bark', 'i_bikes')
PAIRS_A_SCENE = 3


def make_results(
    names: Sequence[str] = ('superpoint', 'sift', 'orb'), seed: int = 0, scenes: Sequence[str] = SCENES
) -> dict[str, Any]:
    """Every part that results.json can have; the first pair of the first detector lacks what can be lacking."""
    rng = np.random.default_rng(seed)
    detectors = {name: _detector(rng, 0.5 + 0.1 * rng.random(), scenes) for name in names}
    pairs = list(detectors[names[0]]['per_pair'])
    detectors[names[0]]['per_pair'][pairs[0]] |= {'localization_error': None, 'corner_error': None}
    return {
        'format': 1,
        'command': 'evaluate --pairs pairs --protocol kp2d-320',
        'created': '2026-01-02T03:04:05Z',
        'versions': {'superpoint_ros': '0.1.0', 'numpy': '2.0'},
        'machine': 'a machine with 2 cores',
        'seed': 0,
        'protocol': 'kp2d-320',
        'protocol_settings': {'width': 320, 'height': 240, 'keypoints': 300, 'crop': False},
        'source': {'pairs': 'pairs', 'scenes': len(scenes), 'pairs_count': len(pairs)},
        'skipped': [{'what': 'v_broken/H_1_2', 'why': 'it holds 8 numbers, a homography has 9'}],
        'coarse_truth': ['v_bark 1-3'],
        'detectors': detectors,
    }


def _detector(rng: np.random.Generator, skill: float, scenes: Sequence[str]) -> dict[str, Any]:
    per_pair = {
        f'{scene} 1-{k}': {
            'repeatability': skill + 0.2 * rng.random() - 0.03 * k,
            'localization_error': 0.8 + rng.random(),
            'matching_score': skill * rng.random(),
            'nn_map': skill * rng.random(),
            'coverage': rng.random(),
            'corner_error': float(rng.gamma(1.0, 3.0)),
        }
        for scene in scenes
        for k in range(2, 2 + PAIRS_A_SCENE)
    }
    recall = np.linspace(0, skill, 50)
    return {
        'description': 'a detector on cpu',
        **means(per_pair),
        'splits': {
            word: means({pair: figures for pair, figures in per_pair.items() if pair.startswith(word[0])})
            for word in ('illumination', 'viewpoint')
        },
        'per_pair': per_pair,
        'precision_recall': {'recall': recall.tolist(), 'precision': (1 - recall**2).tolist()},
        'relative_pose': {
            'kitchen': {
                gap: {
                    'pairs': 20,
                    'auc': {t: skill * int(t) / 20 / int(gap) ** 0.3 for t in ('5', '10', '20')},
                    'inliers': 200 / int(gap) ** 0.5,
                    'inlier_ratio': skill,
                    'per_pair': {
                        f'{start}-{start + int(gap)}': {
                            'error': None if start == 3 else float(rng.gamma(1.0, 5.0)),
                            'inliers': float(rng.integers(50, 200)),
                            'inlier_ratio': rng.random(),
                        }
                        for start in range(20)
                    },
                }
                for gap in ('1', '10', '30')
            }
        },
        'self_consistency': means(per_pair) | {'per_pair': per_pair},
        'track_length': {'frames': 30, 'mean': 7.5, 'mean_of_points': 11.0, 'inliers': 90.0, 'inlier_ratio': None},
    }


def means(per_pair: dict[str, dict[str, float]]) -> dict[str, Any]:
    """As the evaluation averages them."""

    def mean(key: str) -> float:
        return float(np.mean([figures[key] for figures in per_pair.values()]))

    errors = np.array([figures['corner_error'] for figures in per_pair.values()])
    keys = ('repeatability', 'localization_error', 'matching_score', 'nn_map', 'coverage')
    return {
        'pairs': len(per_pair),
        **{key: mean(key) for key in keys},
        'homography_accuracy': {str(t): float(np.mean(errors <= t)) for t in (1, 3, 5)},
        'harmonic_mean': 0.4,
    }


def make_shapes_results() -> dict[str, Any]:
    """Of an evaluation on Synthetic Shapes."""
    curve = {'recall': [0.0, 0.5, 1.0], 'precision': [1.0, 0.9, 0.4]}
    return {
        'protocol': 'synthetic-shapes-noisy',
        'detectors': {
            'magicpoint': {
                'pictures': 90, 'mAP': 0.944, 'AP_all': 0.933, 'AP': {'star': 0.95, 'cube': 0.9},
                'precision_recall': curve,
            },
            'fast': {'pictures': 90, 'mAP': 0.18, 'AP_all': None, 'AP': {'star': 0.1}, 'precision_recall': curve},
        },
    }  # fmt: skip


def draw(detector: str, pair: str) -> PairPicture:
    """Noise with some matches; the second picture is smaller."""
    rng = np.random.default_rng(0)
    first = cv2.GaussianBlur(rng.integers(0, 255, (240, 320), np.uint8), (9, 9), 3)
    points = rng.uniform(0, [199, 149], (60, 2))
    return PairPicture(detector, pair, first, first[:180, :240].copy(), points, points + 3.0, rng.random(60) < 0.7)


class PageReader(HTMLParser):
    """What a page holds: its tables as rows of texts, all visible text, tags with attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ''
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if 'style' in self._open:
            return
        self.text += data
        if {'td', 'th'} & set(self._open):
            self.tables[-1][-1][-1] += data.strip()

    def attributes(self, tag: str, name: str) -> list[str]:
        """The values that an attribute has in the tags of a kind."""
        return [value for found, attributes in self.tags if found == tag and (value := attributes.get(name))]
