"""What the shipped weights promise on real pictures; needs the data that `SUPERPOINT_DATA` points to."""

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frontend
from superpoint_training.evaluate import evaluate_pairs
from superpoint_training.peers import make_detector
from superpoint_training.protocols import PROTOCOLS

DATA = Path(os.environ.get('SUPERPOINT_DATA', Path(__file__).parents[1] / '../shared/data'))
KITCHEN = DATA / 'sequences' / '7scenes_redkitchen_a' / 'frames.tar'
PAIRS = DATA / 'pairs'


@pytest.mark.skipif(not KITCHEN.exists(), reason=f'no kitchen sequence at {KITCHEN}; set SUPERPOINT_DATA')
def test_three_hundred_inliers_between_frames_of_a_kitchen():
    frontend = Frontend(Detector.load('superpoint', device='cpu', max_keypoints=1000))
    inliers = []
    with tarfile.open(KITCHEN) as archive:
        for index, name in enumerate(sorted(archive.getnames())[:330:10]):
            for member in (name, f'{int(Path(name).stem) + 1:06d}{Path(name).suffix}'):
                encoded = archive.extractfile(member)
                if encoded is None:
                    continue
                image = cv2.imdecode(np.frombuffer(encoded.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
                frame = frontend.process(image, index * 10**9)
            inliers.append(int(frame.matches.inlier.sum()))
    assert np.mean(inliers) >= 300


@pytest.mark.skipif(not PAIRS.exists(), reason=f'no homography pairs at {PAIRS}; set SUPERPOINT_DATA')
def test_shipped_weights_against_sift_and_orb():
    names = ('superpoint', 'superpoint_small', 'sift', 'orb')
    results = evaluate_pairs(PAIRS, PROTOCOLS['kp2d-320'], {name: make_detector(name, 'cpu') for name in names})
    score = {name: result['matching_score'] for name, result in results.items()}
    repeated = {name: result['repeatability'] for name, result in results.items()}
    assert score['superpoint'] >= 1.35 * max(score['sift'], score['orb'])
    assert repeated['superpoint'] > repeated['sift']
    assert score['superpoint_small'] >= 0.9 * score['superpoint']
    assert repeated['superpoint_small'] >= 0.9 * repeated['superpoint']


@pytest.mark.skipif(not PAIRS.exists(), reason=f'no homography pairs at {PAIRS}; set SUPERPOINT_DATA')
def test_weights_learned_without_labels_against_sift_and_orb():
    learned = ('goodpoint', 'unsuperpoint', 'kp2d')
    detectors = {name: make_detector(name, 'cpu') for name in (*learned, 'sift', 'orb')}
    results = evaluate_pairs(PAIRS, PROTOCOLS['kp2d-320'], detectors)
    for name in learned:
        assert results[name]['matching_score'] > results['orb']['matching_score'], name
        assert results[name]['repeatability'] > results['sift']['repeatability'], name
