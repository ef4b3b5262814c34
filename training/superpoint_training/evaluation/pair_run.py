"""A run over homography pairs: pictures, then predictions, then metrics, each for all pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_training.evaluation.pair_scores import PairScore, score_pair
from superpoint_training.evaluation.pairs import SPLITS, Pair
from superpoint_training.evaluation.pictures import UnreadablePictureError, read_grey
from superpoint_training.evaluation.predictions import Predictions
from superpoint_training.evaluation.problems import Skipped
from superpoint_training.evaluation.summary import curve, homography_accuracy, means
from superpoint_training.evaluation.work import each
from superpoint_training.protocols import Protocol
from superpoint_training.report.pictures import PairPicture


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """A pair at a protocol's size.

    Attributes:
        name, scene: of the pair.
        first, second: `[H, W]` uint8.
        homography: `[3, 3]`, from the first's pixels to the second's.
    """

    name: str
    scene: str
    first: np.ndarray
    second: np.ndarray
    homography: np.ndarray


def prepare_pairs(pairs: Sequence[Pair], protocol: Protocol, jobs: int = 1) -> tuple[list[PreparedPair], list[Skipped]]:
    """Read every picture once and bring it to the protocol's size; pairs of pictures that can't be read are skipped."""

    def prepared(path: Path) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            return protocol.prepare(read_grey(path))
        except UnreadablePictureError as error:
            return f'{path.name}: {error}'

    paths = sorted({path for pair in pairs for path in (pair.first, pair.second)})
    pictures = dict(zip(paths, each(paths, prepared, jobs, 'pictures', 'picture'), strict=True))
    usable, skipped = [], []
    for pair in pairs:
        first, second = pictures[pair.first], pictures[pair.second]
        if isinstance(first, str) or isinstance(second, str):
            skipped.append(Skipped(pair.name, first if isinstance(first, str) else str(second)))
            continue
        homography = second[1] @ pair.homography @ np.linalg.inv(first[1])
        usable.append(PreparedPair(pair.name, pair.scene, first[0], second[0], homography))
    return usable, skipped


class PairRun:
    """The metrics of detectors on prepared pairs."""

    def __init__(
        self, pairs: Sequence[PreparedPair], protocol: Protocol, detectors: Mapping[str, Predictions], jobs: int = 1
    ) -> None:
        self.protocol = protocol
        self._pairs = {pair.name: pair for pair in pairs}
        self._detectors = detectors
        self._jobs = jobs

    def results(self, coarse: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """By detector: means, splits, every pair, and the pooled precision-recall curve.

        coarse: names of pairs whose ground truth is too coarse for 1 px; the homography accuracy is also given
        without them.
        """
        self._predict()
        work = [(name, pair) for name in self._detectors for pair in self._pairs]
        scores = each(work, lambda item: self.score(*item), self._jobs, 'metrics', 'pair')
        by_detector: dict[str, dict[str, PairScore]] = {name: {} for name in self._detectors}
        for (name, pair), score in zip(work, scores, strict=True):
            by_detector[name][pair] = score
        return {name: self._summary(results, coarse) for name, results in by_detector.items()}

    def score(self, detector: str, pair: str) -> PairScore:
        """One detector on one pair, by their names."""
        prepared, predict = self._pairs[pair], self._detectors[detector]
        return score_pair(predict(prepared.first), predict(prepared.second), prepared.homography, self.protocol)

    def draw(self, detector: str, pair: str) -> PairPicture:
        """The pair with the detector's mutual nearest neighbours, right and wrong."""
        prepared, score = self._pairs[pair], self.score(detector, pair)
        return PairPicture(detector, pair, prepared.first, prepared.second, score.first, score.second, score.right)

    def _predict(self) -> None:
        pictures = {id(picture): picture for pair in self._pairs.values() for picture in (pair.first, pair.second)}
        work = [(predict, picture) for picture in pictures.values() for predict in self._detectors.values()]
        each(work, lambda item: len(item[0](item[1])), self._jobs, 'predictions', 'picture')

    def _summary(self, scores: Mapping[str, PairScore], coarse: Sequence[str]) -> dict[str, Any]:
        thresholds = self.protocol.homography_thresholds
        per_pair = {name: score.values for name, score in scores.items()}
        summary = means(per_pair, thresholds)
        fine = {name: values for name, values in per_pair.items() if name not in coarse}
        if 0 < len(fine) < len(per_pair):
            summary['homography_accuracy_without_coarse'] = homography_accuracy(fine, thresholds)
        splits = {split: _beginning(per_pair, start) for start, split in SPLITS.items()}
        if all(splits.values()):
            summary['splits'] = {split: means(values, thresholds) for split, values in splits.items()}
        rankings = [ranking for score in scores.values() for ranking in score.rankings]
        return summary | {'precision_recall': curve(rankings), 'per_pair': per_pair}


def _beginning(per_pair: Mapping[str, Mapping[str, float]], start: str) -> dict[str, Mapping[str, float]]:
    return {name: values for name, values in per_pair.items() if name.startswith(start)}
