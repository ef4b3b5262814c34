"""Homography pairs in HPatches' layout: `<scene>/1.*`, `<scene>/k.*` and `<scene>/H_1_k`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superpoint_training.evaluation.problems import Skipped
from superpoint_training.frames import PICTURES

SPLITS = {'i_': 'illumination', 'v_': 'viewpoint'}
"""HPatches' splits by the beginnings of its scenes' names."""
COARSE_PIXELS = 1.0
_CHECKS = 'CHECKS.csv'
_CHECKED_ERROR = 'median_error_px_of_matches_within_12px'
_SINGULAR = 1e-9


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures of a plane, or from one place.

    Attributes:
        name: '<scene> 1-<k>'.
        scene: folder.
        first, second: picture files.
        homography: `[3, 3]`, maps the first's pixels to the second's.
    """

    name: str
    scene: str
    first: Path
    second: Path
    homography: np.ndarray


def find_pairs(root: Path) -> tuple[list[Pair], list[Skipped]]:
    """All pairs below a folder, by scene, and what can't be used.

    Raises:
        ValueError: there is no folder, or nothing in it in this layout.
    """
    if not root.is_dir():
        raise ValueError(f"no folder '{root}'")
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    for scene in sorted(path for path in root.iterdir() if path.is_dir()):
        homographies = sorted(scene.glob('H_1_*'), key=lambda path: (len(path.name), path.name))
        if not homographies and _picture(scene, '1'):
            skipped.append(Skipped(scene.name, 'it has pictures but no homography H_1_2'))
        for path in homographies:
            try:
                pairs.append(_read_pair(scene, path))
            except (ValueError, OSError) as error:
                why = f'it could not be read: {error.strerror}' if isinstance(error, OSError) else str(error)
                skipped.append(Skipped(f'{scene.name}/{path.name}', why))
    if not pairs and not skipped:
        raise ValueError(
            f"no homography pairs below '{root}': scenes are folders with 1.ppm (.png, .jpg), 2.ppm, H_1_2"
        )
    return pairs, skipped


def _read_pair(scene: Path, path: Path) -> Pair:
    other = path.name.removeprefix('H_1_')
    pictures = [_picture(scene, name) for name in ('1', other)]
    missing = [name for name, picture in zip(('1', other), pictures, strict=True) if picture is None]
    if missing:
        raise ValueError(f'there is no picture {" and no picture ".join(missing)} beside it')
    first, second = (picture for picture in pictures if picture is not None)
    return Pair(f'{scene.name} 1-{other}', scene.name, first, second, read_homography(path))


def _picture(scene: Path, name: str) -> Path | None:
    return next((path for path in sorted(scene.glob(f'{name}.*')) if path.suffix.lower() in PICTURES), None)


def read_homography(path: Path) -> np.ndarray:
    """`[3, 3]` of nine numbers in a text file.

    Raises:
        ValueError: they are not nine finite numbers, or the matrix has no inverse.
    """
    words = path.read_text(errors='replace').split()
    if len(words) != 9:
        raise ValueError(f'it holds {len(words)} numbers, a homography has 9')
    try:
        homography = np.array(words, float).reshape(3, 3)
    except ValueError:
        raise ValueError('it holds words that are not numbers') from None
    if not np.isfinite(homography).all():
        raise ValueError('it holds numbers that are not finite')
    pixels = np.diag([1000.0, 1000.0, 1.0])  # in units of about a picture's size its entries are of like magnitude
    values = np.linalg.svd(np.linalg.inv(pixels) @ homography @ pixels, compute_uv=False)
    if values[-1] <= _SINGULAR * values[0]:
        raise ValueError('it is singular: it maps the picture onto a line or a point')
    return homography


def coarse_pairs(root: Path) -> list[str]:
    """Names of pairs whose ground truth is known to be off by more than a pixel, from a `CHECKS.csv` beside them.

    Raises:
        ValueError: the file lacks a column, or holds something else.
    """
    path = root / _CHECKS
    if not path.is_file():
        return []
    try:
        with path.open(newline='') as file:
            rows = [row for row in csv.DictReader(file) if row.get(_CHECKED_ERROR)]
        return [f'{row["scene"]} 1-{row["k"]}' for row in rows if float(row[_CHECKED_ERROR]) > COARSE_PIXELS]
    except (KeyError, ValueError) as error:
        raise ValueError(f"'{path}' must have columns scene, k and {_CHECKED_ERROR}, a number: {error}") from error
