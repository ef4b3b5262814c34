"""`evaluate`'s figures for SIFT and ORB against an implementation of the same protocol that shares no code with it."""

import os
from pathlib import Path

import cv2
import independent_kp2d
import numpy as np
import pytest

from superpoint_ros.photographs import photographs
from superpoint_training.evaluate import evaluate_pairs
from superpoint_training.homographies import HomographyConfig, sample_homography
from superpoint_training.peers import make_detector
from superpoint_training.protocols import PROTOCOLS

DATA = Path(os.environ.get('SUPERPOINT_DATA', Path(__file__).parents[2] / '../shared/data'))
PAIRS = DATA / 'pairs'
AGREEMENT, AGREEMENT_OF_HOMOGRAPHIES = 0.005, 0.02
"""In the unit of each figure; a single pair of 41 moves a homography accuracy by 0.024."""


def write_warped_photographs(root: Path) -> None:
    """The package's photographs as scenes: each, and twice through a known homography, with other light and noise."""
    for index, photograph in enumerate(photographs()):
        rng = np.random.default_rng(index)
        picture = cv2.imread(str(photograph), cv2.IMREAD_GRAYSCALE)
        scene = root / photograph.stem
        scene.mkdir()
        cv2.imwrite(str(scene / '1.png'), picture)
        for k in (2, 3):
            homography = sample_homography(rng, *picture.shape, HomographyConfig((0.7, 1.4), 0.6, 0.15, 0.1))
            size = (picture.shape[1] + 40 * k, picture.shape[0] - 10 * k)
            warped = cv2.warpPerspective(picture, homography, size).astype(float)
            noisy = warped * rng.uniform(0.7, 1.2) + rng.normal(0, 6, warped.shape)
            cv2.imwrite(str(scene / f'{k}.png'), np.clip(noisy, 0, 255).astype(np.uint8))
            np.savetxt(scene / f'H_1_{k}', homography)


def check(root: Path, detector: str) -> None:
    ours = evaluate_pairs(root, PROTOCOLS['kp2d-320'], {detector: make_detector(detector)})[detector]
    theirs = independent_kp2d.evaluate(root, detector)
    ours |= {f'homography {threshold}': value for threshold, value in ours['homography_accuracy'].items()}
    for name, value in theirs.items():
        tolerance = AGREEMENT_OF_HOMOGRAPHIES if name.startswith('homography') else AGREEMENT
        assert ours[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize('detector', ['sift', 'orb'])
def test_figures_of_warped_photographs_agree(detector, tmp_path):
    write_warped_photographs(tmp_path)
    check(tmp_path, detector)


@pytest.mark.skipif(not PAIRS.exists(), reason=f'no homography pairs at {PAIRS}; set SUPERPOINT_DATA')
@pytest.mark.parametrize('detector', ['sift', 'orb'])
def test_figures_of_real_pairs_agree(detector):
    check(PAIRS, detector)
