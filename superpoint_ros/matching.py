"""Which feature of this frame (query) is which of the previous one (train), checked by epipolar geometry."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from superpoint_ros.camera import Camera
from superpoint_ros.features import Features, Neighbours
from superpoint_ros.keypoints import TINY
from superpoint_ros.pyramid import LEVEL_COST

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # comes with the extra `cpu`
    ThreadpoolController = None

FEWEST_VERIFIABLE = 8  # matches; any set of fewer agrees with some epipolar geometry


@dataclass(frozen=True)
class MatchSettings:
    """What makes two features a match. Raises ValueError for a value outside its range."""

    min_similarity: float = 0.5
    """Least similarity, the cosine of the two descriptors less `LEVEL_COST` for each level between them."""
    max_ratio: float = 1.0
    """The best descriptor's distance must be less than this share of the second best's; 1 is no test."""
    search_radius: float = 0.0
    """Most pixels between the two keypoints; 0 searches everywhere."""
    verify: bool = True
    """Check matches against the epipolar geometry that most of them agree on."""
    inlier_threshold: float = 2.0
    """Most pixels between a keypoint and its epipolar line, or curve in the picture of a lens that bends lines."""
    seed: int = 0
    """For the random samples of the geometric check; the same frames give the same inliers."""

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f'min_similarity must be in [-1, 1], not {self.min_similarity}')
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f'max_ratio must be in (0, 1], not {self.max_ratio}')
        if not self.search_radius >= 0:
            raise ValueError(f'search_radius must be 0 or more pixels, not {self.search_radius}')
        if not self.inlier_threshold > 0:
            raise ValueError(f'inlier_threshold must be more than 0 pixels, not {self.inlier_threshold}')


@dataclass(frozen=True)
class Matches:
    """Pairs of features, in ascending order of `query`; no feature is in two pairs."""

    query: np.ndarray
    """[M] int32, row in this frame's features."""
    train: np.ndarray
    """[M] int32, row in the previous frame's features."""
    similarity: np.ndarray
    """[M] float32, see `similarity_matrix`."""
    inlier: np.ndarray
    """[M] bool, whether the pair agrees with the geometry; all True where that is not checked."""

    def __len__(self) -> int:
        return len(self.query)

    @classmethod
    def empty(cls) -> Matches:
        """No pairs."""
        rows = np.zeros(0, np.int32)
        return cls(rows, rows, np.zeros(0, np.float32), np.zeros(0, bool))


def match(query: Features, train: Features, settings: MatchSettings | None = None) -> Matches:
    """Mutual nearest neighbours within the settings' limits, all marked as inliers; see `verify`."""
    settings = settings or MatchSettings()
    known = query.neighbours
    if known is not None and known.among == train.serial != 0 and not settings.search_radius:
        return _known_matches(known, settings)
    similarity = similarity_matrix(query, train, settings.search_radius)
    rows, columns = mutual_nearest(similarity, settings.min_similarity, settings.max_ratio)
    similarities = similarity[rows, columns]
    return Matches(rows.astype(np.int32), columns.astype(np.int32), similarities, np.ones(len(rows), bool))


def _known_matches(known: Neighbours, settings: MatchSettings) -> Matches:
    """What a comparison on the device gives within the limits of `mutual_nearest`."""
    rows = np.flatnonzero((known.partner >= 0) & (known.similarity >= settings.min_similarity))
    if settings.max_ratio < 1:
        best, second = known.similarity[rows], known.second[rows]
        rows = rows[_distance(best) < settings.max_ratio * _distance(second)]
    return Matches(rows.astype(np.int32), known.partner[rows], known.similarity[rows], np.ones(len(rows), bool))


def similarity_matrix(query: Features, train: Features, search_radius: float = 0.0) -> np.ndarray:
    """Cosines [Q, T] float32 less `LEVEL_COST` a level of difference; -inf for keypoints too far apart.

    That is more than `search_radius` pixels, unless it is 0. Raises ValueError for descriptors of two lengths.
    """
    q, t = query.descriptors, train.descriptors
    if q.shape[1] != t.shape[1]:
        raise ValueError(
            f'descriptors of {q.shape[1]} and of {t.shape[1]} values are of two networks: they do not compare'
        )
    if query.levels.any() or train.levels.any():
        q, t = _with_levels(query, train)
    with one_blas_thread():
        similarity = q @ t.T
        if search_radius:
            np.copyto(similarity, -np.inf, where=_squared_distances(query, train) > search_radius**2)
    return similarity


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it OpenBLAS computes on this thread alone.

    Its other threads would wait for a core that the network's have just left, in one of ten frames of a camera for
    longer than the product takes, and then hold it, spinning, while the network needs it again.
    """
    openblas = _openblas()
    return openblas.limit(limits=1) if openblas else nullcontext()


@cache
def _openblas() -> ThreadpoolController | None:
    return ThreadpoolController and ThreadpoolController().select(internal_api='openblas')


def _with_levels(query: Features, train: Features) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors and a few columns more, whose products are -LEVEL_COST |q - t|, that is q + t - 2 min(q, t)."""
    steps = np.arange(max(query.levels.max(initial=0), train.levels.max(initial=0)))
    q_reached, t_reached = (features.levels[:, None] > steps for features in (query, train))
    q = np.column_stack([2 * q_reached, -query.levels.astype(np.float32), -np.ones(len(query))])
    t = np.column_stack([t_reached, np.ones(len(train)), train.levels])
    return (
        np.hstack([query.descriptors, np.float32(LEVEL_COST) * q.astype(np.float32)]),
        np.hstack([train.descriptors, t.astype(np.float32)]),
    )


def _squared_distances(query: Features, train: Features) -> np.ndarray:
    """Of keypoints, [Q, T] float32 square pixels: |q|^2 - 2 q t + |t|^2 as one matrix product."""
    origin = train.keypoints.mean(axis=0) if len(train) else 0  # the middle, so that the terms stay small
    q, t = query.keypoints - origin, train.keypoints - origin
    q_terms = np.column_stack([q, (q * q).sum(axis=1), np.ones(len(q), np.float32)])
    t_terms = np.column_stack([-2 * t, np.ones(len(t), np.float32), (t * t).sum(axis=1)])
    return q_terms @ t_terms.T


def mutual_nearest(
    similarity: np.ndarray, min_similarity: float = -1.0, max_ratio: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs each of which is the other's most similar: rows [M], ascending, and columns [M].

    Of equally similar ones the lowest row and the lowest column win. similarity: [Q, T], such as cosines, or -inf.
    The ratio test is Lowe's, on Euclidean distances, among the columns that compete for a row; a row with one
    column passes.
    """
    if 0 in similarity.shape:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    columns = similarity.argmax(axis=1)
    best = similarity[np.arange(len(columns)), columns]
    # Comparing with the columns' maxima is seven times as fast as an argmax down the columns.
    mutual = np.flatnonzero((best == similarity.max(axis=0)[columns]) & (best >= min_similarity))
    rows = np.sort(mutual[np.unique(columns[mutual], return_index=True)[1]])
    if max_ratio < 1 and len(rows):
        others = similarity[rows]
        others[np.arange(len(rows)), columns[rows]] = -np.inf
        rows = rows[_distance(best[rows]) < max_ratio * _distance(others.max(axis=1))]
    return rows, columns[rows]


def _distance(similarity: np.ndarray) -> np.ndarray:
    """Euclidean distance of unit vectors of that cosine."""
    return np.sqrt(np.maximum(2 - 2 * similarity, 0))


def verify(
    matches: Matches,
    query: np.ndarray,
    train: np.ndarray,
    settings: MatchSettings,
    camera: Camera | None = None,
) -> Matches:
    """Mark the matches that agree with the camera's motion, by RANSAC with local optimisation (Chum et al. 2003).

    query, train: keypoints [N, 2] of the two frames in pixels; or, with `camera`, their undistorted rays [N, 3] with
    z = 1. Rays give the essential matrix, pixels the fundamental matrix. A match with a ray that is not finite is no
    inlier. Samples are judged in the plane z = 1, where 70 degrees off a fisheye's axis a pixel is eight times as long
    as in the middle; inliers in the pixels of the lens.

    Where no geometry can be estimated, as from fewer than 8 matches, the inliers are those that moved by no
    more than the threshold: what a camera at rest sees. Planar scenes, pure rotation and rest as such are no
    exception: many geometries explain them, and each has the right inliers.
    """
    before, now = train[matches.train, :2].astype(np.float64), query[matches.query, :2].astype(np.float64)
    rows = np.flatnonzero(np.isfinite(before + now).all(axis=1))
    before, now = before[rows], now[rows]
    threshold = settings.inlier_threshold
    scale = camera.focal if camera else 1.0
    geometry = _epipolar_geometry(before, now, threshold / scale, settings.seed, calibrated=camera is not None)
    if geometry is None:
        if camera:
            before, now = camera.project(before), camera.project(now)
        found = np.linalg.norm(now - before, axis=1) <= threshold
    elif camera and camera.is_distorted:
        found = epipolar_distances(before, now, geometry[0], camera) <= threshold
    else:
        found = geometry[1]
    inlier = np.zeros(len(matches), bool)
    inlier[rows] = found
    return replace(matches, inlier=inlier)


def _epipolar_geometry(
    before: np.ndarray, now: np.ndarray, threshold: float, seed: int, *, calibrated: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The matrix [3, 3] and its inliers [M] bool, or None without an estimate. before, now: [M, 2] float64."""
    if len(before) < FEWEST_VERIFIABLE:
        return None
    parameters = cv2.UsacParams()
    # OpenCV compares it to Sampson's distance, which of two points equally far off their lines is 1 / sqrt(2) as much.
    parameters.threshold = threshold / np.sqrt(2)
    parameters.randomGeneratorState = seed
    parameters.confidence = 0.999
    parameters.maxIterations = 1000
    parameters.score = cv2.SCORE_METHOD_MSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    parameters.loSampleSize = 20
    try:
        if calibrated:
            K, no_distortion = np.eye(3), np.zeros(4)
            model, inlier = cv2.findEssentialMat(before, now, K, K, no_distortion, no_distortion, parameters)
        else:
            model, inlier = cv2.findFundamentalMat(before, now, parameters)
    except cv2.error:  # how OpenCV 5 reports some degenerate sets
        return None
    return None if model is None or inlier is None else (model, inlier.ravel() != 0)


def epipolar_distances(before: np.ndarray, now: np.ndarray, essential: np.ndarray, camera: Camera) -> np.ndarray:
    """Pixels [M] between keypoints and their epipolar curves, to first order, the larger of both frames.

    before, now: rays [M, 2] in the plane z = 1. A curve is where the residual is 0: a pixel is as far from it as its
    residual is large, over how fast that grows from pixel to pixel.
    """
    lines = np.column_stack([before, np.ones(len(before))]) @ essential.T
    lines_before = np.column_stack([now, np.ones(len(now))]) @ essential
    residual = np.abs((now * lines[:, :2]).sum(axis=1) + lines[:, 2])
    # Half-way between both, where it is what it is at either, to first order, and is computed once.
    (xx, xy), (yx, yy) = camera.pixels_per_ray((before + now) / 2).transpose(1, 2, 0)
    slowest = np.minimum(*(np.hypot(yy * x - yx * y, xx * y - xy * x) for x, y, _ in (lines.T, lines_before.T)))
    return np.asarray(residual * np.abs(xx * yy - xy * yx) / np.maximum(slowest, TINY))
