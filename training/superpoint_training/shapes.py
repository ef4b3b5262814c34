"""Synthetic Shapes (SuperPoint, section 4): pictures of simple shapes whose corners are known.

Every shape is drawn large, reduced with area averaging, and its corners are kept only where the finished,
noise-free picture shows a corner: a vertex that another shape hides, that two equal greys make invisible or that
lies outside the picture is dropped. A picture is a function of its random generator alone.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

OVERSAMPLING = 8
MIN_CONTRAST = 30
_NO_POINTS = np.zeros((0, 2))
_CORNER_EIGENVALUE = 5e-4
"""Smallest eigenvalue of the 5x5 structure tensor, of a picture in [0, 1], that still counts as a corner."""


def render(
    rng: np.random.Generator, height: int = 120, width: int = 160, primitive: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one noise-free picture.

    Args:
        rng: source of all randomness.
        height: rows of the picture.
        width: columns of the picture.
        primitive: a name in `PRIMITIVES`; drawn by lot when None.

    Returns:
        the picture `[height, width]` uint8 and its visible corners `[N, 2]` (x, y), pixel centres at integers.
    """
    name = primitive or str(rng.choice(list(PRIMITIVES)))
    canvas = _background(rng, height * OVERSAMPLING, width * OVERSAMPLING)
    corners = PRIMITIVES[name](rng, canvas)
    picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9)) if name != 'noise' else picture
    return np.asarray(picture, np.uint8), _visible(picture, (corners + 0.5) / OVERSAMPLING - 0.5)


def _visible(picture: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The corners inside the picture at which its structure tensor has two large eigenvalues."""
    height, width = picture.shape
    pixels = np.round(corners).astype(int)
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    cornerness = cv2.dilate(cv2.cornerMinEigenVal(picture, 5, ksize=3), np.ones((3, 3)))
    columns, rows = pixels[inside].T
    return corners[inside][cornerness[rows, columns] > _CORNER_EIGENVALUE]


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A grey level with soft blobs, so that flat areas are not the only places without corners."""
    small = np.full((height // 32, width // 32), rng.integers(256), np.uint8)
    spread = rng.integers(0, 60)
    for _ in range(rng.integers(0, 20)):
        centre = (int(rng.integers(small.shape[1])), int(rng.integers(small.shape[0])))
        level = int(np.clip(int(small[0, 0]) + rng.integers(-spread, spread + 1), 0, 255))
        cv2.circle(small, centre, int(rng.integers(1, 12)), level, -1)
    soft = cv2.blur(small, (7, 7))
    return np.ascontiguousarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC))


def _grey(rng: np.random.Generator, *neighbours: float) -> int:
    """A grey level at least `MIN_CONTRAST` away from its neighbours' (from most of them, when none is)."""
    levels = np.arange(256)
    distance = np.min([np.abs(levels - n) for n in neighbours], axis=0) if neighbours else levels * 0 + 255
    allowed = levels[distance >= min(MIN_CONTRAST, distance.max())]
    return int(rng.choice(allowed))


def _fill(canvas: np.ndarray, polygon: np.ndarray, grey: int) -> None:
    cv2.fillPoly(canvas, [np.round(polygon).astype(np.int32)], grey)


def _random_point(rng: np.random.Generator, canvas: np.ndarray, margin: float = 0.02) -> np.ndarray:
    size = np.array(canvas.shape[::-1])
    return rng.uniform(margin * size, (1 - margin) * size)


def _segments_meet(first: np.ndarray, second: np.ndarray) -> bool:
    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    (a, b), (c, d) = first, second
    return side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0


def lines(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """One to ten segments that do not cross; both ends of each are corners."""
    shortest = min(canvas.shape)
    drawn: list[np.ndarray] = []
    for _ in range(rng.integers(1, 11)):
        segment = np.stack([_random_point(rng, canvas), _random_point(rng, canvas)])
        long_enough = np.linalg.norm(segment[0] - segment[1]) > 0.15 * shortest
        if long_enough and not any(_segments_meet(segment, other) for other in drawn):
            drawn.append(segment)
            thickness = int(rng.integers(0.012 * shortest, 0.025 * shortest))
            (x0, y0), (x1, y1) = segment.astype(int)
            cv2.line(canvas, (x0, y0), (x1, y1), _grey(rng, canvas[y0, x0], canvas[y1, x1]), thickness)
    return np.concatenate([_NO_POINTS, *drawn])


def _star_shaped(rng: np.random.Generator, centre: np.ndarray, radius: float, count: int) -> np.ndarray:
    """A simple polygon whose vertices turn around `centre`, none closer than a third of an even share."""
    shares = rng.uniform(1 / 3, 1, count)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(shares) / shares.sum()
    radii = radius * rng.uniform(0.4, 1, count)
    return centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def polygon(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """One filled polygon of three to seven corners."""
    centre = _random_point(rng, canvas, 0.25)
    corners = _star_shaped(rng, centre, rng.uniform(0.15, 0.5) * min(canvas.shape), int(rng.integers(3, 8)))
    _fill(canvas, corners, _grey(rng, _level_at(canvas, centre)))
    return corners


def polygons(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Several filled polygons; a corner that a later one covers or touches is gone."""
    corners = _NO_POINTS
    for _ in range(rng.integers(3, 9)):
        centre = _random_point(rng, canvas, 0.08)
        shape = _star_shaped(rng, centre, rng.uniform(0.08, 0.25) * min(canvas.shape), int(rng.integers(3, 8)))
        contour = shape.astype(np.float32)[:, None]
        margin = 1.5 * OVERSAMPLING
        hidden = [cv2.pointPolygonTest(contour, (float(x), float(y)), True) > -margin for x, y in corners]
        corners = np.concatenate([corners[~np.array(hidden, bool)], shape])
        _fill(canvas, shape, _grey(rng, *_levels_around(canvas, shape)))
    return corners


def star(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Three to five branches from a centre; the centre and the tips are corners."""
    centre = _random_point(rng, canvas, 0.2)
    count = int(rng.integers(3, 6))
    tips = _star_shaped(rng, centre, rng.uniform(0.25, 0.6) * min(canvas.shape), count)
    grey = _grey(rng, _level_at(canvas, centre))
    thickness = int(rng.integers(0.012 * min(canvas.shape), 0.025 * min(canvas.shape)))
    for tip in tips:
        cv2.line(canvas, _pixel(centre), _pixel(tip), grey, thickness)
    return np.concatenate([centre[None], tips])


def _lattice(rng: np.random.Generator, canvas: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """`[rows + 1, columns + 1, 2]` nodes of a grid with uneven steps, seen under a random homography."""
    size = np.array(canvas.shape[::-1], float)
    steps = [np.concatenate([[0], np.cumsum(rng.uniform(0.6, 1, n))]) for n in (columns, rows)]
    x, y = np.meshgrid(steps[0] / steps[0][-1], steps[1] / steps[1][-1])
    half = rng.uniform(0.3, 0.6, 2) * size
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    seen = (square * (1 + rng.uniform(-0.3, 0.3, (4, 2))) * half) @ turn.T + size * rng.uniform(0.35, 0.65, 2)
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    homography = cv2.getPerspectiveTransform(unit, seen.astype(np.float32))
    nodes = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    return cv2.perspectiveTransform(nodes, homography).reshape(rows + 1, columns + 1, 2)


def checkerboard(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """A grid of two alternating families of greys, seen at a slant; every node is a corner."""
    rows, columns = (int(n) for n in rng.integers(3, 7, 2))
    nodes = _lattice(rng, canvas, rows, columns)
    dark = int(rng.integers(20, 256 - 2 * MIN_CONTRAST))
    bright = int(rng.integers(dark + MIN_CONTRAST + 10, 256))
    jitter = (bright - dark - MIN_CONTRAST) // 3
    for row in range(rows):
        for column in range(columns):
            level = (dark, bright)[(row + column) % 2] + int(rng.integers(-jitter, jitter + 1))
            cell = nodes[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            _fill(canvas, cell, int(np.clip(level, 0, 255)))
    return nodes.reshape(-1, 2)


def stripes(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Bars of alternating grey, seen at a slant; the ends of every border between two bars are corners."""
    columns = int(rng.integers(4, 11))
    nodes = _lattice(rng, canvas, 1, columns)
    level = _level_at(canvas, nodes.mean(axis=(0, 1)))
    for column in range(columns):
        grey = _grey(rng, level)
        _fill(canvas, nodes[[0, 0, 1, 1], [column, column + 1, column + 1, column]], grey)
        level = grey
    return nodes.reshape(-1, 2)


def cube(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """A box in perspective with three faces to see; the hidden corner is not one."""
    size = rng.uniform(0.15, 0.35, 3) * min(canvas.shape)
    angles = rng.uniform(0.3, np.pi / 2 - 0.3, 2)
    spin = rng.uniform(-0.3, 0.3) + rng.choice([0, np.pi])
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    turned = signs * size
    for (i, j), angle in zip(((0, 2), (1, 2), (0, 1)), (*angles, spin), strict=True):
        rotation = np.eye(3)
        rotation[[i, i, j, j], [i, j, i, j]] = [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
        turned = turned @ rotation.T
    depth = 4 * np.max(size) + turned[:, 2:]
    flat = turned[:, :2] * 4 * np.max(size) / depth + _random_point(rng, canvas, 0.3)
    greys: list[int] = [_level_at(canvas, flat.mean(axis=0))]
    seen: set[int] = set()
    for axis in range(3):
        for sign in (-1, 1):
            face = [k for k in range(8) if signs[k, axis] == sign]
            loop = [face[0], face[1], face[3], face[2]]
            edges = turned[loop] + [0, 0, 4 * np.max(size)]
            outward = edges.mean(axis=0) - [0, 0, 4 * np.max(size)]
            if outward @ edges.mean(axis=0) < 0:  # its outer side looks at the camera
                greys.append(_grey(rng, *greys))
                _fill(canvas, flat[loop], greys[-1])
                seen.update(loop)
    return flat[sorted(seen)]


def ellipses(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Filled ellipses that do not touch: edges without a corner."""
    taken: list[tuple[np.ndarray, float]] = []
    for _ in range(rng.integers(2, 16)):
        centre = _random_point(rng, canvas, 0.05)
        axes = rng.uniform(0.04, 0.2, 2) * min(canvas.shape)
        radius = float(axes.max())
        if all(np.linalg.norm(centre - other) > radius + reach + OVERSAMPLING for other, reach in taken):
            taken.append((centre, radius))
            angle = float(rng.uniform(0, 360))
            grey = _grey(rng, _level_at(canvas, centre))
            cv2.ellipse(canvas, _pixel(centre), (int(axes[0]), int(axes[1])), angle, 0, 360, grey, -1)
    return _NO_POINTS


def noise(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Nothing but noise, of a random mean and strength."""
    height, width = (n // OVERSAMPLING for n in canvas.shape)
    grain = rng.normal(rng.uniform(60, 195), rng.uniform(10, 70), (height, width)).clip(0, 255)
    canvas[:] = cv2.resize(grain.astype(np.uint8), canvas.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return _NO_POINTS


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _level_at(canvas: np.ndarray, point: np.ndarray) -> int:
    x, y = np.clip(np.round(point).astype(int), 0, np.array(canvas.shape[::-1]) - 1)
    return int(canvas[y, x])


def _levels_around(canvas: np.ndarray, corners: np.ndarray) -> list[int]:
    return [_level_at(canvas, corner) for corner in corners]


PRIMITIVES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    function.__name__: function
    for function in (lines, polygon, polygons, star, checkerboard, stripes, cube, ellipses, noise)
}
