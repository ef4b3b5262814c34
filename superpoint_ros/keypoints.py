"""From network outputs to keypoints: suppression, selection, sub-pixel positions, descriptor sampling.

Pixel convention, here and everywhere: pixel centres are integers, (0, 0) is the centre of the top-left pixel.
A cell of stride s has its centre at s * (k + 0.5) - 0.5. Keypoints are (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import cv2
import numpy as np

from superpoint_ros.pyramid import PER_OCTAVE, covering_pixels

TINY = 1e-12  # keeps logarithms and quotients finite
LEAST_BESIDE = 1e-4  # a score in another level that counts for nothing
MOST_LEVELS = 8
MOST_PER_OCTAVE = 4


@dataclass(frozen=True)
class KeypointSettings:
    """Which pixels of a score map become keypoints. Raises ValueError for a value outside its range.

    For networks that give a keypoint in every cell `nms_radius` and `subpixel` have no meaning and are not looked at.
    """

    max_keypoints: int = 1000
    """At most this many, the best first."""
    detection_threshold: float = 0.002
    """Scores must exceed this probability, each in its own level."""
    nms_radius: int = 4
    """No two keypoints are closer than this along both axes, in pixels."""
    border: int = 4
    """Width of the frame along the image's edges that yields no keypoints, in pixels."""
    subpixel: bool = True
    """Refine positions by a quadratic fit."""
    spread: int = 0
    """Side in pixels of the grid cells over which keypoints are spread evenly; 0 takes the best anywhere."""
    levels: int = 4
    """Sizes of the image that keypoints are found in, each smaller than the one before; see `levels_per_octave`.

    Things are then found again when they come nearer, and positions are more exact. A place may have a keypoint in each
    level, which suppression, border and sub-pixel positions see in the pixels of its level. Keypoints of all levels
    compete by score, of which half is what the levels beside say of the place; and descriptors are blended with those
    of the levels around, see `pyramid.blend_weights`. 1 is the image alone and takes half as long as 4.
    """
    levels_per_octave: int = PER_OCTAVE
    """Levels from one size to half of it. With 3, and 6 levels, more matches are right and positions more exact, for a
    third more time; the same number of keypoints covers less of the image."""

    @property
    def sizes(self) -> int:
        """How many sizes are looked at: all levels and, unless there is one, those of an octave more.

        They support the smallest levels as the others are supported from both sides. Keypoints of their own would be
        too far from exact.
        """
        return self.levels + self.levels_per_octave if self.levels > 1 else 1

    def __post_init__(self) -> None:
        for name in ('max_keypoints', 'nms_radius', 'border', 'spread', 'levels', 'levels_per_octave'):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f'{name} must be a whole number, not {getattr(self, name)!r}')
        if self.max_keypoints < 1:
            raise ValueError(f'max_keypoints must be at least 1, not {self.max_keypoints}')
        if not 0 <= self.detection_threshold < 1:
            raise ValueError(f'detection_threshold must be in [0, 1), not {self.detection_threshold}')
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f'levels must be 1 to {MOST_LEVELS}, not {self.levels}')
        if not 1 <= self.levels_per_octave <= MOST_PER_OCTAVE:
            raise ValueError(f'levels_per_octave must be 1 to {MOST_PER_OCTAVE}, not {self.levels_per_octave}')
        for name in ('nms_radius', 'border', 'spread'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} must be 0 or more pixels, not {getattr(self, name)}')


def select_keypoints(
    score_map: np.ndarray,
    settings: KeypointSettings,
    mask: np.ndarray | None = None,
    beside: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints of one image, best first; equal scores in raster order.

    score_map: [H, W] float32 probabilities. mask: [H, W], zero where no keypoint is wanted. beside: the
    `highest_around` of the score maps of the levels next to this one, of their own shapes.
    Returns keypoints [N, 2] float32 (x, y) and scores [N] float32: the values at the unrefined pixels, or of those and
    what the levels beside say the geometric mean, in which they count half and all others together as much.
    Border and mask are applied after suppression: a response there still suppresses its weaker neighbours.
    """
    y, x = np.divmod(find_peaks(score_map, settings.nms_radius, settings.detection_threshold), score_map.shape[1])
    allowed = _are_allowed(x, y, score_map.shape, settings.border, mask)
    x, y = x[allowed], y[allowed]
    scores = score_map[y, x]
    if beside:
        scores = np.sqrt(scores * _beside(x, y, score_map.shape, beside))
    order = best_rows(x, y, scores, settings)
    x, y = x[order], y[order]
    keypoints = np.stack([x, y], axis=1).astype(np.float32)
    if settings.subpixel:
        keypoints += subpixel_offsets(score_map, x, y)
    return keypoints, scores[order]


def highest_around(score_map: np.ndarray) -> np.ndarray:
    """[H, W] float32: the highest score of each pixel and those that touch it."""
    return cv2.dilate(score_map, np.ones((3, 3), np.uint8))


def _beside(x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], maps: Sequence[np.ndarray]) -> np.ndarray:
    """Geometric mean [N] float32 of what maps of other sizes hold at pixels [N] of a map of that shape."""
    product = np.ones(len(x), np.float32)
    for other in maps:
        rows, columns = (covering_pixels(*sides) for sides in zip(shape, other.shape, strict=True))
        product *= np.maximum(other[rows[y], columns[x]], np.float32(LEAST_BESIDE))
    return product ** np.float32(1 / len(maps))


def select_cell_keypoints(
    scores: np.ndarray,
    offsets: np.ndarray,
    stride: int,
    shape: tuple[int, ...],
    settings: KeypointSettings,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints of an image with one in every cell, best first; equal scores in raster order of the cells.

    scores: [h, w] float32. offsets: [h, w, 2] float32 (x, y) in pixels from the centres of the cells, which are
    stride x stride pixels. shape: (height, width) of the image, which may end inside the last cells; what lies beyond
    is left out. mask: [height, width], zero where no keypoint is wanted; it and the border are looked up at the pixel
    that a keypoint lies in.
    Returns keypoints [N, 2] float32 (x, y) and scores [N] float32.
    """
    rows, columns = np.nonzero(scores > settings.detection_threshold)
    centres = np.stack([columns, rows], axis=1) * stride + (stride - 1) / 2
    keypoints = (centres + offsets[rows, columns]).astype(np.float32)
    scores = scores[rows, columns]
    x, y = np.floor(keypoints + 0.5).astype(np.intp).T
    allowed = _are_allowed(x, y, shape, settings.border, mask)
    keypoints, scores = keypoints[allowed], scores[allowed]
    order = best_rows(x[allowed], y[allowed], scores, settings)
    return keypoints[order], scores[order]


def _are_allowed(
    x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], border: int, mask: np.ndarray | None
) -> np.ndarray:
    """Which pixels [N] lie inside the image, off its border and where the mask is not zero: [N] bool."""
    height, width = shape
    allowed = (x >= border) & (x < width - border) & (y >= border) & (y < height - border)
    if mask is not None:
        allowed[allowed] = mask[y[allowed], x[allowed]] != 0
    return allowed


def best_rows(x: np.ndarray, y: np.ndarray, scores: np.ndarray, settings: KeypointSettings) -> np.ndarray:
    """Rows of at most `max_keypoints` pixels [N], best first, spread if that is asked for."""
    order = np.argsort(-scores, kind='stable')
    if settings.spread and len(order) > settings.max_keypoints:
        order = order[spread_evenly(x[order], y[order], settings.spread, settings.max_keypoints)]
    return order[: settings.max_keypoints]


def find_peaks(score_map: np.ndarray, radius: int, threshold: float) -> np.ndarray:
    """Pixels above the threshold that hold the maximum of their (2 radius + 1)^2 window.

    Of equal maxima within each other's windows the first in raster order stays and suppresses the others, so
    that no two peaks lie within `radius` of each other along both axes.
    Returns flat indices [K] in raster order. score_map: [H, W] float32.
    """
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    peaks = np.flatnonzero((score_map == cv2.dilate(score_map, window)) & (score_map > threshold))
    ordered = np.sort(score_map.ravel()[peaks])
    if radius and (ordered[1:] == ordered[:-1]).any():
        peaks = _suppress_ties(peaks, score_map.shape, radius)
    return peaks


def _suppress_ties(peaks: np.ndarray, shape: tuple[int, ...], radius: int) -> np.ndarray:
    """Keep, in raster order, each peak whose window holds no kept peak; peaks that close are equal."""
    height, width = shape
    suppressed = np.zeros((height + radius, width + 2 * radius), bool)  # with a margin, so no window is cut
    kept = []
    for y, x in zip(*(axis.tolist() for axis in np.divmod(peaks, width)), strict=True):
        if not suppressed[y, x + radius]:
            suppressed[y : y + radius + 1, x : x + 2 * radius + 1] = True
            kept.append(y * width + x)
    return np.array(kept, dtype=peaks.dtype)


def spread_evenly(x: np.ndarray, y: np.ndarray, cell: int, count: int) -> np.ndarray:
    """Choose points round by round: the best of every grid cell, then the second best of every cell, ...

    Within the last round, which may be incomplete, better points go first.
    x, y: [N] pixels, best point first. cell: side of the square cells in pixels.
    Returns the chosen rows [min(N, count)] in ascending order, thus best first.
    """
    cells = (y // cell) * (x.max(initial=0) // cell + 1) + x // cell
    by_cell = np.argsort(cells, kind='stable')
    first_of_cell = np.flatnonzero(np.diff(cells[by_cell], prepend=-1))
    sizes = np.diff(first_of_cell, append=len(cells))
    rounds = np.empty_like(by_cell)
    rounds[by_cell] = np.arange(len(cells)) - np.repeat(first_of_cell, sizes)
    return np.sort(np.argsort(rounds, kind='stable')[:count])


def subpixel_offsets(score_map: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a quadratic through the 3 x 3 log scores peaks, from the pixel: [N, 2] float32 in [-0.5, 0.5].

    The logarithm makes a Gaussian bump an exact paraboloid. The offset is 0 in the outermost rows and columns
    and where the surface has no maximum. score_map: [H, W] float32; x, y: [N] integer pixels.
    """
    height, width = score_map.shape
    offsets = np.zeros((len(x), 2), np.float32)
    interior = np.flatnonzero((x > 0) & (x < width - 1) & (y > 0) & (y < height - 1))
    x, y = x[interior], y[interior]
    steps = np.array([-1, 0, 1])
    patches = score_map[y + steps[:, None, None], x + steps[:, None]]
    z = np.log(np.maximum(patches, TINY, dtype=np.float32))  # [3 (y), 3 (x), N]

    gx, gy = (z[1, 2] - z[1, 0]) / 2, (z[2, 1] - z[0, 1]) / 2
    gxx, gyy = z[1, 2] - 2 * z[1, 1] + z[1, 0], z[2, 1] - 2 * z[1, 1] + z[0, 1]
    gxy = (z[2, 2] - z[2, 0] - z[0, 2] + z[0, 0]) / 4
    determinant = gxx * gyy - gxy * gxy
    has_maximum = (determinant > 1e-9) & (gxx < 0)
    divisor = np.where(has_maximum, determinant, 1)
    peak = np.stack([gxy * gy - gyy * gx, gxy * gx - gxx * gy], axis=1) / divisor[:, None]
    offsets[interior] = np.where(has_maximum[:, None], peak, 0).clip(-0.5, 0.5)
    return offsets


def sample_descriptors(descriptor_map: np.ndarray, keypoints: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear samples of a coarse map at keypoints, scaled to unit length: [N, D] float32.

    descriptor_map: [h, w, D], channels last; each cell covers stride x stride pixels.
    keypoints: [N, 2] (x, y) in pixels. Beyond the outermost cell centres the map continues as it is there.
    """
    height, width, dimension = descriptor_map.shape
    limit = np.array([width - 1, height - 1], np.float32)
    position = ((keypoints + 0.5) / stride - 0.5).clip(0, limit)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, limit.astype(np.intp))
    wx, wy = (position - low).T
    weights = np.stack([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy], axis=1)
    columns = np.stack([low[:, 0], high[:, 0], low[:, 0], high[:, 0]], axis=1)
    rows = np.stack([low[:, 1], low[:, 1], high[:, 1], high[:, 1]], axis=1)
    corners = descriptor_map.reshape(-1, dimension)[rows * width + columns].astype(np.float32, copy=False)
    return unit((weights.astype(np.float32)[:, None] @ corners)[:, 0])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] float32 scaled to unit length; zeros stay."""
    norms = np.sqrt(np.einsum('nd,nd->n', vectors, vectors))
    return vectors / np.maximum(norms, TINY)[:, None]
