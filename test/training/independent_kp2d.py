"""The protocol kp2d-320 a second time, from its description, with other means: an oracle for `evaluate`.

Point by point instead of by matrices, OpenCV's matcher instead of products of descriptors, coordinates carried through
the full-size pictures instead of a rescaled homography. It shares no code with the package.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 240
BEST = 300
NEAR = 3.0
COVERED = 20
EXTRACTORS = {
    'sift': (lambda: cv2.SIFT_create(nfeatures=5000), cv2.NORM_L2),
    'orb': (lambda: cv2.ORB_create(nfeatures=5000), cv2.NORM_HAMMING),
}


@dataclass
class View:
    """A picture squashed to 320x240, what was found in it, and its original size."""

    full_width: int
    full_height: int
    points: list
    descriptors: np.ndarray
    norm: int

    @classmethod
    def read(cls, path, detector):
        full = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        make, norm = EXTRACTORS[detector]
        found, descriptors = make().detectAndCompute(
            cv2.resize(full, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), None
        )
        best_first = sorted(range(len(found)), key=lambda index: -found[index].response)
        points = [found[index].pt for index in best_first]
        return cls(full.shape[1], full.shape[0], points, descriptors[best_first], norm)

    def to_full(self, point):
        return (point[0] + 0.5) * self.full_width / WIDTH - 0.5, (point[1] + 0.5) * self.full_height / HEIGHT - 0.5

    def from_full(self, point):
        return (point[0] + 0.5) * WIDTH / self.full_width - 0.5, (point[1] + 0.5) * HEIGHT / self.full_height - 0.5


@dataclass
class Mapping:
    """From the pixels of one squashed picture to those of another."""

    source: View
    target: View
    homography: np.ndarray

    def __call__(self, point):
        x, y = self.source.to_full(point)
        a, b, c = self.homography @ (x, y, 1.0)
        return self.target.from_full((a / c, b / c))

    def shows(self, point):
        x, y = self(point)
        return 0 <= x <= WIDTH - 1 and 0 <= y <= HEIGHT - 1


def apart(one, other):
    return ((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2) ** 0.5


def nearest_distance(point, others):
    return min((apart(point, other) for other in others), default=float('inf'))


def average_precision(ranked, total):
    """Area under the interpolated curve of (distance, right) entries; `total` could be right."""
    if total == 0:
        return 0.0
    ranked = sorted(ranked, key=lambda entry: entry[0])
    precisions, recalls, hits = [], [], 0
    for rank, (_, right) in enumerate(ranked, 1):
        hits += right
        precisions.append(hits / rank)
        recalls.append(hits / total)
    area, before = 0.0, 0.0
    for index, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[index:])
        before = recall
    return area


def one_way_score(start, end, start_points, end_points, to_start):
    """KP2D's matching score from one picture to the other."""
    matches = cv2.BFMatcher(start.norm, crossCheck=False).match(start.descriptors[:BEST], end.descriptors[:BEST])
    seen = right = 0
    for match in matches:
        target = end_points[match.trainIdx]
        if to_start.shows(target):
            seen += 1
            right += apart(to_start(target), start_points[match.queryIdx]) < NEAR
    return right / max(1, seen)


def one_way_precision(start, end, start_rows, end_rows, there):
    matches = cv2.BFMatcher(start.norm).match(start.descriptors[start_rows], end.descriptors[end_rows])
    ends = [end.points[row] for row in end_rows]
    ranked = [
        (match.distance, apart(there(start.points[start_rows[match.queryIdx]]), ends[match.trainIdx]) <= NEAR)
        for match in matches
    ]
    return average_precision(
        ranked, sum(nearest_distance(there(start.points[row]), ends) <= NEAR for row in start_rows)
    )


def figures(first, second, homography):
    """All figures of one pair."""
    there, back = Mapping(first, second, homography), Mapping(second, first, np.linalg.inv(homography))
    rows_first = [row for row, point in enumerate(first.points) if there.shows(point)][:BEST]
    rows_second = [row for row, point in enumerate(second.points) if back.shows(point)][:BEST]
    kept_first, kept_second = [first.points[row] for row in rows_first], [second.points[row] for row in rows_second]
    mapped = [there(point) for point in kept_first]

    from_first = [d for d in (nearest_distance(point, kept_second) for point in mapped) if d <= NEAR]
    from_second = [d for d in (nearest_distance(point, mapped) for point in kept_second) if d <= NEAR]
    means = [statistics.fmean(side) for side in (from_first, from_second) if side]
    together = len(kept_first) + len(kept_second)
    result = {
        'repeatability': (len(from_first) + len(from_second)) / together if together else None,
        'localization_error': statistics.fmean(means) if means else None,
        'matching_score': (
            one_way_score(first, second, first.points, second.points, back)
            + one_way_score(second, first, second.points, first.points, there)
        ) / 2,
    }  # fmt: skip

    mutual = []
    if kept_first and kept_second:
        matcher = cv2.BFMatcher(first.norm, crossCheck=True)
        matches = matcher.match(first.descriptors[rows_first], second.descriptors[rows_second])
        mutual = [(kept_first[m.queryIdx], kept_second[m.trainIdx]) for m in matches]
        result['nn_map'] = (
            one_way_precision(first, second, rows_first, rows_second, there)
            + one_way_precision(second, first, rows_second, rows_first, back)
        ) / 2
    right = [start for start, end in mutual if apart(there(start), end) <= NEAR]
    covered = np.zeros((HEIGHT, WIDTH))
    for y in range(HEIGHT):
        for x, y0 in right:
            if abs(y - y0) <= COVERED:
                half = (COVERED**2 - (y - y0) ** 2) ** 0.5
                covered[y, max(0, int(np.ceil(x - half))) : int(np.floor(x + half)) + 1] = 1
    result['coverage'] = covered.mean()
    result['corner_error'] = corner_error(mutual, there)
    return result


def corner_error(mutual, there):
    if len(mutual) < 4:
        return float('inf')
    starts, ends = (np.array(side, np.float64) for side in zip(*mutual, strict=True))
    estimate, _ = cv2.findHomography(starts, ends, cv2.RANSAC, 3.0, maxIters=5000)
    if estimate is None:
        return float('inf')
    errors = []
    for corner in ((0, 0), (WIDTH - 1, 0), (0, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1)):
        a, b, c = estimate @ (*corner, 1.0)
        errors.append(apart((a / c, b / c), there(corner)))
    return statistics.fmean(errors)


def evaluate(root: Path, detector: str) -> dict[str, float]:
    """Means over all pairs below a folder."""
    views, pairs = {}, []
    for path in sorted(root.glob('*/H_1_*')):
        pictures = [next(path.parent.glob(f'{name}.*')) for name in ('1', path.name[4:])]
        for picture in pictures:
            if picture not in views:
                views[picture] = View.read(picture, detector)
        pairs.append(figures(views[pictures[0]], views[pictures[1]], np.loadtxt(path)))
    names = ('repeatability', 'localization_error', 'matching_score', 'nn_map', 'coverage')
    means = {name: statistics.fmean(p[name] for p in pairs if p.get(name) is not None) for name in names}
    for threshold in (1, 3, 5):
        means[f'homography {threshold}'] = statistics.fmean(pair['corner_error'] <= threshold for pair in pairs)
    return means
