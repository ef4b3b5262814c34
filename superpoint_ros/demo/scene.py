"""Textured rectangles in space, seen by a pinhole camera: pictures, depth, and where a pixel goes.

Metres; the world and the camera both have x right, y down, z forward. Pixels follow the package's convention:
integers are pixel centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]

NEAR = 0.05
"""Distance in metres before which nothing is seen."""


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion.

    In pixels: its size, focal length, and the principal point's offset (x, y) from the middle.
    """

    width: int
    height: int
    focal: float
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> Array:
        """K [3, 3]."""
        cx, cy = (self.width - 1) / 2 + self.offset[0], (self.height - 1) / 2 + self.offset[1]
        return np.array([[self.focal, 0, cx], [0, self.focal, cy], [0, 0, 1]])

    def rays(self, pixels: Array) -> Array:
        """Turn pixels [N, 2] into directions [N, 3] with z = 1."""
        centre = self.matrix[:2, 2]
        return np.column_stack([(pixels - centre) / self.focal, np.ones(len(pixels))])

    def project(self, points: Array) -> Array:
        """Turn points [N, 3] in camera coordinates into pixels [N, 2]; NaN for what is behind the camera."""
        depth = np.where(points[:, 2:] > NEAR, points[:, 2:], np.nan)
        return points[:, :2] / depth * self.focal + self.matrix[:2, 2]


@dataclass(frozen=True)
class Pose:
    """A camera in the world: its axes are the columns of `rotation` [3, 3], its centre is `position` [3]."""

    rotation: Array
    position: Array

    def to_world(self, points: Array) -> Array:
        """Camera coordinates [N, 3] to world coordinates [N, 3]."""
        return points @ self.rotation.T + self.position

    def to_camera(self, points: Array) -> Array:
        """World coordinates [N, 3] to camera coordinates [N, 3]."""
        return (points - self.position) @ self.rotation


class Surface:
    """A rectangle with a texture [H, W, 3] uint8: `corner` is its top left, `right` and `down` its sides."""

    def __init__(self, texture: NDArray[np.uint8], corner: ArrayLike, right: ArrayLike, down: ArrayLike) -> None:
        self.corner, self.right, self.down = (np.asarray(v, np.float64) for v in (corner, right, down))
        self.pyramid = [texture]
        while min(self.pyramid[-1].shape[:2]) > 4:
            self.pyramid.append(cv2.pyrDown(self.pyramid[-1]).astype(np.uint8))

    def corners(self) -> Array:
        """The four corners [4, 3], in order around the rectangle."""
        a, r, d = self.corner, self.right, self.down
        return np.array([a, a + r, a + r + d, a + d])

    def plane_map(self, camera: Pinhole, pose: Pose) -> Array:
        """Return M [3, 3] with M @ (x, y, 1) = (s, t, 1) / depth.

        s and t in [0, 1] run along `right` and `down`; depth is along the optical axis. M exists unless the
        camera's centre lies in the plane.
        """
        to_camera = np.column_stack([self.right, self.down, self.corner - pose.position])
        return np.linalg.inv(camera.matrix @ pose.rotation.T @ to_camera)


class Scene:
    """Rectangles that hide one another."""

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        self.surfaces = list(surfaces)

    def render(self, camera: Pinhole, pose: Pose, detail: float = 0.0) -> NDArray[np.uint8]:
        """Draw what the camera sees, [H, W, 3] uint8.

        Textures are filtered to one texel a pixel; each unit of `detail` halves that size, for callers that
        average several pictures into one.
        """
        picture = np.zeros((camera.height, camera.width, 3), np.uint8)
        nearest = np.zeros((camera.height, camera.width), np.float32)
        for surface in self.surfaces:
            region = _region(surface, camera, pose)
            if region is not None:
                _draw(surface, surface.plane_map(camera, pose), picture[region], nearest[region], region, detail)
        return picture

    def depth(self, camera: Pinhole, pose: Pose, pixels: Array) -> Array:
        """Depth [N] in metres of the nearest surface at pixels [N, 2]; NaN where there is none."""
        inverse: Array = np.full(len(pixels), np.nan)
        homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
        for surface in self.surfaces:
            s, t, w = surface.plane_map(camera, pose) @ homogeneous.T
            hit = (w > 0) & (w < 1 / NEAR) & (s >= 0) & (s <= w) & (t >= 0) & (t <= w)
            inverse = np.where(hit, np.fmax(inverse, w), inverse)
        return 1 / inverse

    def transfer(self, camera: Pinhole, source: Pose, target: Pose, pixels: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Follow pixels [N, 2] of the source view into the target view.

        Returns:
            Their pixels [N, 2] there (NaN without a surface or behind the camera), and whether the same
            surface point is seen there [N]: inside the picture, nothing in front of it.
        """
        seen_from_source = camera.rays(pixels) * self.depth(camera, source, pixels)[:, None]
        points = target.to_camera(source.to_world(seen_from_source))
        moved = camera.project(points)
        inside = np.all((moved >= -0.5) & (moved <= np.array([camera.width, camera.height]) - 0.5), axis=1)
        visible = np.zeros(len(pixels), bool)
        seen = self.depth(camera, target, moved[inside])
        visible[inside] = np.abs(seen / points[inside, 2] - 1) < 1e-3
        return moved, visible


def _region(surface: Surface, camera: Pinhole, pose: Pose) -> tuple[slice, slice] | None:
    """The rows and columns that a surface may cover, or None when it is out of sight."""
    outline = _clip_near(pose.to_camera(surface.corners()))
    if len(outline) == 0:
        return None
    pixels = camera.project(outline)
    size = [camera.width, camera.height]
    left, top = np.clip(np.floor(pixels.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, size).astype(int)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _clip_near(polygon: Array) -> Array:
    """Cut off the part of a polygon [N, 3] in camera coordinates that is nearer than NEAR."""
    kept: list[Array] = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] > NEAR:
            kept.append(a)
        if (a[2] > NEAR) != (b[2] > NEAR):
            kept.append(a + (b - a) * (NEAR * (1 + 1e-9) - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)


def _draw(
    surface: Surface,
    plane_map: Array,
    picture: NDArray[np.uint8],
    nearest: NDArray[np.float32],
    region: tuple[slice, slice],
    detail: float,
) -> None:
    """Draw one surface into its region of the picture where it is nearer than what is there."""
    rows, columns = region
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :]
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    s, t, w = (a * x + (b * y + c) for a, b, c in plane_map.astype(np.float32))
    hit = (w > nearest) & (w < 1 / NEAR) & (s >= 0) & (s <= w) & (t >= 0) & (t <= w)
    if not hit.any():
        return
    height, width = surface.pyramid[0].shape[:2]
    with np.errstate(divide='ignore', invalid='ignore'):
        u, v = s / w * width - 0.5, t / w * height - 0.5
        # Texels a pixel covers: the Jacobian of (s, t) / w has the determinant |M| / w^3.
        level = 0.5 * np.log2(abs(np.linalg.det(plane_map)) * width * height / np.abs(w) ** 3) - detail
    level = np.where(hit, level, 0).clip(0, len(surface.pyramid) - 1).astype(np.float32)
    first, last = int(level[hit].min()), int(np.ceil(level[hit].max()))
    colour = _sample(surface.pyramid[first], u, v, first)
    for finer in range(first, last):
        share = np.clip(level - finer, 0, 1)
        coarser = _sample(surface.pyramid[finer + 1], u, v, finer + 1)
        colour = cv2.blendLinear(colour, coarser, 1 - share, share).astype(np.uint8, copy=False)
    picture[hit] = colour[hit]
    nearest[hit] = w[hit]


def _sample(texture: NDArray[np.uint8], u: Array, v: Array, level: int) -> NDArray[np.uint8]:
    """Sample a pyramid level at full-size texel coordinates; pyrDown keeps texel 0 at texel 0."""
    scale = 0.5**level
    return cv2.remap(texture, u * scale, v * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(
        np.uint8, copy=False
    )
