"""The demo's world: a room hung with photographs, and the path of a hand-held camera through it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from superpoint_ros.demo.scene import Pose, Scene, Surface
from superpoint_ros.photographs import FOLDER

TEXELS_PER_METRE = 300
WALK_SECONDS = -0.5, 12.0
"""When the camera is at the ends of its way."""
HALF_WIDTH, FLOOR, CEILING, BACK, FRONT = 2.6, 1.4, -1.4, 5.5, -2.5

Texture = NDArray[np.uint8]


def gallery(seed: int = 0) -> Scene:
    """Build the room: walls of brick, a floor of gravel, framed photographs, a partition and three crates."""
    rng = np.random.default_rng(seed)
    return Scene([*_room(rng), *_pictures(), *_furniture(rng)])


def _room(rng: np.random.Generator) -> list[Surface]:
    width, height, length = 2 * HALF_WIDTH, FLOOR - CEILING, BACK - FRONT
    right, down, ahead = np.diag([width, height, length])
    left_wall, right_wall = (_tiled('brick', (length, height), 1.3, (0.80, 0.95, 1.0), rng) for _ in range(2))
    back_wall = _tiled('brick', (width, height), 1.3, (0.95, 0.95, 0.9), rng)
    floor = _tiled('gravel', (width, length), 1.1, (0.75, 0.85, 0.95), rng)
    ceiling = _tiled('grass', (width, length), 3.0, (0.45, 0.45, 0.45), rng)
    return [
        Surface(floor, (-HALF_WIDTH, FLOOR, BACK), right, -ahead),
        Surface(ceiling, (-HALF_WIDTH, CEILING, FRONT), right, ahead),
        Surface(left_wall, (-HALF_WIDTH, CEILING, FRONT), ahead, down),
        Surface(right_wall, (HALF_WIDTH, CEILING, BACK), -ahead, down),
        Surface(back_wall, (-HALF_WIDTH, CEILING, BACK), right, down),
    ]


def _pictures() -> list[Surface]:
    left, right, back = -HALF_WIDTH + 0.03, HALF_WIDTH - 0.03, BACK - 0.03
    return [
        Surface(_framed('coffee', 1.5), (left, -0.8, 0.4), (0, 0, 1.5), (0, 1.0, 0)),
        Surface(_framed('astronaut', 1.3), (left, -0.9, 2.2), (0, 0, 1.3), (0, 1.3, 0)),
        Surface(_framed('rocket', 1.5), (left, -0.8, 3.8), (0, 0, 1.5), (0, 1.0, 0)),
        Surface(_framed('hubble_deep_field', 1.7), (right, -1.0, 5.2), (0, 0, -1.7), (0, 1.5, 0)),
        Surface(_framed('camera', 1.4), (right, -0.9, 3.2), (0, 0, -1.4), (0, 1.4, 0)),
        Surface(_framed('chelsea', 1.5), (right, -0.8, 1.5), (0, 0, -1.5), (0, 1.0, 0)),
        Surface(_framed('rocket', 1.5), (-2.3, -0.9, back), (1.5, 0, 0), (0, 1.0, 0)),
        Surface(_framed('hubble_deep_field', 1.6), (-0.6, -1.1, back), (1.6, 0, 0), (0, 1.4, 0)),
        Surface(_framed('coffee', 1.3), (1.2, -0.8, back), (1.3, 0, 0), (0, 0.9, 0)),
    ]


def _furniture(rng: np.random.Generator) -> list[Surface]:
    partition = Surface(_framed('astronaut', 1.2), (0.5, -0.55, 3.6), (1.1, 0, 0.35), (0, 1.2, 0))
    return [
        partition,
        *_crate((-1.25, 0.75, 3.3), 0.65, 0.5, 'chelsea', rng),
        *_crate((-0.35, 0.95, 4.3), 0.45, -0.3, 'camera', rng),
        *_crate((1.45, 0.85, 2.3), 0.55, 0.25, 'coffee', rng),
    ]


def _crate(
    corner: Sequence[float], side: float, turn: float, photograph: str, rng: np.random.Generator
) -> list[Surface]:
    """Five faces of a cube that stands on the floor, turned about the vertical."""
    right, depth = (
        side * np.array([np.cos(turn), 0, np.sin(turn)]),
        side * np.array([-np.sin(turn), 0, np.cos(turn)]),
    )
    top = np.array([corner[0], FLOOR - side, corner[2]])
    down = np.array([0, side, 0])
    faces = [_framed(photograph, side) for _ in range(4)]
    lid = _tiled('grass', (side, side), 0.5, (0.6, 0.8, 0.9), rng)
    return [
        Surface(faces[0], top, right, down),
        Surface(faces[1], top + right, depth, down),
        Surface(faces[2], top + right + depth, -right, down),
        Surface(faces[3], top + depth, -depth, down),
        Surface(lid, top + depth, right, -depth),
    ]


def _load(name: str) -> Texture:
    path = FOLDER / f'{name}.jpg'
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f'{path} is missing or damaged: install the package again.')
    return image.astype(np.uint8)


def _framed(name: str, width: float) -> Texture:
    """A photograph behind a white mat and a dark frame; `width` in metres sets the size of both."""
    photograph = _load(name)
    unit = photograph.shape[1] / width / 100  # texels a centimetre
    mat = _with_border(photograph, round(5 * unit), (215, 220, 222))
    return _with_border(mat, round(3 * unit), (28, 34, 40))


def _with_border(image: Texture, width: int, colour: Sequence[float]) -> Texture:
    return cv2.copyMakeBorder(image, width, width, width, width, cv2.BORDER_CONSTANT, value=colour).astype(np.uint8)


def _tiled(
    name: str, size: tuple[float, float], tile: float, tint: Sequence[float], rng: np.random.Generator
) -> Texture:
    """Cover size (width, height) in metres with mirrored tiles, tinted (blue, green, red).

    Stains at several scales make each tile differ from its copies, as on a real wall.
    """
    shape = [round(side * TEXELS_PER_METRE) for side in reversed(size)]
    edge = round(tile * TEXELS_PER_METRE)
    photograph = cv2.resize(_load(name).transpose(1, 0, 2), (edge, edge), interpolation=cv2.INTER_AREA)
    pair = np.hstack([photograph, photograph[:, ::-1]])
    block = np.vstack([pair, pair[::-1]])
    repeats = [-(-n // (2 * edge)) for n in shape]
    surface = np.tile(block, (*repeats, 1))[: shape[0], : shape[1]].astype(np.float32)
    stains = np.ones(shape, np.float32)
    for scale, strength in ((1.2, 0.16), (0.4, 0.12), (0.1, 0.10), (0.03, 0.08)):
        coarse = rng.standard_normal([max(2, round(n / (scale * TEXELS_PER_METRE))) for n in shape])
        stains += strength * cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(surface * stains[..., None] * np.array(tint, np.float32), 0, 255).astype(np.uint8)


def camera_pose(time: float) -> Pose:
    """The camera at a time in seconds: it walks in, looks left, then right, and shakes as a hand does.

    It goes back as it came when it is before the wall at the end, and so on.
    """
    begin, end = WALK_SECONDS
    time = end - abs((time - begin) % (2 * (end - begin)) - (end - begin))
    sway = np.sin(2 * np.pi * time * np.array([0.9, 1.7, 0.6]) + np.array([0.3, 1.1, 2.0]))
    position = np.array([-0.5 + 0.25 * time, -0.05, -1.4 + 0.55 * time]) + sway * np.array([0.03, 0.02, 0.02])
    shake = np.sin(2 * np.pi * time * np.array([1.3, 1.9, 0.8]) + np.array([0.0, 0.7, 1.9]))
    yaw = np.radians(-18 * np.sin(2 * np.pi * time / 5.0) + 0.8 * shake[0])
    pitch = np.radians(-5 + 2.5 * np.sin(2 * np.pi * time / 3.1) + 0.6 * shake[1])
    roll = np.radians(4.0 * np.sin(2 * np.pi * time / 4.3) + 0.8 * shake[2])
    rotation, _ = cv2.Rodrigues(np.array([0, yaw, 0]))
    tilt, _ = cv2.Rodrigues(np.array([pitch, 0, 0]))
    bank, _ = cv2.Rodrigues(np.array([0, 0, roll]))
    return Pose(rotation @ tilt @ bank, position)
